"""Read and write Parquet manifests: atomically, with page checksums and bounded sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.contents import INFO as INFO
from manifests.contents import MANIFEST as MANIFEST
from manifests.contents import PARTS as PARTS
from manifests.errors import UserError
from manifests.files import open_atomic, write_atomic
from manifests.limits import LIST_VALUES, ROW_BYTES, read_json, reads
from manifests.schema import (
    METADATA_KEY,
    OWN_COLUMNS,
    SCHEMA,
    DatasetInfo,
    conform,
    info_of,
    metadata_of,
    refuse_duplicates,
    refuse_unknown,
    refuse_unsaid_pixels,
    validate,
)  # fmt: skip

ROWS_PER_FILE = 1_000_000
"""Largest number of rows in a file: more are split into parts, and a larger file is refused before it is read."""

_MAX_TEXT_BYTES = 2**30
_LEAST_TEXT_BYTES, _MAX_EXPANSION = 1 << 26, 100
"""Bytes of text that any file may have, and bytes for each of its own: ids and digests hardly compress."""

_LEAST_VALUES, _LEAST_BYTES = 1 << 16, 1 << 24
"""Values of a list, and bytes before compression, that a file of few rows may have all the same."""

_FOOTER_BYTES = 1 << 24
_TEXT_COLUMNS = [field.name for field in SCHEMA if pa.types.is_string(field.type)]

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""Index column that `DataFrame.to_parquet` adds after rows were removed."""


def write_manifest(path: Path, table: pa.Table, info: DatasetInfo, extra: Mapping[bytes, bytes] | None = None) -> None:
    """Write one Parquet manifest, whole or not at all.

    Args:
        path: of the file.
        table: rows; missing columns become null.
        info: metadata of all rows.
        extra: further metadata of the file.

    Raises:
        UserError: when a row breaks the contract (row and column are named).
    """
    table = conform(table, path.name)
    validate(table, path.name)
    refuse_unsaid_pixels(table, info, path.name)
    table = table.replace_schema_metadata({**metadata_of(info), **(extra or {})})
    with open_atomic(path) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True, row_group_size=65_536)


@reads("a manifest")
def read_manifest(
    path: Path, fallback: Callable[[], DatasetInfo | None] = lambda: None
) -> tuple[pa.Table, DatasetInfo]:
    """Read and check one manifest file.

    Args:
        path: of the file. fallback: gives the metadata where neither the file nor `INFO` beside it has it.

    Raises:
        UserError: for a file that is missing, truncated, damaged, too large, or breaks the contract.
    """
    table, schema = read_columns(path)
    validate(table, str(path))
    info = find_info(path, schema, fallback)
    refuse_unsaid_pixels(table, info, str(path))
    return table, info


def find_info(path: Path, schema: pa.Schema, fallback: Callable[[], DatasetInfo | None] = lambda: None) -> DatasetInfo:
    """The metadata of the rows of a file: in it, else in `INFO` beside it, else that of `fallback`.

    Raises:
        UserError: when there is none anywhere.
    """
    if METADATA_KEY in (schema.metadata or {}):
        return info_of(schema, str(path))
    beside = path.parent.parent if path.parent.name == PARTS else path.parent
    return read_info(beside / INFO) or fallback() or info_of(schema, str(path))


def read_info(path: Path) -> DatasetInfo | None:
    """The metadata of a data set in a JSON file; None where there is no such file.

    Raises:
        UserError: for a file that is damaged.
    """
    if path.is_symlink() or not path.is_file():
        return None
    try:
        document = read_json(path)
        return DatasetInfo.from_dict(document, str(path))
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(f"{path}: expected the metadata of a manifest as JSON, got {error}.") from error


