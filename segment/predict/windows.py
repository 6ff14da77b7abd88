"""Overlapping windows, and maps blended from them without visible edges.

All windows start at multiples of the network's divisor, so that its strided layers have the same phase as in the whole
image. At an edge that is not an edge of the image, the weight of a window is 0 in the outer quarter of the overlap,
where the network saw padding instead of the surroundings, and then rises linearly. A network with a receptive field
within that quarter gives the same maps as in one pass over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segment.network.inference import Maps
from segment.network.networks import DIVISOR

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """The windows along one side of an image.

    Attributes:
        length: of the side in pixels, rounded up to a multiple of `DIVISOR`.
        size: of a window. overlap: of two neighbours; the last window is shifted inward and overlaps more.
        starts: first pixel of each window.
    """

    length: int
    size: int
    overlap: int
    starts: tuple[int, ...]

    @classmethod
    def along(cls, length: int, size: int, overlap: int) -> Axis:
        """Cover a side of `length` pixels with windows of `size` that overlap by at most half.

        Raises:
            ValueError: when `size` or `overlap` is not a multiple of `DIVISOR`, or the overlap is too large.
        """
        if size % DIVISOR or overlap % DIVISOR or not 0 <= 2 * overlap <= size:
            raise ValueError(f"expected multiples of {DIVISOR} and an overlap of at most half, got {size}, {overlap}")
        length += -length % DIVISOR
        if length <= size:
            return cls(length, length, overlap, (0,))
        last = length - size
        return cls(length, size, overlap, (*range(0, last, size - overlap), last))

    @property
    def unseen(self) -> int:
        """Pixels at an inner edge of a window with weight 0."""
        return self.overlap // 4

    def weights(self, number: int) -> Floats:
        """Weight of each pixel of a window: float32 [size], from 0 to 1."""
        weights = np.ones(self.size, np.float32)
        length = self.overlap // 2
        ramp = (2 * np.arange(length, dtype=np.float32) + 1) / max(2 * length, 1)
        edge = np.concatenate([np.zeros(self.unseen, np.float32), ramp])
        if number > 0:
            weights[: edge.size] = edge
        if number < len(self.starts) - 1:
            weights[weights.size - edge.size :] *= edge[::-1]
        return weights

    def touching(self, low: int, high: int) -> list[int]:
        """Numbers of the windows with a weight above 0 from pixel `low` to before `high`."""
        last = len(self.starts) - 1
        return [
            number
            for number, start in enumerate(self.starts)
            if start + self.unseen * (number > 0) < high and start + self.size - self.unseen * (number < last) > low
        ]

    def complete_before(self, number: int) -> int:
        """Pixel before which the blended maps are final after window `number`."""
        if number < 0:
            return 0
        return self.starts[number + 1] + self.unseen if number + 1 < len(self.starts) else self.length


@dataclass(frozen=True)
class Band:
    """Blended maps of some rows: `maps` begins at row `top` of the image."""

    top: int
    maps: Maps


def blended_bands(
    predict: Callable[[int, int], Maps], rows: Axis, columns: Axis, span: tuple[int, int]
) -> Iterator[Band]:
    """Maps of the columns from `span[0]` to before `span[1]`, in consecutive bands from row 0 to the last.

    One row of windows is in memory, for any height of the image.

    Args:
        predict: maps of the window that starts at (y, x), of `rows.size` x `columns.size` pixels.
        rows: windows from top to bottom. columns: windows from left to right.
        span: columns, within `columns.length`.
    """
    left, right = span
    total = weight = np.zeros(0, np.float32)
    for row, y in enumerate(rows.starts):
        for column in columns.touching(left, right):
            x = columns.starts[column]
            layers, has_distance = _layers(predict(y, x))
            if not total.size:
                total = np.zeros((len(layers), rows.size, right - left), np.float32)
                weight = np.zeros(total.shape[1:], np.float32)
            own = np.outer(rows.weights(row), columns.weights(column))
            low, high = max(x, left), min(x + columns.size, right)
            inside, target = np.s_[:, low - x : high - x], np.s_[:, low - left : high - left]
            total[(slice(None), *target)] += own[inside] * layers[(slice(None), *inside)]
            weight[target] += own[inside]
        first, end = rows.complete_before(row - 1) - y, rows.complete_before(row) - y
        finished = total[:, first:end] / weight[first:end]
        yield Band(y + first, Maps(finished[:-1], finished[-1]) if has_distance else Maps(finished, None))
        if row + 1 < len(rows.starts):
            for kept in (total, weight):
                step = rows.starts[row + 1] - y
                kept[..., : rows.size - step, :] = kept[..., step:, :].copy()
                kept[..., rows.size - step :, :] = 0


def _layers(maps: Maps) -> tuple[Floats, bool]:
    """All maps as one float32 [channels, H, W], the distance last, and whether there is one."""
    if maps.distance is None:
        return maps.probabilities, False
    return np.concatenate([maps.probabilities, maps.distance[None]]), True
