"""`segment score`: label maps against label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from segment.scoring.images import ImageScore
    from segment.scoring.pairs import Pairs
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
    from manifests.errors import UserError

    if classes and semantic:
        raise UserError("--classes: expected without --semantic, got both. --semantic scores classes pixel by pixel.")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: expected at least 1, got {workers}.")
    if seed < 0:
        raise UserError(f"--seed: expected 0 or more, got {seed}.")
    if json_path is not None and (json_path.is_dir() or not json_path.parent.is_dir()):
        raise UserError(f"--json: expected a file in an existing folder, got {json_path}. Make the folder first.")

    from segment.scoring import report
    from segment.scoring.pairs import groups_of, open_pairs
    from segment.scoring.totals import summarise

    mode: Mode = "semantic" if semantic else "instances and classes" if classes else "instances"
    pairs = open_pairs(truth, pred, mode, ignore_unpaired=ignore_unpaired)
    summary = summarise(_score(pairs, groups_of(pairs, group_pattern), mode, workers), seed=seed)
    names = report.class_names(summary.labels, pairs.scheme.names if pairs.scheme else None)
    notes = [*report.notes_of(summary, semantic=semantic), *pairs.notes]
    if pairs.unpaired:
        notes.append(f"left out {len(pairs.unpaired)} names that one side lacks, among them {pairs.unpaired[0]}")
    if json_path is not None:
        settings = {
            "truth": str(truth),
            "pred": str(pred),
            "scored": mode,
            "group_pattern": group_pattern,
            "seed": seed,
        }
        _write_json(json_path, report.document(summary, names, {**settings, "unpaired": list(pairs.unpaired)}))
        notes.append(f"wrote {json_path}")

    from factory.core.console import console

    terminal = console()
    terminal.print(report.image_table(summary, semantic=semantic, everything=everything))
    terminal.print(report.total_table(summary, names, semantic=semantic))
    for note in notes:
        terminal.print(note, markup=False, highlight=False, soft_wrap=True)


def _score(pairs: Pairs, groups: Sequence[str], mode: Mode, workers: int | None) -> list[ImageScore]:
    import os

    from factory.core.console import progress
    from segment.scoring.images import score_all
    from segment.scoring.instances import score_instances
    from segment.scoring.semantic import refuse_binary_truth, score_classes

    group_of = dict(zip(pairs.names, groups, strict=True))
    labels = None
    if mode == "instances and classes":
        labels = pairs.scheme.ids("nucleus") if pairs.scheme else ()

    def score_one(name: str) -> ImageScore:
        maps = pairs.truth.read(name), pairs.pred.read(name)
        if mode == "semantic":
            return score_classes(name, group_of[name], *maps)
        return score_instances(name, group_of[name], *maps, labels)

    with progress("scoring", len(pairs.names), unit="images") as bar:
        scores = score_all(pairs.names, score_one, workers=workers or os.cpu_count() or 1, on_image=bar.advance)
    if mode == "semantic":
        refuse_binary_truth(scores)
    return scores


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    import json

    from manifests.files import write_atomic

    write_atomic(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
