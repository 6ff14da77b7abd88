"""XML of Aperio ImageScope, as MoNuSeg (Kumar et al. 2020) and MoNuSAC (Verma et al. 2021) use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import Faults, LabelFormat, Outlines, read_xml, starts_with_root
from factory.core.label_files.shapes import Shape, ring_of

_AREAS = ("0", "1", "2")
"""Types of regions: freehand, rectangle, ellipse. Others are arrows, rulers and pins."""

_ELLIPSE, _ELLIPSE_CORNERS = "2", 256


class ImageScope(LabelFormat):
    """Layers (``Annotation``) of regions. One with ``NegativeROA`` is a hole in the region of its layer around it."""

    suffixes = (".xml",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its outermost element."""
        return starts_with_root(path, "Annotations")

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Outlines:
        """Regions in the order of their layers. The layer's name is their class, else its attribute's (MoNuSAC)."""
        faults, others, number = Faults(), 0, 0
        shapes: list[Shape] = []
        for layer in read_xml(path, "Annotations").iter("Annotation"):
            label, first, holes = _class_of(layer), len(shapes), []
            for region in layer.iter("Region"):
                number += 1
                if region.get("Type", "0") not in _AREAS:
                    others += 1
                    continue
                with faults.of(f"region {number}"):
                    ring = ring_of(list(_corners(region)), size)
                    if region.get("NegativeROA", "0") == "1":
                        holes.append((number, ring))
                    else:
                        shapes.append(Shape(label, ((ring,),)))
            for hole, ring in holes:
                with faults.of(f"region {hole}"):
                    around = _around(shapes, first, ring)
                    shapes[around] = Shape(label, ((*shapes[around].polygons[0], ring),))
        faults.check()
        return Outlines(tuple(shapes), (f"{others} arrows, rulers or pins are left out",) if others else ())


def _class_of(layer: Any) -> str | None:
    """Name of a layer, else the value of its Description, else the name of its attribute."""
    attributes = [
        (entry.get("Name") or "", entry.get("Value") or "") for entry in layer.iterfind("Attributes/Attribute")
    ]
    named = [layer.get("Name") or ""]
    named += [value if name == "Description" else name for name, value in attributes]
    return next((name for name in named if name), None)


def _corners(region: Any) -> Iterator[tuple[Any, Any]]:
    corners = [(vertex.get("X"), vertex.get("Y")) for vertex in region.iter("Vertex")]
    if region.get("Type") != _ELLIPSE:
        yield from corners
        return
    try:
        ends = np.array(corners, np.float64)
        (x0, y0), (x1, y1) = ends.min(0), ends.max(0)
    except ValueError as error:
        raise UnreadableError(f"expected corners of an ellipse, got {str(corners)[:60]}") from error
    for turn in 2 * np.pi * np.arange(_ELLIPSE_CORNERS) / _ELLIPSE_CORNERS:
        yield (x0 + x1 + (x1 - x0) * np.cos(turn)) / 2, (y0 + y1 + (y1 - y0) * np.sin(turn)) / 2


def _around(shapes: list[Shape], first: int, ring: Any) -> int:
    """Position of the last region of a layer, from `first` on, that a hole lies in."""
    point = shapely.make_valid(shapely.Polygon(ring)).representative_point()
    for position in range(len(shapes) - 1, first - 1, -1):
        if shapely.make_valid(shapely.Polygon(shapes[position].polygons[0][0])).contains(point):
            return position
    raise UnreadableError("expected a region around this negative one in its layer, got none. Delete it")
