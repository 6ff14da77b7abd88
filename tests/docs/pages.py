"""Reads README, CONTRIBUTING and the hand-written pages of docs: code blocks, command lines, inline code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_GENERATED = ("docs/_build", "docs/reference/commands", "docs/reference/configuration", "docs/reference/tables")
_BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<language>[\w-]*)\n(?P<code>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'(\w+)'.*?^\1$", re.MULTILINE | re.DOTALL)
_SHELLS = ("sh", "bash", "console")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


class CommandLine(NamedTuple):
    """A command of a page: words after quotes and comments are gone."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def paths() -> list[Path]:
    """Return every Markdown file that a person wrote."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found += [ROOT / "factory/starter/README.md", ROOT / "segment/starter/README.md"]
    return [path for path in found if path.is_file() and not name_of(path).startswith(_GENERATED)]


def name_of(path: Path) -> str:
    """Return the path below the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *languages: str) -> list[str]:
    """Return the code of the fenced blocks in these languages."""
    return [match["code"] for match in _BLOCK.finditer(path.read_text()) if match["language"] in languages]


def command_lines(path: Path) -> Iterator[CommandLine]:
    """Yield every command of the shell blocks of a page; here-documents and comments are left out."""
    for code in blocks(path, *_SHELLS):
        yield from _lines_of(name_of(path), code)


def sections(path: Path) -> dict[str, list[CommandLine]]:
    """Return the commands of every section that has some, by its heading of the second level."""
    found = {}
    for part in re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:]:
        codes = [match["code"] for match in _BLOCK.finditer(part) if match["language"] in _SHELLS]
        if codes:
            found[part.splitlines()[0]] = [line for code in codes for line in _lines_of(name_of(path), code)]
    return found


def _lines_of(page: str, code: str) -> Iterator[CommandLine]:
    text = _HEREDOC.sub("", code).replace("\\\n", " ")
    for line in text.splitlines():
        for words in _commands(line.strip().removeprefix("$ ")):
            yield CommandLine(page, words)


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set(";&|"):
            yield from _stripped(words)
            words = []
        else:
            words.append(word)
    yield from _stripped(words)


def _stripped(words: list[str]) -> Iterator[tuple[str, ...]]:
    while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] in ("do", "time")):
        words = words[1:]
    if words:
        yield tuple(words)


def inline_commands(path: Path) -> Iterator[CommandLine]:
    """Yield inline code that begins with ``factory`` or ``segment``; words in capitals stand for values."""
    text = _BLOCK.sub("", path.read_text())
    for code in re.findall(r"`([^`\n]+)`", text):
        if code.startswith(("factory ", "segment ")):
            yield CommandLine(name_of(path), tuple(word.strip("'\"") for word in code.split()))
