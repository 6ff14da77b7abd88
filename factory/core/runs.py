"""Run folders of data sets, which `make` and `ingest` write: one writer, one configuration, whole shards.

The order of events makes a kill at any moment harmless: run.yaml, store metadata, then shard files and their ledger
records one shard at a time, then the manifest, then SHA256SUMS. Another run writes only the missing parts.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from factory.core.config import canonical, digest
from factory.core.folder import RUN, check_free, first_difference, lock_folder
from factory.core.software import versions
from factory.core.wording import dry_run, plural
from factory.core.yaml_text import parse_yaml
from manifests.checksums import SUMS, write_sums
from manifests.contents import FILES, INFO, MANIFEST, PARTS
from manifests.contents import POINTS as POINTS
from manifests.contents import POOL as POOL
from manifests.contents import REGIONS as REGIONS
from manifests.dataset import sample_digests
from manifests.errors import FaultError, UserError
from manifests.files import is_temporary, refuse_links, remove_orphans, walk, write_atomic
from manifests.ledger import (
    LEDGER,
    ShardRecord,
    fingerprints,
    finished,
    is_intact,
    publish_record,
    read_record,
    record_path,
)
from manifests.limits import CONFIG_BYTES, read_bytes, reads
from manifests.measure import measure
from manifests.schema import ACHIEVED, DatasetInfo
from manifests.store import ARRAYS, STORE, Layout, ShardWriter, create_store, shard_path
from manifests.table import Row, read_batches, read_dataset_manifest, rows_to_table, write_dataset_manifest
from manifests.tile import Tile

if TYPE_CHECKING:
    from factory.core.cluster import Cluster

_BYTES_PER_PIXEL = 3.5
"""Bytes of a pixel on the disk in the worst case: a noisy RGB image hardly compresses, masks do."""

_REHEARSED, _QUICK_S = 2, 3.0
"""Tiles of a rehearsal, and the longest time in which it is done again."""

Sample = tuple[npt.NDArray[np.uint8], Tile, dict[str, Any]]
"""Image uint8 [H, W, 3], labels, and the row of the manifest."""

REPORTED = (
    "split", "height", "width", "request_tps", "request_tissue", "request_cells", "request_fractions",
    "request_cell_fractions", *ACHIEVED, "label_origin", "licence", "real_pixels", "real_groups",
)  # fmt: skip
"""Columns of a manifest that reports of a run are made of; the others, most of its bytes, are not kept in memory."""

_OWN = frozenset({*FILES, STORE, LEDGER, PARTS, SUMS})


@dataclass(frozen=True)
class RunSpec:
    """Folder, configuration and sizes of a data set to be written.

    Attributes:
        out: the data set's folder.
        config: resolved and JSON-ready; all values that can change a byte of the output.
        layout: sizes of the store.
        info: metadata of all rows.
        beside: files that are in the folder before the run begins, and are kept.
    """

    out: Path
    config: dict[str, Any]
    layout: Layout
    info: DatasetInfo
    beside: frozenset[str] = frozenset()

    @property
    def document(self) -> dict[str, Any]:
        """The content of run.yaml."""
        return {"config": self.config, "layout": asdict(self.layout), "info": info_document(self.info)}

    @property
    def fingerprint(self) -> str:
        """sha256 of the document; ledger records and rows carry it."""
        return digest(self.document)


def info_document(info: DatasetInfo) -> dict[str, Any]:
    """The metadata of rows in run.yaml: without `real_pixels` where it says what `is_synthetic` says.

    Data sets from before the key was there keep their fingerprint so, and can be finished.
    """
    document = info.to_dict()
    if document["real_pixels"] != document["is_synthetic"]:
        del document["real_pixels"]
    return document


class Run:
    """An opened run folder."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.done: dict[int, ShardRecord] = finished(spec.out, range(spec.layout.shards), spec.fingerprint)

    @property
    def todo(self) -> list[int]:
        """Shards that are still to be written, in order."""
        return [shard for shard in range(self.spec.layout.shards) if shard not in self.done]

    def add(self, record: ShardRecord) -> None:
        """Count a shard as done.

        Raises:
            FaultError: when its files are not in this run's folder, as where workers write to another disk.
        """
        if not is_intact(self.spec.out, record):
            for file in record.files:  # NFS remembers for a while that a file was missing, until its folder is read
                with contextlib.suppress(OSError):
                    list((self.spec.out / file.path).parent.iterdir())
        if not is_intact(self.spec.out, record):
            raise FaultError(
                f"{self.spec.out}: expected the files of shard {record.shard}, got none of that size. "
                "Use an --out that all workers share."
            )
        self.done[record.shard] = replace(record, rows=(), run=None, software={})

    def finish(self) -> pa.Table:
        """Write the manifest and SHA256SUMS from the ledger; returns the columns `REPORTED` of the manifest."""
        spec = self.spec
        if self.todo:
            raise ValueError(f"shards {self.todo[:5]} are not done")
        if not self._is_written():
            write_dataset_manifest(spec.out, spec.layout.n, self._rows(), spec.info)
        remove_orphans(spec.out)
        known = {file.path: file.sha256 for record in self.done.values() for file in record.files}
        write_sums(spec.out, spec.layout.shards, known)
        return read_dataset_manifest(spec.out, columns=REPORTED)[0]

    def _rows(self) -> Iterator[Row]:
        """The manifest's rows, from the ledger, a shard at a time."""
        for shard in range(self.spec.layout.shards):
            record = read_record(self.spec.out, shard)
            if record is None:
                raise FaultError(f"{self.spec.out}: expected the record of shard {shard}, got none. Run this again.")
            yield from record.rows

    def _is_written(self) -> bool:
        """Whether the manifest has these rows: it is not written again then, for its digest is known to others."""
        try:
            found, info = read_dataset_manifest(self.spec.out, columns=())
            if len(found) != self.spec.layout.n or canonical(info.to_dict()) != canonical(self.spec.info.to_dict()):
                return False
            rows = self._rows()
            return all(
                batch.equals(rows_to_table(list(islice(rows, len(batch))))) for batch in read_batches(self.spec.out)
            )
        except UserError:
            return False


