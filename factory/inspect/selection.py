"""Selection of tiles that are spread evenly over a column, so that a few represent all."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme

Sort = Literal["tps", "tissue", "cells", "random"]
SORTS: tuple[Sort, ...] = ("tps", "tissue", "cells", "random")
_COLUMNS = {"tissue": "tissue_fraction", "cells": "cells"}


def achieved_tps(row: dict[str, Any], scheme: LabelScheme) -> float | None:
    """Returns the TPS by the basis of the scheme, area or cells; None without tumour."""
    value: float | None = row["tps_cells" if scheme.tps_basis == "cells" else "tps_area"]
    return value


def achieved_tps_of(dataset: Dataset) -> list[float | None]:
    """Returns the achieved TPS of every row."""
    schemes = {scheme.name: scheme for scheme in dataset.schemes}
    rows = dataset.table.select(["label_scheme", "tps_area", "tps_cells"]).to_pylist()
    return [achieved_tps(row, schemes[row["label_scheme"]]) for row in rows]


def sort_values(dataset: Dataset, sort: Sort) -> npt.NDArray[np.float64] | None:
    """Returns the column to sort by: float64 [rows], NaN where a tile has no value; None for `random`."""
    if sort == "random":
        return None
    values = achieved_tps_of(dataset) if sort == "tps" else dataset.table[_COLUMNS[sort]].to_pylist()
    return np.array([np.nan if value is None else value for value in values], np.float64)


def default_sort(dataset: Dataset) -> Sort:
    """Returns the first of tps, tissue and cells that any tile has, else `random`."""
    for sort in SORTS[:3]:
        values = sort_values(dataset, sort)
        if values is not None and np.isfinite(values).any():
            return sort
    return "random"


def choose(dataset: Dataset, n: int, sort: Sort, seed: int) -> list[int]:
    """Returns positions of up to `n` rows, evenly spaced by rank in the sort column, with its lowest and highest.

    Ranks, not values, are used so that the selection has the distribution of the data set. Equal values are in random
    order; tiles without a value come last and are selected in proportion.

    Raises:
        UserError: for n below 1, a data set without rows, or a column that no tile has.
    """
    if n < 1:
        raise UserError(f"--n: expected 1 tile or more, got {n}.")
    if not len(dataset):
        raise UserError(f"{dataset.root}: expected tiles to show, got a data set without rows.")
    order = np.random.default_rng(seed).permutation(len(dataset))
    values = sort_values(dataset, sort)
    if values is None:
        return [int(place) for place in order[:n]]
    if not np.isfinite(values).any():
        names = ", ".join(scheme.name for scheme in dataset.schemes)
        raise UserError(
            f"--sort: expected a column that the tiles have, got {sort}, which scheme {names} lacks here. "
            f"Use --sort {default_sort(dataset)}."
        )
    order = order[np.argsort(values[order], kind="stable")]  # NaN sorts last
    ranks = np.linspace(0, len(order) - 1, min(n, len(order)))
    return [int(place) for place in order[np.round(ranks).astype(np.int64)]]
