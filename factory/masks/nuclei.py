"""Nuclei on a plain background: polygons after Hou et al. 2019 whose ids are kept. Nothing here is trained.

Hou, Agarwal, Samaras, Kurc, Gupta, Saltz: Robust histopathology image analysis: to label or to synthesize?, CVPR
2019, with the numbers of its public code, given there in pixels at 0.25 um: radius U(8.5, 13) x bias with bias
N(1.2 + d/8, 0.32), irregularity U(0.6, 2.6) clipped to 1, spikiness U(0.04, 0.24), 10-17 vertices, a warp that the
tile shares, area over 140 px, overlap up to 0.15 and N(30 d + 20, 40) nuclei, 0-256, in 256x256. Ours: ids are kept,
d (how crowded a tile is) is drawn from U(0, 3) where no count is asked, counts below 0 are mirrored and not cut, so
that few tiles are empty, and there are two further kinds of nucleus. Spikiness is U(0.02, 0.10): annotated nuclei of
MoNuSeg's training set have a median solidity of 0.957, outlines with Hou's 0.945 and with ours 0.957
(`bench/stain_constants.py`). configs/masks/hou2019.yaml has the published value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator

from factory.composition import Request, Scores, check
from factory.core.config import Config
from factory.fields import FloatMap, nodes, noise, spline
from factory.geometry import OutlineConfig, Outlines, draw_outlines
from factory.placement import Cells, Population, too_coarse

_PACKING = 0.5
"""Share of a tile that nuclei of mean size can cover before placing them begins to fail; measured."""
_SMALLEST_BIAS = 0.5
"""How small the radii of a crowded tile may become, as a factor on the configured bias."""
_HOU_AREA_MM2 = (256 * 0.25e-3) ** 2


class NucleiConfig(Config):
    """What `Nuclei` draws; lengths in micrometres, so that they follow mpp.

    Attributes:
        tumour, lymphocyte, spindle: the outlines of each kind.
        shares: of the nuclei that are of each kind, in that order.
        bias: mean factor on the radii of a tile without crowding. bias_spread: its standard deviation over tiles.
        warp: largest stretch that all nuclei of a tile share.
        crowding: smallest and largest d; without a requested count, 30 d + 20 nuclei per 256x256 px at 0.25 um.
        count_spread: standard deviation of that count.
        overlap: largest share of a nucleus behind others.
        touching: share of nuclei that touch another, approximately.
        clusters: 0 = nuclei lie anywhere, 1 = only where the cluster field is high. cluster_um: size of clusters.
        positive_um: size of the patches in which cells are positive. positive_noise: share of the rank that is the
            cell's own, 0-1.
    """

    tumour: OutlineConfig = OutlineConfig(
        radius_um=(2.125, 3.25), elongation=(1.0, 1.3), irregularity=(0.6, 2.6), spikiness=(0.02, 0.10)
    )
    lymphocyte: OutlineConfig = OutlineConfig(
        radius_um=(1.9, 2.5), elongation=(1.0, 1.15), irregularity=(0.3, 0.7), spikiness=(0.01, 0.06)
    )
    spindle: OutlineConfig = OutlineConfig(
        radius_um=(1.8, 2.6), elongation=(2.2, 4.5), irregularity=(0.3, 0.7), spikiness=(0.02, 0.08)
    )
    shares: tuple[float, float, float] = (0.72, 0.18, 0.10)
    bias: float = Field(default=1.2, gt=0.2, lt=4)
    bias_spread: float = Field(default=0.32, ge=0, lt=1)
    warp: float = Field(default=1.3, ge=1, le=3)
    crowding: tuple[float, float] = (0.0, 3.0)
    count_spread: float = Field(default=40.0, ge=0)
    overlap: float = Field(default=0.15, ge=0, lt=0.5)
    touching: float = Field(default=0.3, ge=0, le=1)
    clusters: float = Field(default=0.5, ge=0, le=1)
    cluster_um: float = Field(default=28.0, gt=2, lt=1000)
    positive_um: float = Field(default=40.0, gt=2, lt=1000)
    positive_noise: float = Field(default=0.35, ge=0, le=1)

    @field_validator("shares")
    @classmethod
    def _is_mixture(cls, values: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(values) < 0 or not sum(values) > 0:
            raise ValueError("expected three shares from 0, not all 0")
        return values

    @field_validator("crowding")
    @classmethod
    def _is_range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= values[0] <= values[1]:
            raise ValueError("expected smallest and largest from 0")
        return values


class Nuclei:
    """Draws nuclei for the schemes `nuclei` and `ihc`; in `ihc` the requested share of them is positive, exactly."""

    schemes: tuple[str, ...] = ("nuclei", "ihc")
    Config = NucleiConfig

    def __init__(self, config: NucleiConfig, device: str = "cpu") -> None:
        del device  # numba on the CPU, whatever the renderer uses
        self.config = config

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be met, or None."""
        if request.scheme.name not in self.schemes:
            return f"scheme: nuclei draws {' and '.join(self.schemes)}, got {request.scheme.name}"
        outlines = (self.config.tumour, self.config.lymphocyte, self.config.spindle)
        reason = check(request) or too_coarse(outlines, request.mpp)
        if reason:
            return reason
        if request.fractions is not None:
            return "fractions: nuclei have no requested area, ask for cells"
        most = self.capacity(request)
        if request.cells is not None and request.cells > most:
            return f"cells: {request.cells} do not fit into {request.height}x{request.width}, at most {most} do"
        if request.tps is not None and (request.cells == 0 or most == 0):
            return f"tps: {request.tps:g} is asked of a tile without cells"
        return None

    def capacity(self, request: Request) -> int:
        """The largest number of nuclei that fit a tile, each as small as `_bias` lets it be."""
        area_um2 = request.height * request.width * request.mpp**2
        return int(area_um2 * _PACKING / (self._mean_area_um2() * self._least_bias() ** 2))

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Nuclei for every request, each from its own generator; the score fields are empty, cells say it all."""
        return [self._draw(request, rng) for request, rng in zip(requests, rngs, strict=True)]

    def _draw(self, request: Request, rng: np.random.Generator) -> Scores:
        config = self.config
        height, width, mpp = request.height, request.width, request.mpp
        crowding = float(rng.uniform(*config.crowding))
        count = self._count(request, crowding, float(rng.normal()))
        bias = self._bias(request, count, crowding, float(rng.normal()))
        warp = float(rng.uniform(1.0, config.warp))
        kinds = rng.choice(3, count, p=np.array(config.shares) / sum(config.shares))
        sizes = np.bincount(kinds, minlength=3)
        drawn = [
            draw_outlines(rng, int(n), mpp, outline, bias, warp)
            for n, outline in zip(sizes, (config.tumour, config.lymphocyte, config.spindle), strict=True)
        ]
        cells = Cells(
            populations=(Population("nucleus", _shuffled(drawn, rng), (0,), (0,), room=1.1, touching=config.touching),),
            smallest_px=max(4.0, 0.5 * config.tumour.smallest_um2 / mpp**2),
            overlap=config.overlap,
            attraction=self._attraction(rng, height, width, mpp),
            rank=self._rank(rng, height, width, mpp),
        )
        empty = np.broadcast_to(np.float32(0), (len(request.scheme), height, width))
        fractions = (1.0,) + (0.0,) * (len(request.scheme) - 1)
        return Scores(empty, fractions, tps=float(rng.uniform()), cells=cells)

    def _count(self, request: Request, crowding: float, deviate: float) -> int:
        """The requested count, or Hou's; at least one cell where a TPS is asked of them."""
        if request.cells is not None:
            return request.cells
        per_area = request.height * request.width * request.mpp**2 * 1e-6 / _HOU_AREA_MM2
        count = round(abs(30.0 * crowding + 20.0 + self.config.count_spread * deviate) * per_area)
        return min(max(count, 1 if request.tps is not None else 0), self.capacity(request))

    def _bias(self, request: Request, count: int, crowding: float, deviate: float) -> float:
        """Factor on the radii: Hou's, but never so large that the nuclei would not fit."""
        drawn = self.config.bias + crowding / 8.0 + self.config.bias_spread * deviate
        area_um2 = request.height * request.width * request.mpp**2
        largest = math.sqrt(area_um2 * _PACKING / (max(count, 1) * self._mean_area_um2()))
        return max(min(drawn, largest), self._least_bias())

    def _least_bias(self) -> float:
        return _SMALLEST_BIAS * self.config.bias

    def _mean_area_um2(self) -> float:
        config = self.config
        kinds = (config.tumour, config.lymphocyte, config.spindle)
        weighted = sum(s * kind.mean_area_um2 for s, kind in zip(config.shares, kinds, strict=True))
        return weighted / sum(config.shares)

    def _attraction(self, rng: np.random.Generator, height: int, width: int, mpp: float) -> FloatMap | None:
        """How likely a site is taken: high in clusters, 1 everywhere without clusters."""
        if self.config.clusters == 0.0:
            return None
        field = _smooth(rng, height, width, mpp, self.config.cluster_um)
        floor = np.float32(1.0 - self.config.clusters)
        attraction: FloatMap = np.clip(
            field * np.float32(2.0) + np.float32(0.5), floor + np.float32(0.05), np.float32(1)
        )
        return attraction

    def _rank(self, rng: np.random.Generator, height: int, width: int, mpp: float) -> FloatMap:
        """Patches in which cells are positive, with noise of about a cell's size."""
        own = np.float32(self.config.positive_noise)
        patches = _smooth(rng, height, width, mpp, self.config.positive_um)
        return patches * (np.float32(1) - own) + _smooth(rng, height, width, mpp, 4.0) * own


def _smooth(rng: np.random.Generator, height: int, width: int, mpp: float, scale_um: float) -> FloatMap:
    """A smooth field of features `scale_um` wide at every pixel, drawn on nodes 2 um apart."""
    coarse = noise(rng, nodes(height, 2.0 / mpp), nodes(width, 2.0 / mpp), scale_um / 2.0)
    field: FloatMap = spline(coarse, height, width, 2.0 / mpp)
    return field


def _shuffled(drawn: list[Outlines], rng: np.random.Generator) -> Outlines:
    """The outlines of all kinds as one set in random order."""
    vertices = np.concatenate([part.vertices for part in drawn])
    sizes = np.concatenate([np.diff(part.offsets) for part in drawn])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    radius = np.concatenate([part.radius for part in drawn])
    return Outlines(vertices, offsets, radius).pick(rng.permutation(len(radius)))
