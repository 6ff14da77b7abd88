"""`segment score`: label maps against label maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from segment.scoring.sets import Mode


def score(
    truth: Annotated[Path, typer.Option(help="Folder of true label maps (PNG, TIFF, NPY), or a data set.")],
    pred: Annotated[Path, typer.Option(help="Folder of predicted label maps with the same names, or a data set.")],
    classes: Annotated[
        bool,
        typer.Option(
            "--classes",
            help="Score nuclei class by class as well (mPQ, bPQ): class maps in the folder classes of either side.",
        ),
    ] = False,
    semantic: Annotated[
        bool, typer.Option("--semantic", help="The maps hold classes, not instance ids: mIoU and Dice; 255 = ignore.")
    ] = False,
    ignore_unpaired: Annotated[
        bool, typer.Option("--ignore-unpaired", help="Leave out names that one side lacks instead of refusing.")
    ] = False,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression on the name; its first group is patient or slide, drawn whole in the intervals. "
            "[default: the group of a data set, else every image]"
        ),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="File for all figures of all images. [default: none]")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every image; otherwise the 20 worst of a longer set.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Threads. [default: one per core]")] = None,
) -> None:
    """Score predicted label maps against the truth, whoever made them; per image, mean and pooled, with intervals.

    Instance maps: AJI, AJI+, DQ, SQ, PQ, Dice of the foreground, object Dice, F1, HD95, boundary F1. Class maps
    (--semantic): mIoU, wIoU, wPrecision, wRecall, Dice. Files pair by name without suffix. Below either folder,
    instances/ and classes/ are used where they are.
    """
    import os

    from manifests.errors import UserError

    if classes and semantic:
        raise UserError("--classes: expected without --semantic, got both. --semantic scores classes pixel by pixel.")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: expected at least 1, got {workers}.")
    if seed < 0:
        raise UserError(f"--seed: expected 0 or more, got {seed}.")
    if json_path is not None and json_path.is_dir():
        raise UserError(f"--json: expected a file, got the folder {json_path}. Write e.g. {json_path}/scores.json.")

    from segment.scoring.sets import groups_of, open_pairs

    mode: Mode = "semantic" if semantic else "instances and classes" if classes else "instances"
    pairs = open_pairs(truth, pred, mode, ignore_unpaired=ignore_unpaired)
    groups = dict(zip(pairs.names, groups_of(pairs, group_pattern), strict=True))

    import json

    from factory.core.console import console, progress
    from manifests.files import write_atomic
    from segment.scoring import report
    from segment.scoring.images import ImageScore, score_all
    from segment.scoring.instances import score_instances
    from segment.scoring.semantic import score_classes
    from segment.scoring.totals import LEVEL, RESAMPLES, summarise

    nuclei = (pairs.scheme.ids("nucleus") if pairs.scheme else ()) if classes else None

    def score_one(name: str) -> ImageScore:
        maps = pairs.truth.read(name), pairs.pred.read(name)
        return score_classes(name, groups[name], *maps) if semantic else score_instances(name, groups[name], *maps, nuclei)

    with progress("scoring", len(pairs.names), unit="images") as bar:
        scores = score_all(pairs.names, score_one, workers=workers or os.cpu_count() or 1, on_image=bar.advance)
    summary = summarise(scores, seed=seed)
    names = report.class_names(summary.labels, pairs.scheme.names if pairs.scheme else None)

    terminal = console()
    terminal.print(report.image_table(summary, semantic=semantic, everything=everything))
    terminal.print(report.total_table(summary, names, semantic=semantic))
    notes = [*report.notes_of(summary, semantic=semantic), *pairs.notes]
    if pairs.unpaired:
        notes.append(f"left out {len(pairs.unpaired)} names that one side lacks: {', '.join(pairs.unpaired[:3])}, ...")
    for note in notes:
        terminal.print(note, markup=False, highlight=False, soft_wrap=True)
    if json_path is not None:
        settings = {
            "truth": str(truth), "pred": str(pred), "scored": mode, "unpaired": list(pairs.unpaired),
            "group_pattern": group_pattern, "resamples": RESAMPLES, "level": LEVEL, "seed": seed,
        }  # fmt: skip
        text = json.dumps(report.document(summary, names, settings), indent=2, allow_nan=False)
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(json_path, (text + "\n").encode())
        terminal.print(f"wrote {json_path}", markup=False, highlight=False, soft_wrap=True)
