"""Output folders of commands: one writer, allowed content, and run.yaml with the values that decide the result."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from factory.core.config import canonical
from factory.core.wording import file_size
from factory.core.yaml_text import parse_yaml
from manifests.errors import FaultError, UserError
from manifests.files import is_temporary, remove_orphans, write_atomic
from manifests.limits import CONFIG_BYTES, read_bytes

RUN = "run.yaml"


def is_begun(out: Path, kind: str, is_own: Callable[[str], bool]) -> bool:
    """Whether a folder holds earlier work of this kind.

    Args:
        out: the folder. kind: of work, with its article, for errors: "a run". is_own: whether a file is its.

    Raises:
        UserError: when it is a file, or holds other files.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for {kind}, got a file. Choose another --out.")
    names = {path.name for path in out.iterdir() if not is_temporary(path)} if out.is_dir() else set()
    strangers = sorted(name for name in names if not is_own(name))
    if strangers:
        raise UserError(f"{out}: expected an empty folder or {kind}, got {strangers[0]!r} in it. Choose another --out.")
    return bool(names)


def check_same(out: Path, kind: str, document: Mapping[str, Any], advice: str) -> None:
    """Refuse to continue work of another configuration or other data.

    Args:
        out: the folder. kind: as in `is_begun`. document: all that decides the result. advice: for the error.
    """
    try:
        there = parse_yaml(read_bytes(out / RUN, CONFIG_BYTES))["document"]
        canonical(there)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{out / RUN}: expected the configuration of {kind}, got {type(error).__name__}.") from error
    if canonical(there) != canonical(document):
        raise UserError(
            f"{out}: expected the configuration and data of {kind} there, got others "
            f"({first_difference(there, document)}). {advice}"
        )


def begin(out: Path, document: Mapping[str, Any], config: Mapping[str, Any], *, clear: bool) -> None:
    """Remove unfinished files, with `clear` all files, and write run.yaml; call it under the folder's lock.

    Args:
        out: the folder. document: all that decides the result. config: the whole configuration. clear: start anew.
    """
    remove_orphans(out)
    if clear:
        for path in out.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not is_temporary(path):
                path.unlink()
    versions = library_versions("torch", "numpy", "segmentation-models-pytorch", "opencv-python-headless")
    text = yaml.safe_dump(
        {"document": dict(document), "config": dict(config), "versions": versions}, sort_keys=True, allow_unicode=True
    )
    write_atomic(out / RUN, text.encode())


def check_free(out: Path, need: float, advice: str) -> None:
    """Raise a FaultError where the disk of a folder, there already or not, has less than `need` bytes."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise FaultError(f"{out}: expected room for about {file_size(need)}, got {file_size(free)} free. {advice}")


@contextlib.contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Hold the folder for one writer. Without flock two writers write the same bytes, which is harmless."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{out}: expected to be the only writer, got another run at work here. Wait, or use another --out."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def first_difference(old: Any, new: Any, path: str = "") -> str:
    """The first key at which two documents differ, and its values in both."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if canonical(old.get(key)) != canonical(new.get(key)):
                return first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return f"{path}: {str(old)[:60]} there, {str(new)[:60]} asked"


def library_versions(*names: str) -> dict[str, str]:
    """Installed versions of this package and of the named libraries; missing ones are left out."""
    versions = {}
    for name in ("pathology-tile-factory", *names):
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            versions[name] = metadata.version(name)
    return versions
