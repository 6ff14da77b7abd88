"""What PriorPath and CycleGAN share in use: where coarse maps come from, and fine masks drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator, model_validator

from factory.coarse import (
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
from factory.composition import Request
from factory.trained_masks import SAME_MPP, TrainedConfig, TrainedMasks, scheme_of
from factory.views import Tiles, open_tiles, random_crop
from manifests.errors import UserError
from manifests.labels import LabelScheme


class CoarseConfig(TrainedConfig):
    """Weights, and where the coarse maps come from.

    Attributes:
        coarse: ``drawn`` by the plan from the requested shares and a layout, a person's ``sketches``, or ``masks`` of
            a data set.
        coarse_from: folder of PNG drawings, or of one or more data sets. coarse_split: rows of these that are used.
        coarse_sha256: filled in when an order is resolved; other drawings or masks under that name are then refused.
        white: what white means in a drawing of two classes.
        layout: of drawn maps. augment: how far sketches are changed.
    """

    coarse: Literal["drawn", "sketches", "masks"] = "drawn"
    coarse_from: tuple[str, ...] = ()
    coarse_split: Literal["train", "val", "test"] = "test"
    coarse_sha256: str | None = None
    white: Literal["air", "tissue"] = "air"
    layout: LayoutConfig = LayoutConfig()
    augment: AugmentSketchConfig = AugmentSketchConfig()

    @field_validator("coarse_from", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @model_validator(mode="after")
    def _names_a_source(self) -> CoarseConfig:
        most = {"drawn": 0, "sketches": 1}.get(self.coarse, 64)
        if not min(most, 1) <= len(self.coarse_from) <= most:
            wanted = "none" if not most else "a folder" if most == 1 else "folders of data sets"
            raise ValueError(f"coarse_from: expected {wanted} with coarse: {self.coarse}")
        return self


class FromCoarse(TrainedMasks):
    """Base of the generators that translate a coarse map."""

    Config: ClassVar[type[TrainedConfig]] = CoarseConfig
    config: CoarseConfig

    @classmethod
    def settle(cls, config: CoarseConfig, device: str) -> CoarseConfig:
        """The config with weights, precision and coarse maps spelt out; see `TrainedMasks.settle`."""
        settled: CoarseConfig = super().settle(config, device)
        if settled.coarse == "drawn":
            return settled
        found = _digest(settled, scheme_of(cls.card_of(settled)))
        if settled.coarse_sha256 not in (None, found):
            raise UserError(
                f"{', '.join(settled.coarse_from)}: expected the coarse maps that made the data set, got others. "
                "Put those back, or make the data set anew."
            )
        return settled.model_copy(update={"coarse_sha256": found})

    @classmethod
    def provenance(cls, config: CoarseConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Sources and licences behind the weights, and behind the masks that the coarse maps are from."""
        sources, licences = super().provenance(config)
        if config.coarse != "masks":
            return sources, licences
        tiles = _open(config, scheme_of(cls.card_of(config)))
        return (
            tuple(sorted({*sources, *tiles.sources})),
            tuple(sorted({*licences, *tiles.licences})),
        )

    @cached_property
    def sketches(self) -> list[Sketch]:
        """The drawings."""
        return _read(self.config, scheme_of(self.card))

    @cached_property
    def tiles(self) -> Tiles:
        """The masks that coarse maps are made of."""
        return _open(self.config, scheme_of(self.card))

    @property
    def kernels(self) -> Mapping[str, int]:
        """Sides of the opening and the closing that the weights were trained with."""
        return {name: int(self.card.fields["config"][name]) for name in ("opening_px", "closing_px")}

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be met, or None."""
        step = 2 ** int(self.card.fields["network"].get("depth", 5))
        if request.height % step or request.width % step:
            return f"size: the weights of {self.name} take multiples of {step}, got {request.height}x{request.width}"
        if self.config.coarse == "masks":
            mpp = float(self.card.fields["mpp"])
            if abs(self.tiles.mpp - mpp) > SAME_MPP * mpp:
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


def coarse_of(labels: npt.NDArray[np.uint8], scheme: LabelScheme, kernels: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    """The coarse map of a mask with a lesson's kernels: uint8 [H, W]."""
    return coarsen(
        labels,
        len(scheme),
        opening_px=kernels["opening_px"],
        closing_px=kernels["closing_px"],
        order=class_order(scheme),
    )


def _read(config: CoarseConfig, scheme: LabelScheme) -> list[Sketch]:
    return read_sketches(Path(config.coarse_from[0]), scheme, white=config.white)


def _open(config: CoarseConfig, scheme: LabelScheme) -> Tiles:
    return open_tiles([Path(root) for root in config.coarse_from], scheme.name, (32, 32), 1, split=config.coarse_split)


def _digest(config: CoarseConfig, scheme: LabelScheme) -> str:
    if config.coarse == "sketches":
        return sketches_sha256(_read(config, scheme))
    return _open(config, scheme).sha256


def pooled(
    pool: list[npt.NDArray[np.float32]], made: Sequence[npt.NDArray[np.float32]], rng: np.random.Generator, most: int
) -> list[npt.NDArray[np.float32]]:
    """The history of made-up masks that CycleGAN's judges see (Shrivastava et al. 2017): half are earlier ones.

    Args:
        pool: earlier ones, changed in place. made: new ones. rng: chooses. most: size of the pool (50 in the paper).
    """
    shown = []
    for mask in made:
        if len(pool) < most:
            pool.append(mask)
            shown.append(mask)
        elif rng.random() < 0.5:
            place = int(rng.integers(most))
            shown.append(pool[place])
            pool[place] = mask
        else:
            shown.append(mask)
    return shown
