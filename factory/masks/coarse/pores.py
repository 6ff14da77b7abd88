"""Pores: the small gaps that a threshold on brightness finds within tissue, in patches and along bent fibres."""

from __future__ import annotations

import math

import numpy as np

from factory.geometry.fields import FloatMap, noise
from factory.masks.coarse.warping import centred, look_up, product, random_turn


def pore_field(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    pore_px: float,
    patch_px: float,
    patchiness: float,
    stretch: float,
) -> FloatMap:
    """Draw the score field of pores: float32 [height, width].

    Args:
        rng: of the draw.
        height, width: in pixels.
        pore_px: width of a pore. patch_px: of the areas that are rich or poor in pores.
        patchiness: how far these areas differ at most. stretch: largest elongation of pores and patches.
    """

    def at(scale: float) -> FloatMap:
        return noise(rng, height, width, max(scale, 1.0))

    fine = at(pore_px) + at(3.0 * pore_px) * np.float32(0.3)
    patches = at(patch_px) + at(0.3 * patch_px) * np.float32(0.6)
    field = fine + patches * np.float32(patchiness * rng.random())
    drawn_out = math.sqrt(1.0 + (stretch - 1.0) * rng.random())
    along = product(np.diag([drawn_out, 1.0 / drawn_out]), random_turn(rng))
    down, right = (at(1.5 * patch_px) * np.float32(0.4 * patch_px) for _ in range(2))
    y, x = centred(height, width)
    return look_up(field, y + down, x + right, along)