@contextlib.contextmanager
def open_run(spec: RunSpec, *, overwrite: bool = False, undo: bool = True) -> Iterator[Run]:
    """Open a run folder for writing, as `open_folder`, with run.yaml and an empty store.

    An error or an interrupt gets a note on what is kept.

    Args:
        spec, overwrite: as in `open_folder`.
        undo: leave the folder as it was, where nothing was finished. Others must not be writing to it then.
    """
    was_there = spec.out.exists()
    with open_folder(spec, overwrite=overwrite):
        is_begun = (spec.out / RUN).exists()
        try:
            write_atomic(spec.out / RUN, encode_run(spec.document))
            create_store(spec.out, spec.layout, spec.info.to_dict())
            yield Run(spec)
        except BaseException as error:
            there = (shard for shard in range(spec.layout.shards) if record_path(spec.out, shard).exists())
            done = sum(len(spec.layout.rows(shard)) for shard in there)
            kept = f"{spec.out} keeps {done} of {plural(spec.layout.n, 'tile')}." if done else "Nothing was finished."
            error.add_note(kept)
            if undo and not done and not is_begun:
                with contextlib.suppress(OSError):  # the error that led here says more
                    _clear(spec)
                    if not was_there:
                        spec.out.rmdir()
            raise


@contextlib.contextmanager
def open_folder(spec: RunSpec, *, overwrite: bool = False) -> Iterator[None]:
    """Lock a run folder, and check that it is this run's, or empty.

    Args:
        spec: of the data set.
        overwrite: remove another run's data set from the folder first.

    Raises:
        UserError: when the folder holds another run or other files, or is being written by another process.
        FaultError: when the disk is too small.
    """
    check_run(spec, overwrite=overwrite)
    spec.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(spec.out):
        _check_target(spec, overwrite)
        if overwrite and not _is_same(spec):
            _clear(spec)
        remove_orphans(spec.out)
        yield


