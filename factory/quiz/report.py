"""Scores of a quiz as text and tables (`scores.md`), and as plain values (`scores.json`)."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

from factory.core.document import Block, Bullets, Grid, to_markdown
from factory.quiz.scoring import Agreement, Part, Reader, Scores, Share
from factory.quiz.sources import KINDS
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER

MARKDOWN, JSON = "scores.md", "scores.json"
_NOTE = (
    "Sensitivity: synthetic tiles called synthetic. Specificity: real tiles called real. Intervals: Wilson, 95 %. p: "
    "exact two-sided binomial test against 0.5."
)
_PART_NOTE = (
    "Shares called what they are. TPS is that of the piece shown, by its mask. Nothing is corrected for how many parts "
    "there are."
)


def write_scores(folder: Path, scores: Scores) -> list[Path]:
    """Writes both files; earlier ones are replaced."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: expected a folder, got a file. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / MARKDOWN, folder / JSON]
    write_atomic(paths[0], markdown(scores).encode())
    write_atomic(paths[1], (json.dumps(to_document(scores), indent=1, ensure_ascii=False) + "\n").encode())
    return paths


def grids(scores: Scores) -> list[Grid]:
    """Returns the tables: readers, confusion matrices, parts by generator and TPS, and agreement of readers."""
    readers = []
    for reader, table in zip(scores.readers, scores.tables, strict=True):
        right, seconds = table.accuracy, reader.median_seconds
        shares = map(_with_interval, (right, table.sensitivity, table.specificity))
        p_value = f"{table.p_value:.3f}" if table.p_value >= 0.001 else "< 0.001"
        done = "-" if seconds is None else f"{seconds:.1f}"
        readers.append((reader.name, f"{right.count} of {right.total}", *shares, p_value, done))
    names = [reader.name for reader in scores.readers]
    matrices = [(name, *map(str, astuple(table))) for name, table in zip(names, scores.tables, strict=True)]
    parts = [
        (part.by, part.truth, part.name, str(part.right[0].total), *map(_with_interval, part.right))
        for part in scores.parts
    ]
    agreements = [
        (one.first, one.second, _with_interval(one.same), "-" if one.kappa is None else f"{one.kappa:.2f}")
        for one in scores.agreements
    ]
    of_readers = ("reader", "right", "accuracy [95 %]", "sensitivity", "specificity", "p, guessing", "s a tile")
    of_matrices = ("reader", *(f"{truth}: said {said}" for truth in KINDS for said in KINDS))
    found = [
        Grid(of_readers, readers, "Readers", aligned=False),
        Grid(of_matrices, matrices, "Confusion", aligned=False),
        Grid(("by", "tiles that are", "of", "tiles", *names), parts, "Called what they are", aligned=False),
        Grid(("reader", "and", "same answer [95 %]", "Cohen's kappa"), agreements, "Agreement", aligned=False),
    ]
    return [grid for grid in found if grid.rows]


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


def markdown(scores: Scores) -> str:
    """Returns the content of `scores.md`."""
    made = scores.key.made_of
    verdicts = [verdict(one, table.accuracy) for one, table in zip(scores.readers, scores.tables, strict=True)]
    if len(scores.readers) > 1:
        verdicts.append(f"Mean accuracy of {len(scores.readers)} readers: {100 * scores.mean_accuracy:.1f} %.")
    readers, matrices, parts, *agreement = grids(scores)
    quiz = (
        f"Quiz `{scores.key.quiz}`: {len(scores.key.tiles)} tiles of {made.get('height')}x{made.get('width')} pixels "
        f"at {made.get('mpp')} um per pixel. Contains figures on synthetic images, {DISCLAIMER}."
    )
    blocks: list[Block] = [quiz, readers, Bullets(verdicts), _NOTE]
    blocks += [matrices, parts, _PART_NOTE, *agreement]
    return to_markdown("Real or synthetic?", blocks)


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
