"""The export of a data set: rows chosen, tiles written part by part, and the folder moved into place when it is whole.

Everything is written to ``.NAME.unfinished`` beside the folder. A part that is done has a record in its ledger, so that
the same command goes on after an interruption. A refusal removes it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from factory.core.config import digest
from factory.core.datasets import check_out, open_finished, random_rows, rows_of_split, shape_of
from factory.core.folder import lock_folder
from factory.core.pool import run_tasks
from factory.core.runs import check_room, ignore
from factory.core.yaml_text import parse_yaml
from factory.export.base import Export, Files, Part, Record, resolve_format
from factory.export.origin import origin_of
from factory.export.where import select
from manifests.checksums import SUMS, listed_files
from manifests.contents import is_own
from manifests.dataset import Dataset, Sample, open_dataset, sample_digests
from manifests.errors import FaultError, UserError
from manifests.files import sha256_file, sync_folder, walk, write_atomic
from manifests.limits import CONFIG_BYTES, read_bytes, read_json
from manifests.schema import SPLITS
from manifests.store import STORE
from manifests.table import INFO, MANIFEST, PARTS

PROVENANCE = "provenance.yaml"
"""In every exported folder: its origin, and what it was made of."""

_PART_BYTES = 64e6
"""Bytes of the tiles of a part in memory; not a matter of workers, so that their number changes no byte."""

_RAW_BYTES_PER_PX = 8
_PX_PER_WORKER = 32e6
"""Pixels for which it pays to start one more process: it takes as long to start as some hundred tiles of 256x256."""

_REHEARSED = 2


class UnusableError(FaultError):
    """Tiles that do not match their checksums."""


@dataclass(frozen=True)
class Job:
    """An export that can be carried out.

    Attributes:
        format: by name. dataset: the chosen rows, by split. export: what the format is told. parts: of the rows, in
        order: split, first row, number of rows.
    """

    format: str
    dataset: Dataset
    export: Export
    parts: tuple[tuple[str, int, int], ...]

    @property
    def document(self) -> dict[str, Any]:
        """All that decides the output."""
        rows = self.dataset.table.select(["sample_id", "image_sha256", "semantic_sha256", "instance_sha256"])
        return {
            "format": self.format,
            "tiles": dict(self.export.tiles),
            "rows_sha256": digest(rows.to_pydict()),
            "scheme": self.export.scheme.to_dict(),
            "origin": dict(self.export.mark),
        }

    def part(self, number: int) -> Part:
        """A part with its rows."""
        split, start, count = self.parts[number]
        own = [part for part in self.parts if part[0] == split]
        rows = self.dataset.table.slice(start, count).to_pylist()
        return Part(number, split, start - own[0][1], own.index(self.parts[number]), len(own), tuple(rows))


def prepare(
    root: Path, format: str, out: Path, *, split: str = "all", n: int | None = None, where: str | None = None
) -> Job:
    """Choose the rows of a data set, and check that the format can hold them.

    Args:
        root: of the data set. format: by name. out: the folder. split: one of them, or all.
        n: at most so many rows, drawn with seed 0. where: a condition, see `factory.export.where`.
    """
    kind = resolve_format(format)
    check_out(out)
    dataset = open_finished(root)
    _check_listed(root)
    dataset = rows_of_split(dataset, split, str(root))
    if where is not None:
        dataset = select(dataset, where)
        if not len(dataset):
            raise UserError(f"--where {where}: expected tiles that meet it, got none. Look: factory inspect {root}")
    if n is not None:
        if n < 1:
            raise UserError(f"--n: expected 1 tile or more, got {n}. Choose another number.")
        dataset = random_rows(dataset, n, np.random.default_rng(0))
    if len(dataset.schemes) > 1:
        names = ", ".join(scheme.name for scheme in dataset.schemes)
        raise UserError(
            f"{root}: expected tiles of one label scheme, got {names}. Choose one: --where 'label_scheme == "
            f'"{dataset.schemes[0].name}"\''
        )
    job = _job(dataset, format, out)
    kind.check(job.export)
    return job


def _job(dataset: Dataset, format: str, out: Path) -> Job:
    splits = np.array([SPLITS.index(name or "train") for name in dataset.table["split"].to_pylist()])
    order = np.lexsort((dataset.table["index"].to_numpy(), splits))
    dataset = Dataset(dataset.root, dataset.table.take(order), dataset.info, dataset.store)
    scheme, size = dataset.schemes[0], shape_of(dataset)
    tiles = {name: int(np.count_nonzero(splits == number)) for number, name in enumerate(SPLITS)}
    tiles = {name: count for name, count in tiles.items() if count}
    mpp, cells = float(np.median(dataset.table["mpp"].to_numpy())), dataset.table["cells"].to_pylist()
    name, mark = dataset.root.resolve().name, origin_of(dataset, scheme)
    export = Export(
        dataset.root.absolute(),
        name,
        out.absolute(),
        scheme,
        size,
        mpp,
        tiles,
        sum(count or 0 for count in cells),
        mark,
    )
    step = max(1, int(_PART_BYTES / (size[0] * size[1] * _RAW_BYTES_PER_PX)))
    parts, start = [], 0
    for name, count in tiles.items():
        parts += [(name, start + at, min(step, count - at)) for at in range(0, count, step)]
        start += count
    return Job(format, dataset, export, tuple(parts))


def _check_listed(root: Path) -> None:
    """Check the manifest and the list of files by their checksums; pixels are checked as they are read.

    Raises:
        FaultError: when a file is missing or the manifest is not the one that was written.
    """
    listed = listed_files(root)
    present = {file.relative_to(root).as_posix() for file in walk(root)}
    for name, sha256 in listed.items():
        if not is_own(name):
            raise FaultError(f"{root / SUMS}: expected files of a data set, got {name!r}. Run factory verify --repair.")
        is_manifest = name in (MANIFEST, INFO) or name.startswith(f"{PARTS}/")
        if name not in present or (is_manifest and sha256_file(root / name) != sha256):
            raise FaultError(
                f"{root / name}: expected the file in SHA256SUMS, got another or none. Run factory verify."
            )


def is_there(job: Job, *, overwrite: bool = False) -> bool:
    """Whether the folder holds this very export already.

    Raises:
        UserError: when it holds something else, unless that is an export and `overwrite`.
    """
    out = job.export.out
    if not out.is_dir() or not any(out.iterdir()):
        return False
    try:
        there = parse_yaml(read_bytes(out / PROVENANCE, CONFIG_BYTES))["export"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        first = sorted(path.name for path in out.iterdir())[0]
        raise UserError(
            f"--out {out}: expected a new folder or an export, got {first!r} in it. Choose another --out."
        ) from None
    if there == digest(job.document):
        return True
    if not overwrite:
        raise UserError(
            f"--out {out}: expected an export of the same tiles and format, got another. "
            "Use another --out, or --overwrite to replace it."
        )
    return False


def unfinished(out: Path) -> Path:
    """The folder in which an export grows."""
    return out.absolute().with_name(f".{out.name}.unfinished")


def carry_out(
    job: Job,
    *,
    workers: int,
    on_start: Callable[[int, int], None] = ignore,
    on_tiles: Callable[[int], None] = ignore,
) -> dict[str, int]:
    """Write an export, going on where an interrupted one stopped; returns what the format cannot hold, counted.

    Args:
        job: from `prepare`. workers: processes. on_start: called with the tiles that are there and the tiles in all.
        on_tiles: called with the number of tiles written now.
    """
    folder, out = unfinished(job.export.out), job.export.out.absolute()
    check_room(out, len(job.dataset), job.export.size, resolve_format(job.format).bytes_per_px)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        try:
            records = _write_parts(job, folder, workers, on_start, on_tiles)
            lost = _finish(job, folder, records)
            _move(folder / "files", out)
        except UserError as error:
            if isinstance(error, UnusableError) or not isinstance(error, FaultError):  # to go on makes no sense
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)
    return lost


def _write_parts(
    job: Job, folder: Path, workers: int, on_start: Callable[[int, int], None], on_tiles: Callable[[int], None]
) -> dict[int, Record]:
    """Write the parts that are missing; returns the records of all."""
    document = json.dumps({"export": digest(job.document)}).encode()
    begun = folder / "export.json"
    if not begun.is_file() or begun.read_bytes() != document:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomic(begun, document)
    for name in ("files", "pieces", "ledger"):
        (folder / name).mkdir(exist_ok=True)
    resolve_format(job.format).begin(job.export, Files(folder / "files", folder / "pieces"))
    found = {number: _read_record(folder, number) for number in range(len(job.parts))}
    records = {number: record for number, record in found.items() if record is not None}
    todo = [number for number in range(len(job.parts)) if number not in records]
    on_start(len(job.dataset) - sum(job.parts[number][2] for number in todo), len(job.dataset))
    payload = functools.partial(_payload, job, folder)
    records |= dict(run_tasks(_write_part, todo, payload, workers=useful(job, workers), on_ticks=on_tiles))
    return records


def useful(job: Job, workers: int) -> int:
    """The number of processes, of so many at most, that have enough to do."""
    height, width = job.export.size
    return min(workers, len(job.parts), 1 + int(len(job.dataset) * height * width / _PX_PER_WORKER))


def _payload(job: Job, folder: Path, number: int) -> tuple[str, Path, Export, Part, Path]:
    return job.format, job.dataset.root, job.export, job.part(number), folder


def _write_part(number: int, payload: tuple[str, Path, Export, Part, Path], tick: Callable[[], None]) -> Record:
    """A task of `run_tasks`: write a part and publish its record."""
    format, root, export, part, folder = payload
    files = Files(folder / "files", folder / "pieces")
    record = resolve_format(format).write(export, part, _samples(root, part, tick), files)
    entry = {"record": record, "files": files.sizes}
    write_atomic(folder / "ledger" / f"{number:06d}.json", json.dumps(entry).encode())
    return record


@functools.lru_cache(1)
def _opened(root: Path) -> Dataset:
    return open_dataset(root)


def _samples(root: Path, part: Part, tick: Callable[[], None]) -> Iterator[Sample]:
    """The tiles of a part, each compared with the checksums in its row."""
    dataset = _opened(root)
    for row in part.rows:
        try:
            sample = Sample(dataset.store.read(row["index"], "image"), dataset.tile(row), row)
        except FaultError as error:
            raise UnusableError(str(error)) from error
        for name, found in sample_digests(sample.image, sample.tile).items():
            if row[name] is not None and row[name] != found:
                raise UnusableError(
                    f"{root / STORE}: sample {row['sample_id']}: expected {name} as in its row, got other pixels. "
                    "Run factory verify."
                )
        yield sample
        tick()


def _read_record(folder: Path, number: int) -> Record | None:
    """The record of a part whose files are there; None where it is to be written."""
    try:
        entry = read_json(folder / "ledger" / f"{number:06d}.json")
        whole = all((folder / "files" / name).stat().st_size == size for name, size in entry["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry["record"] if whole else None


def _finish(job: Job, folder: Path, records: dict[int, Record]) -> dict[str, int]:
    files = Files(folder / "files", folder / "pieces")
    resolve_format(job.format).finish(job.export, dict(sorted(records.items())), files)
    lost: dict[str, int] = {}
    for record in records.values():
        for what, count in record.get("lost", {}).items():
            lost[what] = lost.get(what, 0) + count
    lost = {what: count for what, count in lost.items() if count}
    document = {**job.document, "export": digest(job.document), "lost": lost}
    files.put_text(PROVENANCE, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return lost


def _move(source: Path, out: Path) -> None:
    """Give the finished folder its name; an earlier export there goes away after that."""
    os.sync()
    old = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if out.is_dir():
        out.replace(old)
    source.replace(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def rehearse(job: Job, workers: int) -> tuple[int, float]:
    """Write the first tiles to a temporary folder; returns bytes and seconds that the export needs."""
    need = check_room(job.export.out, len(job.dataset), job.export.size, resolve_format(job.format).bytes_per_px)
    trial = _job(job.dataset.where(np.arange(len(job.dataset)) < _REHEARSED), job.format, job.export.out)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("files", "pieces", "ledger"):
            (Path(folder) / name).mkdir()
        for _ in range(2):  # the second time without what happens once
            started = time.perf_counter()
            resolve_format(job.format).begin(trial.export, Files(Path(folder) / "files", Path(folder) / "pieces"))
            payloads = [_payload(trial, Path(folder), number) for number in range(len(trial.parts))]
            records = {number: _write_part(number, payload, lambda: None) for number, payload in enumerate(payloads)}
            seconds = time.perf_counter() - started
        _finish(trial, Path(folder), records)
    return need, seconds / len(trial.dataset) * len(job.dataset) / useful(job, workers)
