"""Shard writing and single-tile reading, against zarr-python and against write(2) on tmpfs."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from bench.timing import median_seconds, peak_mb
from factory.make.recipes.base import maker_of
from factory.make.recipes.masks_and_renderer import prepare
from factory.make.resolve import resolve_make
from manifests.store import ARRAYS, Layout, ShardWriter, StoreReader, create_store

LAYOUT = Layout(n=128, height=256, width=256, shard=64)


def tiles(root: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Real content: tiles of the factory itself."""
    flags = {"scheme": "ihc", "n": 32, "tps": "0-1"}
    config, scheme = resolve_make(flags, {}, None, [])
    prepared = prepare(config, scheme, root / "unused", manifest=None, like=None, device="cpu")
    made = [(i, t.semantic, t.instance) for i, t, _ in maker_of(prepared.recipe).make(prepared.rows_of(0))]
    return [made[index % len(made)] for index in range(LAYOUT.n)]


def main() -> None:
    """Print the table."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        _measure(root)
    finally:
        shutil.rmtree(root)


def _measure(root: Path) -> None:
    data = tiles(root)
    size_mb = sum(array.nbytes for sample in data for array in sample) / 1e6
    stacked = {spec.name: np.stack([sample[i] for sample in data]) for i, spec in enumerate(ARRAYS)}

    def raw() -> None:
        for name, array in stacked.items():
            descriptor = os.open(root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, array.data)
            os.close(descriptor)

    def zarr_python(**settings: object) -> None:
        group = zarr.create_group(root / "peer.zarr", overwrite=True)
        for spec in ARRAYS:
            sample = LAYOUT.sample_shape(spec)
            array = group.create_array(
                spec.name,
                shape=(LAYOUT.n, *sample),
                dtype=spec.dtype,
                chunks=(1, *sample),
                shards=(LAYOUT.shard, *sample),
                **settings,  # type: ignore[arg-type]
            )
            for shard in range(LAYOUT.shards):
                rows = slice(shard * LAYOUT.shard, (shard + 1) * LAYOUT.shard)
                array[rows] = stacked[spec.name][rows]

    def ours(threads: int) -> None:
        shutil.rmtree(root / "ours", ignore_errors=True)
        (root / "ours").mkdir()
        create_store(root / "ours", LAYOUT, {})
        for shard in range(LAYOUT.shards):
            with ShardWriter(root / "ours", LAYOUT, shard, threads) as writer:
                for index in LAYOUT.rows(shard):
                    writer.append(*data[index])
                writer.publish()

    same = {"compressors": [ZstdCodec(level=1), Crc32cCodec()], "config": {"write_empty_chunks": True}}
    rates = {
        "write(2), raw": size_mb / median_seconds(raw),
        "zarr-python, defaults": size_mb / median_seconds(zarr_python),
        "zarr-python, our codecs": size_mb / median_seconds(lambda: zarr_python(**same)),
        "ShardWriter, in the caller": size_mb / median_seconds(lambda: ours(0)),
        "ShardWriter, 2 threads": size_mb / median_seconds(lambda: ours(2)),
    }
    for name, rate in rates.items():
        default, limit = rate / rates["zarr-python, defaults"], rate / rates["write(2), raw"]
        print(f"{name:<28}{rate:8.0f} MB/s   {default:6.2f} x default   {limit:5.2f} of write(2)")
    files = sum(1 for path in (root / "ours").rglob("c/**/*") if path.is_file())
    print(f"objects: {files} for {LAYOUT.n} tiles and 3 arrays; peak memory {peak_mb():.0f} MB with the tiles held")
    _measure_reads(root)


def _measure_reads(root: Path) -> None:
    order = np.random.default_rng(0).permutation(LAYOUT.n).tolist()
    group, reader = zarr.open_group(root / "peer.zarr", mode="r"), StoreReader(root / "ours")
    arrays = [group[spec.name] for spec in ARRAYS]

    def peer() -> None:
        for index in order:
            for array in arrays:
                array[index]  # type: ignore[index]

    def own() -> None:
        for index in order:
            for spec in ARRAYS:
                reader.read(index, spec.name)

    for name, work in (("zarr-python", peer), ("StoreReader", own)):
        milliseconds = median_seconds(work, 3) / LAYOUT.n * 1e3
        print(f"random read, image + semantic + instance at 256x256, {name:<12}{milliseconds:6.2f} ms")
