"""Readers' answers against the key: confusion matrices, shares with intervals, a test against guessing, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, isfinite
from pathlib import Path
from statistics import median
from typing import Any

from factory.core.statistics import wilson_interval
from factory.quiz.key import Key, read_document
from factory.quiz.sources import KINDS, Truth
from manifests.errors import UserError

ANSWERS_KIND = "factory quiz answers"
TPS_CUTS = (0.01, 0.5)
"""Clinical cut-offs of the TPS of PD-L1."""
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Share:
    """A count out of a total with its 95 % interval; without a value where the total is 0."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval."""
        return wilson_interval(self.count, self.total) if self.total else None


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of a reader; names are truth_as_answer."""

    real_as_real: int
    real_as_synthetic: int
    synthetic_as_real: int
    synthetic_as_synthetic: int

    @property
    def accuracy(self) -> Share:
        """Share of correct answers."""
        correct = self.real_as_real + self.synthetic_as_synthetic
        return Share(correct, correct + self.real_as_synthetic + self.synthetic_as_real)

    @property
    def sensitivity(self) -> Share:
        """Share of synthetic tiles that were called synthetic."""
        return Share(self.synthetic_as_synthetic, self.synthetic_as_synthetic + self.synthetic_as_real)

    @property
    def specificity(self) -> Share:
        """Share of real tiles that were called real."""
        return Share(self.real_as_real, self.real_as_real + self.real_as_synthetic)

    @property
    def p_value(self) -> float:
        """P-value of the accuracy, see `against_guessing`."""
        return against_guessing(self.accuracy.count, self.accuracy.total)


def confusion(truths: Sequence[Truth], answers: Sequence[Truth]) -> Confusion:
    """Counts answers by truth."""
    pairs = list(zip(truths, answers, strict=True))
    return Confusion(*(pairs.count((truth, said)) for truth in KINDS for said in KINDS))


def against_guessing(count: int, total: int) -> float:
    """Returns the two-sided p-value of `count` correct answers out of `total`, against guessing: exact binomial test.

    Half the tiles are of either kind. A reader who guesses but prefers one answer has the same expectation and a
    smaller variance, so the test rejects too rarely. A reader who deliberately gave both answers equally often would
    have a larger variance, by n / (n - 1); the page does not say how many tiles are of either kind.
    """
    tail = sum(comb(total, right) for right in range(min(count, total - count) + 1))
    return min(1.0, float(2 * tail / 2**total))


@dataclass(frozen=True)
class Agreement:
    """Agreement of two readers: the share of equal answers, and Cohen's kappa.

    Attributes:
        first, second: names of the readers. same: share of equal answers.
        kappa: (same - chance) / (1 - chance), chance from how often either says "real" (Cohen 1960); None if both gave
            the same single answer to every tile.
    """

    first: str
    second: str
    same: Share
    kappa: float | None


def agreement(first: str, answers: Sequence[Truth], second: str, others: Sequence[Truth]) -> Agreement:
    """Computes the agreement of two readers on the same tiles."""
    total = len(answers)
    same = sum(one == other for one, other in zip(answers, others, strict=True))
    mine, theirs = answers.count("real"), others.count("real")
    # Chance times total squared: whole numbers, so that they compare exactly.
    by_chance = mine * theirs + (total - mine) * (total - theirs)
    whole = total * total
    kappa = None if by_chance == whole else (same * total - by_chance) / (whole - by_chance)
    return Agreement(first, second, Share(same, total), kappa)


@dataclass(frozen=True)
class Reader:
    """One reader's answers in the order of the tiles; seconds are None where they were not kept."""

    name: str
    answers: tuple[Truth, ...]
    seconds: tuple[float | None, ...]

    @property
    def median_seconds(self) -> float | None:
        """Median over the tiles whose time was kept."""
        kept = [value for value in self.seconds if value is not None]
        return median(kept) if kept else None


@dataclass(frozen=True)
class Part:
    """Some tiles of a quiz with a common property, and each reader's share of correct answers on them."""

    by: str
    name: str
    truth: Truth
    right: tuple[Share, ...]


@dataclass(frozen=True)
class Scores:
    """Scores of all readers.

    Attributes:
        tables: confusion matrices, in the order of the readers. agreements: of every two readers.
        parts: tiles by generator and by TPS, with a share for every reader.
    """

    key: Key
    readers: tuple[Reader, ...]
    tables: tuple[Confusion, ...]
    parts: tuple[Part, ...]
    agreements: tuple[Agreement, ...]

    @property
    def mean_accuracy(self) -> float:
        """Mean over readers."""
        return sum(table.accuracy.count / table.accuracy.total for table in self.tables) / len(self.tables)


def score(key: Key, readers: Sequence[Reader]) -> Scores:
    """Compares answers with the key."""
    truths = [tile.truth for tile in key.tiles]
    return Scores(
        key,
        tuple(readers),
        tuple(confusion(truths, reader.answers) for reader in readers),
        (*_parts("generator", key, readers), *_parts("TPS", key, readers)),
        tuple(agreement(one.name, one.answers, other.name, other.answers) for one, other in combinations(readers, 2)),
    )


def read_readers(paths: Sequence[Path], key: Key) -> list[Reader]:
    """Reads files of answers to the quiz of a key, one of every reader."""
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
    """Returns the clinical bin of a TPS."""
    low, high = TPS_CUTS
    if tps is None:
        return "no TPS"
    return "TPS below 1 %" if tps < low else "TPS 1 % to below 50 %" if tps < high else "TPS 50 % and above"


def _parts(by: str, key: Key, readers: Sequence[Reader]) -> list[Part]:
    """Returns parts of the quiz, real before synthetic, then by name; nothing by TPS if no tile has one."""
    if by == "TPS" and all(tile.tps is None for tile in key.tiles):
        return []
    places: dict[tuple[Truth, str], list[int]] = {}
    for place, tile in enumerate(key.tiles):
        name = f"{tile.dataset} ({tile.made_by})" if by == "generator" else tps_bin(tile.tps)
        places.setdefault((tile.truth, name), []).append(place)
    parts = []
    for (truth, name), own in sorted(places.items()):
        right = (sum(reader.answers[place] == truth for place in own) for reader in readers)
        parts.append(Part(by, name, truth, tuple(Share(count, len(own)) for count in right)))
    return parts


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
    found = entry.get("answer")
    if found not in KINDS:
        raise UserError(f"{where}: tile {entry['tile']}: answer: expected real or synthetic, got {str(found)[:40]!r}.")
    return KINDS[KINDS.index(found)]


def _seconds(entry: Mapping[str, Any], where: str) -> float | None:
    value = entry.get("seconds")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        got = str(value)[:40]
        raise UserError(f"{where}: tile {entry['tile']}: seconds: expected 0 or more, or null, got {got!r}.")
    return float(value)
