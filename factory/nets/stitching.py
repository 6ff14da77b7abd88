"""Images of any size from a network that translates them, without seams and in memory that does not grow with the tile.

These networks are convolutions, with a receptive field of a few hundred pixels, and instance norms over the whole tile:
windows drawn one by one would each be normalised by themselves, and their borders would show. So the norms' statistics
are measured first, over samples spread evenly over the tile, and frozen. Every norm is then a fixed affine map of each
channel, the receptive field is that of the convolutions, and a window drawn with that many pixels around it (the halo)
equals, once the halo is cut off, one pass over the whole tile with the same statistics. Samples are weighted so that
together they have the tile's share of every class.

    read = lambda rows, columns: one_hot(mask[rows, columns])  # float32 [1, C, h, w]
    image = draw(ready(network, "bf16", "cpu"), read, mask.shape, window_px=1024)  # uint8 [H, W, 3]

The time is that of the windows with their halos: (1 + 2 halo / window)^2 of one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls
from torch import nn

from factory.nets.inference_layers import InstanceNorm

Read = Callable[[slice, slice], torch.Tensor]
"""Rows and columns of a tile -> its condition map there, float32 [1, C, h, w]; a network's noise is part of it."""

_SAMPLES = 9
"""Largest number of samples of a tile for the frozen statistics; together as large as a window."""

_LEAST_STEPS = 4
"""Strides in the side of a sample: reflection needs two pixels at the smallest size."""

_EVEN = 0.03
"""Weight of equal sample weights in the least squares, against 1 for each channel's mean."""


def draw(
    network: nn.Module, read: Read, size: tuple[int, int], *, window_px: int, out_channels: int = 3
) -> npt.NDArray[np.uint8]:
    """Draw one tile: in one pass if it has at most `window_px`^2 pixels or fits into one window, in windows otherwise.

    Args:
        network: from `drawing.ready`; a `GlobalGenerator`, `ResnetGenerator` or `UNet`, with their receptive
            field (`halo_px`) and the divisor of their sides (`stride`).
        read: gives the condition map of a window; called a few times for each place, in any order.
        size: height and width of the tile, multiples of the stride. out_channels: of the image.
        window_px: side of the windows, without halos. It bounds the memory, and it is part of the result: a tile in
            windows is normalised by statistics of samples, another by its own.

    Returns:
        uint8 [H, W, out_channels].
    """
    stride = cast(int, network.stride)
    if size[0] % stride or size[1] % stride:
        raise ValueError(f"size: expected multiples of {stride}, got {size[0]}x{size[1]}")
    alone = all(len(_windows(network, size, window_px, axis)) == 1 for axis in (0, 1))
    with torch.inference_mode():
        if alone or size[0] * size[1] <= window_px**2:
            whole: npt.NDArray[np.uint8] = to_pixels(_forward(network, read, slice(0, size[0]), slice(0, size[1])))[0]
            return whole
        image: npt.NDArray[np.uint8] = np.empty((*size, out_channels), np.uint8)  # first: it outlives the other arrays
        with frozen_norms(network, read, size, window_px):
            for rows, columns, logits in logits_in_windows(network, read, size, window_px):
                image[rows, columns] = to_pixels(logits)[0]
        return image


