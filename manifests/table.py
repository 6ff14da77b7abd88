"""Read and write Parquet manifests: atomically, with page checksums and bounded sizes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.contents import INFO as INFO
from manifests.contents import MANIFEST as MANIFEST
from manifests.contents import PARTS as PARTS
from manifests.errors import UserError
from manifests.files import open_atomic, read_tail, write_atomic
from manifests.keys import Keys
from manifests.limits import LIST_VALUES, ROW_BYTES, read_json, reads
from manifests.object_store import ObjectPath
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

ROWS_PER_GROUP = 65_536
"""Rows of a row group, which is written at once."""

_ROWS_AT_ONCE = 4096
"""Rows that are read at once, or are dictionaries at the same time, which takes ten times the memory."""

Row = dict[str, Any]
_KEYS = ["sample_id", "index"]
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
    starts = range(0, max(len(table), 1), ROWS_PER_GROUP)
    _write(path, (table.slice(start, ROWS_PER_GROUP) for start in starts), info, extra or {})


def _write(path: Path, groups: Iterable[pa.Table], info: DatasetInfo, extra: Mapping[bytes, bytes]) -> None:
    """Write row groups as they come, so that one is in memory."""
    keys = Keys()
    with open_atomic(path) as stream:
        with contextlib.ExitStack() as stack:
            writer = None
            for group in _checked(groups, info, path.name, keys):
                if writer is None:
                    schema = group.schema.with_metadata({**metadata_of(info), **extra})
                    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
                    writer = stack.enter_context(pq.ParquetWriter(stream, schema, **options))
                writer.write_table(group, row_group_size=ROWS_PER_GROUP)
                del group  # before the next is made
        stream.flush()
        _refuse_repeated(keys, {path.name: Path(stream.name)})


def _checked(groups: Iterable[pa.Table], info: DatasetInfo, where: str, keys: Keys) -> Iterator[pa.Table]:
    """Row groups in the columns of `SCHEMA`, each checked before it is yielded; their ids and indices are in `keys`."""
    first = 0
    for group in groups:
        group = conform(group, where)
        validate(group, where, first)
        refuse_unsaid_pixels(group, info, where, first)
        first += len(group)
        keys.add(group)
        yield group
        del group


def _refuse_repeated(keys: Keys, files: Mapping[str, Path], together: str = "") -> None:
    """Refuse ids and indices that repeat, in one of the files by the names of an error, or in them all `together`."""
    if keys.may_repeat:
        tables = [pa.concat_tables(group.select(_KEYS) for group in read_tables(path)) for path in files.values()]
        for where, table in zip(files, tables, strict=True):
            refuse_duplicates(table, where)
        refuse_duplicates(pa.concat_tables(tables), together)


@reads("a manifest")
def read_manifest(
    path: Path, fallback: Callable[[], DatasetInfo | None] = lambda: None, columns: Sequence[str] | None = None
) -> tuple[pa.Table, DatasetInfo]:
    """Read and check one manifest file.

    Args:
        path: of the file. fallback: gives the metadata where neither the file nor `INFO` beside it has it.
        columns: to keep in memory; None keeps all. All are checked.

    Raises:
        UserError: for a file that is missing, truncated, damaged, too large, or breaks the contract.
    """
    return _read([path], str(path), fallback, columns)


def _read(
    paths: Sequence[Path], where: str, fallback: Callable[[], DatasetInfo | None], columns: Sequence[str] | None
) -> tuple[pa.Table, DatasetInfo]:
    """The rows of files of one data set; `where` names them all."""
    info = _info_of_all(paths, where, fallback)
    groups = _stream(paths, where, info, Keys())
    kept = list(groups if columns is None else (group.select([*{*columns, "index"}]) for group in groups))
    table = pa.concat_tables(kept, promote_options="default")
    return table if columns is None else table.select(columns), info


def _info_of_all(paths: Sequence[Path], where: str, fallback: Callable[[], DatasetInfo | None]) -> DatasetInfo:
    """The metadata that the files of one data set have."""
    infos = [find_info(path, _open(path).schema, fallback) for path in paths]
    if any(other != infos[0] for other in infos):
        raise UserError(f"{where}: expected parts of one data set, got different metadata. Run factory verify.")
    return infos[0]


def _stream(paths: Sequence[Path], where: str, info: DatasetInfo, keys: Keys) -> Iterator[pa.Table]:
    """The rows of files of one data set, a checked row group at a time, at least one table."""
    for path in paths:
        yield from _checked(read_tables(path), info, str(path), keys)
    _refuse_repeated(keys, {str(path): path for path in paths}, where)


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
    return pa.concat_tables(list(read_tables(path)), promote_options="default"), _open(path).schema


@dataclass(frozen=True)
class _Columns:
    """Columns of a file that can be read.

    Attributes:
        schema: of the file. names: of its columns. own: those of users. text: those read as dictionaries.
    """

    schema: pa.Schema
    names: list[str]
    own: list[str]
    text: list[str]


def _open(path: Path) -> _Columns:
    """What a Parquet file holds, before its rows are read; errors as of `read_columns`."""
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: expected a Parquet file, got {'a link' if path.is_symlink() else 'no such file'}.")
    with _readable(path):
        _refuse_long_footer(path)
        metadata = pq.read_metadata(_source(path))
        schema = metadata.schema.to_arrow_schema()
        names = [name for name in schema.names if not _PANDAS_INDEX.fullmatch(name)]
        refuse_unknown(names, str(path))
        _refuse_many(metadata, path)
        leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        present = {leaf.path: leaf.physical_type for leaf in leaves}
        own = [name for name in names if name.startswith(OWN_COLUMNS) and name in present]
        text = [name for name in [*_TEXT_COLUMNS, *own] if present.get(name) == "BYTE_ARRAY"]
        return _Columns(schema, names, own, text)


def read_tables(path: Path) -> Iterator[pa.Table]:
    """Read a Parquet file in small tables, at least one; columns and errors as of `read_columns`."""
    columns, size = _open(path), 0
    most = min(_MAX_TEXT_BYTES, max(_LEAST_TEXT_BYTES, path.stat().st_size * _MAX_EXPANSION))
    # Text stays a dictionary until its size is known: a few kilobytes can expand to gigabytes.
    with (
        _readable(path),
        pq.ParquetFile(_source(path), page_checksum_verification=True, read_dictionary=columns.text) as parquet,
    ):
        for table in _tables(parquet, columns.names):
            size += _text_size(table)
            if size > most:
                raise UserError(f"{path}: expected at most {most:,} bytes of text, got {size:,}. Split it.")
            yield conform(_decoded(table, columns.own), str(path))


def _source(path: Path) -> Any:
    """What pyarrow reads for a path: of an object store a copy on this machine."""
    return pa.BufferReader(path.copied()) if isinstance(path, ObjectPath) else path


def _tables(parquet: pq.ParquetFile, names: list[str]) -> Iterator[pa.Table]:
    """The rows of a file in small tables; an empty one where it has no rows."""
    batches = parquet.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False)
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    yield next(tables, parquet.read_row_groups([], names, use_threads=False))
    yield from tables


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, UnicodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a readable Parquet file, got: {reason}") from error


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
    length = int.from_bytes(read_tail(path, 8)[0][:4], "little")
    if length > _FOOTER_BYTES:
        raise UserError(f"{path}: expected a footer of at most {_FOOTER_BYTES:,} bytes, got {length:,}.")


def _text_size(table: pa.Table) -> int:
    """Bytes of the text of a table once it is decoded from its dictionaries."""
    return sum(
        pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
        for column in table.columns
        if pa.types.is_dictionary(column.type)
        for chunk in column.chunks
    )


def write_dataset_manifest(root: Path, n: int, rows: Iterable[Row], info: DatasetInfo) -> list[Path]:
    """Write a data set's manifest: ``manifest.parquet``, or parts once past a million rows; and `INFO` before it.

    Args:
        root: the data set's folder. n: number of rows. rows: in their order, each read once. info: metadata of all.

    Returns:
        The manifest files written.
    """
    write_atomic(root / INFO, (json.dumps(info.to_dict(), indent=2, sort_keys=True) + "\n").encode())
    paths = [root / MANIFEST]
    if n > ROWS_PER_FILE:
        (root / PARTS).mkdir(exist_ok=True)
        paths = [root / PARTS / f"part-{part:06d}.parquet" for part in range(-(-n // ROWS_PER_FILE))]
    rows = iter(rows)
    for part, path in enumerate(paths):
        starts = range(part * ROWS_PER_FILE, max(min((part + 1) * ROWS_PER_FILE, n), 1), ROWS_PER_GROUP)
        _write(path, (_group_of(islice(rows, min(ROWS_PER_GROUP, starts.stop - start))) for start in starts), info, {})
    return paths


def _group_of(rows: Iterator[Row]) -> pa.Table:
    """A row group, of which few rows are dictionaries at the same time."""
    batches = iter(lambda: list(islice(rows, _ROWS_AT_ONCE)), [])
    return pa.concat_tables([SCHEMA.empty_table(), *map(rows_to_table, batches)]).combine_chunks()


def read_dataset_manifest(
    root: Path, fallback: Callable[[], DatasetInfo | None] = lambda: None, columns: Sequence[str] | None = None
) -> tuple[pa.Table, DatasetInfo]:
    """Read a data set's manifest, in one file or in parts.

    Args:
        root: its folder. fallback: gives the metadata where no file has it.
        columns: to keep in memory; None keeps all. All are checked.

    Raises:
        UserError: as `read_manifest`, and for parts of different data sets.
    """
    return _read(*_files(root), fallback, columns)


def stream_dataset_manifest(
    root: Path, fallback: Callable[[], DatasetInfo | None], keys: Keys
) -> tuple[DatasetInfo, Iterator[pa.Table]]:
    """The metadata of a data set's manifest, and its rows, a checked row group at a time, at least one table.

    Args:
        root, fallback: as for `read_dataset_manifest`, whose errors are raised, some of them after the last rows.
        keys: takes in ids and indices of the rows.
    """
    paths, where = _files(root)
    info = _info_of_all(paths, where, fallback)
    return info, _stream(paths, where, info, keys)


def _files(root: Path) -> tuple[list[Path], str]:
    """The files of a data set's manifest, and a name for them all."""
    paths = manifest_files(root)
    return paths, str(paths[0] if len(paths) == 1 else root / PARTS)


def read_batches(root: Path) -> Iterator[pa.Table]:
    """The rows of a data set's manifest in small tables, unchecked; errors as of `read_columns`."""
    for path in manifest_files(root):
        yield from read_tables(path)


def manifest_files(root: Path) -> list[Path]:
    """The files of a data set's manifest, in the order of their rows. Raises a UserError for a folder without parts."""
    if not (root / PARTS).is_dir():
        return [root / MANIFEST]
    if parts := sorted((root / PARTS).glob("part-*.parquet")):
        return parts
    raise UserError(f"{root / PARTS}: expected part-*.parquet files, got none.")


def rows_to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as dictionaries -> a table with the columns of `SCHEMA`."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)
