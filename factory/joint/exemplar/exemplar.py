"""The joint part `exemplar`: image and labels are copied together out of a bank of real tissue.

A tile whose scheme has nuclei gets real ones with their own outlines, as many, where and of the classes that a drawn
mask has them. A tile of regions is quilted of patches like a drawn mask, and patches are exchanged until the shares of
its classes are as asked. So labels are as right as the annotations that the bank was collected from. With ``ground:
real`` tiles are whole real ones with another marker (`factory.joint.exemplar.real_tiles`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.bank.bank import Bank, open_bank
from factory.bank.collect import collect_once
from factory.bank.shipped import bank_path
from factory.core.choices import Ground
from factory.core.config import Config
from factory.core.resolutions import LEARNT_MPP
from factory.core.seeds import Stream, generator
from factory.joint.exemplar import real_tiles
from factory.joint.exemplar.nuclei import FEWEST_OWN, GRID, copy_nuclei
from factory.joint.exemplar.regions import copy_regions, instances_of
from factory.joint.exemplar.targets import Holdings, fitness, fitted_shares, holdings_of, targets_of, why_unmet
from factory.masks.allocate import Unmet, allocate
from factory.masks.base import MaskGenerator
from factory.plan.request import Request
from factory.renderers.base import RealPixels
from factory.renderers.exemplar.quilting import Grid
from manifests.errors import UserError
from manifests.tile import Tile

_Made = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], Tile, tuple[str, ...]]
"""Image, origin, labels and slides."""


class CopyConfig(Config):
    """Which bank, and how tiles are copied out of it.

    Attributes:
        weights: the bank: a file of `factory train exemplar`, or the folder of its run. "starter", the default, has no
            annotations to copy and is refused.
        weights_sha256: filled in when a data set is planned; another bank under that name is then refused.
        ground: ``quilted`` of pieces, or ``real``, whole windows of real images on which the marker is painted.
        masks: ``name`` and values of the mask generator that draws layouts; filled in where nothing is named.
        classes: filled in with the classes whose shares are asked.
        look: number of the slide that tiles are copied from, or ``random``, another for every tile.
        patch_px: side of the patches of regions, a multiple of 24. Larger ones keep more of the architecture of the
            tissue, smaller ones follow the layout more closely.
        attempts: layouts, each of another slide, before a row is given up.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: str = "starter"
    weights_sha256: str | None = None
    ground: Ground = "quilted"
    masks: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    look: Literal["random"] | int = "random"
    patch_px: int = Field(default=72, ge=48, le=240, multiple_of=24)
    attempts: int = Field(default=8, ge=1, le=1000)


@dataclass(frozen=True, eq=False)
class Copied:
    """A tile of copied pixels.

    Attributes:
        image: uint8 [H, W, 3]. tile: its labels. origin: int64 [H, W], the pixel of the bank that each was copied from.
        attempts: layouts that were drawn. sources: whose pixels they are.
    """

    image: npt.NDArray[np.uint8]
    tile: Tile
    origin: npt.NDArray[np.int64]
    attempts: int
    sources: RealPixels


