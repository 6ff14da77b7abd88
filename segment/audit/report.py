"""Results of an audit: rows, the accepted manifest, and a summary as JSON and Markdown, with the own error first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from factory.core.document import Block, Bullets, Grid, Paragraph, Plot, to_markdown
from factory.core.encoding import json_bytes, parquet_bytes
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER
from manifests.table import write_manifest
from segment.audit.auditor import COUNTS, FIGURES, Finding, TpsMethod
from segment.audit.calibration import StainCalibration
from segment.audit.flags import AGREEMENT, Limits, column, flag_tiles, has_evidence, limits, summarise, tps_difference
from segment.audit.folder import PLOT, REPORT
from segment.audit.plot import plot_audit
from segment.audit.request import Audit
from segment.data.sources import ACCEPTED, AUDIT, SUMMARY
from segment.metrics.names import METRICS, label
from segment.network.head import has_instances

METADATA_KEY = b"pathology_audit"
"""Key of the JSON summary in the metadata of ``audit.parquet``."""

_LABELS = {
    **{name: label(name) if name != "dice" else METRICS[name].short_label for name in AGREEMENT},
    "class_agreement": "class of matched nuclei agrees",
    "stain_agreement": "nucleus stains as its class says",
    "audited_tps": "audited TPS",
    "tps_stain": "TPS by stain",
    "tps_segmenter": "TPS by segmenter",
    "nuclei_found": "nuclei by segmenter, relative",
    "stain_nuclei": "nuclei in the stain count, relative",
}
"""Rows of the tables, by the names of their figures."""


@dataclass(frozen=True)
class Outcome:
    """A finished audit.

    Attributes:
        findings: on the audited tiles, in the order of their rows. flags: of each tile.
        limits: of the flags. document: the summary, JSON-ready. paths: of the files written.
    """

    findings: Sequence[Finding]
    flags: Sequence[Sequence[str]]
    limits: Limits
    document: Mapping[str, Any]
    paths: Sequence[Path]


def conclude(
    audit: Audit,
    findings: Sequence[Finding],
    real: Sequence[Sequence[Finding]],
    real_val: Sequence[Sequence[Finding]],
    stain: StainCalibration | None,
    *,
    tps_method: TpsMethod | None,
    bound: float,
    least_agreement: float | None,
) -> Outcome:
    """Flag tiles and write every file of the audit.

    Args:
        audit: the request. findings: on its tiles. real: on the test tiles of each of its real data sets.
        real_val: on their val tiles, where audited. stain: calibration of the stain count.
        tps_method: of the audited TPS. bound: of it. least_agreement: as requested, None for the default.
    """
    every_real = [finding for part in real for finding in part]
    kept = limits(
        bound,
        least_agreement,
        every_real,
        [finding for part in real_val for finding in part],
        has_nuclei=has_instances(audit.weights.scheme),
        rejects_by_tps=has_evidence(tps_method, stain, every_real),
    )
    flags = flag_tiles(findings, kept)
    # A limit from the same real tiles flags a twentieth of them by construction, which is no error of the audit.
    kept_on_real = replace(kept, least_agreement=None) if kept.source == "test" else kept
    document = {
        "dataset": str(audit.audited.dataset.root),
        "split": audit.split,
        "weights": str(audit.weights.path),
        "scheme": audit.weights.scheme.name,
        "own_error": {
            str(tiles.dataset.root): summarise(part, flag_tiles(part, kept_on_real), tiles.groups)
            for tiles, part in zip(audit.real, real, strict=True)
        },
        "audited": summarise(findings, flags, audit.audited.groups),
        "limits": asdict(kept),
        "tps_judge": None if tps_method is None else tps_method.name,
        "stain": None if stain is None else asdict(stain),
        "notes": [*audit.notes, *_limit_notes(audit, kept)],
        "inputs": audit.document,
        "use": DISCLAIMER,
    }
    out = audit.out
    _write_rows(out / AUDIT, audit, findings, flags, document)
    accepted = np.array([not found for found in flags], bool)
    dataset = audit.audited.dataset
    write_manifest(out / ACCEPTED, dataset.table.filter(pa.array(accepted)), dataset.info)
    write_atomic(out / SUMMARY, json_bytes(document))
    placements = {name: part["placement"] for name, _, part in _parts(document) if "placement" in part}
    write_atomic(out / PLOT, plot_audit(findings, every_real, flags, kept, placements))
    report = to_markdown(f"Audit of {document['dataset']}", list(_blocks(document)))
    write_atomic(out / REPORT, report.encode())
    paths = [out / name for name in (AUDIT, ACCEPTED, SUMMARY, PLOT, REPORT)]
    return Outcome(findings, flags, kept, document, paths)


def _limit_notes(audit: Audit, kept: Limits) -> list[str]:
    """Notes on what weakens the limit of agreement."""
    if kept.source == "test":
        return [
            "the limit of agreement is a percentile of the same real test tiles that the own error is reported on: "
            "one in twenty falls below it by construction, so on real tiles only flags by TPS are counted"
        ]
    if kept.source != "val":
        return []
    groups = {group for one in audit.real_val for group in one.dataset.table["group_id"].unique().to_pylist()}
    used = len(groups & set(audit.weights.card.get("groups", [])))
    if not used:
        return []
    return [
        f"the limit of agreement is from val tiles, and the weights were trained or chosen on {used} of their "
        f"{len(groups)} groups: it may be stricter than on unseen tiles"
    ]


def _write_rows(
    path: Path,
    audit: Audit,
    findings: Sequence[Finding],
    flags: Sequence[Sequence[str]],
    document: Mapping[str, Any],
) -> None:
    """Write ``audit.parquet``: a row for each tile, null where a figure is undefined."""
    table = audit.audited.dataset.table
    columns: dict[str, Any] = {name: table[name].combine_chunks() for name in ("sample_id", "index")}
    for name in FIGURES:
        values = column(findings, name)
        known = np.where(np.isnan(values), 0, values)
        typed = known.astype(np.int64) if name in COUNTS else known
        columns[name] = pa.array(typed, mask=np.isnan(values))
        if name == "audited_tps":
            difference = tps_difference(findings)
            columns["tps_difference"] = pa.array(difference, mask=np.isnan(difference))
            columns["tps_judge"] = pa.array([finding.tps_method for finding in findings], pa.string())
    columns["flags"] = pa.array([list(found) for found in flags], pa.list_(pa.string()))
    columns["accepted"] = pa.array([not found for found in flags], pa.bool_())
    metadata = {METADATA_KEY: json.dumps(document, sort_keys=True).encode()}
    write_atomic(path, parquet_bytes(pa.table(columns).replace_schema_metadata(metadata)))


def grids(document: Mapping[str, Any]) -> list[Grid]:
    """Tables of the report: the audit's own error on real tiles, its findings, and figures with intervals."""
    found = []
    by_tps = " by TPS" if document["limits"]["source"] == "test" else ""
    for root, part in document["own_error"].items():
        title = f"The audit's own error: {root}, {part['tiles']} held-out real tiles"
        found.append(_summary_grid(title, part, f"would be flagged{by_tps}, though right"))
    audited = document["audited"]
    found.append(_summary_grid(f"Audited: {document['dataset']}, {audited['tiles']} tiles", audited, "flagged"))
    return [*found, *(grid for grid in (_relation_grid(document), _placement_grid(document)) if grid.rows)]


