"""Nuclei on a plain background: polygons after Hou et al. 2019 whose ids are kept. Without weights.

Hou, Agarwal, Samaras, Kurc, Gupta, Saltz: Robust histopathology image analysis: to label or to synthesize?, CVPR
2019, with the numbers of its public code, given there in pixels at 0.25 um: radius U(8.5, 13) x bias with bias
N(1.2 + d/8, 0.32), irregularity U(0.6, 2.6) clipped to 1, spikiness U(0.04, 0.24), 10-17 vertices, a warp that the
tile shares, area over 140 px, overlap up to 0.15 and N(30 d + 20, 40) nuclei, 0-256, in 460x460. Ours: ids are kept,
that number is of 256x256 and d (how crowded a tile is) is drawn from U(0, 3) where no count is asked, counts below 0
are mirrored and not cut, so that few tiles are empty, and there are two further kinds of nucleus. Spikiness is
U(0.02, 0.10): annotated nuclei of MoNuSeg's training set have a median solidity of 0.957, outlines with Hou's 0.945
and with ours 0.957 (`bench/stain_constants.py`). configs/masks/hou2019.yaml has what is published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from factory.geometry.fields import FloatMap, nodes, noise, spline
from factory.geometry.outlines import OutlineConfig, Outlines, draw_outlines
from factory.masks.allocate import Scores, check
from factory.masks.base import MaskGenerator
from factory.masks.cells.layout_fit import fit_layouts
from factory.masks.cells.nuclei_config import Layout, NucleiConfig, NucleusType
from factory.masks.cells.placement import Cells, Population, too_coarse
from factory.masks.cells.type_fit import fit_types
from factory.masks.quantiles import whole_counts
from factory.plan.class_shares import has_types
from factory.plan.request import Request
from manifests.labels import NUCLEUS_LOOKS, LabelScheme, get_scheme
from manifests.tile import Tile

_PACKING = 0.5
"""Largest share of a tile that nuclei of mean size can cover before some do not fit; measured."""
_TIGHTEST = 0.65
"""Largest share that nuclei of the smallest bias can cover (some overlap, some shrink further); measured."""
_SMALLEST_BIAS = 0.5
"""Smallest radii of a crowded tile, as a factor on the configured bias."""
_HOU_AREA_MM2 = (256 * 0.25e-3) ** 2
_PER_CROWDING, _UNCROWDED = 30.0, 20.0
"""Nuclei of a tile of that area: `_PER_CROWDING` d + `_UNCROWDED` (Hou 2019)."""
_LOOSE_UP_TO = 0.31
_FORCED = 2.05
"""Of nuclei that cover a share c of a tile, `_FORCED` (c - `_LOOSE_UP_TO`) touch though none shall; measured."""
_JITTER = 0.05
"""Standard deviation of the logarithm of a tile's density round that of the layout it follows."""


