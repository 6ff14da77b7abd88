"""Tables of what an audit measured with intervals: requested against audited TPS, and the place of the stain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

_FIGURES = {"slope": "", "intercept": "+", "r": "", "mae": "", "bias": "+"}
"""Figures of a relation in the order of the table, with their sign."""


def relation_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The tables for which the tiles have something to say: of the relation, and of the placement.

    Args:
        document: the summary of an audit.
    """
    related = Table("", "tiles", "patients", "slope", "intercept", "r", "mean |error|", "bias")
    related.title = "Requested against audited TPS [95 % intervals]"
    placed = Table("", "nuclei", "stained in positive", "nuclei", "stained in negative", "difference", "patients")
    placed.title = "Is the stain where the mask says? Stained share of the counted nuclei by region [95 % intervals]"
    for name, claim, part in _parts(document):
        for key, what in (("relation", claim), ("relation_of_mask", "area of the regions")):
            if key in part:
                figures = part[key]
                cells = [_figure(figures[figure], sign) for figure, sign in _FIGURES.items()]
                related.add_row(f"{name}: {what}", str(figures["tiles"]), str(figures["groups"]), *cells)
        if "placement" in part:
            figures = part["placement"]
            placed.add_row(
                name,
                str(figures["positive_nuclei"]),
                _figure(figures["in_positive"]),
                str(figures["negative_nuclei"]),
                _figure(figures["in_negative"]),
                _figure(figures["difference"], "+"),
                str(figures["groups"]),
            )
    yield from (table for table in (related, placed) if table.row_count)


def _parts(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, what the claim is, and the figures: of the audited tiles, then of real ones."""
    yield "audited", "request", document["audited"]
    for root, part in document["own_error"].items():
        yield f"real, {root}", "labels", part


def _figure(figure: Mapping[str, float | None], sign: str = "") -> str:
    """A value with its interval."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{value:{sign}.3f}{interval}"
