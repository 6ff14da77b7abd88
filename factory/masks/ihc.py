"""Tissue regions with nuclei: PD-L1 and Ki-67 tiles whose TPS is exact by area and by cells. Without weights.

Regions come first, from `factory.masks.regions`; nuclei then lie inside them: round to oval ones in the tumour, small
round and dense lymphocytes in inflammation, thin spindles along the fibres of the stroma, none on air. A scheme
without a class for inflammation has its lymphocytes in other tissue, most of them where inflammation would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config
from factory.geometry.fields import FloatMap
from factory.geometry.outlines import OutlineConfig, draw_outlines
from factory.masks.allocate import Scores, check, completed, shares
from factory.masks.base import MaskGenerator
from factory.masks.cells.placement import Cells, Population, too_coarse
from factory.masks.quantiles import target_count
from factory.masks.regions import NODE_UM, Regions, RegionsConfig, draw_regions, region_fields, region_fractions
from factory.plan.request import Request

_PACKING = 0.42
"""Largest share of a region that nuclei of mean size can cover before some do not fit; measured."""
_INFLAMED = 0.2
"""Share of other tissue that is as dense in lymphocytes as inflammation, where the scheme has no class for that."""


class PopulationConfig(Config):
    """One kind of nucleus: its outline, nuclei per mm2 of its region, room in radii and share that touch."""

    outline: OutlineConfig
    density_mm2: float = Field(ge=0)
    room: float = Field(default=0.0, ge=0, le=4)
    touching: float = Field(default=0.0, ge=0, le=1)


class IhcConfig(Config):
    """Configuration of `Ihc`. Lengths are in micrometres, so that they follow mpp.

    Attributes:
        regions: the tissue.
        tumour, lymphocyte, spindle: the nuclei of tumour, inflammation and all other tissue. Densities follow
            `bench/stain_constants.py`: tumour lies between the first quartile and the median of annotated Ki-67 regions
            (5700, 7500 per mm2), inflammation among the 90th percentiles of 100 um windows of three breast cores
            (10,100 to 13,300), other tissue among their 10th (2400 to 4500 where a core is not all tumour).
        overlap: largest share of a nucleus behind others.
    """

    regions: RegionsConfig = RegionsConfig()
    tumour: PopulationConfig = PopulationConfig(
        outline=OutlineConfig(radius_um=(3.3, 5.2), elongation=(1.05, 1.5)), density_mm2=6200, room=1.5, touching=0.12
    )
    lymphocyte: PopulationConfig = PopulationConfig(
        outline=OutlineConfig(radius_um=(2.3, 3.1), elongation=(1.0, 1.15), spikiness=(0.01, 0.05)),
        density_mm2=12500,
        touching=0.3,
    )
    spindle: PopulationConfig = PopulationConfig(
        outline=OutlineConfig(radius_um=(2.2, 3.2), elongation=(2.6, 6.0), spikiness=(0.02, 0.06)),
        density_mm2=2600,
        room=1.5,
    )
    overlap: float = Field(default=0.15, ge=0, lt=0.5)


class Ihc(MaskGenerator):
    """Draws regions and the nuclei in them, for the schemes of `pdl1` and `ki67`."""

    schemes = ("pdl1", "pdl1_cells", "ki67", "ki67_cells")
    Config = IhcConfig
    config: IhcConfig

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        if request.scheme.name not in self.schemes:
            return f"scheme: ihc draws {', '.join(self.schemes)}, got {request.scheme.name}"
        if request.fractions is not None and "cell" in request.scheme.names:
            for name in ("cell", "other"):
                if None in request.fractions and request.fractions[request.scheme.names.index(name)] is not None:
                    return f"shares: {name} follows from the cells in {request.scheme.name}; ask for --cells"
        reason = check(request) or too_coarse([kind.outline for kind in self._kinds() if kind.density_mm2], request.mpp)
        if reason or request.cells is None:
            return reason
        most = self.capacity(request)
        return f"cells: {request.cells} do not fit, at most {most} do" if request.cells > most else None

    def capacity(self, request: Request) -> int:
        """Return the largest number of nuclei that fit a tile. Without requested fractions, in any regions."""
        area_um2 = request.height * request.width * request.mpp**2
        if request.fractions is None or None in request.fractions:
            tissue = 1.0 if request.tissue is None else request.tissue
            return int(tissue * area_um2 * _PACKING / self.config.tumour.outline.mean_area_um2)
        asked = completed(request, (0.0,) * len(request.scheme))
        weights, share = self._expected(request, asked), _region_shares(request, asked)
        outlines = (self.config.tumour.outline, self.config.lymphocyte.outline, self.config.spindle.outline)
        room = np.array(
            [s * area_um2 * _PACKING / o.mean_area_um2 for s, o in zip(share, outlines, strict=True)], float
        )
        # Nuclei are dealt out by density, so the tightest region sets the limit.
        dealt = weights / max(weights.sum(), 1e-9)
        limits = room[dealt > 0] / dealt[dealt > 0]
        return int(limits.min()) if limits.size else 0

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Draw score fields and nuclei of each request from its own generator."""
        return [self._draw(request, rng) for request, rng in zip(requests, rngs, strict=True)]

    def _draw(self, request: Request, rng: np.random.Generator) -> Scores:
        height, width, mpp = request.height, request.width, request.mpp
        regions = draw_regions(rng, height, width, mpp, self.config.regions, request.scheme)
        fractions = region_fractions(rng, request.scheme)
        stated = completed(request, fractions)
        counts = _deal(self._expected(request, stated), request.cells)
        cells = Cells(
            populations=self._populations(rng, counts, request),
            smallest_px=max(4.0, min(p.outline.smallest_um2 for p in self._kinds()) * 0.5 / mpp**2),
            overlap=self.config.overlap,
            flow=regions.flow(),
            flow_step_px=NODE_UM / mpp,
            attraction=None if request.scheme.ids("inflammation") else _crowded(regions, height, width),
            drawn_as=request.scheme.names.index("cell") if "cell" in request.scheme.names else None,
        )
        return Scores(region_fields(regions, rng, request.scheme, height, width), fractions, cells=cells)

    def _kinds(self) -> tuple[PopulationConfig, PopulationConfig, PopulationConfig]:
        return self.config.tumour, self.config.lymphocyte, self.config.spindle

    def _expected(self, request: Request, fractions: tuple[float, ...]) -> npt.NDArray[np.float64]:
        """Compute nuclei per kind at the configured densities, before rounding: float64 [3]."""
        area_mm2 = request.height * request.width * request.mpp**2 * 1e-6
        densities = np.array([kind.density_mm2 for kind in self._kinds()])
        expected: npt.NDArray[np.float64] = np.array(_region_shares(request, fractions)) * area_mm2 * densities
        return expected

    def _populations(
        self, rng: np.random.Generator, counts: npt.NDArray[np.int64], request: Request
    ) -> tuple[Population, ...]:
        scheme = request.scheme
        tumour = tuple(sorted((*scheme.ids("tumour_positive"), *scheme.ids("tumour_negative"))))
        inflamed, other = scheme.ids("inflammation"), (scheme.names.index("other"),)
        homes = ((tumour, tumour), (inflamed or other, (*inflamed, *other)), (other, (*inflamed, *other)))
        return tuple(
            Population(
                name, draw_outlines(rng, int(count), request.mpp, kind.outline), on, within,
                kind.room, kind.touching, along=name == "spindle", attracted=name == "lymphocyte",
            )
            for name, count, kind, (on, within) in zip(
                ("tumour", "lymphocyte", "spindle"), counts, self._kinds(), homes, strict=True
            )
        )  # fmt: skip


