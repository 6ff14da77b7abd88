"""Nuclei for masks that label none: regions alone would render as empty sheets of colour.

Each kind of tissue gets its own density, size and shape on a jittered grid: crowded round lymphocytes, larger
epithelial nuclei, sparse spindle cells. They are drawn like labelled ones and stand in no mask.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.cells import IMMUNE, MIXED, POSITIVE, STROMA, TUMOUR

# Per kind of tissue: spacing of the grid (um), share of its places taken, radius (um), its spread, aspect ratio.
_LAYOUT = {
    STROMA: (13.0, 0.55, 2.6, 0.25, 2.6),
    IMMUNE: (6.6, 0.85, 2.55, 0.12, 1.1),
    TUMOUR: (11.0, 0.92, 3.9, 0.18, 1.3),
    POSITIVE: (11.0, 0.92, 3.9, 0.18, 1.3),
}


def scatter_nuclei(
    kind: npt.NDArray[np.uint8],
    zones: npt.NDArray[np.float32],
    angle: npt.NDArray[np.float32],
    mpp: float,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Draw nuclei over every kind of tissue.

    Args:
        kind: uint8 [H, W], as in `cells`.
        zones: float32 [H, W], a smooth field of unit variance that divides MIXED tissue into epithelium (high), immune
            cells (lowest) and stroma.
        angle: float32 [H, W], the direction of the fibres in radians.
        mpp: micrometres per pixel.
        rng: the tile's generator.

    Returns:
        An instance map int32 [H, W], and `kind` with MIXED resolved to the kind of its zone.
    """
    resolved = np.where(kind == MIXED, _zone_kinds(zones), kind)
    instance = np.zeros(kind.shape, np.int32)
    first = 1
    for here in (IMMUNE, TUMOUR, STROMA):
        places = _places(kind.shape, here, mpp, rng)
        y, x = places[:2].astype(np.intp)
        there = resolved[y, x]
        places = places[:, (there == here) | ((here == TUMOUR) & (there == POSITIVE))]
        if places.shape[1]:
            y, x = places[:2].astype(np.intp)
            if here == STROMA:
                places[4] = angle[y, x] + 0.25 * places[4]
            _stamp(instance, resolved, places.T.copy(), first, here)
            first += places.shape[1]
    return instance, resolved


def _zone_kinds(zones: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.where(zones > 0.15, TUMOUR, np.where(zones < -1.5, IMMUNE, STROMA)).astype(np.uint8)


def _places(shape: tuple[int, int], kind: int, mpp: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Candidate nuclei of one kind: float64 [6, n] of y, x, long and short half-axis (px), angle, wobble phase."""
    spacing_um, taken, radius_um, spread, aspect = _LAYOUT[kind]
    step = max(spacing_um / mpp, 2.0)
    rows, columns = (np.arange(step / 2, length, step) for length in shape)
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    y = np.clip(y + rng.uniform(-0.42, 0.42, y.size) * step, 0, shape[0] - 1)
    x = np.clip(x + rng.uniform(-0.42, 0.42, x.size) * step, 0, shape[1] - 1)
    radius = radius_um / mpp * np.exp(spread * rng.normal(size=y.size))
    stretch = np.sqrt(1 + (aspect - 1) * rng.uniform(0.4, 1.6, y.size))
    places = np.stack(
        [y, x, radius * stretch, radius / stretch, rng.normal(0, 1.6, y.size), rng.uniform(0, 6.3, y.size)]
    )
    return places[:, rng.random(y.size) < taken]


@compiled(fastmath=True)
def _stamp(instance, kind, places, first, here):  # type: ignore[no-untyped-def]
    """Draw wobbly ellipses where the tissue is of their kind and no other nucleus is."""
    height, width = instance.shape
    for index in range(places.shape[0]):
        y0, x0, long, short, angle, phase = places[index]
        reach = long * 1.15 + 1
        cosine, sine = np.cos(angle), np.sin(angle)
        for y in range(max(0, int(y0 - reach)), min(height, int(y0 + reach) + 2)):
            for x in range(max(0, int(x0 - reach)), min(width, int(x0 + reach) + 2)):
                along = (cosine * (x - x0) + sine * (y - y0)) / long
                across = (cosine * (y - y0) - sine * (x - x0)) / short
                squared = along * along + across * across
                if squared > 1.3 or instance[y, x] != 0:
                    continue
                allowed = kind[y, x] == here or (here == TUMOUR and kind[y, x] == POSITIVE)
                # the second and third harmonic of the outline: nuclei are rarely perfect ellipses
                turn = np.arctan2(across, along)
                edge = 1 + 0.09 * np.cos(2 * turn + phase) + 0.06 * np.cos(3 * turn - 2 * phase)
                if allowed and squared < edge * edge:
                    instance[y, x] = first + index
