"""The ledger: one record per finished shard. A shard without a record does not count.

A record is published after the shard's files are fsynced and named, so a kill at any moment leaves true records. Each
carries the fingerprint of its run and a digest of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from manifests.contents import LEDGER as LEDGER
from manifests.contents import record_name, shard_of
from manifests.errors import FaultError
from manifests.files import link_on, refuse_links, write_atomic
from manifests.limits import parse_json, read_bytes
from manifests.store import ARRAYS, FileRecord, shard_path


@dataclass(frozen=True)
class ShardRecord:
    """Files and rows of a finished shard.

    Attributes:
        shard: its number.
        fingerprint: of config and request; a record of another run does not count.
        files: its files with size and sha256.
        rows: the manifest rows of its samples.
        run: the content of run.yaml, whose digest is the fingerprint; kept by the first shard, None in others.
        software: of the process that made it, versions by name; empty in records of earlier releases.
    """

    shard: int
    fingerprint: str
    files: tuple[FileRecord, ...]
    rows: tuple[dict[str, Any], ...]
    run: dict[str, Any] | None = None
    software: dict[str, str] = field(default_factory=dict)


def record_path(root: Path, shard: int) -> Path:
    """Path of a shard's record."""
    return root / record_name(shard)


def publish_record(root: Path, record: ShardRecord) -> None:
    """Write a record, which makes the shard count."""
    body = {
        "shard": record.shard,
        "fingerprint": record.fingerprint,
        "files": [asdict(file) for file in record.files],
        "rows": list(record.rows),
        **({"run": record.run} if record.run is not None else {}),
        **({"software": record.software} if record.software else {}),
    }
    refuse_links(root, record_name(record.shard))
    (root / LEDGER).mkdir(exist_ok=True)
    write_atomic(record_path(root, record.shard), _encode({**body, "sha256": _digest(body)}))


def read_record(root: Path, shard: int) -> ShardRecord | None:
    """The record of a shard; None when there is none.

    Raises:
        FaultError: when the record is damaged or is another shard's, names files of another place, or is a link.
    """
    path = record_path(root, shard)
    where = record_name(shard)
    if link_on(root, where) is not None:
        raise FaultError(f"{where}: expected a record, got a link. Links are not followed.")
    try:
        raw = read_bytes(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FaultError(f"{where}: expected a shard record that can be read, got {error}.") from error
    try:
        document = parse_json(raw)
        digest = document.pop("sha256")
        files = tuple(FileRecord(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in document["files"])
        software = {str(name): str(version) for name, version in document.get("software", {}).items()}
        identity, rows = (int(document["shard"]), str(document["fingerprint"])), tuple(document["rows"])
        record = ShardRecord(*identity, files, rows, document.get("run"), software)
        is_whole = digest == _digest(document) and raw == _encode({**document, "sha256": digest})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FaultError(f"{where}: expected a shard record, got a damaged file. Run factory verify.") from error
    if not is_whole:
        raise FaultError(f"{where}: expected a record that matches its own sha256. Run factory verify.")
    if record.shard != shard:
        raise FaultError(f"{where}: expected the record of shard {shard}, got that of shard {record.shard}.")
    if [file.path for file in files] != [shard_path(spec.name, shard, spec.channels) for spec in ARRAYS]:
        raise FaultError(f"{where}: expected the names of its shard's files, got others. Run factory verify.")
    return record


def is_intact(root: Path, record: ShardRecord) -> bool:
    """Whether the files of a record are there in the recorded size. `verify` compares their content too."""
    for file in record.files:
        path = root / file.path
        if link_on(root, file.path) is not None or not path.is_file() or path.stat().st_size != file.size:
            return False
    return True


def finished(root: Path, shards: Sequence[int], fingerprint: str) -> dict[int, ShardRecord]:
    """Records of the shards that are done, in this run's fingerprint and with their files in place; without rows."""
    done = {}
    for shard in shards:
        try:
            record = read_record(root, shard)
        except FaultError:
            continue  # a damaged record does not count: the shard is made again
        if record and record.fingerprint == fingerprint and is_intact(root, record):
            done[shard] = replace(record, rows=(), run=None, software={})
    return done


def fingerprints(root: Path) -> Iterator[str]:
    """Fingerprints of the records that are whole, in the order of their shards."""
    names = sorted(f"{LEDGER}/{path.name}" for path in (root / LEDGER).glob("*.json"))
    for shard in map(shard_of, names):
        with contextlib.suppress(FaultError):
            if shard is not None and (record := read_record(root, shard)) is not None:
                yield record.fingerprint


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(_encode(body)).hexdigest()


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
