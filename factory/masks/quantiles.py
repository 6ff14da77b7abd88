"""The quantile step: divides a mask among its classes by score, exactly as many pixels at each step as requested.

The score of a step is the margin between the classes it takes and the classes it leaves, max over either. For the
logits of a network a threshold of 0 is therefore the network's own decision. Only comparisons and differences of
float32 are used, so the bytes are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from manifests.labels import LabelScheme

TUMOUR_ROLES = ("tumour_positive", "tumour_negative")

Pixels = npt.NDArray[np.int64]
Calibrated = Literal["air"] | bool
"""Whether score fields are logits: all of them, that of air alone, or none."""


def target_count(share: float, total: int) -> int:
    """Return floor(share x total + 0.5): the exact count for a share of `total`."""
    return min(max(math.floor(share * total + 0.5), 0), total)


def top(values: npt.NDArray[np.float32], count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Select the `count` largest values, ties broken at random: bool like `values`."""
    if count <= 0 or count >= values.size:
        return np.full(values.size, count > 0)
    place = values.size - count
    threshold = np.partition(values, place)[place]
    chosen: npt.NDArray[np.bool_] = values >= threshold
    surplus = int(np.count_nonzero(chosen)) - count
    if surplus > 0:
        ties = np.flatnonzero(values == threshold)
        chosen[rng.permutation(ties)[:surplus]] = False
    if int(np.count_nonzero(chosen)) != count:
        raise ValueError("scores: expected numbers, got NaN")
    return chosen


