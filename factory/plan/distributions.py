"""Requested distributions of TPS, tissue or cells, read from text into quantile functions.

=====================  ==========================================================================================
``0.01-0.5``           uniform over that range
``0.3``                always that value
``beta:2,5``           Beta(2, 5); ``beta:2,5@100-600`` stretched to a range (needed for cells)
``histogram.csv``      columns ``low,high,weight``: uniform within each bin, bins weighted
``like:DIR``           the achieved TPS, tissue or cells of a data set (a folder or its ``manifest.parquet``)
``like:DIR`` debiased  makes the histogram uniform together with that data set, see `debiased`
``around:0.01,0.5``    half of the draws just below and half just above each boundary b, uniform within
                       b - w .. b + w with w = min(0.05, b, 1 - b), for cells w = b / 10;
                       ``around:0.01,0.5:0.02`` sets w
=====================  ==========================================================================================
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from manifests.table import read_dataset_manifest, read_manifest

Quantity = Literal["tps", "tissue", "cells", "tumour", "inflammation"]
Values = npt.NDArray[np.float64]

BOUNDARY_WIDTH = 0.05
DEBIAS_BINS = 20
MAX_CELLS = 1_000_000
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})")
_FORMS = "a number, LOW-HIGH, beta:A,B, around:B1,B2, like:DATASET or a histogram .csv"


@dataclass(frozen=True)
class Distribution:
    """A distribution by its quantile function.

    Attributes:
        text: as it was typed.
        quantile: float64 shares in [0, 1) -> float64 values.
    """

    text: str
    quantile: Callable[[Values], Values]


def parse_distribution(
    text: str, quantity: Quantity, *, debias_n: int | None = None, where: str | None = None
) -> Distribution:
    """Read a requested distribution.

    Args:
        text: one of the forms above.
        quantity: shares lie in 0-1, cells are counts.
        debias_n: with ``like:``, the number of tiles to add so that the histogram becomes uniform.
        where: start of error messages; default the option of the quantity.

    Raises:
        UserError: for another form, a value outside the quantity's domain, or a reversed range.
        ValueError: for `debias_n` with another form.
    """
    text = text.strip()
    where = where or f"--{quantity}"
    if debias_n is not None and not is_like(text):
        raise ValueError(f"debias_n is for like:DATASET, got {text}")
    kind, _, rest = text.partition(":")
    if kind == "beta":
        return Distribution(text, _beta(rest, quantity, where))
    if kind == "around":
        return Distribution(text, _around(rest, quantity, where))
    if kind == "like":
        values = _achieved(Path(rest), quantity, where)
        if debias_n is not None:
            return Distribution(text, debiased(values, debias_n, max(values[-1], 1.0) if quantity == "cells" else 1.0))
        return Distribution(text, lambda u: values[np.minimum((u * len(values)).astype(np.int64), len(values) - 1)])
    if text.lower().endswith(".csv"):
        return Distribution(text, _histogram(Path(text), quantity, where))
    if match := _RANGE.fullmatch(text):
        low, high = (_value(part, quantity, where) for part in match.groups())
        if low > high:
            raise UserError(f"{where}: expected LOW-HIGH with LOW first, got {text}. Write {match[2]}-{match[1]}.")
        return Distribution(text, _mixture([(low, high)], [1.0]))
    value = _value(text, quantity, where)
    return Distribution(text, lambda u: np.full(len(u), value))


def is_like(text: str) -> bool:
    """Return whether a distribution is that of a data set."""
    return text.strip().startswith("like:")


def stratified(distribution: Distribution, n: int, rng: np.random.Generator) -> Values:
    """Draw `n` values, one from each n-th of the distribution, in random order: float64 [n].

    Their empirical distribution differs from the requested one by at most 1/n (Kolmogorov-Smirnov).
    """
    shares = (rng.permutation(n) + rng.random(n)) / n
    return np.asarray(distribution.quantile(np.minimum(shares, np.nextafter(1.0, 0.0))), np.float64)


def debiased(values: Values, n: int, most: float) -> Callable[[Values], Values]:
    """Return the distribution of `n` new values that makes the histogram with `values` as uniform as possible.

    With c_i values in bin i of `DEBIAS_BINS` equal bins over 0..most (1 for shares, the largest value for cells), bin i
    is drawn with weight max(0, L - c_i), where the level L is such that the weights sum to n (water-filling).
    """
    counts, edges = np.histogram(values, bins=DEBIAS_BINS, range=(0.0, most))
    ordered = np.sort(counts)
    for filled in range(DEBIAS_BINS, 0, -1):
        level = (n + ordered[:filled].sum()) / filled
        if level >= ordered[filled - 1]:
            break
    weights = np.maximum(level - counts, 0.0)
    return _mixture(list(itertools.pairwise(edges.tolist())), weights.tolist())


def _mixture(bins: list[tuple[float, float]], weights: list[float]) -> Callable[[Values], Values]:
    """Quantile function of uniform bins with weights."""
    kept = [(low, high, weight) for (low, high), weight in zip(bins, weights, strict=True) if weight > 0]
    lows, highs, mass = (np.array(column, np.float64) for column in zip(*kept, strict=True))
    mass = mass / mass.max()  # so that the sum of large weights does not overflow
    ends = np.cumsum(mass / mass.sum())
    starts = np.concatenate([[0.0], ends[:-1]])

    def quantile(u: Values) -> Values:
        position = np.minimum(np.searchsorted(ends, u, side="right"), len(ends) - 1)
        within = np.clip((u - starts[position]) / (ends[position] - starts[position]), 0.0, 1.0)
        return np.asarray(lows[position] + within * (highs[position] - lows[position]))

    return quantile


def _beta(rest: str, quantity: Quantity, where: str) -> Callable[[Values], Values]:
    from scipy.special import betaincinv

    shape, _, stretch = rest.partition("@")
    numbers = _numbers(shape, 2, where, "beta:A,B")
    if min(numbers) <= 0:
        raise UserError(f"{where}: expected beta:A,B with A and B above 0, got beta:{rest}.")
    low, high = 0.0, 1.0
    if stretch:
        match = _RANGE.fullmatch(stretch)
        if not match:
            raise UserError(f"{where}: expected beta:A,B@LOW-HIGH, got beta:{rest}.")
        low, high = (_value(part, quantity, where) for part in match.groups())
    elif quantity == "cells":
        raise UserError(f"--cells: expected a range with beta, got beta:{rest}. Write beta:{shape}@100-600.")
    return lambda u: np.asarray(low + (high - low) * betaincinv(numbers[0], numbers[1], u))


def _around(rest: str, quantity: Quantity, where: str) -> Callable[[Values], Values]:
    listed, _, typed = rest.partition(":")
    width = _numbers(typed, 1, where, "around:B1,B2:WIDTH")[0] if typed else None
    if width is not None and width <= 0:
        raise UserError(f"{where}: expected a width above 0, got {width}.")
    boundaries = [_value(part, quantity, where) for part in listed.split(",")]
    bins = []
    for boundary in boundaries:
        if quantity == "cells":
            reach = width if width is not None else boundary / 10
        else:
            reach = min(width if width is not None else BOUNDARY_WIDTH, boundary, 1 - boundary)
        if reach <= 0 or reach > boundary:
            raise UserError(f"{where}: expected boundaries with room on both sides, got {boundary:g}.")
        bins += [(boundary - reach, boundary), (boundary, boundary + reach)]
    return _mixture(bins, [1.0] * len(bins))


def _histogram(path: Path, quantity: Quantity, where: str) -> Callable[[Values], Values]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets begin with a byte order mark
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: expected a histogram file, got {path}: {error}.") from error
    bins, weights = [], []
    for line, row in enumerate(rows, start=2):
        if not {"low", "high", "weight"} <= row.keys():
            raise UserError(f"{path}: expected the columns low,high,weight, got {','.join(map(str, row))}.")
        low, high = (_value(str(row[key]), quantity, f"{path}: line {line}") for key in ("low", "high"))
        (weight,) = _numbers(str(row["weight"]), 1, f"{path}: line {line}", "a weight")
        if low > high or weight < 0:
            raise UserError(f"{path}: line {line}: expected low <= high and weight >= 0, got {low}, {high}, {weight}.")
        bins.append((low, high))
        weights.append(weight)
    if sum(weights) <= 0:
        raise UserError(f"{path}: expected at least one bin with a weight above 0, got none.")
    return _mixture(bins, weights)


def _achieved(path: Path, quantity: Quantity, where: str) -> Values:
    """Return the sorted achieved values of a data set; TPS by area or by cells, as its first scheme counts it."""
    names = {"tps": ("tps_area", "tps_cells"), "tissue": ("tissue_fraction",), "cells": ("cells",)}.get(quantity)
    if names is None:
        raise UserError(f"{where}: expected {_FORMS.replace(' like:DATASET', '')}, got like:{path}.")
    table, info = read_dataset_manifest(path) if path.is_dir() else read_manifest(path)
    if info.label_schemes and info.label_schemes[0].tps_basis == "cells":
        names = names[::-1]
    for name in names:
        values = table[name].drop_null().to_numpy().astype(np.float64)
        if len(values):
            return np.sort(values)
    raise UserError(f"{where}: expected a data set with measured {' or '.join(names)}, got none in {path}.")


def _numbers(text: str, count: int, where: str, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UserError(f"{where}: expected {form}, got {text!r}.")
    return numbers


def _domain(quantity: Quantity) -> tuple[float, float]:
    return (0.0, float(MAX_CELLS)) if quantity == "cells" else (0.0, 1.0)


def _value(text: str, quantity: Quantity, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        plain = re.sub(r"([\d.]+) ?%", lambda match: f"{float(match[1]) / 100:g}", text)
        if plain != text and quantity != "cells":
            raise UserError(f"{where}: expected shares from 0 to 1, got {text!r}. Write {plain}.") from None
        raise UserError(f"{where}: expected {_FORMS}, got {text!r}.") from None
    low, high = _domain(quantity)
    if not low <= value <= high:
        what = "a count of cells" if quantity == "cells" else "a share from 0 to 1"
        advice = f" Write {value / 100:g} for {text} %." if quantity != "cells" and 1 < value <= 100 else ""
        raise UserError(f"{where}: expected {what}, got {text}.{advice}")
    return value
