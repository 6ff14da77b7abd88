"""Tiles in memory, as the figures need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from factory.score.settings import STREAMS
from manifests.labels import IGNORE, LabelScheme, get_scheme

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class TileSet:
    """A set of masks or of images, all of one size and resolution.

    Attributes:
        name: as it stands in tables and plots.
        pixels: uint8 [N, H, W] class ids of `scheme`, none of them 255; or [N, H, W, 3] RGB images.
        mpp: micrometres per pixel.
        scheme: what the values of masks mean; None for images.
        ids: of the tiles, each once.
        groups: patient or slide of each tile; None where not known.
        shifts: float64 [N], how far the quantile allocation moved each tile's threshold; None where there was none.
        instances: int32 [N, H, W], ids of nuclei; None where masks have none, and for images.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    mpp: float
    scheme: LabelScheme | None
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    shifts: npt.NDArray[np.float64] | None = None
    instances: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        wanted = 4 if self.scheme is None else 3
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != wanted:
            raise ValueError(f"{self.name}: expected uint8 in {wanted} dimensions, got {self.pixels.shape}")
        for values in (self.ids, self.groups, self.shifts):
            if values is not None and len(values) != len(self.pixels):
                raise ValueError(f"{self.name}: expected {len(self.pixels)} ids, groups and shifts, got {len(values)}")
        if self.scheme is not None and self.pixels.size and int(self.pixels.max()) >= len(self.scheme):
            raise ValueError(f"{self.name}: expected labels of {self.scheme.name}, got {int(self.pixels.max())}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def take(self, places: npt.NDArray[np.intp] | Sequence[int]) -> TileSet:
        """The tiles at these places, in their order."""
        places = np.asarray(places, np.intp)
        return TileSet(
            self.name,
            self.pixels[places],
            self.mpp,
            self.scheme,
            tuple(self.ids[place] for place in places),
            None if self.groups is None else tuple(self.groups[place] for place in places),
            None if self.shifts is None else self.shifts[places],
            None if self.instances is None else self.instances[places],
        )

    def with_pixels(self, pixels: npt.NDArray[np.uint8]) -> TileSet:
        """The same tiles with other pixels, and so without their instances."""
        return TileSet(self.name, pixels, self.mpp, self.scheme, self.ids, self.groups, self.shifts)

    @classmethod
    def of_masks(
        cls,
        name: str,
        masks: npt.NDArray[np.uint8],
        *,
        mpp: float,
        scheme: str | LabelScheme = "tissue",
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        shifts: npt.NDArray[np.float64] | None = None,
    ) -> TileSet:
        """Masks held in memory, for scripts.

        Args:
            name: as it stands in tables. masks: uint8 [N, H, W], class ids. mpp: micrometres per pixel.
            scheme: of the masks. ids: default ``NAME-0``, ``NAME-1``... groups, shifts: as the attributes.
        """
        known = get_scheme(scheme) if isinstance(scheme, str) else scheme
        names = tuple(ids) if ids is not None else tuple(f"{name}-{place}" for place in range(len(masks)))
        return cls(name, masks, mpp, known, names, None if groups is None else tuple(groups), shifts)


def labelled(masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Places of the masks whose every pixel is labelled: what has 255 in it cannot be compared as a picture."""
    return np.flatnonzero([not (mask == IGNORE).any() for mask in masks])


def random_crops(pixels: npt.NDArray[Value], shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[Value]:
    """One crop of every tile at a random place: uint8 [N, h, w, ...]; tiles of that size stay as they are."""
    count, height, width = pixels.shape[:3]
    if (height, width) == shape:
        return pixels
    tops = rng.integers(0, height - shape[0] + 1, count)
    lefts = rng.integers(0, width - shape[1] + 1, count)
    return np.stack([tile[y : y + shape[0], x : x + shape[1]] for tile, y, x in zip(pixels, tops, lefts, strict=True)])


def generator(seed: int, stream: str, *more: int) -> np.random.Generator:
    """The random generator of one purpose under a seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], *more)))
