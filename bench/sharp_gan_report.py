"""The report of `bench.sharp_gan`: the paper's table with intervals, beside what was published, and a sheet."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.arms import Pixels
from factory.sample_sheet import write_sample_sheet
from manifests.files import write_atomic
from manifests.labels import LabelScheme
from segment.compare.config import BootstrapConfig
from segment.compare.statistics import Estimate, bootstrap_mean

RESULTS = Path("bench/results")
MEASURES = ("SSIM", "FSIM", "GMSD", "AJI")
_SHOWN = 6
Key = tuple[str, int]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunFigures:
    """Of one run on every view.

    Attributes:
        quality: float64 [N, 3], SSIM, FSIM and GMSD against the real image. aji: float64 [N], of the segmenter.
    """

    quality: Floats
    aji: Floats

    def of(self, measure: str) -> Floats:
        """Values of one of `MEASURES`, float64 [N]."""
        return self.aji if measure == "AJI" else self.quality[:, MEASURES.index(measure)]


def write_report(
    name: str,
    protocol: Mapping[str, Any],
    found: Mapping[Key, RunFigures],
    ceiling: Floats,
    groups: Sequence[str],
    distances: Mapping[str, Mapping[str, Any]],
    images: Mapping[Key, Pixels],
    views: Pixels,
    scheme: LabelScheme,
    out: Path,
) -> None:
    """Write the protocol's .md and .json into `RESULTS`, and the sheet, which has real images, into `out`."""
    bootstrap = BootstrapConfig(resamples=protocol["resamples"])
    arms = [name for name in protocol["arms"] if any(arm == name for arm, _ in found)]
    values = {
        (arm, measure): np.array([run.of(measure) for (name, _), run in found.items() if name == arm])
        for arm in arms
        for measure in MEASURES
    }
    levels = {key: bootstrap_mean(each, tuple(groups), bootstrap) for key, each in values.items()}
    real = bootstrap_mean(ceiling[None], tuple(groups), bootstrap)
    size, shown = ("x".join(map(str, protocol[name])) for name in ("size", "view_size"))
    lines = [
        "# Enhanced Sharp-GAN: do the skeleton map and the terms of contours help?",
        "",
        f"`python -m bench.sharp_gan --protocol {name}`, `configs/experiments/{name}.yaml`: {protocol['base']} with "
        f"{protocol['set']}, {protocol['steps']} steps of 4 views of {size}, seeds {protocol['seeds']}; "
        f"{protocol['views']} views of {shown} of {len(set(groups))} held-out patients, each rendered "
        "from its mask. 95 % intervals over seeds and patients. GMSD: lower is better. AJI: of the starter weights of "
        "`segment` in the images, against the masks.",
        "",
        *_table(protocol, arms, levels, distances),
        f"| real images | | | | {_shown(real)} | {_floors(distances)} |",
        "",
        "Differences to the row above, pairs of one seed and view:",
        "",
        *_steps(arms, values, groups, bootstrap),
    ]
    document = {
        "protocol": dict(protocol),
        "levels": [{"arm": arm, "measure": measure, **vars(e)} for (arm, measure), e in levels.items()],
        "real_aji": vars(real),
        "distances": {
            name: {"floor": each["floor"], "runs": [[*key, value] for key, value in each["runs"].items()]}
            for name, each in distances.items()
        },
    }
    stem = name.replace("_", "-")
    for folder in (RESULTS, out):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{stem}.md", ("\n".join(lines) + "\n").encode())
        write_atomic(folder / f"{stem}.json", json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    first = [next(images[key] for key in images if key[0] == arm)[:_SHOWN] for arm in arms]
    write_sample_sheet(out / "sheet.png", [views[:_SHOWN, ..., 0], *first, views[:_SHOWN, ..., 1:4]], scheme)


def _table(
    protocol: Mapping[str, Any],
    arms: Sequence[str],
    levels: Mapping[tuple[str, str], Estimate],
    distances: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    lines = [f"| | {' | '.join(MEASURES)} | {', '.join(distances) or 'no features'} | published |", "|---" * 7 + "|"]
    for arm in arms:
        cells = " | ".join(_shown(levels[arm, measure]) for measure in MEASURES)
        away = "; ".join(
            ", ".join(f"{value:.1f}" for (name, _), value in each["runs"].items() if name == arm)
            for each in distances.values()
        )
        known = ", ".join(
            "?" if value is None else f"{value:.3f}" for value in protocol.get("published", {}).get(arm, [])
        )
        lines.append(f"| {arm} | {cells} | {away} | {known} |")
    return lines


def _steps(
    arms: Sequence[str], values: Mapping[tuple[str, str], Floats], groups: Sequence[str], bootstrap: BootstrapConfig
) -> list[str]:
    lines = [f"| | {' | '.join(MEASURES)} |", "|---" * 5 + "|"]
    for above, arm in itertools.pairwise(arms):
        count = min(len(values[above, "AJI"]), len(values[arm, "AJI"]))
        cells = " | ".join(
            _shown(
                bootstrap_mean(values[arm, m][:count] - values[above, m][:count], tuple(groups), bootstrap), sign="+"
            )
            for m in MEASURES
        )
        lines.append(f"| {arm} - {above} | {cells} |")
    return lines


def _shown(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _floors(distances: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(f"{each['floor']:.1f} (views of the train patients)" for each in distances.values())
