"""Random crops for training, image and classes: zarr-python, ours plain and augmented, and a raw memory map.

Everything in one process and one thread unless the row says otherwise, all files in the page cache.
"""

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr

from factory.core.loader import BatchLoader
from factory.core.malloc import keep_freed_memory
from factory.core.runs import open_run, write_shard
from factory.make.recipes.base import maker_of
from factory.make.recipes.masks_and_renderer import prepare
from factory.make.resolve import resolve_make
from manifests.dataset import Dataset, open_dataset
from manifests.labels import get_scheme
from segment.data.augmentation import AugmentConfig
from segment.data.mixing import Shares
from segment.data.sampling import MixingSampler
from segment.data.tiles import Tiles

BATCH, BATCHES = 8, 20
GPU_CROPS_PER_S = 2900
"""Crops a second of UNet++ at 256x256 on a large GPU: computed from its peak, not measured."""


def main() -> None:
    """Print a table for each size of tile."""
    keep_freed_memory()  # as the commands do
    cv2.setNumThreads(1)
    for tile, crop, n in ((1024, 256, 16), (512, 256, 32), (512, 128, 32)):
        folder = Path(tempfile.mkdtemp())
        try:
            _measure(folder, tile, crop, n)
        finally:
            shutil.rmtree(folder)


def made_dataset(folder: Path, tile: int, n: int, split: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> Dataset:
    """Tiles of the factory itself, in shards as it writes them."""
    flags = {"scheme": "nuclei", "n": n, "size": (tile, tile), "split": split}
    config, scheme = resolve_make(flags, {}, None, [])
    prepared = prepare(config, scheme, folder / "data", manifest=None, like=None, device="cpu")
    with open_run(prepared.spec) as run:
        for shard in run.todo:
            run.add(write_shard(prepared.spec, shard, maker_of(prepared.recipe).make(prepared.rows_of(shard))))
        run.finish()
    return open_dataset(folder / "data")


def _measure(folder: Path, tile: int, crop: int, n: int) -> None:
    dataset = made_dataset(folder, tile, n)
    print(f"\ncrops of {crop}x{crop} from {n} tiles of {tile}x{tile}")
    works: dict[str, tuple[Callable[[], None], int]] = {}
    for name, (arrays, count) in _peers(folder, dataset).items():
        works[name] = _random_crops(arrays, n, tile, crop, count), count
    symmetries = AugmentConfig.none().model_copy(update={"dihedral": True})
    for name, augment, options in (
        ("ours, plain crops", AugmentConfig.none(), {}),
        ("ours, eight symmetries", symmetries, {}),
        ("ours, augmented", AugmentConfig(), {}),
        ("ours, augmented, by class", AugmentConfig(), {"class_balance": 1 / 3}),
        ("ours, augmented, by class, distances", AugmentConfig(), {"class_balance": 1 / 3, "distances": True}),
    ):
        works[name] = _batches(_sampler(folder, dataset, crop, augment, **options)), BATCHES * BATCH  # type: ignore[arg-type]
    rates = _rates(works)
    first, second = (rate for name, rate in rates.items() if name.startswith("zarr"))
    for name, rate in rates.items():
        print(
            f"{name:<38}{rate:8.0f} crops/s {rate / first:8.1f} x zarr's store {rate / second:8.1f} x our store by zarr"
        )
    _print_waiting(_sampler(folder, dataset, crop, AugmentConfig(), class_balance=1 / 3, distances=True))


def _rates(works: dict[str, tuple[Callable[[], None], int]], rounds: int = 7) -> dict[str, float]:
    """Crops a second, medians; all take turns, so that what else the machine does falls on all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, (work, _) in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: count / statistics.median(seconds[name][1:]) for name, (_, count) in works.items()}


def _sampler(
    folder: Path,
    dataset: Dataset,
    crop: int,
    augment: AugmentConfig,
    *,
    class_balance: float = 0.0,
    distances: bool = False,
) -> MixingSampler:
    """A sampler whose tiles are decoded already, as after the first epoch."""
    tiles = Tiles(dataset, get_scheme("nuclei"), folder, 1 << 32, distances=distances)
    warm = MixingSampler((tiles,), Shares.constant(0), len(tiles), 0, (crop, crop), AugmentConfig.none())
    warm.draw(0)
    return MixingSampler((tiles,), Shares.constant(0), BATCH, 0, (crop, crop), augment, class_balance)


def _batches(sampler: MixingSampler) -> Callable[[], None]:
    """Draws the next batches at every call, in one thread."""
    steps = itertools.count()

    def draw() -> None:
        for _ in range(BATCHES):
            sampler.draw(next(steps))

    return draw


def _print_waiting(sampler: MixingSampler) -> None:
    """Share of a step that waits for data, when the step itself is simulated by sleeping."""
    for eater, step_s, threads in (
        ("a CPU, 6 crops/s", BATCH / 6, 1),
        (f"a GPU, {GPU_CROPS_PER_S} crops/s", BATCH / GPU_CROPS_PER_S, 1),
        (f"a GPU, {GPU_CROPS_PER_S} crops/s", BATCH / GPU_CROPS_PER_S, 2),
    ):
        steps = max(3, round(2 / step_s))
        with BatchLoader(sampler.draw, 0, steps, threads) as loader:
            next(loader)
            waited, started = loader.waited_s, time.perf_counter()
            for _ in loader:
                time.sleep(step_s)
            share = (loader.waited_s - waited) / (time.perf_counter() - started)
        print(f"waiting for data: {share:6.1%} of the steps of {eater}, {threads} loader thread(s)")


def _peers(folder: Path, dataset: Dataset) -> dict[str, tuple[list[Any], int]]:
    """Arrays to index, and crops to time: zarr-python's own store by its defaults, ours read by it, and numpy's map."""
    group = zarr.create_group(folder / "peer.zarr")
    mapped = []
    for name in ("image", "semantic"):
        whole = np.stack([dataset.store.read(index, name) for index in dataset.table["index"].to_pylist()])
        group.create_array(name, data=whole)
        np.save(folder / f"{name}.npy", whole)
        mapped.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    ours = zarr.open_group(dataset.root / "store.zarr", mode="r")
    return {
        "zarr-python, its defaults": ([group["image"], group["semantic"]], 16),
        "zarr-python, our store": ([ours["image"], ours["semantic"]], 16),
        "np.memmap (the limit)": (mapped, 1000),
    }


def _random_crops(arrays: list[Any], n: int, tile: int, crop: int, count: int) -> Callable[[], None]:
    """Reads so many random crops of each array at every call."""
    rng = np.random.default_rng(0)

    def cut() -> None:
        for _ in range(count):
            index, y, x = int(rng.integers(n)), *(int(v) for v in rng.integers(0, tile - crop + 1, 2))
            for array in arrays:
                np.array(array[index, y : y + crop, x : x + crop])

    return cut
