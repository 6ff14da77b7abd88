"""One report, two forms: blocks that are written as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table of text; every row is as long as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listing:
    """Text that keeps its lines, such as YAML."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG: by its file's name in Markdown, by its bytes in HTML."""

    alt: str
    file: str
    png: bytes


Block = Heading | Paragraph | Bullets | Grid | Listing | Picture


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Markdown with pipes for tables; pictures are links to files beside it."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text):
            return _literal(text)
        case Bullets(items):
            return "\n".join(f"- {_literal(item)}" for item in items)
        case Grid(header, rows):
            lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
            return "\n".join(
                "| " + " | ".join(_literal(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
            )
        case Listing(text):
            return f"```yaml\n{text.strip()}\n```"
        case Picture(alt, file, _):
            return f"![{alt}]({file})"


def _literal(text: str) -> str:
    """Stars are part of the arms' names (R*), not of the markup."""
    return text.replace("*", r"\*")


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page that needs no other file and no network."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *map(_html, blocks)])
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Grid(header, rows):
            top = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
            return f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>{lines}</tbody></table></div>'
        case Listing(text):
            return f"<pre>{escape(text.strip())}</pre>"
        case Picture(alt, _, png):
            return f'<img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
