"""Twice differentiable resampling for the augmentations of `factory.nets.ada`.

R1 differentiates a discriminator's gradient with respect to images, augmentation included; torch's `grid_sample` can
be differentiated once. It is linear in the image, so its gradient is its transpose, whose gradient is `grid_sample`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
"""Low-pass filter of the symlet with 2 vanishing moments (Daubechies 1992)."""

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Low-pass filter of the symlet with 6 vanishing moments; orthonormal, so that up and down again changes nothing."""

_TAPS = np.array(SYM6) / sum(SYM6)

PHASE = float(_TAPS @ np.arange(len(_TAPS))) - (len(_TAPS) - 1) / 2
"""Shift of the content by `doubled`, in doubled pixels: the filter is only nearly symmetric."""

MARGIN = 5
"""Pixels around a doubled image that `halved` needs beyond those it keeps."""

_REACH = 3
"""Pixels beyond an end that `doubled` reads."""

_BLOCK_PX = 64
_BILINEAR, _REFLECTION = 0, 2
_BANDS = 4


class _Sampled(torch.autograd.Function):
    """An image at the places of a grid, mirrored at its edges."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        return F.grid_sample(image, grid, "bilinear", "reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Scattered.apply(gradient, grid, ctx.shape), None


class _Scattered(torch.autograd.Function):
    """The transpose of `_Sampled`."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, grid: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ctx.save_for_backward(grid)
        unread = gradient.new_zeros(shape)  # only its shape counts
        arguments = (gradient.contiguous(), unread, grid, _BILINEAR, _REFLECTION, False, (True, False))
        found: torch.Tensor = torch.ops.aten.grid_sampler_2d_backward(*arguments)[0]
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sampled.apply(gradient, grid), None, None


def sampled(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """An image [N, C, H, W] at a grid [N, h, w, 2] (see `torch.nn.functional.grid_sample`), no gradient of the grid.

    Bilinear; beyond an edge the image is mirrored at it, repeatedly.
    """
    found: torch.Tensor = _Sampled.apply(image, grid)
    return found


def mirrored(x: torch.Tensor, margin: int) -> torch.Tensor:
    """[..., H, W] with so many pixels around, mirrored at the edges; the margin may be larger than the image."""
    for axis in (-2, -1):
        length = x.shape[axis]
        x = x.index_select(axis, _mirrored(torch.arange(-margin, length + margin), length).to(x.device))
    return x


def _mirrored(places: torch.Tensor, length: int) -> torch.Tensor:
    """Indices of pixels at places, mirrored at the ends."""
    places = places % (2 * length)
    return torch.where(places < length, places, 2 * length - 1 - places)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] at twice the size, low-passed with `SYM6`; beyond its edges it is mirrored."""
    for axis in (2, 3):
        length = x.shape[axis]
        block = _block(length)
        places = _windows(length, block, block + 2 * _REACH) - _REACH
        x = _banded(x, axis, _mirrored(places, length), _doubling(block), 2 * length)
    return x


def halved(x: torch.Tensor) -> torch.Tensor:
    """A doubled image with `MARGIN` pixels around, [N, C, 2 H + 10, 2 W + 10], low-passed, at [N, C, H, W]."""
    for axis in (2, 3):
        length = (x.shape[axis] - 2 * MARGIN) // 2
        block = _block(length)
        places = 2 * _windows(length, block, 1) + torch.arange(2 * (block + MARGIN))
        x = _banded(x, axis, places.clamp(max=x.shape[axis] - 1), _halving(block), length)
    return x


def _block(length: int) -> int:
    """Pixels of a column that one product of matrices resamples: all of a short column, else a block."""
    return length if length <= 2 * _BLOCK_PX else _BLOCK_PX


def _windows(length: int, block: int, width: int) -> torch.Tensor:
    """Places [B, width] from the first of each block on."""
    return torch.arange(0, length, block)[:, None] + torch.arange(width)


def _banded(
    x: torch.Tensor, axis: int, places: torch.Tensor, block: npt.NDArray[np.float64], length: int
) -> torch.Tensor:
    """Multiply windows of [N, C, H, W] along an axis, at places [B, K], by a block [L, K]; join and cut them."""
    # On a CPU this is faster, with its gradient, than strided convolutions of one channel.
    matrix = torch.from_numpy(block).to(x)
    windows = x.index_select(axis, places.flatten().to(x.device))
    windows = windows.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    resampled: torch.Tensor = matrix @ windows if axis == 2 else windows @ matrix.T
    return resampled.flatten(axis, axis + 1).narrow(axis, 0, length)


@lru_cache(maxsize=16)
def _doubling(block: int) -> npt.NDArray[np.float64]:
    """Matrix that doubles L pixels of a column, from three more at either end, [2 L, L + 6]."""
    # Pixel i spreads from 2 i - 5 on, so that it lies in the middle of pixels 2 i and 2 i + 1.
    matrix = np.zeros((2 * block, block + 2 * _REACH))
    source = np.arange(-_REACH, block + _REACH)
    for place, tap in enumerate(_TAPS):
        rows = 2 * source - MARGIN + place
        inside = (rows >= 0) & (rows < 2 * block)
        matrix[rows[inside], source[inside] + _REACH] = 2 * tap
    return matrix


@lru_cache(maxsize=16)
def _halving(block: int) -> npt.NDArray[np.float64]:
    """Matrix that halves a column to L pixels, [L, 2 L + 10]."""
    matrix = np.zeros((block, 2 * (block + MARGIN)))
    rows = np.arange(block)
    for place, tap in enumerate(_TAPS):
        matrix[rows, 2 * rows + place] = tap
    return matrix


def band_filters() -> npt.NDArray[np.float64]:
    """The four octave bands of the paper's image-space filtering, [4, 43]: symmetric filters that sum to a unit pulse.

    Karras et al. 2020 (ADA), Appendix B, after the filter bank of `SYM2`: with H the low-pass filter, each octave is
    split by H(z) H(1/z) / 2 and H(-z) H(-1/z) / 2, whose sum is 1. The first band is the lowest.
    """
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low, high = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(_BANDS, 1)
    for band in range(1, _BANDS):
        spread = np.zeros((_BANDS, 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in spread])
        start = (bank.shape[1] - len(high)) // 2
        bank[band, start : start + len(high)] += high
    return bank


def filtered(x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] filtered in both directions by each image's own symmetric kernel [N, K], K odd."""
    count, channels, height, width = x.shape
    margin = kernels.shape[1] // 2
    planes = mirrored(x, margin).reshape(1, count * channels, height + 2 * margin, width + 2 * margin)
    taps = kernels.to(x).repeat_interleave(channels, 0)[:, None]
    planes = F.conv2d(planes, taps[..., None], groups=count * channels)
    return F.conv2d(planes, taps[..., None, :], groups=count * channels).reshape(x.shape)
