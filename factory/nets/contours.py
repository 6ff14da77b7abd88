"""Losses of Sharp-GAN and Enhanced Sharp-GAN on the contours of nuclei in a generated image.

Each term is a mean over the contour pixels of a sum over their eight neighbours ("Enhanced Sharp-GAN", Eqs. 4 to 7,
with the -1 of Eq. 6 read as inside the sum, negative exponents, and dist 1 or sqrt 2), for grey levels float [N, H, W]
in 0..1 and contours bool [N, H, W]. Neighbours beyond the border do not count. Without contour pixels a term is 0.

The term of a pair of neighbours is the same from either side, so four shifts of the image cover all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import EllipsisType

import torch

Added = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Is one contour, is the other, difference of their grey levels, distance -> terms of both sides."""

_Places = tuple[EllipsisType, slice, slice]
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def grey_of(images: torch.Tensor) -> torch.Tensor:
    """Grey levels 0..1 of images in -1..1: [N, 3, H, W] -> [N, H, W], 0.299 R + 0.587 G + 0.114 B."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue + 1) / 2


def smoothness(grey: torch.Tensor, contours: torch.Tensor, levels: float = 1.0) -> torch.Tensor:
    """L_s1, Eqs. 4 and 6: small where neighbouring contour pixels are alike; from 0 to 8 tanh(1 / (2 levels^2)).

    Differs from Eq. 6, which has `levels` = 1, in their division by `levels`. Grey levels in 0..1 make the gradient of
    Eq. 6 up to 1 / lambda^2 times smaller than that of `contrast`; with `levels` = lambda they are alike.
    """
    # 2 / (1 + exp(-d^2)) - 1 = tanh(d^2 / 2)

    def added(a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, dist: float) -> torch.Tensor:
        del dist
        return 2 * torch.where(a & b, torch.tanh(d.square() / (2 * levels * levels)), 0)

    return _over_contours(grey, contours, added)


def contrast(grey: torch.Tensor, contours: torch.Tensor, levels: float) -> torch.Tensor:
    """L_s2, Eqs. 5 and 7: small where contour pixels differ from neighbours off the contour; `levels` is lambda."""

    def added(a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, dist: float) -> torch.Tensor:
        return torch.where(a ^ b, _likeness(d, levels, dist), 0)

    return _over_contours(grey, contours, added)


def sharpness(grey: torch.Tensor, contours: torch.Tensor, levels: float) -> torch.Tensor:
    """The sharpness loss of Sharp-GAN (Butte et al. 2022): as `contrast`, over all eight neighbours alike."""

    def added(a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, dist: float) -> torch.Tensor:
        return (a.to(d.dtype) + b.to(d.dtype)) * _likeness(d, levels, dist)

    return _over_contours(grey, contours, added)


def _likeness(difference: torch.Tensor, levels: float, dist: float) -> torch.Tensor:
    return torch.exp(-difference.square() / (2 * levels * levels)) / dist


def _over_contours(grey: torch.Tensor, contours: torch.Tensor, added: Added) -> torch.Tensor:
    """Mean over contour pixels of the terms of all pairs of neighbours, see `Added`."""
    total = grey.new_zeros(())
    for one, other, dist in _pairs():
        total = total + added(contours[one], contours[other], grey[one] - grey[other], dist).sum()
    return total / contours.sum().clamp(min=1)


def _pairs() -> Iterator[tuple[_Places, _Places, float]]:
    """Slices that pair every pixel with a neighbour, each pair once, and their distance."""
    for down, right in _SHIFTS:
        (upper, lower), (left, rightward) = _beside(down), _beside(abs(right))
        if right < 0:
            left, rightward = rightward, left
        yield (..., upper, left), (..., lower, rightward), math.hypot(down, right)


def _beside(step: int) -> tuple[slice, slice]:
    """Slices of an axis whose pixels lie `step` (0 or 1) apart, the first before the second."""
    return slice(None, -step or None), slice(step, None)
