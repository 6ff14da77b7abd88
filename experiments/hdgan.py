"""Histopathology-DatasetGAN with exact truth: labels from a generator's features, their accuracy and use in training.

    python -m experiments.hdgan --out runs/hdgan [--protocol FILE] [--device cuda] [--threads 1]

Tiles rendered by `stain`, whose truth is exact, take the place of real ones. A segmenter trained on their truth
annotates samples of a StyleGAN2 trained on their images, as a person would; labellers are trained on 16 of these each.
Pairs of a labeller are compared as training data by `segment compare` on held-out rendered tiles. Every part is an
ordinary command and finished parts are skipped, so the same call resumes. The protocol is
configs/experiments/hdgan.yaml, the report docs/results/reports/hdgan.md and .json; a sheet is left in --out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.hdgan_copies import copy, said_by
from experiments.hdgan_report import Control, Found, write_report
from experiments.hdgan_scores import Counts, counts_of_labeller, counts_of_segmenter, tps_said
from factory.core.config import read_yaml
from factory.core.malloc import keep_freed_memory
from factory.core.runs import read_run
from factory.core.shipped import configs_dir
from factory.learn.sample_sheet import write_sample_sheet
from factory.plan.assignment import column
from factory.train.labeller import HELD_OUT
from manifests.dataset import Dataset, open_dataset
from manifests.files import sha256_file, write_atomic
from segment.network.weights import Weights, load_weights

_SHOWN = 6
_CURVES = "![learning curves](curves.png)\n\n"
"""Suffixes of a report's files that are copied; its picture is not."""


@dataclass(frozen=True)
class Bench:
    """The experiment: its protocol, folder, device and threads."""

    protocol: dict[str, Any]
    out: Path
    device: str
    threads: int

    def factory(self, *words: object) -> None:
        """Run a command of `factory`."""
        self._run("factory.cli", *words)

    def segment(self, *words: object) -> None:
        """Run a command of `segment`."""
        self._run("segment.cli", *words)

    def _run(self, module: str, *words: object) -> None:
        print(f"$ {module.partition('.')[0]} {' '.join(map(str, words))}", flush=True)
        subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True)

    def compare(self, name: str, arms: str, synth: Path, *, reuse: str | None = None) -> Path:
        """`segment compare` with the rendered tiles as the real ones; the folder with its trainings."""
        config, out = self.out / "compare.yaml", self.out / "compare" / name
        write_atomic(config, yaml.safe_dump(self.protocol["compare"], sort_keys=False).encode())
        self.segment(
            "compare", "--config", config, "--arms", arms, "--real", self.out / "real", "--synth", synth,
            "--set", f"train.threads={self.threads}", "--device", self.device, "--keep-weights", "--out", out,
            *(() if reuse is None else ("--reuse", self.out / "compare" / reuse)),
        )  # fmt: skip
        return out / "cells"

    def score(self, cells: Path, arm: str, truth: Dataset) -> Counts:
        """Pixel tables of the trainings of an arm for every tile, seed by seed."""
        weights = [cells / f"{arm}-{seed}" for seed in range(self.protocol["compare"]["seeds"])]
        return np.stack([counts_of_segmenter(each, truth, self.device, self.out / "scores") for each in weights])