def _summary_grid(title: str, part: Mapping[str, Any], flagged: str) -> Grid:
    rows = []
    for name, text in _LABELS.items():
        if stats := part["agreement"].get(name):
            rows.append([text, str(stats["tiles"]), f"{stats['mean']:.3f}", f"{stats['p5']:.3f}", "", "", ""])
        if stats := part["tps"].get(name) or part["count"].get(name):
            errors = f"{stats['mae']:.3f}", f"{stats['bias']:+.3f}", f"{stats['p95']:.3f}"
            rows.append([text, str(stats["tiles"]), "", "", *errors])
    kinds = ", ".join(f"{name} {count}" for name, count in part["flags"].items())
    rows.append([flagged, f"{part['flagged']} of {part['tiles']}", kinds, "", "", "", ""])
    header = ["", "tiles", "mean", "5th pct", "mean |error|", "bias", "95th pct |error|"]
    return Grid(header, rows, title, aligned=False)


def _relation_grid(document: Mapping[str, Any]) -> Grid:
    rows = []
    for name, claim, part in _parts(document):
        for key, text in (("relation", claim), ("relation_of_mask", "area of the regions")):
            if figures := part.get(key):
                signs = {"slope": "", "intercept": "+", "r": "", "mae": "", "bias": "+"}
                cells = [_with_interval(figures[figure], sign) for figure, sign in signs.items()]
                rows.append([f"{name}: {text}", str(figures["tiles"]), str(figures["groups"]), *cells])
    header = ["", "tiles", "patients", "slope", "intercept", "r", "mean |error|", "bias"]
    return Grid(header, rows, "Requested against audited TPS [95 % intervals]", aligned=False)


