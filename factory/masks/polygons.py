"""Tissue regions as smooth, polygon-like shapes of several scales: tumour, inflammation, air. Without weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factory.core.config import Config
from factory.masks.allocate import Scores, check
from factory.masks.base import MaskGenerator
from factory.masks.regions import RegionsConfig, draw_regions, region_fields, region_fractions
from factory.plan.request import Request


class PolygonsConfig(Config):
    """Configuration of `Polygons`: the tissue."""

    regions: RegionsConfig = RegionsConfig()


class Polygons(MaskGenerator):
    """Draws region masks without cells, for `pdl1`, `ki67`, `tissue` and any scheme of regions given as YAML.

    ``"*"`` in `schemes` stands for the schemes that are not shipped; `refusal` says which of them are not regions.
    """

    schemes = ("pdl1", "ki67", "tissue", "*")
    Config = PolygonsConfig
    config: PolygonsConfig

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        scheme = request.scheme
        if scheme.ids("nucleus") or "cell" in scheme.names:
            return f"scheme: polygons draws regions and {scheme.name} has cells, use nuclei or ihc"
        if request.cells:
            return f"cells: polygons draws none, got {request.cells}, use ihc"
        return check(request)

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Draw the score fields of each request from its own generator."""
        return [self._draw(request, rng) for request, rng in zip(requests, rngs, strict=True)]

    def _draw(self, request: Request, rng: np.random.Generator) -> Scores:
        scheme, height, width = request.scheme, request.height, request.width
        regions = draw_regions(rng, height, width, request.mpp, self.config.regions, scheme)
        fractions = region_fractions(rng, scheme)
        fields = region_fields(regions, rng, scheme, height, width)
        return Scores(fields, fractions)
