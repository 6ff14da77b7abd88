"""Files that are either whole or absent: write aside, fsync, rename, fsync the folder."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_LONGEST_LIFE_S = 86_400.0
_TEMPORARY = re.compile(r"^\.partial-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-")


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that no other process uses and that `remove_orphans` knows to be unfinished."""
    return path.with_name(f".partial-{_host_tag()}-{os.getpid()}-{path.name}")


def publish(temporary: Path, path: Path) -> None:
    """Give a finished, fsynced file its name, and make the name last through a power cut."""
    temporary.replace(path)
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file so that a reader finds all of it or none of it."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that renames in it last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def walk(root: Path) -> Iterator[Path]:
    """Every file and link below `root`, sorted by path; links are not followed."""
    for folder, names, files in os.walk(root):
        names.sort()
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield Path(folder) / name


def is_temporary(path: Path) -> bool:
    """Whether a file is the unfinished work of some process."""
    return _TEMPORARY.match(path.name) is not None


def remove_orphans(root: Path) -> int:
    """Delete the unfinished files that no process is at work on; returns how many.

    Those of living processes of this machine stay, and those of other machines (every container is one), but none for
    more than a day after its last change: no shard takes that long, and process ids come round again.
    """
    removed = 0
    for path in list(walk(root)):
        match = _TEMPORARY.match(path.name)
        if match and _is_abandoned(path, match["host"], int(match["pid"])):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _host_tag() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_abandoned(path: Path, host: str, pid: int) -> bool:
    if host == _host_tag() and not _alive(pid):
        return True
    try:
        return time.time() - path.lstat().st_mtime > _LONGEST_LIFE_S
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # our own, from before: nothing of this process is open when orphans are removed
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process was killed and only waits for its parent to notice, which in a container may be never."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:1]
    except OSError:  # no /proc here, or gone by now
        return False
    return state in (["Z"], ["X"])
