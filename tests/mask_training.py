"""Small masks with images, small trainers and small trained weights for the tests of what `factory train` trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from scipy import ndimage

from factory.core.config import digest, parse
from factory.core.runs import RunSpec, open_run, write_shard
from factory.learn.trainer import TrainerConfig
from factory.train.generator import TrainingRun, prepare, train, trainer_class, trainers
from manifests import Dataset, DatasetInfo, Tile, get_scheme, open_dataset
from manifests.store import Layout

Masks = Sequence[npt.NDArray[np.uint8]]
SIZE = (32, 64)

COMMON: dict[str, Any] = {
    "size": list(SIZE), "batch": 2, "epochs": 6, "decay_epochs": 2, "steps": 6, "look_every": 2, "ema": 0.9,
    "learning_rate": 1e-3, "precision": "fp32", "threads": 1,
}  # fmt: skip

NOISE = {"kind": "polygons+noise", "spacing_um": 2.0}

SMALL: dict[str, dict[str, Any]] = {
    "depas": {
        "network": {"latent_tile": 2, "latent_place": 3, "widths": [8, 8, 6, 4, 4], "mixing": 1},
        "discriminator_width": 4, "anneal_epochs": 2,
    },
    "dcgan": {"network": {"latent": 5, "widths": [8, 8, 6, 4, 4]}, "discriminator_width": 4},
    "priorpath": {
        "network": {"width": 4, "depth": 4, "norm": "batch", "dropout": 0.3},
        "discriminator_width": 4, "loss": {"l1": 10}, "opening_px": 3, "closing_px": 6,
    },
    "masks/cyclegan": {
        "network": {"width": 4, "blocks": 1, "norm": "instance"},
        "discriminator_width": 4, "pool": 3, "opening_px": 3, "closing_px": 6,
    },
    "pix2pixhd": {
        "network": {"width": 4, "downs": 2, "blocks": 1, "kernel": 3, "upsampling": "resize"},
        "discriminators": 2, "discriminator_width": 4, "discriminator_depth": 2, "loss": {"feature": 2},
        "condition": NOISE, "look": True,
    },
    "sharpgan": {
        "architecture": "resnet", "resnet": {"width": 4, "downs": 2, "blocks": 1, "kernel": 3, "upsampling": "resize"},
        "discriminator_width": 4, "discriminator_depth": 2, "loss": {"feature": 2, "smoothness": 0, "contrast": 0},
        "condition": NOISE, "look": True,
    },
    "pix2pix": {
        "network": {"width": 4, "depth": 4, "dropout": 0.3},
        "discriminator_width": 4, "loss": {"l1": 10}, "condition": NOISE,
    },
    "renderers/cyclegan": {
        "network": {"width": 4, "blocks": 1, "kernel": 3}, "discriminator_width": 4, "pool": 3,
        "condition": NOISE, "look": True,
    },
    "stylegan2": {
        "network": {"z_dim": 6, "w_dim": 5, "mapping_layers": 2, "channel_base": 256, "channel_max": 8},
        "ema": 0, "mbstd_group_size": 2,
    },
}  # fmt: skip
"""Values over `COMMON` that make each trainer small; a trainer that is not here is trained with `COMMON` alone."""


def trainer_name(name: str, part: str = "masks") -> str:
    """Name in `factory train` of a mask generator or, with ``renderers``, of a renderer."""
    return name if name in trainers() else f"{part}/{name}"


def blobs(seed: int, classes: int, size: tuple[int, int], sigma: float = 5.0) -> npt.NDArray[np.uint8]:
    """A mask of blobs, every class about as common: uint8 [H, W]."""
    fields = np.random.default_rng(seed).standard_normal((classes, *size))
    smooth = ndimage.gaussian_filter(fields, (0, sigma, sigma), mode="wrap")
    return smooth.argmax(0).astype(np.uint8)


def painted(labels: npt.NDArray[np.uint8], scheme: str, seed: int) -> npt.NDArray[np.uint8]:
    """An image that shows a mask: its classes' colours, darkened by grain of a few pixels: uint8 [H, W, 3], RGB."""
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(labels.shape), 1.5, mode="wrap")
    shade = 0.75 + 0.2 * np.clip(2 * grain, -1, 1)
    colours: npt.NDArray[np.uint8] = np.round(get_scheme(scheme).palette[labels] * shade[..., None]).astype(np.uint8)
    return colours


