"""Data sets, a manifest with its store: opening, reading and verifying them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.arrays import Arrays, place_of
from manifests.checksums import Fault, check_sums
from manifests.contents import record_name
from manifests.errors import FaultError, UserError
from manifests.files import refuse_links
from manifests.keys import Keys
from manifests.labels import LabelScheme
from manifests.ledger import read_record
from manifests.limits import read_json, reads
from manifests.measure import measure
from manifests.object_store import THREADS, ObjectPath, located
from manifests.parallel import in_threads, usable_cores
from manifests.schema import SCHEMA, DatasetInfo
from manifests.store import STORE, Layout, StoreReader
from manifests.table import (
    INFO,
    MANIFEST,
    PARTS,
    read_batches,
    read_columns,
    read_dataset_manifest,
    read_info,
    read_manifest,
    rows_to_table,
    stream_dataset_manifest,
)
from manifests.tile import Tile

_PLACE = ("sample_id", "index", "height", "width", "mpp", "label_scheme")
"""Columns by which the tile of a row is read."""

_SAMPLES_AT_ONCE = 8
"""Samples that a thread verifies in one go."""

_TILES_BYTES, _BYTES_PER_PIXEL = 2 << 30, 24
"""Memory for tiles that are verified at the same time, and bytes for each of their pixels: arrays and measuring."""

_ADDED = ("cells_cut", "cell_fractions")
"""Achieved columns that older data sets lack: null there, which is no fault."""

__all__ = ["Dataset", "Fault", "Sample", "open_dataset", "sample_digests", "verify"]


@dataclass(frozen=True)
class Sample:
    """One tile: uint8 [H, W, 3] image, its labels, and its manifest row."""

    image: npt.NDArray[np.uint8]
    tile: Tile
    row: dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """Rows of a manifest and the store that holds their pixels.

    Attributes:
        root: the folder. table: rows, columns of `SCHEMA`. info: metadata of all rows. store: the arrays.
    """

    root: Path
    table: pa.Table
    info: DatasetInfo
    store: StoreReader

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, position: int) -> Sample: ...
    @overload
    def __getitem__(self, position: slice) -> Dataset: ...
    def __getitem__(self, position: int | slice) -> Sample | Dataset:
        """The tile of the row at `position`, counted from the end where it is negative; of a slice, its rows."""
        if isinstance(position, slice):
            return replace(self, table=self.table.take(np.arange(len(self))[position]))
        row = self.row(position)
        return Sample(self.store.read(row["index"], "image"), self.tile(row), row)

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def row(self, position: int) -> dict[str, Any]:
        """The row at `position` as a dictionary."""
        row: dict[str, Any] = self.table.slice(place_of(position, len(self)), 1).to_pylist()[0]
        return row

    def arrays(self, split: str | None = None, columns: Sequence[str] = ()) -> Arrays:
        """The tiles as dictionaries of numpy arrays, as loaders take them (torch, MONAI); see `Arrays`.

        Args:
            split: train, val or test; None for all rows.
            columns: of numbers, truth values or text, that each dictionary has besides.

        Raises:
            UserError: for a split without rows, or a column of another type.
        """
        table = self.table
        if split is not None:
            table = table.filter(pa.compute.equal(table["split"], split))
            if not len(table):
                known = ", ".join(str(name) for name in self.table["split"].unique().to_pylist())
                raise UserError(f"{self.root}: expected a split with rows ({known}), got {split!r}.")
        return Arrays.of(self.store, table, columns)

    def tile(self, row: dict[str, Any]) -> Tile:
        """The labels of a row."""
        index = row["index"]
        scheme = self.info.scheme(row["label_scheme"])
        try:
            return Tile(self.store.read(index, "semantic"), self.store.read(index, "instance"), row["mpp"], scheme)
        except ValueError as error:
            raise FaultError(f"{self.root}: sample {row['sample_id']}: {error}. Run factory verify.") from error

    def find(self, sample_id: str) -> int:
        """Position of the row with that id.

        Raises:
            UserError: when there is none.
        """
        position = pa.compute.index(self.table["sample_id"], sample_id).as_py()
        if position < 0:
            raise UserError(f"{self.root}: expected a sample_id of this data set, got {sample_id!r}.")
        return int(position)

    def where(self, mask: Any) -> Dataset:
        """The rows that a boolean Arrow or numpy array selects; the store is shared."""
        return Dataset(self.root, self.table.filter(pa.array(mask)), self.info, self.store)

    @property
    def schemes(self) -> list[LabelScheme]:
        """Label schemes of the rows, each once."""
        return [self.info.scheme(name) for name in self.table["label_scheme"].unique().to_pylist()]


def _no_folder(root: Path) -> str:
    if isinstance(root, ObjectPath):
        return f"{root}: expected a data set, got nothing below this name. Copy one there with the store's own tool."
    return (
        f"{root}: expected a data set, got no such folder. Make one with factory make --out {root}, or from real "
        f"images with factory ingest IMAGES --out {root}."
    )


@reads("a data set")
def open_dataset(
    root: str | Path, manifest: str | Path | None = None, columns: Collection[str] | None = None
) -> Dataset:
    """Open a finished data set.

    Args:
        root: its folder, or its URL in an object store (s3://, gs://, az://).
        manifest: another manifest of the same store, e.g. a filtered one; default the folder's own.
        columns: of the table that are kept in memory, besides those that name a row's tile; None keeps all.

    Raises:
        UserError: when the folder is not a finished data set of this contract.
    """
    root = located(root)
    _refuse_unfinished(root, needs_manifest=manifest is None)
    kept = None if columns is None else [*dict.fromkeys([*_PLACE, *columns])]
    if manifest:
        table, info = read_manifest(located(manifest), lambda: read_info(root / INFO) or _info_of_store(root), kept)
        _refuse_renumbered(table, root, str(manifest))
    else:
        table, info = read_dataset_manifest(root, lambda: _info_of_store(root), kept)
    store = StoreReader(root)
    _refuse_places(root, _Places.of(table), store.layout)
    return Dataset(root, table, info, store)


def _refuse_unfinished(root: Path, *, needs_manifest: bool) -> None:
    """Refuse a folder that is no data set, or a link in its place, before anything is read."""
    if not root.exists():
        raise UserError(_no_folder(root))
    refuse_links(root, STORE, MANIFEST, PARTS)
    if not (root / STORE).is_dir():
        raise UserError(f"{root}: expected a data set with {STORE} and {MANIFEST}, got no {STORE}.")
    if needs_manifest and not (root / MANIFEST).exists() and not (root / PARTS).is_dir():
        raise UserError(f"{root}: expected a finished data set, got none. Run its command again.")


@dataclass(frozen=True)
class _Places:
    """What rows say of their places in the store: largest index, -1 without rows, heights and widths."""

    last: int = -1
    heights: frozenset[int] = frozenset()
    widths: frozenset[int] = frozenset()

    @classmethod
    def of(cls, table: pa.Table) -> _Places:
        """The places of a table's rows."""
        sizes = (frozenset(table[name].unique().to_pylist()) for name in ("height", "width"))
        return cls(pa.compute.max(table["index"]).as_py() if table.num_rows else -1, *sizes)

    def __or__(self, other: _Places) -> _Places:
        return _Places(max(self.last, other.last), self.heights | other.heights, self.widths | other.widths)


def _refuse_places(root: Path, places: _Places, layout: Layout) -> None:
    """Refuse rows of another store: with an index or a size that this one does not have."""
    if places.last >= layout.n:
        raise UserError(f"{root}: expected rows with an index below {layout.n}, got one above. The store is another's.")
    for name, sizes, size in (("height", places.heights, layout.height), ("width", places.widths, layout.width)):
        if sizes - {size}:
            raise UserError(f"{root}: column {name}: expected {size}, the size of the store, got other values.")


def _info_of_store(root: Path) -> DatasetInfo | None:
    """The metadata that the store of a data set has in its attributes."""
    where = root / STORE / "zarr.json"
    try:
        return DatasetInfo.from_dict(read_json(where)["attributes"]["pathology_tiles"], str(where))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _refuse_renumbered(table: pa.Table, root: Path, where: str) -> None:
    """Check that each row of another manifest has the index of its sample: its place in the store."""
    files = sorted((root / PARTS).glob("part-*.parquet")) if (root / PARTS).is_dir() else [root / MANIFEST]
    if not files[0].is_file():
        return
    own = pa.concat_tables([read_columns(path)[0].select(["sample_id", "index"]) for path in files])
    place = pa.compute.index_in(table["sample_id"], value_set=own["sample_id"].combine_chunks())
    expected = own["index"].combine_chunks().take(place.combine_chunks())
    wrong = pa.compute.fill_null(pa.compute.not_equal(expected, table["index"].combine_chunks()), True)
    if pa.compute.any(wrong).as_py():
        row = pa.compute.index(wrong, True).as_py()
        name, index, there = table["sample_id"][row], table["index"][row], expected[row].as_py()
        if there is None:
            raise UserError(f"{where}: row {row}: sample_id: expected a sample of {root}, got {name}.")
        raise UserError(
            f"{where}: row {row}: index: expected {there}, the place of {name} in the store, got {index}. "
            "Keep the column when you filter rows."
        )


def sample_digests(image: npt.NDArray[np.uint8], tile: Tile) -> dict[str, str]:
    """The columns ``*_sha256`` of a sample: sha256 of C-order bytes, instances as little-endian uint32."""
    return {
        "image_sha256": hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        "semantic_sha256": hashlib.sha256(np.ascontiguousarray(tile.semantic).data).hexdigest(),
        "instance_sha256": hashlib.sha256(np.ascontiguousarray(tile.instance, "<i4").data).hexdigest(),
    }


def verify(
    root: str | Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    threads: int | None = None,
) -> list[Fault]:
    """Check a data set against its contract: files, ledger, and each row against its sample.

    Rows stream: one row group of the manifest and some records are in memory at a time.

    Args:
        root: the data set's folder, or its URL.
        on_progress: called with (samples done, samples in all).
        threads: number of threads; None for one a core, and at least `THREADS` for an object store. Fewer take part
            where tiles are so large that they would fill the memory.

    Returns:
        All faults, each with its file or sample; empty without faults.
    """
    root = located(root)
    threads = threads or max(usable_cores(), THREADS if isinstance(root, ObjectPath) else 1)
    if not root.is_dir():
        raise UserError(_no_folder(root))
    try:
        checked = _checked(root)
    except UserError as error:
        return [*check_sums(root, threads=threads), Fault(MANIFEST, str(error))]
    layout = checked.dataset.store.layout
    faults = check_sums(root, layout.shards, threads)
    if checked.n != layout.n:  # their indices are unique and below n
        faults.append(Fault(MANIFEST, f"expected one row for each of the {layout.n} samples of the store"))
    at_once = max(1, _TILES_BYTES // (layout.height * layout.width * _BYTES_PER_PIXEL))
    in_samples: list[Fault] = []
    done = 0
    for found, samples in in_threads(_checks(checked), min(threads, at_once)):
        if not samples:  # of a record
            faults += found
            continue
        in_samples += found
        done += samples
        on_progress(done, checked.n)
    return faults + in_samples


@dataclass(frozen=True)
class _Checked:
    """A manifest whose rows keep the contract: the data set without its rows, their number, and whether in order."""

    dataset: Dataset
    n: int
    in_order: bool


@reads("a data set")
def _checked(root: Path) -> _Checked:
    """Check the rows of a data set as `open_dataset` does, with none kept."""
    _refuse_unfinished(root, needs_manifest=True)
    keys, places, n = Keys(), _Places(), 0
    info, groups = stream_dataset_manifest(root, lambda: _info_of_store(root), keys)
    for group in groups:
        places |= _Places.of(group)
        n += len(group)
    store = StoreReader(root)
    _refuse_places(root, places, store.layout)
    return _Checked(Dataset(root, SCHEMA.empty_table(), info, store), n, keys.ascend)


def _checks(checked: _Checked) -> Iterator[Callable[[], tuple[list[Fault], int]]]:
    """The checks of each shard: of its record, and of some samples; each gives faults and the number of samples."""
    dataset = checked.dataset
    for shard, rows in _rows_by_shard(checked):
        yield partial(_check_record, dataset.root, shard, rows)
        for start in range(0, len(rows), _SAMPLES_AT_ONCE):
            yield partial(_check_samples, dataset, rows.slice(start, _SAMPLES_AT_ONCE))


def _rows_by_shard(checked: _Checked) -> Iterator[tuple[int, pa.Table]]:
    """Number and rows of each shard that has rows, in their order."""
    root, layout = checked.dataset.root, checked.dataset.store.layout
    # Rows in another order were put so by hand: sorting takes them all.
    tables = read_batches(root) if checked.in_order else [read_dataset_manifest(root)[0].sort_by("index")]
    held = SCHEMA.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table.select(SCHEMA.names)])
        shards = held["index"].to_numpy() // layout.shard
        starts = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist()]
        for start, end in pairwise(starts):
            yield int(shards[start]), held.slice(start, end - start)
        held = held.slice(starts[-1])
    if len(held):
        yield held["index"][0].as_py() // layout.shard, held


