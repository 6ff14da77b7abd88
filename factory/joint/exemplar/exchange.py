"""Exchanges patches of a tile, with their labels, until the counts of its classes are as asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.bank.bank import Bank
from factory.core.compiled import compiled
from factory.joint.exemplar.patches import Patches
from factory.joint.exemplar.targets import TOLERANCE, Targets
from factory.renderers.exemplar.quilting import NUCLEUS_COST

_LARGEST = 48
_SIDES = np.array([_LARGEST, 32, 24, 16], np.int64)
"""Sides of the patches that are exchanged, in pixels; a third of a side is for the cuts."""
_CANDIDATES = 24
_ROUND, _ROUNDS = 256, 48
"""Exchanges that are tried at once, and how often."""
_FAITHFUL = 24
"""Rounds in which no piece may differ more from the layout than what it replaces; later ones may, more and more."""
_LABEL_COST = 3 * 24 * 24
"""Cost of a pixel of a cut where labels differ, beside the squared difference of the colours."""
_LAYOUT_COST = 16 * 3 * 40 * 40
"""Cost of a piece whose labels are all other ones than the layout's, in the unit of `_misfit`."""
_STEPS = 9
"""Steps from one side of a cut to the other; a pixel on it is the mean over its 3x3 neighbours."""

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Copy:
    """A tile of copied pixels; changed in place by `exchange`.

    Attributes:
        image: uint8 [H, W, 3]. semantic: uint8 [H, W].
        origin: int64 [H, W], the pixel of the bank that each pixel and its label were copied from.
    """

    image: Bytes
    semantic: Bytes
    origin: Longs


def exchange(
    copy: Copy,
    layout: Bytes,
    bank: Bank,
    patches: Patches,
    patch: int,
    targets: Targets,
    rng: np.random.Generator,
) -> bool:
    """Lay other patches until every target is met, in place.

    A patch is laid where it brings the counts nearer to what is asked, and of those that do the one that fits best: its
    rim to what lies around it, its labels to the layout. It is cut out along the cheapest line on all sides.

    Args:
        copy: of pixels without ignored ones. layout: uint8 [H, W], the drawn mask that it was quilted like.
        bank: that pixels are from. patches: to take others from, of at least `_LARGEST` pixels: `patch`.
        targets: ratios of counts. rng: of the tile.

    Returns:
        Whether all targets are met within `TOLERANCE`.
    """
    if not len(targets.asked):
        return True
    counts = np.bincount(copy.semantic.ravel(), minlength=len(bank.scheme)).astype(np.int64)
    over, under = targets.over.astype(np.int64), targets.under.astype(np.int64)
    holding = patches.places.holding
    starts = np.concatenate([[0], np.cumsum([len(each) for each in holding])]).astype(np.int64)
    held = np.concatenate([*holding, np.zeros(1, np.int64)]).astype(np.int64)
    for turn in range(_ROUNDS):
        if _distance(counts, over, under, targets.asked)[1] <= 1.0:
            return True
        draws = rng.random((_ROUND, 4 + 5 * _CANDIDATES), np.float32)
        _exchange(
            copy.image, copy.semantic, copy.origin, layout, counts, bank.image, bank.semantic, bank.nucleus,
            patch, patches.places.rows, held, starts, over, under, targets.asked, draws,
            max(0.0, (turn - _FAITHFUL) / _FAITHFUL),
        )  # fmt: skip
    return bool(_distance(counts, over, under, targets.asked)[1] <= 1.0)


@compiled()
def _distance(counts, over, under, asked):  # type: ignore[no-untyped-def]
    """Sum of squares, and largest, of the errors in units of the tolerance; number and sign of the largest."""
    total, largest, worst, sign = 0.0, 0.0, 0, 1
    for k in range(len(asked)):
        part, whole = np.int64(0), np.int64(0)
        for c in range(len(counts)):
            part += over[k, c] * counts[c]
            whole += under[k, c] * counts[c]
        error = part / whole - asked[k] if whole > 0 else 1.0
        size = abs(error) / TOLERANCE
        total += size * size
        if size > largest:
            largest, worst, sign = size, k, 1 if error > 0 else -1
    return total, largest, worst, sign


@compiled()
def _source(piece, turn, i, j, side):  # type: ignore[no-untyped-def]
    """Pixel of the bank at row i and column j of a turned piece; `piece` is (first pixel, width, row, column)."""
    if turn & 4:
        i, j = j, i
    if turn & 1:
        i = side - 1 - i
    if turn & 2:
        j = side - 1 - j
    return piece[0] + (piece[2] + i) * piece[1] + piece[3] + j


