"""Tiles as pictures: what feature extractors and the search for copies look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from factory.score.tiles import TileSet

_BLOCK = 64  # tiles in memory as float at a time


def reduction(shape: tuple[int, int], longest_px: int) -> int:
    """The smallest whole factor that brings the longer side of `shape` to at most `longest_px`."""
    return -(-max(shape) // longest_px)


def to_pictures(tiles: TileSet, longest_px: int) -> npt.NDArray[np.uint8]:
    """Tiles as RGB pictures, made smaller by a whole factor.

    Masks of two classes are black (id 0) and white (id 1), of more the colours of their scheme; images stay as they
    are. Then f x f pixels are averaged to one: no interpolation, no aliasing, and no change where f is 1. Rows and
    columns beyond a multiple of f are cut off.

    Args:
        tiles: masks or images. longest_px: of the longer side, at most.

    Returns:
        uint8 [N, H // f, W // f, 3].
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
    """Means over `factor` x `factor` pixels: uint8 [N, H, W, ...] -> float32 [N, H // factor, W // factor, ...]."""
    if factor == 1:
        return pictures.astype(np.float32)
    height, width = (side // factor for side in pictures.shape[1:3])
    cut = pictures[:, : height * factor, : width * factor]
    blocks = cut.reshape(len(cut), height, factor, width, factor, *cut.shape[3:])
    # Summed in integers, one axis after the other: several times as fast as a mean over floats.
    sums = blocks.sum(axis=4, dtype=np.uint16 if factor <= 256 else np.uint32).sum(axis=2, dtype=np.uint32)
    means: npt.NDArray[np.float32] = sums.astype(np.float32) / np.float32(factor * factor)
    return means
