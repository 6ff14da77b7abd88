"""Summary that `factory ingest` prints: tiles, groups and splits, classes, agreement of regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from factory.core.wording import file_size, grouped, plural
from factory.ingest.writing import Plan
from manifests.labels import LabelScheme
from manifests.schema import SPLITS

_SHOWN = 3
_BYTES_PER_PX = 8
"""Bytes of a tile's pixel before compression: RGB, one label, and an id of four bytes."""


def plan_table(plan: Plan) -> Table:
    """Number of tiles, images and groups by split."""
    layout = plan.spec.layout
    title = f"{plural(layout.n, 'tile')} of {layout.height}x{layout.width}"
    shown = Table("", "tiles", "images", "groups", title=title)
    groups = [plan.job.groups[plan.images[tile.image].source.uri] for tile in plan.tiles]
    for split in SPLITS:
        mine = [
            (tile.image, group) for tile, group in zip(plan.tiles, groups, strict=True) if plan.splits[group] == split
        ]
        images, own = {image for image, _ in mine}, {group for _, group in mine}
        shown.add_row(split, *map(str, (len(mine), len(images), len(own))))
    return shown


def plan_lines(plan: Plan) -> list[str]:
    """Labels, resolution, size, omitted tiles and files, points and warnings of a plan, a line each."""
    layout, config = plan.spec.layout, plan.job.config
    size = layout.n * layout.height * layout.width * _BYTES_PER_PX
    resolutions = sorted({f"{image.geometry.mpp:.4g}" for image in plan.images})
    empty = [name for name, share in zip(SPLITS, config.split or (), strict=False) if share and name not in plan.in_use]
    lines = [
        f"scheme {config.label_scheme.name}, {config.label_origin} labels, {', '.join(resolutions[:4])} um per pixel",
        f"{file_size(size)} before compression",
    ]
    if config.generator is not None:
        lines.append(f"synthetic, by {config.generator}, which learnt from {', '.join(config.trained_on)}")
        if "unknown" in config.trained_on:
            lines.append("warning: what the generator learnt from is unknown, so leaks cannot be ruled out.")
    if plan.dropped:
        limit = f"more than {config.max_background:.0%} air or unlabelled, or no labelled pixel"
        lines.append(f"{plural(plan.dropped, 'tile')} left out: {limit}")
    if empty:
        asked = ",".join(f"{share:g}" for share in config.split or ())
        lines.append(f"no tile in {' and '.join(empty)}: too few groups for --split {asked}")
    points = Counter(name for image in plan.images if image.points is not None for name in image.points.classes)
    if points:
        lines.append("points in the images: " + ", ".join(f"{count} {name}" for name, count in sorted(points.items())))
    doubts = grouped((doubt for image in plan.images for doubt in image.doubts), _SHOWN)
    lines += [f"warning: {doubt}." for doubt in doubts]
    lines += [f"not read: {line}" for line in plan.job.pairing.unread]
    return lines + [f"left out: {line}" for line in plan.job.pairing.unpaired]


def class_table(table: pa.Table, scheme: LabelScheme) -> Table:
    """Class shares of a finished manifest by split, and numbers of cells unless labels are weak."""
    names = [name for name in SPLITS if name in set(table["split"].to_pylist())]
    shown = Table("", *names, title="Content of the tiles")
    parts = [table.filter(pa.compute.equal(table["split"], name)) for name in names]
    shares = [np.array(part["class_fractions"].to_pylist()).mean(axis=0) for part in parts]
    for number, label in enumerate(scheme.names):
        shown.add_row(f"{label}, mean share", *(f"{share[number]:.3f}" for share in shares))
    if set(table["label_origin"].to_pylist()) != {"weak"}:
        shown.add_row("cells", *(str(pa.compute.sum(part["cells"]).as_py()) for part in parts))
    return shown


def agreement_table(agreement: Mapping[str, Any]) -> Table:
    """Agreement of region labels with the marked cells that they were made of, by split and over all."""
    parts = {**agreement["splits"], "all": agreement["all"]}
    shown = Table("", *parts, title="Regions against marked cells")
    rows: list[tuple[str, list[Any]]] = [
        (f"{kind} cells in {region}", [part[f"of_{kind}"][number] for part in parts.values()])
        for kind in ("positive", "negative")
        for number, region in enumerate(("positive", "negative", "air"))
    ]
    rows += [(name, [part[name] for part in parts.values()]) for name in ("sensitivity", "precision", "kappa")]
    for unit in ("image", "tile"):
        errors = [part[f"{unit}_tps_error"] for part in parts.values()]
        rows.append((f"|TPS by area - by cells|, mean over {unit}s", [error["mean_absolute"] for error in errors]))
    for name, values in rows:
        known = (
            "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in values
        )
        shown.add_row(name, *known)
    return shown


def bytes_on_disk(out: Path) -> int:
    """Size of all files of a data set."""
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
