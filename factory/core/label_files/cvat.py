"""CVAT's XML ("CVAT for images 1.1"): one file for many images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import (
    Faults,
    LabelFormat,
    Outlines,
    check_size,
    once_per_file,
    read_xml,
    starts_with_root,
)
from factory.core.label_files.shapes import Ring, Shape, ring_of, rings_of

_ELLIPSE_CORNERS = 256
_NO_AREAS = ("polyline", "points", "cuboid", "skeleton")


class Cvat(LabelFormat):
    """Polygons, masks, boxes and ellipses. Those of one label and ``group_id`` are parts of one object."""

    suffixes = (".xml",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its outermost element, which is written small."""
        return starts_with_root(path, "annotations")

    @classmethod
    def stems(cls, path: Path) -> Sequence[str]:
        """Stems of the listed images, whatever folder they stand in."""
        return list(_images(path))

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Outlines:
        """The shapes of an image by ``z_order``, in their order within one."""
        image, faults = _images(path)[stem], Faults()
        check_size((_number(image, "height"), _number(image, "width")), size)
        objects: dict[Any, Shape] = {}
        entries = [entry for entry in image if entry.tag in _AREAS or entry.tag in _NO_AREAS]
        for number, entry in sorted(enumerate(entries, 1), key=lambda pair: int(pair[1].get("z_order") or 0)):
            with faults.of(f"{entry.tag} {number} of {stem}"):
                if entry.tag in _NO_AREAS:
                    raise UnreadableError("expected an area. Delete it, or draw an area")
                label, group = entry.get("label"), entry.get("group_id")
                key = number if group in (None, "0") else (label, group)
                before = objects[key].polygons if key in objects else ()
                objects[key] = Shape(label, before + _AREAS[entry.tag](entry, size))
        faults.check()
        return Outlines(tuple(objects.values()))


@once_per_file
def _images(path: Path) -> Mapping[str, Any]:
    """Elements of images by stem."""
    found = {}
    for image in read_xml(path, "annotations").iter("image"):
        stem = PurePosixPath((image.get("name") or "").replace("\\", "/")).stem
        if stem in found:
            raise UnreadableError(f"expected names of images that differ without folder and suffix, got {stem} twice")
        found[stem] = image
    return found


def _number(entry: Any, key: str) -> int:
    try:
        return int(entry.get(key))
    except (TypeError, ValueError) as error:
        raise UnreadableError(f"expected a whole number in {key}, got {entry.get(key)!r}") from error


def _numbers(entry: Any, *keys: str) -> list[float]:
    try:
        return [float(entry.get(key)) for key in keys]
    except (TypeError, ValueError) as error:
        raise UnreadableError(f"expected numbers in {', '.join(keys)}, got {dict(entry.attrib)}") from error


_Polygons = tuple[tuple[Ring, ...], ...]


def _polygon(entry: Any, size: tuple[int, int]) -> _Polygons:
    points = [pair.split(",") for pair in (entry.get("points") or "").split(";")]
    return ((ring_of(points, size),),)


def _box(entry: Any, size: tuple[int, int]) -> _Polygons:
    x0, y0, x1, y1 = _numbers(entry, "xtl", "ytl", "xbr", "ybr")
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return ((ring_of(_turned(corners, entry), size),),)


def _ellipse(entry: Any, size: tuple[int, int]) -> _Polygons:
    x, y, rx, ry = _numbers(entry, "cx", "cy", "rx", "ry")
    turns = 2 * np.pi * np.arange(_ELLIPSE_CORNERS) / _ELLIPSE_CORNERS
    corners = np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], 1)
    return ((ring_of(_turned(corners, entry), size),),)


def _turned(corners: Ring, entry: Any) -> Ring:
    """Corners turned about their centre by ``rotation``, clockwise on the screen, in degrees."""
    angle, centre = np.deg2rad(float(entry.get("rotation") or 0)), (corners.min(0) + corners.max(0)) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return centre + (corners - centre) @ turn.T if angle else corners


def _mask(entry: Any, size: tuple[int, int]) -> _Polygons:
    """Run lengths, row by row within a box, background first."""
    left, top, width, height = (_number(entry, key) for key in ("left", "top", "width", "height"))
    try:
        runs = [int(count) for count in (entry.get("rle") or "").split(",")]
    except ValueError as error:
        raise UnreadableError(f"expected run lengths, got {str(entry.get('rle'))[:40]}") from error
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        raise UnreadableError(f"expected a mask within the image of {size[0]}x{size[1]}, got one beyond it")
    if min(runs) < 0 or sum(runs) != width * height:
        raise UnreadableError(f"expected run lengths of {width * height} pixels, got {sum(runs)}")
    inside = np.arange(len(runs)) % 2 == 1
    return rings_of(np.repeat(inside, runs).reshape(height, width), np.array([left, top], np.float64))


_AREAS: dict[str, Callable[[Any, tuple[int, int]], _Polygons]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}
