"""Report of `experiments.noise_frequency`: every run, the curve over spacings, the share of the gain, and a sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from experiments.arms import Arm
from factory.learn.sample_sheet import write_sample_sheet
from manifests.files import write_atomic
from manifests.labels import LabelScheme

matplotlib.use("Agg")

RESULTS = Path("docs/results/reports")
POLYGONS, CELLS = "polygons", "polygons + air + cells"
_SHOWN = 5


def noise_arm(spacing_um: float) -> str:
    """Name of the arm with noise of a spacing."""
    return f"noise {spacing_um:g} um"


Key = tuple[str, int]
Draws = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ArmFigures:
    """Distances on one kind of features.

    Attributes:
        distances: (arm, seed) -> Frechet distance. draws: the same over the bootstrap's draws.
        floor: distance of real training views from the test views: other patients, real images.
    """

    distances: Mapping[Key, float]
    draws: Mapping[Key, Draws]
    floor: float

    def mean(self, arm: str) -> float | None:
        """Over seeds; None where none is finished."""
        values = [value for (name, _), value in self.distances.items() if name == arm]
        return float(np.mean(values)) if values else None

    def mean_draws(self, arm: str) -> Draws:
        """Mean of every draw over seeds drawn with replacement, independently for each arm."""
        values = np.array([values for (name, _), values in self.draws.items() if name == arm])
        rng = np.random.default_rng([ord(letter) for letter in arm])
        drawn = rng.integers(0, len(values), values.shape)
        return np.asarray(np.take_along_axis(values, drawn, 0).mean(0), np.float64)


def write_report(
    protocol: Mapping[str, Any],
    arms: Sequence[Arm],
    found: Mapping[str, ArmFigures],
    fakes: Mapping[Key, npt.NDArray[np.uint8]],
    views: npt.NDArray[np.uint8],
    scheme: LabelScheme,
    out: Path,
) -> None:
    """Write noise-frequency.md, .json and .png into `RESULTS`, and the sheet, which has real images, into `out`."""
    size, shown = ("x".join(map(str, protocol[name])) for name in ("size", "view_size"))
    lines = [
        "# Noise in the right frequency: Ki-67 standing in for PD-L1",
        "",
        f"`python -m experiments.noise_frequency`, `configs/experiments/noise_frequency.yaml`: {protocol['base']} with "
        f"{protocol['set']}, {protocol['steps']} steps of 4 views of {size}, seeds {protocol['seeds']}; "
        f"{protocol['views']} views of {shown} of held-out patients. Frechet distances of the features named: none "
        "is an FID. Intervals: 95 % over draws of whole patients, the same for all, and of seeds, for every "
        "arm by itself.",
    ]
    document: dict[str, Any] = {"protocol": dict(protocol), "features": {}}
    for name, figures in found.items():
        lines += ["", f"## {name}", "", *_table(arms, figures), "", *_answers(protocol, figures)]
        document["features"][name] = {
            "floor": figures.floor,
            "runs": [
                {"arm": arm, "seed": seed, "distance": value, "interval": _interval(figures.draws[arm, seed])}
                for (arm, seed), value in figures.distances.items()
            ],
            "answers": _answers(protocol, figures),
        }
    for folder in (RESULTS, out):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "noise-frequency.md", ("\n".join(lines) + "\n").encode())
        write_atomic(folder / "noise-frequency.json", json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        _plot(protocol, found, folder / "noise-frequency.png")
    columns = [views[:_SHOWN, ..., 0], *(images[:_SHOWN] for images in fakes.values()), views[:_SHOWN, ..., 1:]]
    write_sample_sheet(out / "sheet.png", columns, scheme)


def _table(arms: Sequence[Arm], figures: ArmFigures) -> list[str]:
    lines = ["| condition | runs | distance | 95 % interval |", "|---|---|---|---|"]
    for arm in arms:
        values = [value for (name, _), value in figures.distances.items() if name == arm.name]
        if values:
            low, high = _interval(figures.mean_draws(arm.name))
            each = ", ".join(f"{value:.4g}" for value in values)
            lines.append(f"| {arm.name} | {each} | {np.mean(values):.4g} | {low:.4g} to {high:.4g} |")
    return [*lines, f"| real images of the training patients | | {figures.floor:.4g} | |"]


def _answers(protocol: Mapping[str, Any], figures: ArmFigures) -> list[str]:
    """The two questions: which spacing, and how much of the gain of real cells."""
    noise = _spacings(protocol, figures)
    if not noise or figures.mean(POLYGONS) is None:
        return []
    means = {name: figures.mean(name) or 0.0 for name in noise}
    best = min(means, key=lambda name: means[name])
    draws = np.stack([figures.mean_draws(name) for name in noise])
    wins = np.bincount(draws.argmin(0), minlength=len(noise)) / draws.shape[1]
    often = ", ".join(f"{noise[name]:g} um {share:.0%}" for name, share in zip(noise, wins, strict=True) if share)
    lines = [f"Smallest distance: {best}. Over the draws the smallest is at {often}.", ""]
    fixed_um = protocol["fixed_um"]
    fixed = next((name for name in noise if noise[name] == fixed_um), None)
    if fixed:
        lines += [_gain(figures, fixed, f"At {fixed_um:g} um, the cells' own distance, fixed beforehand"), ""]
    return [*lines, _gain(figures, best, f"At the best, {best}, which was chosen on these same views")]


def _spacings(protocol: Mapping[str, Any], figures: ArmFigures) -> dict[str, float]:
    """The arms with noise that are trained, and their spacings in um."""
    arms = {noise_arm(spacing): float(spacing) for spacing in protocol["spacings_um"]}
    return {name: spacing for name, spacing in arms.items() if figures.mean(name) is not None}


def _gain(figures: ArmFigures, name: str, where: str) -> str:
    """Gain of noise over polygons alone, and its share of the gain of real cells."""
    without, made = figures.mean(POLYGONS) or 0.0, figures.mean(name) or 0.0
    gain = figures.mean_draws(POLYGONS) - figures.mean_draws(name)
    low, high = _interval(gain)
    text = f"{where}: polygons / noise {without / made:.2f} (the paper: 1.76), difference {without - made:.4g} "
    text += f"({low:.4g} to {high:.4g})"
    cells = figures.mean(CELLS)
    if cells is None:
        return f"{text}."
    low, high = _interval(gain / (figures.mean_draws(POLYGONS) - figures.mean_draws(CELLS)))
    share = (without - made) / (without - cells)
    return f"{text}; share of the gain of real cells {share:.0%} ({low:.0%} to {high:.0%}; the paper: 87 %)."


def _interval(draws: Draws) -> list[float]:
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return [float(low), float(high)]


def _plot(protocol: Mapping[str, Any], found: Mapping[str, ArmFigures], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, max(len(found), 1), figsize=(5.2 * max(len(found), 1), 3.8), squeeze=False)
    for axis, (name, figures) in zip(axes[0], found.items(), strict=False):
        _curve(axis, protocol, figures)
        axis.set_title(name, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _curve(axis: Axes, protocol: Mapping[str, Any], figures: ArmFigures) -> None:
    noise = _spacings(protocol, figures)
    spacings = list(noise.values())
    means = np.array([figures.mean(name) for name in noise])
    spread = np.array([_interval(figures.mean_draws(name)) for name in noise]).reshape(-1, 2)
    axis.axvspan(*protocol["cell_spacing_um"], color="0.9", label="distance of cells")
    axis.errorbar(spacings, means, np.abs(spread.T - means), marker="o", capsize=3, label="polygons + noise")
    for name, style in ((POLYGONS, "--"), (CELLS, "-.")):
        if figures.mean(name) is not None:
            axis.axhline(float(figures.mean(name) or 0.0), linestyle=style, color="0.2", label=name)
    axis.axhline(figures.floor, linestyle=":", color="tab:green", label="real, other patients")
    axis.set_xscale("log")
    axis.set_xticks(spacings, [f"{spacing:g}" for spacing in spacings])
    axis.minorticks_off()
    axis.set_xlabel("mean distance of noise pixels, um")
    axis.set_ylabel("Frechet distance")
    axis.legend(fontsize=7)
