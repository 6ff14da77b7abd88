"""DCGAN, DEPAS, CycleGAN and PriorPath on tissue masks: train, draw, score against held-out patients. Resumes.

    python -m experiments.tissue_masks tune  --tuning DATA... --out runs/tissue-masks
    python -m experiments.tissue_masks train --data DATA...   --out runs/tissue-masks [--generators depas,dcgan]
    python -m experiments.tissue_masks starter --data DATA... --out runs/tissue-masks [--encoder encoder.safetensors]
    python -m experiments.tissue_masks picture                --out runs/tissue-masks
    python -m experiments.tissue_masks score --data DATA...   --out runs/tissue-masks [--encoder encoder.safetensors]

The protocol is configs/experiments/tissue_masks.yaml. A second call of `train` may run beside the first with other
generators. Finished runs are skipped; the report is docs/results/reports/tissue-masks.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tissue_masks_report import write_report
from factory.core.config import read_yaml
from factory.core.malloc import keep_freed_memory
from factory.core.shipped import configs_dir
from factory.core.weights import read_card
from factory.learn.crops import MaskCrops, Tiles, open_tiles
from factory.learn.sample_sheet import write_sample_sheet
from factory.score.compare import Comparison, compare_sets
from factory.score.features import Extractor, open_extractor
from factory.score.settings import Settings
from factory.score.tiles import TileSet
from manifests.dataset import open_dataset
from manifests.files import write_atomic

PROTOCOL = "experiments/tissue_masks.yaml"
TUNED = "tuned.json"
_VIEW_SEED = 7
_SHOWN = 6


def main() -> None:
    """Run one part of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tune", "train", "score", "picture", "starter"))
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="data sets of the final run")
    parser.add_argument("--tuning", nargs="+", type=Path, default=[], help="the same with validation patients held out")
    parser.add_argument("--out", type=Path, default=Path("runs/tissue-masks"))
    parser.add_argument("--generators", help="comma-separated; default all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encoder", type=Path, help="safetensors of the timm features; left out without")
    arguments = parser.parse_args()
    keep_freed_memory()
    protocol = read_yaml(configs_dir() / PROTOCOL)
    names = arguments.generators.split(",") if arguments.generators else list(protocol["generators"])
    if arguments.part == "tune":
        tune(protocol, names, arguments)
    elif arguments.part == "train":
        for seed in protocol["seeds"]:
            for name in names:
                rate = _tuned(arguments.out, name, protocol)
                train(protocol, name, seed, rate, arguments.data, arguments.out / f"{name}-{seed}", arguments.threads)
    elif arguments.part == "starter":
        score_starter(protocol, arguments)
    elif arguments.part == "picture":
        picture(protocol, arguments.out)
    else:
        score(protocol, arguments)


def train(
    protocol: dict[str, Any],
    name: str,
    seed: int,
    rate: float,
    data: list[Path],
    out: Path,
    threads: int,
    steps: int | None = None,
) -> None:
    """Train one generator with `factory train`, resumed where it stopped; finished runs are skipped."""
    plan = protocol["generators"][name]
    command = [sys.executable, "-m", "factory.cli", "train", plan.get("trainer", name), "--config", plan["config"]]
    command += ["--out", out, "--resume"]
    command += [word for path in data for word in ("--data", path)]
    command += ["--size", "x".join(map(str, protocol["size"])), "--seed", seed, "--device", "cpu"]
    command += [
        "--steps",
        steps or plan["steps"],
        "--set",
        f"learning_rate={rate}",
        "--set",
        f"threads={threads}",
    ]
    subprocess.run(list(map(str, command)), check=True)


def tune(protocol: dict[str, Any], names: list[str], arguments: argparse.Namespace) -> None:
    """Choose every generator's learning rate on the validation patients; the same candidates and budget for all."""
    plan = protocol["tuning"]
    tiles = open_tiles(arguments.tuning, None, tuple(protocol["size"]), 8, split="val")
    reals = real_views("validation", tiles, protocol)
    for name in names:
        distances = {}
        for rate in plan["learning_rate"]:
            out = arguments.out / f"tune-{name}-{rate:g}"
            steps = protocol["generators"][name]["tuning_steps"]
            train(protocol, name, plan["seed"], rate, arguments.tuning, out, arguments.threads, steps)
            what = {"generator": name, "coarse": "masks", "split": "train"}
            fakes = draw(protocol, what, out, arguments.tuning, arguments.out / f"drawn-tune-{name}-{rate:g}")
            settings = _settings(plan["features"], arguments.encoder, bootstrap=20, draws=2)
            figures = compare_sets(fakes, reals, settings)
            distances[f"{rate:g}"] = figures.distance
            print(f"{name} learning rate {rate:g}: {figures.distance_name} {figures.distance:.4g}", flush=True)
        found = _read(arguments.out / TUNED) | {name: distances}
        write_atomic(arguments.out / TUNED, json.dumps(found, indent=2, sort_keys=True).encode())


