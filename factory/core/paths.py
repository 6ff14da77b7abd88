"""Paths as people type them: a URL is no folder, and ``~`` in quotes is the home folder all the same."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

_URL = re.compile(r"(?:^|[=,])\s*(?P<url>[A-Za-z][A-Za-z0-9+.-]+://?[^,]*)")
_FULL_URL = re.compile(_URL.pattern.replace("//?", "//"))
_HOME = re.compile(r"(^|[=,])~(?=/|$)")

FREE_TEXT: Collection[str] = ("licence", "scheduler", "source")
"""Parameters of text in which a URL is right: of a licence, of a scheduler, of the source of training data."""

DATA_SETS: Collection[tuple[str, str]] = (
    ("export", "dataset"), ("inspect", "beside"), ("inspect", "dataset"), ("verify", "dataset"),
    ("evaluate", "real"), ("evaluate", "synth"), ("train", "real"), ("train", "synth"),
)  # fmt: skip
"""Commands and parameters that name a data set to read, which may lie in an object store."""


def dataset_path(path: str | Path, where: str) -> Path:
    """A path as of `local_path`, or one in an object store for its URL."""
    if (match := _URL.match(str(path))) is not None:
        from manifests.object_store import SCHEMES, located

        if match["url"].partition(":")[0] in SCHEMES:
            return located(path)
    return local_path(path, where)


def local_path(path: str | Path, where: str = "path") -> Path:
    """A path with ``~`` for the home folder. Raises a UserError for a URL, before it becomes a folder ``s3:``."""
    text = str(path)
    _refuse(_URL.match(text), where)  # a Path has dropped the second slash
    return Path(text).expanduser()


def local_text(value: Any, where: str) -> Any:
    """An option's value of text, or several, with ``~`` for the home folder; URLs are refused as in `local_path`."""
    if isinstance(value, list | tuple):
        return type(value)(local_text(entry, where) for entry in value)
    if isinstance(value, Path):
        return local_path(value, where)
    if not isinstance(value, str):
        return value
    _refuse(_FULL_URL.search(value), where)
    return _HOME.sub(lambda match: match[1] + str(Path.home()), value)


def _refuse(match: re.Match[str] | None, where: str) -> None:
    if match is not None:
        from manifests.errors import UserError  # imports much; this module is loaded for the help

        url = re.sub(":/+", "://", match["url"], count=1)
        raise UserError(
            f"{where}: expected a path on this machine, got the URL {url}. "
            "Name a local or mounted folder, and copy from or to the URL with its own tool."
        )
