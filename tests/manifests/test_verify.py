"""Promises 3 and 12: verification finds every fault, names it, and measures what the manifest says."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.runs import RunSpec
from manifests import DatasetInfo, get_scheme, open_dataset, verify
from manifests.checksums import write_sums
from manifests.dataset import forget_faulty_shards
from manifests.files import temporary_beside, walk
from manifests.ledger import finished, publish_record, read_record
from manifests.schema import metadata_of
from manifests.store import Layout
from manifests.table import write_manifest
from tests.conftest import write_by_run, write_dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "data"
    write_dataset(root, scheme="pdl1", n=4, size=(32, 32), shard=2, source="synthetic")
    assert verify(root) == []
    return root


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def kinds(root: Path) -> list[str]:
    """One file of every kind."""
    files = [path.relative_to(root).as_posix() for path in walk(root)]
    return sorted({("/".join(name.split("/")[:2]) if "/c/" in name else name): name for name in files}.values())


def test_every_flipped_bit_is_found_and_named(copy: Path) -> None:
    rng = np.random.default_rng(0)
    flips = found = 0
    for name in kinds(copy):
        path = copy / name
        content = path.read_bytes()
        bits = len(content) * 8
        for position in rng.choice(bits, min(bits, 24), replace=False):
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            flips += 1
            found += any(fault.path == name for fault in verify(copy))
        path.write_bytes(content)
    assert flips >= 24 * 10
    assert found == flips
    assert verify(copy) == []


def test_every_deleted_emptied_halved_or_swapped_file_is_found_and_named(copy: Path) -> None:
    files = [path.relative_to(copy).as_posix() for path in walk(copy)]
    cases = 0
    for name, neighbour in zip(files, [*files[1:], files[0]], strict=True):
        path, other = copy / name, copy / neighbour
        content, others = path.read_bytes(), other.read_bytes()
        for damage in ("deleted", "emptied", "halved", "swapped"):
            if damage == "swapped" and content == others:
                continue
            path.unlink()
            if damage != "deleted":
                path.write_bytes({"emptied": b"", "halved": content[: len(content) // 2], "swapped": others}[damage])
            if damage == "swapped":
                other.write_bytes(content)
            assert any(name in str(fault) for fault in verify(copy)), (name, damage)
            path.write_bytes(content)
            other.write_bytes(others)
            cases += 1
    assert cases >= 3 * len(files)
    assert verify(copy) == []


def test_an_extra_file_and_a_link_are_found(copy: Path) -> None:
    (copy / "notes.txt").write_text("x")
    assert [fault.path for fault in verify(copy)] == ["notes.txt"]
    (copy / "notes.txt").unlink()
    (copy / "run.yaml").rename(copy.parent / "run.yaml")
    (copy / "run.yaml").symlink_to(copy.parent / "run.yaml")
    assert "a link" in str(verify(copy)[0])


@pytest.mark.parametrize(
    ("column", "value"),
    [("tps_area", 0.123), ("cells", 99), ("class_fractions", [0.2] * 5), ("semantic_sha256", "0" * 64)],
)
def test_a_manifest_that_lies_is_found_although_checksums_hold(copy: Path, column: str, value: object) -> None:
    dataset = open_dataset(copy)
    rows = dataset.table.to_pylist()
    rows[1][column] = value
    write_manifest(copy / "manifest.parquet", pa.Table.from_pylist(rows, schema=dataset.table.schema), dataset.info)
    write_sums(copy, {})
    faults = verify(copy)
    assert any(fault.path == f"sample {rows[1]['sample_id']}" and column in fault.message for fault in faults)
    assert any(fault.path == "ledger/000000.json" for fault in faults)


def test_a_manifest_without_a_row_is_found(copy: Path) -> None:
    dataset = open_dataset(copy)
    info: DatasetInfo = dataset.info
    write_manifest(copy / "manifest.parquet", dataset.table.slice(1), info)
    write_sums(copy, {})
    assert any("one row for each" in fault.message for fault in verify(copy))


def test_repair_forgets_just_the_shard_at_fault(copy: Path) -> None:
    path = copy / "store.zarr/semantic/c/1/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    faults = verify(copy)
    assert forget_faulty_shards(copy, faults) == [1]
    assert (copy / "ledger/000000.json").exists()
    assert not (copy / "ledger/000001.json").exists()


def test_checksums_leave_out_what_another_writer_has_open(copy: Path) -> None:
    own = temporary_beside(copy / "manifest.parquet")
    other = own.with_name(own.name.replace(str(os.getpid()), str(os.getppid())))
    other.write_bytes(b"half")
    write_sums(copy, {})
    assert other.name not in (copy / "SHA256SUMS").read_text()
    assert [fault.path for fault in verify(copy)] == [other.name]
    other.unlink()
    assert verify(copy) == []


def test_a_manifest_in_parts_is_opened_verified_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifests.table.ROWS_PER_FILE", 3)
    dataset = write_dataset(tmp_path / "data", n=7)
    assert not (dataset.root / "manifest.parquet").exists()
    assert [row["index"] for row in dataset.table.to_pylist()] == list(range(7))
    assert verify(dataset.root) == []
    part = dataset.root / "manifest/part-000001.parquet"
    content = part.read_bytes()
    part.write_bytes((dataset.root / "manifest/part-000000.parquet").read_bytes())
    faults = verify(dataset.root)
    assert faults[0].path == "manifest/part-000001.parquet"
    assert any("expected unique values" in fault.message for fault in faults)
    part.write_bytes(content[:-9])
    assert forget_faulty_shards(dataset.root, verify(dataset.root)) == []
    assert verify(write_dataset(tmp_path / "data", n=7).root) == []


def test_a_store_that_claims_a_trillion_tiles_is_a_fault_and_no_long_wait(copy: Path) -> None:
    for name in ("image", "semantic", "instance"):
        path = copy / "store.zarr" / name / "zarr.json"
        document = json.loads(path.read_text())
        document["shape"][0] = 10**12
        path.write_text(json.dumps(document))
    faults = verify(copy)
    assert any("one row for each of the 1000000000000" in fault.message for fault in faults)
    assert forget_faulty_shards(copy, faults) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"tps_area":', '"tps_area":NaN,"was":'),
        lambda text: "[" * 100_000,
        lambda text: text.replace('"rows":[', '"rows":[5,'),
        lambda text: text.replace('"shard":1', '"shard":1e999'),
    ],
)
def test_a_record_of_any_other_form_is_a_fault(copy: Path, damage: Callable[[str], str]) -> None:
    path = copy / "ledger/000001.json"
    path.write_text(damage(path.read_text()))
    assert any(fault.path == "ledger/000001.json" for fault in verify(copy))
    assert finished(copy, range(2), "") == {}


def test_a_record_with_its_own_digest_and_rows_of_another_form_is_a_fault(copy: Path) -> None:
    record = read_record(copy, 1)
    assert record is not None
    publish_record(copy, replace(record, rows=({"tps_area": "high"},)))
    assert any("rows are not those" in fault.message for fault in verify(copy))


def test_a_set_from_before_a_column_was_measured_holds_and_keeps_its_bytes(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", n=6).root
    assert open_dataset(root).table["cells_cut"].null_count == 0
    info = open_dataset(root).info
    for shard in range(2):
        record = read_record(root, shard)
        assert record is not None
        rows = tuple({name: row[name] for name in row if name != "cells_cut"} for row in record.rows)
        publish_record(root, replace(record, rows=rows))
    table = open_dataset(root).table.drop_columns(["cells_cut"]).replace_schema_metadata(metadata_of(info))
    pq.write_table(table, root / "manifest.parquet")
    write_sums(root, {})
    sums = (root / "SHA256SUMS").read_bytes()
    assert verify(root) == []
    assert open_dataset(root).table["cells_cut"].null_count == 6
    write_by_run(tmp_path / "data", n=6)  # the same command again: what names the data set stays as it is
    assert (root / "SHA256SUMS").read_bytes() == sums
    rows = open_dataset(root).table.to_pylist()
    write_manifest(root / "manifest.parquet", pa.Table.from_pylist([{**row, "cells_cut": 99} for row in rows]), info)
    assert sum("cells_cut: the manifest says 99" in fault.message for fault in verify(root)) == 6


def test_data_sets_from_before_real_pixels_keep_their_fingerprint(tmp_path: Path) -> None:
    """The key stands in run.yaml only where it says something that `is_synthetic` does not."""
    layout, scheme = Layout(2, 32, 32, 2), get_scheme("nuclei")

    def document(*, synthetic: bool, real: bool) -> dict[str, object]:
        info = DatasetInfo(synthetic, "tests", (scheme,), real_pixels=real)
        found: dict[str, object] = RunSpec(tmp_path, {}, layout, info).document["info"]
        return found

    assert "real_pixels" not in document(synthetic=True, real=False)
    assert "real_pixels" not in document(synthetic=False, real=True)
    assert document(synthetic=True, real=True)["real_pixels"] is True