def _check_record(root: Path, shard: int, expected: pa.Table) -> tuple[list[Fault], int]:
    """Compare the record of a shard with the rows that the manifest has of it."""
    name = record_name(shard)
    message = ""
    try:
        record = read_record(root, shard)
        if record is None:
            message = "missing"
        elif not rows_to_table(record.rows).equals(expected):
            message = f"its rows are not those of {MANIFEST}"
    except FaultError as error:
        message = str(error)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        message = f"its rows are not those of a manifest ({error})"
    return [Fault(name, message)] if message else [], 0


def _check_samples(dataset: Dataset, rows: pa.Table) -> tuple[list[Fault], int]:
    """Compare samples with their rows; returns faults and the number of samples."""
    return [fault for row in rows.to_pylist() for fault in _check_sample(dataset, row)], len(rows)


def _check_sample(dataset: Dataset, row: dict[str, Any]) -> list[Fault]:
    """Compare digests and measured composition with the row."""
    where = f"sample {row['sample_id']}"
    try:
        image, tile = dataset.store.read(row["index"], "image"), dataset.tile(row)
    except UserError as error:
        return [Fault(where, str(error))]
    found = sample_digests(image, tile) | asdict(measure(tile))
    for name in ("class_fractions", "cell_fractions"):
        found[name] = found[name] and list(found[name])
    missing = [name for name in _ADDED if row[name] is None]
    wrong = [name for name in found if found[name] != row[name] and name not in missing]
    return [Fault(where, f"{name}: the manifest says {row[name]}, the store has {found[name]}") for name in wrong]
