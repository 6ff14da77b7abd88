"""GeoJSON for QuPath: one polygon per nucleus or region, in pixels of the full resolution.

The layout is that of QuPath's own export (qupath-docs, "Exporting annotations"): a FeatureCollection whose features
have `objectType`, `classification` (name and colour) and `measurements` among their properties, with the origin in the
upper left corner of the full-resolution image. Outlines follow pixel edges: a polygon covers exactly its pixels.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from manifests.files import publish, temporary_beside
from manifests.labels import LabelScheme
from segment.predict.scaling import Scaling
from segment.predict.stitching import Block, Box


def write_geojson(
    path: Path, blocks: Iterable[Block], scaling: Scaling, scheme: LabelScheme, mark: Mapping[str, Any]
) -> int:
    """Write every nucleus, or every region of a scheme without nuclei; returns their number.

    Regions are cut at the edges of blocks; regions of air are left out. Features are written one by one, so memory does
    not grow with their number. The file appears when it is complete.
    """
    temporary = temporary_beside(path)
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            head = json.dumps({"type": "FeatureCollection", "segment": dict(mark)})
            stream.write(head.removesuffix("}") + ', "features": [')
            for block in blocks:
                for feature in _features(block, scaling, scheme):
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


def _features(block: Block, scaling: Scaling, scheme: LabelScheme) -> Iterator[dict[str, Any]]:
    if scheme.ids("nucleus"):
        for nucleus in block.nuclei:
            yield _feature("detection", nucleus.label, nucleus.probability, nucleus.box, nucleus.mask, scaling, scheme)
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
            yield _feature("annotation", label, probability, Box(y, y + height, x, x + width), mask, scaling, scheme)


def _feature(
    kind: str,
    label: int,
    probability: float,
    box: Box,
    mask: npt.NDArray[np.bool_],
    scaling: Scaling,
    scheme: LabelScheme,
) -> dict[str, Any]:
    y_scale, x_scale = scaling.scale
    rings = []
    for corners in outlines(mask):
        x, y = (corners[:, 0] + box.left) * x_scale, (corners[:, 1] + box.top) * y_scale
        ring = [[_short(a), _short(b)] for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        rings.append([*ring, ring[0]])
    area_um2 = int(np.count_nonzero(mask)) * scaling.mpp**2
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
    """Round to two decimals; whole numbers become integers."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded


_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.int64)
"""(x, y) of a step right, down, left and up: clockwise on the screen, so that a right turn is the next entry."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """Closed outlines of a mask, with its pixels on the right-hand side: int64 [n, 2] each, (x, y) of the corners.

    Points are corners of pixels: pixel (y, x) covers x..x+1, y..y+1. Pixels that meet only at a corner are separate, so
    a 4-connected mask gives its outer outline first and then its holes. Areas by the shoelace formula, negative for
    holes, sum to the number of pixels.
    """
    padded = np.pad(mask, 1)
    tops = padded[1:, :] & ~padded[:-1, :]  # edges along the upper side of pixels, walked to the right
    corners = np.empty((4 * int(np.count_nonzero(tops)), 2), np.int64)
    ends = _walk(padded, tops, corners, _STEPS)
    return [corners[start:end] - 1 for start, end in itertools.pairwise([0, *ends])]


@compiled()
def _walk(
    padded: npt.NDArray[np.bool_],
    tops: npt.NDArray[np.bool_],
    corners: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
) -> list[int]:
    """Fill `corners` outline by outline; returns the end of each. Clears the edges in `tops` that are walked."""
    ends, count = [0 for _ in range(0)], 0
    for row in range(tops.shape[0]):
        for column in range(tops.shape[1]):
            if not tops[row, column]:
                continue
            x, y, heading = column, row + 1, 0
            while True:
                if heading == 0:
                    if not tops[y - 1, x]:
                        break
                    tops[y - 1, x] = False
                x, y = x + steps[heading, 0], y + steps[heading, 1]
                turned = _next_heading(padded, x, y, heading)
                if turned != heading:
                    corners[count] = x, y
                    count += 1
                heading = turned
            ends.append(count)
    return ends


@compiled()
def _next_heading(padded: npt.NDArray[np.bool_], x: int, y: int, heading: int) -> int:
    """Next direction of the outline at corner (x, y): right if possible, else straight on, else left."""
    upper_left, upper_right = padded[y - 1, x - 1], padded[y - 1, x]
    lower_left, lower_right = padded[y, x - 1], padded[y, x]
    for turn in (1, 0, 3):
        towards = (heading + turn) % 4
        if towards == 0 and lower_right and not upper_right:
            return 0
        if towards == 1 and lower_left and not lower_right:
            return 1
        if towards == 2 and upper_left and not lower_left:
            return 2
        if towards == 3 and upper_right and not upper_left:
            return 3
    return heading
