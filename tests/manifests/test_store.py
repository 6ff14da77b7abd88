"""The Zarr layout: what zarr-python reads, what damage does, what foreign stores may not do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd

from manifests import FaultError, UserError, open_dataset
from manifests.files import is_temporary, remove_orphans, temporary_beside, walk
from manifests.store import Layout, ShardWriter, StoreReader, create_store, read_layout, shard_path
from tests.conftest import write_dataset

LAYOUT = Layout(n=5, height=32, width=64, shard=2)


def samples(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, 256, (32, 64, 3), dtype=np.uint8),
            rng.integers(0, 2, (32, 64), dtype=np.uint8),
            rng.integers(0, 2**31 - 1, (32, 64), dtype=np.int32),
        )
        for _ in range(LAYOUT.n)
    ]


def write(root: Path, threads: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    data = samples()
    create_store(root, LAYOUT, {})
    for shard in range(LAYOUT.shards):
        with ShardWriter(root, LAYOUT, shard, threads) as writer:
            for index in LAYOUT.rows(shard):
                writer.append(*data[index])
            writer.publish()
    return data


@pytest.mark.parametrize("threads", [0, 2])
def test_zarr_python_and_our_reader_see_the_same_pixels(tmp_path: Path, threads: int) -> None:
    data = write(tmp_path, threads)
    group, reader = zarr.open_group(tmp_path / "store.zarr", mode="r"), StoreReader(tmp_path)
    for index, (image, semantic, instance) in enumerate(data):
        for name, expected in (("image", image), ("semantic", semantic), ("instance", instance)):
            np.testing.assert_array_equal(group[name][index], expected)
            np.testing.assert_array_equal(reader.read(index, name), expected)


def test_one_file_for_each_shard_and_array(tmp_path: Path) -> None:
    write(tmp_path)
    files = [path for path in walk(tmp_path) if path.name != "zarr.json"]
    assert len(files) == LAYOUT.shards * 3


def test_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    for name, threads in (("a", 0), ("b", 3)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, threads)
    a, b = ([path.read_bytes() for path in walk(tmp_path / name)] for name in "ab")
    assert a == b


def test_unpublished_shard_leaves_nothing(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT, {})
    before = list(walk(tmp_path))
    with pytest.raises(RuntimeError, match="stop"), ShardWriter(tmp_path, LAYOUT, 0) as writer:
        writer.append(*samples()[0])
        raise RuntimeError("stop")
    assert list(walk(tmp_path)) == before


def test_writer_refuses_missing_surplus_and_misshapen_samples(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT, {})
    image, semantic, instance = samples()[0]
    with ShardWriter(tmp_path, LAYOUT, 2) as writer:
        with pytest.raises(ValueError, match="expected 1 samples"):
            writer.publish()
        with pytest.raises(ValueError, match="image"):
            writer.append(image[:8], semantic, instance)
    with ShardWriter(tmp_path, LAYOUT, 2) as writer:
        writer.append(image, semantic, instance)
        with pytest.raises(ValueError, match="one more"):
            writer.append(image, semantic, instance)


def test_a_missing_shard_is_a_fault_not_zeros(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / shard_path("image", 1, (3,))).unlink()
    with pytest.raises(FaultError, match="factory verify"):
        StoreReader(tmp_path).read(2, "image")


def test_every_flipped_bit_of_a_chunk_is_noticed(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / shard_path("semantic", 2, ())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    positions = rng.choice(len(whole) * 8, 200, replace=False)
    noticed = 0
    for position in positions:
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            StoreReader(tmp_path).read(4, "semantic")
        except FaultError:
            noticed += 1
    assert noticed == 200


def forge_shard(path: Path, frame: bytes, offset: int = 0) -> None:
    """A shard of two samples whose checksums hold: one chunk, at any place that its index claims."""
    chunk = frame + google_crc32c.value(frame).to_bytes(4, "little")
    index = np.full((2, 2), 2**64 - 1, "<u8")
    index[0] = offset, len(chunk)
    footer = index.tobytes()
    path.write_bytes(chunk + footer + google_crc32c.value(footer).to_bytes(4, "little"))


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    write(tmp_path)
    forge_shard(tmp_path / shard_path("semantic", 2, ()), bytes(Zstd(level=1).encode(np.zeros(1 << 26, np.uint8))))
    with pytest.raises(FaultError, match="declares 67108864"):
        StoreReader(tmp_path).read(4, "semantic")


@pytest.mark.parametrize("offset", [2**63, 2**64 - 2, 10_000])
def test_a_place_outside_the_shard_is_named_and_not_read(tmp_path: Path, offset: int) -> None:
    write(tmp_path)
    path = tmp_path / shard_path("semantic", 2, ())
    forge_shard(path, bytes(100), offset)
    with pytest.raises(FaultError, match="expected a place in the file"):
        StoreReader(tmp_path).read(4, "semantic")


@pytest.mark.parametrize("second", [bytes(Zstd().encode(b"more")), b"\x50\x2a\x4d\x18\x04\0\0\0skip", b"x"])
def test_bytes_after_the_frame_of_a_sample_are_named(tmp_path: Path, second: bytes) -> None:
    write(tmp_path)
    path, sample = tmp_path / shard_path("semantic", 2, ()), StoreReader(tmp_path).read(4, "semantic")
    for level, checksum in ((1, False), (19, True)):
        frame = bytes(Zstd(level, checksum).encode(sample))
        forge_shard(path, frame)
        assert np.array_equal(StoreReader(tmp_path).read(4, "semantic"), sample)
        forge_shard(path, frame + second)
        with pytest.raises(FaultError, match="expected one zstd frame"):
            StoreReader(tmp_path).read(4, "semantic")


def test_links_in_a_store_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / shard_path("semantic", 2, ())
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FaultError, match="got a link"):
        StoreReader(tmp_path).read(4, "semantic")
    with pytest.raises(UserError, match="got a link"):
        ShardWriter(tmp_path, LAYOUT, 2)
    metadata = tmp_path / "store.zarr/image/zarr.json"
    metadata.rename(tmp_path / "zarr.json")
    metadata.symlink_to(tmp_path / "zarr.json")
    with pytest.raises(UserError, match="link"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(shape=[5, 2**20, 2**20, 3]),
        lambda d: d.update(shape=[5, 32, 64]),
        lambda d: d.update(data_type="float32"),
        lambda d: d["codecs"][0]["configuration"]["codecs"].pop(),
        lambda d: d.pop("chunk_grid"),
        lambda d: d.update(shape=[-5, 32, 64, 3]),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[]),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=7),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=["2", 32, 64, 3]),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[3, 32, 64, 3]),
    ],
)
def test_foreign_metadata_is_refused(tmp_path: Path, edit: Callable[[dict], object]) -> None:
    write(tmp_path)
    path = tmp_path / "store.zarr/image/zarr.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"zarr\.json|store\.zarr"):
        read_layout(tmp_path)


def test_metadata_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "store.zarr/image/zarr.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="expected JSON"):
        read_layout(tmp_path)


def test_instance_ids_beyond_int32_are_refused(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT, {})
    image, semantic, instance = samples()[0]
    instance[0, 0] = -1  # as uint32 this is 2^32 - 1
    with ShardWriter(tmp_path, LAYOUT, 2) as writer:
        writer.append(image, semantic, instance)
        writer.publish()
    with pytest.raises(FaultError, match="ids"):
        StoreReader(tmp_path).read(4, "instance")


def test_orphans_of_dead_processes_go_and_of_living_ones_stay(tmp_path: Path) -> None:
    own = temporary_beside(tmp_path / "file")
    dead, alive = (own.with_name(own.name.replace(str(os.getpid()), pid)) for pid in ("4194399", str(os.getppid())))
    for path in (dead, alive):
        path.write_bytes(b"")
        assert is_temporary(path)
    assert remove_orphans(tmp_path) == 1
    assert alive.exists()
    assert not dead.exists()


def test_orphans_of_a_killed_process_that_nobody_reaped_go(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = temporary_beside(tmp_path / "file")
    orphan = own.with_name(own.name.replace(str(os.getpid()), str(child.pid)))
    orphan.write_bytes(b"")
    assert remove_orphans(tmp_path) == 0
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert remove_orphans(tmp_path) == 1
    child.communicate()


def test_orphans_of_other_machines_go_after_a_day(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f".partial-00000000-{pid}-file" for pid in (1, 2))
    for path in (fresh, old):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    assert remove_orphans(tmp_path) == 1
    assert fresh.exists()


def test_open_dataset_refuses_unfinished_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"store\.zarr"):
        open_dataset(tmp_path)
    dataset = write_dataset(tmp_path / "d")
    (dataset.root / "manifest.parquet").unlink()
    with pytest.raises(UserError, match="finished"):
        open_dataset(dataset.root)


def test_dataset_yields_what_was_written(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", scheme="ihc", n=5)
    assert len(dataset) == 5
    for position, sample in enumerate(dataset):
        assert sample.row["index"] == position
        assert sample.image.shape == (64, 96, 3)
        assert sample.tile.scheme.name == "ihc"
    assert dataset.find("real-0-3") == 3
    with pytest.raises(UserError, match="sample_id"):
        dataset.find("nothing")
    assert len(dataset.where([True, False, False, True, False])) == 2
