"""Tables and lines that `plan`, `make` and `render` print: what was asked, and what was achieved."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.table import Table

from factory.core.statistics import ks_statistic
from factory.core.wording import file_size, plural
from factory.joint import SHARES
from factory.make.parts import RESOLVERS, Part
from factory.make.pipeline import Prepared
from factory.make.recipes.base import Recipe
from factory.plan.assignment import Values, column, quantile_error, shares_of, targets_of
from manifests.labels import LabelScheme
from manifests.schema import SPLITS

_PAIRS = (
    ("TPS by area", "request_tps", "tps_area", "px of tumour"),
    ("TPS by cells", "request_tps", "tps_cells", "tumour cells"),
    ("tissue", "request_tissue", "tissue_fraction", "px"),
    ("cells", "request_cells", "cells", "cells"),
)


def closing_table(table: pa.Table, scheme: LabelScheme, classes: Collection[str] = ()) -> Table:
    """Requested against achieved, over the rows of a finished manifest; errors as shares and in pixels or cells.

    Args:
        table: the rows. scheme: of them. classes: whose shares of the pixels were asked for by name.
    """
    shown = Table("", "rows", "asked, mean", "achieved, mean", "largest error", "that is", "KS", title="As asked")
    totals = _totals(table, scheme)
    for name, request, achieved, unit in _PAIRS:
        if achieved == "tps_area" and scheme.tps_basis == "cells":
            continue  # asked by cells; the area follows from their sizes
        asked, got = (column(table, name) for name in (request, achieved))
        _add_pair(shown, name, asked, got, totals[achieved], unit)
    for request, achieved, unit, total in (
        ("request_fractions", "class_fractions", "px", totals["tissue_fraction"]),
        ("request_cell_fractions", "cell_fractions", "cells", column(table, "cells")),
    ):
        if table[request].null_count == len(table):
            continue
        asked, got = (shares_of(table, name, len(scheme)) for name in (request, achieved))
        for label in scheme.classes:
            if unit == "cells" or label.name in classes:
                name = f"{label.name} of {'the cells' if unit == 'cells' else 'all px'}"
                _add_pair(shown, name, asked[:, label.id], got[:, label.id], total, unit)
    return shown


def named_classes(prepared: Prepared[Recipe]) -> tuple[str, ...]:
    """Classes whose shares of the pixels were asked for by name; with a plan all, of which it says some."""
    plan = prepared.spec.config["plan"]
    return tuple(plan.get("shares", ())) if "scheme" in plan else prepared.recipe.scheme.names


def _add_pair(shown: Table, name: str, asked: Values, got: Values, totals: Values, unit: str) -> None:
    """Add the row of one quantity, float64 [rows] each, NaN where there is none; `totals` in its unit."""
    both = np.isfinite(asked) & np.isfinite(got)
    if not both.any():
        return
    digits = 1 if name == "cells" else 5
    error = np.abs(asked - got)[both]
    scale = totals[both]
    shown.add_row(
        name,
        str(int(both.sum())),
        *(f"{figure:.{digits}f}" for figure in (asked[both].mean(), got[both].mean(), error.max())),
        f"{(error * scale).max():.2f} {unit}",
        f"{ks_statistic(asked[both], got[both]):.4f}",
    )


def choice_table(table: pa.Table, prepared: Prepared[Recipe]) -> Table:
    """Distance of the tiles that were chosen among candidates from their requests, one by one and as distributions."""
    names = "", "rows", "asked, mean", "achieved, mean", "mean distance", "largest", "quantile error", "KS"
    shown = Table(*names, title="Asked and chosen")
    for target in targets_of(table, table, prepared.recipe.scheme, prepared.spec.config[SHARES]):
        both = np.isfinite(target.asked) & np.isfinite(target.offered)
        if both.any():
            asked, got = target.asked[both], target.offered[both]
            error = np.abs(asked - got)
            apart = error.mean(), error.max(), quantile_error(asked, got), ks_statistic(asked, got)
            figures = (f"{figure:.4f}" for figure in (asked.mean(), got.mean(), *apart))
            shown.add_row(target.name.removeprefix("--"), str(int(both.sum())), *figures)
    return shown


def _totals(table: pa.Table, scheme: LabelScheme) -> dict[str, npt.NDArray[np.float64]]:
    """The denominator of each achieved share, float64 [rows]: pixels or cells."""
    pixels = (table["height"].to_numpy() * table["width"].to_numpy()).astype(np.float64)
    shares = shares_of(table, "class_fractions", len(scheme))
    tumour = shares[:, [*scheme.ids("tumour_positive"), *scheme.ids("tumour_negative")]].sum(axis=1)
    kinds = (table[name].fill_null(0).to_numpy().astype(np.float64) for name in ("cells_positive", "cells_negative"))
    return {
        "tps_area": pixels * tumour,
        "tps_cells": np.sum(list(kinds), axis=0),
        "tissue_fraction": pixels,
        "cells": np.ones(len(pixels)),
    }


def request_table(table: pa.Table) -> Table:
    """Range and quartiles of every request of a plan."""
    shown = Table("", "rows", "least", "25 %", "median", "75 %", "most", title="Requests")
    for name in ("request_tps", "request_tissue", "request_cells"):
        values = table[name].drop_null().to_numpy().astype(np.float64)
        if len(values):
            quartiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
            shown.add_row(name.removeprefix("request_"), str(len(values)), *(f"{value:.4g}" for value in quartiles))
    for name, what in (("request_fractions", "shares of classes"), ("request_cell_fractions", "shares of cells")):
        if asked := len(table) - table[name].null_count:
            shown.add_row(what, str(asked), f"in {name}")
    if not shown.row_count:
        shown.add_row("nothing: the masks' own", str(len(table)))
    counts = {each["values"]: each["counts"] for each in table["split"].value_counts().to_pylist()}
    shown.caption = ", ".join(f"{counts[name]} {name}" for name in SPLITS if name in counts)
    return shown


def class_table(table: pa.Table, scheme: LabelScheme) -> Table:
    """Mean share of every class, and the cells."""
    shares = shares_of(table, "class_fractions", len(scheme))
    of_cells = shares_of(table, "cell_fractions", len(scheme))
    typed = bool(np.isfinite(of_cells).any())
    shown = Table("class", "mean share", "least", "most", *["of the cells"] * typed, title=f"Classes of {scheme.name}")
    for label in scheme.classes:
        share = shares[:, label.id]
        figures = [share.mean(), share.min(), share.max(), *([np.nanmean(of_cells[:, label.id])] if typed else [])]
        shown.add_row(label.name, *(f"{value:.4f}" for value in figures))
    shown.caption = f"{int(np.sum(table['cells'].to_numpy())):,} cells"
    return shown


def run_text(prepared: Prepared[Recipe], *, by_weights: bool = False) -> str:
    """The resolved run in a few lines; run.yaml has every value.

    Args:
        prepared: the run. by_weights: nobody named a label scheme, so one that is not the default is that of weights.
    """
    spec, recipe = prepared.spec, prepared.recipe
    layout = spec.layout
    plan = {key: value for key, value in spec.config["plan"].items() if value is not None and value is not False}
    plan.pop("requests_sha256", None)
    asked = {
        "share of": plan.pop("shares", spec.config.get(SHARES, {})),
        "share of cells of": plan.pop("cell_shares", {}),
    }
    shares = {f"{what} {name}": text for what, texts in asked.items() for name, text in texts.items()}
    is_other = by_weights and recipe.scheme.name != "pdl1"
    origin = " (that of the weights; --scheme names another)" if is_other else ""
    lines = [
        f"{plural(layout.n, 'tile')} of {layout.height}x{layout.width} in {plural(layout.shards, 'shard')}: "
        f"{recipe.title}{_starters(recipe)}, scheme {recipe.scheme.name}{origin} -> {spec.out}",
        "  " + ", ".join(f"{key} {value}" for key, value in {**plan, **shares}.items()),
    ]
    lines += [f"  {key} = {_brief(value)}" for key, value in recipe.changed.items()]
    return "\n".join(lines)


def _starters(recipe: Recipe) -> str:
    """The starters that the parts draw with: `` (starters depas-tissue, pix2pixhd-ihc)``."""
    parts = [part for key in RESOLVERS if isinstance(part := getattr(recipe, key, None), Part)]
    names = [part.starter for part in parts if part.starter]
    return f" (starter{'s'[: len(names) > 1]} {', '.join(names)})" if names else ""


def _brief(value: Any) -> str:
    text = str(value)
    return (
        text if len(text) <= 100 else f"{len(value)} values, in run.yaml" if hasattr(value, "__len__") else text[:100]
    )


def closing_line(out: Path, total: int, made: int, seconds: float) -> str:
    """Size and speed of a finished run."""
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    speed = f"{made} made in {seconds:.1f} s, {made / max(seconds, 1e-9):.1f} tiles/s" if made else "nothing to do"
    return f"{out}: {plural(total, 'tile')}, {file_size(size)}; {speed}"
