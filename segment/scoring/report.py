"""The report of `segment score`: tables for the terminal, and one JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from factory.core.document import Grid
from factory.core.statistics import Interval
from factory.core.wording import plural
from segment.metrics.names import METRICS, Metric, label
from segment.scoring.scores import LEVEL, RESAMPLES, Summary

_PER_IMAGE = {
    True: ("mean_iou", "wiou", "wprecision", "wrecall", "dice"),
    False: ("aji", "aji_plus", "dq", "sq", "pq", "mpq", "dice", "object_dice", "boundary_f1", "hd95_px"),
}
"""Columns of the table of images, for class maps and for instance maps."""

SHOWN = 20
"""Most rows in the table of images; of a larger set the worst are shown."""


def class_names(labels: Sequence[int], names: Sequence[str] | None) -> dict[int, str]:
    """Name of each label: from the scheme, else its number."""
    return {label: names[label] if names and label < len(names) else f"class {label}" for label in labels}


def image_grid(summary: Summary, *, semantic: bool, everything: bool) -> Grid:
    """A row per image: all of a short set, the `SHOWN` worst of a long one by PQ (class maps: by mIoU)."""
    ranked_by = "mean_iou" if semantic else "pq"
    order, title = list(range(len(summary.names))), "by image"
    if len(order) > SHOWN and not everything:
        values = [of_image[ranked_by] for of_image in summary.figures]
        order.sort(key=lambda at: (math.isnan(values[at]), values[at]))
        title = f"the {SHOWN} worst of {len(order)} images by {METRICS[ranked_by].label} (--all shows all)"
        order = order[:SHOWN]
    columns = [name for name in _PER_IMAGE[semantic] if name in summary.totals]
    counts = () if semantic else ("truth", "pred")
    rows = [
        [
            summary.names[at],
            *(METRICS[name].show(summary.figures[at][name], digits=3) for name in columns),
            *(str(summary.image_counts[at][name]) for name in counts),
        ]
        for at in order
    ]
    return Grid(["image", *(METRICS[name].short_label for name in columns), *counts], rows, title)


def total_grid(summary: Summary, classes: Mapping[int, str], *, semantic: bool) -> Grid:
    """A row per figure: mean over images and pooled, each with its interval."""
    interval = f"{LEVEL:.0%} interval"
    rows = []
    for name, total in summary.totals.items():
        metric = METRICS.get(name, METRICS["pq"])
        rows.append(
            [
                _label(name, semantic=semantic, classes=classes),
                metric.show(total.mean),
                _show_interval(metric, total.mean_interval),
                metric.show(total.pooled),
                _show_interval(metric, total.pooled_interval),
                str(total.left_out) if total.left_out else "",
            ]
        )
    header = ["metric", "mean over images", interval, "pooled", interval, "left out"]
    return Grid(header, rows, f"all {plural(len(summary.names), 'image')}")


def notes_of(summary: Summary, *, semantic: bool) -> list[str]:
    """Notes on the figures, a line each."""
    counts, notes = summary.counts, []
    if semantic:
        notes.append(f"{counts['pixels']:,} pixels scored, {counts['ignored_pixels']:,} left out (truth 255)")
    else:
        notes.append(
            f"{counts['truth']:,} objects in the truth, {counts['pred']:,} predicted: {counts['tp']:,} matched at "
            f"IoU > 0.5, {counts['fp']:,} spare, {counts['fn']:,} missed"
        )
        notes += _notes_of_objects(summary)
    if counts.get("without_class"):
        notes.append(f"{counts['without_class']:,} objects without a pixel of a class count in bPQ and in no class")
    units = plural(len(summary.names), "image")
    if summary.groups < len(summary.names):
        units = f"{summary.groups} groups of images, drawn whole"
    elif len(summary.names) > 1:
        units += " (--group-pattern names the images of one patient)"
    notes.append(f"intervals: percentile bootstrap over {units}")
    if any(total.left_out for total in summary.totals.values()):
        notes.append("left out: images without a value of the figure, because there is nothing to score")
    return notes


def _notes_of_objects(summary: Summary) -> list[str]:
    """Notes on maps that do not look like instance maps."""
    counts, notes = summary.counts, []
    if counts["ignored_pixels"]:
        notes.append(f"{counts['ignored_pixels']:,} pixels left out (class 255 in the truth)")
    if not counts["truth"]:
        notes.append("the truth has no object in any image: score maps of classes with --semantic")
    most = {side: max(of_image[side] for of_image in summary.image_counts) for side in ("truth", "pred")}
    for side, other, name in (("truth", "pred", "true"), ("pred", "truth", "predicted")):
        if most[side] == 1 < most[other]:
            notes.append(
                f"no {name} map has more than one object: if they are binary masks, in which nuclei that touch are "
                "one, number their objects, or score classes with --semantic"
            )
    if len(summary.names) > 1 and most["truth"] == 1 and most["pred"] <= 1:
        notes.append("no image has more than one true object: score masks of classes with --semantic")
    return notes


def document(summary: Summary, classes: Mapping[int, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON: ``images``, ``mean``, ``pooled``, ``intervals``, ``left_out``, ``classes`` and ``settings``.

    Undefined figures are NaN (null in the file); figures that do not pool are absent from ``pooled``.
    """
    totals = summary.totals
    pools = {name: total for name, total in totals.items() if name != "hd95_px"}
    return {
        "images": [
            {"name": name, **figures, **counts}
            for name, figures, counts in zip(summary.names, summary.figures, summary.image_counts, strict=True)
        ],
        "mean": {name: total.mean for name, total in totals.items()},
        "pooled": {**{name: total.pooled for name, total in pools.items()}, **summary.counts},
        "intervals": {
            "mean": {name: _ends(total.mean_interval) for name, total in totals.items()},
            "pooled": {name: _ends(total.pooled_interval) for name, total in pools.items()},
        },
        "left_out": {name: total.left_out for name, total in totals.items() if total.left_out},
        "classes": {str(label): name for label, name in classes.items()},
        "settings": {
            **settings,
            "images": len(summary.names),
            "groups": summary.groups,
            "resamples": RESAMPLES,
            "level": LEVEL,
        },
    }


def _label(name: str, *, semantic: bool, classes: Mapping[int, str]) -> str:
    kind, _, number = name.rpartition("_")
    if name not in METRICS and kind in ("pq", "iou"):
        return f"{'PQ' if kind == 'pq' else 'IoU'}, {classes[int(number)]}"
    return label("foreground_dice" if name == "dice" and not semantic else name)


def _show_interval(metric: Metric, interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{metric.show(interval.low)} - {metric.show(interval.high)}"


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]