def _placement_grid(document: Mapping[str, Any]) -> Grid:
    rows = [
        [
            name,
            str(figures["positive_nuclei"]),
            _with_interval(figures["in_positive"]),
            str(figures["negative_nuclei"]),
            _with_interval(figures["in_negative"]),
            _with_interval(figures["difference"], "+"),
            str(figures["groups"]),
        ]
        for name, _, part in _parts(document)
        if (figures := part.get("placement"))
    ]
    header = ["", "nuclei", "stained in positive", "nuclei", "stained in negative", "difference", "patients"]
    title = "Is the stain where the mask says? Stained share of the counted nuclei by region [95 % intervals]"
    return Grid(header, rows, title, aligned=False)


def _parts(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, kind of claim, and figures: of the audited tiles, then of real ones."""
    yield "audited", "request", document["audited"]
    for root, part in document["own_error"].items():
        yield f"real, {root}", "labels", part


def _with_interval(figure: Mapping[str, float | None], sign: str = "") -> str:
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{value:{sign}.3f}{interval}"


def lines(document: Mapping[str, Any]) -> list[str]:
    """Lines below the tables: limits, calibration of the stain count, notes."""
    kept = document["limits"]
    least = "none" if kept["least_agreement"] is None else f"{kept['least_agreement']:.3f}"
    found = [*_tps_lines(document), f"limit  {label(kept['agreement'])} >= {least} ({kept['origin']})"]
    stain = document["stain"]
    if stain is not None:
        how = (
            f"balanced accuracy {stain['balanced_accuracy']:.3f} on {stain['cells_positive']} positive and "
            f"{stain['cells_negative']} negative cells, mean |TPS error| on {stain['tps_error_tiles']} of the tiles "
            + ", ".join(f"{error:.3f} by {name}" for name, error in stain["tps_error"].items())
            if stain["validated"]
            else "by Otsu, not validated: no annotated cells"
        )
        found.append(
            f"stain  from {stain['tiles']} train and val tiles of {stain['source']}: a nucleus is positive above "
            f"{stain['nucleus_dab']:.3f} OD of DAB ({how}), nuclei found by {stain['finder']}"
        )
    return found + [f"note   {note}" for note in document["notes"]]


def _tps_lines(document: Mapping[str, Any]) -> list[str]:
    """Lines on the TPS method, its bound, and tiles where it found nothing to count."""
    kept, method = document["limits"], document["tps_judge"]
    if method is None:
        return ["bound  not used: no TPS is audited"]
    bound = f"bound  |requested - TPS by {method}| <= {kept['bound']:g}"
    if not kept["rejects_by_tps"]:
        why = (
            "its threshold is not validated on annotated cells"
            if method == "stain"
            else "its TPS was measured on no real tile (--real with annotated TPS)"
        )
        bound += f": shown only; {why}, so no tile is flagged by it"
    unseen = document["audited"]["no_tps"]
    what = "nuclei" if method == "stain" else "tumour"
    if not unseen:
        return [bound]
    claiming = unseen + document["audited"]["tps"].get("audited_tps", {"tiles": 0})["tiles"]
    return [bound, f"no_tps the {method} sees no {what} in {unseen} of {claiming} tiles that claim a TPS"]


def _blocks(document: Mapping[str, Any]) -> Iterator[Block]:
    yield Paragraph(
        f"Weights `{document['weights']}`, scheme {document['scheme']}, split {document['split']}. "
        "Labels are as they were; flagged rows are left out of `accepted.parquet`. Not for diagnosis."
    )
    if not document["own_error"]:
        yield Paragraph(
            "(no real tiles were given): a flag says that audit and tile disagree, not which of them is right.",
            lead="The audit's own error is unknown",
        )
    yield from grids(document)
    yield Bullets(lines(document))
    yield Plot("requested against audited", PLOT)