@reads("a readable Parquet file")
def read_columns(path: Path) -> tuple[pa.Table, pa.Schema]:
    """Read a Parquet file, as one edited by hand, that may lack our metadata and columns.

    Returns:
        The table with the columns of `SCHEMA` in their types, null where the file has none, values unchecked; and the
        file's own schema.

    Raises:
        UserError: for a file that is missing, truncated, damaged or too large, or a column of another name or type.
    """
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: expected a Parquet file, got {'a link' if path.is_symlink() else 'no such file'}.")
    try:
        _refuse_long_footer(path)
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        names = [name for name in schema.names if not _PANDAS_INDEX.fullmatch(name)]
        refuse_unknown(names, str(path))
        _refuse_many(metadata, path)
        # Text stays a dictionary until its size is known: a few kilobytes can expand to gigabytes.
        leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        present = {leaf.path: leaf.physical_type for leaf in leaves}
        own = [name for name in names if name.startswith(OWN_COLUMNS) and name in present]
        text = [name for name in [*_TEXT_COLUMNS, *own] if present.get(name) == "BYTE_ARRAY"]
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=text) as parquet:
            table = parquet.read(names, use_threads=False)
        _refuse_long_text(table, path)
        table = _decoded(table, own)
    except (pa.ArrowException, OSError, MemoryError, UnicodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a readable Parquet file, got: {reason}") from error
    return conform(table, str(path)), schema


def _decoded(table: pa.Table, own: Collection[str]) -> pa.Table:
    """The table with plain values in columns of users that were read as dictionaries."""
    for name in own:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            table = table.set_column(table.column_names.index(name), name, column.cast(column.type.value_type))
    return table


def _refuse_many(metadata: pq.FileMetaData, path: Path) -> None:
    """Refuse a file with more rows or values than a manifest can have, before it is read."""
    groups = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    rows = max(metadata.num_rows, groups)
    if rows > ROWS_PER_FILE:
        raise UserError(f"{path}: expected at most {ROWS_PER_FILE:,} rows in a file, got {rows:,}. Split it.")
    for number in range(metadata.num_columns):
        if metadata.schema.column(number).max_repetition_level == 0:
            continue  # one value for each row; on a damaged chunk pyarrow would end the process
        chunks = [metadata.row_group(group).column(number) for group in range(metadata.num_row_groups)]
        values = sum(chunk.num_values for chunk in chunks)
        if values > max(rows * LIST_VALUES, _LEAST_VALUES):
            where = f"{path}: column {chunks[0].path_in_schema}"
            raise UserError(
                f"{where}: expected at most {LIST_VALUES:,} values in a row, got {values // max(rows, 1):,}."
            )
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if size > max(rows * ROW_BYTES, _LEAST_BYTES):
        raise UserError(f"{path}: expected at most {ROW_BYTES:,} bytes in a row, got {size // max(rows, 1):,}.")


def _refuse_long_footer(path: Path) -> None:
    """Refuse a file whose own description would fill the memory."""
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - 8, 0))
        length = int.from_bytes(stream.read(4), "little")
    if length > _FOOTER_BYTES:
        raise UserError(f"{path}: expected a footer of at most {_FOOTER_BYTES:,} bytes, got {length:,}.")


def _refuse_long_text(table: pa.Table, path: Path) -> None:
    """Refuse text that would not fit in memory once decoded from its dictionary."""
    size = 0
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            for chunk in column.chunks:
                size += pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
    most = min(_MAX_TEXT_BYTES, max(_LEAST_TEXT_BYTES, path.stat().st_size * _MAX_EXPANSION))
    if size > most:
        raise UserError(f"{path}: expected at most {most:,} bytes of text, got {size:,}. Split it.")


def write_dataset_manifest(root: Path, table: pa.Table, info: DatasetInfo) -> list[Path]:
    """Write a data set's manifest: ``manifest.parquet``, or parts once past a million rows; and `INFO` before it.

    Returns:
        The manifest files written.
    """
    write_atomic(root / INFO, (json.dumps(info.to_dict(), indent=2, sort_keys=True) + "\n").encode())
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


def read_dataset_manifest(
    root: Path, fallback: Callable[[], DatasetInfo | None] = lambda: None
) -> tuple[pa.Table, DatasetInfo]:
    """Read a data set's manifest, in one file or in parts.

    Args:
        root: its folder. fallback: gives the metadata where no file has it.

    Raises:
        UserError: as `read_manifest`, and for parts of different data sets.
    """
    if not (root / PARTS).is_dir():
        return read_manifest(root / MANIFEST, fallback)
    parts = [read_manifest(path, fallback) for path in sorted((root / PARTS).glob("part-*.parquet"))]
    if not parts:
        raise UserError(f"{root / PARTS}: expected part-*.parquet files, got none.")
    info = parts[0][1]
    if any(other != info for _, other in parts):
        raise UserError(f"{root / PARTS}: expected parts of one data set, got different metadata. Run factory verify.")
    table = pa.concat_tables([part for part, _ in parts], promote_options="default")
    refuse_duplicates(table, str(root / PARTS))
    return table, info


def rows_to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as dictionaries -> a table with the columns of `SCHEMA`."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)
