"""Base of the renderers with weights: inputs of their networks, and tiles of any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field

from factory.core.config import parse
from factory.learn.weights import WeightedPart, WeightsConfig, scheme_of
from factory.nets.stitching import draw
from factory.plan.request import Request
from factory.renderers.base import Renderer
from factory.renderers.conditions import (
    RELIEF_STEPS,
    Condition,
    ConditionConfig,
    labels_of_condition,
    labels_shown,
    refusal_of,
)
from manifests.errors import FaultError
from manifests.labels import IGNORE

WEIGHTS_KIND = "renderer-weights"


class RendererConfig(WeightsConfig):
    """Weights, and settings of the images drawn with them.

    Attributes:
        look: stain reference that the network gets, if it was trained with some: number of the slide on the card, or
            ``random``, another for every tile.
        look_jitter: largest relative change and shift of each colour channel of the reference, as in training (see
            `ImageTrainerConfig`), for more stains than there are slides. Weights trained with jitter can follow.
        window_px: side of the largest square that is drawn in one pass. Larger tiles are stitched from windows without
            visible seams, but the network's norms see the windows, so it is part of the result.
    """

    look: Literal["random"] | int = "random"
    look_jitter: float = Field(default=0.0, ge=0, le=0.5)
    window_px: int = Field(default=1024, ge=256)


class TrainedRenderer(WeightedPart, Renderer):
    """Base of the renderers that draw images with a network."""

    part = "renderer"
    kind = WEIGHTS_KIND
    Config = RendererConfig
    label_origin = "conditioned"
    config: RendererConfig

    @property
    def noise_channels(self) -> int:
        """Channels of Gaussian noise after those of condition map and stain reference."""
        return int(self.card.fields["network"].get("noise_channels", 0))

    @property
    def condition(self) -> ConditionConfig:
        """Condition map that the weights were trained with."""
        return parse(ConditionConfig, self.card.fields["condition"], str(self.path_of(self.config)))

    def refusal(self, request: Request) -> str | None:
        """Return why the weights cannot render masks of a request, or None."""
        if reason := self.misfit(request) or refusal_of(self.condition, request.mpp):
            return reason
        looks = self.card.fields["looks"]
        if isinstance(self.config.look, int) and not 0 <= self.config.look < len(looks):
            known = f"0 to {len(looks) - 1}, or random" if looks else "random, as the weights know none"
            return f"renderer.look: expected {known}, got {self.config.look}"
        if self.config.look_jitter and not looks:
            return f"renderer.look_jitter: expected 0, as the weights know no look, got {self.config.look_jitter:g}"
        for label in request.scheme.classes:
            asked = None if request.fractions is None else request.fractions[label.id]
            if label.name not in self.card.fields["classes"] and asked != 0:
                advice = "ask for --inflammation 0" if "inflammation" in label.roles else "use other weights"
                return f"masks: the weights of {self.name} never saw {label.name}, and the masks hold it; {advice}"
        return None

    def render(
        self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
    ) -> list[npt.NDArray[np.uint8]]:
        """Render each condition map by itself, so that the batch never changes a bit: uint8 [H, W, 3], RGB.

        Raises:
            FaultError: for a mask with classes that were not in the training data.
        """
        return [self._render(condition, rng) for condition, rng in zip(conditions, rngs, strict=True)]

    def _render(self, condition: Condition, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        labels = condition.array
        self._refuse_unknown(labels)
        colours = self._draw_reference(rng)
        noise = torch.from_numpy(rng.standard_normal((1, self.noise_channels, *labels.shape), np.float32))
        count, relief = labels_shown(self.condition, scheme_of(self.card)), condition.relief

        def read(rows: slice, columns: slice) -> torch.Tensor:
            heights = None if relief is None else _window(relief, rows, columns)
            seen = to_network(_window(labels, rows, columns), count, colours, heights)
            return torch.cat([seen, noise[..., rows, columns]], 1).to(self.device)

        with torch.inference_mode():
            return draw(self.network, read, labels.shape, window_px=self.config.window_px)

    @cached_property
    def _known(self) -> npt.NDArray[np.bool_]:
        """Values of a condition map that were in the training data: bool [256]."""
        scheme, names = scheme_of(self.card), set(self.card.fields["classes"])
        known = np.zeros(256, np.bool_)
        known[[label.id for label in scheme.classes if label.name in names]] = True
        known[len(scheme) : labels_of_condition(self.condition.kind, scheme)] = True
        known[IGNORE] = True
        return known

    def _refuse_unknown(self, labels: npt.NDArray[np.uint8]) -> None:
        found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256) * ~self._known)
        if found.size:
            raise FaultError(
                f"--renderer {self.name}: expected masks of the classes {', '.join(self.card.fields['classes'])}, "
                f"got class {found[0]}, which the weights never saw. Use other masks or weights."
            )

    def _draw_reference(self, rng: np.random.Generator) -> torch.Tensor | None:
        """Draw a stain reference: float32 [1, classes, 3]; None where the weights have none."""
        looks = self.card.fields["looks"]
        if not looks:
            return None
        place = int(rng.integers(len(looks))) if self.config.look == "random" else self.config.look
        colours = np.zeros((1, len(scheme_of(self.card)), 3), np.float32)
        colours[0, : len(looks[place])] = looks[place]
        if most := self.config.look_jitter:
            gain, shift = rng.uniform(-most, most, (2, 3)).astype(np.float32)
            colours[0, : len(looks[place])] = np.clip(colours[0, : len(looks[place])] * (1 + gain) + shift, -1, 1)
        return torch.from_numpy(colours)


def _window(maps: npt.NDArray[np.uint8], rows: slice, columns: slice) -> torch.Tensor:
    """Cut a window out of a map, uint8 [1, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(maps[rows, columns]))[None]


def to_network(
    labels: torch.Tensor, count: int, colours: torch.Tensor | None, relief: torch.Tensor | None = None
) -> torch.Tensor:
    """Turn condition maps into a network's input: float32 [N, count (+ 1) (+ 3), H, W].

    Args:
        labels: uint8 [N, H, W]; `IGNORE` is 0 in all channels. count: of the labels shown, a channel each.
        colours: stain reference, the slide's mean colour of every class, float32 [N, classes, 3]. Three more channels
            give each pixel the colour of its class, 0 for the noise label.
        relief: uint8 [N, H, W] in 1 / `RELIEF_STEPS`, a channel after those of the labels.
    """
    classes = torch.arange(count, dtype=torch.uint8, device=labels.device)[None, :, None, None]
    seen = (labels[:, None] == classes).float()
    parts = [seen]
    if relief is not None:
        parts.append(relief[:, None].float() / RELIEF_STEPS)
    if colours is not None:
        padded = F.pad(colours, (0, 0, 0, count - colours.shape[1]))
        parts.append(torch.einsum("nkhw,nkc->nchw", seen, padded))
    return torch.cat(parts, 1)
