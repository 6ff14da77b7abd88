"""What `plan` and `make` say at the end: requested against achieved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.table import Table

from factory.pipeline import Order
from manifests.labels import LabelScheme

_PAIRS = (
    ("TPS by area", "request_tps", "tps_area"),
    ("TPS by cells", "request_tps", "tps_cells"),
    ("tissue", "request_tissue", "tissue_fraction"),
    ("cells", "request_cells", "cells"),
)


def kolmogorov_smirnov(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Largest distance between two empirical distribution functions."""
    both = np.sort(np.concatenate([first, second]))
    above = [np.searchsorted(np.sort(values), both, side="right") / len(values) for values in (first, second)]
    return float(np.abs(above[0] - above[1]).max())


def closing_table(table: pa.Table) -> Table:
    """Requested against achieved, over the rows of a finished manifest."""
    shown = Table("", "rows", "asked, mean", "achieved, mean", "largest error", "KS", title="Requested and achieved")
    for name, request, achieved in _PAIRS:
        both = table.select([request, achieved]).drop_null()
        if not len(both):
            continue
        asked, got = (both[column].to_numpy().astype(np.float64) for column in (request, achieved))
        digits = 1 if request == "request_cells" else 5
        figures = (asked.mean(), got.mean(), np.abs(asked - got).max())
        shown.add_row(
            name,
            str(len(both)),
            *(f"{figure:.{digits}f}" for figure in figures),
            f"{kolmogorov_smirnov(asked, got):.4f}",
        )
    return shown


def request_table(table: pa.Table) -> Table:
    """What a plan asks: range and quartiles of every request."""
    shown = Table("", "rows", "least", "25 %", "median", "75 %", "most", title="Requests")
    for name in ("request_tps", "request_tissue", "request_cells"):
        values = table[name].drop_null().to_numpy().astype(np.float64)
        if len(values):
            quartiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
            shown.add_row(name.removeprefix("request_"), str(len(values)), *(f"{value:.4g}" for value in quartiles))
    splits = table["split"].value_counts().to_pylist()
    shown.caption = ", ".join(f"{entry['counts']} {entry['values']}" for entry in splits)
    return shown


def class_table(table: pa.Table, scheme: LabelScheme) -> Table:
    """Mean share of every class, and the cells."""
    shares = np.array(table["class_fractions"].to_pylist(), np.float64)
    shown = Table("class", "mean share", "least", "most", title=f"Classes of {scheme.name}")
    for label in scheme.classes:
        column = shares[:, label.id]
        shown.add_row(label.name, *(f"{value:.4f}" for value in (column.mean(), column.min(), column.max())))
    shown.caption = f"{int(np.sum(table['cells'].to_numpy())):,} cells"
    return shown


def order_text(order: Order) -> str:
    """The resolved order in a few lines; run.yaml has every value."""
    layout, recipe = order.spec.layout, order.recipe
    changed = {
        **{f"masks.{key}": value for key, value in recipe.mask_config.model_dump(exclude_defaults=True).items()},
        **{f"renderer.{key}": value for key, value in recipe.render_config.model_dump(exclude_defaults=True).items()},
    }
    plan = {key: value for key, value in order.spec.config["plan"].items() if value is not None and value is not False}
    lines = [
        f"{layout.n} tiles of {layout.height}x{layout.width} in {layout.shards} shards: "
        f"masks {recipe.masks}, renderer {recipe.renderer}, scheme {recipe.scheme.name} -> {order.spec.out}",
        "  " + ", ".join(f"{key} {value}" for key, value in plan.items()),
    ]
    lines += [f"  {key} = {str(value)[:100]}" for key, value in changed.items()]
    return "\n".join(lines)


def closing_line(out: Path, total: int, made: int, seconds: float) -> str:
    """Size and speed of a finished run."""
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    speed = f"{made} made in {seconds:.1f} s, {made / max(seconds, 1e-9):.1f} tiles/s" if made else "nothing to do"
    return f"{out}: {total} tiles, {size / 1e6:.1f} MB; {speed}"
