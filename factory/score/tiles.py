"""Sets of tiles in memory, and their pictures for feature extractors and the search for copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from manifests.labels import IGNORE, LabelScheme, get_scheme

Value = TypeVar("Value", bound=np.generic)

_BLOCK = 64  # tiles in memory as float at a time


@dataclass(frozen=True)
class TileSet:
    """A set of masks or of images, all of one size and resolution.

    Attributes:
        name: shown in tables and plots.
        pixels: uint8 [N, H, W] class ids of `scheme`, none of them 255; or [N, H, W, 3] RGB images.
        mpp: micrometres per pixel.
        scheme: label scheme of masks; None for images.
        ids: unique sample ids.
        groups: patient or slide of each tile; None if unknown.
        shifts: float64 [N], how far the quantile allocation moved each tile's threshold; None without allocation.
        instances: int32 [N, H, W], ids of nuclei; None for images, and for masks without instances.
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
        """Returns the tiles at these places, in this order."""
        places = np.asarray(places, np.intp)
        return replace(
            self,
            pixels=self.pixels[places],
            ids=tuple(self.ids[place] for place in places),
            groups=None if self.groups is None else tuple(self.groups[place] for place in places),
            shifts=None if self.shifts is None else self.shifts[places],
            instances=None if self.instances is None else self.instances[places],
        )

    def with_pixels(self, pixels: npt.NDArray[np.uint8]) -> TileSet:
        """Returns the same tiles with other pixels, and without their instances."""
        return replace(self, pixels=pixels, instances=None)

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
        """Builds a set from masks in memory, uint8 [N, H, W]; `ids` are ``NAME-0``, ``NAME-1``... by default."""
        known = get_scheme(scheme) if isinstance(scheme, str) else scheme
        names = tuple(ids) if ids is not None else tuple(f"{name}-{place}" for place in range(len(masks)))
        return cls(name, masks, mpp, known, names, None if groups is None else tuple(groups), shifts)


def labelled(masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Returns the places of the masks without ignore pixels (255); others cannot be compared as pictures."""
    return np.flatnonzero([not (mask == IGNORE).any() for mask in masks])


def random_crops(pixels: npt.NDArray[Value], shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[Value]:
    """Cuts one random crop of `shape` out of every tile: [N, h, w, ...]; tiles of that size are unchanged."""
    count, height, width = pixels.shape[:3]
    if (height, width) == shape:
        return pixels
    tops = rng.integers(0, height - shape[0] + 1, count)
    lefts = rng.integers(0, width - shape[1] + 1, count)
    return np.stack([tile[y : y + shape[0], x : x + shape[1]] for tile, y, x in zip(pixels, tops, lefts, strict=True)])


def reduction(shape: tuple[int, int], longest_px: int) -> int:
    """Returns the smallest whole factor that brings the longer side of `shape` to at most `longest_px`."""
    return -(-max(shape) // longest_px)


def to_pictures(tiles: TileSet, longest_px: int) -> npt.NDArray[np.uint8]:
    """Converts tiles to RGB pictures, reduced by a whole factor f.

    Masks of two classes become black (id 0) and white (id 1), masks of more classes get the colours of their scheme.
    Then f x f pixels are averaged to one: no interpolation, no aliasing, and no change where f is 1. Rows and columns
    beyond a multiple of f are cut off.

    Returns:
        uint8 [N, H // f, W // f, 3], the longer side at most `longest_px`.
    """
    factor = reduction(tiles.shape, longest_px)
    height, width = (side // factor for side in tiles.shape)
    out = np.empty((len(tiles), height, width, 3), np.uint8)
    for start in range(0, len(tiles), _BLOCK):
        out[start : start + _BLOCK] = shrink(_colours(tiles, slice(start, start + _BLOCK)), factor).round()
    return out


def _colours(tiles: TileSet, block: slice) -> npt.NDArray[np.uint8]:
    if tiles.scheme is None:
        return tiles.pixels[block]
    palette = tiles.scheme.palette
    if len(tiles.scheme) == 2:
        palette[0], palette[1] = 0, 255
    return palette[tiles.pixels[block]]


def shrink(pictures: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.float32]:
    """Averages `factor` x `factor` pixels: uint8 [N, H, W, ...] -> float32 [N, H // factor, W // factor, ...]."""
    if factor == 1:
        return pictures.astype(np.float32)
    height, width = (side // factor for side in pictures.shape[1:3])
    cut = pictures[:, : height * factor, : width * factor]
    blocks = cut.reshape(len(cut), height, factor, width, factor, *cut.shape[3:])
    # Integer sums over one axis after the other are several times as fast as a mean over floats.
    sums = blocks.sum(axis=4, dtype=np.uint16 if factor <= 256 else np.uint32).sum(axis=2, dtype=np.uint32)
    means: npt.NDArray[np.float32] = sums.astype(np.float32) / np.float32(factor * factor)
    return means
