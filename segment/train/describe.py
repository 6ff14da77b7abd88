"""Lines that a training run prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.fit import FitResult
from segment.metrics.names import METRICS
from segment.train.run import Experiment
from segment.train.task import best_row


def describe(experiment: Experiment) -> list[str]:
    """Lines printed at the start of a training run."""
    config, lines = experiment.config, []
    for source in experiment.sources:
        counts = {split: len(source.split(split)) for split in ("train", "val", "test")}
        tiles = ", ".join(f"{count} {split}" for split, count in counts.items())
        schemes = ", ".join(sorted(scheme.name for scheme in source.dataset.schemes))
        lines.append(f"{source.role:5}  {source.path}: {tiles} tiles, scheme {schemes}")
    lines.append(f"scheme {experiment.scheme.name}: {', '.join(experiment.scheme.names)}")
    if config.real_fraction < 1:
        for source, part in zip(experiment.sources, experiment.training, strict=True):
            if source.role == "real":
                groups = len(part.table["group_id"].unique())
                lines.append(f"learns {len(part)} of the real training tiles, from {groups} patients or slides")
    if len(experiment.sources) > 1:
        lines.append(f"mix    {_describe_mix(experiment)}")
    assert config.crop is not None
    lines.append(
        f"train  {config.network.name} with {config.network.encoder}, {config.steps} steps of {config.batch} "
        f"crops of {config.crop[0]}x{config.crop[1]}, lr {config.lr:g}, seed {config.seed}, {config.precision}"
    )
    return lines + [f"note   {note}" for note in experiment.notes]


def _describe_mix(experiment: Experiment) -> str:
    config, mix = experiment.config, experiment.config.parsed_mix
    if mix.pretrained:
        first = mix.pretraining_steps(config.steps)
        rest = f", then real tiles with {mix.synth_share:.1%} synthetic ones" if mix.synth_share else ", then real ones"
        return f"{first} steps on synthetic tiles{rest} for {config.steps - first} steps"
    if mix.last_share is not None:
        return f"{mix.synth_share:.1%} of the tiles drawn are synthetic at first, {mix.last_share:.1%} at the end"
    how = "by pixels" if mix.synth_share is None else "asked"
    return f"{experiment.synth_share:.1%} of the tiles drawn are synthetic ({how})"


def describe_validation(row: Mapping[str, Any]) -> str:
    """Line printed for a row of the history."""
    scores = ", ".join(
        f"{METRICS[name].short_label} {METRICS[name].show(row[f'val_{name}'])}"
        for name in ("mean_iou", "dice", "aji", "pq")
        if f"val_{name}" in row
    )
    return (
        f"step {row['step']}: loss {row['loss']:.4f}, validation {scores}, "
        f"{row['steps_per_s']:.2f} steps/s, {row['wait_share']:.1%} of the time waiting for data"
    )


def describe_result(result: FitResult, experiment: Experiment) -> list[str]:
    """Lines printed at the end of a training run; the last is the command that scores its weights."""
    out = experiment.out
    if result.start == result.step:
        lines = [f"nothing to do: {out} has its {result.step} steps"]
    else:
        lines = [
            f"trained steps {result.start + 1}-{result.step}: {result.steps_per_s:.2f} steps/s, "
            f"{result.wait_share:.1%} of the time waiting for data"
        ]
    score = "mean of AJI and PQ" if experiment.head.distance else "mIoU"
    best = best_row(result.history)
    shown = METRICS["mean_iou"].show(best["val_score"])
    lines.append(f"best weights: step {best['step']}, validation {score} {shown}, in {out}")
    elsewhere = [
        f" --{source.role} {source.dataset.root}"
        for source in experiment.sources
        if source.dataset.root != Path("data") / source.role
    ]
    return [*lines, f"score them: segment evaluate --weights {out}{''.join(elsewhere)}"]
