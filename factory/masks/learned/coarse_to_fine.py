"""Fine masks drawn from coarse maps by a network, as in PriorPath and CycleGAN; sources of coarse maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PrivateAttr, field_validator, model_validator
from torch import nn

from factory.core.precision import autocast
from factory.core.resolutions import LEARNT_MPP
from factory.learn.crops import Tiles, open_tiles, random_crop, reopen_tiles
from factory.learn.trainer import Crops, TrainerConfig
from factory.learn.weights import WeightsConfig, scheme_of
from factory.masks.coarse import (
    AugmentSketchConfig,
    LayoutConfig,
    Sketch,
    augment_sketch,
    class_order,
    coarsen,
    drawn_coarse,
    read_sketches,
    sketches_sha256,
)
from factory.masks.coarse.morphology import CLOSING_PX, OPENING_PX
from factory.masks.learned.generator import MaskTrainer, TrainedMasks
from factory.nets.annealing import to_channels
from factory.plan.request import Request
from manifests.errors import UserError
from manifests.labels import LabelScheme

_SAMPLES = 6


class CoarseTrainerConfig(TrainerConfig):
    """Training on coarse and fine masks.

    Attributes:
        opening_px, closing_px: kernels that make the coarse mask of a fine one.
    """

    opening_px: int = Field(default=OPENING_PX, ge=1)
    closing_px: int = Field(default=CLOSING_PX, ge=1)


class CoarseTrainer(MaskTrainer):
    """Base of the trainers that see coarse maps of their crops."""

    _config: CoarseTrainerConfig

    def coarse(self, crops: Crops) -> npt.NDArray[np.uint8]:
        """Return the coarse maps of a batch: uint8 [N, H, W]."""
        kernels = {"opening_px": self._config.opening_px, "closing_px": self._config.closing_px}
        return np.stack([coarse_of(crop, self._scheme, kernels) for crop in crops])

    @abstractmethod
    def made(self, network: nn.Module, coarse: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """Return fine masks made of coarse ones, one column of the sheet each."""

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return coarse masks, fine ones made of them, and the real fine ones."""
        real = crops[0][:_SAMPLES]
        coarse = self.coarse(real)
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            return [coarse, *self.made(network, coarse), real]


