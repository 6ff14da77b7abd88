"""Scores as a person and a program read them: tables on the terminal, and one JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from factory.core.statistics import Interval
from segment.scoring.totals import LEVEL, RESAMPLES, Summary

NAMES = {
    "aji": "AJI",
    "aji_plus": "AJI+",
    "dq": "DQ",
    "sq": "SQ",
    "pq": "PQ",
    "mpq": "mPQ",
    "bpq": "bPQ",
    "object_dice": "object Dice",
    "f1_50": "F1, IoU > 0.5",
    "f1_70": "F1, IoU > 0.7",
    "f1_90": "F1, IoU > 0.9",
    "boundary_f1": "boundary F1, 2 px",
    "hd95_px": "HD95, px",
    "mean_iou": "mIoU",
    "wiou": "wIoU",
    "wprecision": "wPrecision",
    "wrecall": "wRecall",
}
"""Figures by their names in the literature; Dice is named by what it is of."""

_SHORT = {"dice": "Dice", "object_dice": "object\nDice", "boundary_f1": "edge\nF1", "hd95_px": "HD95\npx"}
"""What fits above a narrow column."""

_PER_IMAGE = {
    True: ("mean_iou", "wiou", "wprecision", "wrecall", "dice"),
    False: ("aji", "aji_plus", "dq", "sq", "pq", "mpq", "dice", "object_dice", "boundary_f1", "hd95_px"),
}
"""Columns of the table of images, for class maps and for instance maps."""

SHOWN = 20
"""Rows of the table of images: a longer set shows its worst."""


def class_names(labels: Sequence[int], names: Sequence[str] | None) -> dict[int, str]:
    """What each label is called: by the scheme, else by its number."""
    return {label: names[label] if names and label < len(names) else f"class {label}" for label in labels}


def image_table(summary: Summary, *, semantic: bool, everything: bool) -> Table:
    """A row per image: all of a short set, of a long one the `SHOWN` worst by PQ (class maps: by mIoU)."""
    ranked_by = "mean_iou" if semantic else "pq"
    order, title = list(range(len(summary.names))), "by image"
    if len(order) > SHOWN and not everything:
        worth = [of_image[ranked_by] for of_image in summary.figures]
        order.sort(key=lambda at: (math.isnan(worth[at]), worth[at]))
        order, title = (
            order[:SHOWN],
            f"the {SHOWN} worst of {len(order)} images by {NAMES[ranked_by]} (--all shows all)",
        )
    columns = [name for name in _PER_IMAGE[semantic] if name in summary.totals]
    table = Table(title=title)
    table.add_column("image", overflow="fold", min_width=12)
    for name in columns:
        table.add_column(_SHORT.get(name) or NAMES[name], justify="right")
    for name in () if semantic else ("truth", "pred"):
        table.add_column(name, justify="right")
    for at in order:
        counts = [] if semantic else [str(summary.image_counts[at][name]) for name in ("truth", "pred")]
        table.add_row(
            escape(summary.names[at]), *(_show(name, summary.figures[at][name], digits=3) for name in columns), *counts
        )
    return table


def total_table(summary: Summary, classes: Mapping[int, str], *, semantic: bool) -> Table:
    """A row per figure: mean over images and pooled, each with its interval."""
    table = Table(title=f"all {len(summary.names)} images")
    table.add_column("")
    for heading in ("mean over images", f"{LEVEL:.0%} interval", "pooled", f"{LEVEL:.0%} interval", "left out"):
        table.add_column(heading, justify="right")
    for name, total in summary.totals.items():
        table.add_row(
            _label(name, semantic=semantic, classes=classes),
            _show(name, total.mean),
            _show_interval(name, total.mean_interval),
            _show(name, total.pooled),
            _show_interval(name, total.pooled_interval),
            str(total.left_out) if total.left_out else "",
        )
    return table


def notes_of(summary: Summary, *, semantic: bool) -> list[str]:
    """What the figures alone do not say, a line each."""
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
    units = f"{len(summary.names)} images"
    if summary.groups < len(summary.names):
        units = f"{summary.groups} groups of images, drawn whole"
    elif len(summary.names) > 1:
        units += " (say which are of one patient with --group-pattern)"
    notes.append(f"intervals: percentile bootstrap over {units}")
    if any(total.left_out for total in summary.totals.values()):
        notes.append("left out: images where a figure has nothing to score, which its mean passes over")
    return notes


def _notes_of_objects(summary: Summary) -> list[str]:
    """What looks as if the maps were not instance maps, or not all of them."""
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

    Undefined figures are null; figures that do not pool are absent from ``pooled``.
    """
    totals = summary.totals
    pools = {name: total for name, total in totals.items() if name != "hd95_px"}
    return {
        "images": [
            {"name": name, **_plain(figures), **counts}
            for name, figures, counts in zip(summary.names, summary.figures, summary.image_counts, strict=True)
        ],
        "mean": _plain({name: total.mean for name, total in totals.items()}),
        "pooled": {**_plain({name: total.pooled for name, total in pools.items()}), **summary.counts},
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


def _label(name: str, *, semantic: bool, classes: Mapping[int, str] | None = None) -> str:
    if name == "dice":
        return "Dice, mean of classes" if semantic else "Dice, foreground"
    kind, _, label = name.rpartition("_")
    if classes and kind in ("pq", "iou"):
        return f"{'PQ' if kind == 'pq' else 'IoU'}, {classes[int(label)]}"
    return NAMES.get(name, name)


def _show(name: str, value: float, digits: int = 4) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if name == "hd95_px" else f"{value:.{digits}f}"


def _show_interval(name: str, interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{_show(name, interval.low)} - {_show(name, interval.high)}"


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]


def _plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
