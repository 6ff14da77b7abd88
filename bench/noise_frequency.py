"""pix2pixHD with noise of eight spacings, without, and with real cells: train, score on held-out patients. Resumes.

    python -m bench.noise_frequency train --data data/ki67r [--arms "polygons,noise 7.5 um"]
    python -m bench.noise_frequency score --data data/ki67r [--encoder lite0.safetensors]

The protocol is configs/experiments/noise_frequency.yaml. What is finished is skipped; a second call of `train` may run
beside the first with other arms. The report is bench/results/noise-frequency.md, .json and .png; a sheet of samples,
which has real images in it, is left in --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.noise_frequency_report import ArmFigures, write_report
from factory.cells_by_colour import with_cells
from factory.conditions import draw_condition
from factory.core.config import configs_dir, parse, read_yaml
from factory.core.malloc import keep_freed_memory
from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.realism.features import extract, open_extractor
from factory.realism.frechet import frechet_distance
from factory.renderers import RENDERERS
from factory.trained import scheme_of
from factory.views import ImageViews, Tiles, open_tiles
from manifests.labels import LabelScheme
from manifests.tile import Tile

PROTOCOL = "experiments/noise_frequency.yaml"
POLYGONS, CELLS = "polygons", "polygons + air + cells"
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """One renderer to train: name, lesson, shipped config and condition map; `spacing_um` of its noise, if any."""

    name: str
    lesson: str
    config: str
    condition: dict[str, Any]
    spacing_um: float | None = None

    @property
    def renderer(self) -> str:
        """Name in the table of renderers."""
        return self.lesson.rpartition("/")[2]

    def folder(self, out: Path, seed: int) -> Path:
        """Of its run."""
        return out / f"{self.name.replace(' ', '-').replace('+', 'and')}-{seed}"


def arms_of(protocol: dict[str, Any]) -> list[Arm]:
    """All arms, in the order in which they are trained: first those that the question is about."""
    lesson, base = "pix2pixhd", protocol["base"]
    arms = [Arm(POLYGONS, lesson, base, {"kind": "polygons"}), Arm(CELLS, lesson, base, {"kind": "polygons+air+cells"})]
    for spacing in protocol["spacings_um"]:
        condition = {"kind": "polygons+noise", "spacing_um": spacing}
        arms.append(Arm(f"noise {spacing:g} um", lesson, base, condition, float(spacing)))
    return arms + [Arm(name, **plan) for name, plan in protocol["baselines"].items()]


def main() -> None:
    """Do one part of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "score"))
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/noise-frequency"))
    parser.add_argument("--arms", help="comma-separated; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--encoder", type=Path, help="safetensors of the timm features; left out without")
    arguments = parser.parse_args()
    keep_freed_memory()
    protocol = read_yaml(configs_dir() / PROTOCOL)
    wanted = None if arguments.arms is None else [name.strip() for name in arguments.arms.split(",")]
    arms = [arm for arm in arms_of(protocol) if wanted is None or arm.name in wanted]
    if arguments.part == "train":
        for seed in protocol["seeds"]:
            for arm in arms:
                train(protocol, arm, seed, arguments)
    else:
        score(protocol, arms, arguments)


def train(protocol: dict[str, Any], arm: Arm, seed: int, arguments: argparse.Namespace) -> None:
    """Train one arm with the ordinary command; goes on where it was, and skips what is finished."""
    if _is_finished(arm.folder(arguments.out, seed), protocol["steps"]):
        return
    values = {f"condition.{key}": value for key, value in arm.condition.items()} | {"threads": arguments.threads}
    values |= protocol["set"] if arm.lesson == "pix2pixhd" else {}
    command: list[object] = [
        sys.executable,
        "-m",
        "factory.cli",
        "train",
        arm.lesson,
        "--config",
        arm.config,
        "--resume",
    ]
    command += [word for path in arguments.data for word in ("--data", path)]
    command += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    command += ["--size", "x".join(map(str, protocol["size"])), "--steps", protocol["steps"], "--seed", seed]
    command += ["--device", "cpu", "--out", arm.folder(arguments.out, seed)]
    subprocess.run(list(map(str, command)), check=True)


