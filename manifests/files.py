"""Atomic files, whole or absent: written aside, fsynced, renamed, and the folder fsynced."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from manifests.errors import UserError
from manifests.object_store import ObjectPath

_LONGEST_LIFE_S = 86_400.0
_TEMPORARY = re.compile(r"^\.partial-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-")


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path`, unique to this thread, that marks an unfinished file for `remove_orphans`."""
    return path.with_name(f".partial-{_host_tag()}-{os.getpid()}-{threading.get_native_id()}-{path.name}")


def publish(temporary: Path, path: Path) -> None:
    """Give a finished, fsynced file its name, durably."""
    temporary.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A stream to a file that readers find whole, after the block has ended without an error, or not at all."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file, see `open_atomic`."""
    with open_atomic(path) as stream:
        stream.write(content)


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that renames in it are durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tail(path: Path, length: int) -> tuple[bytes, int]:
    """The last bytes of a file, at most `length`, and its size; links are not followed. Raises an OSError."""
    if isinstance(path, ObjectPath):
        return path.tail(length)
    with _descriptor(path) as descriptor:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, min(length, size), max(size - length, 0)), size


def read_part(path: Path, offset: int, length: int) -> bytes:
    """A range of a file's bytes, shorter where the file ends before; links are not followed. Raises an OSError."""
    if isinstance(path, ObjectPath):
        return path.part(offset, length)
    with _descriptor(path) as descriptor:
        return os.pread(descriptor, length, offset)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def walk(root: Path) -> Iterator[Path]:
    """Every file and link below `root`, sorted by path; links are not followed."""
    if isinstance(root, ObjectPath):
        yield from root.files_below()
        return
    for folder, names, files in os.walk(root):
        names.sort()
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield Path(folder) / name


def link_on(root: Path, name: str) -> Path | None:
    """The first part of a path below a data set's folder that is a link; None where there is none."""
    if isinstance(root, ObjectPath):
        return None
    path = os.fspath(root)  # as text: every sample that is read asks, and Path objects would take most of its time
    for part in name.split("/"):
        path = f"{path}/{part}"
        if os.path.islink(path):  # noqa: PTH114
            return Path(path)
    return None


def refuse_links(root: Path, *names: str) -> None:
    """Check that paths below a data set's folder lead through no link, before they are written.

    Raises:
        UserError: naming the link.
    """
    for name in names:
        if (link := link_on(root, name)) is not None:
            raise UserError(
                f"{link}: expected a file or folder of the data set, got a link. Links are not followed: put what it "
                "leads to in its place."
            )


def is_temporary(path: Path) -> bool:
    """Whether a file is the unfinished work of some process."""
    return _TEMPORARY.match(path.name) is not None


def remove_orphans(root: Path) -> int:
    """Delete unfinished files that no process is writing; returns their number.

    Files of running processes of this machine and of other machines (every container is one) stay for at most a day
    after their last change: no shard takes that long, and process ids are reused.
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
        return False  # an earlier process with our id: this one has no open file when orphans are removed
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and waits for its parent, which in a container may be forever."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:1]
    except OSError:  # no /proc, or already gone
        return False
    return state in (["Z"], ["X"])