def whole_counts(asked: Sequence[float | None], drawn: Sequence[float], total: int) -> npt.NDArray[np.int64]:
    """Divide a total by shares: int64 [C], sum `total`.

    A class with a share gets floor(share x total + 0.5), the others divide the rest in proportion to `drawn`, rounded
    by largest remainders. Where every class has a share, the largest takes up the rounding of the others.
    """
    counts = np.array([0 if share is None else target_count(share, total) for share in asked], np.int64)
    is_open = np.array([share is None for share in asked])
    left = total - int(counts.sum())
    if left <= 0 or not is_open.any():
        counts[int(counts.argmax())] += left
        return counts
    weights = np.where(is_open, np.asarray(drawn, np.float64), 0.0)
    weights = weights if weights.any() else is_open.astype(np.float64)
    exact = weights * (left / weights.sum())
    counts += np.floor(exact).astype(np.int64)
    counts[np.argsort(np.floor(exact) - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


@dataclass(frozen=True)
class Shares:
    """Requested shares, in the order in which they are allocated.

    Attributes:
        tissue, tumour, inflammation: of all pixels.
        tps: positive share of the tumour; None where none is requested.
        fractions: shares of all pixels in scheme order, after `tissue` took precedence.
    """

    tissue: float
    tumour: float
    inflammation: float
    tps: float | None
    fractions: tuple[float, ...]


class Partition:
    """Divides the pixels of a tile among classes: `air`, then `regions`, then `expression`.

    Attributes:
        labels: uint8 [H, W].
        tissue, tumour: flat indices of those pixels, int64, ascending.
        shift: largest distance of a threshold used on a calibrated field from 0; None where none is.
    """

    def __init__(
        self,
        fields: npt.NDArray[np.float32],
        scheme: LabelScheme,
        rng: np.random.Generator,
        *,
        calibrated: Calibrated,
        without: int | None = None,
    ) -> None:
        """Take score fields, float32 [C, H, W], and a class (`without`) that no pixel gets."""
        self._fields = fields.reshape(len(scheme), -1)
        self._scheme, self._rng, self._without = scheme, rng, without
        self.labels = np.zeros(fields.shape[1:], np.uint8)
        self.tissue: Pixels = np.arange(self.labels.size)
        self.tumour: Pixels = self.tissue[:0]
        self.shift: float | None = 0.0 if calibrated else None
        self._calibrated, self._measures = calibrated, bool(calibrated)

    def air(self, asked: Shares) -> None:
        """Give the requested share of all pixels to air. The others are tissue."""
        air = self._scheme.ids("air")
        if not air:
            return
        total = self.labels.size
        others = tuple(i for i in range(len(self._scheme)) if i not in air and i != self._without)
        pixels, self.tissue = self._split(self.tissue, air, others, total - target_count(asked.tissue, total))
        self._fill(pixels, air, asked.fractions)
        self._measures = self._calibrated is True

    def regions(self, asked: Shares, blocked: npt.NDArray[np.bool_] | None = None) -> None:
        """Give the requested shares of the tissue to tumour and inflammation, the rest to classes without such a role.

        Args:
            asked: shares of all pixels; where they exceed the tissue, inflammation gets less.
            blocked: bool [H, W], pixels of the tissue that get no class here.
        """
        scheme, total = self._scheme, self.labels.size
        tumour = tuple(sorted(i for role in TUMOUR_ROLES for i in scheme.ids(role)))
        inflamed = scheme.ids("inflammation")
        named = {*scheme.ids("air"), *tumour, *inflamed, self._without}
        rest = tuple(i for i in range(len(scheme)) if i not in named)
        pixels = self.tissue if blocked is None else self.tissue[~blocked.ravel()[self.tissue]]
        count = min(target_count(asked.tumour, total), pixels.size) if tumour else 0
        self.tumour, pixels = self._split(pixels, tumour, (*inflamed, *rest), count)
        count = min(target_count(asked.inflammation, total), pixels.size) if inflamed else 0
        inflamed_pixels, pixels = self._split(pixels, inflamed, rest, count)
        self._fill(inflamed_pixels, inflamed, asked.fractions)
        self._fill(pixels, rest or inflamed or tumour, asked.fractions)
        if tumour:
            self.labels.ravel()[self.tumour] = tumour[0]

    def expression(self, asked: Shares) -> None:
        """Divide the tumour into positive and negative. Without a requested TPS none is positive."""
        positive, negative = (self._scheme.ids(role) for role in TUMOUR_ROLES)
        if not positive or not negative:
            self._fill(self.tumour, positive or negative, asked.fractions)
            return
        count = target_count(asked.tps or 0.0, self.tumour.size)
        ones, others = self._split(self.tumour, positive, negative, count)
        self._fill(ones, positive, asked.fractions)
        self._fill(others, negative, asked.fractions)

    def _split(
        self, pixels: Pixels, taken: tuple[int, ...], left: tuple[int, ...], count: int
    ) -> tuple[Pixels, Pixels]:
        """Split off the `count` pixels with the largest margin of `taken` over `left`; both parts ascending."""
        if not taken or not pixels.size:
            return pixels[:0], pixels
        if not left or (count in (0, pixels.size) and not self._measures):
            return (pixels, pixels[:0]) if count else (pixels[:0], pixels)
        margin = self._highest(taken, pixels) - self._highest(left, pixels)
        chosen = top(margin, count, self._rng)
        if self._measures and self.shift is not None:
            accepted = float(margin[chosen].min()) if count else math.inf
            rejected = float(margin[~chosen].max()) if count < pixels.size else -math.inf
            self.shift = max(self.shift, -accepted, rejected)
        return pixels[chosen], pixels[~chosen]

    def _highest(self, classes: tuple[int, ...], pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return the largest of some fields at some pixels: float32 [P]."""
        everywhere = pixels.size == self._fields.shape[1]
        values = (self._fields[label] if everywhere else self._fields[label].take(pixels) for label in classes)
        best: npt.NDArray[np.float32] = next(values)
        for other in values:
            best = np.maximum(best, other)
        return best

    def _fill(self, pixels: Pixels, classes: tuple[int, ...], fractions: tuple[float, ...]) -> None:
        """Give pixels to classes by share, from the last class to the second. The first gets the rest."""
        flat = self.labels.ravel()
        for position in range(len(classes) - 1, 0, -1):
            label = classes[position]
            count = min(target_count(fractions[label], flat.size), pixels.size)
            mine, pixels = self._split(pixels, (label,), classes[:position], count)
            flat[mine] = label
        if classes:
            flat[pixels] = classes[0]