def main() -> None:
    """Run the unfinished parts of the experiment, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hdgan"))
    parser.add_argument("--protocol", type=Path, default=configs_dir() / "experiments/hdgan.yaml")
    parser.add_argument("--results", type=Path, default=Path("docs/results/reports"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(read_yaml(arguments.protocol), arguments.out, arguments.device, arguments.threads)
    write_report(bench.protocol, run(bench), arguments.results)
    report = (bench.out / "compare/pairs/report.md").read_text().replace(_CURVES, "")
    write_atomic(arguments.results / "hdgan-compare.md", report.encode())


def run(bench: Bench) -> Found:
    """Every part of the experiment, in order."""
    out, protocol = bench.out, bench.protocol
    few, whole = protocol["compare"]["fractions"]

    # Tiles whose truth is exact, in the part of real ones, and what their truth teaches.
    rendered = render(bench)
    exact = copy(
        out / "real", rendered, range(len(rendered)), lambda sample: sample.tile,
        lambda place: {"source": "real"}, config={}, is_synthetic=False,
    )  # fmt: skip
    test = exact.where(np.array(exact.table["split"]) == "test")
    by_truth = bench.compare("rendered", "R", exact.root)
    annotator = load_weights(by_truth / f"R-{whole:g}-0", bench.device)

    # The generator, and its samples, annotated.
    generator = train_generator(bench, exact.root)
    sampled = out / "sampled"
    bench.factory(
        "sample", "--weights", generator, "--n", protocol["samples"], "--psi", protocol["psi"],
        "--device", bench.device, "--workers", bench.threads, "--out", sampled,
    )  # fmt: skip
    annotated = annotate(bench, open_dataset(sampled), annotator)

    # The labellers, each from images of its own, and pairs of the first one; the same images as the annotator has them.
    labellers = [train_labeller(bench, generator, data, number) for number, data in enumerate(annotated)]
    joint = (
        "make", "--joint", "hdgan", "--weights", labellers[0], "--device", bench.device, "--workers", bench.threads,
    )  # fmt: skip
    bench.factory(*joint, "--n", protocol["pairs"], "--split", "1,0,0", "--out", out / "pairs")
    pairs = open_dataset(out / "pairs")
    same = copy(
        out / "same-images", pairs, range(len(pairs)), lambda sample: said_by(annotator, sample.image, sample.tile.mpp),
        lambda place: {"label_origin": "weak"}, config={"annotator": sha256_file(annotator.path)},
    )  # fmt: skip

    # What each teaches, on tiles that nothing learnt from.
    by_pairs, by_same, by_samples = (
        bench.compare(name, "R,S", data, reuse="rendered")
        for name, data in (("pairs", pairs.root), ("same-images", same.root), ("samples", annotated[0]))
    )
    segmenters = {
        "rendered": bench.score(by_truth, f"R-{whole:g}", test),
        "few rendered": bench.score(by_truth, f"R-{few:g}", test),
        "pairs": bench.score(by_pairs, "S-all", test),
        "same images": bench.score(by_same, "S-all", test),
        "samples": bench.score(by_samples, "S-all", test),
    }
    leave_sheet(out / "sheet.png", rendered, pairs, same)
    return Found(
        scheme=annotator.scheme,
        segmenters=segmenters,
        labellers=np.stack(
            [counts_of_labeller(*each, bench.device) for each in zip(labellers, annotated, strict=True)]
        ),
        held_out=labellers[0] / HELD_OUT,
        control=control(bench, joint, annotator),
    )


def render(bench: Bench) -> Dataset:
    """Tiles with exact truth."""
    protocol, out = bench.protocol, bench.out / "rendered"
    bench.factory(
        "make", "--scheme", protocol["scheme"], "--renderer", "stain", "--n", protocol["tiles"],
        "--size", _size(protocol), "--mpp", protocol["mpp"], "--split", ",".join(map(str, protocol["split"])),
        "--workers", bench.threads, "--out", out,
    )  # fmt: skip
    return open_dataset(out)


def train_generator(bench: Bench, data: Path) -> Path:
    """StyleGAN2 on the images of the train split."""
    plan, out = bench.protocol["generator"], bench.out / "generator"
    bench.factory(
        "train", "stylegan2", "--data", data, "--config", plan["config"], "--steps", plan["steps"],
        "--size", _size(bench.protocol), *_assignments(plan, threads=bench.threads),
        "--device", bench.device, "--out", out, "--resume",
    )  # fmt: skip
    return out


def annotate(bench: Bench, sampled: Dataset, annotator: Weights) -> list[Path]:
    """Training samples of each labeller, and common held-out ones, with the annotator's labels."""
    protocol = bench.protocol
    count, labellers = protocol["annotated"], protocol["labellers"]
    held_out = range(count * labellers, len(sampled))
    config = {**read_run(sampled.root)["config"], "annotator": sha256_file(annotator.path)}
    found = []
    for number in range(labellers):
        own = range(count * number, count * (number + 1))
        data = copy(
            bench.out / f"annotated-{number}", sampled, [*own, *held_out],
            lambda sample: said_by(annotator, sample.image, sample.row["mpp"]),
            lambda place: {"label_origin": "annotated", "split": "test" if place in held_out else "train"},
            config=config,
        )  # fmt: skip
        found.append(data.root)
    return found


def train_labeller(bench: Bench, generator: Path, data: Path, number: int) -> Path:
    """A labeller of the generator's features; its number is its seed."""
    plan, out = bench.protocol["labeller"], bench.out / f"labeller-{number}"
    bench.factory(
        "train", "hdgan", "--generator", generator, "--data", data, "--config", plan["config"], "--seed", number,
        *_assignments(plan, threads=bench.threads), "--device", bench.device, "--out", out, "--resume",
    )  # fmt: skip
    return out


def control(bench: Bench, joint: tuple[object, ...], annotator: Weights) -> Control:
    """TPS of tiles chosen to meet a distribution: requested, by the labels, and by the annotator."""
    want, out = bench.protocol["asked"], bench.out / "asked"
    bench.factory(
        *joint, "--n", want["n"], "--pool", want["pool"], "--tps", want["tps"], "--set", "joint.tolerance=1",
        "--out", out,
    )  # fmt: skip
    asked = open_dataset(out)
    measured = "tps_cells" if annotator.scheme.tps_basis == "cells" else "tps_area"
    requested, labels = (column(asked.table, name) for name in ("request_tps", measured))
    return Control(requested, labels, tps_said(annotator, asked))


def leave_sheet(path: Path, rendered: Dataset, pairs: Dataset, same: Dataset) -> None:
    """Rendered tiles with their truth beside tiles of the generator, labelled by the labeller and by the annotator."""
    rows = min(_SHOWN, len(rendered), len(pairs))
    tiles = [[dataset[place] for place in range(rows)] for dataset in (rendered, pairs, same)]
    truths, said, annotated = (np.stack([sample.tile.semantic for sample in samples]) for samples in tiles)
    images, drawn = (np.stack([sample.image for sample in samples]) for samples in tiles[:2])
    write_sample_sheet(path, [images, truths, drawn, said, annotated], pairs.schemes[0])


def _size(protocol: Mapping[str, Any]) -> str:
    return "x".join(map(str, protocol["size"]))


def _assignments(plan: Mapping[str, Any], **further: object) -> list[str]:
    """Values of a plan as words of ``--set``."""
    values = {**plan.get("set", {}), **further}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


if __name__ == "__main__":
    main()
