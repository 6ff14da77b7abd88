"""GeoJSON for QuPath: one polygon per nucleus or region, in pixels of the full resolution.

The layout is that of QuPath's own export (qupath-docs, "Exporting annotations"): a FeatureCollection whose features
have `objectType`, `classification` (name and colour) and `measurements` among their properties, with the origin in the
upper left corner of the full-resolution image. QuPath shows a slide that states its bounds (`openslide.bounds-x`) from
their corner on, so coordinates count from there. Outlines follow pixel edges: a polygon covers exactly its pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.outlines import polygons
from manifests.files import publish, temporary_beside
from manifests.labels import LabelClass, LabelScheme
from segment.predict.scaling import Scaling
from segment.predict.stitching import Block, Box


def write_geojson(
    path: Path,
    blocks: Iterable[Block],
    scaling: Scaling,
    scheme: LabelScheme,
    mark: Mapping[str, Any],
    origin: tuple[int, int] = (0, 0),
) -> int:
    """Write every nucleus, or every region of a scheme without nuclei; returns their number.

    Coordinates count from `origin`, (x, y) in pixels of the full resolution; the file states it. Regions are cut at the
    edges of blocks; regions of air are left out. Features are written one by one, so memory does not grow with their
    number. The file appears when it is complete.
    """
    temporary = temporary_beside(path)
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            head = json.dumps({"type": "FeatureCollection", "segment": {**mark, "origin": list(origin)}})
            stream.write(head.removesuffix("}") + ', "features": [')
            for block in blocks:
                for feature in _features(block, scaling, scheme, origin):
                    stream.write(",\n" if count else "\n")
                    stream.write(json.dumps(feature, separators=(",", ":")))
                    count += 1
            stream.write("\n]}\n")
            stream.flush()
            os.fsync(stream.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _features(block: Block, scaling: Scaling, scheme: LabelScheme, origin: tuple[int, int]) -> Iterator[dict[str, Any]]:
    if scheme.ids("nucleus"):
        for nucleus in block.nuclei:
            geometry = _geometry(nucleus.mask, nucleus.box, scaling, origin)
            area_px = int(np.count_nonzero(nucleus.mask))
            yield _feature("detection", geometry, scheme.classes[nucleus.label], nucleus.probability, area_px, scaling)
        return
    for label in sorted(set(np.unique(block.background).tolist()) - set(scheme.ids("air"))):
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(
            (block.background == label).astype(np.uint8), connectivity=4
        )
        for number, (left, top, width, height, _) in enumerate(stats[1:].tolist(), 1):
            part = np.s_[top : top + height, left : left + width]
            mask = pieces[part] == number
            y, x = block.box.top + top, block.box.left + left
            probability = float(block.confidence[part][mask].mean())
            geometry = _geometry(mask, Box(y, y + height, x, x + width), scaling, origin)
            area_px = int(np.count_nonzero(mask))
            yield _feature("annotation", geometry, scheme.classes[label], probability, area_px, scaling)


def _feature(
    kind: str, geometry: dict[str, Any], of_class: LabelClass, probability: float, area_px: int, scaling: Scaling
) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": kind,
            "classification": {"name": of_class.name, "color": list(of_class.colour)},
            "measurements": {
                "Probability": round(probability, 4),
                "Area µm^2": round(area_px * scaling.mpp**2, 2),
            },
        },
    }


def _geometry(mask: npt.NDArray[np.bool_], box: Box, scaling: Scaling, origin: tuple[int, int]) -> dict[str, Any]:
    """A polygon, or several for a mask of several pieces, in pixels of the full resolution from `origin`."""
    y_scale, x_scale = scaling.scale
    shapes: list[list[list[list[float]]]] = []
    for rings in polygons(mask):
        shapes.append([])
        for corners in rings:
            x = (corners[:, 0] + box.left) * x_scale - origin[0]
            y = (corners[:, 1] + box.top) * y_scale - origin[1]
            ring = [[_short(a), _short(b)] for a, b in zip(x.tolist(), y.tolist(), strict=True)]
            shapes[-1].append([*ring, ring[0]])
    if len(shapes) == 1:
        return {"type": "Polygon", "coordinates": shapes[0]}
    return {"type": "MultiPolygon", "coordinates": shapes}


def _short(value: float) -> float | int:
    """Round to two decimals; whole numbers become integers."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded
