"""The report of `experiments.hdgan`: every figure with its reference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.hdgan_scores import Counts, Floats, Measure, accuracy, dice, draws, interval, mean_of_classes
from factory.core.statistics import ks_statistic
from factory.plan.assignment import quantile_error
from manifests.files import write_atomic
from manifests.labels import LabelScheme

_DIFFERENCES = (
    ("pairs", "samples", "what the labeller makes of the annotations"),
    ("pairs", "few rendered", "what they teach against as many annotations of real images"),
    ("pairs", "same images", "what labels of the labeller lose against its annotator's on the same images"),
    ("same images", "rendered", "what generated images with an annotator's labels lose against real ones with truth"),
)
"""Segmenters whose Dice is subtracted, and what the difference says."""


@dataclass(frozen=True)
class Control:
    """TPS of tiles chosen to meet a distribution, float64 [tiles] each: requested, by labels, by images."""

    asked: Floats
    labels: Floats
    images: Floats


@dataclass(frozen=True)
class Found:
    """Results of the experiment.

    Attributes:
        scheme: of all labels. segmenters: by their training data, int64 [seeds, tiles, C, C] against exact truth.
        labellers: int64 [labellers, images, C, C] against the annotator. held_out: figures of the first one's training.
        control: of TPS.
    """

    scheme: LabelScheme
    segmenters: Mapping[str, Counts]
    labellers: Counts
    held_out: Path
    control: Control


def write_report(protocol: Mapping[str, Any], found: Found, results: Path) -> None:
    """Write hdgan.md and hdgan.json into the folder of results."""
    resamples, names = protocol["resamples"], found.scheme.names
    calibration = json.loads(found.held_out.read_text())["calibration"]["error"]
    control = _control(found.control)
    document = {
        "protocol": dict(protocol),
        "labellers_against_annotator": _figures(found.labellers, names, resamples),
        "calibration_error": calibration,
        "segmenters_against_exact_truth": {
            name: _figures(counts, names, resamples) for name, counts in found.segmenters.items()
        },
        "differences_of_mean_dice": {
            f"{ours} - {theirs}": _difference(found, ours, theirs, resamples) for ours, theirs, _ in _DIFFERENCES
        },
        "control": control,
    }
    lines = [
        *_head(protocol),
        *_of_labellers(found, document["labellers_against_annotator"], calibration),
        *_of_segmenters(protocol, found, document["segmenters_against_exact_truth"]),
        *_of_differences(document["differences_of_mean_dice"]),
        *_of_control(protocol, control),
    ]
    results.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(results / "hdgan.json", content.encode() + b"\n")
    write_atomic(results / "hdgan.md", "\n".join(lines).encode() + b"\n")
    print("\n".join(lines), flush=True)


def _head(protocol: Mapping[str, Any]) -> list[str]:
    size, generator, trained = "x".join(map(str, protocol["size"])), protocol["generator"], protocol["compare"]["train"]
    return [
        "# Labels read off a generator, where the truth is exact",
        "",
        f"`python -m experiments.hdgan`, `configs/experiments/hdgan.yaml`. Real images are {protocol['tiles']} tiles "
        "of "
        f"{size} that `stain` rendered, whose truth is exact ({_shares(protocol)}); rendered tiles are no tissue. One "
        f"StyleGAN2 ({generator['config']}, {generator['steps']} steps) learnt the images of the train split. Nobody "
        "annotated: the annotator is a segmenter that learnt their truth. "
        f"{protocol['labellers']} labellers ({protocol['labeller']['config']}) learnt from {protocol['annotated']} "
        f"samples each, none twice. Segmenters: {protocol['compare']['seeds']} seeds of {trained['steps']} steps of "
        f"{trained['batch']} views, one network and budget, no augmentation, by `segment compare`, whose own report "
        "(mIoU, AJI, PQ) is [hdgan-compare.md](hdgan-compare.md). Dice and accuracy are of the most probable class of "
        "every pixel, over all images together; 95 % intervals over seeds (or labellers) and images. There is one "
        "generator: what another would give is in no interval.",
        "",
    ]


def _of_labellers(found: Found, figures: Mapping[str, Any], calibration: float) -> list[str]:
    images = found.labellers.shape[1]
    return [
        "## Labellers against their annotator",
        "",
        f"On {images} samples that none of them saw, against the annotator's labels and not against truth, which "
        "generated images do not have; the annotator's own Dice against truth is the first row of the next table. "
        "Published (Rizvi et al.): mean Dice 0.92, 16 images of 4096x4096 to learn from, 16 to test on, five classes, "
        "annotated by a person.",
        "",
        _row("", "mean", *found.scheme.names),
        "|---" * (2 + len(found.scheme)) + "|",
        _row("Dice", *(_shown(each) for each in figures["dice"].values())),
        _row("accuracy of the class", *(_shown(each) for each in figures["accuracy"].values())),
        "",
        f"Calibration error of the first: {calibration:.3f}.",
        "",
    ]


def _of_segmenters(protocol: Mapping[str, Any], found: Found, figures: Mapping[str, Any]) -> list[str]:
    tiles = next(iter(found.segmenters.values())).shape[1]
    real, pairs = round(protocol["tiles"] * protocol["split"][0]), protocol["pairs"]
    few = max(math.floor(protocol["compare"]["fractions"][0] * real + 0.5), 1)
    learnt = {
        "rendered": f"{real} rendered tiles, exact truth: the ceiling; the annotator is its first seed",
        "few rendered": f"{few} rendered tiles, exact truth: what as many annotations of real images teach",
        "pairs": f"**{pairs} generated images, labels of the labeller: the test that counts**",
        "same images": "the same images, labels of the annotator: the labeller taken out",
        "samples": f"{protocol['annotated']} samples, labels of the annotator: what the annotations teach alone",
    }
    return [
        "## Segmenters against exact truth",
        "",
        f"Dice on {tiles} rendered tiles that nothing was trained on:",
        "",
        _row("learnt from", "mean", *found.scheme.names),
        "|---" * (2 + len(found.scheme)) + "|",
        *(_row(learnt[name], *(_shown(each) for each in figures[name]["dice"].values())) for name in found.segmenters),
        "",
    ]


def _of_differences(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        _row(f"{ours} - {theirs}", _shown(figures[f"{ours} - {theirs}"], sign="+"), says)
        for ours, theirs, says in _DIFFERENCES
    ]
    head = "Differences in mean Dice, of the same seeds and tiles:", "", _row("", "", "what it says"), "|---" * 3 + "|"
    return [*head, *rows, ""]


def _of_control(protocol: Mapping[str, Any], control: Mapping[str, Any]) -> list[str]:
    wanted = protocol["asked"]
    return [
        "## Control",
        "",
        f"TPS {wanted['tps']} asked of {wanted['n']} tiles, chosen from {wanted['pool']}. `labels`: what the labeller "
        "says, by which they were chosen; `images`: what the annotator reads off the same images.",
        "",
        _row("", "tiles with tumour", "mean distance", "largest", "quantile error", "KS"),
        "|---" * 6 + "|",
        *(
            _row(name, str(each["tiles"]), *(_plain(each[key]) for key in ("mean", "largest", "quantile_error", "ks")))
            for name, each in control.items()
        ),
    ]


def _figures(counts: Counts, names: Sequence[str], resamples: int) -> dict[str, Any]:
    """Dice and accuracy by class and in the mean, each with its interval."""
    measures: dict[str, Measure] = {"dice": dice, "accuracy": accuracy}
    found: dict[str, Any] = {"seeds": counts.shape[0], "images": counts.shape[1]}
    for measure, of in measures.items():
        drawn = draws(counts, of, resamples)
        columns = {"mean": mean_of_classes(drawn), **{name: drawn[:, place] for place, name in enumerate(names)}}
        found[measure] = {name: _known(interval(column)) for name, column in columns.items()}
    return found


def _difference(found: Found, ours: str, theirs: str, resamples: int) -> list[float | None]:
    of = (mean_of_classes(draws(found.segmenters[name], dice, resamples)) for name in (ours, theirs))
    higher, lower = of
    return _known(interval(higher - lower))


def _control(control: Control) -> dict[str, dict[str, float | None]]:
    """Error of TPS against the request, by labels and by images, over the tiles with tumour."""
    found: dict[str, dict[str, float | None]] = {}
    for name, got in (("labels", control.labels), ("images", control.images)):
        known = np.isfinite(got)
        found[name] = {"tiles": int(known.sum()), "mean": None, "largest": None, "quantile_error": None, "ks": None}
        if known.any():
            asked, there = control.asked[known].astype(np.float64), got[known].astype(np.float64)
            distance = np.abs(asked - there)
            found[name] |= {
                "mean": float(distance.mean()),
                "largest": float(distance.max()),
                "quantile_error": quantile_error(asked, there),
                "ks": ks_statistic(asked, there),
            }
    return found


def _known(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _shown(values: Sequence[float | None], sign: str = "") -> str:
    mean, low, high = values
    if mean is None or low is None or high is None:
        return _plain(mean)
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _shares(protocol: Mapping[str, Any]) -> str:
    train, _, test = (round(share * protocol["tiles"]) for share in protocol["split"])
    return f"{train} to learn from, {test} to test on"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
