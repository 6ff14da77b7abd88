"""GeoJSON as QuPath reads and writes it: coordinates in pixels, the class in each feature's `classification`.

The reader of its layout is `factory.core.label_files.geojson`, which `factory ingest` uses too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from factory.annotate.shapes import AnnotationTool, refused
from factory.core.label_files.base import Faults
from factory.core.label_files.geojson import features_of, polygons_of
from factory.core.label_files.shapes import Shape
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
    def read(path: Path, size: tuple[int, int], nuclei: Collection[str] = ()) -> list[Shape]:
        """The shapes of a file that QuPath wrote; of a cell whose class is a nucleus, its `nucleusGeometry`."""
        faults, shapes = Faults(), []
        with refused(path):
            for feature in features_of(path):
                if feature.name == _SWATCH:
                    continue
                is_nucleus = feature.label in nuclei and feature.nucleus is not None
                with faults.of(feature.where):
                    geometry = feature.nucleus if is_nucleus else feature.geometry
                    shapes.append(Shape(feature.label, polygons_of(geometry, size)))
            faults.check()
        return shapes
