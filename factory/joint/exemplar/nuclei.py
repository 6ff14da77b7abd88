"""Tiles of nuclei: real ones set into a quilted ground with their own outlines, where a drawn layout has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, Bank
from factory.bank.shapes import Shapes, measure_shapes
from factory.core.compiled import compiled
from factory.joint.exemplar.exchange import Copy
from factory.joint.exemplar.patches import patches_of
from factory.renderers.exemplar.layout import guides_of, match_classes
from factory.renderers.exemplar.quilting import Grid, quilt

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

GRID = Grid(48, 16)
"""Patches of filled ground, which is without nuclei in small pieces alone."""
FEWEST_OWN = 20
"""Nuclei of a class below which a slide borrows from all others, their colours matched."""
_NEAREST = 12
"""Nuclei of most similar size and elongation that are tried in each place."""
_RIM_UM = 1.25
"""Width of the real surroundings that come along with a nucleus."""
_MOST_HIDDEN = 0.3
"""Largest share of a nucleus that lies behind others."""
_SHIFTS = np.array([(0, 0), (-2, 0), (2, 0), (0, -2), (0, 2), (-4, 0), (4, 0), (0, -4), (0, 4), (3, 3), (-3, -3)])
"""Steps, in pixels, by which a nucleus gives way where it would hide others."""
_EDGE_PX = (0.6, 1.0)
"""Standard deviations of the blur of outlines beside which something else lies than on their page."""
_MOST_SHIFT = 0.3
"""Largest change of the optical density of a borrowed nucleus."""
_REUSED, _HIDDEN = 0.3, 4
"""Costs, in pixels: of a nucleus that the tile has already, in its areas, and of a pixel that hides another nucleus."""


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where nuclei are to be, one row each.

    Attributes:
        ids: int32 [H, W], drawn outlines 1..N. shapes: of these. label: uint8 [N], class.
        area: float32 [N]; axes: float32 [N, 2]: of the whole nucleus, where the tile's border cuts the drawn one.
    """

    ids: Ids
    shapes: Shapes
    label: Bytes
    area: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]


def copy_nuclei(
    bank: Bank, slide: int, semantic: Bytes, instance: Ids, mpp: float, rng: np.random.Generator
) -> tuple[Copy, Ids] | None:
    """Set real nuclei into the quilted ground of a slide.

    Args:
        bank: of tissue. slide: number of the slide. semantic: uint8 [H, W], instance: int32 [H, W]: a drawn mask, whose
            nuclei say how many there are, where, how large and of which class. mpp: of the tile. rng: of it.

    Returns:
        The tile and its instances, int32 [H, W], as many and of the same classes as the drawn ones; None where they do
        not fit.
    """
    layout = _read_layout(semantic, instance, rng)
    image, origin = _ground(bank, slide, semantic, layout, mpp, rng)
    background = next(label.id for label in bank.scheme.classes if "nucleus" not in label.roles)
    copy = Copy(image, np.full(semantic.shape, background, np.uint8), origin)
    found = np.zeros(semantic.shape, np.int32)
    count = len(layout.label)
    if not count:
        return copy, found
    row, factors = _candidates(bank, slide, layout, rng)
    rim = rng.uniform(0.5, 1.0, count) * _RIM_UM / mpp
    strength = rng.uniform(0.5, 1.0, count)
    nuclei = bank.nuclei
    reach = np.ceil(nuclei.radii.max(1)).astype(np.int64) + 1
    table = np.concatenate(
        [bank.pages[nuclei.page][:, :3], np.rint(nuclei.centre).astype(np.int64), reach[:, None],
         nuclei.number[:, None].astype(np.int64)], axis=1,
    )  # fmt: skip
    fits = _set(
        image, copy.semantic, origin, found, layout.ids, layout.shapes.box.astype(np.int64),
        np.rint(layout.shapes.centre).astype(np.int64), layout.label, rng.permutation(count), row, table,
        factors, rim, strength, bank.image, bank.nucleus, _near(float(rim.max())), np.zeros(len(nuclei), np.int64),
    )  # fmt: skip
    if not fits:
        return None
    _soften(copy, found, bank, float(rng.uniform(*_EDGE_PX)))
    return copy, found