def write_masks(
    root: Path,
    masks: Masks,
    scheme: str = "tissue",
    *,
    mpp: float = 0.5,
    split: str | Callable[[int], str] = "train",
    group: Callable[[int], str | None] = lambda index: f"slide-{index % 3}",
    images: Callable[[int], npt.NDArray[np.uint8]] | None = None,
) -> Dataset:
    """Write masks as a finished real data set; images show them unless others are given."""
    label_scheme, size = get_scheme(scheme), masks[0].shape
    info = DatasetInfo(False, "tests", (label_scheme,), licences=(f"licence of {root.name}",))
    spec = RunSpec(root, {"name": root.name}, Layout(len(masks), size[0], size[1], 4), info)

    def sample(index: int) -> tuple[npt.NDArray[np.uint8], Tile, dict[str, object]]:
        row = {
            "sample_id": f"{root.name.replace('_', '-')}-{index}", "source": "real",
            "split": split if isinstance(split, str) else split(index),
            "group_id": group(index), "height": size[0], "width": size[1], "mpp": mpp, "label_scheme": scheme,
            "seed": 0, "label_origin": "exact", "licence": "test",
        }  # fmt: skip
        tile = Tile(masks[index], np.zeros(size, np.int32), mpp, label_scheme)
        image = images(index) if images else painted(masks[index], scheme, index)
        return image, tile, row

    with open_run(spec) as run:
        for number in run.todo:
            run.add(write_shard(spec, number, (sample(index) for index in spec.layout.rows(number))))
        run.finish()
    return open_dataset(root)


def write_blobs(
    root: Path, n: int = 8, scheme: str = "tissue", size: tuple[int, int] = (48, 96), **more: Any
) -> Dataset:
    """A data set of `blobs`."""
    classes = len(get_scheme(scheme))
    return write_masks(root, [blobs(seed, classes, size) for seed in range(n)], scheme, **more)


def poke(root: Path, index: int, value: int) -> None:
    """Put a value into the first pixel of a stored mask, behind the back of whoever checks."""
    zarr.open_group(root / "store.zarr")["semantic"][index, 0, 0] = value


def trainer_config(name: str, **changes: Any) -> TrainerConfig:
    """The small config of a trainer."""
    config: TrainerConfig = parse(trainer_class(name).Config, {**COMMON, **SMALL.get(name, {}), **changes}, name)
    return config


def small_run(name: str, data: Path, out: Path, **changes: Any) -> TrainingRun:
    """A small training run that is ready to start."""
    return prepare(name, trainer_config(name, **changes), [data], out)


def trained(name: str, data: Path, out: Path, **changes: Any) -> Path:
    """Train for a few steps; returns the run's folder."""
    train(small_run(name, data, out, **changes))
    return out


def as_assignments(name: str, **changes: Any) -> list[str]:
    """The small config as ``--set`` words, over the shipped one."""
    values = {**COMMON, **SMALL.get(name, {}), **changes}
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return [part for word in words for part in ("--set", word)]


def as_file(path: Path, name: str, **changes: Any) -> Path:
    """The small config as a YAML file, over the defaults."""
    path.write_text(json.dumps({**COMMON, **SMALL.get(name, {}), **changes}))
    return path


def trained_once(folder: Path, part: str = "masks") -> Callable[..., Path]:
    """``run("depas", "tissue")``: the run folder of what was trained for a few steps, made once.

    `part` is ``masks`` or ``renderers``, the table that names are of; further words change the trainer.
    """
    done: dict[str, Path] = {}

    def run(name: str, scheme: str = "tissue", **changes: Any) -> Path:
        data = folder / scheme
        if not data.exists():
            write_blobs(data, n=4, scheme=scheme)
        key = "-".join([name, scheme, digest(changes)[:8]])
        if key not in done:
            changes = {"steps": 3, "look_every": 3, **changes}
            done[key] = trained(trainer_name(name, part), data, folder / key, **changes)
        return done[key]

    return run
