"""What an audit leaves behind: rows, the accepted manifest, a summary as JSON and Markdown. Its own error is first."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from manifests.files import write_atomic
from manifests.schema import DISCLAIMER
from manifests.table import write_manifest
from segment.audit.calibration import StainCalibration
from segment.audit.judge import COUNTS, FIGURES, Finding, TpsJudge
from segment.audit.parts import AUDIT, PLOT, REPORT
from segment.audit.plot import plot_audit
from segment.audit.relation_tables import relation_tables
from segment.audit.request import Audit
from segment.audit.verdict import Limits, column, has_evidence, judge_all, limits, summarise, tps_difference
from segment.data.accepted import ACCEPTED, SUMMARY
from segment.network.head import has_instances

METADATA_KEY = b"pathology_audit"
"""Of the JSON summary in the metadata of ``audit.parquet``."""

_AGREEMENT = {
    "aji": "AJI",
    "pq": "PQ",
    "dice": "Dice",
    "mean_iou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "class_agreement": "class of matched nuclei agrees",
    "stain_agreement": "nucleus stains as its class says",
}
_TPS = {"audited_tps": "audited TPS", "tps_stain": "TPS by stain", "tps_segmenter": "TPS by segmenter"}
_COUNT = {"nuclei_found": "nuclei by segmenter", "stain_nuclei": "nuclei in the stain count"}


@dataclass(frozen=True)
class Outcome:
    """A finished audit.

    Attributes:
        findings: of the audited tiles, in the order of their rows. flags: what speaks against each.
        limits: that they were held to. document: the summary, JSON-ready. paths: of the files written.
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
    tps_judge: TpsJudge | None,
    bound: float,
    least_agreement: float | None,
) -> Outcome:
    """Judge the findings and write every file of the audit.

    Args:
        audit: what was asked. findings: of its tiles. real: of the test tiles of each of its real data sets.
        real_val: of their val tiles, where looked at. stain: the calibration of the stain count.
        tps_judge: who gave the audited TPS. bound: of it. least_agreement: as asked, None for the default.
    """
    every_real = [finding for part in real for finding in part]
    kept = limits(
        bound,
        least_agreement,
        every_real,
        [finding for part in real_val for finding in part],
        has_nuclei=has_instances(audit.weights.scheme),
        rejects_by_tps=has_evidence(tps_judge, stain, every_real),
    )
    flags = judge_all(findings, kept)
    # A limit that the same real tiles gave flags a twentieth of them by construction: that is no error to report.
    kept_on_real = replace(kept, least_agreement=None) if kept.source == "test" else kept
    document = {
        "dataset": str(audit.audited.dataset.root),
        "split": audit.split,
        "weights": str(audit.weights.path),
        "scheme": audit.weights.scheme.name,
        "own_error": {
            str(inspected.dataset.root): summarise(part, judge_all(part, kept_on_real), inspected.groups)
            for inspected, part in zip(audit.real, real, strict=True)
        },
        "audited": summarise(findings, flags, audit.audited.groups),
        "limits": asdict(kept),
        "tps_judge": None if tps_judge is None else tps_judge.name,
        "stain": None if stain is None else stain.to_dict(),
        "notes": [*audit.notes, *_limit_notes(audit, kept)],
        "inputs": audit.document,
        "use": DISCLAIMER,
    }
    out = audit.out
    _write_rows(out / AUDIT, audit, findings, flags, document)
    accepted = np.array([not found for found in flags], bool)
    dataset = audit.audited.dataset
    write_manifest(out / ACCEPTED, dataset.table.filter(pa.array(accepted)), dataset.info)
    write_atomic(out / SUMMARY, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    write_atomic(out / PLOT, plot_audit(findings, every_real, flags, kept, _placements(document)))
    write_atomic(out / REPORT, _markdown(document).encode())
    paths = [out / name for name in (AUDIT, ACCEPTED, SUMMARY, PLOT, REPORT)]
    return Outcome(findings, flags, kept, document, paths)


def _placements(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Where the stained nuclei lie, by what the tiles are; empty where masks have no regions of a nuclear marker."""
    parts = {"audited": document["audited"], **{f"real: {root}": part for root, part in document["own_error"].items()}}
    return {name: part["placement"] for name, part in parts.items() if "placement" in part}


def _limit_notes(audit: Audit, kept: Limits) -> list[str]:
    """What weakens the limit of agreement."""
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
    """``audit.parquet``: a row for each tile, null where a figure has no meaning."""
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
            columns["tps_judge"] = pa.array([finding.tps_judge for finding in findings], pa.string())
    columns["flags"] = pa.array([list(found) for found in flags], pa.list_(pa.string()))
    columns["accepted"] = pa.array([not found for found in flags], pa.bool_())
    rows = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(document, sort_keys=True).encode()})
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Tables for the terminal and the report: the audit's own error on real tiles, then what it found."""
    shown = []
    by_tps = " by TPS" if document["limits"]["source"] == "test" else ""
    for root, part in document["own_error"].items():
        said = f"The audit's own error: {root}, {part['tiles']} held-out real tiles"
        shown.append(_table(said, part, f"would be flagged{by_tps}, though right"))
    audited = document["audited"]
    shown.append(_table(f"Audited: {document['dataset']}, {audited['tiles']} tiles", audited, "flagged"))
    return [*shown, *relation_tables(document)]


def _table(title: str, part: Mapping[str, Any], flagged: str) -> Table:
    table = Table("", "tiles", "mean", "5th pct", "mean |error|", "bias", "95th pct |error|", title=title)
    for name, label in _AGREEMENT.items():
        if name in part["agreement"]:
            stats = part["agreement"][name]
            table.add_row(label, str(stats["tiles"]), f"{stats['mean']:.3f}", f"{stats['p5']:.3f}", "", "", "")
    for kind, labels in (("tps", _TPS), ("count", _COUNT)):
        for name, label in labels.items():
            if name in part[kind]:
                stats = part[kind][name]
                errors = f"{stats['mae']:.3f}", f"{stats['bias']:+.3f}", f"{stats['p95']:.3f}"
                suffix = "" if kind == "tps" else ", relative"
                table.add_row(label + suffix, str(stats["tiles"]), "", "", *errors)
    said = ", ".join(f"{name} {count}" for name, count in part["flags"].items())
    table.add_row(flagged, f"{part['flagged']} of {part['tiles']}", said, "", "", "", "")
    return table


def lines(document: Mapping[str, Any]) -> list[str]:
    """What the tables rest on: limits, calibration of the stain count, notes."""
    kept = document["limits"]
    least = "none" if kept["least_agreement"] is None else f"{kept['least_agreement']:.3f}"
    said = [
        *_tps_lines(document),
        f"limit  {_AGREEMENT[kept['agreement']]} >= {least} ({kept['origin']})",
    ]
    stain = document["stain"]
    if stain is not None:
        how = (
            f"balanced accuracy {stain['balanced_accuracy']:.3f} on {stain['cells_positive']} positive and "
            f"{stain['cells_negative']} negative cells, mean |TPS error| on {stain['tps_error_tiles']} of the tiles "
            + ", ".join(f"{error:.3f} by {name}" for name, error in stain["tps_error"].items())
            if stain["validated"]
            else "by Otsu, not validated: no annotated cells"
        )
        said.append(
            f"stain  from {stain['tiles']} train and val tiles of {stain['source']}: a nucleus is positive above "
            f"{stain['nucleus_dab']:.3f} OD of DAB ({how}), nuclei found by {stain['finder']}"
        )
    return said + [f"note   {note}" for note in document["notes"]]


def _tps_lines(document: Mapping[str, Any]) -> list[str]:
    """Who judged TPS, what it was held to, and where it saw nothing."""
    kept, judge = document["limits"], document["tps_judge"]
    if judge is None:
        return ["bound  not used: no TPS is audited"]
    bound = f"bound  |requested - TPS by {judge}| <= {kept['bound']:g}"
    if not kept["rejects_by_tps"]:
        why = (
            "its threshold is not validated on annotated cells"
            if judge == "stain"
            else "its TPS was measured on no real tile (--real with annotated TPS)"
        )
        bound += f": shown only; {why}, so no tile is flagged by it"
    unseen = document["audited"]["no_tps"]
    what = "nuclei" if judge == "stain" else "tumour"
    if not unseen:
        return [bound]
    claiming = unseen + document["audited"]["tps"].get("audited_tps", {"tiles": 0})["tiles"]
    return [bound, f"no_tps the {judge} sees no {what} in {unseen} of {claiming} tiles that claim a TPS"]


def _markdown(document: Mapping[str, Any]) -> str:
    text = [
        f"# Audit of {document['dataset']}",
        "",
        f"Weights `{document['weights']}`, scheme {document['scheme']}, split {document['split']}. "
        "Labels are as they were; flagged rows are left out of `accepted.parquet`. Not for diagnosis.",
        "",
    ]
    if not document["own_error"]:
        text += [
            "**The audit's own error is unknown** (no real tiles were given): a flag says that judge and tile "
            "disagree, not who is right.",
            "",
        ]
    for table in tables(document):
        header = [str(column.header) for column in table.columns]
        text += [f"## {table.title}", "", _row(header), _row(["---"] * len(header))]
        text += [_row(cells) for cells in zip(*(list(column.cells) for column in table.columns), strict=True)]
        text.append("")
    text += [f"- {line}" for line in lines(document)]
    return "\n".join([*text, "", f"![requested against audited]({PLOT})", ""])


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"
