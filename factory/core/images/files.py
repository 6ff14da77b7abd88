"""Flat image files (PNG, JPEG, TIFF, NPY): size and kind checked before pixels are decoded; for all commands.

Decoders are imported on first use. Any exception that one raises on a damaged file becomes an `UnreadableError`.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from manifests.errors import UserError

MAX_IMAGE_PX = 2**26
"""Pixels of a flat image or label map, decoded in one piece; larger images belong into a tiled slide file."""

LOSSY = (".jpg", ".jpeg")

_PLAUSIBLE_MPP = (0.05, 20.0)
_REMEDIES = {"grey": "Export it in colour", "RGBA": "Flatten it onto white and export it as RGB"}
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP")
_PILLOW_CHANNELS = {
    "1": "grey", "L": "grey", "I": "grey", "I;16": "grey", "I;16B": "grey", "P": "palette", "LA": "grey+alpha",
}  # fmt: skip
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""Micrometres in an inch and a centimetre, by the values of the tag ResolutionUnit (TIFF 6.0, section 8)."""

# Faults of a file are reported together with all others; tifffile would print its own lines between them.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


class UnreadableError(Exception):
    """A file that is damaged, too large or of another kind than its name says; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """Size and kind of the pixels of a flat file.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: "RGB", "grey", "palette" or another kind, in words.
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


def read_header(path: Path) -> Header:
    """Size and kind of a flat file's pixels, without decoding them.

    Raises:
        UnreadableError: for a file that is damaged, too large, or of another kind than its suffix says.
    """
    header: Header = _guarded(path, 0)
    return header


def read_pixels(path: Path) -> npt.NDArray[Any]:
    """Decode a flat file: [H, W] or [H, W, channels], values as stored.

    The size is that of `read_header`, checked against the bound before this allocates.
    """
    header = read_header(path)
    array: npt.NDArray[Any] = _guarded(path, 1)
    if array.shape[:2] != (header.height, header.width):
        raise UnreadableError(f"expected {header.height}x{header.width} pixels, got {array.shape}: the file is damaged")
    return array


def check_rgb(header: Header) -> None:
    """Check that pixels are colours of 8 bits a channel. Raises an UnreadableError when they are not, with a remedy."""
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
    """A picture that a user names, as uint8 [H, W, 3]."""
    try:
        check_rgb(read_header(path))
        return read_pixels(path)
    except UnreadableError as error:
        raise UserError(f"{path}: {error}.") from error


def plausible_mpp(x_um: float, y_um: float) -> float | None:
    """Micrometres per pixel of two axes where they agree and a microscope could have made them, else None."""
    low, high = _PLAUSIBLE_MPP
    if not (low <= x_um <= high and low <= y_um <= high) or abs(x_um - y_um) > 0.05 * x_um:
        return None
    return (x_um + y_um) / 2 if x_um != y_um else x_um


def _guarded(path: Path, part: int) -> Any:
    """The header (part 0) or the pixels (part 1) of a file, by its suffix."""
    suffix = path.suffix.lower()
    if suffix not in RASTERS:
        raise UnreadableError(f"expected a file of {', '.join(RASTERS)}, got {suffix or 'no suffix'}")
    try:
        return RASTERS[suffix][part](path)
    except UnreadableError:
        raise
    except Exception as error:  # decoders raise anything on a damaged file: SyntaxError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = suffix.lstrip(".").upper()
        raise UnreadableError(f"expected a readable {kind} file, got a damaged one ({reason[:120]})") from error


def _npy_header(path: Path) -> Header:
    with path.open("rb") as stream:
        version = npy_format.read_magic(stream)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(stream)
        start = stream.tell()
    if dtype.hasobject or dtype.names or dtype.kind not in "biuf":  # object arrays would be unpickled
        raise UnreadableError(f"expected an array of numbers, got dtype {dtype}")
    if len(shape) not in (2, 3):
        raise UnreadableError(f"expected an array [H, W] or [H, W, 3], got shape {shape}")
    header = Header(shape[0], shape[1], "grey" if len(shape) == 2 else _colours(shape[2]), dtype)
    expected = start + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        raise UnreadableError(f"expected {expected:,} bytes, got {path.stat().st_size:,}: the file is damaged")
    return header


