"""Stain appearance of one tile: every per-slide quantity, drawn from the ranges or taken from a fitted slide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from factory.renderers.stain.config import Preparation, Slide, StainConfig
from factory.renderers.stain.dyes import RED_CELL, vary_vector
from manifests.labels import LabelScheme

Staining = Literal["he", "membrane_dab", "nuclear_dab"]


PIXEL_BLUR_PX = 0.3
"""Standard deviation of a pixel's own aperture, 1 / sqrt(12)."""


@dataclass(frozen=True)
class StainAppearance:
    """Stain and scanner of one tile. Units as in `config`.

    `vectors` is float64 [4, 3]: haematoxylin, eosin, DAB, red cells, in RGB.
    """

    staining: Staining
    vectors: npt.NDArray[np.float64]
    background: npt.NDArray[np.float64]
    nucleus: float
    nucleus_spread: float
    tissue: float
    eosin: float
    haze: float
    dab: float
    blush: float
    chromatin: float
    texture: float
    retraction: float
    blur_px: float
    sharpen: float
    grain: float
    jpeg_quality: int


def staining_of(config: StainConfig, scheme: LabelScheme) -> Staining:
    """Return the staining of a config for a label scheme; ``auto`` follows the roles of its classes."""
    if config.stain != "auto":
        return config.stain
    positive = scheme.ids("tumour_positive")
    if not positive:
        return "he"
    nuclear = {*scheme.ids("nucleus"), *scheme.ids("nuclear_marker")}
    return "nuclear_dab" if nuclear & set(positive) else "membrane_dab"


def draw_appearance(config: StainConfig, staining: Staining, mpp: float, rng: np.random.Generator) -> StainAppearance:
    """Draw the appearance of a tile at a resolution of `mpp` micrometres per pixel."""
    sharpen = rng.uniform(*config.scanner.sharpen)
    if config.slides:
        slide = config.slides[int(rng.integers(len(config.slides)))]
        return _from_slide(config, slide, staining, rng)
    preparation = config.he if staining == "he" else config.ihc
    scanner = config.scanner
    dark, bright = (np.asarray(colour) for colour in config.background)
    warmth = np.array([1.0, 0.3, -1.0]) * rng.normal(0, config.tint)
    background = dark + (bright - dark) * rng.uniform() + warmth + rng.normal(0, config.tint / 4, 3)
    nucleus = rng.uniform(*preparation.nucleus)
    return StainAppearance(
        staining=staining,
        vectors=_vectors(preparation, staining, config.hue_spread, rng),
        background=np.clip(background, 128, 255),
        nucleus=nucleus,
        nucleus_spread=rng.uniform(*preparation.nucleus_spread),
        tissue=min(rng.uniform(*preparation.tissue), preparation.most_tissue * nucleus),
        eosin=rng.uniform(*preparation.eosin_density),
        haze=rng.uniform(*preparation.haze) if staining != "he" else 0.0,
        dab=rng.uniform(*preparation.dab_density),
        blush=rng.uniform(*preparation.blush),
        chromatin=rng.uniform(*preparation.chromatin),
        texture=rng.uniform(*preparation.texture),
        retraction=rng.uniform(*preparation.retraction),
        blur_px=math.hypot(rng.uniform(*scanner.blur_um) / mpp, PIXEL_BLUR_PX),
        sharpen=sharpen,
        grain=rng.uniform(*scanner.grain),
        jpeg_quality=round(rng.uniform(*scanner.jpeg_quality)),
    )


def _from_slide(config: StainConfig, slide: Slide, staining: Staining, rng: np.random.Generator) -> StainAppearance:
    """Vary the appearance of a fitted slide a little. It was sharpened already and is not sharpened again."""
    density, strength = np.exp(rng.normal(0, config.slide_spread, 2))
    return StainAppearance(
        staining=staining,
        vectors=_vectors(slide, staining, config.hue_spread / 3, rng),
        background=np.clip(np.asarray(slide.background) + rng.normal(0, config.tint / 3, 3), 128, 255),
        nucleus=slide.nucleus * density,
        nucleus_spread=slide.nucleus_spread,
        tissue=slide.tissue * density,
        eosin=slide.eosin_density * strength if staining == "he" else 0.0,
        haze=slide.haze * strength if staining != "he" else 0.0,
        dab=slide.dab_density * strength,
        blush=slide.blush,
        chromatin=slide.chromatin,
        texture=slide.texture,
        retraction=slide.retraction,
        blur_px=slide.blur_px,
        sharpen=0.0,
        grain=slide.grain,
        jpeg_quality=round(slide.jpeg_quality),
    )


def _vectors(
    source: Preparation | Slide, staining: Staining, spread: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    # red cells keep their own colour under eosin; without it they are the pale brown of haemoglobin
    dyes = (source.haematoxylin, source.eosin, source.dab, RED_CELL if staining == "he" else source.dab)
    return np.stack([vary_vector(dye, spread, rng) for dye in dyes])