def _soften(copy: Copy, found: Ids, bank: Bank, sigma: float) -> None:
    """Blur, in place, the outlines whose other side is not the real one, as a microscope blurs an edge."""
    steps = [1, *np.unique(bank.pages[:, 2]).tolist()]  # between pixels that are neighbours on their page
    cut = np.zeros(found.shape, np.bool_)
    for axis in (0, 1):
        apart = ~np.isin(np.abs(np.diff(copy.origin, axis=axis)), steps) & (np.diff(found, axis=axis) != 0)
        before, after = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        cut[before] |= apart
        cut[after] |= apart
    copy.image[cut] = cv2.GaussianBlur(copy.image, (0, 0), sigma)[cut]


def _read_layout(semantic: Bytes, instance: Ids, rng: np.random.Generator) -> _Layout:
    """Measure drawn nuclei. What the border cuts gets the size of a drawn one that is whole, and no smaller."""
    present, flat = np.unique(np.append(instance, 0), return_inverse=True)
    ids = np.ascontiguousarray(flat[:-1].reshape(instance.shape).astype(np.int32))
    shapes = measure_shapes(ids)
    label = np.zeros(len(present), np.uint8)
    label[ids.ravel()[::-1]] = semantic.ravel()[::-1]
    area, axes = shapes.area.copy(), shapes.axes.copy()
    whole = np.flatnonzero(~shapes.cut)
    draws = rng.random(len(area))
    for k in np.flatnonzero(shapes.cut):
        larger = whole[shapes.area[whole] >= shapes.area[k]]
        if len(larger):
            like = larger[int(draws[k] * len(larger))]
            area[k], axes[k] = shapes.area[like], shapes.axes[like]
    return _Layout(ids, shapes, label[1:], area, axes)


def _ground(
    bank: Bank, slide: int, semantic: Bytes, layout: _Layout, mpp: float, rng: np.random.Generator
) -> tuple[Bytes, Longs]:
    """Quilt the ground, its nuclei filled: as dense and with fibres as the layout asks."""
    classes = match_classes(bank.scheme, bank.scheme, frozenset(bank.card.fields["classes"]), painted=False)
    down, across = (int(k) * BLOCK for k in rng.integers(0, GRID.step // BLOCK, 2))
    guides = guides_of(semantic, layout.ids, layout.shapes, classes, bank, mpp, GRID, (down, across), slide, rng)
    nothing = np.zeros(semantic.shape, np.uint8)
    places = patches_of(bank, slide, GRID.patch).places
    kinds = np.zeros(256, np.uint8)
    return quilt(bank.ground, bank.semantic, kinds, places, guides, nothing, GRID, (down, across), rng)


def _candidates(
    bank: Bank, slide: int, layout: _Layout, rng: np.random.Generator
) -> tuple[Longs, npt.NDArray[np.float32]]:
    """The nuclei that are tried in each place, of its class and about its size.

    Returns:
        int64 [N, candidates], rows of the bank's nuclei; float32 [nuclei of the bank, 3], factors of the transmitted
        light, 1 but for those that are borrowed from other slides.
    """
    nuclei, slide_of = bank.nuclei, bank.pages[bank.nuclei.page, 3]
    row = np.empty((len(layout.label), _NEAREST), np.int64)
    sizes = _describe(nuclei.area, nuclei.axes)
    # of the ground, as the nuclei of a slide differ in the share of positive ones too
    shift = np.clip(bank.colour[slide, 0, 0] - bank.colour[slide_of, 0, 0], -_MOST_SHIFT, _MOST_SHIFT)
    for label in np.unique(layout.label):
        fits = nuclei.label == label
        own = np.flatnonzero(fits & (slide_of == slide))
        allowed = own if len(own) >= FEWEST_OWN else np.flatnonzero(fits)
        near = min(_NEAREST, len(allowed))
        for k in np.flatnonzero(layout.label == label):
            distance = ((sizes[allowed] - _describe(layout.area[k : k + 1], layout.axes[k : k + 1])) ** 2).sum(1)
            found = allowed[np.lexsort((allowed, distance))[:near]]
            row[k] = np.resize(found, _NEAREST)
    return rng.permuted(row, axis=1), np.exp(-shift).astype(np.float32)


def _describe(area: npt.NDArray[np.float32], axes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logarithms of size and of elongation, which counts double."""
    return np.stack([np.log(area), 1.4 * np.log(axes[:, 0] / axes[:, 1])], axis=1).astype(np.float32)


@lru_cache(maxsize=8)
def _near(reach: float) -> Longs:
    """Steps to the pixels within a reach, the nearest first: int64 [n, 3], row, column, squared distance."""
    side = int(reach) + 1
    v, u = np.mgrid[-side : side + 1, -side : side + 1].reshape(2, -1)
    square = v * v + u * u
    order = np.lexsort((u, v, square))
    kept = order[(square[order] <= reach * reach) & (square[order] > 0)]
    return np.stack([v[kept], u[kept], square[kept]], axis=1).astype(np.int64)


@compiled()
def _at(one, turn, dy, dx):  # type: ignore[no-untyped-def]
    """Pixel of the bank at a place beside the centre of a turned nucleus, -1 outside of its page."""
    if turn & 4:
        dy, dx = dx, dy
    if turn & 1:
        dy = -dy
    if turn & 2:
        dx = -dx
    y, x = one[3] + dy, one[4] + dx
    if y < 0 or x < 0 or y >= one[1] or x >= one[2]:
        return np.int64(-1)
    return one[0] + y * one[2] + x


@compiled()
def _set(  # type: ignore[no-untyped-def]
    image, semantic, origin, found, ids, boxes, centres, labels, order, row, table, factors, rim, strength,
    pixels, nucleus, near, used,
):  # fmt: skip
    seen, whole = np.zeros(len(order) + 1, np.int64), np.zeros(len(order) + 1, np.int64)
    hidden = np.zeros(len(order) + 1, np.int64)
    best = np.empty(4, np.int64)  # row, turn, centre
    for k in order:
        least = np.inf
        for s in range(len(_SHIFTS)):
            for candidate in row[k]:
                one = table[candidate]
                for turn in range(8):
                    cy, cx = _centre(one, turn, boxes[k], centres[k], nucleus, ids.shape)
                    cy, cx = cy + _SHIFTS[s, 0], cx + _SHIFTS[s, 1]
                    cost, area = _misfit(one, turn, cy, cx, k + 1, ids, found, nucleus, hidden, seen, whole, least)
                    cost += _REUSED * area * used[candidate]
                    if cost < least:
                        least = cost
                        best[0], best[1], best[2], best[3] = candidate, turn, cy, cx
            if least < 1e8:
                break
        if least >= 1e8:
            return False
        used[best[0]] += 1
        _lay(
            image, semantic, origin, found, k + 1, labels[k], table[best[0]], best[1], best[2], best[3],
            factors[best[0]], rim[k], strength[k], pixels, nucleus, near, seen, whole,
        )  # fmt: skip
    least_seen = seen[order[0] + 1]
    for k in order:
        least_seen = min(least_seen, seen[k + 1])
    return least_seen > 0


@compiled()
def _centre(one, turn, box, centre, nucleus, shape):  # type: ignore[no-untyped-def]
    """Where the centre of a nucleus goes: that of the outline, or so that it is cut by the border as that is."""
    cut_top, cut_left = box[0] == 0, box[1] == 0
    cut_bottom, cut_right = box[2] == shape[0], box[3] == shape[1]
    if not (cut_top or cut_left or cut_bottom or cut_right):
        return centre[0], centre[1]
    top, left, bottom, right = 0, 0, 0, 0
    for dy in range(-one[5], one[5] + 1):
        for dx in range(-one[5], one[5] + 1):
            p = _at(one, turn, dy, dx)
            if p >= 0 and nucleus[p] == one[6]:
                top, bottom = min(top, dy), max(bottom, dy)
                left, right = min(left, dx), max(right, dx)
    y, x = centre[0], centre[1]
    if cut_top and not cut_bottom:
        y = min(box[2] - 1 - bottom, y)
    if cut_bottom and not cut_top:
        y = max(box[0] - top, y)
    if cut_left and not cut_right:
        x = min(box[3] - 1 - right, x)
    if cut_right and not cut_left:
        x = max(box[1] - left, x)
    return y, x


@compiled()
def _misfit(one, turn, cy, cx, number, ids, found, nucleus, hidden, seen, whole, least):  # type: ignore[no-untyped-def]
    """Pixels in which a nucleus differs from the drawn outline, those that hide others counted more; and its area.

    Of every fourth pixel. 1e9 where too much of another one would be hidden, or it would show too little of itself.
    """
    height, width = ids.shape
    cost, area, shown, touched = 0.0, 0, 0, 0
    behind = np.empty(16, np.int64)
    for dy in range(-one[5], one[5] + 1, 2):
        if cost >= least:
            break
        for dx in range(-one[5], one[5] + 1, 2):
            y, x = cy + dy, cx + dx
            p = _at(one, turn, dy, dx)
            inside = p >= 0 and nucleus[p] == one[6]
            area += 4 * inside
            if y < 0 or x < 0 or y >= height or x >= width:
                continue
            shown += inside
            cost += 4 * (inside != (ids[y, x] == number))
            other = found[y, x]
            if inside and other > 0:
                cost += 4 * _HIDDEN
                if hidden[other] == 0 and touched < 16:
                    behind[touched] = other
                    touched += 1
                hidden[other] += 4
    for k in range(touched):
        other = behind[k]
        if seen[other] - hidden[other] < (1.0 - _MOST_HIDDEN) * whole[other]:
            cost = 1e9
        hidden[other] = 0
    if touched == 16:
        hidden[:] = 0
    return (cost if shown > 0 else 1e9), area


@compiled()
def _lay(  # type: ignore[no-untyped-def]
    image, semantic, origin, found, number, label, one, turn, cy, cx, factors, rim, strength, pixels, nucleus,
    near, seen, whole,
):  # fmt: skip
    """Copy a nucleus with its outline; around it its real rim fades into the ground."""
    height, width = found.shape
    margin = one[5] + int(rim) + 1
    for dy in range(-margin, margin + 1):
        for dx in range(-margin, margin + 1):
            y, x = cy + dy, cx + dx
            p = _at(one, turn, dy, dx)
            if p < 0 or y < 0 or x < 0 or y >= height or x >= width:
                continue
            if nucleus[p] == one[6]:
                if found[y, x] > 0:
                    seen[found[y, x]] -= 1
                found[y, x], semantic[y, x], origin[y, x] = number, label, p
                seen[number] += 1
                _mix(image, y, x, pixels, p, factors, 1.0)
            elif nucleus[p] == 0 and found[y, x] == 0:
                distance = _distance(one, turn, dy, dx, nucleus, near)
                if distance < 0.0 or distance >= rim:
                    continue
                weight = min(1.0, strength * 2.0 * (1.0 - distance / rim))
                if weight > 0.5:
                    origin[y, x] = p
                _mix(image, y, x, pixels, p, factors, weight)
    whole[number] = seen[number]


@compiled()
def _distance(one, turn, dy, dx, nucleus, near):  # type: ignore[no-untyped-def]
    """Distance to the outline of a nucleus in pixels, 0 beside it; -1 beyond the reach of `near`."""
    for k in range(len(near)):
        p = _at(one, turn, dy + near[k, 0], dx + near[k, 1])
        if p >= 0 and nucleus[p] == one[6]:
            return np.sqrt(float(near[k, 2])) - 1.0
    return -1.0


@compiled()
def _mix(image, y, x, pixels, p, factors, weight):  # type: ignore[no-untyped-def]
    """Mix a pixel of the bank into the tile."""
    for channel in range(3):
        value = np.float64(pixels[p, channel])
        if factors[channel] != 1.0:
            value = (value + 1.0) * factors[channel] - 1.0
        value = value * weight + image[y, x, channel] * (1.0 - weight)
        image[y, x, channel] = np.uint8(min(max(np.floor(value + 0.5), 0.0), 255.0))