def logits_in_windows(
    network: nn.Module, read: Read, size: tuple[int, int], window_px: int
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Rows and columns of every window, and the logits there of a network without norms or with frozen ones."""
    windows = [_windows(network, size, window_px, axis) for axis in (0, 1)]
    for (rows, around_rows), (columns, around_columns) in product(*windows):
        logits = _forward(network, read, around_rows, around_columns)
        yield rows, columns, logits[..., _inside(rows, around_rows), _inside(columns, around_columns)]


@contextmanager
def frozen_norms(network: nn.Module, read: Read, size: tuple[int, int], window_px: int) -> Iterator[None]:
    """A context in which every instance norm uses pooled statistics of samples of the tile instead of its input's own.

    Each norm's statistics are measured on the outputs of the layers before it, over all samples at once.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, InstanceNorm)]
    try:
        if norms:
            step = _step(network, size)
            samples = torch.cat([read(*place) for place in _sample_places(step, size, window_px)])
            weights = _weights(samples.mean((2, 3)), _mean_of_tile(read, size, window_px))
            for norm in norms:
                norm.pooled = weights
            with torch.inference_mode():
                network(samples.to(_device(network)))
            del samples
            for norm in norms:
                norm.pooled = None
        yield
    finally:
        for norm in norms:
            norm.pooled = norm.frozen = None


def _mean_of_tile(read: Read, size: tuple[int, int], window_px: int) -> torch.Tensor:
    """Mean of every channel of the condition map of a whole tile, read piece by piece: float64 [C]."""
    pieces = [[slice(at, min(at + window_px, side)) for at in range(0, side, window_px)] for side in size]
    # Plain numbers: a small tensor of each piece between the large ones would fragment the memory.
    sums = [read(*piece)[0].sum((1, 2)).tolist() for piece in product(*pieces)]
    return torch.tensor(sums, dtype=torch.float64).sum(0) / math.prod(size)


def _weights(samples: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
    """Weights of samples, 0 or more and 1 together, so that their means [N, C] are nearly a tile's [C]: float32 [N]."""
    # Statistics depend mostly on the class, whose shares differ from place to place. Least squares with a small ridge,
    # so that weights without influence stay equal.
    count = len(samples)
    ridge = _EVEN * math.sqrt(count)
    rows = [samples.double().cpu().numpy().T, np.full((1, count), 10.0), ridge * np.eye(count)]
    wanted = [tile.double().numpy(), np.array([10.0]), np.full(count, ridge / count)]
    found, _ = nnls(np.concatenate(rows), np.concatenate(wanted))
    return torch.from_numpy(found / found.sum()).float()


def to_pixels(logits: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Output of a network [N, C, H, W] as an image: tanh, and -1..1 on 0..255, rounded; uint8 [N, H, W, C]."""
    levels = logits.float().tanh().add_(1.0).mul_(127.5).round_().to(torch.uint8)
    pixels: npt.NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _forward(network: nn.Module, read: Read, rows: slice, columns: slice) -> torch.Tensor:
    logits: torch.Tensor = network(read(rows, columns).to(_device(network)))
    return logits


def _device(network: nn.Module) -> torch.device:
    return next(network.buffers()).device


def _step(network: nn.Module, size: tuple[int, int]) -> int:
    """Divisor of the starts of windows: twice the stride where possible."""
    # Layers that take pixels in pairs (`factory.nets.winograd`) then pair and round as in the whole tile.
    stride = cast(int, network.stride)
    return stride if size[0] % (2 * stride) or size[1] % (2 * stride) else 2 * stride


def _windows(network: nn.Module, size: tuple[int, int], window_px: int, axis: int) -> list[tuple[slice, slice]]:
    """Return the part of each window that is kept along an axis, and the window with its halo, all of one length."""
    step, side = _step(network, size), size[axis]
    halo, window = (max(-(-length // step), 1) * step for length in (cast(int, network.halo_px), window_px))
    whole = min(window + 2 * halo, side)
    starts = _starts(side - whole, step, 1 if whole == side else math.ceil((side - 2 * halo) / window))
    cuts = [0, *(start + halo for start in starts[1:]), side]
    return [(slice(*cut), slice(start, start + whole)) for cut, start in zip(pairwise(cuts), starts, strict=True)]


def _inside(kept: slice, around: slice) -> slice:
    return slice(kept.start - around.start, kept.stop - around.start)


def _sample_places(step: int, size: tuple[int, int], window_px: int) -> list[tuple[slice, slice]]:
    """Places of one size, evenly spread over the tile in rows and columns, none twice."""
    part = max(round(window_px / math.sqrt(_SAMPLES) / step), _LEAST_STEPS) * step
    sides = [min(part, side) for side in size]
    most = [math.ceil(side / part) for side, part in zip(size, sides, strict=True)]
    count = min(max(round(math.sqrt(_SAMPLES * size[0] / size[1])), 1), most[0], _SAMPLES)
    counts = (count, min(_SAMPLES // count, most[1]))
    rows, columns = (
        [slice(start, start + part) for start in _starts(side - part, step, count)]
        for side, part, count in zip(size, sides, counts, strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def _starts(room: int, step: int, count: int) -> list[int]:
    """Multiples of the step from 0 to `room`; the middle of it for one."""
    if count == 1:
        return [room // 2 // step * step]
    return [room * index // (count - 1) // step * step for index in range(count)]