def check_run(spec: RunSpec, *, overwrite: bool = False) -> int:
    """Refuse a run that `open_folder` would refuse, with nothing written.

    Returns:
        Bytes that the run still needs, at most.
    """
    _check_target(spec, overwrite)
    layout = spec.layout
    written = sum(
        (spec.out / shard_path("image", shard, (3,))).exists() * len(layout.rows(shard))
        for shard in range(layout.shards)
    )
    return check_room(spec.out, layout.n - written, (layout.height, layout.width))


def rehearse(
    spec: RunSpec,
    samples: Callable[[int], Iterable[Sample]],
    *,
    workers: int,
    overwrite: bool = False,
    candidates: int = 0,
    before_s: float = 0,
) -> str:
    """Check a run as `open_folder` does, and tell the room and the time that it needs.

    The first tiles are made and written to a temporary folder, a second time where that is quick, to leave out what
    happens once.

    Args:
        spec: of the data set. samples: so many of its first tiles. workers: that will share the work.
        overwrite: as for `open_run`. candidates: tiles that are made to choose from, besides those that are written.
        before_s: seconds that the run takes before it makes tiles.
    """
    need, todo = check_run(spec, overwrite=overwrite), Run(spec).todo
    tiles = sum(len(spec.layout.rows(shard)) for shard in todo)
    if not tiles:
        return dry_run(need, spec.out, 0)
    count = min(_REHEARSED, tiles)
    seconds: float | None = None
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:  # which may be full
        trial = replace(spec, out=Path(folder), layout=replace(spec.layout, n=count, shard=count))
        create_store(trial.out, trial.layout, trial.info.to_dict())
        for _ in range(2):
            started = time.perf_counter()
            write_shard(trial, 0, samples(count))
            seconds = time.perf_counter() - started
            if seconds > _QUICK_S:
                break
    workers = min(workers, max(len(todo), candidates))
    total = None if seconds is None else before_s + seconds / count * (tiles + candidates) / workers
    return dry_run(need, spec.out, total, workers)


def write_shard(spec: RunSpec, shard: int, samples: Iterable[Sample]) -> ShardRecord:
    """Write one shard from an iterable of (image, tile, row) and publish its record.

    The rows gain achieved composition, digests, index and shard. Safe to repeat, in any process.
    """
    layout, rows = spec.layout, []
    with ShardWriter(spec.out, layout, shard) as writer:
        for index, (image, tile, row) in zip(layout.rows(shard), samples, strict=True):
            writer.append(image, tile.semantic, tile.instance)
            achieved = asdict(measure(tile)) | sample_digests(image, tile)
            achieved["class_fractions"] = list(achieved["class_fractions"])
            placed = {"index": index, "shard": shard, "store": STORE, "config_sha256": spec.fingerprint}
            rows.append({**row, **achieved, **placed})
        files = writer.publish()
    # Through Arrow, so that the record holds exactly the values that the manifest will: nulls, types and all.
    stored = tuple(rows_to_table(rows).to_pylist())
    run = None if shard else spec.document
    record = ShardRecord(shard, spec.fingerprint, tuple(files), stored, run, versions(spec.info.versions))
    publish_record(spec.out, record)
    return record


class How(TypedDict, total=False):
    """How the tiles of a run are made; none of it changes a byte.

    Attributes:
        workers: processes of this machine. scheduler: address of a dask scheduler to use instead.
        on_note: called with a line for people, about a worker of it.
        overwrite: remove another data set from the folder first.
        on_start: called with the tiles that are there and the tiles in all.
        on_tiles: called with the number of tiles made so far.
    """

    workers: Required[int]
    scheduler: str | None
    overwrite: bool
    on_note: Callable[[str], None]
    on_start: Callable[[int, int], None]
    on_tiles: Callable[[int], None]


def ignore(*told: object) -> None:
    """Take no notice of progress."""


