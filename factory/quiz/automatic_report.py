"""Answers of the automatic readers as a table, as text (`automatic.md`), and as plain values (`automatic.json`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factory.core.datasets import check_out
from factory.core.document import Block, Bullets, Grid, to_markdown
from factory.core.folder import is_begun, library_versions
from factory.quiz.automatic import AS_THEY_ARE, Answered, AutomaticScores, Rate
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER

MARKDOWN, JSON = "automatic.md", "automatic.json"
_HEADINGS = (
    "tiles", "reader", "accuracy [95 %]", "sensitivity", "specificity", "control: real against other real"
)  # fmt: skip
_NOTE = (
    "Accuracy of 50 %: synthetic and real tiles cannot be told apart. Sensitivity: synthetic tiles called synthetic. "
    "Specificity: real tiles called real. Every tile is answered by readers that learnt from other patients and other "
    "synthetic tiles. Intervals: bootstrap over patients of the real and, independently, over the synthetic tiles, and "
    "never narrower than Wilson's; the readers are not trained again for them. Control: the same readers on random "
    "halves of the real patients, mean (lowest to highest)."
)


def grid(answers: Sequence[Answered]) -> Grid:
    """Returns the table, view by view."""
    rows = [
        (one.view, one.reader, *map(percent, (one.accuracy, one.sensitivity, one.specificity)), control(one))
        for one in answers
    ]
    return Grid(_HEADINGS, rows, "Automatic readers", aligned=False)


def percent(rate: Rate) -> str:
    """A share with its interval, in percent."""
    return f"{100 * rate.value:.1f} % [{100 * rate.interval.low:.1f}, {100 * rate.interval.high:.1f}]"


def control(answered: Answered) -> str:
    """Mean of the control, and its lowest and highest draw."""
    if not answered.control:
        return "too few patients"
    mean = sum(answered.control) / len(answered.control)
    return f"{100 * mean:.0f} % ({100 * min(answered.control):.0f} to {100 * max(answered.control):.0f})"


def verdict(answers: Sequence[Answered]) -> str:
    """Returns a sentence on the best reader of the tiles as they are."""
    best = max((one for one in answers if one.view == AS_THEY_ARE), key=lambda one: one.accuracy.value)
    low, high = best.accuracy.interval.low, best.accuracy.interval.high
    if low > 0.5:
        return f"{best.reader} tells synthetic tiles from real ones: right for {100 * best.accuracy.value:.0f} %."
    return f"No difference from guessing shown; an accuracy up to {100 * high:.0f} % is not ruled out."


def markdown(scores: AutomaticScores) -> str:
    """Returns the content of `automatic.md`."""
    made = scores.made_of
    what = (
        f"{scores.tiles} tiles of {made['height']}x{made['width']} pixels at {made['mpp']} um per pixel, half of them "
        f"real, of {scores.patients} patients or slides. Features: {scores.config.features} ({scores.origin}). "
        f"Contains figures on synthetic images, {DISCLAIMER}."
    )
    blocks: list[Block] = [what, grid(scores.answers), verdict(scores.answers), _NOTE]
    return to_markdown("Real or synthetic?", [*blocks, *([Bullets(scores.notes)] if scores.notes else [])])


def to_document(scores: AutomaticScores) -> dict[str, Any]:
    """Returns the content of `automatic.json`."""
    return {
        "what": "factory quiz --automatic",
        "use": f"figures on synthetic images, {DISCLAIMER}",
        "made_of": dict(scores.made_of),
        "tiles": scores.tiles,
        "patients": scores.patients,
        "config": scores.config.model_dump(mode="json"),
        "features": scores.origin,
        "answers": [asdict(one) for one in scores.answers],
        "notes": list(scores.notes),
        "versions": library_versions("numpy", "torch", "timm", "scikit-learn", "opencv-python-headless"),
    }


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder in a data set, one with other files, and one with earlier scores unless they are overwritten.

    Raises:
        UserError: with what is in the way.
    """
    check_out(out)
    if is_begun(out, "scores of automatic readers", (MARKDOWN, JSON).__contains__) and not overwrite:
        raise UserError(f"{out}: expected an empty folder, got scores in it. Use another --out, or --overwrite.")


def write_automatic(out: Path, scores: AutomaticScores) -> list[Path]:
    """Writes both files and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    document = json.dumps(to_document(scores), indent=1, allow_nan=False) + "\n"
    write_atomic(out / MARKDOWN, markdown(scores).encode())
    write_atomic(out / JSON, document.encode())
    return [out / MARKDOWN, out / JSON]