def draw(
    protocol: dict[str, Any],
    what: dict[str, Any],
    weights: Path,
    data: list[Path],
    out: Path,
    tissue: str = "none",
    masks: int | None = None,
) -> TileSet:
    """Draw masks with `factory make` and read them back."""
    command = [sys.executable, "-m", "factory.cli", "make", "--masks", what["generator"], "--renderer", "palette"]
    command += ["--set", f"masks.weights={weights}", "--tissue", tissue, "--n", masks or protocol["masks"]]
    command += ["--size", "x".join(map(str, protocol["size"])), "--out", out, "--device", "cpu"]
    if what["generator"] in ("priorpath", "cyclegan"):
        command += ["--set", f"masks.coarse={what['coarse']}"]
        if what["coarse"] == "masks":
            command += ["--set", f"masks.coarse_from=[{','.join(map(str, data))}]"]
            command += ["--set", f"masks.coarse_split={what['split']}"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    dataset = open_dataset(out)
    pixels = np.stack([dataset.store.read(index, "semantic") for index in dataset.table["index"].to_pylist()])
    shifts = dataset.table["allocation_shift"].to_numpy(zero_copy_only=False).astype(np.float64)
    return TileSet(
        out.name, pixels, dataset.table["mpp"][0].as_py(), dataset.schemes[0],
        tuple(dataset.table["sample_id"].to_pylist()), None, shifts if tissue != "none" else None,
    )  # fmt: skip


def real_views(name: str, tiles: Tiles, protocol: dict[str, Any], rounds: int = 1) -> TileSet:
    """Crops of real masks as in training: `rounds` times the number of drawn masks."""
    count = rounds * protocol["masks"]
    views = MaskCrops(tiles, tuple(protocol["size"]), count, _VIEW_SEED, 0.85)
    groups = tuple(tiles.group(views.place(number)) for number in range(count))
    ids = tuple(f"view-{number}" for number in range(count))
    return TileSet(name, views.draw(0), tiles.mpp, tiles.scheme, ids, groups)


def whole_tiles(name: str, tiles: Tiles) -> TileSet:
    """Every tile, whole, to search for copies."""
    pixels = np.stack([tiles.read(place) for place in range(len(tiles))])
    ids = tuple(f"tile-{place}" for place in range(len(tiles)))
    return TileSet(name, pixels, tiles.mpp, tiles.scheme, ids, tuple(map(tiles.group, range(len(tiles)))))


def score(protocol: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Draw and score every set of every finished seed, and write the report."""
    size = tuple(protocol["size"])
    reals = real_views("held-out", open_tiles(arguments.data, None, size, 8, split="test"), protocol)
    seen = open_tiles(arguments.data, None, size, 8, split="train")
    views, training = real_views("training", seen, protocol), whole_tiles("training", seen)
    features = [name for name in protocol["features"] if not name.startswith("timm:") or arguments.encoder]
    for feature in features:
        _remember(feature, arguments)
    found: dict[str, dict[str, dict[str, Comparison]]] = {feature: {} for feature in features}
    price = None
    for label, what in protocol["sets"].items():
        for seed in protocol["seeds"]:
            weights = arguments.out / f"{what['generator']}-{seed}"
            if not _is_trained(weights):
                print(f"{label}, seed {seed}: not trained yet", flush=True)
                continue
            fakes = draw(protocol, what, weights, arguments.data, arguments.out / f"drawn-{_slug(label)}-{seed}")
            for feature in features:
                if seed not in protocol["features"][feature]:
                    continue
                settings = _settings(feature, arguments.encoder)
                more = {"training_crops": views} if seed == 0 else {}
                searched = seed == 0 and feature == features[0] and label in protocol["copies"]
                more |= {"training": training} if searched else {}
                figures = compare_sets(fakes, reals, settings, **more)
                found[feature].setdefault(label, {})[str(seed)] = figures
                print(f"{label}, seed {seed}: {figures.distance_name} {figures.distance:.4g}", flush=True)
                _keep(feature, arguments)
    control = protocol["control"]
    weights = arguments.out / f"{control['generator']}-{protocol['seeds'][0]}"
    if _is_trained(weights):
        asked = draw(
            protocol,
            control,
            weights,
            arguments.data,
            arguments.out / "drawn-control",
            control["tissue"],
            control["masks"],
        )
        price = compare_sets(asked, reals, _settings(features[0], arguments.encoder)).price
    write_report(protocol, found, price, _read(arguments.out / TUNED), arguments.out)


def score_starter(protocol: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The starter weights beside the experiment, on the same real masks; one run each, outside the protocol."""
    tiles = open_tiles(arguments.data, None, tuple(protocol["size"]), 8, split="test")
    reals, found = real_views("held-out", tiles, protocol), {}
    for label, what in protocol["sets"].items():
        if what["generator"] not in ("depas", "priorpath"):
            continue
        fakes = draw(protocol, what, Path("starter"), arguments.data, arguments.out / f"drawn-starter-{_slug(label)}")
        for feature in protocol["features"]:
            _remember(feature, arguments)
            figures = compare_sets(fakes, reals, _settings(feature, arguments.encoder))
            near = figures.neighbours
            found[f"{label} ({feature})"] = {
                "distance": figures.distance,
                "interval": figures.distance_interval,
                "precision": near.precision,
                "recall": near.recall,
                "coverage": near.coverage,
            }
            print(f"{label}: {figures.distance_name} {figures.distance:.4g}", flush=True)
    text = json.dumps(found, indent=1, sort_keys=True)
    write_atomic(Path("docs/results/reports/tissue-masks-starter.json"), text.encode() + b"\n")


def picture(protocol: dict[str, Any], out: Path) -> None:
    """Masks of seed 0, one column for each set without real coarse masks: docs/pictures/tissue-masks.png."""
    columns = []
    for label, what in protocol["sets"].items():
        if what.get("coarse") == "masks":
            continue  # a coarse mask of a real tile is nearly that tile's mask, and those stay where they are
        dataset = open_dataset(out / f"drawn-{_slug(label)}-0")
        columns.append(np.stack([dataset.store.read(index, "semantic") for index in range(_SHOWN)]))
        print(label, flush=True)
    write_sample_sheet(Path("docs/pictures/tissue-masks.png"), columns, dataset.schemes[0])


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label.lower())


def _extractor(feature: str, arguments: argparse.Namespace) -> tuple[Extractor, Path]:
    """The extractor of this process, and the file that caches its features."""
    weights = arguments.encoder if feature.startswith("timm:") else None
    return open_extractor(feature, weights), arguments.out / f"features-{_slug(feature)}.npz"


def _remember(feature: str, arguments: argparse.Namespace) -> None:
    extractor, path = _extractor(feature, arguments)
    if path.exists():
        with np.load(path) as kept:
            digests, vectors = kept["digests"], kept["vectors"]
        extractor.known.update({bytes(key): vector for key, vector in zip(digests, vectors, strict=True)})


def _keep(feature: str, arguments: argparse.Namespace) -> None:
    extractor, path = _extractor(feature, arguments)
    digests = np.array([np.frombuffer(key, np.uint8) for key in extractor.known])
    np.savez(path.with_suffix(".partial.npz"), digests=digests, vectors=np.stack(list(extractor.known.values())))
    path.with_suffix(".partial.npz").replace(path)


def _settings(features: str, encoder: Path | None, **more: int) -> Settings:
    weights = str(encoder) if features.startswith("timm:") else None
    return Settings(features=features, feature_weights=weights, **more)


def _is_trained(run: Path) -> bool:
    """Whether a run has made all its steps."""
    path = run / "best.safetensors"
    if not path.exists():
        return False
    fields = read_card(path).fields
    return bool(fields["step"] == fields["steps"])


def _tuned(out: Path, name: str, protocol: dict[str, Any]) -> float:
    distances = _read(out / TUNED).get(name)
    if distances is None:
        raise SystemExit(f"error: {out / TUNED}: expected a tuned learning rate of {name}, got none. Run tune first.")
    return float(min(distances, key=distances.get))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


if __name__ == "__main__":
    main()
