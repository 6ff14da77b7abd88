"""The orientation tag of EXIF and TIFF: pixels are always turned as viewers show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

TAG = 0x0112
"""The tag, of one number in EXIF and TIFF (TIFF 6.0, section 8)."""

Pixels = npt.NDArray[Any]
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def known(value: Any) -> int:
    """The value of a tag; 1, upright, for those that mean nothing."""
    return value if value in _TURNS else 1


def is_turned(orientation: int) -> bool:
    """Whether height and width change places."""
    return orientation >= 5


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels [H, W, ...] as viewers show them."""
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels
