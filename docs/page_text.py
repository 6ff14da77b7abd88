"""Markdown of the generated pages: tables, and plain text escaped."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows),
    ]


def cell(text: str) -> str:
    """Escape plain text for a table cell; names in double or single backticks stay code."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", " ".join(text.split()))
    return "".join(_code(part) if part.startswith("`") else _escaped(part) for part in parts)


def _code(text: str) -> str:
    return f"`{text.strip('`')}`"


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]~$])", r"\\\1", html.escape(text, quote=False))


def paragraphs(text: str | None) -> list[str]:
    """Return the lines of a docstring's paragraphs, escaped."""
    lines = []
    for paragraph in inspect.cleandoc(text or "").replace("\b", "").split("\n\n"):
        lines += [cell(paragraph), ""]
    return lines[:-1]


def sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring, escaped."""
    return cell(inspect.cleandoc(text or "").split("\n\n")[0])
