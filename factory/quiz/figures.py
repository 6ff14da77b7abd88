"""Figures of a blind test: counts, shares with intervals, a test against guessing, agreement of readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from factory.core.statistics import wilson_interval
from factory.quiz.sources import Truth


@dataclass(frozen=True)
class Share:
    """A count out of a total with its 95 % interval; a share of none has no value."""

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
    """What a reader called the tiles: rows are what they are, columns what they were called."""

    real_as_real: int
    real_as_synthetic: int
    synthetic_as_real: int
    synthetic_as_synthetic: int

    @property
    def accuracy(self) -> Share:
        """Tiles called what they are."""
        correct = self.real_as_real + self.synthetic_as_synthetic
        return Share(correct, correct + self.real_as_synthetic + self.synthetic_as_real)

    @property
    def sensitivity(self) -> Share:
        """Synthetic tiles that were called synthetic."""
        return Share(self.synthetic_as_synthetic, self.synthetic_as_synthetic + self.synthetic_as_real)

    @property
    def specificity(self) -> Share:
        """Real tiles that were called real."""
        return Share(self.real_as_real, self.real_as_real + self.real_as_synthetic)

    @property
    def p_value(self) -> float:
        """Of the accuracy against guessing, see `against_guessing`."""
        return against_guessing(self.accuracy.count, self.accuracy.total)


def confusion(truths: Sequence[Truth], answers: Sequence[Truth]) -> Confusion:
    """Count answers by truth."""
    pairs = list(zip(truths, answers, strict=True))
    return Confusion(
        pairs.count(("real", "real")),
        pairs.count(("real", "synthetic")),
        pairs.count(("synthetic", "real")),
        pairs.count(("synthetic", "synthetic")),
    )


def against_guessing(count: int, total: int) -> float:
    """Two-sided p-value of `count` right out of `total`, were each right with probability 1/2: exact binomial.

    Half the tiles are of either kind. A reader who guesses but leans to one answer is right as often and varies less,
    so the test rejects too rarely. One who gave both answers equally often on purpose would vary a little more, by
    n / (n - 1) in variance; the page does not say how many tiles are of either kind.
    """
    tail = sum(comb(total, right) for right in range(min(count, total - count) + 1))
    p_value: float = 2 * tail / 2**total
    return min(1.0, p_value)


@dataclass(frozen=True)
class Agreement:
    """How far two readers agree: the share of tiles they called the same, and Cohen's kappa.

    Attributes:
        first, second: names of the readers. same: tiles called the same.
        kappa: (same - chance) / (1 - chance), chance from how often either says "real" (Cohen 1960); None where both
            called every tile the same one thing.
    """

    first: str
    second: str
    same: Share
    kappa: float | None


def agreement(first: str, answers: Sequence[Truth], second: str, others: Sequence[Truth]) -> Agreement:
    """Agreement of two readers on the same tiles."""
    total = len(answers)
    same = sum(one == other for one, other in zip(answers, others, strict=True))
    mine, theirs = answers.count("real"), others.count("real")
    by_chance = mine * theirs + (total - mine) * (
        total - theirs
    )  # times total squared: whole numbers, compared exactly
    whole = total * total
    kappa = None if by_chance == whole else (same * total - by_chance) / (whole - by_chance)
    return Agreement(first, second, Share(same, total), kappa)
