"""Labels of a flat image: read, checked value by value, and brought into the scheme."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import UnreadableError
from factory.core.images.label_pixels import read_label_pixels
from factory.ingest.config import IngestConfig
from factory.ingest.label_files import draw_labels
from factory.ingest.pairing import LABELS, Source
from factory.ingest.points import Points, read_points
from factory.learn.cells_by_colour import grey
from manifests.labels import IGNORE, LabelScheme
from manifests.tile import MAX_INSTANCE

_BLOCK_PX = 2**22
_FAR = 3.0
"""Diameters of a typical nucleus between the pieces of one id, from which on they count as two nuclei."""
_MANY_IDS, _MANY_SHARE = 8, 0.05
"""Ids of an 8-bit map in pieces far apart, and their share of all ids, from which on a warning is printed."""


@dataclass(frozen=True)
class Labels:
    """Labels of an image as its files state them; None where no file does.

    Attributes:
        semantic: uint8 [H, W], class ids of the scheme and 255. instance: int32 [H, W], ids as in the file.
        roi: bool [H, W], where the image is labelled. points: cells without outlines.
        doubts: probable faults of readable labels, a line each that names the file.
    """

    semantic: npt.NDArray[np.uint8] | None
    instance: npt.NDArray[np.int32] | None
    roi: npt.NDArray[np.bool_] | None
    points: Points | None
    doubts: tuple[str, ...] = ()


def read_labels(
    source: Source, config: IngestConfig, size: tuple[int, int] | None, skip: Collection[str] = ()
) -> tuple[Labels, list[str]]:
    """Decode the partners of an image, without the kinds in `skip`; returns them, and faults that name their file.

    The image's `size` (height and width; None where unknown) must contain the points.
    """
    scheme = config.label_scheme
    problems: list[str] = []
    doubts: list[str] = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    for kind in ("semantic", "classes", "instances", "roi"):
        if kind not in source.files or kind in skip:
            continue
        try:
            array = read_label_pixels(source.files[kind])
        except UnreadableError as error:
            problems.append(f"{source.uris[kind]}: {error}")
            continue
        found = _instance_problems(array) if kind == "instances" else []
        if kind in ("semantic", "classes"):
            found = _class_problems(array, scheme, config.class_map)
        problems += [f"{source.uris[kind]}: {problem}" for problem in found]
        if not found:
            arrays[kind] = array
            doubts += [f"{source.uris[kind]}: {doubt}" for doubt in _doubts(array) if kind == "instances"]
    semantic = next(
        (_mapped(arrays[kind], config.class_map) for kind in ("semantic", "classes") if kind in arrays), None
    )
    instance = arrays["instances"].astype(np.int32) if "instances" in arrays else None
    if "classes" in arrays and instance is not None and semantic is not None:
        problems += [f"{source.uris['classes']}: {p}" for p in _disagreement(semantic, instance)]
    if LABELS in source.files and size is not None:
        drawn, found = draw_labels(source, config, size)
        problems += found
        if drawn is not None:
            semantic, instance, doubts = drawn.semantic, drawn.instance, list(drawn.doubts)
    points, found = _points(source, config, size)
    roi = arrays["roi"] != 0 if "roi" in arrays else None
    return Labels(semantic, instance, roi, points, tuple(doubts)), problems + found


def air(image: npt.NDArray[np.uint8], threshold: int) -> npt.NDArray[np.bool_]:
    """Air by grey level, bool [H, W]: grey = 0.299 R + 0.587 G + 0.114 B, rounded; above the threshold is air."""
    return grey(image) > threshold


def assemble(
    labels: Labels, is_air: npt.NDArray[np.bool_], scheme: LabelScheme
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Semantic mask uint8 [H, W] and instance map int32 [H, W] of an image; outside the ROI `IGNORE` and 0.

    Air by grey level is used where no file labels the pixels.
    """
    if labels.semantic is not None:
        semantic = labels.semantic
    elif labels.instance is not None:
        semantic = np.where(labels.instance > 0, np.uint8(scheme.ids("nucleus")[0]), np.uint8(0))
    else:
        (air_id,) = scheme.ids("air")
        semantic = np.where(is_air, np.uint8(air_id), np.uint8(1 - air_id))
    instance = labels.instance if labels.instance is not None else np.zeros(semantic.shape, np.int32)
    if labels.roi is not None:
        semantic = np.where(labels.roi, semantic, np.uint8(IGNORE))
        instance = np.where(labels.roi, instance, np.int32(0))
    return semantic, instance


def _instance_problems(array: npt.NDArray[Any]) -> list[str]:
    low, high = int(array.min()), int(array.max())
    if low < 0:
        return [f"expected instance ids from 0, got {low}. Write background as 0"]
    if high > MAX_INSTANCE:
        return [f"expected instance ids up to {MAX_INSTANCE}, got {high}. Number the instances anew"]
    if array.dtype.itemsize == 1 and high == 255:
        binary = not np.any((array > 0) & (array < 255))
        remedy = (
            "It is a binary mask: give it as --semantic with --class-map 0:0,255:1"
            if binary
            else "Ids above 255 do not fit into 8 bits and were lost: export it in 16 bits"
        )
        return [f"expected instance ids, got 8 bits with ids up to 255. {remedy}"]
    return []


