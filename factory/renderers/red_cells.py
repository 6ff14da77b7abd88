"""Red cells: bright discs without a nucleus, in groups, in stroma and away from every nucleus."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from factory.renderers.cells import MIXED, STROMA


def scatter_red_cells(
    kind: npt.NDArray[np.uint8],
    distance: npt.NDArray[np.float32],
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
    squash = rng.uniform(0.75, 1.0, len(centre))
    _stamp(red, kind, distance, nucleus, np.stack([y, x, radius, squash, rng.uniform(0, np.pi, len(centre))], axis=1))
    return red


@numba.njit(cache=True, nogil=True, fastmath=True)
def _stamp(red, kind, distance, nucleus, discs):  # type: ignore[no-untyped-def]
    """Draw discs with a paler middle where there is room: the whole disc must lie in stroma and clear of nuclei."""
    height, width = kind.shape
    for index in range(discs.shape[0]):
        y0, x0, radius, squash, turn = discs[index]
        v, u = int(np.floor(y0)), int(np.floor(x0))
        if not (0 <= v < height and 0 <= u < width) or red[v, u] > 0 or nucleus[v, u] > 0:
            continue
        if distance[v, u] < radius + 1 or (kind[v, u] != STROMA and kind[v, u] != MIXED):
            continue
        cosine, sine = np.cos(turn), np.sin(turn)
        for y in range(max(0, int(y0 - radius)), min(height, int(y0 + radius) + 2)):
            for x in range(max(0, int(x0 - radius)), min(width, int(x0 + radius) + 2)):
                if kind[y, x] != STROMA and kind[y, x] != MIXED:
                    continue
                p = (cosine * (x - x0) + sine * (y - y0)) / radius
                q = (cosine * (y - y0) - sine * (x - x0)) / (radius * squash)
                squared = p * p + q * q
                if squared < 1:
                    red[y, x] = max(red[y, x], np.uint8(255 * (0.78 + 0.44 * squared * (1 - 0.5 * squared))))
