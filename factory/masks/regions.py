"""Score fields of tissue regions: air, tumour nests, inflammatory aggregates and expression.

The fields are evaluated on nodes a fixed number of micrometres apart and read through a B-spline
(`factory.geometry.fields`), so that borders are smooth at every share and the tissue is the same at every mpp. Tumour
nests are the cells of a warped Voronoi mosaic, that is polygons with stroma along their edges. Lumina, vessels and
lymphocyte aggregates are round bumps with steep walls, each with a height of its own, so that a small share fills few
of them and not the tips of all. The bytes are the same on every machine, see `factory.geometry.fields`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config
from factory.geometry.fields import FloatMap, nodes, noise, spline, worley
from manifests.labels import LabelScheme

NODE_UM = 2.0
"""Distance of the nodes on which fields are evaluated: the finest detail of a border."""


class RegionsConfig(Config):
    """Layout of tissue. Lengths are in micrometres, so that they follow mpp.

    Attributes:
        nest_um: mean width of a tumour nest. stretch: largest elongation of the nests (1 = round).
        territory_um: size of the areas that are rich or poor in tumour.
        septum: depth of the stroma between nests against the territories' contrast; 0 = one solid tumour.
        lumen_um: mean radius of gland lumina and vessels. glandular: probability that a tile's nests hold lumina.
        edge_um: size of the bays of the tissue's outer edge.
        aggregate_um: mean radius of a lymphocyte aggregate.
        expression_um: size of the patches that express PD-L1. expression_by_nest: how far whole nests agree, 0-1.
        marker_um: the same size for a nuclear marker (role `nuclear_marker`), which single cells express whatever their
            nest does. From `bench/marker_regions.py` on 141 training tiles of Ki-67: a region covers 287 um2 and
            281 drawn, the tumour holds 789 and 913 of them per mm2, the next one lies 29.5 and 28.7 um away, two points
            8, 16 and 24 um apart correlate by .47, .11 and .02, drawn .50, .15 and .01.
        roughness: amplitude of the irregular border; roughness_um: its scale.
    """

    nest_um: float = Field(default=95.0, gt=5, lt=2000)
    stretch: float = Field(default=1.9, ge=1, le=4)
    territory_um: float = Field(default=190.0, gt=5, lt=5000)
    septum: float = Field(default=0.9, ge=0, le=4)
    lumen_um: float = Field(default=14.0, gt=2, lt=500)
    glandular: float = Field(default=0.35, ge=0, le=1)
    edge_um: float = Field(default=260.0, gt=5, lt=5000)
    aggregate_um: float = Field(default=42.0, gt=5, lt=1000)
    expression_um: float = Field(default=75.0, gt=5, lt=2000)
    expression_by_nest: float = Field(default=0.5, ge=0, le=1)
    marker_um: float = Field(default=13.0, gt=5, lt=2000)
    roughness: float = Field(default=0.10, ge=0, le=1)
    roughness_um: float = Field(default=13.0, gt=3, lt=200)


@dataclass(frozen=True)
class Regions:
    """Score fields of one tile, on nodes `step_px` apart: float32 [h, w] each; higher comes first.

    Attributes:
        air, tumour, inflammation: among all tissue. positive: expression, among the tumour.
        step_px: distance of two nodes in pixels.
    """

    air: FloatMap
    tumour: FloatMap
    inflammation: FloatMap
    positive: FloatMap
    step_px: float

    def at_pixels(self, field: FloatMap, height: int, width: int) -> FloatMap:
        """Read one of the fields at every pixel: float32 [height, width]."""
        values: FloatMap = spline(field, height, width, self.step_px)
        return values

    def flow(self) -> FloatMap:
        """Return unit vectors (y, x) along the borders of the nests, where fibres run: float32 [h, w, 2]."""
        down, right = np.gradient(self.tumour)
        norm = np.sqrt(down * down + right * right) + np.float32(1e-9)
        return np.stack([right / norm, -down / norm], axis=-1).astype(np.float32)


def draw_regions(
    rng: np.random.Generator, height: int, width: int, mpp: float, config: RegionsConfig, scheme: LabelScheme
) -> Regions:
    """Draw the score fields of one tile of `height` x `width` pixels at `mpp`, for the marker of `scheme`."""
    step_px = NODE_UM / mpp
    shape = nodes(height, step_px), nodes(width, step_px)
    rough = _noise(rng, shape, config.roughness_um) * np.float32(config.roughness)
    bend = [
        _noise(rng, shape, 0.6 * config.nest_um) * np.float32(0.35)
        + _noise(rng, shape, 0.25 * config.nest_um) * np.float32(0.10)
        for _ in range(2)
    ]

    # Nests: a mosaic seen through a rotation, a stretch and a bend, denser where the territory is rich.
    nest_um = config.nest_um * (0.6 + 0.8 * rng.random())
    mosaic = _mosaic(rng, shape, nest_um, 1.0 + (config.stretch - 1.0) * rng.random(), bend)
    inside = np.minimum(mosaic.to_edge * np.float32(4.5), np.float32(1.0))
    nest_size = rng.random(mosaic.points, np.float32)[mosaic.owner] * np.float32(0.5)
    septum = np.float32(config.septum * (0.4 + 0.6 * rng.random()))
    tumour = (
        _noise(rng, shape, config.territory_um)
        + (inside * (np.float32(1.0) + nest_size)) * septum
        + rough * np.float32(2.0)
    )

    # Air: the outer edge of the tissue, vessels in the stroma, and in some tiles a lumen in every other nest.
    edge = _noise(rng, shape, config.edge_um) * np.float32(2.5) + np.float32(rng.random()) + rough
    vessels = _bumps(rng, shape, config.lumen_um, 7.5, bend) - np.float32(0.9)
    air = np.maximum(edge, vessels + rough * np.float32(2.0))
    if rng.random() < config.glandular:
        lumina = _lumina(rng, mosaic, config.lumen_um / nest_um) + rough * np.float32(2.0)
        air = np.maximum(air, lumina)

    # Inflammation: aggregates, and a band along the tumour's front.
    front = np.minimum(tumour, np.float32(1.2)) * np.float32(0.5 * rng.random())
    diffuse = _noise(rng, shape, config.aggregate_um) * np.float32(1.1)
    inflammation = _bumps(rng, shape, config.aggregate_um, 3.6, bend) + front + diffuse + rough * np.float32(3.0)

    # Expression: patches of few cells in nuclei, on membranes wider ones and whole nests that agree.
    if scheme.ids("nuclear_marker"):
        positive = _noise(rng, shape, config.marker_um)
    else:
        nest_level = rng.random(mosaic.points, np.float32)[mosaic.owner] * np.float32(1.6 * config.expression_by_nest)
        positive = _noise(rng, shape, config.expression_um) + nest_level + rough
    return Regions(air, tumour, inflammation, positive.astype(np.float32), step_px)


def _noise(rng: np.random.Generator, shape: tuple[int, int], scale_um: float) -> FloatMap:
    return noise(rng, shape[0], shape[1], scale_um / NODE_UM)


@dataclass(frozen=True)
class _Mosaic:
    """A Voronoi mosaic on the nodes: distance to the owner and (second - nearest) / 2, in units of the spacing."""

    to_point: FloatMap
    to_edge: FloatMap
    owner: npt.NDArray[np.int32]
    points: int


def _mosaic(
    rng: np.random.Generator, shape: tuple[int, int], spacing_um: float, stretch: float, bend: list[FloatMap]
) -> _Mosaic:
    """Draw a jittered mosaic in a frame that is turned, stretched along one axis and bent, in units of the spacing."""
    # A rational point of the circle, ((1 - t^2), 2 t) / (1 + t^2): a direction without cos and sin.
    t = 2.0 * rng.random() - 1.0
    cosine, sine = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    if rng.random() < 0.5:
        cosine, sine = sine, cosine
    unit = NODE_UM / spacing_um
    rows = (np.arange(shape[0], dtype=np.float64) * unit)[:, None]
    columns = (np.arange(shape[1], dtype=np.float64) * unit)[None, :]
    y = (rows * cosine + columns * sine) * math.sqrt(stretch) + bend[0]
    x = (columns * cosine - rows * sine) / math.sqrt(stretch) + bend[1]
    y, x = (y - math.floor(y.min())).astype(np.float32), (x - math.floor(x.min())).astype(np.float32)
    extent = math.floor(y.max()) + 3, math.floor(x.max()) + 3
    points = rng.random((*extent, 2), np.float32) * np.float32(0.7) + np.float32(0.15)
    nearest, second, owner = worley(y, x, points)
    return _Mosaic(nearest, (second - nearest) * np.float32(0.5), owner, extent[0] * extent[1])


def _bumps(
    rng: np.random.Generator, shape: tuple[int, int], radius_um: float, spacing: float, bend: list[FloatMap]
) -> FloatMap:
    """Draw round plateaus with steep walls, `spacing` radii apart, of radius x 0.5-1.5 and heights 0.5-1.5."""
    mosaic = _mosaic(rng, shape, radius_um * spacing, 1.0, [part * np.float32(0.8) for part in bend])
    radius = (rng.random(mosaic.points, np.float32) + np.float32(0.5)) / np.float32(spacing)
    height = rng.random(mosaic.points, np.float32) + np.float32(0.5)
    return _plateau(mosaic, radius, height)


def _plateau(mosaic: _Mosaic, radius: FloatMap, height: FloatMap) -> FloatMap:
    """`height` of the owner on its disc of `radius`, a steep wall round it, a gentle slope beyond."""
    outside = mosaic.to_point / radius[mosaic.owner] - np.float32(1.0)
    wall = np.clip(outside * np.float32(2.0), np.float32(-1.0), np.float32(1.0))
    # `to_edge` fades a plateau before its Voronoi neighbour begins, so that heights never meet in a straight step.
    fade = np.minimum(mosaic.to_edge * np.float32(8.0), np.float32(1.0))
    plateau: FloatMap = (height[mosaic.owner] - wall) * fade - np.maximum(outside, np.float32(0.0)) * np.float32(0.1)
    return plateau


def _lumina(rng: np.random.Generator, mosaic: _Mosaic, radius: float) -> FloatMap:
    """Draw a lumen in the middle of every other nest, of `radius` x 0.6-1.4 nest widths."""
    radii = (rng.random(mosaic.points, np.float32) * np.float32(0.8) + np.float32(0.6)) * np.float32(radius)
    height = np.where(rng.random(mosaic.points, np.float32) < 0.5, np.float32(0.0), np.float32(1.2))
    return _plateau(mosaic, radii, height + rng.random(mosaic.points, np.float32) * np.float32(0.6) - np.float32(0.5))


def region_fractions(rng: np.random.Generator, scheme: LabelScheme) -> tuple[float, ...]:
    """Draw shares of all pixels in scheme order, for a request without any.

    Of the tile 5-35 % is air; of the tissue 25-65 % is tumour, 4-20 % inflammation; TPS is uniform. A class named
    ``cell`` gets the share that nuclei cover at usual densities. Other classes share what is left at random.
    """
    air = float(rng.uniform(0.05, 0.35)) if scheme.ids("air") else 0.0
    tissue = 1.0 - air
    tumour = tissue * float(rng.uniform(0.25, 0.65))
    inflammation = tissue * float(rng.uniform(0.04, 0.20)) if scheme.ids("inflammation") else 0.0
    tps = float(rng.uniform(0.0, 1.0))
    cell = 0.22 * tissue if "cell" in scheme.names else 0.0
    covered = 1.0 - cell / tissue
    by_role = {"air": air, "inflammation": inflammation * covered}
    by_role |= {"tumour_positive": tumour * tps * covered, "tumour_negative": tumour * (1.0 - tps) * covered}
    shares = [0.0] * len(scheme)
    for role, share in by_role.items():
        for label in scheme.ids(role):
            shares[label] += share / len(scheme.ids(role))
    if "cell" in scheme.names:
        shares[scheme.names.index("cell")] = cell
    open_classes = [
        i for i in range(len(scheme)) if shares[i] == 0.0 and not set(scheme.classes[i].roles) & set(by_role)
    ]
    weights = 0.3 + rng.random(len(open_classes))
    left = 1.0 - sum(shares)
    for label, weight in zip(open_classes, weights, strict=True):
        shares[label] = left * float(weight / weights.sum())
    return tuple(shares)


def region_fields(regions: Regions, rng: np.random.Generator, scheme: LabelScheme, height: int, width: int) -> FloatMap:
    """One score field per class of a scheme, float32 [C, height, width], as `allocate.Scores` needs them.

    Classes with a role take the field of that role. The first of the others is the leftover class (0); every further
    one gets a smooth field of its own.
    """
    fields = np.zeros((len(scheme), height, width), np.float32)
    tumour = regions.tumour - np.float32(regions.tumour.max())
    inflammation = regions.inflammation - np.float32(regions.inflammation.max())
    positive = regions.positive - np.float32(regions.positive.max())
    by_role = {"air": regions.air, "inflammation": inflammation, "tumour_negative": tumour}
    first = True
    for label in scheme.classes:
        role = next((r for r in by_role if r in label.roles), None)
        if role is not None:
            fields[label.id] = regions.at_pixels(by_role[role], height, width)
        elif "tumour_positive" in label.roles:
            fields[label.id] = regions.at_pixels(tumour + positive, height, width)
        elif first or label.name == "cell":
            first = False
        else:
            own = _noise(rng, regions.air.shape, 60.0)
            fields[label.id] = regions.at_pixels(own - np.float32(own.max()), height, width)
    return fields