def _npy_pixels(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return array


def _pillow_header(path: Path) -> Header:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Header has the bound
        try:
            with Image.open(path, formats=_PILLOW_FORMATS) as image:
                width, height = image.size
                channels = _PILLOW_CHANNELS.get(image.mode, image.mode)
        except Image.DecompressionBombError as error:
            raise UnreadableError(f"expected at most {MAX_IMAGE_PX:,} pixels, got many more") from error
    return Header(height, width, channels, np.dtype("u2" if _png_depth(path) == 16 else "u1"))


def _pillow_pixels(path: Path) -> npt.NDArray[Any]:
    """uint8 [H, W, 3], or uint8 or uint16 [H, W]: values as stored, palette indices for palette files.

    EXIF orientation is not applied: label maps go with the stored pixels.
    """
    from PIL import Image

    depth = _png_depth(path)
    if depth is not None:
        with Image.open(path, formats=_PILLOW_FORMATS) as image:
            image.verify()  # chunk checksums, which decoding skips
    with Image.open(path, formats=_PILLOW_FORMATS) as image:
        array = np.asarray(image)
        mode = image.mode
    if mode == "1":
        return array.astype(np.uint8)
    if mode == "L" and depth in (2, 4):
        return array // np.uint8(255 // (2**depth - 1))  # Pillow stretches grey values of 2 and 4 bits to 0-255
    return array.astype(np.uint16) if array.dtype.kind in "iu" and depth == 16 else array


def _png_depth(path: Path) -> int | None:
    """Bits per channel in the IHDR chunk (PNG specification, 11.2.2); None for a file that is no PNG.

    Pillow opens RGB of 16 bits as 8 bits without a warning, so the depth is read here.
    """
    with path.open("rb") as stream:
        start = stream.read(26)
    if not start.startswith(_PNG_SIGNATURE):
        return None
    if len(start) < 26 or start[12:16] != b"IHDR":
        raise UnreadableError("expected a PNG that starts with its IHDR chunk, got a damaged one")
    (depth,) = struct.unpack_from("B", start, 24)
    return int(depth)


def _tiff_header(path: Path) -> Header:
    """Header of the only full-size page of a TIFF."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _only_page(file)
        if page.axes not in ("YX", "YXS", "SYX"):
            raise UnreadableError(f"expected one flat image, got axes {page.axes} of shape {page.shape}")
        if page.axes == "YX":
            channels = "palette" if page.photometric == tifffile.PHOTOMETRIC.PALETTE else "grey"
        else:
            is_cmyk = page.photometric == tifffile.PHOTOMETRIC.SEPARATED
            channels = "CMYK" if is_cmyk else _colours(page.samplesperpixel)
        return Header(page.imagelength, page.imagewidth, channels, np.dtype(page.dtype), _tiff_mpp(page))


def _tiff_pixels(path: Path) -> npt.NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _only_page(file)
        array = page.asarray(maxworkers=1)
        return np.moveaxis(array, 0, -1) if page.axes == "SYX" else array


def _only_page(file: Any) -> Any:
    """The first page; reduced copies may follow, further images may not."""
    full_size = [page for page in file.pages[1:] if not page.is_reduced]
    if full_size:
        raise UnreadableError(f"expected one image, got {len(full_size) + 1} pages. Save each as a file of its own")
    return file.pages[0]


def _tiff_mpp(page: Any) -> float | None:
    unit = page.tags.get("ResolutionUnit")
    x, y = page.tags.get("XResolution"), page.tags.get("YResolution")
    if unit is None or x is None or y is None or int(unit.value) not in _UM_PER_UNIT:
        return None
    if not all(len(tag.value) == 2 and tag.value[0] and tag.value[1] for tag in (x, y)):
        return None
    um = _UM_PER_UNIT[int(unit.value)]
    return plausible_mpp(um * x.value[1] / x.value[0], um * y.value[1] / y.value[0])


def _colours(channels: int) -> str:
    return {3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")


_Readers = tuple[Callable[[Path], Header], Callable[[Path], npt.NDArray[Any]]]
_PILLOW: _Readers = (_pillow_header, _pillow_pixels)
_TIFF: _Readers = (_tiff_header, _tiff_pixels)

RASTERS: dict[str, _Readers] = {
    ".png": _PILLOW,
    ".jpg": _PILLOW,
    ".jpeg": _PILLOW,
    ".bmp": _PILLOW,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".npy": (_npy_header, _npy_pixels),
}
"""Readers of header and pixels by suffix."""

IMAGE_SUFFIXES = tuple(suffix for suffix in RASTERS if suffix != ".npy")
"""Files of a folder that are taken for pictures where no pattern is given; arrays may hold anything."""
