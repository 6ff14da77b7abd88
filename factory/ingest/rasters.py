"""Flat files by suffix: header and pixels, whatever a decoder raises turned into one reason."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy.typing as npt

from factory.ingest import npy, png_jpeg, tiff
from factory.ingest.header import Header, UnreadableError

RASTERS: dict[str, ModuleType] = {
    ".png": png_jpeg,
    ".jpg": png_jpeg,
    ".jpeg": png_jpeg,
    ".tif": tiff,
    ".tiff": tiff,
    ".npy": npy,
}
"""Module that reads a suffix: ``header(path) -> Header`` and ``pixels(path) -> array``."""

LOSSY = (".jpg", ".jpeg")


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


def _guarded(path: Path, what: str) -> Any:
    try:
        return getattr(RASTERS[path.suffix.lower()], what)(path)
    except UnreadableError:
        raise
    except Exception as error:  # decoders raise whatever they meet in a damaged file: SyntaxError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = path.suffix.lstrip(".").upper()
        raise UnreadableError(f"expected a readable {kind} file, got a damaged one ({reason[:120]})") from error
