"""Layouts fitted to real tiles: sizes, forms, density, touching and spacing of nuclei, from instance maps alone.

The density, mean size and touching rate of each real tile become a `Layout`. How nuclei differ within a tile has no
closed form, because outlines are clipped, overlap and are drawn in pixels: tiles are drawn and measured like the real
ones, and the ranges are moved until quantiles agree. The draws have fixed seeds, so a fit is deterministic.

Kinds are separated by form alone. Long nuclei are spindles; of the others those smaller than the median of their tile
count as lymphocytes and the rest as tumour. The three together have the real distribution; the kind of a single
nucleus is not a diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp

from factory.geometry.nuclear_statistics import NuclearStatistics, nuclear_statistics
from factory.geometry.outlines import OutlineConfig
from factory.masks.allocate import Scores, Unmet, allocate
from factory.masks.base import TooFewNuclei
from factory.masks.cells.nuclei_config import Layout, NucleiConfig
from factory.plan.request import Request
from manifests.labels import IGNORE
from manifests.tile import Tile

MOST_LAYOUTS = 64
LEAST_NUCLEI = 50
"""Whole nuclei that a fit needs."""
_SPINDLE = 1.9
"""Length over width from which a nucleus counts as a spindle."""
_SPIKIEST = 0.16
"""Largest spikiness. Rougher outlines would be stars; real nuclei of low solidity are bent instead."""
_ROUNDS = 6
_ATTEMPTS = 4
_ROOMS = (0.0, 0.7, 1.1, 1.5)
_CLUSTERS = ((0.0, 28.0), (0.5, 28.0), (1.0, 12.0), (1.0, 20.0), (1.0, 36.0))
_KINDS = ("lymphocyte", "tumour", "spindle")

Draw = Callable[[Sequence[Request], Sequence[np.random.Generator]], list[Scores]]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Real:
    """The target of a fit: statistics of windows of real tiles, and the request that draws a tile of their form."""

    measured: NuclearStatistics
    request: Request


def fit_layouts(
    tiles: Sequence[Tile],
    request: Request,
    config: NucleiConfig,
    typed: frozenset[str],
    drawer: Callable[[NucleiConfig], Draw],
) -> NucleiConfig:
    """Return `config` with layouts, outlines and spacing as in real tiles.

    Args:
        tiles: real ones with instances; windows with unlabelled pixels are left out.
        request: size and resolution of the tiles to draw; real tiles are cut to that size.
        config: its other values are kept. typed: fields that are not fitted.
        drawer: a generator's ``draw`` for a config.

    Raises:
        TooFewNuclei: when fewer than `LEAST_NUCLEI` nuclei lie whole in the tiles.
    """
    mpp = float(np.median([tile.mpp for tile in tiles]))
    chosen = list(_windows([tile for tile in tiles if abs(tile.mpp / mpp - 1.0) < 0.02], request))
    if chosen:
        chosen = [chosen[int(place)] for place in np.unique(np.linspace(0, len(chosen) - 1, MOST_LAYOUTS).astype(int))]
    measured = nuclear_statistics(chosen, mpp)
    whole = int(np.isfinite(measured.values["area_um2"]).sum())
    if whole < LEAST_NUCLEI:
        raise TooFewNuclei(whole, LEAST_NUCLEI)
    height, width = chosen[0].shape
    real = _Real(measured, Request(height, width, mpp, request.scheme))
    fitted = _with_layouts(config, real, typed)
    for _ in range(_ROUNDS):
        fitted = _closer(fitted, real, _simulate(fitted, real, drawer), typed)
    pairs = [{"clusters": clusters, "cluster_um": size} for clusters, size in _CLUSTERS]
    spread = [{key: value for key, value in pair.items() if key not in typed} for pair in pairs]
    for name, choices in (("room", [{"room": room} for room in _ROOMS]), ("clusters", spread)):
        if name not in typed:
            fitted = min(
                (fitted.model_copy(update=choice) for choice in choices),
                key=lambda candidate: _misfit(real, _simulate(candidate, real, drawer)),
            )
    return _rounded(_closer(fitted, real, _simulate(fitted, real, drawer), typed))


def _windows(tiles: Sequence[Tile], request: Request) -> Iterator[npt.NDArray[np.int32]]:
    """Instance maps of the request's size in micrometres, side by side from the upper left; all of one shape."""
    scale = request.mpp / tiles[0].mpp
    height = min(round(request.height * scale), *(tile.instance.shape[0] for tile in tiles), 1 << 30)
    width = min(round(request.width * scale), *(tile.instance.shape[1] for tile in tiles), 1 << 30)
    for tile in tiles:
        for top in range(0, tile.instance.shape[0] - height + 1, height):
            for left in range(0, tile.instance.shape[1] - width + 1, width):
                part = np.s_[top : top + height, left : left + width]
                if not (tile.semantic[part] == IGNORE).any():
                    yield tile.instance[part]


