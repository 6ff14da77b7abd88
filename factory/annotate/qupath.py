"""GeoJSON as QuPath reads and writes it: coordinates in pixels, the class in each feature's `classification`.

The layout is that of QuPath's own export (qupath-docs, "Exporting annotations"): a FeatureCollection, an array of
features, or one feature, the origin in the upper left corner of the image. Objects within others stand among their
properties as ``childObjects``; a class of several parts has ``names``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from factory.annotate.shapes import AnnotationTool, Shape, read_json, ring_of
from manifests.errors import UserError
from manifests.labels import LabelScheme

_SWATCH = "swatch"
"""Name of an annotation that only brings its class along. QuPath keeps names, so it is known when it comes back."""

_SWATCH_PX = 12


class QuPath(AnnotationTool):
    """QuPath (Bankhead et al. 2017)."""

    suffix = ".geojson"

    @staticmethod
    def skeleton(name: str, size: tuple[int, int], mark: Mapping[str, Any]) -> dict[str, Any]:
        """A file without annotations."""
        del name, size
        return {"type": "FeatureCollection", "pathology_tiles": dict(mark), "features": []}

    @staticmethod
    def beside(scheme: LabelScheme) -> dict[str, str]:
        """A swatch of every class: dropped onto an image it brings names and colours along; never read as a label."""
        features = []
        for label in scheme.classes:
            x0, x1 = label.id * _SWATCH_PX, (label.id + 1) * _SWATCH_PX
            ring = [[x0, 0], [x1, 0], [x1, _SWATCH_PX], [x0, _SWATCH_PX], [x0, 0]]
            classification = {"name": label.name, "color": list(label.colour)}
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [ring]},
                    "properties": {"objectType": "annotation", "name": _SWATCH, "classification": classification},
                }
            )
        return {"classes.geojson": json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"}

    @staticmethod
    def read(path: Path, size: tuple[int, int]) -> list[Shape]:
        """The shapes of a file that QuPath wrote."""
        shapes = []
        for number, feature in enumerate(_features(read_json(path), path), 1):
            where = f"{path}: annotation {number}"
            if _properties(feature).get("name") == _SWATCH:
                continue
            polygons = _polygons(feature, where)
            rings = (tuple(ring_of(ring, size, where) for ring in polygon) for polygon in polygons)
            shapes.append(Shape(_class_of(feature, where), tuple(polygon for polygon in rings if polygon)))
        return shapes


def _features(document: Any, path: Path) -> Iterator[Any]:
    """All features, each before those within it."""
    if isinstance(document, dict):
        document = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(document, list):
        raise UserError(f"{path}: expected GeoJSON features, got other JSON. Export it as GeoJSON again.")
    waiting = document[::-1]
    while waiting:
        feature = waiting.pop()
        yield feature
        inner = _properties(feature).get("childObjects")
        waiting += inner[::-1] if isinstance(inner, list) else []


def _properties(feature: Any) -> Mapping[str, Any]:
    found = feature.get("properties") if isinstance(feature, dict) else None
    return found if isinstance(found, dict) else {}


def _polygons(feature: Any, where: str) -> list[list[Any]]:
    """The polygons of a feature, each a list of rings."""
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    kind, found = (geometry.get(key) for key in ("type", "coordinates")) if isinstance(geometry, dict) else (None, None)
    polygons = [found] if kind == "Polygon" else found
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(polygons, list):
        raise UserError(f"{where}: expected an area, got {kind or 'no geometry'}. Delete it, or draw an area.")
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise UserError(f"{where}: expected lists of rings, got {str(polygons)[:60]}. Export it as GeoJSON again.")
    return polygons


def _class_of(feature: Any, where: str) -> str:
    """The name of a feature's class, given alone, in an object, or in parts."""
    found = _properties(feature).get("classification")
    name = found.get("name", found.get("names")) if isinstance(found, dict) else found
    if isinstance(name, list) and name:
        name = ": ".join(map(str, name))
    if not isinstance(name, str):
        raise UserError(f"{where}: expected an annotation with a class, got one without. Set its class, or delete it.")
    return name
