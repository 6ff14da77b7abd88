"""The report of `experiments.sharp_gan`: the paper's table with intervals, beside the published values, and a sheet."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.arms import Pixels
from factory.core.statistics import BootstrapConfig, Estimate, crossed_bootstrap_mean
from factory.learn.sample_sheet import write_sample_sheet
from manifests.files import write_atomic
from manifests.labels import LabelScheme

RESULTS = Path("docs/results/reports")
MEASURES = ("SSIM", "FSIM", "GMSD", "AJI")
_SHOWN = 6
Key = tuple[str, int]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunFigures:
    """Scores of one run on every crop.

    Attributes:
        quality: float64 [N, 3], SSIM, FSIM and GMSD against the real image. aji: float64 [N], of the segmenter.
    """

    quality: Floats
    aji: Floats

    def of(self, measure: str) -> Floats:
        """Values of one of `MEASURES`, float64 [N]."""
        return self.aji if measure == "AJI" else self.quality[:, MEASURES.index(measure)]


@dataclass(frozen=True)
class Scored:
    """Results of the experiment on N crops of held-out patients.

    Attributes:
        figures: of every finished run. ceiling: float64 [N], AJI of the segmenter in the real images.
        groups: the patient of each view. distances: Frechet distances by features: of the ``runs`` and the ``floor``.
        images: of every finished run, uint8 [N, H, W, 3].
        views: uint8 [N, H, W, 8], see `factory.learn.crops.NucleiCrops`.
        scheme: of the masks.
    """

    figures: Mapping[Key, RunFigures]
    ceiling: Floats
    groups: tuple[str, ...]
    distances: Mapping[str, Mapping[str, Any]]
    images: Mapping[Key, Pixels]
    views: Pixels
    scheme: LabelScheme

    def seeds(self, arm: str) -> list[int]:
        """Finished seeds of an arm."""
        return sorted(seed for name, seed in self.figures if name == arm)

    def values(self, arm: str, measure: str, seeds: Sequence[int]) -> Floats:
        """Values of an arm's runs on every crop: float64 [seeds, N]."""
        return np.stack([self.figures[arm, seed].of(measure) for seed in seeds])


def write_report(name: str, protocol: Mapping[str, Any], scored: Scored, out: Path) -> None:
    """Write the protocol's .md and .json into `RESULTS`, and the sheet, which has real images, into `out`."""
    bootstrap = BootstrapConfig(resamples=protocol["resamples"])
    arms = [arm for arm in protocol["arms"] if scored.seeds(arm)]
    levels = {
        (arm, measure): crossed_bootstrap_mean(scored.values(arm, measure, scored.seeds(arm)), scored.groups, bootstrap)
        for arm in arms
        for measure in MEASURES
    }
    real = crossed_bootstrap_mean(scored.ceiling[None], scored.groups, bootstrap)
    size, shown = ("x".join(map(str, protocol[key])) for key in ("size", "view_size"))
    lines = [
        "# Enhanced Sharp-GAN: do the skeleton map and the terms of contours help?",
        "",
        f"`python -m experiments.sharp_gan --protocol {name}`, `configs/experiments/{name}.yaml`: "
        f"{protocol['base']} with "
        f"{protocol['set']}, {protocol['steps']} steps of 4 views of {size}, {len(protocol['seeds'])} seeds planned; "
        f"{protocol['views']} views of {shown} of {len(set(scored.groups))} {protocol['split']} patients, each "
        "rendered from its mask. 95 % intervals over seeds and patients. GMSD: lower is better. AJI: of the starter "
        "weights of `segment` in the images, against the masks; above that of the real images nuclei are easier to "
        "find than real ones.",
        "",
        *_table(protocol, arms, levels, scored),
        f"| real images | | | | | {_shown(real)} | {_floors(scored.distances)} | |",
        "",
        "Differences to the row above, of the same seeds and views:",
        "",
        *_steps(arms, scored, bootstrap),
    ]
    document = {
        "protocol": dict(protocol),
        "levels": [{"arm": arm, "measure": measure, **vars(e)} for (arm, measure), e in levels.items()],
        "seeds": {arm: scored.seeds(arm) for arm in arms},
        "real_aji": vars(real),
        "distances": {
            key: {"floor": each["floor"], "runs": [[*run, value] for run, value in each["runs"].items()]}
            for key, each in scored.distances.items()
        },
    }
    stem = name.replace("_", "-")
    for folder in (RESULTS, out):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{stem}.md", ("\n".join(lines) + "\n").encode())
        write_atomic(folder / f"{stem}.json", json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    first = [scored.images[arm, scored.seeds(arm)[0]][:_SHOWN] for arm in arms]
    masks, reals = scored.views[:_SHOWN, ..., 0], scored.views[:_SHOWN, ..., 1:4]
    write_sample_sheet(out / "sheet.png", [masks, *first, reals], scored.scheme)


def _table(
    protocol: Mapping[str, Any], arms: Sequence[str], levels: Mapping[tuple[str, str], Estimate], scored: Scored
) -> list[str]:
    features = ", ".join(scored.distances) or "no features"
    lines = [f"| | seeds | {' | '.join(MEASURES)} | {features} | published |", "|---" * 8 + "|"]
    for arm in arms:
        cells = " | ".join(_shown(levels[arm, measure]) for measure in MEASURES)
        away = "; ".join(
            ", ".join(f"{value:.1f}" for (name, _), value in each["runs"].items() if name == arm)
            for each in scored.distances.values()
        )
        known = ", ".join(f"{value:.3f}" for value in protocol.get("published", {}).get(arm, []))
        lines.append(f"| {arm} | {', '.join(map(str, scored.seeds(arm)))} | {cells} | {away} | {known} |")
    return lines


def _steps(arms: Sequence[str], scored: Scored, bootstrap: BootstrapConfig) -> list[str]:
    lines = [f"| | seeds | {' | '.join(MEASURES)} |", "|---" * 6 + "|"]
    for above, arm in itertools.pairwise(arms):
        seeds = sorted({*scored.seeds(above)} & {*scored.seeds(arm)})
        if not seeds:
            continue
        gains = (scored.values(arm, each, seeds) - scored.values(above, each, seeds) for each in MEASURES)
        cells = " | ".join(_shown(crossed_bootstrap_mean(gain, scored.groups, bootstrap), sign="+") for gain in gains)
        lines.append(f"| {arm} - {above} | {', '.join(map(str, seeds))} | {cells} |")
    return lines


def _shown(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _floors(distances: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(f"{each['floor']:.1f} (views of the train patients)" for each in distances.values())
