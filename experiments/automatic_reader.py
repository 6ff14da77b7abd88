"""Automatic readers told to find each renderer's tiles among real ones of held-out patients. Resumes.

    python -m experiments.automatic_reader --data data --encoder lite0.safetensors [--arms "nuclei/stain,ki67/exemplar"]

Makes tiles with every renderer of configs/experiments/automatic_reader.yaml by `factory make`, and lets the readers of
`factory quiz --automatic` answer. Arms that are in the report by the same protocol and of the same tiles are skipped,
so that a new renderer costs its own time alone; tiles in --out are kept until they are deleted.
Beside the renderers stand real tiles: halves of the test patients against each other, which must give about 50 %, and
tiles of the training patients in the place of synthetic ones, as a perfect generator would draw them. The report is
docs/results/reports/automatic-reader.md and .json.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.automatic_reader_report import CONTROL, OF_PATIENTS, OF_TILES, Found, read_report, write_report
from factory.core.config import read_yaml
from factory.core.malloc import keep_freed_memory
from factory.core.runs import is_finished
from factory.core.shipped import configs_dir
from factory.quiz.automatic import VIEWS, AutomaticConfig, Tiles, check_config, read_control, read_tiles
from factory.quiz.selection import Crop, choose
from factory.quiz.sources import Inputs, Source, open_inputs
from factory.renderers import RENDERERS
from factory.score.features import Extractor
from factory.score.layers import open_layers
from manifests.checksums import SUMS
from manifests.dataset import open_dataset
from manifests.files import sha256_file


@dataclass(frozen=True)
class Bench:
    """The experiment: its protocol by name, its readers, folders of data sets, tiles and report, and what is found."""

    name: str
    protocol: Mapping[str, Any]
    config: AutomaticConfig
    extractor: Extractor
    data: Path
    out: Path
    results: Path
    found: Found

    def tiles(self, task: str, arm: str) -> Path:
        """Folder of the tiles of a renderer."""
        return self.out / f"{task}-{arm}"

    def real(self, task: str) -> Path:
        """Folder of the real tiles."""
        return self.data / self.protocol["tasks"][task]["real"]

    def settings(self, task: str, arm: str) -> dict[str, Any]:
        """All that decides an arm's figures."""
        sums = [folder / SUMS for folder in (self.real(task), self.tiles(task, arm))]
        return {
            "n": self.protocol["tasks"][task]["n"],
            "tiles": [sha256_file(path) for path in sums if path.is_file()],
            "readers": self.config.model_dump(mode="json", exclude={"feature_weights", "device"}),
            "weights": self.extractor.sha256,
            "views": [*VIEWS],
        }


def main() -> None:
    """Run the unfinished arms, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets that the protocol names")
    parser.add_argument("--encoder", type=Path, help="safetensors of the timm features")
    parser.add_argument("--protocol", default="automatic_reader", help="in configs/experiments")
    parser.add_argument("--out", type=Path, default=Path("runs/automatic-reader"))
    parser.add_argument("--arms", help="TASK/RENDERER, comma-separated; default all")
    parser.add_argument("--results", type=Path, default=Path("docs/results/reports"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    keep_freed_memory()
    protocol = read_yaml(configs_dir() / f"experiments/{arguments.protocol}.yaml")
    values = {**protocol["readers"], "feature_weights": arguments.encoder and str(arguments.encoder)}
    config = check_config(AutomaticConfig.model_validate({**values, "device": arguments.device}))
    extractor = open_layers(config.features, config.weights_path)
    results, name = arguments.results, arguments.protocol
    found = read_report(name, results)
    bench = Bench(name, protocol, config, extractor, arguments.data, arguments.out, results, found)
    wanted = None if arguments.arms is None else [name.strip() for name in arguments.arms.split(",")]
    for task in protocol["tasks"]:
        run_task(bench, task, wanted)
    write_report(name, protocol, found, results)


def run_task(bench: Bench, task: str, wanted: Sequence[str] | None) -> None:
    """Run the renderers of a task, and the real tiles beside them."""
    plan, made = bench.protocol["tasks"][task], None
    for arm, words in plan["arms"].items():
        renderer = shlex.split(words)[shlex.split(words).index("--renderer") + 1]
        if renderer not in RENDERERS:
            print(f"{task}/{arm}: left out, as this version has no renderer {renderer}", flush=True)
        elif wanted is None or f"{task}/{arm}" in wanted:
            made = make(bench, task, arm, f"{plan['make']} {words}")
            if not is_read(bench, task, arm):
                crops = choose(open_inputs([made], [bench.real(task)], n=plan["n"]), plan["n"], bench.config.seed)
                keep(bench, task, arm, answers_of(bench, Tiles.of(crops.crops)))
    if made is not None and not is_read(bench, task, CONTROL):
        read_real(bench, task, made)


def make(bench: Bench, task: str, arm: str, words: str) -> Path:
    """Tiles of an arm, by `factory make`; finished ones are kept."""
    out = bench.tiles(task, arm)
    if not is_finished(out):
        command = [*shlex.split(words.format(data=bench.data)), "--workers", "1", "--out", str(out)]
        print("$ factory make", shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", "factory.cli", "make", *command], check=True)
    return out


def read_real(bench: Bench, task: str, made: Path) -> None:
    """Real tiles in the place of synthetic ones: halves of the test patients, and the training patients."""
    n = bench.protocol["tasks"][task]["n"]
    tiles = Tiles.of(training_crops(open_inputs([made], [bench.real(task)], n=n), n, bench.config.seed))
    keep(bench, task, OF_PATIENTS, answers_of(bench, tiles))
    # As if nobody knew which slide a generator had in mind: its other tiles are there to learn from.
    single = np.where(tiles.is_synthetic, len(tiles.groups) + np.arange(len(tiles.groups)), tiles.groups)
    keep(bench, task, OF_TILES, answers_of(bench, replace(tiles, groups=single)))
    halves = read_control(tiles, bench.config, bench.extractor)
    figures = [{"reader": reader, "view": view, "draws": draws} for (reader, view), draws in halves.items()]
    keep(bench, task, CONTROL, figures)


def training_crops(inputs: Inputs, n: int, seed: int) -> Sequence[Crop]:
    """The real tiles of a quiz, and as many of the other splits in the place of its synthetic ones."""
    every = open_dataset(inputs.real[0].dataset.root)
    others = every.where(np.array(every.table["split"].to_pylist()) != "test")
    return choose(replace(inputs, synthetic=(Source("synthetic", "training patients", others),)), n, seed).crops


def answers_of(bench: Bench, tiles: Tiles) -> list[dict[str, Any]]:
    """Answers of the readers as plain values."""
    return [asdict(answered) for answered in read_tiles(tiles, bench.config, bench.extractor)]


def keep(bench: Bench, task: str, arm: str, figures: Sequence[Mapping[str, Any]]) -> None:
    """Add an arm's figures, with all that decides them, to the report."""
    bench.found.setdefault(task, {})[arm] = {"settings": bench.settings(task, arm), "figures": figures}
    write_report(bench.name, bench.protocol, bench.found, bench.results)


def is_read(bench: Bench, task: str, arm: str) -> bool:
    """Whether the report has figures of an arm by the present protocol, of its present tiles."""
    there = bench.found.get(task, {}).get(arm)
    return there is not None and there["settings"] == bench.settings(task, arm)


if __name__ == "__main__":
    main()
