"""What a file says of itself before its pixels are decoded, and the bound that holds for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_IMAGE_PX = 2**26
"""Pixels of a flat image or label map, decoded in one piece; larger images belong into a tiled slide file."""

_PLAUSIBLE_MPP = (0.05, 20.0)


class UnreadableError(Exception):
    """A file that is damaged, too large or of another kind than its name says; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """Size and kind of the pixels of a flat file.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: "RGB", "grey", "palette" or whatever else the file holds, in words.
        dtype: of one channel, as stored.
        mpp: micrometres per pixel where the file states a plausible one.
    """

    height: int
    width: int
    channels: str
    dtype: np.dtype
    mpp: float | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UnreadableError(f"expected an image, got {self.height}x{self.width} pixels")
        if self.height * self.width > MAX_IMAGE_PX:
            raise UnreadableError(
                f"expected at most {MAX_IMAGE_PX:,} pixels, got {self.height}x{self.width}. "
                "Cut it, or ingest it as a tiled slide file"
            )


def plausible_mpp(x_um: float, y_um: float) -> float | None:
    """Micrometres per pixel of two axes where they agree and a microscope could have made them, else None."""
    low, high = _PLAUSIBLE_MPP
    if not (low <= x_um <= high and low <= y_um <= high) or abs(x_um - y_um) > 0.05 * x_um:
        return None
    return (x_um + y_um) / 2 if x_um != y_um else x_um
