"""GeoJSON that QuPath opens: one polygon per nucleus or region, written as they come, in pixels of the full resolution.

The layout is that of QuPath's own export (qupath-docs, "Exporting annotations"): a FeatureCollection whose features
have `objectType`, `classification` (name and colour) and `measurements` among their properties, with the origin in the
upper left corner of the full-resolution image.
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

from manifests.files import publish, temporary_beside
from manifests.labels import LabelScheme
from segment.predict.frames import Frame
from segment.predict.outlines import outlines
from segment.predict.stitching import Block, Box


def write_geojson(
    path: Path, blocks: Iterable[Block], frame: Frame, scheme: LabelScheme, mark: Mapping[str, Any]
) -> int:
    """Write every nucleus, or every region of a scheme without nuclei, and return how many.

    Regions end at the edges of blocks, so that an area of any size is written in pieces; those of air are left out.
    Memory does not grow with the number of features. The file appears when it is complete.

    Args:
        path: where to. blocks: of the image. frame: of the image.
        scheme: names and colours. mark: what made this, kept in the collection as ``segment``.
    """
    temporary = temporary_beside(path)
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            head = json.dumps({"type": "FeatureCollection", "segment": dict(mark)})
            stream.write(head.removesuffix("}") + ', "features": [')
            for block in blocks:
                for feature in _features(block, frame, scheme):
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


def _features(block: Block, frame: Frame, scheme: LabelScheme) -> Iterator[dict[str, Any]]:
    if scheme.ids("nucleus"):
        for nucleus in block.nuclei:
            yield _feature("detection", nucleus.label, nucleus.probability, nucleus.box, nucleus.mask, frame, scheme)
        return
    for label in sorted(set(np.unique(block.ground).tolist()) - set(scheme.ids("air"))):
        _, pieces, stats, _ = cv2.connectedComponentsWithStats((block.ground == label).astype(np.uint8), connectivity=4)
        for number, (left, top, width, height, _) in enumerate(stats[1:].tolist(), 1):
            part = np.s_[top : top + height, left : left + width]
            mask = pieces[part] == number
            y, x = block.box.top + top, block.box.left + left
            probability = float(block.confidence[part][mask].mean())
            yield _feature("annotation", label, probability, Box(y, y + height, x, x + width), mask, frame, scheme)


def _feature(
    kind: str,
    label: int,
    probability: float,
    box: Box,
    mask: npt.NDArray[np.bool_],
    frame: Frame,
    scheme: LabelScheme,
) -> dict[str, Any]:
    y_scale, x_scale = frame.scale
    rings = []
    for corners in outlines(mask):
        x, y = (corners[:, 0] + box.left) * x_scale, (corners[:, 1] + box.top) * y_scale
        ring = [[_short(a), _short(b)] for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        rings.append([*ring, ring[0]])
    area_um2 = int(np.count_nonzero(mask)) * frame.mpp**2
    of_class = scheme.classes[label]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": kind,
            "classification": {"name": of_class.name, "color": list(of_class.colour)},
            "measurements": {"Probability": round(probability, 4), "Area µm^2": round(area_um2, 2)},
        },
    }


def _short(value: float) -> float | int:
    """At most two decimals, and none where there are none."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded
