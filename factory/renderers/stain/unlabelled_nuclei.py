"""Nuclei for masks that label none: regions alone would render as empty sheets of colour.

Each kind of tissue gets its own density, size and shape on a jittered grid: crowded round lymphocytes, larger
epithelial nuclei, sparse spindle cells. They are drawn like labelled ones and are in no mask. Where the marker is
nuclear, the regions label the nuclei of the tumour, so these follow the regions (`scatter_marked_nuclei`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.cells import IMMUNE, MIXED, POSITIVE, STROMA, TUMOUR

Places = npt.NDArray[np.float64]
"""Nuclei to draw, [6, n]: y, x, long and short half-axis (px), angle, wobble phase."""

# Per kind of tissue: spacing of the grid (um), share of its places taken, radius (um), its spread, aspect ratio.
Layout = tuple[float, float, float, float, float]
_LAYOUT: dict[int, Layout] = {
    STROMA: (13.0, 0.55, 2.6, 0.25, 2.6),
    IMMUNE: (6.6, 0.85, 2.55, 0.12, 1.1),
    TUMOUR: (11.0, 0.92, 3.9, 0.18, 1.3),
    POSITIVE: (11.0, 0.92, 3.9, 0.18, 1.3),
}
_MARKED_LAYOUT: dict[int, Layout] = {
    STROMA: (10.0, 0.8, 2.3, 0.3, 2.4),
    IMMUNE: _LAYOUT[IMMUNE],
    TUMOUR: (10.2, 0.9, 3.2, 0.2, 1.6),
}
"""Set on the training cases of the Ki-67 set: per mm2 of their tumour 8660 cells are marked, median of 22 cases, and
8650 are drawn; in other tissue `segment.audit.stain_count` finds 9280 per mm2, in drawn tissue 8500."""
_SIZE_SPREAD = 0.11
"""Log standard deviation of lengths from tile to tile: half that of the density of the same cases."""
OWN_LAYOUT = 100
"""Least code of tissue whose nuclei have a layout of their own."""
_MANY = 100
"""Nuclei from which a region keeps what the grid puts there: chance evens out over so many."""
_INFLAMED_BELOW = -0.8
"""`zones` below which stroma is full of immune cells: a fifth of it."""


def scatter_nuclei(
    kind: npt.NDArray[np.uint8],
    zones: npt.NDArray[np.float32],
    angle: npt.NDArray[np.float32],
    mpp: float,
    rng: np.random.Generator,
    layouts: Mapping[int, tuple[int, Layout]] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Draw nuclei over every kind of tissue.

    Args:
        kind: uint8 [H, W], as in `cells`, or from `OWN_LAYOUT` on a code of `layouts`.
        zones: float32 [H, W], of unit variance; divides MIXED tissue into epithelium (high), immune cells (lowest) and
            stroma.
        angle: float32 [H, W], direction of the fibres in radians. mpp: micrometres per pixel. rng: the tile's.
        layouts: code of tissue with nuclei of its own -> its kind, and how these lie.

    Returns:
        An instance map int32 [H, W], and `kind` with MIXED resolved to the kind of its zone.
    """
    resolved = np.where(kind == MIXED, _zone_kinds(zones), kind)
    kinds = (IMMUNE, TUMOUR, STROMA)
    places = {here: _places_on(resolved, here, _LAYOUT[here], angle, mpp, rng) for here in kinds}
    for code, (of_kind, layout) in (layouts or {}).items():
        places[code] = _places_on(resolved, code, layout, angle, mpp, rng, along=of_kind == STROMA)
    return _stamped(places, resolved), resolved


def scatter_marked_nuclei(
    kind: npt.NDArray[np.uint8],
    zones: npt.NDArray[np.float32],
    angle: npt.NDArray[np.float32],
    mpp: float,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Draw nuclei for regions of a nuclear marker, whose positive regions may be no larger than a cell.

    Every region of up to `_MANY` nuclei, positive or negative, gets as many as its area holds at the density of the
    tumour, to within one; so the share of the tumour's nuclei that are positive is the TPS of the mask by area. Nuclei
    keep off the border between positive and negative tumour, and one that reaches over it counts with its centre. Where
    nothing is inflammation, immune cells lie in the stroma where `zones` is low.

    Args and returns as `scatter_nuclei`, but the pixels under a nucleus of the tumour all take the kind of its region.
    """
    resolved = np.where(kind == MIXED, _zone_kinds(zones), kind)
    if not (kind == IMMUNE).any():
        resolved[(resolved == STROMA) & (zones < _INFLAMED_BELOW)] = IMMUNE
    # cells of one tumour are all larger, and so fewer, than those of another
    mpp *= math.exp(-_SIZE_SPREAD * float(np.clip(rng.normal(), -2, 2)))
    places = {here: _places_on(resolved, here, _MARKED_LAYOUT[here], angle, mpp, rng) for here in _MARKED_LAYOUT}
    if places[TUMOUR].shape[1]:
        sides = [_fill_regions(places[TUMOUR], resolved == side, mpp, rng) for side in (POSITIVE, TUMOUR)]
        places[TUMOUR] = _keep_off(np.concatenate(sides, axis=1), resolved)
    y, x = places[TUMOUR][:2].astype(np.intp)
    own = np.concatenate([[0], resolved[y, x]]).astype(np.uint8)
    instance = _stamped({here: places[here] for here in (TUMOUR, IMMUNE, STROMA)}, resolved)
    of_tumour = (instance > 0) & (instance < len(own))
    return instance, np.where(of_tumour, own[np.where(of_tumour, instance, 0)], resolved)


def _stamped(places: Mapping[int, Places], kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Draw the nuclei of each kind in turn, each behind those before it: an instance map."""
    instance = np.zeros(kind.shape, np.int32)
    first = 1
    for here, own in places.items():
        _stamp(instance, kind, own.T.copy(), first, here)
        first += own.shape[1]
    return instance


def _fill_regions(places: Places, side: npt.NDArray[np.bool_], mpp: float, rng: np.random.Generator) -> Places:
    """Keep as many candidates in each region of one side of the tumour as it holds, and add those that miss."""
    depth = _depth(side)
    count, region, boxes, _ = cv2.connectedComponentsWithStats(side.astype(np.uint8), connectivity=4)
    spacing_um, taken = _MARKED_LAYOUT[TUMOUR][:2]
    holds = boxes[:, cv2.CC_STAT_AREA] * (taken * (mpp / spacing_um) ** 2)
    small = (holds <= _MANY) & (np.arange(count) > 0)
    # the rounding of one region carries over to the next, so that all of them together are right to within one
    wanted = np.diff(np.floor(np.cumsum(holds * small) + rng.random()), prepend=0.0).astype(np.int64)
    y, x = places[:2].astype(np.intp)
    order = np.lexsort((-depth[y, x], region[y, x]))  # by region, the deepest first
    at = region[y, x][order]
    rank = np.arange(len(at)) - np.searchsorted(at, at)
    kept = places[:, order[(at > 0) & (~small[at] | (rank < wanted[at]))]]
    missing = np.where(small, np.maximum(wanted - np.bincount(at, minlength=count), 0), 0)
    centres = _deepest_free(kept[:2].astype(np.intp), depth, region, boxes, missing)
    shapes = places[2:, rng.integers(places.shape[1], size=centres.shape[1])]
    return np.concatenate([np.concatenate([centres, shapes]), kept], axis=1)


def _deepest_free(
    chosen: npt.NDArray[np.intp],
    depth: npt.NDArray[np.float32],
    region: npt.NDArray[np.int32],
    boxes: npt.NDArray[np.int32],
    missing: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Find `missing` pixels of each region, far from its border and from the `chosen` ones: float64 [2, k]."""
    free = np.ones(depth.shape, np.bool_)
    free[tuple(chosen)] = False
    found = []
    for number in np.flatnonzero(missing):
        left, top, width, height = boxes[number, :4]
        box = np.s_[top : top + height, left : left + width]
        inside = np.where(region[box] == number, depth[box], np.float32(0))
        for _ in range(missing[number]):
            away = np.float32(0.5) * _depth(free[box])
            best = np.unravel_index(np.argmax(np.minimum(inside, away)), inside.shape)
            free[box][best] = False
            found.append((top + best[0], left + best[1]))
    return np.array(found, np.float64).reshape(-1, 2).T


def _depth(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Distance to the outside in pixels, at most the length of a side of the tile."""
    away = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.minimum(away, max(inside.shape)), np.float32)


def _keep_off(places: Places, kind: npt.NDArray[np.uint8]) -> Places:
    """Move nuclei away from the border between positive and negative by their radius, within their kind of tissue."""
    positive = kind == POSITIVE
    apart = _depth(positive) + _depth(~positive)
    down, right = np.gradient(cv2.GaussianBlur(apart, (0, 0), 1.0))
    places = places.copy()
    last = np.array(kind.shape)[:, None] - 1
    for _ in range(3):
        y, x = places[:2].astype(np.intp)
        gap = np.maximum(np.sqrt(places[2] * places[3]) - apart[y, x], 0.0)
        slope = np.stack([down[y, x], right[y, x]])
        moved = np.clip(places[:2] + 0.5 * gap * slope / (np.linalg.norm(slope, axis=0) + 1e-6), 0, last)
        v, u = moved.astype(np.intp)
        better = (apart[v, u] > apart[y, x]) & (kind[v, u] == kind[y, x])
        places[:2, better] = moved[:, better]
    return places


def _zone_kinds(zones: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.where(zones > 0.15, TUMOUR, np.where(zones < -1.5, IMMUNE, STROMA)).astype(np.uint8)


def _places_on(
    kind: npt.NDArray[np.uint8],
    here: int,
    layout: Layout,
    angle: npt.NDArray[np.float32],
    mpp: float,
    rng: np.random.Generator,
    *,
    along: bool = False,
) -> Places:
    """Draw candidates of one kind on its tissue; those of stroma (and `along`) are turned along the fibres."""
    places = _places(kind.shape, layout, mpp, rng)
    y, x = places[:2].astype(np.intp)
    there = kind[y, x]
    places = places[:, (there == here) | ((here == TUMOUR) & (there == POSITIVE))]
    if here == STROMA or along:
        y, x = places[:2].astype(np.intp)
        places[4] = angle[y, x] + 0.25 * places[4]
    return places


def _places(shape: tuple[int, int], layout: Layout, mpp: float, rng: np.random.Generator) -> Places:
    """Draw candidate nuclei of one kind all over the tile."""
    spacing_um, taken, radius_um, spread, aspect = layout
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
