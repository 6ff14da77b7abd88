"""Read and write Parquet manifests: atomically, with page checksums, and with a bound on what is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import UserError
from manifests.files import publish, temporary_beside
from manifests.schema import SCHEMA, DatasetInfo, conform, info_of, metadata, validate

ROWS_PER_FILE = 1_000_000
"""More rows than this go into parts, and a file that claims more is refused before it is read."""

MANIFEST = "manifest.parquet"
PARTS = "manifest"


def write_manifest(path: Path, table: pa.Table, info: DatasetInfo) -> None:
    """Write one Parquet manifest, whole or not at all.

    Args:
        path: the file to be.
        table: rows; missing columns become null.
        info: what is true of all rows.

    Raises:
        UserError: when a row breaks the contract (row and column are named).
    """
    table = conform(table, path.name)
    validate(table, path.name)
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as stream:
            pq.write_table(
                table.replace_schema_metadata(metadata(info)),
                stream,
                compression="zstd",
                write_page_checksum=True,
                row_group_size=65_536,
            )
            stream.flush()
            os.fsync(stream.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_manifest(path: Path) -> tuple[pa.Table, DatasetInfo]:
    """Read and check one manifest file.

    Raises:
        UserError: for a file that is missing, truncated, damaged, too large, or breaks the contract.
    """
    table, schema = read_rows(path)
    info = info_of(schema, str(path))
    return table, info


def read_rows(path: Path, fill: Callable[[pa.Table], pa.Table] = lambda table: table) -> tuple[pa.Table, pa.Schema]:
    """Read and check the rows of a Parquet file that need not carry our metadata, as one that a person edited.

    Args:
        path: the file.
        fill: given the table with the columns of `SCHEMA`, supplies what the file leaves out, before the check.

    Returns:
        The table with exactly the columns of `SCHEMA`, and the file's own schema.
    """
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: expected a Parquet file, got {'a link' if path.is_symlink() else 'no such file'}.")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as parquet:
            rows = parquet.metadata.num_rows
            if rows > ROWS_PER_FILE:
                raise UserError(f"{path}: expected at most {ROWS_PER_FILE:,} rows in a file, got {rows:,}. Split it.")
            unknown = [name for name in parquet.schema_arrow.names if name not in SCHEMA.names]
            if unknown:
                raise UserError(
                    f"{path}: expected the columns of a manifest, got the unknown column {unknown[0]!r}. Remove it."
                )
            table, schema = parquet.read(use_threads=False), parquet.schema_arrow
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a readable Parquet file, got: {reason}") from error
    table = fill(conform(table, str(path)))
    validate(table, str(path))
    return table, schema


def write_dataset_manifest(root: Path, table: pa.Table, info: DatasetInfo) -> list[Path]:
    """Write a data set's manifest: ``manifest.parquet``, or parts once past a million rows.

    Returns:
        The files written.
    """
    if table.num_rows <= ROWS_PER_FILE:
        write_manifest(root / MANIFEST, table, info)
        return [root / MANIFEST]
    (root / PARTS).mkdir(exist_ok=True)
    written = []
    for part, start in enumerate(range(0, table.num_rows, ROWS_PER_FILE)):
        path = root / PARTS / f"part-{part:06d}.parquet"
        write_manifest(path, table.slice(start, ROWS_PER_FILE), info)
        written.append(path)
    return written


def read_dataset_manifest(root: Path) -> tuple[pa.Table, DatasetInfo]:
    """Read a data set's manifest, in one file or in parts."""
    if not (root / PARTS).is_dir():
        return read_manifest(root / MANIFEST)
    parts = [read_manifest(path) for path in sorted((root / PARTS).glob("part-*.parquet"))]
    if not parts:
        raise UserError(f"{root / PARTS}: expected part-*.parquet files, got none.")
    return pa.concat_tables([table for table, _ in parts]), parts[0][1]


def rows_to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as dictionaries -> a table with the columns of `SCHEMA`."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)
