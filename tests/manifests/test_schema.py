"""Manifests: what is written is read back, and what breaks the contract is named by row and column."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import SCHEMA, DatasetInfo, UserError, get_scheme
from manifests.schema import metadata_of
from manifests.table import read_columns, read_manifest, rows_to_table, write_dataset_manifest, write_manifest

INFO = DatasetInfo(True, "tests", (get_scheme("pdl1"),), {"numpy": "2"}, ("slides/1",), ("CC0",))


def rows(n: int = 4, **changes: Any) -> list[dict[str, Any]]:
    base = {"source": "synthetic", "height": 32, "width": 64, "mpp": 0.5, "label_scheme": "pdl1", "request_tps": 0.25}
    return [{**base, "sample_id": f"t-{i}", "index": i, **changes} for i in range(n)]


def test_manifest_survives_writing(tmp_path: Path) -> None:
    table = rows_to_table(rows(request_fractions=[0.1, 0.2, 0.3, 0.2, 0.2], seed=2**64 - 1))
    write_manifest(tmp_path / "m.parquet", table, INFO)
    read, info = read_manifest(tmp_path / "m.parquet")
    assert read.to_pylist() == table.to_pylist()
    assert info == INFO
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]


def test_manifest_in_parts_past_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifests.table.ROWS_PER_FILE", 3)
    written = write_dataset_manifest(tmp_path, 7, rows(7), INFO)
    assert [path.name for path in written] == [f"part-{part:06d}.parquet" for part in range(3)]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("request_tps", math.nan, "finite"),
        ("request_tps", math.inf, "finite"),
        ("request_tps", 1.5, "0 to 1"),
        ("request_tps", -0.1, "0 to 1"),
        ("tps_area", 2.0, "0 to 1"),
        ("request_cells", -3, "0 or more"),
        ("height", 0, "1 or more"),
        ("mpp", 0.0, "above 0"),
        ("split", "training", "one of train"),
        ("source", "fake", "one of real"),
        ("label_origin", "guess", "one of exact"),
        ("sample_id", "../etc/passwd", r"\[a-z0-9-\]"),
        ("sample_id", "A", r"\[a-z0-9-\]"),
        ("sample_id", "", r"\[a-z0-9-\]"),
        ("sample_id", "t-0", "unique"),
        ("index", 0, "unique"),
        ("index", -1, "0 or more"),
        ("request_fractions", [0.5, math.nan], "shares"),
        ("request_fractions", [0.5, 1.5], "shares"),
        ("class_fractions", [0.5, None], "shares"),
        ("source", None, "a value"),
        ("real_groups", ["data/p1"], "none without real_pixels true"),
        ("real_pixels", True, "false, as the metadata says"),
    ],
)
def test_bad_value_names_row_and_column(tmp_path: Path, column: str, value: Any, said: str) -> None:
    bad = rows()
    bad[2][column] = value
    with pytest.raises(UserError, match=rf"row 2: {column}: .*{said}"):
        write_manifest(tmp_path / "m.parquet", pa.Table.from_pylist(bad, schema=_loose()), INFO)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [False, None])
def test_groups_need_real_pixels_whatever_the_metadata_says(tmp_path: Path, value: bool | None) -> None:
    info = replace(INFO, real_pixels=True)
    named = rows_to_table(rows(real_pixels=value, real_groups=["data/p1"]))
    with pytest.raises(UserError, match=r"row 0: real_groups: expected none without real_pixels true"):
        write_manifest(tmp_path / "m.parquet", named, info)
    for fine in ({"real_pixels": value, "real_groups": []}, {"real_pixels": True, "real_groups": ["data/p1"]}):
        write_manifest(tmp_path / "m.parquet", rows_to_table(rows(**fine)), info)
        assert read_manifest(tmp_path / "m.parquet")[1].real_pixels


def test_a_file_whose_metadata_denies_real_pixels_is_refused(tmp_path: Path) -> None:
    said = rows_to_table(rows(real_pixels=True, real_groups=["data/p1"]))
    pq.write_table(said.replace_schema_metadata(metadata_of(INFO)), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"m\.parquet: row 0: real_pixels: expected false, as the metadata says"):
        read_manifest(tmp_path / "m.parquet")


def _loose() -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in SCHEMA])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("request_tps", ["a", "b", "c", "d"]),
        ("index", [0.5, 1.5, 2.5, 3.5]),
        ("height", ["x"] * 4),
        ("seed", [-1, 2, 3, 4]),
        ("request_fractions", [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_wrong_type_names_the_column(tmp_path: Path, column: str, values: list) -> None:
    table = pa.Table.from_pylist(rows())
    if column in table.column_names:
        table = table.drop_columns([column])
    pq.write_table(table.append_column(column, pa.array(values)), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=f"column {column}: expected"):
        read_columns(tmp_path / "m.parquet")


def test_unknown_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()).append_column("tps", pa.array([1.0] * 4)), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="unknown column 'tps'"):
        read_columns(tmp_path / "m.parquet")


def test_a_file_that_claims_too_many_rows_is_refused_unread(tmp_path: Path) -> None:
    """Two hundred million rows in a file of a few kilobytes."""
    path = tmp_path / "bomb.parquet"
    group = pa.table({"request_tps": pa.nulls(2_000_000, pa.float64())})
    with pq.ParquetWriter(path, group.schema) as writer:
        for _ in range(100):
            writer.write_table(group)
    assert path.stat().st_size < 3_000_000
    with pytest.raises(UserError, match="200,000,000"):
        read_columns(path)


def test_files_that_would_unfold_to_gigabytes_are_refused_before_they_do(tmp_path: Path) -> None:
    """Two files of a few kilobytes: 200 GB of text behind a dictionary, 68 million shares in lists."""
    n = 1_000_000
    text = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), n), pa.array(["x" * 200_000]))
    pq.write_table(pa.table({"group_id": text}), tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"bytes of text, got [0-9,]+. Split"):
        read_columns(tmp_path / "text.parquet")
    zeros = pa.repeat(pa.scalar(0, pa.float32()), 300 * 227_000)
    shares = pa.ListArray.from_arrays(np.arange(301, dtype=np.int32) * 227_000, zeros)
    pq.write_table(pa.table({"request_fractions": shares}), tmp_path / "lists.parquet")
    with pytest.raises(UserError, match=r"request_fractions.*at most 1,024 values in a row, got 227,000"):
        read_columns(tmp_path / "lists.parquet")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000


def test_types_that_hold_the_same_values_are_read(tmp_path: Path) -> None:
    """As pandas and polars write them: narrow numbers, large and dictionary text, the index of a filtered frame."""
    table = pa.table(
        {
            "request_tps": pa.array([0.25, 0.5], pa.float32()),
            "request_cells": pa.array([3.0, None]),
            "sample_id": pa.array(["a", "b"], pa.large_string()),
            "split": pa.array(["train", "val"]).dictionary_encode(),
            "tps_area": pa.nulls(2),
            "__index_level_0__": [4, 9],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    read, _ = read_columns(tmp_path / "m.parquet")
    assert read.schema == SCHEMA
    wanted = ["request_tps", "request_cells", "sample_id", "split", "tps_area"]
    assert read.select(wanted).to_pydict() == table.select(wanted).to_pydict()


def test_links_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_columns(tmp_path / "m.parquet")
    write_manifest(tmp_path / "real.parquet", rows_to_table(rows()), INFO)
    (tmp_path / "m.parquet").symlink_to(tmp_path / "real.parquet")
    with pytest.raises(UserError, match="a link"):
        read_columns(tmp_path / "m.parquet")


def test_plain_parquet_is_no_manifest_and_other_versions_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="metadata"):
        read_manifest(tmp_path / "m.parquet")
    document = INFO.to_dict()
    with pytest.raises(UserError, match="schema version 1, got 9"):
        DatasetInfo.from_dict({**document, "schema_version": 9}, "m")
    with pytest.raises(UserError, match="label_schemes"):
        DatasetInfo.from_dict({key: document[key] for key in ("schema_version", "is_synthetic", "generator")}, "m")


def test_mutated_manifests_are_read_right_or_refused(tmp_path: Path) -> None:
    """Truncated at 200 places and 300 flipped bits: never another kind of error, never other rows in number."""
    good = tmp_path / "good.parquet"
    write_manifest(good, rows_to_table(rows(50)), INFO)
    whole, expected = good.read_bytes(), read_manifest(good)[0]
    bad = tmp_path / "bad.parquet"
    rng = np.random.default_rng(0)
    refused = 0
    mutants = [whole[:end] for end in range(0, len(whole), max(1, len(whole) // 200))]
    for position in rng.choice(len(whole) * 8, 300, replace=False):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        mutants.append(bytes(flipped))
    for mutant in mutants:
        bad.write_bytes(mutant)
        try:
            table, _ = read_manifest(bad)
        except UserError:
            refused += 1
        else:
            assert table.num_rows == expected.num_rows
    assert refused > 200
