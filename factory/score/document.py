"""A comparison as plain values: score.json."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from factory.score.compare import Comparison
from factory.score.paired import PairedFigures
from factory.score.tiles import TileSet

_LEFT_OUT = ("measured", "nuclei_measured", "training")  # statistics of every tile and nucleus, and tiles


def to_document(comparison: Comparison) -> dict[str, Any]:
    """Every figure, JSON-ready; what has no value is null. Points and pairs go along, pixels do not."""
    document = {
        field.name: _plain(getattr(comparison, field.name))
        for field in fields(comparison)
        if field.name not in _LEFT_OUT
    }
    if comparison.copies is not None:
        document["copies"]["flagged"] = [_plain(pair) for pair in comparison.copies.flagged]
    for figures, own in zip(comparison.projections, document["projections"], strict=True):
        own["grid"] |= {"with_reals": figures.grid.with_reals, "covered": figures.grid.covered}
    document["modes"] |= {
        "missing": [mode.number for mode in comparison.modes.missing],
        "hit_share": comparison.modes.hit_share,
    }
    return document


def paired_document(figures: PairedFigures) -> dict[str, Any]:
    """The measures over all pairs, JSON-ready; those of each pair stand in pairs.parquet."""
    return {
        "pairs": len(figures.pairs),
        "groups": figures.groups,
        "interval_draws": "groups" if figures.by_group else "tiles",
        **{
            one.name: {
                "mean": one.mean,
                "interval": list(one.interval),
                **{which: _plain(figures.pairs[getattr(one, which)]) for which in ("best", "median", "worst")},
            }
            for one in figures.measures
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, TileSet):
        return {"name": value.name, "tiles": len(value), "size": list(value.shape), "mpp": value.mpp, "ids": value.ids}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
