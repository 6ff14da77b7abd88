"""The folder that a command works in: what may be there already, and run.yaml, which says what decides its content."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from factory.core.config import canonical
from factory.core.runs import RUN, library_versions
from manifests.errors import UserError
from manifests.files import is_temporary, remove_orphans, write_atomic


def is_begun(out: Path, kind: str, is_own: Callable[[str], bool]) -> bool:
    """Whether a folder holds earlier work of this kind.

    Args:
        out: the folder. kind: with its article, as an error says it: "a run". is_own: whether such work has that name.

    Raises:
        UserError: when it is a file, or holds anything else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for {kind}, got a file. Choose another --out.")
    names = {path.name for path in out.iterdir() if not is_temporary(path)} if out.is_dir() else set()
    strangers = sorted(name for name in names if not is_own(name))
    if strangers:
        raise UserError(f"{out}: expected an empty folder or {kind}, got {strangers[0]!r} in it. Choose another --out.")
    return bool(names)


def check_same(out: Path, kind: str, document: Mapping[str, Any], advice: str) -> None:
    """Refuse to go on with work whose result another configuration, or other data, decides.

    Args:
        out: the folder. kind: as in `is_begun`. document: what decides the result now. advice: what to do instead.

    Raises:
        UserError: naming the first difference.
    """
    try:
        there = yaml.safe_load((out / RUN).read_text(encoding="utf-8"))["document"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{out / RUN}: expected the configuration of {kind}, got {type(error).__name__}.") from error
    if canonical(there) != canonical(document):
        raise UserError(
            f"{out}: expected the configuration and data of {kind} there, got others "
            f"({_difference(there, document)}). {advice}"
        )


def begin(out: Path, document: Mapping[str, Any], config: Mapping[str, Any], *, clear: bool) -> None:
    """Remove what a kill left behind, and all else where asked, and write run.yaml; call it under the folder's lock.

    Args:
        out: the folder. document: what decides the result. config: all of the configuration. clear: start anew.
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


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if canonical(old.get(key)) != canonical(new.get(key)):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return f"{path}: {str(old)[:60]} there, {str(new)[:60]} asked"
