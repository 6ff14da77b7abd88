"""What a person sees of a run and of an evaluation: tables on the terminal, JSON and Markdown in the run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from manifests.files import write_atomic
from segment.evaluate.evaluate import ImageScore, summarise
from segment.train.loop import FitResult
from segment.train.run import Experiment

NAMES = {
    "mean_iou": "mIoU",
    "wiou": "wIoU",
    "wprecision": "wPrecision",
    "wrecall": "wRecall",
    "dice": "Dice, mean of classes",
    "cross_entropy": "cross entropy",
    "t_objective": "tObjective",
    "dq": "DQ",
    "sq": "SQ",
    "pq": "PQ",
    "aji": "AJI",
    "aji_plus": "AJI+",
    "mpq": "mPQ",
    "foreground_dice": "Dice of nuclei",
    "object_dice": "object Dice",
    "f1_50": "F1, IoU > 0.5",
    "f1_70": "F1, IoU > 0.7",
    "f1_90": "F1, IoU > 0.9",
    "boundary_f1": "boundary F1, 2 px",
    "hd95_um": "HD95, um",
    "tps_error": "TPS error",
}
"""Figures by their names in the literature, in the order shown."""


def describe(experiment: Experiment) -> list[str]:
    """The lines that a training run starts with."""
    config, lines = experiment.config, []
    for source in experiment.sources:
        counts = {split: len(source.split(split)) for split in ("train", "val", "test")}
        said = ", ".join(f"{count} {split}" for split, count in counts.items())
        schemes = ", ".join(sorted(scheme.name for scheme in source.dataset.schemes))
        lines.append(f"{source.role:5}  {source.path}: {said} tiles, scheme {schemes}")
    lines.append(f"scheme {experiment.scheme.name}: {', '.join(experiment.scheme.names)}")
    if config.real_fraction < 1:
        for source, part in zip(experiment.sources, experiment.training, strict=True):
            if source.role == "real":
                groups = len(part.table["group_id"].unique())
                lines.append(f"learns {len(part)} of the real training tiles, from {groups} patients or slides")
    if len(experiment.sources) > 1:
        how = "asked" if ":" in config.mix else "by pixels"
        lines.append(f"mix    {experiment.synth_share:.1%} of the tiles drawn are synthetic ({how})")
    assert config.crop is not None
    lines.append(
        f"train  {config.network.name} with {config.network.encoder}, {config.steps} steps of {config.batch} "
        f"views of {config.crop[0]}x{config.crop[1]}, lr {config.lr:g}, seed {config.seed}, {config.precision}"
    )
    return lines + [f"note   {note}" for note in experiment.notes]


def describe_validation(row: Mapping[str, Any]) -> str:
    """One line of a row of the history."""
    scores = ", ".join(
        f"{NAMES[name]} {_show(row[f'val_{name}'])}"
        for name in ("mean_iou", "dice", "aji", "pq")
        if f"val_{name}" in row
    )
    return (
        f"step {row['step']}: loss {row['loss']:.4f}, validation {scores}, "
        f"{row['steps_per_s']:.2f} steps/s, {row['wait_share']:.1%} of the time waiting for data"
    )


def describe_result(result: FitResult, experiment: Experiment) -> list[str]:
    """The lines that a training run ends with; the last one scores its weights on the data sets it was given."""
    out = experiment.out
    if result.start == result.step:
        lines = [f"nothing to do: {out} has its {result.step} steps"]
    else:
        lines = [
            f"trained steps {result.start + 1}-{result.step}: {result.steps_per_s:.2f} steps/s, "
            f"{result.wait_share:.1%} of the time waiting for data"
        ]
    score = "mean of AJI and PQ" if experiment.head.distance else "mIoU"
    lines.append(f"best weights: step {result.best_step}, validation {score} {_show(result.best_score)}, in {out}")
    elsewhere = [
        f" --{source.role} {source.dataset.root}"
        for source in experiment.sources
        if source.dataset.root != Path("data") / source.role
    ]
    return [*lines, f"score them: segment evaluate --weights {out}{''.join(elsewhere)}"]


def evaluation_document(scores: Sequence[ImageScore], header: Mapping[str, Any], scheme: Any) -> dict[str, Any]:
    """The JSON of an evaluation: header, per image, and per source ``mean`` and ``pooled``; null where undefined.

    Args:
        scores: of every image. scheme: of the weights.
        header: weights, step, split, scheme (its name) and unit: "whole image" or "tile".
    """
    sources = {role: [s for s in scores if s.source == role] for role in dict.fromkeys(s.source for s in scores)}
    document: dict[str, Any] = _finite(
        {
            **header,
            "sources": {role: summarise(part, scheme) for role, part in sources.items()},
            "images": [{"name": s.name, "source": s.source, "group": s.group, **s.figures} for s in scores],
        }
    )
    return document


def evaluation_tables(document: Mapping[str, Any]) -> list[Table]:
    """Tables for the terminal: figures by source, then TPS where it has a meaning."""
    table = Table(title=f"{document['split']} split, scheme {document['scheme']}, scored by {document['unit']}")
    table.add_column("")
    for role, part in document["sources"].items():
        for kind in ("mean", "pooled"):
            table.add_column(f"{role} ({part['images']}), {kind}", justify="right")
    for name, label in NAMES.items():
        cells = [part[kind].get(name) for part in document["sources"].values() for kind in ("mean", "pooled")]
        if any(cell is not None for cell in cells):
            table.add_row(label, *(_show(cell) for cell in cells))
    tables = [table]
    for role, part in document["sources"].items():
        if part["tps"]:
            tables.append(_tps_table(role, part["tps"]))
    return tables


def _tps_table(role: str, tps: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{role}: TPS by {tps['basis']}, mean absolute error {_show(tps['mae'])}, images: {tps['images']}"
    )
    table.add_column("truth \\ prediction")
    for name in tps["classes"]:
        table.add_column(name, justify="right")
    for name, counts in zip(tps["classes"], tps["confusion"], strict=False):
        table.add_row(name, *(str(count) for count in counts))
    return table


def write_evaluation(document: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write ``evaluation-<split>.json`` and ``.md``, with ``-tiles`` for tile-wise scores; returns their paths."""
    stem = folder / f"evaluation-{document['split']}{'-tiles' if document['unit'] == 'tile' else ''}"
    paths = stem.with_suffix(".json"), stem.with_suffix(".md")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(paths[0], (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    write_atomic(paths[1], _markdown(document).encode())
    return paths


def _markdown(document: Mapping[str, Any]) -> str:
    lines = [
        f"# Evaluation on the {document['split']} split",
        "",
        f"Weights `{document['weights']}` (step {document['step']}), scheme {document['scheme']}, scored by "
        f"{document['unit']}. Mean: over {document['unit']}s, undefined ones left out. Pooled: of the summed counts. "
        "Not for diagnosis.",
    ]
    for table in evaluation_tables(document):
        header = [str(column.header) or "metric" for column in table.columns]
        lines += ["", f"## {table.title}", "", _row(header), _row(["---"] * len(header))]
        lines += [_row(cells) for cells in zip(*(list(column.cells) for column in table.columns), strict=True)]
    for role, part in document["sources"].items():
        left_out = ", ".join(f"{NAMES.get(name, name)} {count}" for name, count in part["left_out"].items())
        if left_out:
            lines += ["", f"{role}: images left out of the mean, where nothing can be scored: {left_out}."]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