def _region_shares(request: Request, fractions: tuple[float, ...]) -> tuple[float, float, float]:
    """Compute the shares of all pixels that are tumour, inflammation and other tissue, cells included.

    Inflammation is `_INFLAMED` of other tissue where the scheme has no class for it.
    """
    asked = shares(request, fractions)
    cell = asked.fractions[request.scheme.names.index("cell")] if "cell" in request.scheme.names else 0.0
    widened = asked.tissue / max(asked.tissue - cell, 1e-9)
    tumour, inflammation = min(asked.tumour * widened, 1.0), min(asked.inflammation * widened, 1.0)
    total = request.height * request.width
    tumour = target_count(tumour, total) / total
    other = max(asked.tissue - tumour - inflammation, 0.0)
    if not request.scheme.ids("inflammation"):
        inflammation, other = _INFLAMED * other, (1.0 - _INFLAMED) * other
    return tumour, inflammation, other


def _crowded(regions: Regions, height: int, width: int) -> FloatMap:
    """Draw the probability that a lymphocyte is accepted: 1 where inflammation would be, else low; [H, W]."""
    field = regions.at_pixels(regions.inflammation, height, width)
    rank = int((1.0 - _INFLAMED) * field.size)
    level = np.partition(field.ravel(), rank)[rank]
    crowded: FloatMap = np.clip((field - level) * np.float32(4.0) + np.float32(0.8), np.float32(0.05), np.float32(1.0))
    return crowded


def _deal(expected: npt.NDArray[np.float64], total: int | None) -> npt.NDArray[np.int64]:
    """Round expected counts, with `total` to exactly that sum by largest remainders."""
    if total is None:
        return np.floor(expected + 0.5).astype(np.int64)
    scaled = expected * (total / max(float(expected.sum()), 1e-9))
    counts = np.floor(scaled).astype(np.int64)
    largest = np.argsort(counts - scaled, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts
