"""Coarse maps drawn by the plan: the requested composition, laid out as tissue lies on a slide.

Air is of two kinds. *Open* air lies outside the tissue, in one of a few layouts; *pores* are the small gaps within it
that a threshold on brightness finds. A fine-like mask is cut out of their fields by `factory.masks.quantiles`, so that
it has the requested shares to the pixel, and then coarsened like a real one. Sizes and shares were set by the
statistics of the coarse maps of real masks (area, perimeter, components, holes; docs/results/layouts.md) and by eye.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from factory.core.config import Config
from factory.geometry.fields import FloatMap, noise, worley
from factory.masks.allocate import completed, shares
from factory.masks.coarse.morphology import CLOSING_PX, OPENING_PX, LabelMap, class_order, coarsen
from factory.masks.coarse.warping import pore_field
from factory.masks.quantiles import Partition, Shares, target_count, top
from factory.masks.regions import RegionsConfig, draw_regions, region_fields, region_fractions
from factory.plan.request import Request

Layout = Literal["edge", "core", "islands", "holes", "solid", "regions"]

_LAYOUTS: dict[Layout, float] = {"edge": 3.0, "core": 1.5, "islands": 3.0, "holes": 1.5, "solid": 1.0}
_LENGTHS = (0.5, math.inf, "lengths from 0.5 um")
_LIMITS = {"open_share": (0.0, 1.0, "shares up to 1"), "pore_um": _LENGTHS, "core_um": _LENGTHS, "hole_um": _LENGTHS}
_OPEN = np.float32(64.0)
"""Score of open air above that of every pore."""


class LayoutConfig(Config):
    """How the plan lays out a coarse map; lengths in micrometres.

    Attributes:
        layouts: weights of the ways to lay out the open air: ``edge`` (tissue ends along a line),
            ``core`` (a round core), ``islands`` (lobes and pieces), ``holes`` (round ones: fat, vessels), ``solid``
            (pores only), ``regions`` (as the generator `polygons` does).
        open_share: smallest and largest share of the air that is open.
        pore_um: smallest and largest width of a pore. patch_um: of the areas that are rich or poor in pores.
        patchiness: how far these areas differ, 0 = not at all. stretch: largest elongation of pores and patches.
        core_um: smallest and largest radius of a core. island_um: width of islands and of the bays between them.
        hole_um: smallest and largest mean radius of round holes.
        roughness: amplitude of the irregular border of open air; roughness_um: its scale.
        regions: where tumour and inflammation lie, in schemes that have them.
        opening_px, closing_px: kernels of the coarse map.
    """

    layouts: Mapping[Layout, float] = Field(default_factory=lambda: dict(_LAYOUTS))
    open_share: tuple[float, float] = (0.15, 0.95)
    pore_um: tuple[float, float] = (2.5, 6.0)
    patch_um: float = Field(default=60.0, gt=5, lt=2000)
    patchiness: float = Field(default=0.8, ge=0, le=8)
    stretch: float = Field(default=3.0, ge=1, le=16)
    core_um: tuple[float, float] = (180.0, 420.0)
    island_um: float = Field(default=90.0, gt=5, lt=5000)
    hole_um: tuple[float, float] = (12.0, 40.0)
    roughness: float = Field(default=0.1, ge=0, le=2)
    roughness_um: float = Field(default=12.0, gt=2, lt=500)
    regions: RegionsConfig = RegionsConfig()
    opening_px: int = Field(default=OPENING_PX, ge=1, le=99)
    closing_px: int = Field(default=CLOSING_PX, ge=1, le=99)

    @field_validator("layouts")
    @classmethod
    def _has_weight(cls, layouts: Mapping[Layout, float]) -> Mapping[Layout, float]:
        if any(weight < 0 for weight in layouts.values()) or not any(layouts.values()):
            raise ValueError("expected weights from 0, one of them above 0")
        return layouts

    @field_validator(*_LIMITS)
    @classmethod
    def _is_range(cls, values: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        least, most, what = _LIMITS[str(info.field_name)]
        if not least <= values[0] <= values[1] <= most:
            raise ValueError(f"expected the smaller of two {what} first")
        return values


def drawn_coarse(rng: np.random.Generator, request: Request, config: LayoutConfig | None = None) -> LabelMap:
    """Draw the coarse map of a mask that meets a request: `drawn_mask`, then `coarsen`.

    Opening and closing change the shares by a few per cent, as in the pairs that a network was trained on.

    Args:
        rng: of every choice. request: size, resolution, scheme, and shares; those not asked are drawn
            (`region_fractions`). config: layouts and sizes; default `LayoutConfig()`.

    Returns:
        uint8 [H, W], ids of the request's scheme.
    """
    config = config or LayoutConfig()
    kernels = {"opening_px": config.opening_px, "closing_px": config.closing_px}
    scheme = request.scheme
    return coarsen(drawn_mask(rng, request, config), len(scheme), **kernels, order=class_order(scheme))


def drawn_mask(rng: np.random.Generator, request: Request, config: LayoutConfig) -> LabelMap:
    """Draw a mask with exactly the requested tissue, tumour, inflammation and TPS (by area): uint8 [H, W].

    A class named ``cell`` lies in blobs on all tissue; the other shares are met on the rest.
    """
    scheme = request.scheme
    asked = shares(request, completed(request, region_fractions(rng, scheme)))
    regions = draw_regions(rng, request.height, request.width, request.mpp, config.regions, scheme)
    fields = region_fields(regions, rng, scheme, request.height, request.width)
    for label in scheme.ids("air"):
        fields[label] = _air_field(fields[label], rng, request, asked, config)
    cell = scheme.names.index("cell") if "cell" in scheme.names else None
    partition = Partition(fields, scheme, rng, calibrated=False, without=cell)
    partition.air(asked)
    cells = None if cell is None else _blobs(partition, rng, request, asked.fractions[cell])
    partition.regions(asked, cells)
    partition.expression(asked)
    if cells is not None and cell is not None:
        partition.labels[cells] = cell
    return partition.labels


def _air_field(
    by_regions: FloatMap, rng: np.random.Generator, request: Request, asked: Shares, config: LayoutConfig
) -> FloatMap:
    """Draw the score field of air: open air above pores, in the shares of this draw; float32 [H, W]."""
    layout = _choose(rng, config.layouts)
    low, high = config.open_share
    share = 0.0 if layout == "solid" else low + (high - low) * rng.random()
    if len(request.scheme) > 2:  # masks of regions, not of brightness, have no pores
        share = 1.0
    field = by_regions if layout in ("regions", "solid") else _open_field(layout, rng, request, config)
    count = target_count((1.0 - asked.tissue) * share, field.size)
    is_open = top(field.ravel(), count, rng).reshape(field.shape)
    pores = field if share == 1.0 else _pore_field(rng, request, config)
    return np.where(is_open, field + _OPEN, pores).astype(np.float32)


def _choose(rng: np.random.Generator, weights: Mapping[Layout, float]) -> Layout:
    names = sorted(weights)
    place = rng.random() * sum(weights[name] for name in names)
    for name in names:
        place -= weights[name]
        if place < 0:
            return name
    return names[-1]


def _open_field(layout: Layout, rng: np.random.Generator, request: Request, config: LayoutConfig) -> FloatMap:
    """Draw the score of open air in a layout, about -3..3: float32 [H, W]."""
    rough = _noise(rng, request, config.roughness_um) * np.float32(config.roughness)
    rough += _noise(rng, request, 4 * config.roughness_um) * np.float32(config.roughness)
    if layout == "edge":
        return _edge(rng, request, config) + rough
    if layout == "core":
        return _core(rng, request, config) + rough
    if layout == "holes":
        return _holes(rng, request, config) + rough
    field: FloatMap = (
        _noise(rng, request, config.island_um)
        + _noise(rng, request, 0.4 * config.island_um) * np.float32(0.4)
        + _slope(rng, request) * np.float32(rng.random() * 2.0)
        + rough
    )
    return field


def _edge(rng: np.random.Generator, request: Request, config: LayoutConfig) -> FloatMap:
    """Draw scores that rise to one side of a line with bays."""
    bays = _noise(rng, request, 1.5 * config.island_um) * np.float32(0.5 * rng.random())
    field: FloatMap = _slope(rng, request) * np.float32(3.0) + bays
    return field


def _core(rng: np.random.Generator, request: Request, config: LayoutConfig) -> FloatMap:
    """Draw scores that rise outside a circle whose rim crosses the tile."""
    low, high = config.core_um
    radius = (low + (high - low) * rng.random()) / request.mpp
    y, x = _coordinates(request)
    middle = np.float32(request.height * (1.5 * rng.random() - 0.25)), np.float32(request.width * rng.random())
    distance = np.sqrt((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / np.float32(radius)
    bays = _noise(rng, request, config.island_um) * np.float32(0.08)
    field: FloatMap = (distance * np.float32(3.0) + bays).astype(np.float32)
    return field


def _holes(rng: np.random.Generator, request: Request, config: LayoutConfig) -> FloatMap:
    """Draw round holes, each with a height of its own, denser in some places."""
    low, high = config.hole_um
    spacing = np.float32(2.6 * (low + (high - low) * rng.random()) / request.mpp)
    bend = [_noise(rng, request, 1.2 * low) * np.float32(0.25) for _ in range(2)]
    y, x = _coordinates(request)
    y = y / spacing + bend[0] + np.float32(1.0)
    x = x / spacing + bend[1] + np.float32(1.0)
    points = rng.random((math.floor(y.max()) + 3, math.floor(x.max()) + 3, 2), np.float32)
    nearest, second, owner = worley(y, x, points * np.float32(0.6) + np.float32(0.2))
    height = rng.random(points.shape[0] * points.shape[1], np.float32)[owner]
    rich = _noise(rng, request, 2 * config.island_um)
    wall = np.minimum((second - nearest) * np.float32(4.0), np.float32(1.0))
    field: FloatMap = height + rich - nearest * np.float32(2.5) + wall
    return field


def _pore_field(rng: np.random.Generator, request: Request, config: LayoutConfig) -> FloatMap:
    low, high = config.pore_um
    return pore_field(
        rng,
        request.height,
        request.width,
        pore_px=(low + (high - low) * rng.random()) / request.mpp,
        patch_px=config.patch_um / request.mpp,
        patchiness=config.patchiness,
        stretch=config.stretch,
    )


def _blobs(partition: Partition, rng: np.random.Generator, request: Request, share: float) -> np.ndarray:
    """Draw blobs of the size of cells on the tissue, exactly `share` of all pixels: bool [H, W]."""
    score = _noise(rng, request, 6.0)
    blobs = np.zeros(score.shape, bool)
    count = min(target_count(share, score.size), partition.tissue.size)
    blobs.ravel()[partition.tissue] = top(score.ravel()[partition.tissue], count, rng)
    return blobs


def _noise(rng: np.random.Generator, request: Request, scale_um: float) -> FloatMap:
    return noise(rng, request.height, request.width, max(scale_um / request.mpp, 1.0))


def _slope(rng: np.random.Generator, request: Request) -> FloatMap:
    """Draw a plane that rises in a random direction, about -1..1 over the tile: float32 [H, W]."""
    down, right = (np.float32(2.0 * rng.random() - 1.0) for _ in range(2))
    steepness = max(abs(down), abs(right), np.float32(1e-3))
    y, x = _coordinates(request)
    rise = y / np.float32(request.height) - np.float32(0.5), x / np.float32(request.width) - np.float32(0.5)
    field: FloatMap = (rise[0] * (down / steepness) + rise[1] * (right / steepness)).astype(np.float32)
    return field


def _coordinates(request: Request) -> tuple[FloatMap, FloatMap]:
    """Pixel centres, float32 [H, 1] and [1, W]."""
    y = (np.arange(request.height, dtype=np.float32) + np.float32(0.5))[:, None]
    x = (np.arange(request.width, dtype=np.float32) + np.float32(0.5))[None, :]
    return y, x