class Exemplar:
    """Copies image and labels of a tile."""

    Config = CopyConfig

    def __init__(self, config: CopyConfig, device: str = "cpu") -> None:
        self.config, self.device = config, device

    @cached_property
    def bank(self) -> Bank:
        """The bank, mapped into memory.

        Raises:
            UserError: when it is missing, damaged, or not the one of the sha256.
        """
        if self.config.weights == "starter":  # that one has no annotations to copy
            raise UserError(
                "--joint exemplar: expected a bank of real tissue, got none. Name one of factory train exemplar "
                "(--weights FOLDER), or add --like DATA."
            )
        path = bank_path(self.config.weights)
        bank = open_bank(path)
        bank.card.refuse_other(path, self.config.weights_sha256, "make the data set anew")
        return bank

    @classmethod
    def fit_dataset(cls, root: Path) -> dict[str, str]:
        """Collect the bank of a data set, and keep it under the digest of its manifest; see `FitsDataset`."""
        return {"weights": str(collect_once(root))}

    @property
    def has_nuclei(self) -> bool:
        """Whether tiles are of nuclei that are set into a ground; else they are of regions."""
        return bool(self.bank.scheme.ids("nucleus"))

    @property
    def _look(self) -> int | None:
        """Number of the slide that tiles are copied from; None where any is."""
        return None if self.config.look == "random" else int(self.config.look)

    @property
    def _grid(self) -> Grid:
        return GRID if self.has_nuclei else Grid(self.config.patch_px, self.config.patch_px // 3)

    @property
    def _held(self) -> Holdings:
        return holdings_of(self.bank, self._grid.patch)

    def refusal(self, request: Request) -> str | None:
        """Return why the bank can never give what is asked, or None."""
        bank, config = self.bank, self.config
        if abs(request.mpp - bank.mpp) > LEARNT_MPP * bank.mpp:
            return f"mpp: the bank is of {bank.mpp:g} um per pixel, got {request.mpp:g}"
        if config.look != "random" and not 0 <= config.look < len(bank.slides):
            return f"joint.look: expected 0 to {len(bank.slides) - 1}, or random, got {config.look}"
        if config.ground == "real":
            return real_tiles.refusal(bank, self._look, request)
        smallest = int(bank.pages[:, 1:3].min())
        if smallest < self._grid.patch:
            return (
                f"joint.patch_px: expected at most {smallest}, the smallest image of the bank, got {self._grid.patch}"
            )
        if self.has_nuclei:
            return self._refusal_of_nuclei(request)
        if request.cells is not None:
            return f"cells: tiles of scheme {bank.scheme.name} are copied by area and not by cells, leave --cells out"
        if request.tps is not None and bank.scheme.tps_basis == "cells":
            return f"tps: scheme {bank.scheme.name} asks for TPS by cells and has no class of nuclei"
        targets = targets_of(request, config.classes)
        if fitted_shares(np.ones(len(bank.scheme)), np.ones(len(bank.scheme), np.bool_), targets) is None:
            return f"{', '.join(targets.names)}: cannot be met together"
        if not self._allowed(fitness(bank, self._grid.patch, targets)).any():
            asked = ", ".join(targets.names) or "tiles"
            return f"{asked}: the bank cannot give it ({why_unmet(bank, self._grid.patch, targets)})"
        return None

    def _refusal_of_nuclei(self, request: Request) -> str | None:
        held = self._held
        if not self._allowed(held.patches.astype(np.float64)).any():
            return "tiles: the bank holds no patch without unlabelled pixels"
        for label in self._classes_of_nuclei(request):
            if not held.nuclei[:, label].any():
                there = ", ".join(
                    f"{count} of {name}" for name, count in self.bank.card.fields["nuclei"].items() if count
                )
                return f"tps: the bank holds no nucleus of class {self.bank.scheme.names[label]} ({there})"
        return None

    def _classes_of_nuclei(self, request: Request) -> list[int]:
        """Classes of nuclei without which a request cannot be met."""
        scheme = request.scheme
        positive = [label for label in scheme.ids("nucleus") if label in scheme.ids("tumour_positive")]
        others = [label for label in scheme.ids("nucleus") if label not in positive]
        if request.tps is None or request.cells == 0:
            return [] if positive else others[:1]
        return [*(positive[:1] if request.tps > 0 else ()), *(others[:1] if request.tps < 1 else ())]

    def draw(self, request: Request, seed: int, masks: MaskGenerator | None) -> Copied | None:
        """Copy the tile of a row by its seed; None where no attempt meets the request.

        Args:
            request: of the row. seed: of the row. masks: draws layouts; None for ground that is real.
        """
        if masks is None:
            made = real_tiles.real_tile(self.bank, self._look, request, seed)
            return Copied(made.image, made.tile, made.origin, 1, self._sources((made.slide,)))
        for attempt in range(self.config.attempts):
            rng = generator(seed, Stream.RENDER, attempt)
            draws = generator(seed, Stream.MASK, attempt), generator(seed, Stream.TIES, attempt)
            try:
                copied = (self._nuclei if self.has_nuclei else self._regions)(request, masks, draws, rng)
            except Unmet:
                continue
            if copied is not None:
                image, origin, tile, slides = copied
                return Copied(image, tile, origin, attempt + 1, self._sources(slides))
        return None

    def _regions(
        self,
        request: Request,
        masks: MaskGenerator,
        draws: tuple[np.random.Generator, np.random.Generator],
        rng: np.random.Generator,
    ) -> _Made | None:
        bank, targets = self.bank, targets_of(request, self.config.classes)
        slide = _pick(self._allowed(fitness(bank, self._grid.patch, targets)), rng)
        held = self._held.most[slide] > 0
        shares = fitted_shares(self._shares_of_a_page(slide, rng), held, targets)
        if shares is None:
            return None
        layout = _layout(masks, _asking(request, tuple(shares.tolist())), draws)
        copy = copy_regions(bank, slide, layout.semantic, self._grid, targets, request.mpp, rng)
        if copy is None:
            return None
        tile = Tile(copy.semantic, instances_of(bank, copy.origin), request.mpp, bank.scheme)
        return copy.image, copy.origin, tile, (bank.slides[slide],)

    def _nuclei(
        self,
        request: Request,
        masks: MaskGenerator,
        draws: tuple[np.random.Generator, np.random.Generator],
        rng: np.random.Generator,
    ) -> _Made | None:
        bank, held = self.bank, self._held
        kinds = list(bank.scheme.ids("nucleus"))
        there = held.nuclei[:, kinds].sum(1) * (held.patches > 0)
        needed = self._classes_of_nuclei(request)
        enough = np.minimum(held.nuclei[:, needed] / FEWEST_OWN, 1.0).min(1, initial=1.0)
        slide = _pick(self._allowed(np.where(there > 0, np.maximum(enough, 0.05), 0.0)), rng)
        tps = request.tps
        if tps is None and bank.scheme.ids("tumour_positive"):
            positive = held.nuclei[slide, list(bank.scheme.ids("tumour_positive"))].sum()
            tps = float(positive / max(held.nuclei[slide, kinds].sum(), 1))
        layout = _layout(masks, _asking(request, None, tps=tps, cells=request.cells), draws)
        made = copy_nuclei(bank, slide, layout.semantic, layout.instance, request.mpp, rng)
        if made is None:
            return None
        copy, instance = made
        slides = {bank.slides[slide], *bank.slides_of(copy.origin[instance > 0])}
        tile = Tile(copy.semantic, instance, request.mpp, bank.scheme)
        return copy.image, copy.origin, tile, tuple(sorted(slides))

    def offer(self, request: Request) -> str:
        """Say what the bank holds of what a request asks."""
        if self.has_nuclei:
            held = self.bank.card.fields["nuclei"]
            return f"the bank holds {', '.join(f'{count} of {name}' for name, count in held.items())}"
        return why_unmet(self.bank, self._grid.patch, targets_of(request, self.config.classes)) or "nothing is asked"

    def _allowed(self, fit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Fitness of the slides that may be copied from, 0 for all others."""
        return fit if self._look is None else np.where(np.arange(len(fit)) == self._look, fit, 0.0)

    def _shares_of_a_page(self, slide: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Shares of the classes on one of the pages of a slide, float64 [classes]."""
        pages = np.flatnonzero(self.bank.pages[:, 3] == slide)
        pixels, _ = self.bank.page(int(pages[int(rng.integers(len(pages)))]))
        counts = np.bincount(self.bank.semantic[pixels], minlength=256)[: len(self.bank.scheme)]
        return np.asarray(counts / max(int(counts.sum()), 1))

    def _sources(self, slides: tuple[str, ...]) -> RealPixels:
        licence_of: Mapping[str, str] = self.bank.card.fields["licence_of_slide"]
        return RealPixels(slides, tuple(sorted({licence_of[slide] for slide in slides})))


def _pick(fit: npt.NDArray[np.float64], rng: np.random.Generator) -> int:
    """Draw a slide, the fitter the likelier."""
    bounds = np.cumsum(fit**2)
    return int((rng.random() * bounds[-1] >= bounds).sum())


def _asking(
    request: Request, fractions: tuple[float, ...] | None, *, tps: float | None = None, cells: int | None = None
) -> Request:
    """The request for a layout of the same size."""
    return Request(request.height, request.width, request.mpp, request.scheme, tps, None, cells, fractions)


def _layout(masks: MaskGenerator, request: Request, draws: tuple[np.random.Generator, np.random.Generator]) -> Tile:
    """Draw a layout.

    Raises:
        Unmet: when this draw cannot meet the request.
    """
    (scores,) = masks.draw([request], [draws[0]])
    return allocate(scores, request, draws[1]).tile
