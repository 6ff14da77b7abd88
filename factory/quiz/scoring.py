"""Readers' answers held against the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from factory.quiz.figures import Agreement, Confusion, Share, agreement, confusion
from factory.quiz.key import Key, KeyTile, read_document
from factory.quiz.sources import KINDS, Truth
from manifests.errors import UserError

ANSWERS_KIND = "factory quiz answers"
TPS_CUTS = (0.01, 0.5)
"""Where TPS of PD-L1 is cut in clinical use."""
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Reader:
    """One reader's answers, in the order of the tiles; seconds are None where none were kept."""

    name: str
    answers: tuple[Truth, ...]
    seconds: tuple[float | None, ...]

    @property
    def median_seconds(self) -> float | None:
        """Of the tiles whose time was kept."""
        kept = [value for value in self.seconds if value is not None]
        return median(kept) if kept else None


@dataclass(frozen=True)
class Part:
    """Some tiles of a quiz: what they have in common, and how many of them every reader called what they are."""

    by: str
    name: str
    truth: Truth
    right: tuple[Share, ...]


@dataclass(frozen=True)
class Scores:
    """What came out.

    Attributes:
        key: of the quiz. readers: in the order given. tables: their confusion matrices, in that order.
        parts: tiles by generator and by TPS, with a share for every reader. agreements: of every two readers.
    """

    key: Key
    readers: tuple[Reader, ...]
    tables: tuple[Confusion, ...]
    parts: tuple[Part, ...]
    agreements: tuple[Agreement, ...]

    @property
    def mean_accuracy(self) -> float:
        """Over readers."""
        return sum(table.accuracy.count / table.accuracy.total for table in self.tables) / len(self.tables)


def score(key: Key, readers: Sequence[Reader]) -> Scores:
    """Hold answers against the key."""
    truths = [tile.truth for tile in key.tiles]
    return Scores(
        key,
        tuple(readers),
        tuple(confusion(truths, reader.answers) for reader in readers),
        (*_parts("generator", key, readers), *_parts("TPS", key, readers)),
        tuple(agreement(one.name, one.answers, other.name, other.answers) for one, other in combinations(readers, 2)),
    )


def read_readers(paths: Sequence[Path], key: Key) -> list[Reader]:
    """Read files of answers.

    Raises:
        UserError: for a file that is none, of another quiz, not complete, or of a reader who was read before.
    """
    readers: list[Reader] = []
    for path in paths:
        reader = _read(path, key)
        if any(reader.name == other.name for other in readers):
            raise UserError(
                f"{path}: expected every reader once, got {reader.name!r} again. Give one file of every reader."
            )
        readers.append(reader)
    return readers


def tps_bin(tps: float | None) -> str:
    """The clinical bin of a TPS."""
    low, high = TPS_CUTS
    if tps is None:
        return "no TPS"
    return "TPS below 1 %" if tps < low else "TPS 1 % to below 50 %" if tps < high else "TPS 50 % and above"


def _parts(by: str, key: Key, readers: Sequence[Reader]) -> list[Part]:
    """Parts of the quiz, real before synthetic and by name; none by TPS where no tile has one."""
    if by == "TPS" and all(tile.tps is None for tile in key.tiles):
        return []
    places: dict[tuple[Truth, str], list[int]] = {}
    for place, tile in enumerate(key.tiles):
        name = _source_name(tile) if by == "generator" else tps_bin(tile.tps)
        places.setdefault((tile.truth, name), []).append(place)
    return [
        Part(
            by,
            name,
            truth,
            tuple(Share(sum(reader.answers[place] == truth for place in own), len(own)) for reader in readers),
        )
        for (truth, name), own in sorted(places.items())
    ]


def _source_name(tile: KeyTile) -> str:
    return f"{tile.dataset} ({tile.made_by})"


def _read(path: Path, key: Key) -> Reader:
    where = str(path)
    document = read_document(path, ANSWERS_KIND, where)
    if document.get("quiz") != key.quiz:
        raise UserError(
            f"{where}: expected answers to quiz {key.quiz[:12]}, got those to {str(document.get('quiz'))[:12]}. Give "
            "the key.json that was written with that page."
        )
    name, entries = document.get("reader"), document.get("answers")
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME:
        raise UserError(f"{where}: reader: expected a name of 1 to {_LONGEST_NAME} characters, got {str(name)[:80]!r}.")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: answers: expected a list of objects, got {str(entries)[:60]!r}.")
    if [entry.get("tile") for entry in entries] != list(range(1, len(key.tiles) + 1)):
        raise UserError(
            f"{where}: answers: expected one for every tile from 1 to {len(key.tiles)}, in order, got {len(entries)} "
            "that are not. Download the file again after the last tile."
        )
    answers = [_answer(entry, where) for entry in entries]
    return Reader(name.strip(), tuple(answers), tuple(_seconds(entry, where) for entry in entries))


def _answer(entry: Mapping[str, Any], where: str) -> Truth:
    for kind in KINDS:
        if entry.get("answer") == kind:
            return kind
    raise UserError(
        f"{where}: tile {entry['tile']}: answer: expected real or synthetic, got {str(entry.get('answer'))[:40]!r}."
    )


def _seconds(entry: Mapping[str, Any], where: str) -> float | None:
    value = entry.get("seconds")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(
            f"{where}: tile {entry['tile']}: seconds: expected 0 or more, or null, got {str(value)[:40]!r}."
        )
    return float(value)