def write_missing(
    spec: RunSpec,
    task: Callable[[int, Any, Callable[[], None]], ShardRecord],
    payload_of: Callable[[int], Any],
    cluster: Cluster | None = None,
    **how: Unpack[How],
) -> tuple[pa.Table, int]:
    """Write the missing shards of a data set: by a task, on this machine or a cluster, in any order.

    Args:
        spec: of the data set. how: see `How`. cluster: of its scheduler, where it names one.
        task: writes and publishes a shard, given its number, its payload and a callback for each tile; picklable.
        payload_of: input of the task for a shard.

    Returns:
        The manifest's rows, and how many tiles were made now.
    """
    from factory.core.pool import run_tasks

    on_tiles = how.get("on_tiles", ignore)
    with open_run(spec, overwrite=how.get("overwrite", False), undo=cluster is None) as run:
        todo = run.todo
        missing = sum(len(spec.layout.rows(shard)) for shard in todo)
        how.get("on_start", ignore)(spec.layout.n - missing, spec.layout.n)
        made = 0
        done = run_tasks(task, todo, payload_of, workers=how["workers"], cluster=cluster, on_ticks=on_tiles)
        for shard, record in done:
            run.add(record)
            made += len(spec.layout.rows(shard))
            if cluster is not None:  # whose workers report whole shards alone
                on_tiles(made)
        return run.finish(), missing


@reads("the folder of a run")
def read_run(root: Path) -> dict[str, Any]:
    """The document in run.yaml. Raises a UserError when there is none or it is damaged."""
    try:
        document = parse_yaml(read_bytes(root / RUN, CONFIG_BYTES))
        found = {"config": document["config"], "layout": document["layout"], "info": document["info"]}
        canonical(found)  # YAML has dates, sets and numbers that no configuration has
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{root / RUN}: expected the configuration of a run, got {type(error).__name__}. Run factory verify."
        ) from error
    return found


def is_finished(root: Path) -> bool:
    """Whether the folder holds a finished data set."""
    try:
        read_dataset_manifest(root, columns=())
    except UserError:
        return False
    return (root / SUMS).is_file()


def encode_run(document: Mapping[str, Any]) -> bytes:
    """The bytes of run.yaml."""
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True).encode()


def _is_same(spec: RunSpec) -> bool:
    """Whether the folder is this run's: run.yaml says so, or, where that is damaged or lost, its ledger."""
    try:
        if canonical(read_run(spec.out)) == canonical(spec.document):
            return True
    except UserError:
        pass
    return next(fingerprints(spec.out), None) == spec.fingerprint


def _check_target(spec: RunSpec, overwrite: bool) -> None:
    """Refuse a folder with other content, before anything is written."""
    out = spec.out
    if out.is_symlink() and not out.is_dir():
        raise UserError(f"{out}: expected a folder, got a dangling link.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for the data set, got a file. Choose another --out.")
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir() if not is_temporary(path)} - spec.beside
    refuse_links(out, *sorted(names), *(f"{STORE}/{array.name}/c" for array in ARRAYS))
    if not names or (overwrite and names <= _OWN):
        return
    if stranger := sorted(names - _OWN):
        raise UserError(
            f"{out}: expected an empty folder or a data set, got {stranger[0]!r} in it. Choose another --out."
        )
    if not _is_same(spec):
        if RUN not in names:
            raise UserError(f"{out}: expected an empty folder or a data set, got no {RUN}. Choose another --out.")
        raise UserError(
            f"{out}: expected the configuration that it was made with, got another one "
            f"({first_difference(read_run(out), spec.document)}). Use another --out, or --overwrite to start anew."
        )


def check_room(out: Path, tiles: int, size: tuple[int, int], bytes_per_px: float = _BYTES_PER_PIXEL) -> int:
    """Bytes that tiles of that height and width need, at most; a FaultError where the disk has less."""
    need = int(tiles * size[0] * size[1] * bytes_per_px)
    check_free(out, need, "Free some, choose another --out, or ask for fewer or smaller tiles.")
    return need


def _clear(spec: RunSpec) -> None:
    """Remove a data set; the manifest's checksum first, so that an incomplete removal never looks whole."""
    out = spec.out
    for name in (SUMS, MANIFEST, INFO, PARTS, POINTS, REGIONS, POOL, LEDGER, STORE, RUN):
        if name in spec.beside:
            continue
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in list(walk(out)):
        if is_temporary(path):
            path.unlink(missing_ok=True)
