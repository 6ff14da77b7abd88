"""Flat image files (PNG, JPEG, JPEG 2000, BMP, TIFF, NPY): size and kind are checked before pixels are decoded.

Decoders are imported on first use. Any exception that one raises on a damaged file becomes an `UnreadableError`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from factory.core.images import orientation
from factory.core.images.resolution import Stated, stated_by_density, stated_by_tiff
from manifests.errors import UserError

MAX_IMAGE_PX = 2**26
"""Pixels of a flat image or label map, decoded in one piece; larger images belong into a tiled slide file."""

LOSSY = (".jpg", ".jpeg", ".jp2")

_REMEDIES = {"grey": "Export it in colour", "RGBA": "Flatten it onto white and export it as RGB"}
_PILLOW_FORMATS = ("PNG", "JPEG", "JPEG2000", "BMP")
_PILLOW_CHANNELS = {
    "1": "grey", "L": "grey", "I": "grey", "I;16": "grey", "I;16B": "grey", "P": "palette", "LA": "grey+alpha",
}  # fmt: skip
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS_OTHERWISE = ("CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV", "CFA", "LINEAR_RAW", "SEPARATED")
"""Photometric interpretations of TIFF whose channels are not red, green and blue, by their names in tifffile."""

_DECODES_YCBCR = ("JPEG", "OJPEG", "JPEGXL", "WEBP")
"""Compressions of TIFF whose decoders turn YCbCr into RGB."""

# Faults of a file are reported together with all others; tifffile would print its own lines between them.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


class UnreadableError(Exception):
    """A file that is damaged, too large or of another kind than its name says; the message is the reason."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn any exception of a reader into an UnreadableError; decoders raise anything on a damaged file."""
    try:
        yield
    except (UnreadableError, UserError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableError(f"expected a readable {what}, got a damaged one ({reason[:120]})") from error


@dataclass(frozen=True)
class Header:
    """Size and kind of the pixels of a flat file.

    Attributes:
        height, width: in pixels, as viewers show the file.
        channels: "RGB", "grey", "palette" or another kind, in words.
        dtype: of one channel, as stored.
        stated: plausible resolutions that the file states. orientation: value of its orientation tag, 1 is upright.
    """

    height: int
    width: int
    channels: str
    dtype: np.dtype
    stated: Stated = ()
    orientation: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UnreadableError(f"expected an image, got {self.height}x{self.width} pixels")

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel where the file states them."""
        return self.stated[0][1] if self.stated else None


def read_header(path: Path) -> Header:
    """Size and kind of a flat file's pixels, without decoding them.

    Raises:
        UnreadableError: for a file that is damaged, too large, or of another kind than its suffix says.
    """
    header = read_any_header(path)
    _check_bound(header)
    return header


def read_any_header(path: Path) -> Header:
    """As `read_header`, of files of any size."""
    header: Header = _guarded(path, 0)
    if orientation.is_turned(header.orientation):
        return replace(header, height=header.width, width=header.height)
    return header


def read_pixels(path: Path) -> npt.NDArray[Any]:
    """Decode a flat file: [H, W] or [H, W, channels], values as stored, turned as viewers show them.

    The size is that of `read_header`, checked against the bound before this allocates.
    """
    header = read_header(path)
    array: npt.NDArray[Any] = orientation.upright(_guarded(path, 1), header.orientation)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.shape[:2] != (header.height, header.width):
        raise UnreadableError(f"expected {header.height}x{header.width} pixels, got {array.shape}: the file is damaged")
    return array


def check_rgb(header: Header) -> None:
    """Check that pixels are colours of 8 bits a channel. Raises an UnreadableError when they are not, with a remedy.

    RGBA passes: whether it is opaque is seen by `read_rgb_pixels`.
    """
    if header.channels not in ("RGB", "RGBA"):
        what = f"{header.channels} ({header.dtype})"
        raise UnreadableError(
            f"expected an 8-bit RGB image, got {what}. {_REMEDIES.get(header.channels, 'Export it as RGB')}"
        )
    if header.dtype != "uint8":
        raise UnreadableError(
            f"expected an 8-bit RGB image, got {header.dtype}. Scale it to 8 bits and export it again"
        )


def read_rgb_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a picture: uint8 [H, W, 3]. Raises an UnreadableError for one that is not 8-bit RGB or is transparent."""
    check_rgb(read_header(path))
    array: npt.NDArray[np.uint8] = read_pixels(path)
    if array.shape[2] == 4:
        if (least := int(array[..., 3].min())) < 255:
            raise UnreadableError(f"expected an opaque image, got RGBA with alpha {least}. {_REMEDIES['RGBA']}")
        array = np.ascontiguousarray(array[..., :3])
    return array


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """A picture that a user names, as uint8 [H, W, 3]."""
    try:
        return read_rgb_pixels(path)
    except UnreadableError as error:
        raise UserError(f"{path}: {str(error).removesuffix('.')}.") from error


def _check_bound(header: Header) -> None:
    if header.height * header.width > MAX_IMAGE_PX:
        raise UnreadableError(
            f"expected at most {MAX_IMAGE_PX:,} pixels, got {header.height}x{header.width}. "
            "Cut it, or ingest it as a tiled slide file"
        )


def _guarded(path: Path, part: int) -> Any:
    """The header (part 0) or the pixels (part 1) of a file, by its suffix."""
    suffix = path.suffix.lower()
    if suffix not in RASTERS:
        raise UnreadableError(f"expected a file of {', '.join(RASTERS)}, got {suffix or 'no suffix'}")
    with reading(f"{suffix.lstrip('.').upper()} file"):
        return RASTERS[suffix][part](path)


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
    _check_bound(header)
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
                stated = stated_by_density(image.info.get("dpi"))
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))  # `getexif` of a PNG would decode its pixels
        except Image.DecompressionBombError as error:
            raise UnreadableError(f"expected at most {MAX_IMAGE_PX:,} pixels, got many more") from error
    turn = orientation.known(exif.get(orientation.TAG))
    return Header(
        height, width, channels, np.dtype("u2" if (_png_depth(path) or _jp2_depth(path)) > 8 else "u1"), stated, turn
    )


