"""Promises 3 and 12: verification finds every fault, names it, and measures what the manifest says."""

import hashlib
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

from factory.core.runs import RunSpec, encode_run
from manifests import DatasetInfo, UserError, get_scheme, open_dataset, verify
from manifests.checksums import write_sums
from manifests.files import temporary_beside, walk
from manifests.ledger import finished, publish_record, read_record
from manifests.repair import Repair, repair
from manifests.schema import metadata_of
from manifests.store import FileRecord, Layout
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


def repaired(root: Path) -> Repair:
    return repair(root, verify(root), encode_run)


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
        for position in rng.choice(bits, min(bits, 8), replace=False):
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            flips += 1
            found += any(fault.path == name for fault in verify(copy))
        path.write_bytes(content)
    assert flips >= 8 * 10
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


STRANGERS = (
    "notes.txt",
    "store.zarr/new/zarr.json",
    "store.zarr/image/c/2/0/0/0",
    "ledger/7.json",
    "ledger/000002.json",
)


def test_strangers_are_never_listed_and_repair_sets_them_aside(copy: Path) -> None:
    sums = (copy / "SHA256SUMS").read_bytes()
    for name in STRANGERS:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(name)
    write_sums(copy, 2, {})
    assert (copy / "SHA256SUMS").read_bytes() == sums
    faults = verify(copy)
    assert sorted(fault.path for fault in faults) == sorted(STRANGERS)
    assert all("a stranger" in fault.message for fault in faults)
    done = repaired(copy)
    assert done.is_whole
    assert done.shards == ()
    assert {name: (done.aside / name).read_text() for name in STRANGERS} == {name: name for name in STRANGERS}
    assert verify(copy) == []
    assert not (copy / "store.zarr/new").exists()


def test_strangers_that_an_earlier_release_listed_are_named_never_read_and_struck_off(copy: Path) -> None:
    sums = (copy / "SHA256SUMS").read_bytes()
    body = sums.rstrip(b"\n").rpartition(b"\n")[0] + b"\n" + b"0" * 64 + b"  ../../outside\n"
    (copy / "SHA256SUMS").write_bytes(body + f"{hashlib.sha256(body).hexdigest()}  SHA256SUMS\n".encode())
    assert [fault.path for fault in verify(copy)] == ["../../outside"]
    assert repaired(copy).is_whole
    assert (copy / "SHA256SUMS").read_bytes() == sums


def test_a_linked_file_store_or_ledger_is_called_a_link(copy: Path) -> None:
    for name in ("run.yaml", "ledger", "store.zarr"):
        (copy / name).rename(copy.parent / name)
        (copy / name).symlink_to(copy.parent / name)
        faults = verify(copy)
        assert any(fault.path == name and "a link" in fault.message for fault in faults)
        assert not any("missing" in fault.message for fault in faults)
        (copy / name).unlink()
        (copy.parent / name).rename(copy / name)
    (copy / "store.zarr/image").rename(copy.parent / "image")
    (copy / "store.zarr/image").symlink_to(copy.parent / "image")
    with pytest.raises(UserError, match=r"store\.zarr/image: expected .* got a link"):
        write_by_run(copy, scheme="pdl1", n=4, size=(32, 32), shard=2, source="synthetic")


@pytest.mark.parametrize("damage", [lambda text: text.replace("seed", "sead"), lambda text: "\0", None])
@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_damaged_configuration_is_mended_by_repair_or_by_its_command(
    copy: Path, damage: Callable[[str], str] | None, *, is_earlier: bool
) -> None:
    """Records of earlier releases have no copy of it, but its fingerprint."""
    if is_earlier:
        record = read_record(copy, 0)
        assert record is not None
        publish_record(copy, replace(record, run=None))
        write_sums(copy, 2, {})
    before = {path: path.read_bytes() for path in walk(copy)}
    text = (copy / "run.yaml").read_text()
    (copy / "run.yaml").unlink()
    if damage is not None:
        (copy / "run.yaml").write_text(damage(text))
    done = repaired(copy)
    assert (done.run, done.is_whole) == (not is_earlier, not is_earlier)
    write_by_run(copy, scheme="pdl1", n=4, size=(32, 32), shard=2, source="synthetic")
    assert {path: path.read_bytes() for path in walk(copy)} == before
    assert verify(copy) == []


