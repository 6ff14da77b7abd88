"""SHA256SUMS: every file of a finished data set with its sha256, and the list's own digest in its last line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import FaultError
from manifests.files import is_temporary, sha256_file, walk, write_atomic

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Fault:
    """A fault found by verification: its place, relative to the data set, and a message."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def write_sums(root: Path, known: Mapping[str, str]) -> None:
    """Write SHA256SUMS over every file below `root`.

    Args:
        root: the data set's folder.
        known: sha256 of files hashed while they were written, by relative path; the others are read now.
    """
    lines = []
    for path in walk(root):
        name = path.relative_to(root).as_posix()
        if name != SUMS and not is_temporary(path):  # another writer of the same bytes may still be working
            lines.append(f"{known.get(name) or sha256_file(path)}  {name}\n")
    body = "".join(lines).encode()
    write_atomic(root / SUMS, body + f"{hashlib.sha256(body).hexdigest()}  {SUMS}\n".encode())


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
    return {name: digest for digest, _, name in (line.partition("  ") for line in body.decode().splitlines())}


def check_sums(root: Path, on_file: Callable[[int, int], None] = lambda done, total: None) -> list[Fault]:
    """Compare every file below `root` with SHA256SUMS.

    Returns:
        Missing, damaged, linked and unlisted files; empty without faults.
    """
    try:
        listed = listed_files(root)
    except FaultError as error:
        return [Fault(SUMS, str(error).partition(": ")[2])]
    faults = []
    present = {file.relative_to(root).as_posix(): file for file in walk(root)}
    for done, name in enumerate(sorted(present.keys() | listed.keys())):
        on_file(done, len(listed))
        if name == SUMS:
            continue
        if name not in present:
            faults.append(Fault(name, "missing"))
        elif name not in listed:
            faults.append(Fault(name, "not listed in SHA256SUMS"))
        elif present[name].is_symlink():
            faults.append(Fault(name, "a link: links are not followed"))
        elif sha256_file(present[name]) != listed[name]:
            faults.append(Fault(name, "damaged: its sha256 is not the one in SHA256SUMS"))
    return faults
