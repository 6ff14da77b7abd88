"""PNG and JPEG files, through Pillow."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from factory.core.images.header import MAX_IMAGE_PX, Header, UnreadableError

_FORMATS = ("PNG", "JPEG")
_CHANNELS = {"1": "grey", "L": "grey", "I": "grey", "I;16": "grey", "I;16B": "grey", "P": "palette", "LA": "grey+alpha"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def header(path: Path) -> Header:
    """Size and kind of the pixels; nothing is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Header has the bound
        try:
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
                channels = _CHANNELS.get(image.mode, image.mode)
        except Image.DecompressionBombError as error:
            raise UnreadableError(f"expected at most {MAX_IMAGE_PX:,} pixels, got many more") from error
    return Header(height, width, channels, np.dtype("u2" if _png_depth(path) == 16 else "u1"))


def pixels(path: Path) -> npt.NDArray[Any]:
    """uint8 [H, W, 3], or uint8 or uint16 [H, W]: values as stored, palette indices for palette files.

    EXIF orientation is not applied: label maps go with the stored pixels.
    """
    depth = _png_depth(path)
    if depth is not None:
        with Image.open(path, formats=_FORMATS) as image:
            image.verify()  # chunk checksums, which decoding skips
    with Image.open(path, formats=_FORMATS) as image:
        array = np.asarray(image)
        mode = image.mode
    if mode == "1":
        return array.astype(np.uint8)
    if mode == "L" and depth in (2, 4):
        return array // np.uint8(255 // (2**depth - 1))  # Pillow stretches grey values of 2 and 4 bits to 0-255
    return array.astype(np.uint16) if array.dtype.kind in "iu" and depth == 16 else array


def _png_depth(path: Path) -> int | None:
    """Bits per channel in the IHDR chunk (PNG specification, 11.2.2); None for a file that is no PNG.

    Pillow opens RGB of 16 bits as 8 bits without a word, so the depth is read here.
    """
    with path.open("rb") as stream:
        start = stream.read(26)
    if not start.startswith(_PNG_SIGNATURE):
        return None
    if len(start) < 26 or start[12:16] != b"IHDR":
        raise UnreadableError("expected a PNG that starts with its IHDR chunk, got a damaged one")
    (depth,) = struct.unpack_from("B", start, 24)
    return int(depth)
