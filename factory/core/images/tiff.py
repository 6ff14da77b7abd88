"""Flat TIFF files, through tifffile."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from factory.core.images.header import Header, UnreadableError, plausible_mpp

# A damaged file is reported with all other problems; tifffile would print its own lines between them.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""Micrometres in an inch and a centimetre, by the values of the tag ResolutionUnit (TIFF 6.0, section 8)."""


def header(path: Path) -> Header:
    """Size and kind of the pixels of the only full-size page; nothing is decoded."""
    with tifffile.TiffFile(path) as file:
        page = _only_page(file)
        axes = page.axes
        if axes not in ("YX", "YXS", "SYX"):
            raise UnreadableError(f"expected one flat image, got axes {axes} of shape {page.shape}")
        return Header(page.imagelength, page.imagewidth, _channels(page), np.dtype(page.dtype), _mpp(page))


def pixels(path: Path) -> npt.NDArray[Any]:
    """[H, W] or [H, W, channels], values as stored."""
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


def _channels(page: Any) -> str:
    if page.axes == "YX":
        return "palette" if page.photometric == tifffile.PHOTOMETRIC.PALETTE else "grey"
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        return "CMYK"
    return {3: "RGB", 4: "RGBA"}.get(page.samplesperpixel, f"{page.samplesperpixel} channels")


def _mpp(page: Any) -> float | None:
    unit = page.tags.get("ResolutionUnit")
    x, y = page.tags.get("XResolution"), page.tags.get("YResolution")
    if unit is None or x is None or y is None or int(unit.value) not in _UM_PER_UNIT:
        return None
    if not all(len(tag.value) == 2 and tag.value[0] and tag.value[1] for tag in (x, y)):
        return None
    um = _UM_PER_UNIT[int(unit.value)]
    return plausible_mpp(um * x.value[1] / x.value[0], um * y.value[1] / y.value[0])