def _pillow_pixels(path: Path) -> npt.NDArray[Any]:
    """uint8 [H, W, 3], or uint8 or uint16 [H, W]: values as stored, palette indices for palette files."""
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


def _jp2_depth(path: Path) -> int:
    """Bits per channel in the Image Header box (ISO 15444-1, I.5.3.1); 8 for a file that is no JPEG 2000.

    Pillow opens deeper colours as 8 bits without a warning.
    """
    with path.open("rb") as stream:
        start = stream.read(4096)
    if start[4:8] != b"jP  ":
        return 8
    place = start.find(b"ihdr")
    if place < 0 or len(start) < place + 15:
        raise UnreadableError("expected a JPEG 2000 file with its Image Header box, got a damaged one")
    depth = start[place + 14]
    return 16 if depth == 255 else (depth & 0x7F) + 1  # 255: channels of different depths


def _tiff_header(path: Path) -> Header:
    """Header of the only full-size page of a TIFF."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _only_page(file)
        if page.axes not in ("YX", "YXS", "SYX"):
            raise UnreadableError(f"expected one flat image, got axes {page.axes} of shape {page.shape}")
        turn = page.tags.get(orientation.TAG)
        return Header(
            page.imagelength,
            page.imagewidth,
            _tiff_channels(page),
            np.dtype(page.dtype),
            stated_by_tiff(file, page),
            orientation.known(turn.value if turn is not None else 1),
        )


def _tiff_channels(page: Any) -> str:
    """The kind of a page's channels, in words."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if page.axes == "YX":
        return "palette" if photometric == "PALETTE" else "grey"
    compression = getattr(page.compression, "name", str(page.compression))
    if photometric in _COLOURS_OTHERWISE:
        return "CMYK" if photometric == "SEPARATED" else photometric
    if compression == "APERIO_JP2000_YCBC" or (photometric == "YCBCR" and compression not in _DECODES_YCBCR):
        return "YCbCr"
    if page.bitspersample != 8 * np.dtype(page.dtype).itemsize:
        return f"colours of {page.bitspersample} bits"
    return _colours(page.samplesperpixel)


def _tiff_pixels(path: Path) -> npt.NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _only_page(file)
        array = page.asarray(maxworkers=1)
        return np.moveaxis(array, 0, -1) if page.axes == "SYX" else array


def _only_page(file: Any) -> Any:
    """The first page; reduced copies may follow, further images may not.

    ImageJ and others write large stacks with the header of the first image alone.
    """
    page = file.pages[0]
    full_size = [other for other in file.pages[1:] if not other.is_reduced]
    planes = len(full_size) + 1
    if planes == 1 and (file.is_imagej or file.is_shaped):
        planes = max(1, math.prod(file.series[0].shape) // math.prod(page.shape))
    if planes > 1:
        raise UnreadableError(f"expected one image, got {planes} pages. Save each as a file of its own")
    return page


def _colours(channels: int) -> str:
    return {1: "grey", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")


_Readers = tuple[Callable[[Path], Header], Callable[[Path], npt.NDArray[Any]]]
_PILLOW: _Readers = (_pillow_header, _pillow_pixels)
_TIFF: _Readers = (_tiff_header, _tiff_pixels)

RASTERS: dict[str, _Readers] = {
    ".png": _PILLOW,
    ".jpg": _PILLOW,
    ".jpeg": _PILLOW,
    ".jp2": _PILLOW,
    ".bmp": _PILLOW,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".npy": (_npy_header, _npy_pixels),
}
"""Readers of header and pixels by suffix."""

IMAGE_SUFFIXES = tuple(suffix for suffix in RASTERS if suffix != ".npy")
"""Files of a folder that are taken for pictures where no pattern is given; arrays may hold anything."""
