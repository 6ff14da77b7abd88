"""Condition maps: the input of a renderer, drawn from a tile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from factory.core.config import Config
from factory.geometry.nuclear_maps import Metric, distance_map, skeleton_map
from manifests.labels import LabelScheme
from manifests.tile import Tile

NOISE_UM = 7.5
"""Mean distance of noise pixels: 15 px at 0.5 um, the best of eight in the paper."""

Pixels = npt.NDArray[np.bool_]
Kind = Literal["labels", "polygons", "polygons+noise", "polygons+air+cells", "distance", "skeleton"]

RELIEF_STEPS = 127
"""Steps of the 8-bit relief that make 1, the height of a nucleus; a skeleton adds as many."""


class ConditionConfig(Config):
    """Which condition map ("Noise in the correct frequency", 3.6; "Enhanced Sharp-GAN", 2.2).

    Attributes:
        kind: ``labels``: class and instance ids, for renderers without a network. ``polygons``: the classes alone.
            ``polygons+noise``: single pixels of a further class scattered over them. ``polygons+air+cells``: classes
            of a scheme with air and cells, which `factory.learn.cells_by_colour` finds in real images. ``distance``,
            ``skeleton``: the classes and a relief of their nuclei (`factory.geometry.nuclear_maps`), the distance of
            each pixel from the contour, or that with skeletons added.
        spacing_um: mean distance of the noise pixels. arrangement: of them, `grid_noise` or `poisson_noise`.
        metric: of distances from the contour: erosions by a 3x3 square (``chessboard``) or by a cross (``cityblock``).
        classes: whether a network sees the classes beside a relief. Without them it sees the relief alone, as in the
            papers of Sharp-GAN, whose nuclei have no classes.
    """

    added: ClassVar = frozenset({"classes"})

    kind: Kind = "polygons"
    spacing_um: float = Field(default=NOISE_UM, gt=0, lt=10_000)
    arrangement: Literal["grid", "poisson"] = "grid"
    metric: Metric = "chessboard"
    classes: bool = True

    @model_validator(mode="after")
    def _shows_something(self) -> ConditionConfig:
        if not self.classes and self.kind not in RELIEFS:
            raise ValueError(f"classes: expected true without a relief ({', '.join(RELIEFS)}), got false")
        return self


@dataclass(frozen=True)
class Condition:
    """The condition map of one tile.

    Attributes:
        array: of the kind ``labels`` int32 [2, H, W], class and instance ids. Of the others uint8 [H, W], class ids,
            the noise label being ``len(scheme)``. One-hot channels are made only where a network reads them, a window
            at a time.
        mpp: micrometres per pixel.
        scheme: of the class ids.
        relief: uint8 [H, W] in 1 / `RELIEF_STEPS`, one more channel; None for kinds without.
    """

    array: npt.NDArray[Any]
    mpp: float
    scheme: LabelScheme
    relief: npt.NDArray[np.uint8] | None = None


def draw_condition(config: ConditionConfig, tile: Tile, rng: np.random.Generator) -> Condition:
    """Draw the condition map of a tile."""
    relief = draw_relief(config, tile.instance) if config.kind in RELIEFS else None
    if config.kind == "labels":
        array = np.stack([tile.semantic.astype(np.int32), tile.instance])
    elif config.kind == "polygons+noise":
        array = scatter_noise(tile.semantic, config, tile.mpp, len(tile.scheme), rng)
    else:
        array = tile.semantic.copy()
    return Condition(array, tile.mpp, tile.scheme, relief)


def draw_relief(config: ConditionConfig, instance: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Draw the relief of nuclei, uint8 [H, W] in 1 / `RELIEF_STEPS`.

    Args:
        config: its kind is one of `RELIEFS`. instance: int32 [H, W], 0 = background.
    """
    return np.rint(RELIEFS[config.kind](instance, config.metric) * RELIEF_STEPS).astype(np.uint8)


def refusal_of(config: ConditionConfig, mpp: float) -> str | None:
    """Return why a condition map cannot be drawn at a resolution, or None."""
    if config.kind == "polygons+noise" and config.spacing_um < mpp:
        return f"spacing_um: expected noise at least a pixel apart, {mpp:g} um, got {config.spacing_um:g}"
    return None


def labels_of_condition(kind: Kind, scheme: LabelScheme) -> int:
    """Count the labels of a kind of condition map: the classes, and the noise label."""
    return len(scheme) + (kind == "polygons+noise")


def labels_shown(config: ConditionConfig, scheme: LabelScheme) -> int:
    """Count the labels that a network sees, a channel each."""
    return labels_of_condition(config.kind, scheme) if config.classes else 0


def channels_of_condition(config: ConditionConfig, scheme: LabelScheme) -> int:
    """Count the channels of a condition map: one for each label shown, and one for the relief."""
    return labels_shown(config, scheme) + (config.kind in RELIEFS)


def scatter_noise(
    semantic: npt.NDArray[np.uint8], config: ConditionConfig, mpp: float, label: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Replace single pixels of a mask by the noise label: uint8 [H, W].

    Args:
        semantic: uint8 [H, W]. config: spacing and arrangement. mpp: micrometres per pixel. label: of the noise.
        rng: draws the noise.
    """
    scattered = _ARRANGEMENTS[config.arrangement](rng, semantic.shape, config.spacing_um / mpp)
    return np.where(scattered, np.uint8(label), semantic)


def grid_noise(rng: np.random.Generator, shape: tuple[int, ...], spacing_px: float) -> Pixels:
    """Draw noise pixels, one at random in every square of a grid: bool [H, W], density 1 / spacing^2.

    One reading of the "mean distance between noise pixels" of "Noise in the correct frequency" (4.2). The grid starts
    at a random phase, so that no place of a tile is preferred.
    """
    if spacing_px < 1:
        raise ValueError(f"spacing_px: expected at least 1, got {spacing_px}")
    phase = rng.random(2)
    squares = [math.ceil(length / spacing_px) + 1 for length in shape]
    rows, columns = np.meshgrid(np.arange(squares[0]), np.arange(squares[1]), indexing="ij")
    jitter = rng.random((2, *squares))
    y = np.floor((rows + jitter[0] - phase[0]) * spacing_px).astype(np.int64)
    x = np.floor((columns + jitter[1] - phase[1]) * spacing_px).astype(np.int64)
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    noise = np.zeros(shape, np.bool_)
    noise[y[inside], x[inside]] = True
    return noise


def poisson_noise(rng: np.random.Generator, shape: tuple[int, ...], spacing_px: float) -> Pixels:
    """Draw independent noise pixels: bool [H, W], density 1 / (4 spacing^2).

    The other reading of "mean distance": for a planar Poisson process of density d the mean distance to the nearest
    neighbour is 1 / (2 sqrt(d)) (Clark and Evans 1954), here `spacing_px`.
    """
    if spacing_px < 1:
        raise ValueError(f"spacing_px: expected at least 1, got {spacing_px}")
    noise: Pixels = rng.random(shape) < 1.0 / (4.0 * spacing_px * spacing_px)
    return noise


_ARRANGEMENTS: dict[str, Callable[[np.random.Generator, tuple[int, ...], float], Pixels]] = {
    "grid": grid_noise,
    "poisson": poisson_noise,
}

RELIEFS: dict[str, Callable[[npt.NDArray[np.int32], Metric], npt.NDArray[np.float32]]] = {
    "distance": distance_map,
    "skeleton": skeleton_map,
}
"""Reliefs of the kinds that need instances."""
