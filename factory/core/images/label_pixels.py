"""Label maps as pixels: what is read as one, and whole numbers whatever type a program saved them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import LOSSY, Header, UnreadableError, read_header, read_pixels

_EXACT_TIFF = {"NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "LZMA", "ZSTD", "CCITTRLE", "CCITTFAX4"}
"""Compressions of TIFF that cannot change a label, by their names in `tifffile.COMPRESSION`."""


def read_label_header(path: Path) -> Header:
    """The header of a label map, without decoding it.

    Raises:
        UnreadableError: for a file that is damaged, too large, compressed with loss, or has more than one channel.
    """
    suffix = path.suffix.lower()
    if suffix in LOSSY:
        kind = "JPEG 2000" if suffix == ".jp2" else "JPEG"
        raise UnreadableError(
            f"expected labels in PNG, TIFF, BMP or NPY, got {kind}, which changes labels. Export them again"
        )
    header = read_header(path)
    if header.channels not in ("grey", "palette"):
        raise UnreadableError(
            f"expected a label map with one channel, got {header.channels} ({header.dtype}). "
            "Colours are no labels: export the ids"
        )
    if header.dtype.kind not in "biuf":
        raise UnreadableError(f"expected whole numbers as labels, got {header.dtype}. Save the ids in an integer type")
    if suffix in (".tif", ".tiff"):
        _check_compression(path)
    return header


def read_label_pixels(path: Path) -> npt.NDArray[Any]:
    """A label map [H, W] of an integer type or bool: as stored, or int32 or int64 where it is of whole float numbers.

    Raises:
        UnreadableError: as `read_label_header`, and for fractions, NaN, or numbers that a float type rounds.
    """
    header = read_label_header(path)
    array = read_pixels(path)
    if header.dtype.kind != "f":
        return array
    exact = 2 ** (np.finfo(array.dtype).nmant + 1)
    if not np.isfinite(array).all() or not (array == np.rint(array)).all():
        odd = array[~np.isfinite(array) | (array != np.rint(array))].flat[0]
        raise UnreadableError(f"expected whole numbers as labels, got {odd:g} ({array.dtype}). Export the ids")
    if (largest := float(np.abs(array).max())) >= exact:
        raise UnreadableError(
            f"expected ids below {exact:,} in {array.dtype}, which rounds larger ones, got {largest:,.0f}. "
            "Save the ids in an integer type"
        )
    return array.astype(np.int32 if largest < 2**31 else np.int64)


def _check_compression(path: Path) -> None:
    import tifffile

    with tifffile.TiffFile(path) as file:
        compression = file.pages[0].compression
    name = getattr(compression, "name", str(compression))
    if name not in _EXACT_TIFF:
        raise UnreadableError(
            f"expected compression without loss, got {name}, which may change labels. Save it with deflate or LZW"
        )
