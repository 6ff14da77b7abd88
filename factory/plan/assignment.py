"""Assignment of existing tiles to the requests that they meet best, each tile to one request at most.

The cost of tile j for request i is the sum over targets of the squared distance between requested and achieved value,
in shares (for cells in shares of the largest request). The total over all requests is minimised (Jonker and
Volgenant's algorithm, from scipy). Many requests are first dealt in turn to blocks, and the tiles with them: both are
in random order, or requests are sorted, so every block has the same distribution of both. Labels are never changed to
meet a request; `Picked.misfit` is the distance that is left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from manifests.labels import LabelScheme

Values = npt.NDArray[np.float64]

_BLOCK = 1000
"""Requests that are assigned together; with four tiles for each, about half a second and 100 MB."""

_WITHOUT = 1e6
"""Cost of a tile without a requested quantity, such as TPS without tumour: taken only as a last resort."""


@dataclass(frozen=True)
class Target:
    """A requested quantity.

    Attributes:
        name: of its option. asked: float64 [requests], NaN where a request leaves it open.
        offered: float64 [tiles], NaN where a tile has none of it.
        scale: divisor of distances, 1 for shares.
    """

    name: str
    asked: Values
    offered: Values
    scale: float = 1.0


@dataclass(frozen=True)
class Picked:
    """The tile of each request.

    Attributes:
        tiles: int64 [requests], no number twice.
        misfit: float64 [requests], the largest distance over all targets, in shares; infinite where the tile has none
            of a quantity.
        worst: int64 [requests], index of the target with that distance.
    """

    tiles: npt.NDArray[np.int64]
    misfit: Values
    worst: npt.NDArray[np.int64]


def targets_of(rows: pa.Table, tiles: pa.Table, scheme: LabelScheme, classes: Collection[str] = ()) -> list[Target]:
    """Return the requested quantities of rows with the values of tiles.

    Args:
        rows: with the request columns of a manifest. tiles: with its achieved columns. scheme: of both.
        classes: names of those whose shares were requested; none for all, where rows request shares.
    """
    tps = "tps_cells" if scheme.tps_basis == "cells" else "tps_area"
    offers = {"request_tps": tps, "request_tissue": "tissue_fraction", "request_cells": "cells"}
    targets = []
    for request, offered in offers.items():
        asked = column(rows, request)
        if np.isfinite(asked).any():
            scale = max(float(np.nanmax(asked)), 1.0) if request == "request_cells" else 1.0
            targets.append(Target(f"--{request.removeprefix('request_')}", asked, column(tiles, offered), scale))
    if rows["request_fractions"].null_count < len(rows):
        wanted = shares_of(rows, "request_fractions", len(scheme))
        there = shares_of(tiles, "class_fractions", len(scheme))
        targets += [
            Target(f"share of {label.name}", wanted[:, label.id], there[:, label.id])
            for label in scheme.classes
            if not classes or label.name in classes
        ]
    return targets


def column(table: pa.Table, name: str) -> Values:
    """A column of numbers, float64 [rows], NaN where it has none."""
    values: Values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def shares_of(table: pa.Table, name: str, classes: int) -> Values:
    """A column of shares of all classes, float64 [rows, classes], NaN where it has none."""
    found, start = np.full((len(table), classes), np.nan), 0
    for chunk in table[name].chunks:
        is_there = chunk.is_valid().to_numpy(zero_copy_only=False)
        shares = chunk.flatten().to_numpy(zero_copy_only=False)
        found[start : start + len(chunk)][is_there] = shares.reshape(int(is_there.sum()), classes)
        start += len(chunk)
    return found


def pick(targets: Sequence[Target], requests: int, tiles: npt.NDArray[np.int64]) -> Picked:
    """Give every request a tile.

    Args:
        targets: requested quantities; without any, requests take tiles in their order.
        requests: their number. tiles: int64, indices of the tiles that may be taken, in random order.

    Raises:
        ValueError: for fewer tiles than requests.
    """
    if len(tiles) < requests:
        raise ValueError(f"tiles: expected at least {requests}, got {len(tiles)}")
    if not targets:
        return Picked(tiles[:requests], np.zeros(requests), np.zeros(requests, np.int64))
    chosen = np.empty(requests, np.int64)
    blocks = -(-requests // _BLOCK)
    for block in range(blocks):
        rows, candidates = np.arange(block, requests, blocks), tiles[block::blocks]
        chosen[rows] = candidates[_assigned(targets, rows, candidates)]
    return _picked(targets, chosen)


def _assigned(
    targets: Sequence[Target], rows: npt.NDArray[np.int64], tiles: npt.NDArray[np.int64]
) -> npt.NDArray[np.intp]:
    """Return the index in `tiles` of each row's tile."""
    cost = np.zeros((len(rows), len(tiles)))
    for target in targets:
        asked, offered = target.asked[rows, None], target.offered[None, tiles]
        distance = (asked - offered) / target.scale
        cost += np.where(np.isnan(asked), 0.0, np.where(np.isnan(offered), _WITHOUT, distance**2))
    _, columns = linear_sum_assignment(cost)
    return columns


def _picked(targets: Sequence[Target], tiles: npt.NDArray[np.int64]) -> Picked:
    distances = np.stack([np.abs(each.asked - each.offered[tiles]) / each.scale for each in targets])
    anything = np.stack([np.isnan(each.asked) for each in targets])
    distances = np.where(anything, 0.0, np.where(np.isnan(distances), np.inf, distances))
    return Picked(tiles, distances.max(0), distances.argmax(0))


def quantile_error(asked: Values, got: Values) -> float:
    """Mean distance between the quantiles of two equally long samples: the work of moving one onto the other."""
    return float(np.abs(np.sort(asked) - np.sort(got)).mean())
