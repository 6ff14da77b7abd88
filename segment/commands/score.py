"""`segment score`: label maps against label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factory.core.options import INPUT, OUTPUT, RUNNING, Heading

if TYPE_CHECKING:
    from segment.scoring.label_sets import Mode, Pairs
    from segment.scoring.scores import ImageScore

_MEASURES = Heading("Measures")


def score(
    truth: Annotated[
        Path, INPUT("Folder of true label maps (PNG, TIFF, BMP, NPY, HoVer-Net's MAT, cellpose), or a data set.")
    ],
    pred: Annotated[Path, INPUT("Folder of predicted label maps with the same names, or a data set.")],
    ignore_unpaired: Annotated[
        bool, INPUT("Leave out names that are missing on one side instead of refusing.")
    ] = False,
    group_pattern: Annotated[
        str | None,
        INPUT(
            "Regular expression on the name; its first group is the patient or slide, which the bootstrap draws "
            "whole. [default: the group of a data set, else every image]"
        ),
    ] = None,
    classes: Annotated[
        bool,
        _MEASURES("Score nuclei class by class as well (mPQ, bPQ): class maps in the folder classes of either side."),
    ] = False,
    semantic: Annotated[
        bool, _MEASURES("The maps contain classes, not instance ids: mIoU and Dice; 255 = ignore.")
    ] = False,
    seed: Annotated[int, _MEASURES("Seed of the bootstrap.", min=0)] = 0,
    json_path: Annotated[Path | None, OUTPUT("File for all figures of all images. [default: none]", "--json")] = None,
    everything: Annotated[bool, OUTPUT("Show every image; otherwise the 20 worst of a longer set.", "--all")] = False,
    workers: Annotated[int | None, RUNNING("Threads. [default: one per core]", min=1)] = None,
) -> None:
    """Score predicted label maps against the truth, from any tool; per image, mean and pooled, with intervals.

    Instance maps: AJI, AJI+, DQ, SQ, PQ, Dice of the foreground, object Dice, F1, HD95, boundary F1. Class maps
    (--semantic): mIoU, wIoU, wPrecision, wRecall, Dice. Files pair by name without suffix. Below either folder,
    instances/ and classes/ are used where they exist.

    Examples:
      segment score --truth labels/ --pred predicted/
      segment score --truth data/real --pred predicted/ --classes --json scores.json
    """
    from manifests.errors import UserError

    if classes and semantic:
        raise UserError("--classes: expected without --semantic, got both. --semantic scores classes pixel by pixel.")
    if json_path is not None:
        _refuse_unwritable(json_path)

    from factory.core.document import to_table
    from factory.core.images.label_maps import refused_where_unreadable
    from segment.scoring import report
    from segment.scoring.label_sets import groups_of, open_pairs
    from segment.scoring.scores import summarise

    mode: Mode = "semantic" if semantic else "instances and classes" if classes else "instances"
    with refused_where_unreadable():
        pairs = open_pairs(truth, pred, mode, ignore_unpaired=ignore_unpaired)
        scores = _score(pairs, groups_of(pairs, group_pattern), mode, workers)
    summary = summarise(scores, seed=seed)
    names = report.class_names(summary.labels, pairs.scheme.names if pairs.scheme else None)
    notes = [*report.notes_of(summary, semantic=semantic), *pairs.notes]
    if pairs.unpaired:
        notes.append(f"left out {len(pairs.unpaired)} names that one side lacks, among them {pairs.unpaired[0]}")

    from factory.core.console import say

    say(
        to_table(report.image_grid(summary, semantic=semantic, everything=everything)),
        to_table(report.total_grid(summary, names, semantic=semantic)),
        *notes,
    )
    if json_path is not None:
        settings = {
            "truth": str(truth),
            "pred": str(pred),
            "scored": mode,
            "group_pattern": group_pattern,
            "seed": seed,
            "unpaired": list(pairs.unpaired),
        }
        _write_json(json_path, report.document(summary, names, settings))
        say(f"wrote {json_path}")


def _score(pairs: Pairs, groups: Sequence[str], mode: Mode, workers: int | None) -> list[ImageScore]:

    from factory.core.console import progress
    from factory.core.devices import parse_workers
    from segment.scoring.scores import refuse_binary_truth, score_all, score_classes, score_instances

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
        scores = score_all(pairs.names, score_one, workers=parse_workers(workers), on_image=bar.advance)
    if mode == "semantic":
        refuse_binary_truth(scores)
    return scores


def _refuse_unwritable(path: Path) -> None:
    """Find out before hours of scoring that the result has no place to go.

    Raises:
        UserError: when it is a folder, its folder is not there, or nothing can be written into that.
    """
    import os
    import tempfile

    from manifests.errors import UserError

    try:
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--json: expected a file in an existing folder, got {path}. Make the folder first.")
        # Permission bits say nothing of root, /proc or a read-only medium, so a file without a name is tried.
        tempfile.TemporaryFile(dir=path.parent).close()
        may_replace = not path.exists() or (path.is_file() and os.access(path, os.W_OK))
    except OSError:
        may_replace = False
    if not may_replace:
        raise UserError(f"--json: expected a file that can be written, got {path}. Choose another.")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    from factory.core.encoding import json_bytes
    from manifests.errors import FaultError
    from manifests.files import write_atomic

    try:
        write_atomic(path, json_bytes(document))
    except OSError as error:
        raise FaultError(
            f"{path}: {error.strerror}. The figures stand above; for the file, score again with another --json."
        ) from error
