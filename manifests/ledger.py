"""The ledger: one record per finished shard. A shard without a record does not count.

A record is published after the shard's files are fsynced and named, so a kill at any moment leaves true records. Each
carries the fingerprint of its run and a digest of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manifests.errors import FaultError
from manifests.files import write_atomic
from manifests.store import FileRecord

LEDGER = "ledger"


@dataclass(frozen=True)
class ShardRecord:
    """Files and rows of a finished shard.

    Attributes:
        shard: its number.
        fingerprint: of config and request; a record of another run does not count.
        files: its files with size and sha256.
        rows: the manifest rows of its samples.
    """

    shard: int
    fingerprint: str
    files: tuple[FileRecord, ...]
    rows: tuple[dict[str, Any], ...]


def record_path(root: Path, shard: int) -> Path:
    """Path of a shard's record."""
    return root / LEDGER / f"{shard:06d}.json"


def publish_record(root: Path, record: ShardRecord) -> None:
    """Write a record, which makes the shard count."""
    body = {
        "shard": record.shard,
        "fingerprint": record.fingerprint,
        "files": [asdict(file) for file in record.files],
        "rows": list(record.rows),
    }
    (root / LEDGER).mkdir(exist_ok=True)
    write_atomic(record_path(root, record.shard), _encode({**body, "sha256": _digest(body)}))


def read_record(root: Path, shard: int) -> ShardRecord | None:
    """The record of a shard; None when there is none.

    Raises:
        FaultError: when the record is damaged or is another shard's.
    """
    path = record_path(root, shard)
    where = f"{LEDGER}/{path.name}"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document = json.loads(raw)
        digest = document.pop("sha256")
        files = tuple(FileRecord(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in document["files"])
        record = ShardRecord(int(document["shard"]), str(document["fingerprint"]), files, tuple(document["rows"]))
        is_whole = digest == _digest(document) and raw == _encode({**document, "sha256": digest})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FaultError(f"{where}: expected a shard record, got a damaged file. Run factory verify.") from error
    if not is_whole:
        raise FaultError(f"{where}: expected a record that matches its own sha256. Run factory verify.")
    if record.shard != shard:
        raise FaultError(f"{where}: expected the record of shard {shard}, got that of shard {record.shard}.")
    return record


def is_intact(root: Path, record: ShardRecord) -> bool:
    """Whether the files of a record are there in the recorded size. `verify` compares their content too."""
    for file in record.files:
        path = root / file.path
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
    return True


def finished(root: Path, shards: Sequence[int], fingerprint: str) -> dict[int, ShardRecord]:
    """Records of the shards that are done, in this run's fingerprint and with their files in place."""
    done = {}
    for shard in shards:
        try:
            record = read_record(root, shard)
        except FaultError:
            continue  # a damaged record does not count: the shard is made again
        if record and record.fingerprint == fingerprint and is_intact(root, record):
            done[shard] = record
    return done


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(_encode(body)).hexdigest()


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
