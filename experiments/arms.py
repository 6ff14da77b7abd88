"""Arms of an experiment: one renderer each, trained by `factory train` and applied to the same masks of real crops."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.config import parse, read_yaml
from factory.core.malloc import keep_freed_memory
from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.core.shipped import configs_dir
from factory.learn.cells_by_colour import with_cells
from factory.learn.crops import ImageCrops, NucleiCrops, Tiles, instances_of
from factory.learn.weights import scheme_of
from factory.renderers import RENDERERS
from factory.renderers.conditions import draw_condition
from factory.score.features import Extractor, open_extractor
from factory.train.generator import resolve_trainer
from manifests.labels import LabelScheme
from manifests.tile import Tile

Pixels = npt.NDArray[np.uint8]
_OF_DATA_AND_MACHINE = ("scheme", "precision", "threads")
"""Fields of a trainer's configuration that are settled when it meets its data and machine."""


@dataclass(frozen=True)
class Arm:
    """One renderer to train.

    Attributes:
        name: of the arm. trainer, config: for `factory train`. values: dotted keys over the config.
    """

    name: str
    trainer: str
    config: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def renderer(self) -> str:
        """Name in the table of renderers."""
        return self.trainer.rpartition("/")[2]

    @property
    def assignments(self) -> list[str]:
        """Its values as words of ``--set``."""
        return [f"{key}={value}" for key, value in self.values.items()]

    def folder(self, out: Path, seed: int) -> Path:
        """Folder of its run, by seed."""
        return out / f"{self.name.replace(' ', '-').replace('+', 'and')}-{seed}"


def run_experiment(
    about: str | None,
    name: str,
    arms_of: Callable[[dict[str, Any]], list[Arm]],
    score: Callable[[dict[str, Any], list[Arm], argparse.Namespace], None],
) -> None:
    """Run the command line: train the arms, seed by seed, or score the trained ones.

    Args:
        about: the experiment's docstring. name: its protocol in configs/experiments, without --protocol.
        arms_of: all arms of a protocol. score: of protocol, requested arms and the arguments (``protocol``,
            its name, ``data``, ``out``, ``encoder``).
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "score"))
    parser.add_argument("--protocol", default=name, help="in configs/experiments")
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="of the runs; default runs/PROTOCOL")
    parser.add_argument("--arms", help="comma-separated; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", type=Path, help="safetensors of the timm features; left out without")
    arguments = parser.parse_args()
    arguments.out = arguments.out or Path("runs") / arguments.protocol.replace("_", "-")
    keep_freed_memory()
    protocol = read_yaml(configs_dir() / f"experiments/{arguments.protocol}.yaml")
    wanted = None if arguments.arms is None else [each.strip() for each in arguments.arms.split(",")]
    chosen = [arm for arm in arms_of(protocol) if wanted is None or arm.name in wanted]
    if arguments.part == "score":
        score(protocol, chosen, arguments)
        return
    for seed in protocol["seeds"]:
        for arm in chosen:
            train(arm, seed, protocol, arguments.data, arguments.out, arguments.threads, arguments.device)


def train(
    arm: Arm, seed: int, protocol: Mapping[str, Any], data: Sequence[Path], out: Path, threads: int, device: str = "cpu"
) -> None:
    """Train an arm with `factory train`, resumed where it stopped; finished runs are skipped.

    Args:
        arm, seed: of the run. protocol: with ``size`` of the crops, ``batch`` where it is not the config's, and
            ``steps``.
        data: data sets. out: of all runs. threads: of torch. device: of the training.
    """
    if is_finished(arm, seed, protocol, out):
        return
    command: list[object] = [sys.executable, "-m", "factory.cli", "train", arm.trainer, "--config", arm.config]
    command += [word for path in data for word in ("--data", path)]
    command += [word for value in [*arm.assignments, f"threads={threads}"] for word in ("--set", value)]
    command += ["--size", "x".join(map(str, protocol["size"])), "--steps", protocol["steps"], "--seed", seed]
    command += ["--resume", "--device", device, "--out", arm.folder(out, seed)]
    subprocess.run(list(map(str, command)), check=True)


def is_finished(arm: Arm, seed: int, protocol: Mapping[str, Any], out: Path) -> bool:
    """Whether a run has made all its steps, with the present configuration of the protocol."""
    path = arm.folder(out, seed) / "best.json"
    if not path.is_file():
        return False
    card = json.loads(path.read_text())
    typed = {"size": tuple(protocol["size"]), "steps": protocol["steps"], "seed": seed}
    asked = resolve_trainer(arm.trainer, arm.config, arm.assignments, typed, "cpu").model_dump(mode="json")
    settled = {key: value for key, value in asked.items() if key not in _OF_DATA_AND_MACHINE}
    made = {key: value for key, value in card["config"].items() if key not in _OF_DATA_AND_MACHINE}
    return card["step"] == protocol["steps"] and made == settled


def real_views(tiles: Tiles, protocol: Mapping[str, Any], *, nuclei: bool = False) -> tuple[Pixels, list[str]]:
    """Crops of real tiles, uint8 [N, h, w, 4] or, with nuclei, 8 (see `NucleiCrops`), and the patient of each."""
    kind = NucleiCrops if nuclei else ImageCrops
    views = kind(tiles, tuple(protocol["view_size"]), protocol["views"], protocol["view_seed"], 0.85)
    return views.draw(0), [tiles.group(views.place(number)) for number in views.numbers(0)]


def render_finished(
    arms: Sequence[Arm], protocol: Mapping[str, Any], out: Path, pixels: Pixels, tiles: Tiles
) -> dict[tuple[str, int], Pixels]:
    """(arm, seed) -> images of `render`, of every finished run."""
    return {
        (arm.name, seed): render(arm, arm.folder(out, seed), pixels, tiles.mpp, tiles.scheme, seed)
        for seed in protocol["seeds"]
        for arm in arms
        if is_finished(arm, seed, protocol, out)
    }


def extractors(protocol: Mapping[str, Any], encoder: Path | None) -> Iterator[Extractor]:
    """Feature extractors of the protocol; that with weights of timm is left out without its file."""
    for name in protocol["features"]:
        is_timm = name.startswith("timm:")
        if not is_timm or encoder is not None:
            yield open_extractor(name, encoder if is_timm else None)


def render(arm: Arm, folder: Path, pixels: Pixels, mpp: float, scheme: LabelScheme, seed: int) -> Pixels:
    """Images of an arm for the masks of `real_views`: uint8 [N, h, w, 3]."""
    part = resolve(RENDERERS, arm.renderer, "--renderer")
    config = part(parse(part.Config, {"weights": str(folder)}, arm.name), "cpu").resolved_config()
    renderer = part(config)
    drawn = scheme_of(renderer.card)
    images = []
    for number, view in enumerate(pixels):
        labels, image = np.ascontiguousarray(view[..., 0]), view[..., 1:4]
        if drawn.name != scheme.name:
            labels = with_cells(labels, image, mpp, scheme, drawn)
        instance = instances_of(view) if view.shape[-1] == 8 else np.zeros(labels.shape, np.int32)
        tile = Tile(labels, instance, mpp, drawn)
        condition = draw_condition(renderer.condition, tile, generator(seed, Stream.CONDITION, number))
        images += renderer.render([condition], [generator(seed, Stream.RENDER, number)])
    return np.stack(images)