class Nuclei(MaskGenerator):
    """Draws nuclei for the schemes `nuclei`, `ihc` and `nuclei_types`, and any scheme of types of nuclei given as YAML.

    In `ihc` the requested share of them is positive, and types have the requested shares of the cells, exactly.
    """

    schemes = ("nuclei", "ihc", "nuclei_types", "*")
    Config = NucleiConfig
    config: NucleiConfig

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        reason = self._other_scheme(request) or check(request)
        reason = reason or too_coarse([outline for outline, _ in self._kinds(request)], request.mpp)
        if reason:
            return reason
        if request.fractions is not None:
            return "fractions: nuclei have no requested area, ask for cells"
        most = self.capacity(request)
        if request.cells is not None and request.cells > most:
            return f"cells: {request.cells} do not fit into {request.height}x{request.width}, at most {most} do"
        if request.tps is not None and (request.cells == 0 or most == 0):
            return f"tps: {request.tps:g} is asked of a tile without cells"
        if request.cell_fractions is not None and (request.cells == 0 or most == 0):
            return "shares of cells: are asked of a tile without cells"
        if request.cells is None and self._asked(request)[0] > most:
            return self._too_dense(request, "at least", self._asked(request)[0])
        return None

    def _other_scheme(self, request: Request) -> str | None:
        """Return why a scheme is none of nuclei on a background, or None."""
        scheme = request.scheme
        if scheme.name in self.schemes:
            return None
        nuclear = scheme.ids("nucleus")
        looks = [scheme.classes[label].appearance for label in nuclear]
        if len(nuclear) + 1 == len(scheme) and all(look in NUCLEUS_LOOKS for look in looks):
            return None
        return (
            f"scheme: nuclei draws {', '.join(self.schemes[:-1])} and schemes of a background and types of nuclei "
            f"(role nucleus, appearance {', '.join(NUCLEUS_LOOKS)}), got {scheme.name}"
        )

    def caution(self, request: Request) -> str | None:
        """Return what some tiles of a request will lack of the config, or None. See `Cautions`."""
        largest = self._asked(request)[1]
        if request.cells is not None or largest <= self.capacity(request):
            return None
        return f"{self._too_dense(request, 'up to', largest)}; denser tiles get as many as fit"

    def capacity(self, request: Request) -> int:
        """Return the largest number of nuclei that fit a tile, each as small as `_bias` and its kind allow."""
        area_um2 = request.height * request.width * request.mpp**2
        return int(area_um2 * _TIGHTEST / self._mean_area_um2(request, self._least_bias()))

    def _asked(self, request: Request) -> tuple[int, int]:
        """Count the nuclei of the sparsest and of the densest tile by the config, without random deviations."""
        area_mm2 = request.height * request.width * request.mpp**2 * 1e-6
        crowded = [(_PER_CROWDING * crowding + _UNCROWDED) / _HOU_AREA_MM2 for crowding in self.config.crowding]
        densities = []
        for layout in self.config.layouts or (Layout(),):
            densities += crowded if layout.density_per_mm2 is None else [layout.density_per_mm2]
        return round(min(densities) * area_mm2), round(max(densities) * area_mm2)

    def _too_dense(self, request: Request, how: str, asked: int) -> str:
        """Explain that `asked` nuclei do not fit, and which value of the config would."""
        most = self.capacity(request)
        per_mm2 = most / (request.height * request.width * request.mpp**2 * 1e-6)
        field, fits = "crowding", (per_mm2 * _HOU_AREA_MM2 - _UNCROWDED) / _PER_CROWDING
        if any(layout.density_per_mm2 is not None for layout in self.config.layouts):
            field, fits = "layouts: density_per_mm2", per_mm2
        remedy = f"{math.floor(fits * 100) / 100:g} does" if fits >= 0 else "smaller nuclei do"
        size = f"{request.height}x{request.width}"
        return f"masks.{field}: asks for {how} {asked} cells in {size}, at most {most} fit ({remedy})"

    def fit_tiles(self, tiles: Sequence[Tile], request: Request, typed: frozenset[str]) -> NucleiConfig:
        """Return the config whose layouts and types are like real ones; see `fit_layouts` and `fit_types`."""
        if not has_types(request.scheme):
            return fit_layouts(tiles, request, self.config, typed, lambda fitted: Nuclei(fitted).draw)
        plain = replace(request, scheme=get_scheme("nuclei"), cell_fractions=None)
        fitted = fit_layouts(tiles, plain, self.config, typed, lambda fitted: Nuclei(fitted).draw)
        return fitted if "types" in typed else fit_types(tiles, request.scheme, fitted)

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Draw the nuclei of each request from its own generator; all score fields are 0."""
        return [self._draw(request, rng) for request, rng in zip(requests, rngs, strict=True)]

    def _draw(self, request: Request, rng: np.random.Generator) -> Scores:
        config = self.config
        height, width, mpp = request.height, request.width, request.mpp
        crowding = float(rng.uniform(*config.crowding))
        deviates = float(rng.normal()), float(rng.normal())
        layout = _pick(config.layouts, request, rng)
        count = self._count(request, layout, crowding, deviates[0])
        bias = self._bias(request, count, layout, crowding, deviates[1])
        warp = float(rng.uniform(1.0, config.warp))
        touching = config.touching if layout.touching is None else layout.touching
        if has_types(request.scheme):
            return self._draw_types(request, rng, count, bias, warp, touching)
        kinds = rng.choice(3, count, p=np.array(config.shares) / sum(config.shares))
        sizes = np.bincount(kinds, minlength=3)
        drawn = [
            draw_outlines(rng, int(n), mpp, outline, bias, warp)
            for n, outline in zip(sizes, (config.tumour, config.lymphocyte, config.spindle), strict=True)
        ]
        outlines = _shuffled(drawn, rng)
        grouped = _grouped(touching, float(outlines.areas_px.sum()) / (height * width))
        cells = Cells(
            populations=(Population("nucleus", outlines, (0,), (0,), room=config.room, touching=grouped),),
            smallest_px=max(4.0, 0.5 * config.tumour.smallest_um2 / mpp**2),
            overlap=config.overlap,
            attraction=self._attraction(rng, height, width, mpp),
            rank=self._rank(rng, height, width, mpp) if request.scheme.ids("tumour_positive") else None,
        )
        empty = np.broadcast_to(np.float32(0), (len(request.scheme), height, width))
        fractions = (1.0,) + (0.0,) * (len(request.scheme) - 1)
        return Scores(empty, fractions, tps=float(rng.uniform()), cells=cells)

    def _draw_types(
        self, request: Request, rng: np.random.Generator, count: int, bias: float, warp: float, touching: float
    ) -> Scores:
        """Draw nuclei of several types, each in the part of the tissue where it is common."""
        scheme, mpp, shape = request.scheme, request.mpp, (request.height, request.width)
        labels = scheme.ids("nucleus")
        kinds = [self._type_of(scheme, label) for label in labels]
        asked = request.cell_fractions or (None,) * len(scheme)
        usual = [kind.weight * (0.3 + 1.4 * rng.random()) for kind in kinds]
        counts = whole_counts([asked[label] for label in labels], usual, count)
        drawn = [
            draw_outlines(rng, int(n), mpp, kind.outline, bias, warp) for n, kind in zip(counts, kinds, strict=True)
        ]
        cover = sum(float(outlines.areas_px.sum()) for outlines in drawn) / (shape[0] * shape[1])
        grouped = _grouped(touching, cover)
        places, flow, step = self._zones(rng, *shape, mpp)
        populations = tuple(
            Population(
                scheme.names[label], outlines, (0,), (0,), room=self.config.room, touching=grouped,
                along=scheme.classes[label].appearance == "connective", label=label,
                attraction=places[scheme.classes[label].appearance],
            )
            for label, outlines in zip(labels, drawn, strict=True)
        )  # fmt: skip
        smallest = min(kind.outline.smallest_um2 for kind in kinds)
        cells = Cells(populations, max(4.0, 0.5 * smallest / mpp**2), self.config.overlap, flow=flow, flow_step_px=step)
        empty = np.broadcast_to(np.float32(0), (len(scheme), *shape))
        return Scores(empty, (1.0,) + (0.0,) * (len(scheme) - 1), cells=cells)

    def _zones(
        self, rng: np.random.Generator, height: int, width: int, mpp: float
    ) -> tuple[dict[str, FloatMap], FloatMap, float]:
        """Draw where each type of nucleus is common, and the direction of the fibres.

        Returns:
            Probability that a site is accepted, float32 [H, W], by appearance; unit vectors (y, x), float32 [h, w, 2]
            on nodes some pixels apart; and that distance.
        """
        config, step_px = self.config, 2.0 / mpp
        shape = nodes(height, step_px), nodes(width, step_px)
        zones = [noise(rng, *shape, config.zone_um / 2.0) for _ in range(2)]
        tumour, gland = (spline(zone, height, width, step_px) for zone in zones)
        crowd, decay = (_smooth(rng, height, width, mpp, config.cluster_um) for _ in range(2))
        half = np.float32(0.5)
        fields = {
            "neoplastic": tumour,
            "epithelial": np.minimum(gland, -tumour),
            "connective": -np.maximum(tumour, gland),
            "inflammatory": crowd - half * tumour,
            "dead": decay + half * tumour,
        }
        floor = np.float32(1.05 - config.clusters)
        places = {name: np.clip(field * np.float32(2.0) + half, floor, np.float32(1)) for name, field in fields.items()}
        down, right = np.gradient(np.maximum(*zones))
        norm = np.sqrt(down * down + right * right) + np.float32(1e-9)
        return places, np.stack([right / norm, -down / norm], axis=-1).astype(np.float32), step_px

    def _type_of(self, scheme: LabelScheme, label: int) -> NucleusType:
        kind: NucleusType = getattr(self.config.types, scheme.classes[label].appearance)
        return kind

    def _kinds(self, request: Request) -> list[tuple[OutlineConfig, float]]:
        """Outlines of the kinds of nucleus, with their weights; of types, as many as are asked for."""
        config, scheme = self.config, request.scheme
        if not has_types(scheme):
            return list(zip((config.tumour, config.lymphocyte, config.spindle), config.shares, strict=True))
        labels = scheme.ids("nucleus")
        kinds = [self._type_of(scheme, label) for label in labels]
        asked = request.cell_fractions or (None,) * len(scheme)
        dealt = whole_counts([asked[label] for label in labels], [kind.weight for kind in kinds], 1_000_000)
        return [(kind.outline, float(n)) for kind, n in zip(kinds, dealt, strict=True)]

    def _count(self, request: Request, layout: Layout, crowding: float, deviate: float) -> int:
        """Return the requested count, the layout's or Hou's; at least 1 where a TPS is requested."""
        if request.cells is not None:
            return request.cells
        area_mm2 = request.height * request.width * request.mpp**2 * 1e-6
        if layout.density_per_mm2 is None:
            wanted = (
                abs(_PER_CROWDING * crowding + _UNCROWDED + self.config.count_spread * deviate)
                * area_mm2
                / _HOU_AREA_MM2
            )
        else:
            wanted = layout.density_per_mm2 * math.exp(_JITTER * deviate) * area_mm2
        is_divided = request.tps is not None or request.cell_fractions is not None
        return min(max(round(wanted), 1 if is_divided else 0), self.capacity(request))

    def _bias(self, request: Request, count: int, layout: Layout, crowding: float, deviate: float) -> float:
        """Return the factor on the radii: the layout's or Hou's, limited so that the nuclei fit."""
        drawn = layout.bias or self.config.bias + crowding / 8.0 + self.config.bias_spread * deviate
        area_um2 = request.height * request.width * request.mpp**2
        largest = math.sqrt(area_um2 * _PACKING / (max(count, 1) * self._mean_area_um2(request)))
        return max(min(drawn, largest), self._least_bias())

    def _least_bias(self) -> float:
        biases = [layout.bias for layout in self.config.layouts if layout.bias is not None]
        return min([_SMALLEST_BIAS * self.config.bias, *biases])

    def _mean_area_um2(self, request: Request, bias: float = 1.0) -> float:
        outlines, weights = zip(*self._kinds(request), strict=True)
        return float(np.average([outline.mean_area_at_um2(bias) for outline in outlines], weights=weights))

    def _attraction(self, rng: np.random.Generator, height: int, width: int, mpp: float) -> FloatMap | None:
        """Draw the probability that a site is accepted, high in clusters; None (1 everywhere) without clusters."""
        if self.config.clusters == 0.0:
            return None
        field = _smooth(rng, height, width, mpp, self.config.cluster_um)
        floor = np.float32(1.0 - self.config.clusters)
        attraction: FloatMap = np.clip(
            field * np.float32(2.0) + np.float32(0.5), floor + np.float32(0.05), np.float32(1)
        )
        return attraction

    def _rank(self, rng: np.random.Generator, height: int, width: int, mpp: float) -> FloatMap:
        """Draw the field whose highest cells become positive: patches, with noise of about a cell's size."""
        own = np.float32(self.config.positive_noise)
        patches = _smooth(rng, height, width, mpp, self.config.positive_um)
        return patches * (np.float32(1) - own) + _smooth(rng, height, width, mpp, 4.0) * own


def _pick(layouts: Sequence[Layout], request: Request, rng: np.random.Generator) -> Layout:
    """Choose a random layout, from the quarter closest to a requested density; an empty one where there are none."""
    if not layouts:
        return Layout()
    if request.cells is not None:
        density = request.cells / (request.height * request.width * request.mpp**2 * 1e-6)
        gaps = [abs((layout.density_per_mm2 or density) - density) for layout in layouts]
        layouts = [layouts[place] for place in np.argsort(gaps, kind="stable")[: -(-len(layouts) // 4)]]
    return layouts[int(rng.integers(len(layouts)))]


def _grouped(touching: float, cover: float) -> float:
    """Return the share of nuclei to place in touching groups, so that `touching` do in all; they cover `cover`."""
    # Of the 1 - g that are in no group a share a (1 - g) touches all the same, where a is what touches without groups.
    forced = min(_FORCED * max(cover - _LOOSE_UP_TO, 0.0), 0.45)
    if touching <= forced:
        return 0.0
    if forced < 1e-6:
        return touching
    return 1.0 - (1.0 - math.sqrt(1.0 - 4.0 * forced * (1.0 - touching))) / (2.0 * forced)


def _smooth(rng: np.random.Generator, height: int, width: int, mpp: float, scale_um: float) -> FloatMap:
    """Draw a smooth field of features `scale_um` wide at every pixel, on nodes 2 um apart."""
    coarse = noise(rng, nodes(height, 2.0 / mpp), nodes(width, 2.0 / mpp), scale_um / 2.0)
    field: FloatMap = spline(coarse, height, width, 2.0 / mpp)
    return field


def _shuffled(drawn: list[Outlines], rng: np.random.Generator) -> Outlines:
    """Join the outlines of all kinds in random order."""
    vertices = np.concatenate([part.vertices for part in drawn])
    sizes = np.concatenate([np.diff(part.offsets) for part in drawn])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    radius = np.concatenate([part.radius for part in drawn])
    return Outlines(vertices, offsets, radius).pick(rng.permutation(len(radius)))
