"""Training of renderers: crops of masks and images become network inputs, whatever the losses are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
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
    labels_shown,
    refusal_of,
    scatter_noise,
)
from factory.renderers.learned.renderer import WEIGHTS_KIND, to_network
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme

SAMPLES = 6
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class StainReferences:
    """Stain references of slides: the mean colour of every class in every slide, an input of renderers.

    One mask fits images of many stains; without a reference a network learns their mean. pix2pixHD (Wang et al. 2018,
    3.4) gives its generator features of each region that an encoder learned, and draws them from the training set in
    use. Mean colours of each class over a whole slide are the simplest such features: they need no encoder and do not
    reveal how much of a class a single tile contains. On cards and in configs a reference is called ``look``.

    Attributes:
        names: data set and group of each.
        colours: float32 [slides, classes, 3], RGB in -1..1; the mean of the others where a slide lacks a class.
    """

    names: tuple[str, ...]
    colours: npt.NDArray[np.float32]


def measure_stain_references(tiles: Tiles, every: int = 4) -> StainReferences:
    """Measure the stain references of all slides of the tiles, on every `every`-th pixel along both axes."""
    names = tuple(sorted({tiles.group(position) for position in range(len(tiles))}))
    sums = np.zeros((len(names), len(tiles.scheme), 3), np.float64)
    counts = np.zeros((len(names), len(tiles.scheme)), np.int64)
    for position in range(len(tiles)):
        place = names.index(tiles.group(position))
        labels = tiles.read(position)[::every, ::every].ravel()
        image = tiles.read_image(position)[::every, ::every].reshape(-1, 3)
        counts[place] += np.bincount(labels, minlength=len(tiles.scheme))
        for channel in range(3):
            sums[place, :, channel] += np.bincount(labels, image[:, channel], minlength=len(tiles.scheme))
    with np.errstate(invalid="ignore"):
        means = sums / counts[..., None]
    overall = sums.sum(0) / np.maximum(counts.sum(0), 1)[:, None]
    colours = np.where(np.isnan(means), overall, means) / 127.5 - 1.0
    return StainReferences(names, colours.astype(np.float32))


class ImageTrainerConfig(TrainerConfig):
    """Training of a renderer: the inputs of its network.

    Attributes:
        condition: the condition map. look: add the mean colours of the slide, see `StainReferences`; not in the papers.
        look_jitter: largest relative change and shift of each colour channel of a crop and of its stain reference.
            Slides are few: without it a reference identifies the slide, and with it the share of its positive cells.
    """

    condition: ConditionConfig = ConditionConfig()
    look: bool = False
    look_jitter: float = Field(default=0.0, ge=0, le=0.5)
    batch: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _colours_classes(self) -> ImageTrainerConfig:
        if self.look and not self.condition.classes:
            raise ValueError("look: expected false with condition.classes=false: a stain reference colours the classes")
        return self

    @property
    def reasons_for_nuclei(self) -> list[str]:
        """Settings that need instances."""
        return [f"condition.kind={self.condition.kind}"] if self.condition.kind in RELIEFS else []

    def check_data(self, scheme: LabelScheme, mpp: float) -> None:
        """Refuse masks that cannot give the condition map, and noise closer than a pixel."""
        self.drawn_scheme(scheme)
        if self.reasons_for_nuclei and not scheme.ids("nucleus"):
            able = ", ".join(name for name, known in SCHEMES.items() if known.ids("nucleus"))
            raise UserError(
                f"--data: expected masks of nuclei ({able}), which {' and '.join(self.reasons_for_nuclei)} need, got "
                f"{scheme.name}. Use other data or settings."
            )
        if reason := refusal_of(self.condition, mpp):
            raise UserError(f"condition.{reason}. Use a larger --set condition.spacing_um=.")

    def drawn_scheme(self, scheme: LabelScheme) -> LabelScheme:
        """Return the scheme of the condition map for masks of a scheme."""
        if self.condition.kind == "labels":
            raise UserError("condition.kind: expected a map that a network sees, got labels. Use polygons+noise.")
        if self.condition.kind != "polygons+air+cells":
            return scheme
        if f"{scheme.name}_cells" not in SCHEMES:
            able = ", ".join(name for name in SCHEMES if f"{name}_cells" in SCHEMES)
            raise UserError(f"condition.kind: expected masks of {able} for polygons+air+cells, got {scheme.name}.")
        return SCHEMES[f"{scheme.name}_cells"]


class ImageTrainer(Trainer):
    """Base of the trainers: crops, condition maps, stain references and the card."""

    kind = WEIGHTS_KIND
    _config: ImageTrainerConfig

    def __init__(self, config: ImageTrainerConfig, scheme: LabelScheme, device: str) -> None:
        self._config, self._scheme, self._device = config, scheme, device
        self._drawn = config.drawn_scheme(scheme)
        self._channels = channels_of_condition(config.condition, self._drawn)
        self._references: StainReferences | None = None
        self._classes: list[str] = []
        self._mpp = 1.0

    @property
    def in_channels(self) -> int:
        """Channels of the network's input: those of the condition map, and three of the stain reference."""
        return self._channels + (3 if self._config.look else 0)

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return crops: condition maps uint8 [N, H, W], images uint8 [N, H, W, 3], references float32 [N, classes, 3].

        Where nuclei are needed also reliefs uint8 [N, H, W] (see `Condition`) and contours bool [N, H, W].
        """
        self._mpp, self._classes = tiles.mpp, _classes_of(tiles, self._drawn)
        self._references = measure_stain_references(tiles) if self._config.look else None
        streams = self.streams(tiles)

        def draw(step: int) -> list[Crops]:
            crops = [stream.draw(step) for stream in streams]
            numbers = streams[0].numbers(step)
            conditions = self._conditions(crops[0], numbers)
            references = self._references_of(streams[0], numbers)
            pairs: list[Crops] = [conditions, *self._jittered(crops[-1][..., 1:4], references, numbers)]
            return pairs + self._nuclei(crops[0]) if self._config.reasons_for_nuclei else pairs

        return draw

    def streams(self, tiles: Tiles) -> list[ImageCrops]:
        """Return the crops that condition maps (the first) and images (the last) are from; one for both if paired."""
        config = self._config
        kind = NucleiCrops if self._config.reasons_for_nuclei else ImageCrops
        return [kind(tiles, config.size, config.batch, config.seed, config.max_background)]

    def _nuclei(self, crops: npt.NDArray[np.uint8]) -> list[Crops]:
        """Return reliefs and contours of crops [N, H, W, 8]; no relief where the condition map has none."""
        instances, condition = instances_of(crops), self._config.condition
        contours = np.stack([contour_of(instance, condition.metric) for instance in instances])
        if condition.kind not in RELIEFS:
            return [np.zeros((len(crops), 0), np.uint8), contours]
        return [np.stack([draw_relief(condition, instance) for instance in instances]), contours]

    def _conditions(self, crops: npt.NDArray[np.uint8], numbers: range) -> npt.NDArray[np.uint8]:
        """Draw condition maps of crops [N, H, W, 4 or more], whose numbers seed the noise."""
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

    def _references_of(self, crops: ImageCrops, numbers: range) -> npt.NDArray[np.float32]:
        """Return the stain reference of each crop's slide: float32 [N, classes, 3], 0 where none is used."""
        references = np.zeros((len(numbers), len(self._drawn), 3), np.float32)
        if self._references is not None:
            groups = [self._references.names.index(crops.tiles.group(crops.place(n))) for n in numbers]
            references[:, : self._references.colours.shape[1]] = self._references.colours[groups]
        return references

    def _jittered(
        self, images: npt.NDArray[np.uint8], references: npt.NDArray[np.float32], numbers: range
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Change the colours of images uint8 [N, H, W, 3] and of their references float32 [N, classes, 3] alike."""
        most = self._config.look_jitter
        if not most:
            return images, references
        drawn = np.stack([generator(self._config.seed, Stream.JITTER, n).uniform(-most, most, (2, 3)) for n in numbers])
        gain, shift = (drawn[:, part, None].astype(np.float32) for part in (0, 1))  # [N, 1, 3], in units of -1..1
        other = images / np.float32(127.5) - 1
        other = other * (1 + gain[:, None]) + shift[:, None]
        pixels = np.clip(np.rint((other + 1) * 127.5), 0, 255).astype(np.uint8)
        return pixels, references * (1 + gain) + shift

    def seen(self, crops: list[Crops]) -> torch.Tensor:
        """Return the network's input for the crops of `draw_from`: float32 [N, in_channels, H, W]."""
        labels, colours = (torch.from_numpy(part).to(self._device) for part in (crops[0], crops[2]))
        condition = self._config.condition
        relief = torch.from_numpy(crops[3]).to(self._device) if condition.kind in RELIEFS else None
        return to_network(labels, labels_shown(condition, self._drawn), colours if self._config.look else None, relief)

    def images(self, crops: list[Crops]) -> torch.Tensor:
        """Return the images of crops in -1..1: float32 [N, 3, H, W]."""
        pixels = torch.from_numpy(np.ascontiguousarray(crops[1])).to(self._device)
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return condition maps, the images made of them, and the real images."""
        shown = [part[:SAMPLES] for part in crops]
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = [
                to_pixels(self.pre_tanh(network, self.seen([p[i : i + 1] for p in shown])))
                for i in range(len(shown[0]))
            ]
        palette = self._drawn.palette
        palette[len(self._drawn)] = 0
        return [palette[shown[0]], np.concatenate(made), shown[1]]

    def pre_tanh(self, network: nn.Module, seen: torch.Tensor) -> torch.Tensor:
        """Return the pre-tanh output for the sheet of samples: float [N, 3, H, W]."""
        output: torch.Tensor = network(seen)
        return output

    def card(self) -> dict[str, Any]:
        """Return the network's shape, and all that is needed to make its inputs again."""
        colours = np.zeros(0) if self._references is None else self._references.colours.astype(float)
        return {
            **super().card(),
            "scheme": self._drawn.to_dict(),
            "condition": self._config.condition.model_dump(mode="json"),
            "classes": self._classes,
            "looks": np.round(colours, 4).tolist(),
        }


def _classes_of(tiles: Tiles, drawn: LabelScheme) -> list[str]:
    """Return the names of the classes in the masks. Classes that colours add (cells) count as present."""
    counts = sum(np.bincount(tiles.read(position).ravel(), minlength=256) for position in range(len(tiles)))
    counts = np.asarray(counts)
    held = counts > _LEAST_SHARE * counts.sum()
    return [c.name for c in drawn.classes if c.id >= len(tiles.scheme) or held[c.id]]
