"""Bilinear upsampling of arrays [h, w, D]: positions along an axis, and sums of upsampled grids in a tile.

Equals torch's interpolation without ``align_corners``: pixel centres are aligned, edges are repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from factory.core.compiled import compiled

Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""The two neighbours of positions along an axis, int64 [n] each, and the weight of the second, float32 [n]."""


def places_between(pixels: npt.NDArray[np.int64] | npt.NDArray[np.float64], side: int, native: int) -> Places:
    """Positions of image pixels in a tap, along one axis.

    Args:
        pixels: [n], rows or columns, or places between their centres. side: of the image. native: of the tap, a power
            of two smaller.

    Returns:
        The tap's pixel before each, the one after it, int64 [n], and the share of the latter, float32 [n].
    """
    centres = np.maximum((pixels + 0.5) * (native / side) - 0.5, 0.0)
    first = centres.astype(np.int64)
    return first, np.minimum(first + 1, native - 1), (centres - first).astype(np.float32)


def places_between_lines(cut: slice, distance: int) -> Places:
    """Positions of a tile's pixels between lines along an axis, counted from the last line before the tile.

    Args:
        cut: the tile's pixels. distance: of the lines; the first lies on the image's edge.
    """
    first, inside = np.divmod(np.arange(cut.start, cut.stop) - cut.start // distance * distance, distance)
    return first, first + 1, ((inside + 0.5) / distance).astype(np.float32)


def reached(places: Places) -> slice:
    """The part of a tap that an interpolation reads along an axis: that of the tile and its halo."""
    first, second, _ = places
    return slice(int(first[0]), int(second[-1]) + 1)


def moved(places: Places) -> Places:
    """Positions counted from the first one that is read."""
    first, second, share = places
    return first - first[0], second - first[0], share


@dataclass(frozen=True)
class Grid:
    """An array float32 [h', w', D] to be upsampled to a tile, and the positions of the tile's rows and columns."""

    outputs: torch.Tensor
    down: Places
    along: Places

    def add_to(self, total: torch.Tensor, start: int = 0) -> None:
        """Add the bilinear means to rows [h, w, D] of the tile, from `start` on; on the CPU with one row between."""
        (above, below, share), rows = self.down, slice(start, start + len(total))
        down = (above[rows], below[rows], share[rows])
        if total.device.type == "cpu":
            _add_on_cpu(total.numpy(), self.outputs.numpy(), *down, *self.along)
        else:
            _add_elsewhere(total, self.outputs, down, self.along)


def _add_elsewhere(total: torch.Tensor, outputs: torch.Tensor, down: Places, along: Places) -> None:
    (above, below, t), (left, right, s) = (
        [torch.from_numpy(part).to(total.device) for part in places] for places in (down, along)
    )
    between = torch.lerp(outputs[above], outputs[below], t[:, None, None])
    total += torch.lerp(between[:, left], between[:, right], s[None, :, None])


@compiled(fastmath=True)
def _add_on_cpu(
    total: npt.NDArray[np.float32],
    outputs: npt.NDArray[np.float32],
    above: npt.NDArray[np.int64],
    below: npt.NDArray[np.int64],
    t: npt.NDArray[np.float32],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    s: npt.NDArray[np.float32],
) -> None:
    height, width, channels = total.shape
    first, last = left[0], right[width - 1] + 1
    between = np.empty((last - first, channels), np.float32)
    flat = between.reshape(-1)
    for row in range(height):
        up, down = outputs[above[row], first:last].reshape(-1), outputs[below[row], first:last].reshape(-1)
        weight = t[row]
        for place in range(flat.size):
            flat[place] = up[place] + weight * (down[place] - up[place])
        for column in range(width):
            out, a, b = total[row, column], between[left[column] - first], between[right[column] - first]
            weight = s[column]
            for channel in range(channels):
                out[channel] += a[channel] + weight * (b[channel] - a[channel])