@compiled()
def _exchange(  # type: ignore[no-untyped-def]
    image, semantic, origin, layout, counts, pixels, labels, nucleus, patch, rows, held, starts, over, under, asked,
    draws, leave,
):  # fmt: skip
    height, width = semantic.shape
    classes = len(counts)
    alpha, weights = np.empty((_LARGEST, _LARGEST), np.int64), np.empty((_LARGEST, _LARGEST), np.int64)
    piece, best_piece = np.empty(4, np.int64), np.empty(4, np.int64)
    after, here = np.empty(classes, np.int64), np.empty(classes, np.int64)
    for draw in draws:
        now, largest, worst, sign = _distance(counts, over, under, asked)
        if largest <= 1.0:
            return
        side = _SIDES[min(int(draw[0] * len(_SIDES)), len(_SIDES) - 1)]
        side = min(side, height, width)
        margin = side // 3
        y0 = min(max(int(draw[1] * (height + side)) - side, 0), height - side)
        x0 = min(max(int(draw[2] * (width + side)) - side, 0), width - side)
        here[:] = 0
        astray = np.int64(0)  # what differs from the layout already
        for i in range(margin // 2, side - margin // 2, 2):
            for j in range(margin // 2, side - margin // 2, 2):
                here[semantic[y0 + i, x0 + j]] += 4
                astray += semantic[y0 + i, x0 + j] != layout[y0 + i, x0 + j]
        best_cost, best_turn = np.int64(1) << 62, np.int64(-1)  # a literal would compile twice what takes it
        for m in range((len(draw) - 4) // 5):
            one = draw[4 + 5 * m : 9 + 5 * m]
            place = _pick(one, worst, sign, rows, held, starts, over, under)
            slack = patch - side
            turn = int(one[2] * 8) & 7
            piece[0], piece[1] = rows[place, 0], rows[place, 1]
            piece[2] = rows[place, 2] + int(one[3] * (slack + 1))
            piece[3] = rows[place, 3] + int(one[4] * (slack + 1))
            for c in range(classes):
                after[c] = counts[c] - here[c]
            differing, seen = np.int64(0), np.int64(0)
            for i in range(margin // 2, side - margin // 2, 2):
                for j in range(margin // 2, side - margin // 2, 2):
                    label = labels[_source(piece, turn, i, j, side)]
                    after[label] += 4
                    differing += label != layout[y0 + i, x0 + j]
                    seen += 1
            if differing > astray + int(leave * seen) or _distance(after, over, under, asked)[0] >= now:
                continue
            cost = _misfit(image, semantic, y0, x0, side, margin, piece, turn, pixels, labels)
            cost += _LAYOUT_COST * differing // seen
            if cost < best_cost:
                best_cost, best_turn = cost, turn  # type: ignore[assignment]
                for c in range(4):
                    best_piece[c] = piece[c]
        if best_turn < 0:
            continue
        _cut_out(
            alpha, image, semantic, origin, y0, x0, side, margin, best_piece, best_turn, pixels, labels, nucleus
        )  # fmt: skip
        _soften(weights, alpha, side)
        for c in range(classes):
            after[c] = counts[c]
        for i in range(side):
            for j in range(side):
                if weights[i, j] * 2 > _STEPS:
                    after[semantic[y0 + i, x0 + j]] -= 1
                    after[labels[_source(best_piece, best_turn, i, j, side)]] += 1
        if _distance(after, over, under, asked)[0] < now:
            for c in range(classes):
                counts[c] = after[c]
            _lay(image, semantic, origin, weights, y0, x0, side, best_piece, best_turn, pixels, labels)


@compiled()
def _pick(draw, worst, sign, rows, held, starts, over, under):  # type: ignore[no-untyped-def]
    """Draw a place: half of the time among those that hold much of a class that there is too little of."""
    if draw[0] < 0.5:
        classes = over.shape[1]
        total = np.int64(0)
        for c in range(classes):
            wanted = over[worst, c] if sign < 0 else under[worst, c] - over[worst, c]
            total += wanted * (starts[c + 1] - starts[c])
        if total > 0:
            k = int(draw[1] * total)
            for c in range(classes):
                wanted = over[worst, c] if sign < 0 else under[worst, c] - over[worst, c]
                size = wanted * (starts[c + 1] - starts[c])
                if k < size:
                    return held[starts[c] + k]
                k -= size
    return min(int(draw[1] * len(rows)), len(rows) - 1)


@compiled()
def _cost(image, semantic, y, x, p, pixels, labels):  # type: ignore[no-untyped-def]
    """Squared difference of the colours of a pixel of the tile and one of the bank, more where labels differ."""
    total = np.int64(0 if semantic[y, x] == labels[p] else _LABEL_COST)
    for channel in range(3):
        d = np.int64(image[y, x, channel]) - np.int64(pixels[p, channel])
        total += d * d
    return total


@compiled()
def _misfit(image, semantic, y0, x0, side, margin, piece, turn, pixels, labels):  # type: ignore[no-untyped-def]
    """Mean cost along the rim of a piece, half a margin wide, of every second pixel."""
    total, count = np.int64(0), 0
    for i in range(0, side, 2):
        for j in range(0, side, 2):
            if margin <= i < side - margin and margin <= j < side - margin:
                continue
            p = _source(piece, turn, i, j, side)
            total += _cost(image, semantic, y0 + i, x0 + j, p, pixels, labels)
            count += 1
    return total * 16 // count


@compiled()
def _cut_out(  # type: ignore[no-untyped-def]
    alpha, image, semantic, origin, y0, x0, side, margin, piece, turn, pixels, labels, nucleus
):
    """Mark what lies within the cheapest cuts on the four sides of a piece: 1 = taken from it."""
    height, width = semantic.shape
    alpha[:side, :side] = 1
    error = np.empty((_LARGEST, _LARGEST), np.int64)
    for edge in range(4):
        if (
            (edge == 0 and x0 == 0)
            or (edge == 1 and y0 == 0)
            or (edge == 2 and x0 + side == width)
            or (edge == 3 and y0 + side == height)
        ):
            continue
        for i in range(side):
            for j in range(margin):
                v, u = _along(edge, i, j, side)
                p = _source(piece, turn, v, u, side)
                error[i, j] = _cost(image, semantic, y0 + v, x0 + u, p, pixels, labels)
                if nucleus[p] > 0 or nucleus[origin[y0 + v, x0 + u]] > 0:
                    error[i, j] += NUCLEUS_COST
                if i > 0:
                    least = error[i - 1, j]
                    if j > 0:
                        least = min(least, error[i - 1, j - 1])
                    if j < margin - 1:
                        least = min(least, error[i - 1, j + 1])
                    error[i, j] += least
        _trace(alpha, error, edge, side, margin)


@compiled()
def _along(edge, i, j, side):  # type: ignore[no-untyped-def]
    """Row and column of the place `i` along an edge and `j` inwards: left, top, right, bottom."""
    if edge == 0:
        return i, j
    if edge == 1:
        return j, i
    if edge == 2:
        return i, side - 1 - j
    return side - 1 - j, i


@compiled()
def _trace(alpha, error, edge, side, margin):  # type: ignore[no-untyped-def]
    """Follow the cheapest cut back; what lies outside of it, the outermost pixels at least, stays as it was."""
    j = 0
    for k in range(1, margin):
        if error[side - 1, k] < error[side - 1, j]:
            j = k
    for i in range(side - 1, -1, -1):
        for k in range(j + 1):
            v, u = _along(edge, i, k, side)
            alpha[v, u] = 0
        if i > 0:
            step = j
            if j > 0 and error[i - 1, j - 1] < error[i - 1, step]:
                step = j - 1
            if j < margin - 1 and error[i - 1, j + 1] < error[i - 1, step]:
                step = j + 1
            j = step


@compiled()
def _soften(weights, alpha, side):  # type: ignore[no-untyped-def]
    """Weight of the piece in each pixel, in `_STEPS`: the mean of `alpha` over 3x3 pixels, within the piece."""
    for i in range(side):
        for j in range(side):
            total, count = 0, 0
            for v in range(max(0, i - 1), min(side, i + 2)):
                for u in range(max(0, j - 1), min(side, j + 2)):
                    total += alpha[v, u]
                    count += 1
            weights[i, j] = total * _STEPS // count


@compiled()
def _lay(  # type: ignore[no-untyped-def]
    image, semantic, origin, weights, y0, x0, side, piece, turn, pixels, labels
):
    for i in range(side):
        for j in range(side):
            weight = weights[i, j]
            if weight == 0:
                continue
            y, x = y0 + i, x0 + j
            p = _source(piece, turn, i, j, side)
            if weight * 2 > _STEPS:
                origin[y, x], semantic[y, x] = p, labels[p]
            for channel in range(3):
                old, new = np.int64(image[y, x, channel]), np.int64(pixels[p, channel])
                image[y, x, channel] = (new * weight + old * (_STEPS - weight) + _STEPS // 2) // _STEPS