class CoarseConfig(WeightsConfig):
    """Weights, and where the coarse maps come from.

    Attributes:
        coarse: ``drawn`` by the plan from the requested shares and a layout, a person's ``sketches``, or ``masks`` of
            a data set.
        coarse_from: folder of drawings (PNG, or JSON of labelme), or of one or more data sets. coarse_split: rows of
            these that are used.
        coarse_sha256: filled in when the config is resolved; other drawings or masks under that name are then refused.
        white: class of white in a drawing of two classes.
        layout: of drawn maps. augment: how far sketches are changed.
    """

    paths: ClassVar[frozenset[str]] = WeightsConfig.paths | {"coarse_from"}
    coarse: Literal["drawn", "sketches", "masks"] = "drawn"
    coarse_from: tuple[str, ...] = ()
    coarse_split: Literal["train", "val", "test"] = "test"
    coarse_sha256: str | None = None
    white: Literal["air", "tissue"] = "air"
    layout: LayoutConfig = LayoutConfig()
    augment: AugmentSketchConfig = AugmentSketchConfig()
    _rows: tuple[tuple[int, int], ...] | None = PrivateAttr(default=None)
    """Rows of the masks without ignored pixels, found once when the config is resolved."""

    @field_validator("coarse_from", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @model_validator(mode="after")
    def _names_a_source(self) -> CoarseConfig:
        most = {"drawn": 0, "sketches": 1}.get(self.coarse, 64)
        if not min(most, 1) <= len(self.coarse_from) <= most:
            wanted = "none" if not most else "a folder" if most == 1 else "folders of data sets"
            advice = "" if most else ". Use --set masks.coarse=sketches, or =masks"
            raise ValueError(f"coarse_from: expected {wanted} with coarse: {self.coarse}{advice}")
        return self


class CoarseToFineMasks(TrainedMasks):
    """Base of the generators that translate a coarse map."""

    Config: ClassVar[type[WeightsConfig]] = CoarseConfig
    noise_channels: ClassVar[int] = 0
    """Of noise that the network sees beside the coarse map."""
    config: CoarseConfig

    def resolved_config(self) -> CoarseConfig:
        """Return the config with weights, precision and coarse maps filled in."""
        resolved = super().resolved_config()
        assert isinstance(resolved, CoarseConfig)
        if resolved.coarse == "drawn":
            return resolved
        if resolved.coarse == "sketches":
            found = sketches_sha256(self.sketches)
        else:
            tiles = _survey(resolved, scheme_of(self.card))
            resolved._rows, found = tiles.rows, tiles.sha256
        if resolved.coarse_sha256 not in (None, found):
            raise UserError(
                f"{', '.join(resolved.coarse_from)}: expected the coarse maps that made the data set, got others. "
                "Put those back, or make the data set anew."
            )
        return resolved.model_copy(update={"coarse_sha256": found})

    def training_sources(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return sources and licences of the weights, and of the masks that coarse maps are made of."""
        sources, licences = super().training_sources()
        if self.config.coarse != "masks":
            return sources, licences
        return tuple(sorted({*sources, *self.tiles.sources})), tuple(sorted({*licences, *self.tiles.licences}))

    def input_notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return how each drawing was read."""
        if self.config.coarse != "sketches":
            return ()
        return tuple(
            f"{sketch.name}: {note}" for sketch in self.sketches for note in (*sketch.notes, *_fitted(sketch, size))
        )

    @cached_property
    def sketches(self) -> list[Sketch]:
        """The drawings."""
        return read_sketches(Path(self.config.coarse_from[0]), scheme_of(self.card), white=self.config.white)

    @cached_property
    def tiles(self) -> Tiles:
        """The masks that coarse maps are made of; all are read only if the config has not been resolved."""
        config, scheme = self.config, scheme_of(self.card)
        if config._rows is None:
            return _survey(config, scheme)
        return reopen_tiles(list(map(Path, config.coarse_from)), scheme.name, config.coarse_split, config._rows)

    @property
    def kernels(self) -> Mapping[str, int]:
        """Sides of the opening and the closing that the weights were trained with."""
        return {name: int(self.card.fields["config"][name]) for name in ("opening_px", "closing_px")}

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        if self.config.coarse == "masks":
            mpp = float(self.card.fields["mpp"])
            if abs(self.tiles.mpp - mpp) > LEARNT_MPP * mpp:
                got = f"{self.config.coarse_from[0]} has {self.tiles.mpp:g}"
                return f"mpp: the weights of {self.name} take coarse masks at {mpp:g} um per pixel, {got}"
            height, width = self.tiles.smallest
            if request.height > height or request.width > width:
                got = f"{request.height}x{request.width}"
                return f"size: {self.config.coarse_from[0]} has masks of {height}x{width}, got {got}"
        return super().refusal(request)

    def coarse_map(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """The coarse map of one tile: uint8 [H, W]."""
        size = (request.height, request.width)
        if self.config.coarse == "drawn":
            return drawn_coarse(rng, request, self.config.layout.model_copy(update=dict(self.kernels)))
        if self.config.coarse == "sketches":
            augment = self.config.augment.model_copy(update=dict(self.kernels))
            return augment_sketch(self.sketches, rng, *size, augment)
        fine = random_crop(self.tiles.read(int(rng.integers(len(self.tiles)))), size, rng)
        return coarse_of(fine, request.scheme, self.kernels)

    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Logits of one tile, float32 [K, H, W]."""
        coarse = torch.from_numpy(self.coarse_map(request, rng))[None]
        noise = rng.standard_normal((1, self.noise_channels, request.height, request.width), np.float32)
        seen = to_channels(coarse, self.card.fields["network"]["channels"])
        return self.forward(torch.cat([seen, torch.from_numpy(noise)], 1))


def coarse_of(labels: npt.NDArray[np.uint8], scheme: LabelScheme, kernels: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    """The coarse map of a mask with a trainer's kernels: uint8 [H, W]."""
    return coarsen(labels, len(scheme), **kernels, order=class_order(scheme))


def _survey(config: CoarseConfig, scheme: LabelScheme) -> Tiles:
    """Open the masks and read them all. `CoarseToFineMasks.refusal` refuses masks too small for a request."""
    return open_tiles(
        list(map(Path, config.coarse_from)),
        scheme.name,
        (1, 1),
        1,
        split=config.coarse_split,
        where="masks.coarse_from",
        advice="Name other data sets, or another --set masks.coarse_split=SPLIT.",
    )


def _fitted(sketch: Sketch, size: tuple[int, int]) -> tuple[str, ...]:
    """Return a note where a drawing is of another size than the tiles."""
    height, width = sketch.labels.shape
    if (height, width) == size:
        return ()
    cut = "" if height * size[1] == width * size[0] else ", so that some of it is cut off"
    return (f"{height}x{width}, resized to cover tiles of {size[0]}x{size[1]}{cut}",)
