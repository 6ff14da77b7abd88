"""The reader of an image file: as a whole, or as a slide. One rule for everything that reads images.

A file that OpenSlide opens is not always one whose pixels it shows as they are: it turns every TIFF into 8-bit RGB, so
16 bits, grey values or one page a channel would come out as other colours without a word. A TIFF is a slide only where
a flat file of the same kind would be read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import openslide

from factory.core.images.files import (
    MAX_IMAGE_PX,
    Header,
    UnreadableError,
    check_rgb,
    read_any_header,
    read_header,
    read_rgb_pixels,
)  # fmt: skip
from factory.core.images.slides import SLIDES, SlideHeader, read_slide_header

_TIFF = (".tif", ".tiff")
_GENERIC = "generic-tiff"


def read_picture_header(path: Path) -> Header | SlideHeader:
    """Size and resolution of an image: a `SlideHeader` where it is read region by region, else a `Header`.

    Slides are files with the suffix of one, and TIFF files that OpenSlide knows if they have several levels, or too
    many pixels to be read at once. Little is decoded: of RGBA all, to see that it is opaque.

    Raises:
        UnreadableError: for what is damaged, is not 8-bit RGB, or is a slide with an orientation other than upright.
    """
    if not is_utf8(path):
        raise UnreadableError("expected a name in UTF-8, got another encoding. Rename the file")
    if path.suffix.lower() in SLIDES:
        slide = read_slide_header(path)
        _check_slide_pixels(path)
        return slide
    known = openslide.OpenSlide.detect_format(path) if path.suffix.lower() in _TIFF and path.is_file() else None
    if known is not None:
        tiled = _tiled_tiff(path, is_generic=known == _GENERIC)
        if tiled is not None:
            return tiled
    header = read_header(path)
    check_rgb(header)
    if header.channels == "RGBA":
        read_rgb_pixels(path)
    return header


def is_utf8(path: Path) -> bool:
    """Whether a name is UTF-8, as it must be in a manifest; Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def _tiled_tiff(path: Path, *, is_generic: bool) -> SlideHeader | None:
    """The header of a TIFF that is a slide; None for one that is read as a flat file."""
    try:
        flat = read_any_header(path)
    except UnreadableError:
        if is_generic:
            raise
        _check_slide_pixels(path)  # a scanner's file, with pages for its label and overview
        return read_slide_header(path)
    slide = read_slide_header(path)
    if len(slide.sizes) == 1 and flat.height * flat.width <= MAX_IMAGE_PX:
        return None
    check_rgb(flat)
    if flat.channels != "RGB":
        raise UnreadableError(f"expected a slide in 8-bit RGB, got {flat.channels}. Export it as RGB")
    if flat.orientation != 1:
        raise UnreadableError(f"expected an upright slide, got orientation {flat.orientation}. Export it again, turned")
    return replace(slide, stated=flat.stated or slide.stated)


def _check_slide_pixels(path: Path) -> None:
    """Refuse a scanner's TIFF whose largest page is not 8-bit RGB, as those of fluorescence are."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = max(file.pages, key=lambda page: page.imagelength * page.imagewidth)
            found = page.samplesperpixel, page.bitspersample
    except Exception:  # no TIFF, as MRXS, or one that only OpenSlide reads: its word counts
        return
    if found != (3, 8):
        raise UnreadableError(
            f"expected a slide in 8-bit RGB, got {found[0]} channels of {found[1]} bits. Export it in colour"
        )
