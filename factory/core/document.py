"""Blocks of a report, and their three forms: tables on the terminal, Markdown, and one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from rich.markup import escape as escape_markup
from rich.table import Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1d2433; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #dbe0ea; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #8b94a8; }
img { max-width: 100%; height: auto; }
pre { background: #f3f5f9; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text, after a lead in bold."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        header, rows: cells; every row is as long as the header. title: heading of its section, empty for none.
        aligned: whether Markdown aligns all columns but the first to the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    aligned: bool = True


@dataclass(frozen=True)
class Listing:
    """Text that keeps its lines, such as YAML."""

    text: str


@dataclass(frozen=True)
class Plot:
    """A PNG: linked by its file name in Markdown, embedded in HTML."""

    alt: str
    file: str
    png: bytes = b""


Block = str | Heading | Paragraph | Bullets | Grid | Listing | Plot
"""A string is a paragraph."""


def to_table(grid: Grid, justify: Literal["left", "right"] = "right") -> Table:
    """A table for the terminal: the first column is folded where it is too long; `justify` is that of the others."""
    table = Table(title=escape_markup(grid.title))
    for number, name in enumerate(grid.header):
        first = number == 0
        table.add_column(
            escape_markup(name),
            justify="left" if first else justify,
            overflow="fold",
            min_width=12 if first and name else None,
        )
    for row in grid.rows:
        table.add_row(*map(escape_markup, row))
    return table


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Markdown with pipes for tables; plots are links to files beside it."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case str(text):
            return _literal(text)
        case Heading(text):
            return f"## {text}"
        case Paragraph(text, lead):
            return (f"**{_literal(lead)}** " if lead else "") + _literal(text)
        case Bullets(items):
            return "\n".join(f"- {_literal(item)}" for item in items)
        case Grid(header, rows, title, aligned):
            rule = ["---"] + ["---:" if aligned else "---"] * (len(header) - 1)
            lines = [
                "| " + " | ".join(_literal(cell).replace("|", r"\|").replace("\n", " ") for cell in line) + " |"
                for line in (header, rule, *rows)
            ]
            return "\n".join(([f"## {title}", ""] if title else []) + lines)
        case Listing(text):
            return f"```yaml\n{text.strip()}\n```"
        case Plot(alt, file, _):
            return f"![{alt}]({file})"


def _literal(text: str) -> str:
    """Escape stars, which are part of the names of training sets (R*)."""
    return text.replace("*", r"\*")


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page that needs no other file and no network."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *map(_html, blocks)])
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    match block:
        case str(text):
            return f"<p>{escape(text)}</p>"
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, lead):
            strong = f"<strong>{escape(lead)}</strong> " if lead else ""
            return f"<p>{strong}{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Grid(header, rows, title, _):
            heading = f"<h2>{escape(title)}</h2>\n" if title else ""
            top = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
            table = f"<table><thead><tr>{top}</tr></thead>\n<tbody>{lines}</tbody></table>"
            return f'{heading}<div class="wide">{table}</div>'
        case Listing(text):
            return f"<pre>{escape(text.strip())}</pre>"
        case Plot(alt, _, png):
            return f'<img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
