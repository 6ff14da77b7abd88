"""Masks in colours: RGB images in which every colour is a class; read only where asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from factory.core.images.files import LOSSY, UnreadableError, check_rgb, read_header, read_pixels
from factory.core.label_files.base import LabelFormat, RegionMap, check_size

_MOST = 256


class Colours(LabelFormat):
    """The name of a class is its colour, ``#rrggbb``; the scheme's own colours are known. Exact colours alone count."""

    suffixes = (".png", ".bmp", ".tiff", ".tif", ".jpg", ".jpeg")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Never: it could as well be the image."""
        return False

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> RegionMap:
        """Classes of pixels, the most frequent colour first."""
        if path.suffix.lower() in LOSSY:
            raise UnreadableError("expected colours without loss, got JPEG, which changes them. Export PNG")
        header = read_header(path)
        check_rgb(header)
        check_size((header.height, header.width), size)
        red, green, blue = np.moveaxis(read_pixels(path).astype(np.int64), -1, 0)
        colours, index, counts = np.unique((red << 16) + (green << 8) + blue, return_inverse=True, return_counts=True)
        if len(colours) > _MOST:
            raise UnreadableError(
                f"expected at most {_MOST} colours, got {len(colours)}: edges are smoothed, or it is a photograph. "
                "Export it without smoothing"
            )
        order = np.argsort(-counts, kind="stable")
        names = tuple(f"#{int(colours[number]):06x}" for number in order)
        return RegionMap(np.argsort(order, kind="stable")[index].reshape(size), names)
