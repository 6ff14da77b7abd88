"""Image quilting guided by a layout: patches of real tissue, joined along the cuts that show least.

Efros and Freeman 2001 (patches, minimum error boundary cuts) with the guidance of Hertzmann et al. 2001 (a patch is
chosen for what the layout asks and for what lies beside it). Costs are sums of squares of whole numbers, so that a tile
is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK
from factory.core.compiled import compiled

_CANDIDATES = 192
"""Places that are compared with the layout for each patch."""
_SHORTLIST = 20
"""Places whose pixels are compared with those that lie there already."""
_FEATHER = 9
"""Steps from one side of a cut to the other; a pixel on it is the mean over its 3x3 neighbours."""

NUCLEUS_COST = 3 * 60 * 60
"""Cost of a pixel of a cut within a nucleus, beside the squared difference of the colours."""

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Patches of a tile: their side and the width that neighbours share, in pixels, multiples of `BLOCK`."""

    patch: int
    overlap: int

    @property
    def step(self) -> int:
        """Distance of two patches."""
        return self.patch - self.overlap

    def count(self, shape: tuple[int, int], phase: tuple[int, int]) -> tuple[int, int]:
        """Count the patches down and across that cover a tile; `phase` lies outside of it, above and to the left."""
        rows, columns = (
            max(1, -(-(side + shift - self.overlap) // self.step)) for side, shift in zip(shape, phase, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Places:
    """Where patches can be taken from.

    Attributes:
        rows: int64 [n, 6]: first pixel of the page, its width, row and column (on whole blocks), first block, blocks in
            a row of the page.
        whole: int64 [n], 1 where a patch lies in classes of the layout's kind 0
            alone, 2 in those of kind 1 alone, 0 in both; see `quilt`.
        loose: int64 [2, n], single pixels of each kind, for where no patch has any.
        holding: for each group of classes the numbers of the places that hold much of it, int64.
    """

    rows: Longs
    whole: Longs
    loose: Longs
    holding: tuple[Longs, ...]


@dataclass(frozen=True)
class Guides:
    """What the blocks are like that a patch is chosen by.

    Attributes:
        source: uint8 [B, G], of the bank. target: uint8 [h, w, G], of the layout, from the first patch on.
        weights: int64 [G], how much a difference counts. The first two are the cosine and sine of fibres, which count
            only where the layout asks for a direction, and which turn with the patch; the third is the share of pixels
            to avoid, which counts only where it is larger than the layout's.
        wanted: float64 [rows, columns, groups], share of each group of classes in each patch of the layout.
    """

    source: Bytes
    target: Bytes
    weights: Longs
    wanted: npt.NDArray[np.float64]


def quilt(
    pixels: Bytes,
    kinds: Bytes,
    kind_of: Bytes,
    places: Places,
    guides: Guides,
    layout: Bytes,
    grid: Grid,
    phase: tuple[int, int],
    rng: np.random.Generator,
    nucleus: npt.NDArray[np.uint16] | None = None,
) -> tuple[Bytes, Longs]:
    """Quilt the ground of a tile.

    Args:
        pixels: uint8 [P, 3] of the bank. kinds: uint8 [P], class ids of the bank. kind_of: uint8 [256], class id ->
            kind, 0 or 1. A pixel of the layout is always taken from a pixel of its kind (air from air).
        places: to take patches from. guides: what they are chosen by.
        layout: uint8 [H, W], kinds of the pixels of the tile. grid: of patches.
        phase: rows and columns of the first patch that lie outside of the tile, multiples of `BLOCK`.
        rng: draws candidates. nucleus: uint16 [P], nuclei of the bank, which cuts go round; None where none are shown.

    Returns:
        uint8 [H, W, 3], the ground, and int64 [H, W], the pixel of the bank that each pixel was taken from (of the
        patch that counts more, where two are mixed).
    """
    height, width = layout.shape
    rows, columns = grid.count((height, width), phase)
    canvas = np.zeros((rows * grid.step + grid.overlap, columns * grid.step + grid.overlap, 3), np.uint8)
    origin = np.zeros(canvas.shape[:2], np.int64)
    wanted = np.pad(
        layout,
        ((phase[0], canvas.shape[0] - phase[0] - height), (phase[1], canvas.shape[1] - phase[1] - width)),
        mode="edge",
    )
    fillers = [np.flatnonzero(places.whole == kind) for kind in (1, 2)]
    fillers = [found if len(found) else np.zeros(1, np.int64) for found in fillers]
    for row in range(rows):  # drawn a row at a time, so that memory does not grow with the tile
        draws = _draw_candidates(places, guides.wanted[row], rng)
        spare = rng.random((columns, 2, _SHORTLIST))
        spares = np.stack([fillers[k][(spare[:, k] * len(fillers[k])).astype(np.int64)] for k in range(2)], axis=1)
        _quilt_row(
            canvas, origin, wanted, row, grid.patch, grid.overlap, pixels, kinds, kind_of, places.rows, places.whole,
            places.loose, guides.source, guides.target, guides.weights, draws, spares,
            np.zeros(0, np.uint16) if nucleus is None else nucleus,
        )  # fmt: skip
    area = np.s_[phase[0] : phase[0] + height, phase[1] : phase[1] + width]
    return np.ascontiguousarray(canvas[area]), np.ascontiguousarray(origin[area])


def _draw_candidates(places: Places, wanted: npt.NDArray[np.float64], rng: np.random.Generator) -> Longs:
    """Draw candidates for a row of patches: half anywhere, half where much of the classes is that a patch asks for.

    Returns:
        int64 [columns, candidates], 8 times a place plus a turn.
    """
    columns, half = len(wanted), _CANDIDATES // 2
    draws = rng.integers(0, 8 * len(places.rows), (columns, _CANDIDATES))
    bounds = np.cumsum(wanted, axis=1)
    groups = (rng.random((columns, half, 1)) * bounds[:, None, -1:] >= bounds[:, None, :]).sum(2)
    parts = rng.random((columns, half))
    for group, held in enumerate(places.holding):
        chosen = groups == group
        if len(held) and chosen.any():
            fitting = held[(parts[chosen] * len(held)).astype(np.int64)]
            draws[:, :half][chosen] = 8 * fitting + (draws[:, :half][chosen] & 7)
    return draws


@compiled()
def _quilt_row(  # type: ignore[no-untyped-def]
    canvas,
    origin,
    wanted,
    row,
    patch,
    overlap,
    pixels,
    kinds,
    kind_of,
    places,
    whole,
    loose,
    source,
    target,
    weights,
    draws,
    spares,
    nucleus,
):
    shortlist, costs = np.empty(_SHORTLIST, np.int64), np.empty(_SHORTLIST, np.int64)
    spare = np.zeros(2, np.int64)
    alpha = np.empty((patch, patch), np.int64)
    for column in range(draws.shape[0]):
        _rank(shortlist, costs, draws[column], row, column, patch, overlap, places, source, target, weights)
        best, best_cost = shortlist[0], np.int64(1) << 62
        y0, x0 = row * (patch - overlap), column * (patch - overlap)
        for k in range(_SHORTLIST):
            cost = costs[k] + _mismatch(canvas, y0, x0, row, column, patch, overlap, pixels, places, shortlist[k])
            if cost < best_cost:
                best, best_cost = shortlist[k], cost
        if whole[best >> 3] != 2 and wanted[y0 : y0 + patch, x0 : x0 + patch].min() == 1:  # all air: no specks of it
            _nearest_spares(spare, canvas, y0, x0, row, column, patch, overlap, pixels, places, whole, spares[column])
            best = spare[1] if spare[1] >= 0 else best
        _find_cuts(alpha, canvas, origin, y0, x0, row, column, patch, overlap, pixels, nucleus, places, best)
        _blend(
            canvas, origin, alpha, y0, x0, row, column, patch, overlap, wanted, pixels, kinds, kind_of, places, whole,
            loose, best, spares[column],
        )  # fmt: skip


@compiled()
def _turned(turn, i, j, side):  # type: ignore[no-untyped-def]
    """Row and column before a patch was turned: mirrored down, across, and about its diagonal."""
    if turn & 4:
        i, j = j, i
    if turn & 1:
        i = side - 1 - i
    if turn & 2:
        j = side - 1 - j
    return i, j


@compiled()
def _at(places, candidate, i, j, patch):  # type: ignore[no-untyped-def]
    """Pixel of the bank at row i and column j of a candidate; a candidate is 8 times its place plus its turn."""
    place, turn = candidate >> 3, candidate & 7
    v, u = _turned(turn, i, j, patch)
    return places[place, 0] + (places[place, 2] + v) * places[place, 1] + places[place, 3] + u


@compiled()
def _rank(shortlist, costs, draws, row, column, patch, overlap, places, source, target, weights):  # type: ignore[no-untyped-def]
    """Keep the candidates nearest to the layout, the nearest first."""
    groups, cells = target.shape[2], patch // BLOCK
    by, bx = row * ((patch - overlap) // BLOCK), column * ((patch - overlap) // BLOCK)
    costs[:] = np.int64(1) << 61
    shortlist[:] = draws[0]
    for candidate in draws:
        place, turn = candidate >> 3, candidate & 7
        cost = np.int64(0)
        for i in range(cells):
            for j in range(cells):
                v, u = _turned(turn, i, j, cells)
                block = (
                    places[place, 4]
                    + (places[place, 2] // BLOCK + v) * places[place, 5]
                    + places[place, 3] // BLOCK
                    + u
                )
                for g in range(groups):
                    here, there = np.int64(target[by + i, bx + j, g]), np.int64(source[block, g])
                    if g == 0 and turn & 4:
                        there = 256 - there
                    if g == 1 and ((turn & 1) != 0) != ((turn & 2) != 0):
                        there = 256 - there
                    if g < 2 and target[by + i, bx + j, 0] == 128 and target[by + i, bx + j, 1] == 128:
                        continue
                    if g == 2 and there <= here:
                        continue
                    cost += weights[g] * (here - there) * (here - there)
        cost = cost // (cells * cells)
        if cost >= costs[_SHORTLIST - 1]:
            continue
        k = _SHORTLIST - 1
        while k > 0 and costs[k - 1] > cost:
            costs[k], shortlist[k] = costs[k - 1], shortlist[k - 1]
            k -= 1
        costs[k], shortlist[k] = cost, candidate


@compiled()
def _difference(canvas, y, x, pixels, p):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for channel in range(3):
        d = np.int64(canvas[y, x, channel]) - np.int64(pixels[p, channel])
        total += d * d
    return total


@compiled()
def _mismatch(canvas, y0, x0, row, column, patch, overlap, pixels, places, candidate):  # type: ignore[no-untyped-def]
    """Mean squared difference, in 16ths, where a patch overlaps what lies there; of every second pixel."""
    total, count = np.int64(0), 0
    for i in range(0, patch, 2):
        for j in range(i // 2 % 2, patch, 2):
            if (row > 0 and i < overlap) or (column > 0 and j < overlap):
                total += _difference(canvas, y0 + i, x0 + j, pixels, _at(places, candidate, i, j, patch))
                count += 1
    return total * 16 // (3 * count) if count else np.int64(0)


@compiled()
def _find_cuts(  # type: ignore[no-untyped-def]
    alpha, canvas, origin, y0, x0, row, column, patch, overlap, pixels, nucleus, places, candidate
):
    """Mark the pixels of a patch beyond the cheapest cuts through its overlaps: 1 = taken from the patch."""
    alpha[:] = 1
    error = np.empty((patch, overlap), np.int64)
    for side in range(2):
        if (side == 0 and column == 0) or (side == 1 and row == 0):
            continue
        for i in range(patch):
            for j in range(overlap):
                v, u = (i, j) if side == 0 else (j, i)
                p = _at(places, candidate, v, u, patch)
                error[i, j] = _difference(canvas, y0 + v, x0 + u, pixels, p)
                if len(nucleus) and (nucleus[p] or nucleus[origin[y0 + v, x0 + u]]):
                    error[i, j] += NUCLEUS_COST
        for i in range(1, patch):
            for j in range(overlap):
                least = error[i - 1, j]
                if j > 0:
                    least = min(least, error[i - 1, j - 1])
                if j < overlap - 1:
                    least = min(least, error[i - 1, j + 1])
                error[i, j] += least
        j = 0
        for k in range(1, overlap):
            if error[patch - 1, k] < error[patch - 1, j]:
                j = k
        for i in range(patch - 1, -1, -1):
            for k in range(j):
                if side == 0:
                    alpha[i, k] = 0
                else:
                    alpha[k, i] = 0
            if i > 0:
                step = j
                if j > 0 and error[i - 1, j - 1] < error[i - 1, step]:
                    step = j - 1
                if j < overlap - 1 and error[i - 1, j + 1] < error[i - 1, step]:
                    step = j + 1
                j = step


@compiled()
def _blend(  # type: ignore[no-untyped-def]
    canvas,
    origin,
    alpha,
    y0,
    x0,
    row,
    column,
    patch,
    overlap,
    wanted,
    pixels,
    kinds,
    kind_of,
    places,
    whole,
    loose,
    candidate,
    spares,
):
    """Lay a patch on the canvas. Pixels of the wrong kind are taken from a patch that is of the right kind alone."""
    spare, found = np.zeros(2, np.int64), False
    for i in range(patch):
        for j in range(patch):
            weight = 0
            for v in range(max(0, i - 1), min(patch, i + 2)):
                for u in range(max(0, j - 1), min(patch, j + 2)):
                    weight += alpha[v, u]
            covered = (row > 0 and i < overlap) or (column > 0 and j < overlap)
            if not covered or i == patch - 1 or j == patch - 1:
                weight = _FEATHER if alpha[i, j] else 0
            if weight == 0:
                continue
            kind = wanted[y0 + i, x0 + j]
            p = _at(places, candidate, i, j, patch)
            if kind_of[kinds[p]] != kind:
                if not found:
                    found = True
                    _nearest_spares(spare, canvas, y0, x0, row, column, patch, overlap, pixels, places, whole, spares)
                if spare[kind] >= 0:
                    p = _at(places, spare[kind], i, j, patch)
                elif kind == 1:  # the air within a patch of tissue may be its brightest pixels
                    p = loose[kind, (i * patch + j) % loose.shape[1]]
                else:
                    p = _nearest_of_kind(places, candidate, i, j, patch, kind, kinds, kind_of, loose)
            if weight * 2 > _FEATHER:
                origin[y0 + i, x0 + j] = p
            for channel in range(3):
                old, new = np.int64(canvas[y0 + i, x0 + j, channel]), np.int64(pixels[p, channel])
                canvas[y0 + i, x0 + j, channel] = (new * weight + old * (_FEATHER - weight) + 4) // _FEATHER


@compiled()
def _nearest_of_kind(places, candidate, i, j, patch, kind, kinds, kind_of, loose):  # type: ignore[no-untyped-def]
    """Find the pixel of a patch nearest to one of it that is of the right kind; else take a loose one of the slide."""
    for reach in range(1, patch):
        for v in range(max(0, i - reach), min(patch, i + reach + 1)):
            inner = abs(v - i) != reach
            for u in range(j - reach, j + reach + 1, 2 * reach if inner else 1):
                if 0 <= u < patch:
                    p = _at(places, candidate, v, u, patch)
                    if kind_of[kinds[p]] == kind:
                        return p
    return loose[kind, (i * patch + j) % loose.shape[1]]


@compiled()
def _nearest_spares(best, canvas, y0, x0, row, column, patch, overlap, pixels, places, whole, spares):  # type: ignore[no-untyped-def]
    """Of patches of one kind alone, find the one of each kind that fits what lies there best."""
    for kind in range(2):
        least, best[kind] = np.int64(1) << 62, -1
        for k in range(spares.shape[1]):
            if whole[spares[kind, k]] != kind + 1:
                continue
            candidate = spares[kind, k] * 8 + (k & 7)
            cost = _mismatch(canvas, y0, x0, row, column, patch, overlap, pixels, places, candidate)
            if cost < least:
                least, best[kind] = cost, candidate
