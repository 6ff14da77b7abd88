"""Histopathology-DatasetGAN where the truth is exact: how good are labels read off a generator, and what do they teach?

    python -m bench.hdgan --out runs/hdgan [--protocol FILE] [--device cuda] [--threads 2]

Tiles rendered by `stain` teach a StyleGAN2, and a segmenter, who then annotates samples of that generator as a person
would; a labeller is trained on 16 of them. Every part is an ordinary command; what is finished is skipped, so the same
call goes on. The protocol is configs/experiments/hdgan.yaml, the report bench/results/hdgan.md and .json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.hdgan_report import Figures, write_report
from factory.core.config import configs_dir, read_yaml
from factory.core.malloc import keep_freed_memory
from factory.core.runs import RunSpec, open_run, read_run, write_shard
from factory.joint.held_out import class_figures, confusion
from factory.labeller_run import HELD_OUT
from factory.sample_sheet import write_sample_sheet
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.labels import IGNORE
from manifests.schema import DatasetInfo
from manifests.store import Layout
from manifests.tile import Tile
from segment.inference import predict_maps
from segment.instances import read_tile
from segment.weights import Weights, load_weights

_HELD_OUT_SEED = 1
_SHARD = 64
_SHOWN = 6
_VALIDATION = 4
"""Annotated images that the segmenter which learns from these alone is validated on; as many as were published."""


@dataclass(frozen=True)
class Bench:
    """The experiment: its protocol, its folder, and how it runs."""

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

    def render(self, name: str, n: int, seed: int) -> Path:
        """Tiles with exact truth."""
        protocol, out = self.protocol, self.out / name
        size = "x".join(map(str, protocol["size"]))
        self.factory(
            "make", "--scheme", protocol["scheme"], "--renderer", "stain", "--n", n, "--size", size,
            "--mpp", protocol["mpp"], "--seed", seed, "--workers", self.threads, "--out", out,
        )  # fmt: skip
        return out

    def teach(self, name: str, pairs: Path) -> Weights:
        """A segmenter that learnt from a data set, all with the same budget."""
        plan, out = self.protocol["segmenter"], self.out / name
        values = [word for value in plan["set"] for word in ("--set", value)]
        self.segment(
            "train", "--mix", "synth", "--synth", pairs, "--scheme", self.protocol["scheme"],
            "--config", plan["config"], "--steps", plan["steps"], *values,
            "--device", self.device, "--out", out, "--resume",
        )  # fmt: skip
        return load_weights(out, self.device)


def main() -> None:
    """Do what is left of the experiment, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hdgan"))
    parser.add_argument("--protocol", type=Path, default=configs_dir() / "experiments/hdgan.yaml")
    parser.add_argument("--results", type=Path, default=Path("bench/results"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    keep_freed_memory()
    bench = Bench(read_yaml(arguments.protocol), arguments.out, arguments.device, arguments.threads)
    protocol = bench.protocol

    # Tiles whose truth is exact, and the segmenter that stands in for a person.
    rendered = bench.render("rendered", protocol["tiles"], 0)
    held_out = open_dataset(bench.render("held-out", protocol["held_out"], _HELD_OUT_SEED))
    annotator = bench.teach("annotator", rendered)

    # The generator, and samples that are annotated.
    generator = train_generator(bench, rendered)
    sampled = bench.out / "sampled"
    bench.factory(
        "sample", "--weights", generator, "--n", protocol["samples"], "--psi", protocol["psi"],
        "--device", bench.device, "--workers", 1, "--out", sampled,
    )  # fmt: skip
    annotated = annotate(bench, open_dataset(sampled), annotator)

    # The labeller, pairs of it, and pairs that meet a distribution.
    labeller = bench.out / "labeller"
    bench.factory(
        "train", "hdgan", "--generator", generator, "--data", annotated, "--config", protocol["labeller"]["config"],
        *(word for value in protocol["labeller"].get("set", ()) for word in ("--set", value)),
        "--set", f"threads={bench.threads}", "--device", bench.device, "--out", labeller, "--resume",
    )  # fmt: skip
    pairs, asked = bench.out / "pairs", bench.out / "asked"
    joint = ("make", "--joint", "hdgan", "--weights", labeller, "--device", bench.device, "--workers", bench.threads)
    bench.factory(*joint, "--n", protocol["pairs"], "--out", pairs)
    want = protocol["asked"]
    bench.factory(
        *joint, "--n", want["n"], "--pool", want["pool"], "--tps", want["tps"], "--set", "joint.tolerance=1",
        "--out", asked,
    )  # fmt: skip

    # What the pairs teach: the same segmenter, learnt from each, on tiles that none of them saw.
    segmenters = {
        "rendered tiles, exact truth": annotator,
        "pairs of the labeller": bench.teach("taught-by-pairs", pairs),
        "the annotated samples alone": bench.teach("taught-by-annotated", annotated),
    }
    found = {name: dice_of(weights, held_out) for name, weights in segmenters.items()}
    write_report(protocol, found, labeller / HELD_OUT, open_dataset(asked), arguments.results)
    leave_sheet(bench, rendered, pairs)


def train_generator(bench: Bench, rendered: Path) -> Path:
    """StyleGAN2 on the rendered images."""
    plan, out = bench.protocol["generator"], bench.out / "generator"
    bench.factory(
        "train", "stylegan2", "--data", rendered, "--config", plan["config"], "--steps", plan["steps"],
        "--size", "x".join(map(str, bench.protocol["size"])), "--set", f"threads={bench.threads}",
        *(word for value in plan.get("set", ()) for word in ("--set", value)),
        "--device", bench.device, "--out", out, "--resume",
    )  # fmt: skip
    return out


def annotate(bench: Bench, sampled: Dataset, annotator: Weights) -> Path:
    """The samples with the annotator's labels: the first ones to learn from, the others held out."""
    out, config = bench.out / "annotated", read_run(sampled.root)["config"]
    if (out / SUMS).is_file():
        return out
    first, layout = bench.protocol["annotated"], sampled.store.layout
    info = DatasetInfo(
        True, "bench.hdgan: labels of a segmenter", (annotator.scheme,), sampled.info.versions,
        sampled.info.training_sources, sampled.info.licences,
    )  # fmt: skip
    config = {**config, "annotator": annotator.card.get("config_sha256", str(annotator.path)), "annotated": first}
    spec = RunSpec(out, config, Layout(layout.n, layout.height, layout.width, _SHARD), info)

    def labelled(rows: range) -> Iterator[tuple[Any, Tile, dict[str, Any]]]:
        for place in rows:
            row, image = sampled.row(place), sampled.store.read(sampled.row(place)["index"], "image")
            split = "train" if place < first else "val" if place < first + _VALIDATION else "test"
            row |= {"label_origin": "annotated", "label_scheme": annotator.scheme.name, "split": split}
            yield image, said_by(annotator, image, row["mpp"]), row

    with open_run(spec) as run:
        for shard in run.todo:
            run.add(write_shard(spec, shard, labelled(spec.layout.rows(shard))))
        run.finish()
    return out


def said_by(weights: Weights, image: Any, mpp: float) -> Tile:
    """What a segmenter sees in an image."""
    maps = predict_maps(weights.network, weights.head, image, weights.device)
    return read_tile(maps, weights.scheme, mpp, weights.instances)


def dice_of(weights: Weights, held_out: Dataset) -> Figures:
    """Dice of a segmenter by class, over the pixels of all held-out tiles."""
    counts = np.zeros((len(weights.scheme),) * 2, np.int64)
    for sample in held_out:
        said = said_by(weights, sample.image, sample.tile.mpp).semantic
        counts += confusion(sample.tile.semantic, said, len(weights.scheme))
    classes = class_figures(counts, weights.scheme)
    return Figures(len(held_out), {each.name: each.dice for each in classes})


def leave_sheet(bench: Bench, rendered: Path, pairs: Path) -> None:
    """Rendered tiles with their truth beside tiles of the labeller with its labels."""
    columns = []
    for dataset in map(open_dataset, (rendered, pairs)):
        shown = [dataset[place] for place in range(min(_SHOWN, len(dataset)))]
        columns += [np.stack([s.image for s in shown]), np.stack([s.tile.semantic for s in shown])]
    assert not any((column == IGNORE).any() for column in columns[1::2])
    rows = min(map(len, columns))
    write_sample_sheet(bench.out / "sheet.png", [column[:rows] for column in columns], dataset.schemes[0])


if __name__ == "__main__":
    main()
