"""GeoJSON as QuPath writes it (qupath-docs, "Exporting annotations"): coordinates in pixels, classes as properties.

A FeatureCollection, an array of features, or one feature; the origin is the upper left corner of the image. Objects
within others may stand among their properties as ``childObjects``; a class of several parts has ``names``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import IGNORED, Faults, LabelFormat, Outlines, read_json
from factory.core.label_files.shapes import Ring, Shape, ring_of

_CELLS = ("cell", "detection")
_NOT_LABELS = ("tma_core", "root", "tile")


@dataclass(frozen=True)
class Feature:
    """A feature of a file.

    Attributes:
        where: its number, for messages. kind: QuPath's type of object; "annotation" where none is given.
        name: of the object, "" without one. label: name of its class, None without one.
        geometry, nucleus: as in the file; `nucleus` only of cells. instance: its id, of a measurement of that name.
    """

    where: str
    kind: str
    name: str
    label: str | None
    geometry: Any
    nucleus: Any
    instance: int | None = None


class GeoJson(LabelFormat):
    """QuPath (Bankhead et al. 2017), and others that count pixels from the upper left corner."""

    suffixes = (".geojson.gz", ".json.gz", ".geojson", ".json")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By a FeatureCollection or Features, near the start."""
        if not path.name.lower().endswith(".json"):
            return True
        with path.open("rb") as stream:
            return b'"Feature' in stream.read(1 << 16)

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Outlines:
        """Nuclei: cells (their nuclei, where given) and detections, or annotations where there are none of them.

        Regions: annotations. An annotation without a class around cells, or around two or more others, is the area of
        an analysis, and no label.
        """
        features = [feature for feature in features_of(path) if feature.kind not in _NOT_LABELS]
        ignored: list[Feature] = []  # areas to be ignored count beside cells, and lie under them
        if nuclei and any(feature.kind in _CELLS for feature in features):
            ignored = [feature for feature in features if (feature.label or "").lower() in IGNORED]
            features = [feature for feature in features if (feature.label or "").lower() not in IGNORED]
        cells = [feature for feature in features if feature.kind in _CELLS]
        annotations = [feature for feature in features if feature.kind not in _CELLS]
        wanted, other = annotations, cells
        if cells:  # an annotation without a class is where cells were looked for
            annotations = [feature for feature in annotations if feature.label is not None]
            wanted, other = (cells, annotations) if nuclei else (annotations, cells)
        what = "annotations beside cells" if nuclei else "cells beside annotations"
        notes = [f"{len(other)} {what} are left out"] if other else []
        faults, shapes = Faults(), []
        for feature in [*ignored, *wanted]:
            with faults.of(feature.where):
                geometry = feature.nucleus if nuclei and feature.nucleus is not None else feature.geometry
                shapes.append(Shape(feature.label, polygons_of(geometry, size), feature.instance))
        faults.check()
        areas = _around_others(shapes)
        if areas:
            notes.append(f"{len(areas)} annotations without a class, around others, are left out")
        return Outlines(tuple(shape for n, shape in enumerate(shapes) if n not in areas), tuple(notes))


def _around_others(shapes: Sequence[Shape]) -> set[int]:
    """Positions of shapes without a class whose box contains those of two or more others."""
    nameless = [number for number, shape in enumerate(shapes) if shape.label is None and shape.polygons]
    if not nameless:
        return set()
    nowhere = np.full((1, 2), -1.0)
    rings = [np.concatenate([ring for rings in shape.polygons for ring in rings] or [nowhere]) for shape in shapes]
    boxes = shapely.box(*np.array([[*ring.min(0), *ring.max(0)] for ring in rings]).T)
    outer, _ = shapely.STRtree(boxes).query(boxes[nameless], predicate="contains")
    inside = np.bincount(outer, minlength=len(nameless)) - 1  # but for itself
    return {number for number, count in zip(nameless, inside.tolist(), strict=True) if count >= 2}


def features_of(path: Path) -> Iterator[Feature]:
    """All features of a file, each before those within it."""
    document = read_json(path)
    if isinstance(document, dict):
        document = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(document, list):
        raise UnreadableError("expected GeoJSON features, got other JSON. Export it as GeoJSON again")
    waiting, number = document[::-1], 0
    while waiting:
        feature, number = waiting.pop(), number + 1
        found = feature.get("properties") if isinstance(feature, dict) else None
        properties: Mapping[str, Any] = found if isinstance(found, dict) else {}
        kind = properties.get("objectType", properties.get("object_type", "annotation"))
        geometry, nucleus = (
            (feature.get("geometry"), feature.get("nucleusGeometry")) if isinstance(feature, dict) else (None, None)
        )
        kind, name = str(kind).lower(), str(properties.get("name") or "")
        own = (f"annotation {number}", kind, name, _class_of(properties), geometry, nucleus)
        yield Feature(*own, instance=_instance_of(properties))
        inner = properties.get("childObjects")
        waiting += inner[::-1] if isinstance(inner, list) else []


def polygons_of(geometry: Any, size: tuple[int, int]) -> tuple[tuple[Ring, ...], ...]:
    """The polygons of a geometry, each an outline and its holes."""
    kind, found = (geometry.get(key) for key in ("type", "coordinates")) if isinstance(geometry, dict) else (None, None)
    polygons = [found] if kind == "Polygon" else found
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(polygons, list):
        raise UnreadableError(f"expected an area, got {kind or 'no geometry'}. Delete it, or draw an area")
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise UnreadableError(f"expected lists of rings, got {str(polygons)[:60]}. Export it as GeoJSON again")
    rings = (tuple(ring_of(ring, size) for ring in polygon) for polygon in polygons)
    return tuple(polygon for polygon in rings if polygon)


def _instance_of(properties: Mapping[str, Any]) -> int | None:
    """The measurement "Instance", as `factory export` writes it; QuPath may write whole numbers as floats."""
    measurements = properties.get("measurements")
    found = measurements.get("Instance") if isinstance(measurements, dict) else None
    return int(found) if isinstance(found, int | float) and found == found // 1 else None


def _class_of(properties: Mapping[str, Any]) -> str | None:
    """The name of a feature's class, given alone, in an object, or in parts."""
    found = properties.get("classification")
    name = found.get("name", found.get("names")) if isinstance(found, dict) else found
    if isinstance(name, list) and name:
        name = ": ".join(map(str, name))
    return name if isinstance(name, str) and name else None