def _doubts(array: npt.NDArray[Any]) -> list[str]:
    """A warning where instance ids above 255 were probably written in 8 bits, else nothing.

    Ids above 255 wrap around, so that two nuclei anywhere in the image share one. The pieces of one nucleus, split by
    another that lies on it, are never farther apart than it is long. So the test counts the empty rows or columns
    between the pieces of an id: none for one piece of any form, about a diameter for a split nucleus, and most of the
    image for two unrelated nuclei. A few mistakes of annotators do not make a map doubtful; `_MANY_IDS` ids and
    `_MANY_SHARE` of all ids do.
    """
    if array.dtype.itemsize > 1:
        return []
    height, width = array.shape
    in_row, in_column = np.zeros((256, height), np.bool_), np.zeros((256, width), np.bool_)
    area_px, columns = np.zeros(256, np.int64), np.arange(width)
    for row, line in enumerate(array.astype(np.uint8, copy=False)):
        in_row[line, row] = True
        in_column[line, columns] = True
        area_px += np.bincount(line, minlength=256)
    ids = np.flatnonzero(area_px[1:]) + 1
    if len(ids) < _MANY_IDS:
        return []
    far_px = _FAR * 2.0 * float(np.sqrt(np.median(area_px[ids]) / np.pi))
    apart = sum(max(_gap(in_row[number]), _gap(in_column[number])) > far_px for number in ids)
    if apart < max(_MANY_IDS, _MANY_SHARE * len(ids)):
        return []
    return [
        f"{apart} of {len(ids)} ids lie in pieces far apart, as where ids above 255 were written in 8 bits and came "
        "round again. If so, export it in 16 bits: nuclei are joined as it is"
    ]


def _gap(taken: npt.NDArray[np.bool_]) -> int:
    """The largest number of free places between two that are taken."""
    return int(np.diff(np.flatnonzero(taken)).max(initial=1)) - 1


def _class_problems(array: npt.NDArray[Any], scheme: LabelScheme, class_map: dict[int, int] | None) -> list[str]:
    values = present_values(array)
    if class_map is not None:
        unknown = [value for value in values if value not in class_map]
        if not unknown:
            return []
        return [
            f"expected the values {_listed(sorted(class_map))} of --class-map, got {_listed(unknown)}. Map them too"
        ]
    unknown = [value for value in values if value != IGNORE and not 0 <= value < len(scheme)]
    if unknown:
        expected = f"classes 0-{len(scheme) - 1} of scheme {scheme.name} or {IGNORE} (ignore)"
        return [
            f"expected {expected}, got {_listed(unknown)}. Map them with --class-map, e.g. --class-map {unknown[0]}:0"
        ]
    if IGNORE in values and not set(values) - {0, IGNORE}:
        return [
            f"expected classes of scheme {scheme.name}, got only 0 and {IGNORE}, which means ignore. "
            f"Say what it is with --class-map 0:0,{IGNORE}:1 (a class) or 0:0,{IGNORE}:{IGNORE} (ignore)"
        ]
    return []


def _disagreement(semantic: npt.NDArray[np.uint8], instance: npt.NDArray[np.int32]) -> list[str]:
    labelled = semantic != IGNORE
    without_class = int(np.count_nonzero(labelled & (instance > 0) & (semantic == 0)))
    without_cell = int(np.count_nonzero(labelled & (instance == 0) & (semantic > 0)))
    if not without_class and not without_cell:
        return []
    return [
        f"expected a class exactly where an instance is, got {without_class} px of instances without a class and "
        f"{without_cell} px of classes without an instance. Correct it, or give it as --semantic, which need not agree"
    ]


def _points(source: Source, config: IngestConfig, size: tuple[int, int] | None) -> tuple[Points | None, list[str]]:
    if "points" not in source.files:
        return None, []
    uri = source.uris["points"]
    try:
        points = read_points(source.files["points"], config.point_columns, config.point_classes)
    except UnreadableError as error:
        return None, [f"{uri}: {error}"]
    if size is None:
        return points, []
    inside = points.inside(0, 0, size[1], size[0])
    outside = int(np.count_nonzero(~inside))
    if outside and not config.drop_outside_points:
        first = int(np.flatnonzero(~inside)[0])
        return None, [
            f"{uri}: expected points inside the image of {size[0]}x{size[1]}, got {outside} outside, the first at "
            f"x {points.x[first]:g}, y {points.y[first]:g}. Correct them, or leave them out with --drop-outside-points"
        ]
    return points.where(inside), []


def present_values(array: npt.NDArray[Any]) -> list[int]:
    """The values in an integer array, sorted; in blocks, because `np.unique` widens to 64 bits."""
    flat = array.ravel()
    values: set[int] = set()
    for start in range(0, flat.size, _BLOCK_PX):
        values.update(np.unique(flat[start : start + _BLOCK_PX]).tolist())
    return sorted(int(value) for value in values)


def _mapped(array: npt.NDArray[Any], class_map: dict[int, int] | None) -> npt.NDArray[np.uint8]:
    if class_map is None:
        return array.astype(np.uint8)
    mapped = np.full(array.shape, IGNORE, np.uint8)
    for value in present_values(array):
        mapped[array == value] = class_map[value]
    return mapped


def _listed(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")
