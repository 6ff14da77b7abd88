"""Many coarse maps from a few drawings: turned, sheared, bent, flipped and merged (PriorPath, section 2.4).

The paper says "extensive augmentations" and no more; the ranges here are ours. Labels are looked up, never mixed, and
by `factory.masks.coarse.warping`, so that a map is the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from factory.core.config import Config
from factory.geometry.fields import FloatMap, noise
from factory.masks.coarse.drawings import Sketch
from factory.masks.coarse.morphology import CLOSING_PX, OPENING_PX, LabelMap, class_order, coarsen
from factory.masks.coarse.warping import Matrix, centred, look_up, pore_field, product, random_turn, signed
from factory.masks.quantiles import target_count, top

_ATTEMPTS = 8
_MOST_OF_ONE = 0.98
"""A map with a larger share of one class is drawn again, a bounded number of times."""


class AugmentSketchConfig(Config):
    """How far a drawing may be changed; lengths are shares of the tile's shorter side.

    Attributes:
        turn: largest turn beyond quarter turns, 1 = 45 degrees. quarter_turns: whether it is turned by 90 degrees too.
        zoom: largest enlargement or reduction. stretch: largest elongation of one side over the other.
        shear: largest shear. shift: largest shift.
        bend: depth of smooth bends `bend_size` wide. wobble: the same, `wobble_size` wide, for the hand's tremor.
        merge: probability that two drawings become one: joined along a curve, laid over each other, or what both have.
        pores: largest share of a drawing's tissue that small gaps take, in schemes of two classes with air. Nobody
            draws them, but masks by brightness have them, and so do the coarse maps that a network was trained on.
        pore_size: smallest and largest width of a pore.
        opening_px, closing_px: kernels of the result, as for the maps that the network was trained on.
    """

    turn: float = Field(default=1.0, ge=0, le=1)
    quarter_turns: bool = True
    zoom: float = Field(default=1.5, ge=1, le=8)
    stretch: float = Field(default=1.3, ge=1, le=4)
    shear: float = Field(default=0.2, ge=0, le=1)
    shift: float = Field(default=0.4, ge=0, le=4)
    bend: float = Field(default=0.08, ge=0, le=1)
    bend_size: float = Field(default=0.4, gt=0.01, le=4)
    wobble: float = Field(default=0.012, ge=0, le=1)
    wobble_size: float = Field(default=0.06, gt=0.01, le=4)
    merge: float = Field(default=0.4, ge=0, le=1)
    pores: float = Field(default=0.0, ge=0, le=0.9)
    pore_size: tuple[float, float] = (0.01, 0.024)
    opening_px: int = Field(default=OPENING_PX, ge=1, le=99)
    closing_px: int = Field(default=CLOSING_PX, ge=1, le=99)

    @field_validator("pore_size")
    @classmethod
    def _is_range(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if not 0.001 <= limits[0] <= limits[1] <= 1.0:
            raise ValueError("expected the smaller of two shares from 0.001 to 1 first")
        return limits


def augment_sketch(
    sketches: Sequence[Sketch],
    rng: np.random.Generator,
    height: int,
    width: int,
    config: AugmentSketchConfig | None = None,
) -> LabelMap:
    """Draw a coarse map from a pool of drawings of one scheme: uint8 [height, width], ids of the scheme.

    It has more than one class wherever a few attempts find that.

    Args:
        sketches: the pool, at least one. rng: of every choice. height, width: of the map, in pixels.
        config: the ranges; default `AugmentSketchConfig()`.
    """
    if not sketches:
        raise ValueError("sketches: expected at least one")
    config = config or AugmentSketchConfig()
    scheme = sketches[0].scheme
    order = class_order(scheme)
    coarse = np.zeros((height, width), np.uint8)
    for _ in range(_ATTEMPTS):
        labels = _warp(_pick(sketches, rng), rng, height, width, config)
        if rng.random() < config.merge:
            labels = _merge(labels, _warp(_pick(sketches, rng), rng, height, width, config), order, rng)
        if config.pores and len(scheme) == 2 and scheme.ids("air"):
            _add_pores(labels, scheme.ids("air")[0], rng, config)
        opening_px, closing_px = config.opening_px, config.closing_px
        coarse = coarsen(labels, len(scheme), opening_px=opening_px, closing_px=closing_px, order=order)
        if np.bincount(coarse.ravel()).max() <= _MOST_OF_ONE * coarse.size:
            break
    return coarse


def _pick(sketches: Sequence[Sketch], rng: np.random.Generator) -> LabelMap:
    return sketches[int(rng.integers(len(sketches)))].labels


def _warp(labels: LabelMap, rng: np.random.Generator, height: int, width: int, config: AugmentSketchConfig) -> LabelMap:
    """Lay a drawing over the tile, moved by a random affine map and bent; beyond its border it is mirrored."""
    side = min(height, width)
    y, x = centred(height, width)
    bent_y, bent_x = (
        _bend(rng, height, width, config.bend, config.bend_size)
        + _bend(rng, height, width, config.wobble, config.wobble_size)
        for _ in range(2)
    )
    matrix, (down, right) = _affine(rng, config)
    # In pixels of the drawing: it covers the tile, so the tighter of its two sides sets the scale.
    scale = min(labels.shape[0] / height, labels.shape[1] / width)
    y, x = y + bent_y + np.float32(down * side), x + bent_x + np.float32(right * side)
    return look_up(labels, y, x, matrix * scale)


def _bend(rng: np.random.Generator, height: int, width: int, depth: float, size: float) -> FloatMap:
    """Draw a smooth displacement in pixels: float32 [height, width]."""
    side = min(height, width)
    return noise(rng, height, width, max(size * side, 1.0)) * np.float32(depth * side)


def _affine(rng: np.random.Generator, config: AugmentSketchConfig) -> tuple[Matrix, tuple[float, float]]:
    """Draw a map from tile to drawing, both of one scale: float64 [2, 2] on (y, x), and the shift before it."""
    turn = random_turn(rng, most=config.turn, quarters=config.quarter_turns)
    flip = np.array([[1.0 if rng.random() < 0.5 else -1.0, 0.0], [0.0, 1.0]])
    shear = np.array([[1.0, config.shear * signed(rng)], [0.0, 1.0]])
    zoom, stretch = _factor(rng, config.zoom), _factor(rng, config.stretch)
    shift = config.shift * signed(rng), config.shift * signed(rng)
    return product(product(turn, flip), product(shear, np.diag([zoom * stretch, zoom]))), shift


def _factor(rng: np.random.Generator, most: float) -> float:
    """Draw a factor from 1 / most to most, above or below 1 with equal probability."""
    factor = 1.0 + (most - 1.0) * rng.random()
    return factor if rng.random() < 0.5 else 1.0 / factor


def _merge(one: LabelMap, other: LabelMap, order: tuple[int, ...], rng: np.random.Generator) -> LabelMap:
    """Merge two maps: joined along a curve, or everywhere the later or the earlier class in `order`."""
    kind = int(rng.integers(4))
    if kind < 2:  # joined, with probability 1/2, as the other two change the composition
        return np.where(_halves(rng, *one.shape), one, other)
    rank = np.zeros(256, np.uint8)
    rank[list(order)] = np.arange(len(order))
    ranks = np.maximum(rank[one], rank[other]) if kind == 2 else np.minimum(rank[one], rank[other])
    merged: LabelMap = np.array(order, np.uint8)[ranks]
    return merged


def _add_pores(labels: LabelMap, air: int, rng: np.random.Generator, config: AugmentSketchConfig) -> None:
    """Turn a random share of the tissue, at most `config.pores`, into small gaps."""
    height, width = labels.shape
    side, (low, high) = min(height, width), config.pore_size
    pore_px = (low + (high - low) * rng.random()) * side
    field = pore_field(rng, height, width, pore_px=pore_px, patch_px=12 * pore_px, patchiness=0.8, stretch=3.0)
    tissue = np.flatnonzero(labels.ravel() != air)
    count = target_count(config.pores * rng.random(), tissue.size)
    labels.flat[tissue[top(field.ravel()[tissue], count, rng)]] = air


def _halves(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Draw one side of a bent line across the tile: bool [height, width]."""
    slope_y, slope_x = np.float32(signed(rng) / height), np.float32(signed(rng) / width)
    y, x = centred(height, width)
    bent = noise(rng, height, width, max(0.5 * min(height, width), 1.0)) * np.float32(0.25)
    side: npt.NDArray[np.bool_] = y * slope_y + x * slope_x + bent > np.float32(0.2 * signed(rng))
    return side
