"""Renderers with weights: what their networks see, and how they draw tiles of any size."""

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
from factory.renderers.conditions import RELIEF_STEPS, Condition, ConditionConfig, labels_of_condition, refusal_of
from manifests.errors import FaultError
from manifests.labels import IGNORE

WEIGHTS_KIND = "renderer-weights"


class RendererConfig(WeightsConfig):
    """Weights, and how images are drawn with them.

    Attributes:
        look: which slide's colours the weights are told, where they know some: by its number on the card, or
            ``random``, another for every tile.
        look_jitter: how far each tile's look is moved from that, by the scale and shift of every channel as in training
            (see `ImageTrainerConfig`): more stains than there are slides. Weights trained with it can follow.
        window_px: side of the largest square that is drawn in one pass; larger tiles are stitched from windows, which
            shows nowhere but changes what the norms of the network see, so it is part of the result.
    """

    look: Literal["random"] | int = "random"
    look_jitter: float = Field(default=0.0, ge=0, le=0.5)
    window_px: int = Field(default=1024, ge=256)


class TrainedRenderer(WeightedPart, Renderer):
    """Base of the renderers whose images are a network's."""

    part = "renderer"
    kind = WEIGHTS_KIND
    Config = RendererConfig
    label_origin = "conditioned"
    config: RendererConfig

    @property
    def noise_channels(self) -> int:
        """Of Gaussian noise that the network sees after condition map and look."""
        return 0

    @property
    def condition(self) -> ConditionConfig:
        """The condition map that the weights were trained with."""
        return parse(ConditionConfig, self.card.fields["condition"], str(self.path_of(self.config)))

    def refusal(self, request: Request) -> str | None:
        """Why the weights cannot render what a request asks for, or None."""
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
        """Render each condition by itself, so that no batch changes a bit of it: uint8 [H, W, 3], RGB.

        Raises:
            FaultError: for a mask that holds classes which the weights never saw.
        """
        return [self._render(condition, rng) for condition, rng in zip(conditions, rngs, strict=True)]

    def _render(self, condition: Condition, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        labels = condition.array
        self._refuse_unknown(labels)
        colours = self._draw_look(rng)
        noise = torch.from_numpy(rng.standard_normal((1, self.noise_channels, *labels.shape), np.float32))
        count, relief = labels_of_condition(self.condition.kind, scheme_of(self.card)), condition.relief

        def read(rows: slice, columns: slice) -> torch.Tensor:
            heights = None if relief is None else _window(relief, rows, columns)
            seen = to_network(_window(labels, rows, columns), count, colours, heights)
            return torch.cat([seen, noise[..., rows, columns]], 1).to(self.device)

        with torch.inference_mode():
            return draw(self.network, read, labels.shape, window_px=self.config.window_px)

    @cached_property
    def _known(self) -> npt.NDArray[np.bool_]:
        """Which values of a condition map the weights have seen: bool [256]."""
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

    def _draw_look(self, rng: np.random.Generator) -> torch.Tensor | None:
        """Colours of a slide: float32 [1, classes, 3], None where the weights know none."""
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
    """A part of a map, uint8 [1, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(maps[rows, columns]))[None]


def to_network(
    labels: torch.Tensor, count: int, colours: torch.Tensor | None, relief: torch.Tensor | None = None
) -> torch.Tensor:
    """What a network sees of condition maps: float32 [N, count (+ 1) (+ 3), H, W].

    Args:
        labels: uint8 [N, H, W]; `IGNORE` is 0 in all channels. count: of the labels, a channel each.
        colours: the slide's mean colour of every class, float32 [N, classes, 3], which each pixel is told of its own
            class in three more channels; 0 where the class has none, as the noise label.
        relief: uint8 [N, H, W] in 1 / `RELIEF_STEPS`, a channel after those of the labels.
    """
    classes = torch.arange(count, dtype=torch.uint8, device=labels.device)[None, :, None, None]
    seen = (labels[:, None] == classes).float()
    parts = [seen]
    if relief is not None:
        parts.append(relief[:, None].float() / RELIEF_STEPS)
    if colours is not None:
        told = F.pad(colours, (0, 0, 0, count - colours.shape[1]))
        parts.append(torch.einsum("nkhw,nkc->nchw", seen, told))
    return torch.cat(parts, 1)
