"""Where tiles lie in an image, and what happens at its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.labels import IGNORE


def tile_origins(height: int, width: int, size: tuple[int, int], overlap_px: int) -> list[tuple[int, int]]:
    """Top left corners (y, x) of the tiles that cover an image, row by row.

    The last tile of a row or column is shifted inward, so that it ends at the edge. An image smaller than the tile
    gets one, which `pad` fills up.
    """
    rows, columns = _starts(height, size[0], overlap_px), _starts(width, size[1], overlap_px)
    return [(y, x) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap_px: int) -> list[int]:
    if length <= tile:
        return [0]
    last = length - tile
    return [*range(0, last, tile - overlap_px), last]


def pad(
    image: npt.NDArray[np.uint8],
    semantic: npt.NDArray[np.uint8],
    instance: npt.NDArray[np.int32],
    size: tuple[int, int],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Fill a region up to the tile's size on its right and lower side.

    The image is mirrored, which keeps its statistics; labels there are `IGNORE` and instances 0, so nothing is learned
    or measured from the mirrored pixels.
    """
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not below and not right:
        return image, semantic, instance
    margin: tuple[Any, Any] = ((0, below), (0, right))
    return (
        np.pad(image, (*margin, (0, 0)), mode="symmetric"),
        np.pad(semantic, margin, constant_values=IGNORE),
        np.pad(instance, margin),
    )
