"""The report of `bench.hdgan`: what each figure is measured against, said beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.picking import quantile_error
from factory.report import kolmogorov_smirnov
from manifests.dataset import Dataset
from manifests.files import write_atomic

_WORDS = {
    "rendered tiles, exact truth": "the annotator: its Dice is the ceiling of whatever learns from its labels",
    "pairs of the labeller": "the test that counts: images of the generator with labels read off it, nothing else",
    "the annotated samples alone": "what a person's annotations teach without a labeller",
}


@dataclass(frozen=True)
class Figures:
    """Dice of a segmenter: over how many tiles, and by class, None where the class is nowhere."""

    tiles: int
    dice: Mapping[str, float | None]

    @property
    def mean(self) -> float:
        """Over the classes that occur."""
        return float(np.mean([value for value in self.dice.values() if value is not None]))


def write_report(
    protocol: Mapping[str, Any], found: Mapping[str, Figures], held_out: Path, asked: Dataset, results: Path
) -> None:
    """Write hdgan.md and hdgan.json.

    Args:
        protocol: of the experiment. found: the segmenters by what they learnt from, on held-out rendered tiles.
        held_out: figures of `factory train hdgan`. asked: tiles chosen to meet a distribution. results: the folder.
    """
    labeller = json.loads(held_out.read_text())
    control, wanted = _control(asked), protocol["asked"]
    document = {
        "protocol": dict(protocol),
        "labeller_against_annotator": {key: labeller[key] for key in ("images", "mean_dice", "accuracy", "classes")},
        "calibration_error": labeller["calibration"]["error"],
        "segmenters_against_exact_truth": {
            name: {"tiles": each.tiles, "mean_dice": each.mean, "dice": dict(each.dice)} for name, each in found.items()
        },
        "control": control,
    }
    size, tiles = "x".join(map(str, protocol["size"])), next(iter(found.values())).tiles
    names = [each["name"] for each in labeller["classes"]]
    lines = [
        "# Labels read off a generator, where the truth is exact",
        "",
        f"`python -m bench.hdgan`, `configs/experiments/hdgan.yaml`: StyleGAN2 ({protocol['generator']['config']}, "
        f"{protocol['generator']['steps']} steps) on {protocol['tiles']} tiles of {size} that `stain` rendered. Nobody "
        f"annotated: a segmenter trained on the exact truth of those tiles labelled {protocol['samples']} samples, "
        f"{protocol['annotated']} of them for the labeller. One run, no intervals; rendered tiles are no tissue.",
        "",
        "## The labeller against its annotator",
        "",
        f"On {labeller['images']} held-out images of the generator, against the segmenter's labels, not against truth:",
        "",
        f"| | mean Dice | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
        f"| Dice | {labeller['mean_dice']:.3f} | {_cells([each['dice'] for each in labeller['classes']])} |",
        f"| accuracy of the class | | {_cells([each['accuracy'] for each in labeller['classes']])} |",
        "",
        f"Calibration error {labeller['calibration']['error']:.3f}. Published: mean Dice 0.92 on 4096x4096 kidney "
        "tiles against a person's annotation, five classes.",
        "",
        "## Segmenters against exact truth",
        "",
        f"One network and budget ({protocol['segmenter']['steps']} steps); {tiles} rendered tiles that nothing was "
        "trained on:",
        "",
        f"| learnt from | mean Dice | {' | '.join(names)} | what it says |",
        "|---" * (3 + len(names)) + "|",
        *(
            f"| {name} | {each.mean:.3f} | {_cells([each.dice[label] for label in names])} | {_WORDS[name]} |"
            for name, each in found.items()
        ),
        "",
        "## Control",
        "",
        f"TPS {wanted['tps']} asked of {control['tiles']} tiles, chosen from {wanted['pool']}: mean "
        f"distance {control['mean_distance']:.3f}, largest {control['largest']:.3f}, quantile error "
        f"{control['quantile_error']:.3f}, KS {control['ks']:.3f}. TPS is that of the labels.",
    ]
    results.mkdir(parents=True, exist_ok=True)
    write_atomic(results / "hdgan.json", json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    write_atomic(results / "hdgan.md", "\n".join(lines).encode() + b"\n")
    print("\n".join(lines), flush=True)


def _control(dataset: Dataset) -> dict[str, float]:
    """How near chosen tiles come to the TPS that was asked; those without tumour are counted, and no more."""
    column = "tps_cells" if dataset.schemes[0].tps_basis == "cells" else "tps_area"
    asked, got = (
        dataset.table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("request_tps", column)
    )
    known = np.isfinite(got)
    asked, got = asked[known], got[known]
    distance = np.abs(asked - got)
    return {
        "tiles": len(dataset),
        "without_tumour": int((~known).sum()),
        "mean_distance": float(distance.mean()),
        "largest": float(distance.max()),
        "quantile_error": quantile_error(asked, got),
        "ks": kolmogorov_smirnov(asked, got),
    }


def _cells(values: list[float | None]) -> str:
    return " | ".join("-" if value is None else f"{value:.3f}" for value in values)