def test_a_record_that_names_a_path_outside_does_not_count(copy: Path) -> None:
    record = read_record(copy, 1)
    assert record is not None
    (copy.parent / "outside").write_bytes(b"")
    publish_record(copy, replace(record, files=(FileRecord("../outside", 0, "0" * 64), *record.files[1:])))
    assert finished(copy, range(2), record.fingerprint).keys() == {0}
    assert any(fault.path == "ledger/000001.json" and "names of its shard" in fault.message for fault in verify(copy))


@pytest.mark.parametrize(
    ("column", "value"),
    [("tps_area", 0.123), ("cells", 99), ("class_fractions", [0.2] * 5), ("semantic_sha256", "0" * 64)],
)
def test_a_manifest_that_lies_is_found_although_checksums_hold(copy: Path, column: str, value: object) -> None:
    dataset = open_dataset(copy)
    rows = dataset.table.to_pylist()
    rows[1][column] = value
    write_manifest(copy / "manifest.parquet", pa.Table.from_pylist(rows, schema=dataset.table.schema), dataset.info)
    write_sums(copy, 2, {})
    faults = verify(copy)
    assert any(fault.path == f"sample {rows[1]['sample_id']}" and column in fault.message for fault in faults)
    assert any(fault.path == "ledger/000000.json" for fault in faults)


def test_a_manifest_without_a_row_is_found(copy: Path) -> None:
    dataset = open_dataset(copy)
    info: DatasetInfo = dataset.info
    write_manifest(copy / "manifest.parquet", dataset.table.slice(1), info)
    write_sums(copy, 2, {})
    assert any("one row for each" in fault.message for fault in verify(copy))


def test_repair_forgets_just_the_shard_at_fault(copy: Path) -> None:
    path = copy / "store.zarr/semantic/c/1/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    assert repaired(copy).shards == (1,)
    assert (copy / "ledger/000000.json").exists()
    assert not (copy / "ledger/000001.json").exists()


def test_checksums_leave_out_what_another_writer_has_open(copy: Path) -> None:
    own = temporary_beside(copy / "manifest.parquet")
    other = own.with_name(own.name.replace(str(os.getpid()), str(os.getppid())))
    other.write_bytes(b"half")
    write_sums(copy, 2, {})
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
    assert repaired(dataset.root).shards == ()
    assert verify(write_dataset(tmp_path / "data", n=7).root) == []


def test_a_store_that_claims_a_trillion_tiles_is_a_fault_and_no_long_wait(copy: Path) -> None:
    for name in ("image", "semantic", "instance"):
        path = copy / "store.zarr" / name / "zarr.json"
        document = json.loads(path.read_text())
        document["shape"][0] = 10**12
        path.write_text(json.dumps(document))
    faults = verify(copy)
    assert any("one row for each of the 1000000000000" in fault.message for fault in faults)
    assert repaired(copy).shards == ()


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
    write_sums(root, 2, {})
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


def test_rows_in_another_order_hold_and_repeated_ones_are_named_however_few_are_read_at_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifests.table._ROWS_AT_ONCE", 2)
    dataset = open_dataset(copy)
    write_manifest(copy / "manifest.parquet", dataset.table.take([3, 0, 2, 1]), dataset.info)
    write_sums(copy, 2, {})
    seen: list[tuple[int, int]] = []
    assert verify(copy, lambda done, total: seen.append((done, total)), threads=3) == []
    assert seen == [(2, 4), (4, 4)]
    for name in ("sample_id", "index"):
        rows = dataset.table.to_pylist()
        rows[3][name] = rows[0][name]
        twice = pa.Table.from_pylist(rows, schema=dataset.table.schema)
        pq.write_table(twice.replace_schema_metadata(metadata_of(dataset.info)), copy / "manifest.parquet")
        with pytest.raises(UserError, match=rf"row 3: {name}: expected unique values, got .* of row 0"):
            open_dataset(copy)
        with pytest.raises(UserError, match=rf"row 3: {name}: expected unique values"):
            write_manifest(copy / "other.parquet", twice, dataset.info)
    assert not (copy / "other.parquet").exists()
