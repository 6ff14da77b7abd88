"""Scores of a quiz as text and tables (`scores.md`), and as plain values (`scores.json`)."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

from factory.quiz.scoring import Agreement, Part, Reader, Scores, Share
from factory.quiz.sources import KINDS
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER

MARKDOWN, JSON = "scores.md", "scores.json"
READER_HEADINGS = ("reader", "right", "accuracy [95 %]", "sensitivity", "specificity", "p, guessing", "s a tile")
MATRIX_HEADINGS = ("reader", *(f"{truth}: said {said}" for truth in KINDS for said in KINDS))
AGREEMENT_HEADINGS = ("reader", "and", "same answer [95 %]", "Cohen's kappa")
NOTE = (
    "Sensitivity: synthetic tiles called synthetic. Specificity: real tiles called real. Intervals: Wilson, 95 %. p: "
    "exact two-sided binomial test against 0.5."
)
PART_NOTE = (
    "Shares called what they are. TPS is that of the piece shown, by its mask. Nothing is corrected for how many parts "
    "there are."
)


def write_scores(folder: Path, scores: Scores) -> list[Path]:
    """Writes both files; earlier ones are replaced.

    Raises:
        UserError: when `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: expected a folder, got a file. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / MARKDOWN, folder / JSON]
    write_atomic(paths[0], to_markdown(scores).encode())
    write_atomic(paths[1], (json.dumps(to_document(scores), indent=1, ensure_ascii=False) + "\n").encode())
    return paths


def reader_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Returns the main table, under `READER_HEADINGS`."""
    rows: list[tuple[str, ...]] = []
    for reader, table in zip(scores.readers, scores.tables, strict=True):
        right, seconds = table.accuracy, reader.median_seconds
        rows.append(
            (
                reader.name,
                f"{right.count} of {right.total}",
                _with_interval(right),
                _with_interval(table.sensitivity),
                _with_interval(table.specificity),
                f"{table.p_value:.3f}" if table.p_value >= 0.001 else "< 0.001",
                "-" if seconds is None else f"{seconds:.1f}",
            )
        )
    return rows


def matrix_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Returns the confusion matrices, a row for every reader, under `MATRIX_HEADINGS`."""
    return [
        (reader.name, *map(str, astuple(table)))  # in the order of `KINDS` twice
        for reader, table in zip(scores.readers, scores.tables, strict=True)
    ]


def part_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Returns shares of correct answers by generator and TPS, under `part_headings`."""
    return [
        (part.by, part.truth, part.name, str(part.right[0].total), *(_with_interval(share) for share in part.right))
        for part in scores.parts
    ]


def part_headings(scores: Scores) -> tuple[str, ...]:
    """Returns the headings of `part_rows`, with a column for every reader."""
    return ("by", "tiles that are", "of", "tiles", *(reader.name for reader in scores.readers))


def agreement_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Returns the agreement of every two readers, under `AGREEMENT_HEADINGS`."""
    return [
        (one.first, one.second, _with_interval(one.same), "-" if one.kappa is None else f"{one.kappa:.2f}")
        for one in scores.agreements
    ]


def verdict(reader: Reader, right: Share) -> str:
    """Returns a sentence that interprets an accuracy."""
    assert right.interval is not None
    low, high = right.interval
    if low > 0.5:
        return f"{reader.name} told synthetic tiles from real ones more often than guessing would."
    if high < 0.5:
        return f"{reader.name} saw a difference but read it the wrong way round: right less often than by guessing."
    return (
        f"{reader.name}: no difference from guessing shown. An accuracy up to {100 * high:.0f} % is not ruled out by "
        f"{right.total} tiles."
    )


def to_markdown(scores: Scores) -> str:
    """Returns the content of `scores.md`."""
    made = scores.key.made_of
    lines = [
        "# Real or synthetic?",
        "",
        f"Quiz `{scores.key.quiz}`: {len(scores.key.tiles)} tiles of {made.get('height')}x{made.get('width')} pixels "
        f"at {made.get('mpp')} um per pixel. Contains figures on synthetic images, {DISCLAIMER}.",
        "",
        *_table(READER_HEADINGS, reader_rows(scores)),
        "",
        *(f"- {verdict(one, table.accuracy)}" for one, table in zip(scores.readers, scores.tables, strict=True)),
    ]
    if len(scores.readers) > 1:
        lines.append(f"- Mean accuracy of {len(scores.readers)} readers: {100 * scores.mean_accuracy:.1f} %.")
    lines += ["", NOTE, "", *_table(MATRIX_HEADINGS, matrix_rows(scores))]
    lines += ["", *_table(part_headings(scores), part_rows(scores)), "", PART_NOTE]
    if scores.agreements:
        lines += ["", *_table(AGREEMENT_HEADINGS, agreement_rows(scores))]
    return "\n".join(lines) + "\n"


def to_document(scores: Scores) -> dict[str, Any]:
    """Returns the content of `scores.json`."""
    return {
        "quiz": scores.key.quiz,
        "use": f"figures on synthetic images, {DISCLAIMER}",
        "made_of": dict(scores.key.made_of),
        "readers": [
            {
                "reader": reader.name,
                "confusion": {
                    "real": {"real": table.real_as_real, "synthetic": table.real_as_synthetic},
                    "synthetic": {"real": table.synthetic_as_real, "synthetic": table.synthetic_as_synthetic},
                },
                "accuracy": _share(table.accuracy),
                "sensitivity": _share(table.sensitivity),
                "specificity": _share(table.specificity),
                "p_against_guessing": table.p_value,
                "median_seconds": reader.median_seconds,
            }
            for reader, table in zip(scores.readers, scores.tables, strict=True)
        ],
        "mean_accuracy": scores.mean_accuracy,
        "parts": [_part(part, scores) for part in scores.parts],
        "agreement": [_agreement(one) for one in scores.agreements],
    }


def _part(part: Part, scores: Scores) -> dict[str, Any]:
    right = {reader.name: _share(share) for reader, share in zip(scores.readers, part.right, strict=True)}
    return {"by": part.by, "name": part.name, "truth": part.truth, "tiles": part.right[0].total, "right": right}


def _agreement(one: Agreement) -> dict[str, Any]:
    return {"readers": [one.first, one.second], "same": _share(one.same), "kappa": one.kappa}


def _share(share: Share) -> dict[str, Any]:
    interval = None if share.interval is None else list(share.interval)
    return {"count": share.count, "total": share.total, "value": share.value, "interval": interval}


def _with_interval(share: Share) -> str:
    if share.value is None or share.interval is None:
        return "-"
    low, high = share.interval
    return f"{100 * share.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(headings), "|" + "---|" * len(headings), *(line(row) for row in rows)]