def score(protocol: dict[str, Any], arms: list[Arm], arguments: argparse.Namespace) -> None:
    """Render the test masks with every arm that is trained, and compare with the test images."""
    tiles = open_tiles(arguments.data, None, tuple(protocol["view_size"]), 1, split="test")
    pixels, groups = _views(tiles, protocol)
    reals = pixels[..., 1:]
    floor = _views(open_tiles(arguments.data, None, tuple(protocol["view_size"]), 1), protocol)[0][..., 1:]
    fakes: dict[tuple[str, int], Pixels] = {}
    for seed in protocol["seeds"]:
        for arm in arms:
            folder = arm.folder(arguments.out, seed)
            if _is_finished(folder, protocol["steps"]):
                fakes[arm.name, seed] = render(arm, folder, pixels, tiles.mpp, tiles.scheme, seed)
    found = {}
    for name in protocol["features"]:
        if name.startswith("timm:") and arguments.encoder is None:
            continue
        extractor = open_extractor(name, arguments.encoder if name.startswith("timm:") else None)
        real, training = (extract(extractor, part) for part in (reals, floor))
        made = {key: extract(extractor, part) for key, part in fakes.items()}
        found[extractor.distance] = _figures(made, real, training, groups, protocol)
    write_report(protocol, arms, found, fakes, pixels, tiles.scheme, arguments.out)


def _is_finished(folder: Path, steps: int) -> bool:
    card = folder / "best.json"
    return card.is_file() and json.loads(card.read_text())["step"] == steps


def _views(tiles: Tiles, protocol: dict[str, Any]) -> tuple[Pixels, list[str]]:
    """Views of real tiles, uint8 [N, h, w, 4], and the patient of each."""
    views = ImageViews(tiles, tuple(protocol["view_size"]), protocol["views"], protocol["view_seed"], 0.85)
    return views.draw(0), [tiles.group(views.place(number)) for number in views.numbers(0)]


def render(arm: Arm, folder: Path, pixels: Pixels, mpp: float, scheme: LabelScheme, seed: int) -> Pixels:
    """What an arm makes of the masks of real views: uint8 [N, h, w, 3]."""
    part = resolve(RENDERERS, arm.renderer, "--renderer")
    config = part.settle(parse(part.Config, {"weights": str(folder)}, arm.name), "cpu")
    renderer = part(config)
    drawn = scheme_of(renderer.card)
    images = []
    for number, view in enumerate(pixels):
        labels, image = np.ascontiguousarray(view[..., 0]), view[..., 1:]
        if drawn.name != scheme.name:
            labels = with_cells(labels, image, mpp, scheme, drawn)
        tile = Tile(labels, np.zeros(labels.shape, np.int32), mpp, drawn)
        condition = draw_condition(renderer.condition, tile, generator(seed, Stream.CONDITION, number))
        images += renderer.render([condition], [generator(seed, Stream.RENDER, number)])
    return np.stack(images)


def _figures(
    made: dict[tuple[str, int], Floats], real: Floats, training: Floats, groups: list[str], protocol: dict[str, Any]
) -> ArmFigures:
    """Distances of every run, and the same over draws of whole patients, views of a draw shared by all runs.

    A draw holds views twice, which by itself makes distances larger: draws are moved to have their mean where the
    estimate is.
    """
    rng = np.random.default_rng(protocol["view_seed"])
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    drawn: list[npt.NDArray[np.intp]] = []
    while len(drawn) < protocol["resamples"]:
        places = np.concatenate([np.flatnonzero(members == g) for g in rng.integers(0, len(names), len(names))])
        if len(np.unique(members[places])) > 1:
            drawn.append(places)
    estimates = {key: frechet_distance(features, real) for key, features in made.items()}
    draws = {}
    for key, features in made.items():
        values = np.array([frechet_distance(features[places], real[places]) for places in drawn])
        draws[key] = values - values.mean() + estimates[key]
    return ArmFigures(estimates, draws, frechet_distance(training, real))


if __name__ == "__main__":
    main()
