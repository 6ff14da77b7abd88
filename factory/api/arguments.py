"""Arguments of the Python functions -> the options of the commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.paths import local_path

PathLike = str | Path
Request = str | float | tuple[float, float]
"""A requested distribution: text as for the commands, one value, or the ends of a uniform range."""

Size = str | int | tuple[int, int]
"""``"512x1024"``, the side of a square, or (height, width) in pixels."""


def request_text(request: Request | None) -> str | None:
    """A request as the commands take it: ``(0.01, 0.5)`` -> ``"0.01-0.5"``."""
    if request is None or isinstance(request, str):
        return request
    return "-".join(_number(value) for value in (request if isinstance(request, tuple) else (request,)))


def _number(value: float) -> str:
    import numpy as np

    return str(value) if isinstance(value, int) else str(np.format_float_positional(value, trim="-"))


def size_text(size: Size | None) -> str | None:
    """A size as the commands take it: ``(512, 1024)`` -> ``"512x1024"``."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else None if size is None else str(size)


def shares_text(shares: str | Sequence[float] | None) -> str | None:
    """Shares of train, val and test as the commands take them: ``(0.8, 0.1, 0.1)`` -> ``"0.8,0.1,0.1"``."""
    return shares if shares is None or isinstance(shares, str) else ",".join(map(str, shares))


def path_of(path: PathLike | None) -> Path | None:
    """A path, None for None. Raises a UserError for a URL."""
    return None if path is None else local_path(path)


def assignment_words(values: Mapping[str, Any] | None) -> list[str]:
    """Values of a configuration as the words of ``--set``."""
    import yaml

    def text(value: Any) -> str:
        plain = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(plain, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()

    return [f"{key}={text(value)}" for key, value in (values or {}).items()]


def log_notes(notes: Iterable[str]) -> None:
    """Log what the commands print as notes, under the name ``factory``."""
    import logging

    for note in notes:
        logging.getLogger("factory").info(note)
