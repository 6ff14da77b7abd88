"""Red cells: bright discs without a nucleus, in groups, in stroma and away from every nucleus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.cells import MIXED, STROMA


def scatter_red_cells(
    kind: npt.NDArray[np.uint8],
    nucleus: npt.NDArray[np.int32],
    *,
    per_mm2: float,
    diameter_px: float,
    mpp: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Draw groups of red cells; uint8 [H, W], 0 = none, 255 = the full thickness of a cell."""
    height, width = kind.shape
    red = np.zeros(kind.shape, np.uint8)
    expected = per_mm2 * height * width * mpp * mpp * 1e-6
    groups = int(rng.poisson(expected / 6))
    sizes = 1 + rng.geometric(1 / 5.5, groups)
    centre = np.repeat(rng.random((groups, 2)) * (height, width), sizes, axis=0)
    # a group is a cut capillary: longer than wide
    turn = np.repeat(rng.uniform(0, np.pi, groups), sizes)
    reach = np.repeat(np.sqrt(sizes), sizes) * diameter_px * 0.55
    along, across = rng.normal(size=(2, len(centre))) * reach * ((1.6,), (0.5,)) if groups else np.zeros((2, 0))
    y = centre[:, 0] + along * np.sin(turn) + across * np.cos(turn)
    x = centre[:, 1] + along * np.cos(turn) - across * np.sin(turn)
    radius = diameter_px / 2 * rng.uniform(0.8, 1.1, len(centre))
    squash = rng.uniform(0.7, 1.0, len(centre))
    turn, phase = rng.uniform(0, 2 * np.pi, (2, len(centre)))
    # cells of a group lie at about the same depth; some are seen from the side and look even
    tone = np.repeat(rng.uniform(0.62, 1.0, groups), sizes) * rng.uniform(0.85, 1.0, len(centre))
    dent = rng.uniform(0.0, 0.55, len(centre))
    _stamp(red, kind, nucleus, np.stack([y, x, radius, squash, turn, phase, tone, dent], axis=1))
    return red


@compiled(fastmath=True)
def _stamp(red, kind, nucleus, discs):  # type: ignore[no-untyped-def]
    """Draw biconcave, slightly bent discs where there is room: all of a disc lies in stroma and clear of nuclei."""
    for index in range(discs.shape[0]):
        y0, x0, radius, squash, turn, phase, tone, dent = discs[index]
        if not _is_free(red, kind, nucleus, y0, x0, radius):
            continue
        cosine, sine = np.cos(turn), np.sin(turn)
        for y in range(max(0, int(y0 - radius)), min(kind.shape[0], int(y0 + radius) + 2)):
            for x in range(max(0, int(x0 - radius)), min(kind.shape[1], int(x0 + radius) + 2)):
                p = (cosine * (x - x0) + sine * (y - y0)) / radius
                q = (cosine * (y - y0) - sine * (x - x0)) / (radius * squash)
                angle = np.arctan2(q, p)
                edge = 1 - 0.07 * (1 + np.cos(2 * angle + phase)) - 0.04 * (1 + np.cos(3 * angle - phase))
                far = np.sqrt(p * p + q * q) / edge
                if far < 1 and nucleus[y, x] == 0:
                    # thickest in a ring at three quarters of the radius, thin in the middle, rounded off at the rim
                    ring = 1 - dent * max(1 - (far / 0.72) ** 2, 0.0)
                    level = np.uint8(255 * tone * ring * min((1 - far) * 5 + 0.35, 1.0))
                    red[y, x] = max(red[y, x], level)


@compiled(fastmath=True)
def _is_free(red, kind, nucleus, y0, x0, radius):  # type: ignore[no-untyped-def]
    """Whether a disc and a pixel around it are stroma without nuclei, and its middle is not taken."""
    height, width = kind.shape
    if not (0 <= y0 < height and 0 <= x0 < width) or red[int(y0), int(x0)] > 0:
        return False
    reach = radius + 1
    for y in range(max(0, int(y0 - reach)), min(height, int(y0 + reach) + 2)):
        for x in range(max(0, int(x0 - reach)), min(width, int(x0 + reach) + 2)):
            taken = nucleus[y, x] > 0 or (kind[y, x] != STROMA and kind[y, x] != MIXED)
            if taken and (y - y0) ** 2 + (x - x0) ** 2 < reach * reach:
                return False
    return True
