"""What the renderers with networks share in training: masks with their images in, what a network sees out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.geometry.nuclear_maps import contour_of
from factory.learn.cells_by_colour import with_cells
from factory.learn.crops import ImageCrops, NucleiCrops, Tiles, instances_of
from factory.learn.trainer import Crops, Trainer, TrainerConfig
from factory.nets.stitching import to_pixels
from factory.renderers.conditions import (
    RELIEFS,
    ConditionConfig,
    channels_of_condition,
    draw_relief,
    labels_of_condition,
    refusal_of,
    scatter_noise,
)
from factory.renderers.learned.renderer import WEIGHTS_KIND, to_network
from factory.renderers.learned.stain_reference import Looks, measure_looks
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme

SAMPLES = 6
_LEAST_SHARE = 1e-4


class ImageTrainerConfig(TrainerConfig):
    """What the trainers of all renderers are told.

    Attributes:
        condition: the map that the network sees.
        look: tell the network the mean colours of the slide, see `factory.renderers.learned.stain_reference`. Not of
        the papers.
        look_jitter: each channel of a crop is scaled by up to so much more or less and shifted by up to as much of the
            range, and the colours of its look alike. Slides are few, so that without it a look says which slide it is
            and how many of its cells are positive, and not only its colours.
        max_background: of a crop; the papers drop such tiles.
    """

    condition: ConditionConfig = ConditionConfig()
    look: bool = False
    look_jitter: float = Field(default=0.0, ge=0, le=0.5)
    batch: int = Field(default=1, ge=1)

    def check_data(self, scheme: LabelScheme, mpp: float) -> None:
        """Refuse masks that cannot give the condition map, and noise closer than a pixel.

        Raises:
            UserError: saying why.
        """
        self.drawn_scheme(scheme)
        if self.reads_nuclei and not scheme.ids("nucleus"):
            able = ", ".join(name for name, known in SCHEMES.items() if known.ids("nucleus"))
            raise UserError(
                f"--data: expected masks of nuclei ({able}), which {' and '.join(self.nuclei_needed_by)} need, got "
                f"{scheme.name}. Use other data or settings."
            )
        if reason := refusal_of(self.condition, mpp):
            raise UserError(f"condition.{reason}. Use a larger --set condition.spacing_um=.")

    @property
    def nuclei_needed_by(self) -> list[str]:
        """The settings that need instances: the kind of condition map, or terms of the loss."""
        return [f"condition.kind={self.condition.kind}"] if self.condition.kind in RELIEFS else []

    @property
    def reads_nuclei(self) -> bool:
        """Whether instances are needed."""
        return bool(self.nuclei_needed_by)

    def drawn_scheme(self, scheme: LabelScheme) -> LabelScheme:
        """The scheme of the condition map for masks of a scheme.

        Raises:
            UserError: for a kind that the scheme cannot give.
        """
        if self.condition.kind == "labels":
            raise UserError("condition.kind: expected a map that a network sees, got labels. Use polygons+noise.")
        if self.condition.kind != "polygons+air+cells":
            return scheme
        if f"{scheme.name}_cells" not in SCHEMES:
            able = ", ".join(name for name in SCHEMES if f"{name}_cells" in SCHEMES)
            raise UserError(f"condition.kind: expected masks of {able} for polygons+air+cells, got {scheme.name}.")
        return SCHEMES[f"{scheme.name}_cells"]


class ImageTrainer(Trainer):
    """Base of the trainers: crops, conditions, looks and the card.

    Args:
        config: how to train. scheme: of the masks. device: where to compute.
    """

    kind = WEIGHTS_KIND
    kept = "generator"
    networks: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]

    def __init__(self, config: ImageTrainerConfig, scheme: LabelScheme, device: str) -> None:
        self._config, self._scheme, self._device = config, scheme, device
        self._drawn = config.drawn_scheme(scheme)
        self._channels = channels_of_condition(config.condition.kind, self._drawn)
        self._looks: Looks | None = None
        self._classes: list[str] = []
        self._mpp = 1.0

    @property
    def in_channels(self) -> int:
        """Channels that the network sees: those of the condition map, and three of the look."""
        return self._channels + (3 if self._config.look else 0)

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Condition maps uint8 [N, H, W], images uint8 [N, H, W, 3], looks float32 [N, classes, 3].

        Where instances are read also reliefs uint8 [N, H, W] (see `Condition`) and contours bool [N, H, W].
        """
        self._mpp, self._classes = tiles.mpp, _classes_of(tiles, self._drawn)
        self._looks = measure_looks(tiles) if self._config.look else None
        streams = self.streams(tiles)

        def draw(step: int) -> list[Crops]:
            crops = [stream.draw(step) for stream in streams]
            numbers = streams[0].numbers(step)
            conditions, looks = self._conditions(crops[0], numbers), self._looks_of(streams[0], numbers)
            pairs: list[Crops] = [conditions, *self._jittered(crops[-1][..., 1:4], looks, numbers)]
            return pairs + self._nuclei(crops[0]) if self._config.reads_nuclei else pairs

        return draw

    def streams(self, tiles: Tiles) -> list[ImageCrops]:
        """Where conditions (the first) and images (the last) are from: the same crops where they are pairs."""
        config = self._config
        kind = NucleiCrops if config.reads_nuclei else ImageCrops
        return [kind(tiles, config.size, config.batch, config.seed, config.max_background)]

    def _nuclei(self, crops: npt.NDArray[np.uint8]) -> list[Crops]:
        """Reliefs and contours of crops [N, H, W, 8]; no relief where the condition map has none."""
        instances, condition = instances_of(crops), self._config.condition
        contours = np.stack([contour_of(instance, condition.metric) for instance in instances])
        if condition.kind not in RELIEFS:
            return [np.zeros((len(crops), 0), np.uint8), contours]
        return [np.stack([draw_relief(condition, instance) for instance in instances]), contours]

    def _conditions(self, crops: npt.NDArray[np.uint8], numbers: range) -> npt.NDArray[np.uint8]:
        """Condition maps of crops [N, H, W, 4 or more], whose numbers seed the noise."""
        config, scheme = self._config.condition, self._scheme
        labels = crops[..., 0]
        if config.kind == "polygons+air+cells":
            labels = np.stack([with_cells(v[..., 0], v[..., 1:4], self._mpp, scheme, self._drawn) for v in crops])
        if config.kind == "polygons+noise":
            rngs = [generator(self._config.seed, Stream.CONDITION, number) for number in numbers]
            label = len(self._drawn)
            maps = [scatter_noise(m, config, self._mpp, label, r) for m, r in zip(labels, rngs, strict=True)]
            labels = np.stack(maps)
        return labels

    def _looks_of(self, crops: ImageCrops, numbers: range) -> npt.NDArray[np.float32]:
        """The look of each crop's slide: float32 [N, classes, 3], 0 where none is told."""
        looks = np.zeros((len(numbers), len(self._drawn), 3), np.float32)
        if self._looks is not None:
            groups = [self._looks.names.index(crops.tiles.group(crops.place(n))) for n in numbers]
            looks[:, : self._looks.colours.shape[1]] = self._looks.colours[groups]
        return looks

    def _jittered(
        self, images: npt.NDArray[np.uint8], looks: npt.NDArray[np.float32], numbers: range
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Images uint8 [N, H, W, 3] and looks float32 [N, classes, 3] in other colours, the same for both."""
        most = self._config.look_jitter
        if not most:
            return images, looks
        drawn = np.stack([generator(self._config.seed, Stream.JITTER, n).uniform(-most, most, (2, 3)) for n in numbers])
        gain, shift = (drawn[:, part, None].astype(np.float32) for part in (0, 1))  # [N, 1, 3], in units of -1..1
        other = images / np.float32(127.5) - 1
        other = other * (1 + gain[:, None]) + shift[:, None]
        pixels = np.clip(np.rint((other + 1) * 127.5), 0, 255).astype(np.uint8)
        return pixels, looks * (1 + gain) + shift

    def seen(self, crops: list[Crops]) -> torch.Tensor:
        """What the network sees of what `draw_from` drew: float32 [N, in_channels, H, W]."""
        labels, looks = (torch.from_numpy(part).to(self._device) for part in (crops[0], crops[2]))
        kind = self._config.condition.kind
        relief = torch.from_numpy(crops[3]).to(self._device) if kind in RELIEFS else None
        return to_network(labels, labels_of_condition(kind, self._drawn), looks if self._config.look else None, relief)

    def images(self, crops: list[Crops]) -> torch.Tensor:
        """Images in -1..1: float32 [N, 3, H, W]."""
        pixels = torch.from_numpy(np.ascontiguousarray(crops[1])).to(self._device)
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Condition maps, what is made of them, and the real images."""
        shown = [part[:SAMPLES] for part in crops]
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = [
                to_pixels(self.said(network, self.seen([p[i : i + 1] for p in shown]))) for i in range(len(shown[0]))
            ]
        palette = self._drawn.palette
        palette[len(self._drawn)] = 0
        return [palette[shown[0]], np.concatenate(made), shown[1]]

    def said(self, network: nn.Module, seen: torch.Tensor) -> torch.Tensor:
        """What tanh makes images of, for the sheet of samples: float [N, 3, H, W]."""
        said: torch.Tensor = network(seen)
        return said

    def shape(self) -> dict[str, Any]:
        """The network's shape, for `build`."""
        raise NotImplementedError

    def card(self) -> dict[str, Any]:
        """The network's shape and all that is needed to give it what it was trained with."""
        looks = self._looks
        return {
            "network": self.shape(),
            "scheme": self._drawn.to_dict(),
            "condition": self._config.condition.model_dump(mode="json"),
            "classes": self._classes,
            "looks": []
            if looks is None
            else [np.round(colours, 4).tolist() for colours in looks.colours.astype(float)],
        }

    def extra_state(self) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing to put back."""

    def optimise(self) -> None:
        """Adam for every network by itself."""
        config = self._config
        self.optimisers = {
            f"adam_{name}": torch.optim.Adam(part.parameters(), config.learning_rate, (config.beta1, config.beta2))
            for name, part in self.networks.items()
        }


def _classes_of(tiles: Tiles, drawn: LabelScheme) -> list[str]:
    """Names of the classes that the masks hold; what the colours add (cells) is taken for held."""
    counts = sum(np.bincount(tiles.read(position).ravel(), minlength=256) for position in range(len(tiles)))
    counts = np.asarray(counts)
    held = counts > _LEAST_SHARE * counts.sum()
    return [c.name for c in drawn.classes if c.id >= len(tiles.scheme) or held[c.id]]
