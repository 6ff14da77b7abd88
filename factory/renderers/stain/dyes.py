"""Dyes: stain vectors, how they vary between slides, and light passing through them.

Optical densities are natural logarithms, ``OD_c = -ln(I_c / I0_c) = sum_s density_s * vector_s,c`` (Beer-Lambert, as
in Ruifrok and Johnston 2001). Vectors are RGB of unit length, so a density is the length of its dye's OD vector.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator


def _unit(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    """Scale to unit length; a dye absorbs, so no component is negative."""
    length = math.sqrt(sum(v * v for v in vector))
    if length == 0 or min(vector) < 0:
        raise ValueError("expected three densities of 0 or more, not all 0")
    if abs(length - 1) < 1e-5:
        return vector  # scaled and rounded before: a saved config reads back equal
    red, green, blue = (round(v / length, 6) for v in vector)
    return red, green, blue


Vector = Annotated[tuple[float, float, float], AfterValidator(_unit)]
"""RGB optical density of a dye, scaled to unit length."""

# Means over 55 H&E images and 31 immunostains (`bench/stain_constants.py`); for scanned slides they fit better than
# what Ruifrok and Johnston measured with a camera. EOSIN is none of them: what is measured as eosin has haematoxylin in
# it, which the cytoplasm gets anyway; see `HePreparation`. RED_CELL is a guess.
HAEMATOXYLIN_HE = _unit((0.598, 0.698, 0.393))
EOSIN = _unit((0.2, 0.86, 0.46))
HAEMATOXYLIN_IHC = _unit((0.859, 0.49, 0.151))
DAB = _unit((0.311, 0.536, 0.785))
RED_CELL = _unit((0.08, 0.78, 0.62))


def vary_vector(vector: tuple[float, float, float], spread: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Vary a stain vector by normal deviates of size `spread` on each component; the result has unit length."""
    # at most 1.5 standard deviations: the tails of three components at once would be another colour
    deviates = np.clip(rng.normal(0.0, 1.0, 3), -1.5, 1.5) * spread
    varied: npt.NDArray[np.float64] = np.maximum(np.asarray(vector) + deviates, 0.01)
    varied /= np.linalg.norm(varied)
    return varied


def optical_density(image: npt.NDArray[np.uint8], background: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Optical density of every pixel, float32 [..., 3]; 0 where it is as bright as the background or brighter."""
    levels = np.arange(256, dtype=np.float64)[:, None]
    table = np.maximum(np.log((np.asarray(background)[None] + 1.0) / (levels + 1.0)), 0.0).astype(np.float32)
    return np.stack([table[image[..., c], c] for c in range(3)], axis=-1)


def densities(od: npt.NDArray[np.floating], vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Least-squares dye densities [..., S] of optical densities [..., 3] for stain vectors [S, 3]."""
    inverse = np.linalg.pinv(np.asarray(vectors, np.float64)).astype(np.float32)
    return np.asarray(od @ inverse, np.float32)