def _simulate(config: NucleiConfig, real: _Real, drawer: Callable[[NucleiConfig], Draw]) -> NuclearStatistics:
    """Statistics of one drawn tile for each layout, with the seeds of their places."""
    blank = np.zeros((real.request.height, real.request.width), np.int32)
    drawn = []
    for place, layout in enumerate(config.layouts):
        draw = drawer(config.model_copy(update={"layouts": (layout,)}))
        instance = blank
        for attempt in range(_ATTEMPTS):
            rngs = [np.random.default_rng([place, attempt, stream]) for stream in (0, 1)]
            try:
                instance = allocate(draw([real.request], rngs[:1])[0], real.request, rngs[1]).tile.instance
            except Unmet:
                continue
            break
        drawn.append(instance)
    return nuclear_statistics(drawn, real.request.mpp)


def _with_layouts(config: NucleiConfig, real: _Real, typed: frozenset[str]) -> NucleiConfig:
    """Make a first guess in closed form: a layout for each real tile, with a mean radius of its own."""
    values = real.measured.values
    radius = _radius_um(real.measured)
    middle = float(np.nanmedian(radius))
    own = _tile_medians(real.measured, radius)
    bias = np.where(np.isfinite(own), own, middle) / middle
    rate = np.nan_to_num(values["touching_rate"])
    layouts = tuple(
        Layout(
            density_per_mm2=None if {"crowding", "count_spread"} & typed else float(density),
            bias=None if {"bias", "bias_spread"} & typed else float(size),
            touching=None if "touching" in typed else float(share),
        )
        for density, size, share in zip(values["density_per_mm2"], bias, rate, strict=True)
    )
    smallest = max(float(np.nanpercentile(values["area_um2"], 2)), 4.0 * real.request.mpp**2)
    spindle, small = _kinds(real.measured)
    counts = np.array([(~spindle & ~small).sum(), (~spindle & small).sum(), spindle.sum()])
    update: dict[str, Any] = {"layouts": layouts, "bias": 1.0, "warp": 1.0, "shares": tuple(counts / counts.sum())}
    for name, (low, high) in {"lymphocyte": (0.6, 1.0), "tumour": (1.0, 1.5), "spindle": (0.7, 1.4)}.items():
        outline: OutlineConfig = getattr(config, name)
        update[name] = outline.model_copy(
            update={"radius_um": (low * middle, high * middle), "smallest_um2": smallest, "irregularity": (0.3, 0.7)}
        )
    return config.model_copy(update={key: value for key, value in update.items() if key not in typed})


