"""Repair of a data set: strangers are set aside, run.yaml is written again, and faulty shards are forgotten."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.checksums import SUMS, Fault, listed_files, write_sums
from manifests.contents import INFO, LEDGER, MANIFEST, PARTS, RUN, shard_of
from manifests.errors import FaultError
from manifests.files import write_atomic
from manifests.ledger import read_record, record_path
from manifests.store import STORE, read_layout

_SHARD_FILES = re.compile(rf"{re.escape(STORE)}/\w+/c/\d+(?:/0)+|{LEDGER}/\d+\.json")


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        strangers: files that were set aside. aside: the folder that they are in now. run: whether run.yaml was mended.
        shards: that were forgotten. is_whole: whether nothing is left to be made.
    """

    strangers: tuple[str, ...]
    aside: Path
    run: bool
    shards: tuple[int, ...]
    is_whole: bool


def repair(root: Path, faults: Sequence[Fault], encode: Callable[[dict[str, Any]], bytes]) -> Repair:
    """Mend what can be mended, and forget the shards that have to be made again.

    Args:
        root: the data set's folder. faults: from `verify`. encode: run.yaml of its content.
    """
    root = root.resolve()
    strangers = tuple(fault.path for fault in faults if fault.is_stranger)
    aside = root.with_name(f"{root.name}.set-aside")
    for name in strangers:
        _set_aside(root, name, aside)
    others = [fault for fault in faults if not fault.is_stranger]
    mended = any(fault.path == RUN for fault in others) and _mend_run(root, encode)
    others = [fault for fault in others if not (mended and fault.path == RUN)]
    if not others:
        if any(name in listed_files(root) for name in strangers):
            write_sums(root, read_layout(root).shards, listed_files(root))
        return Repair(strangers, aside, mended, (), True)
    return Repair(strangers, aside, mended, _forget(root, others), False)


def _set_aside(root: Path, name: str, aside: Path) -> None:
    """Move a stranger out of the data set, under a name that is free, and remove the folders that it leaves empty."""
    source, target = root / name, aside / name
    if not source.exists():  # SHA256SUMS listed it
        return
    while target.exists() or target.is_symlink():
        target = target.with_name(f"{target.name}.again")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    for folder in source.parents:
        if folder == root or any(folder.iterdir()):
            break
        folder.rmdir()


def _mend_run(root: Path, encode: Callable[[dict[str, Any]], bytes]) -> bool:
    """Write run.yaml from the first shard's record, where that has it and it is the file that SHA256SUMS lists."""
    try:
        record, listed = read_record(root, 0), listed_files(root)
    except FaultError:
        return False
    content = encode(record.run) if record is not None and record.run is not None else b""
    if hashlib.sha256(content).hexdigest() != listed.get(RUN):
        return False
    write_atomic(root / RUN, content)
    return True


def _forget(root: Path, faults: Sequence[Fault]) -> tuple[int, ...]:
    """Remove the records of faulty shards, and what names them: manifest and checksums. Returns the shards."""
    text = "\n".join(str(fault) for fault in faults)
    found = (shard_of(name) for name in _SHARD_FILES.findall(text))
    shards = {shard for shard in found if shard is not None}
    for shard in shards:
        record_path(root, shard).unlink(missing_ok=True)
    if any(fault.path != RUN for fault in faults):
        for path in (root / SUMS, root / MANIFEST, root / INFO, *(root / PARTS).glob("*.parquet")):
            path.unlink(missing_ok=True)
    return tuple(sorted(shards))
