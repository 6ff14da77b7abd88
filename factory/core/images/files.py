"""Flat files by suffix: header and pixels, whatever a decoder raises turned into one reason."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.header import Header, UnreadableError
from manifests.errors import UserError

RASTERS: dict[str, str] = {
    ".png": "factory.core.images.png_jpeg",
    ".jpg": "factory.core.images.png_jpeg",
    ".jpeg": "factory.core.images.png_jpeg",
    ".tif": "factory.core.images.tiff",
    ".tiff": "factory.core.images.tiff",
    ".npy": "factory.core.images.npy",
}
"""Module that reads a suffix, imported on first use: ``header(path) -> Header`` and ``pixels(path) -> array``."""

LOSSY = (".jpg", ".jpeg")

IMAGE_SUFFIXES = tuple(suffix for suffix in RASTERS if suffix != ".npy")
"""Files of a folder that are taken for pictures where nobody says which; arrays may be anything."""

_REMEDIES = {"grey": "Export it in colour", "RGBA": "Flatten it onto white and export it as RGB"}


def read_header(path: Path) -> Header:
    """Size and kind of a flat file's pixels, without decoding them.

    Raises:
        UnreadableError: for a file that is damaged, too large, or not what its suffix says.
    """
    header: Header = _guarded(path, "header")
    return header


def read_pixels(path: Path) -> npt.NDArray[Any]:
    """Decode a flat file: [H, W] or [H, W, channels], values as stored.

    The size is that of `read_header`, checked against the bound before this allocates.

    Raises:
        UnreadableError: for a damaged file.
    """
    header = read_header(path)
    array: npt.NDArray[Any] = _guarded(path, "pixels")
    if array.shape[:2] != (header.height, header.width):
        raise UnreadableError(f"expected {header.height}x{header.width} pixels, got {array.shape}: the file is damaged")
    return array


def check_rgb(header: Header) -> None:
    """Whether pixels are colours of 8 bits a channel.

    Raises:
        UnreadableError: when they are not, with what to do.
    """
    if header.channels != "RGB":
        what = f"{header.channels} ({header.dtype})"
        raise UnreadableError(
            f"expected an 8-bit RGB image, got {what}. {_REMEDIES.get(header.channels, 'Export it as RGB')}"
        )
    if header.dtype != "uint8":
        raise UnreadableError(
            f"expected an 8-bit RGB image, got {header.dtype}. Scale it to 8 bits and export it again"
        )


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """A picture that a user names, as uint8 [H, W, 3].

    Raises:
        UserError: when it cannot be read, is too large, or is not 8-bit RGB.
    """
    try:
        check_rgb(read_header(path))
        return read_pixels(path)
    except UnreadableError as error:
        raise UserError(f"{path}: {error}.") from error


def _guarded(path: Path, what: str) -> Any:
    suffix = path.suffix.lower()
    if suffix not in RASTERS:
        raise UnreadableError(f"expected a file of {', '.join(RASTERS)}, got {suffix or 'no suffix'}")
    read = getattr(import_module(RASTERS[suffix]), what)
    try:
        return read(path)
    except UnreadableError:
        raise
    except Exception as error:  # decoders raise whatever they meet in a damaged file: SyntaxError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = suffix.lstrip(".").upper()
        raise UnreadableError(f"expected a readable {kind} file, got a damaged one ({reason[:120]})") from error