def _closer(config: NucleiConfig, real: _Real, drawn: NuclearStatistics, typed: frozenset[str]) -> NucleiConfig:
    """Move each range by the ratio of its quantiles in real and drawn tiles."""
    # A range is uniform: its ends follow the 15 % and 85 % quantiles. 1 - solidity grows with the roughness squared.
    update: dict[str, Any] = {}
    own_solidity, real_solidity = (1.0 - side.values["solidity"] for side in (drawn, real.measured))
    rough = np.sqrt([_percentiles(real_solidity, 20, 75), _percentiles(own_solidity, 20, 75)])
    for name in _KINDS:
        outline: OutlineConfig = getattr(config, name)
        if name in typed:
            continue
        sides = [_of_kind(side, name) for side in (real.measured, drawn)]
        if min(len(side) for side in sides) < 10:
            continue
        radius, length = (np.array([_percentiles(side[:, column], 15, 85) for side in sides]) for column in (0, 1))
        update[name] = outline.model_copy(
            update={
                "radius_um": _range(outline.radius_um, radius, (0.3, 40.0)),
                "elongation": _range(outline.elongation, length, (1.0, 8.0)),
                "spikiness": _range(outline.spikiness, rough, (0.0, _SPIKIEST)),
            }
        )
    if "shares" not in typed:
        spindles = [float(_kinds(side)[0].mean()) for side in (real.measured, drawn)]
        others = np.array(config.shares[:2]) / max(sum(config.shares[:2]), 1e-9)
        share = float(np.clip(config.shares[2] + spindles[0] - spindles[1], 0.0, 0.9))
        update["shares"] = (*(others * (1.0 - share)).tolist(), share)
    return config.model_copy(update=update)


def _range(now: tuple[float, float], quantiles: Floats, limits: tuple[float, float]) -> tuple[float, float]:
    """Scale a range by the ratio of its quantiles [real, drawn], by at most a half more or a third less."""
    factors = np.clip(quantiles[0] / np.maximum(quantiles[1], 1e-6), 2 / 3, 3 / 2)
    low, high = np.clip(np.maximum(now, 1e-3) * factors, *limits)
    return float(min(low, high)), float(max(low, high))


def _misfit(real: _Real, drawn: NuclearStatistics) -> float:
    """Compare spacing: the sum of two Kolmogorov-Smirnov statistics."""
    return sum(_ks(real.measured.values[name], drawn.values[name]) for name in ("neighbour_um", "dispersion"))


def _ks(first: Floats, second: Floats) -> float:
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    return float(ks_2samp(first, second).statistic) if len(first) and len(second) else 1.0


def _kinds(measured: NuclearStatistics) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Find, among whole nuclei, the spindles and those smaller than the median of their tile."""
    radius = _radius_um(measured)
    whole = np.isfinite(radius)
    small = radius < _tile_medians(measured, radius)[measured.tile]
    return measured.values["elongation"][whole] >= _SPINDLE, small[whole]


def _of_kind(measured: NuclearStatistics, name: str) -> Floats:
    """Radius (as if the tile's median were that of all) and elongation of a kind's whole nuclei: float64 [n, 2]."""
    radius = _radius_um(measured)
    whole = np.isfinite(radius)
    relative = (radius / _tile_medians(measured, radius)[measured.tile] * np.nanmedian(radius))[whole]
    spindle, small = _kinds(measured)
    chosen = spindle if name == "spindle" else ~spindle & (small if name == "lymphocyte" else ~small)
    return np.stack([relative, measured.values["elongation"][whole]], 1)[chosen]


def _radius_um(measured: NuclearStatistics) -> Floats:
    radius: Floats = np.sqrt(measured.values["area_um2"] / np.pi)
    return radius


def _tile_medians(measured: NuclearStatistics, values: Floats) -> Floats:
    """Median over the nuclei of each tile, NaNs left out; NaN for a tile without any."""
    medians = np.full(measured.count, np.nan)
    for place in range(measured.count):
        own = values[(measured.tile == place) & np.isfinite(values)]
        medians[place] = np.median(own) if len(own) else np.nan
    return medians


def _percentiles(values: Floats, *which: float) -> Floats:
    known = values[np.isfinite(values)]
    found: Floats = np.percentile(known, which) if len(known) else np.zeros(len(which))
    return found


def _rounded(config: NucleiConfig) -> NucleiConfig:
    """Round to four digits, which is finer than a fit."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: short(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return tuple(short(item) for item in value)
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return NucleiConfig.model_validate(short(config.model_dump()))
