"""QuPath: OME-TIFF with the pixel size, and GeoJSON of cells as detections and regions as annotations."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from factory.annotate.qupath import QuPath as Tool
from factory.core.outlines import polygons
from factory.export.base import Export, Files, Format, Part, Record
from factory.export.objects import add, objects_of
from manifests.dataset import Sample
from manifests.labels import IGNORE, LabelClass

_IGNORED = LabelClass(IGNORE, "Ignore*", (180, 180, 180))
"""QuPath's own class for areas that count for nothing."""


class QuPath(Format):
    """``NAME.tif`` and ``NAME.geojson`` for each tile; outlines follow the edges of pixels."""

    bytes_per_px = 4.5

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """Two files for each tile."""
        lost: dict[str, int] = {}
        for sample in samples:
            name, mark = sample.row["sample_id"], export.mark_of(sample.row)
            files.put(f"{name}.tif", _ome_tiff(export, sample))
            document = Tool.skeleton(name, export.size, mark)
            cells, more = objects_of(export, sample)
            add(lost, more)
            semantic, scheme = sample.tile.semantic, export.scheme
            shown = [*scheme.classes, _IGNORED] if export.holds_regions else [_IGNORED]
            document["features"] = [
                _feature("annotation", label, piece, corner, sample.row["mpp"])
                for label in shown
                for piece, corner in _pieces(semantic == label.id)
                if label.id != IGNORE or not export.holds_regions
            ]
            for number, label, (left, top, right, bottom) in zip(
                *(values.tolist() for values in (cells.ids, cells.classes, cells.boxes)), strict=True
            ):
                mask = sample.tile.instance[top:bottom, left:right] == number
                detection = _feature("detection", scheme.classes[label], mask, (left, top), sample.row["mpp"])
                detection["properties"]["measurements"]["Instance"] = number
                document["features"].append(detection)
            files.put(f"{name}.geojson", json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
        return {"lost": lost}


def _ome_tiff(export: Export, sample: Sample) -> bytes:
    stream, mpp = io.BytesIO(), sample.row["mpp"]
    metadata = {
        "axes": "YXS",
        "Name": sample.row["sample_id"],
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, sample.row["sample_id"])),  # else a random one
        "Description": export.comment(sample.row),
        **{f"PhysicalSize{axis}": mpp for axis in "XY"},
        **{f"PhysicalSize{axis}Unit": "µm" for axis in "XY"},
    }
    tifffile.imwrite(
        stream,
        sample.image,
        ome=True,
        photometric="rgb",
        compression="zlib",
        compressionargs={"level": 1},
        predictor=True,
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        metadata=metadata,
    )
    return stream.getvalue()


def _pieces(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[npt.NDArray[np.bool_], tuple[int, int]]]:
    """The 4-connected pieces of a mask, each cut out, with its left upper corner (x, y)."""
    if not mask.any():
        return
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for number, (left, top, width, height, _) in enumerate(stats[1:].tolist(), 1):
        yield labels[top : top + height, left : left + width] == number, (left, top)


def _feature(
    kind: str, label: LabelClass, mask: npt.NDArray[np.bool_], corner: tuple[int, int], mpp: float
) -> dict[str, Any]:
    rings = [[_closed(ring, corner) for ring in polygon] for polygon in polygons(mask)]
    one = len(rings) == 1
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon" if one else "MultiPolygon", "coordinates": rings[0] if one else rings},
        "properties": {
            "objectType": kind,
            "classification": {"name": label.name, "color": list(label.colour)},
            "measurements": {"Area µm^2": round(int(np.count_nonzero(mask)) * mpp * mpp, 4)},
        },
    }


def _closed(ring: npt.NDArray[np.int64], corner: tuple[int, int]) -> list[list[int]]:
    points: list[list[int]] = (ring + corner).tolist()
    return [*points, points[0]]
