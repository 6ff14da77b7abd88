"""The report of `factory sketches`: a sheet with a row for each kind, a table of all masks, and templates to trace."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.console import progress
from factory.core.datasets import check_out
from factory.core.encoding import png
from factory.inspect.layout import Block, View
from factory.inspect.sheet import render_sheet
from factory.masks.coarse.morphology import LabelMap, class_order
from factory.sketches.features import count_parts, features, weights
from factory.sketches.kinds import Kinds, find_kinds
from factory.sketches.masks import CoarseMasks, open_masks
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.labels import LabelScheme

SHEET, TABLE, TEMPLATES = "sheet.png", "kinds.csv", "templates"
POOL = 100
"""Sketches that the paper draws per kind of cancer (section 2.4); they are shared out among the kinds of masks."""

_SHOWN = 6
_LEAST = 3


@dataclass(frozen=True)
class KindReport:
    """One kind of coarse maps.

    Attributes:
        masks: number of its masks. share: of all masks. to_draw: sketches to draw of it.
        fractions: mean share of every class in scheme order. parts, holes: medians over the masks, outside of air.
        template: the PNG of its most typical map.
    """

    masks: int
    share: float
    to_draw: int
    fractions: tuple[float, ...]
    parts: int
    holes: int
    template: Path


@dataclass(frozen=True)
class SketchReport:
    """The kinds that were found, and the files that were written, with their size together."""

    kinds: tuple[KindReport, ...]
    scheme: LabelScheme
    silhouette: dict[int, float]
    sheet: Path
    table: Path
    size_bytes: int


def report_kinds(
    paths: Sequence[Path],
    out: Path,
    *,
    k: int | None = None,
    scheme: LabelScheme | None = None,
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
) -> SketchReport:
    """Cluster the coarse maps of data sets and write a guide for drawing similar ones.

    Args:
        paths: data sets; their training masks are used, or all where they have no such split.
        out: folder to write to.
        k: number of kinds; None chooses.
        scheme: to read the masks in; default the richest that all share.
        seed: of k-means.
        overwrite: whether an earlier report there may be replaced. dry_run: write nothing.

    Raises:
        UserError: for data that does not fit, more kinds than masks, or an `out` that holds something. Nothing is
            written then.
    """
    masks = open_masks(paths, scheme)
    check_folder(out, overwrite=overwrite)
    if k is not None and not 1 <= k <= len(masks):
        raise UserError(f"--k: expected 1 to {len(masks)}, the number of masks, got {k}.")
    found, measured = [], []
    with progress("coarse maps", len(masks), unit="masks") as bar:
        for position in range(len(masks)):
            coarse = masks.read(position)
            found.append(features(coarse, masks.scheme))
            measured.append(_measure(coarse, masks.scheme))
            bar.advance()
    kinds = find_kinds(np.stack(found), weights(masks.scheme), k, seed)
    blocks = [_block(masks, kinds, kind) for kind in range(kinds.k)]
    with progress("sheet", sum(block.count for block in blocks), unit="maps") as bar:
        sheet = render_sheet(blocks, bar.advance)
    templates = [png(masks.scheme.palette[masks.read(int(kinds.members(kind)[0]))]) for kind in range(kinds.k)]
    table = _table(masks, kinds)
    if not dry_run:
        _write(out, sheet, table, templates)
    reports = tuple(_describe(kinds, kind, np.array(measured), out) for kind in range(kinds.k))
    size_bytes = sum(map(len, (sheet, table, *templates)))
    return SketchReport(reports, masks.scheme, kinds.silhouette, out / SHEET, out / TABLE, size_bytes)


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse to write into a data set, or into a folder that holds something unless it may be replaced."""
    check_out(out)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(f"--out {out}: expected an empty or new folder, got files in it. Use --overwrite or another.")


def _measure(coarse: LabelMap, scheme: LabelScheme) -> list[float]:
    """Shares of the classes, then parts and holes of what is not the first class in order: float [C + 2]."""
    counted = count_parts((coarse != class_order(scheme)[0]).astype(np.uint8))
    shares = np.bincount(coarse.ravel(), minlength=len(scheme)) / coarse.size
    return [*shares.tolist(), counted.parts, counted.holes]


def _describe(kinds: Kinds, kind: int, measured: npt.NDArray[np.float64], out: Path) -> KindReport:
    rows = kinds.members(kind)
    share = len(rows) / len(kinds.kind)
    fractions = tuple(measured[rows, :-2].mean(axis=0).tolist())
    parts, holes = np.median(measured[rows, -2:], axis=0).round().astype(int).tolist()
    return KindReport(len(rows), share, sketches_to_draw(share), fractions, parts, holes, out / _template(kind))


def sketches_to_draw(share: float) -> int:
    """Number of sketches to draw of a kind: its share of `POOL`, at least three."""
    return max(_LEAST, round(POOL * share))


def _template(kind: int) -> str:
    return f"{TEMPLATES}/kind-{kind + 1:02d}.png"


def _block(masks: CoarseMasks, kinds: Kinds, kind: int) -> Block:
    """A row of the sheet: maps of a kind, from the most to the least typical."""
    rows = kinds.members(kind)
    ranks = np.unique(np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).round().astype(int))
    shown = rows[ranks]
    share = len(rows) / len(masks)

    def view(place: int) -> View:
        position = int(shown[place])
        dataset, sample = masks.name(position)
        return View(masks.scheme.palette[masks.read(position)], None, (f"{dataset} {sample}",))

    return Block(
        title=f"kind {kind + 1}: {100 * share:.0f} % of the masks",
        note=f"draw about {sketches_to_draw(share)} · {len(rows)} masks, the most typical first, the least last",
        warning="",
        panels=("image",),
        schemes=(masks.scheme,) if kind == 0 else (),
        count=len(shown),
        shape=masks.largest,
        lines=1,
        view=view,
    )


def _table(masks: CoarseMasks, kinds: Kinds) -> bytes:
    """CSV: data set, sample_id, kind from 1, distance from the kind's middle."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["dataset", "sample_id", "kind", "distance"])
    for position in range(len(masks)):
        kind, distance = int(kinds.kind[position]) + 1, float(kinds.distance[position])
        writer.writerow([*masks.name(position), kind, f"{distance:.4f}"])
    return stream.getvalue().encode()


def _write(out: Path, sheet: bytes, table: bytes, templates: Sequence[bytes]) -> None:
    (out / TEMPLATES).mkdir(parents=True, exist_ok=True)
    for old in (out / TEMPLATES).glob("kind-*.png"):
        old.unlink()
    for kind, content in enumerate(templates):
        write_atomic(out / _template(kind), content)
    write_atomic(out / TABLE, table)
    write_atomic(out / SHEET, sheet)
