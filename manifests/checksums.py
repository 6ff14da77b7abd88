"""SHA256SUMS: every file of a finished data set with its sha256, and the list's own digest in its last line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from manifests.contents import is_own, own_names, shard_of
from manifests.errors import FaultError
from manifests.files import link_on, refuse_links, sha256_file, walk, write_atomic
from manifests.parallel import in_threads

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Fault:
    """A fault found by verification.

    Attributes:
        path: its place, relative to the data set. message: what is wrong.
        is_stranger: whether the file at that place is none of the data set's.
    """

    path: str
    message: str
    is_stranger: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def write_sums(root: Path, shards: int, known: Mapping[str, str]) -> None:
    """Write SHA256SUMS over the files of a data set; other files in its folder are never listed.

    Args:
        root: the data set's folder. shards: their number.
        known: sha256 of files hashed while they were written, by relative path; the others are read now.
    """
    names = sorted(own_names(root, shards), key=_place)
    refuse_links(root, *names)
    body = "".join(f"{known.get(name) or sha256_file(root / name)}  {name}\n" for name in names).encode()
    write_atomic(root / SUMS, body + f"{hashlib.sha256(body).hexdigest()}  {SUMS}\n".encode())


def _place(name: str) -> list[tuple[bool, str]]:
    """Sorts names as a walk meets them: the files of a folder, then its folders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def listed_files(root: Path) -> dict[str, str]:
    """Files of a finished data set, relative to it, and their sha256 as SHA256SUMS has them; nothing is hashed.

    Raises:
        FaultError: when the list is missing, or damaged by its own digest.
    """
    path = root / SUMS
    if path.is_symlink() or not path.is_file():
        raise FaultError(f"{path}: missing: the run is not finished, or the file was removed")
    raw = path.read_bytes()
    body = raw.rstrip(b"\n").rpartition(b"\n")[0]
    body += b"\n" if body else b""
    if body + f"{hashlib.sha256(body).hexdigest()}  {SUMS}\n".encode() != raw:
        raise FaultError(f"{path}: damaged: its last line is not the digest of the lines before it")
    lines = (line.partition("  ") for line in body.decode(errors="backslashreplace").splitlines())
    return {name: digest for digest, _, name in lines}


def check_sums(root: Path, shards: int | None = None, threads: int = 1) -> list[Fault]:
    """Compare the files of a data set with SHA256SUMS, and name the strangers beside them.

    Args:
        root: the data set's folder. shards: their number; None where it is unknown. threads: that read files.

    Returns:
        Missing, damaged, linked and unlisted files, and strangers; empty without faults.
    """
    faults: list[Fault] = []
    try:
        listed = listed_files(root)
    except FaultError as error:
        faults, listed = [Fault(SUMS, str(error).partition(": ")[2])], None
    present = {file.relative_to(root).as_posix() for file in walk(root)}
    names = sorted((present | (listed or {}).keys()) - {SUMS})
    found = in_threads((partial(_fault_of, root, name, listed, present, shards) for name in names), threads)
    return faults + [fault for fault in found if fault is not None]


_STRANGER = "a stranger: no file of a data set. factory verify --repair sets it aside"


def _fault_of(
    root: Path, name: str, listed: Mapping[str, str] | None, present: Set[str], shards: int | None
) -> Fault | None:
    """What is wrong with a file; None for one that is as it is listed, or where nothing is listed."""
    path = root / name
    if name in present and path.is_symlink():
        return Fault(name, "a link: links are not followed. Put what it leads to in its place")
    if not is_own(name) or (shards is not None and (shard_of(name) or 0) >= shards):
        return Fault(name, _STRANGER, is_stranger=True)
    if listed is None:
        return None
    if name not in listed:
        return Fault(name, "not listed in SHA256SUMS")
    if name not in present:
        return None if link_on(root, name) else Fault(name, "missing")  # the link is a fault of its own
    if not path.is_file():
        return Fault(name, "no regular file")
    if sha256_file(path) != listed[name]:
        return Fault(name, "damaged: its sha256 is not the one in SHA256SUMS")
    return None
