"""Limits of what readers take, in one place: a small file cannot cost much memory, time or screen.

Every reader takes its bytes by `read_bytes` and its JSON by `parse_json`; YAML (`factory.core.yaml_text`) and Parquet
(`manifests.table`) have the same bounds. `reads` is the last handler of a reader.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from manifests.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

DOCUMENT_BYTES = 64 << 20
"""Text of a JSON document of ours: records, cards, metadata."""

CONFIG_BYTES = 1 << 20
"""Text of a configuration, and of its values once aliases are written out."""

TABLE_BYTES = 1 << 28
"""Text of a CSV table."""

VALUES = 2_000_000
"""Values of a document, lists and mappings included: each takes up to 100 bytes once read."""

CONFIG_VALUES = 100_000
"""Values of a configuration, with aliases written out."""

DEPTH = 64
"""Lists and mappings within each other in a configuration."""

DIGITS = 400
"""Digits of a whole number."""

LIST_VALUES = 1024
"""Values of a list in a row of a manifest, on average."""

ROW_BYTES = 1 << 14
"""Bytes of a row of a manifest before compression, on average."""


class LimitError(ValueError):
    """A document that is larger than its kind may be; the message says what it is, as after ``got``."""


def read_bytes(path: Path, most: int = DOCUMENT_BYTES) -> bytes:
    """The content of a file. Raises a LimitError for one of more than `most` bytes, which are not read."""
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise LimitError(f"more than {most:,} bytes")
    return content


def read_text(path: Path, most: int = TABLE_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8-sig")


def parse_json(content: bytes, most_values: int = VALUES) -> Any:
    """The values of a JSON document.

    Raises:
        ValueError: for other text, too many values, or a number of absurd width.
    """
    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > most_values:  # without building any
        raise LimitError(f"more than {most_values:,} values")
    return json.loads(content, parse_int=_whole_number)


def read_json(path: Path) -> Any:
    """The values of a JSON file of ours; see `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path))


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS:
        raise LimitError(f"a number of {len(digits)} digits")
    return int(digits)


def reads(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a reader whose first argument is a path: any exception in it becomes one line that names the file.

    Args:
        what: kind of file that is expected, with its article.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def read(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except UserError:
                raise
            except Exception as error:
                path = args[0] if args else next(iter(kwargs.values()), "")
                reason = str(error).strip().splitlines()[:1] or [""]
                got = f"{type(error).__name__}: {reason[0]}" if reason[0] else type(error).__name__
                raise UserError(f"{path}: expected {what}, got one that cannot be read ({got[:200]}).") from error

        return read

    return decorate
