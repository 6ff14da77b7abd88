"""The overlap table of two instance maps, from which every instance metric is computed, and matchings of its pairs.

The pixels are read once, and no two metrics can disagree about which objects overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

MAX_ID = 2**31 - 1
"""The largest id of an object."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_BLOCK_PX = 1024  # pixels at a time: the marks of a block stay in the first-level cache


@dataclass(frozen=True, eq=False)
class Overlap:
    """How the objects of two instance maps overlap. Background (0) is no object; ids may have gaps.

    Attributes:
        truth_ids, pred_ids: int64 [T] and [P], ascending.
        truth_area_px, pred_area_px: pixels of each object.
        pair_truth, pair_pred: int64 [K], positions of the pairs that share a pixel, by truth and then prediction.
        intersection_px: int64 [K], pixels that a pair shares, always above 0.
    """

    truth_ids: Ints
    pred_ids: Ints
    truth_area_px: Ints
    pred_area_px: Ints
    pair_truth: Ints
    pair_pred: Ints
    intersection_px: Ints

    @cached_property
    def union_px(self) -> Ints:
        """Pixels that either object of a pair covers: int64 [K]."""
        return self.truth_area_px[self.pair_truth] + self.pred_area_px[self.pair_pred] - self.intersection_px

    @cached_property
    def iou(self) -> Floats:
        """Intersection over union of every pair: float64 [K]."""
        return self.intersection_px / self.union_px


def overlap(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> Overlap:
    """Count the pixels of every (truth id, predicted id) in one pass over both maps.

    Args:
        truth: instance map [H, W] of any integer dtype, ids 0..2^31-1, 0 = background.
        pred: likewise.

    Raises:
        ValueError: for unequal shapes, ids outside the range, or maps that are not integer.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"expected maps of one shape, got {truth.shape} and {pred.shape}")
    keys, counts = _count_pairs(_as_ids(truth, "truth"), _as_ids(pred, "pred"))
    taken = np.flatnonzero(counts)
    order = taken[np.argsort(keys[taken])]
    keys, counts = keys[order], counts[order]
    truth_of, pred_of = (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    truth_ids, truth_area_px, truth_at = _objects(truth_of, counts, np.arange(keys.size))
    pred_ids, pred_area_px, pred_at = _objects(pred_of, counts, np.argsort(pred_of))
    for name, ids in (("truth", truth_ids), ("pred", pred_ids)):
        if ids.size and ids[-1] > MAX_ID:
            raise ValueError(f"{name}: expected ids from 0 to {MAX_ID}")
    both = (truth_at >= 0) & (pred_at >= 0)
    return Overlap(truth_ids, pred_ids, truth_area_px, pred_area_px, truth_at[both], pred_at[both], counts[both])


def without_ignored(
    truth: npt.NDArray[Any], pred: npt.NDArray[Any], ignored: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Copies of both instance maps with the ignored pixels as background, so that they count for neither side.

    An object that is ignored in part keeps the rest of its pixels.

    Args:
        truth, pred: instance maps [H, W].
        ignored: bool [H, W], True where the truth is unknown.
    """
    return np.where(ignored, truth.dtype.type(0), truth), np.where(ignored, pred.dtype.type(0), pred)


def _as_ids(labels: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint32]:
    """Flat uint32 ids: one type, so that the kernel is compiled once.

    A negative int32 id becomes one above `MAX_ID`, which `overlap` refuses. A read-only map is copied, because numba
    would compile the kernel for it once more.
    """
    if labels.dtype.kind not in "ui" and labels.dtype != np.bool_:
        raise ValueError(f"{name}: expected an integer instance map, got {labels.dtype}")
    flat = np.ascontiguousarray(labels).reshape(-1)
    if labels.dtype in (np.int32, np.uint32):
        ids = flat.view(np.uint32)
        return ids if ids.flags.writeable else ids.copy()
    if labels.dtype.kind == "i" or labels.dtype.itemsize > 4:
        low, high = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
        if low < 0 or high > MAX_ID:
            raise ValueError(f"{name}: expected ids from 0 to {MAX_ID}, got {low}..{high}")
    return flat.astype(np.uint32)


@compiled()
def _count_pairs(truth: npt.NDArray[np.uint32], pred: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Pixels per (truth, pred), keyed ``truth << 32 | pred``, in no order; slots with a count of 0 are free.

    The table is written only where a run of equal pairs ends. It grows between blocks: growing inside the loop over
    the pixels would take three to six times as long.
    """
    keys, counts = np.zeros(4 * _BLOCK_PX, np.uint64), np.zeros(4 * _BLOCK_PX, np.int64)
    ends = np.empty(_BLOCK_PX, np.uint8)
    start, used = np.int64(0), np.int64(0)  # literals would compile `_add_runs` twice
    for block in range(0, truth.size, _BLOCK_PX):
        stop = min(block + _BLOCK_PX, truth.size)
        _mark_ends(truth[block : stop + 1], pred[block : stop + 1], ends)
        if 2 * (used + _BLOCK_PX) > keys.size:
            keys, counts = _doubled(keys, counts)
        start, used = _add_runs(truth, pred, ends, block, start, used, keys, counts)
    return keys, counts


@compiled()
def _mark_ends(truth: npt.NDArray[np.uint32], pred: npt.NDArray[np.uint32], ends: npt.NDArray[np.uint8]) -> None:
    """Mark every pixel of a block whose pair differs from that of the next pixel: a loop that compilers vectorise.

    `truth` and `pred` include the first pixel after the block. Without one, the block's last pixel ends the map.
    """
    next_truth, next_pred = truth[1:], pred[1:]
    inside = min(next_truth.size, ends.size)
    for at in range(inside):
        ends[at] = (truth[at] != next_truth[at]) | (pred[at] != next_pred[at])
    if inside < ends.size:
        ends[inside], ends[inside + 1 :] = 1, 0


@compiled()
def _add_runs(
    truth: npt.NDArray[np.uint32],
    pred: npt.NDArray[np.uint32],
    ends: npt.NDArray[np.uint8],
    block: int,
    start: int,
    used: int,
    keys: npt.NDArray[np.uint64],
    counts: Ints,
) -> tuple[int, int]:
    """Count the runs that end in a block; returns the start of the open run, and the number of used slots."""
    eights = ends.view(np.uint64)
    for eight in range(eights.size):
        if eights[eight] == 0:  # eight pixels without an end
            continue
        for at in range(8 * eight, 8 * eight + 8):
            if ends[at]:
                here = block + at
                key = (np.uint64(truth[here]) << np.uint64(32)) | np.uint64(pred[here])
                slot = _slot(keys, counts, key)
                if counts[slot] == 0:
                    keys[slot] = key
                    used += 1
                counts[slot] += here + 1 - start
                start = here + 1
    return start, used


@compiled()
def _slot(keys: npt.NDArray[np.uint64], counts: Ints, key: np.uint64) -> np.int64:
    """Slot of `key` in the table, or the free slot where it belongs.

    Open addressing with multiplicative hashing (Knuth vol. 3, 6.4); the size is a power of two.
    """
    mask = np.int64(keys.size - 1)
    slot = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while counts[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled()
def _doubled(keys: npt.NDArray[np.uint64], counts: Ints) -> tuple[npt.NDArray[np.uint64], Ints]:
    """The same table with twice the slots."""
    more_keys, more_counts = np.zeros(2 * keys.size, np.uint64), np.zeros(2 * keys.size, np.int64)
    for old in range(keys.size):
        if counts[old]:
            slot = _slot(more_keys, more_counts, keys[old])
            more_keys[slot], more_counts[slot] = keys[old], counts[old]
    return more_keys, more_counts


@compiled()
def _objects(ids: Ints, counts: Ints, order: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct ids above 0, their pixel counts, and the position of each entry of `ids` among them (-1: background).

    `order` sorts `ids`.
    """
    distinct, area = np.empty(ids.size, np.int64), np.zeros(ids.size, np.int64)
    position, found = np.empty(ids.size, np.int64), 0
    for at in order:
        if ids[at] == 0:
            position[at] = -1
            continue
        if found == 0 or distinct[found - 1] != ids[at]:
            distinct[found] = ids[at]
            found += 1
        area[found - 1] += counts[at]
        position[at] = found - 1
    return distinct[:found].copy(), area[:found].copy(), position


def best_of_truth(table: Overlap, score: Floats) -> Ints:
    """Position of the pair with the highest score of every nucleus that has one; ties go to the lowest predicted id."""
    best: Ints = _best_pairs(table.pair_truth, table.truth_ids.size, score)
    return best


def best_of_pred(table: Overlap, score: Floats) -> Ints:
    """Position of the pair with the highest score of every prediction that has one; ties go to the lowest true id."""
    best: Ints = _best_pairs(table.pair_pred, table.pred_ids.size, score)
    return best


def assignment(table: Overlap, gain: Floats) -> Ints:
    """Positions of the pairs of a one-to-one matching with the largest sum of `gain`.

    Objects may stay single. Where two matchings have the same sum, either may be taken.

    Args:
        table: of T nuclei and P predictions in K pairs.
        gain: float64 [K]; a pair with gain 0 or less is never taken.
    """
    first = np.searchsorted(table.pair_truth, np.arange(table.truth_ids.size + 1))
    pairs: Ints = _assignment(table.pair_truth, table.pair_pred, gain, first, table.pred_ids.size)
    return pairs[pairs >= 0]


@compiled()
def _best_pairs(side: Ints, objects: int, score: Floats) -> Ints:
    """The first of equal scores wins; in a table the pairs of one object ascend by the other's id."""
    best = np.full(objects, -1)
    for pair in range(side.size):
        before = best[side[pair]]
        if before < 0 or score[pair] > score[before]:
            best[side[pair]] = pair
    return best[best >= 0]


@compiled()
def _assignment(pair_truth: Ints, pair_pred: Ints, gain: Floats, first: Ints, preds: int) -> Ints:
    """Maximum-weight bipartite matching on the pairs alone, by shortest augmenting paths with potentials.

    Pairs first[t] to first[t + 1] are those of nucleus t. Returns the pair of each nucleus, -1 where it has none.

    The Hungarian method (Kuhn 1955) as Dijkstra's search (Edmonds and Karp 1972), on a sparse graph. The potentials are
    the dual solution: ``y[t] + z[p] >= gain`` for every pair, with equality for chosen pairs, and 0 for single objects.
    A nucleus may stay single, at the cost of its ``y``, so each search stays among objects that overlap each other.
    SciPy's sparse matching gives the same sums, but takes 300 times as long on an image with 1,200 pairs.
    """
    truths = first.size - 1
    y, z = np.zeros(truths), np.zeros(preds)
    chosen, owner = np.full(truths, -1), np.full(preds, -1)  # the pair of a nucleus, the nucleus of a prediction
    distance, arrival, done = np.full(preds, np.inf), np.full(preds, -1), np.zeros(preds, np.bool_)
    reached = np.empty(preds, np.int64)
    for root in range(truths):
        for pair in range(first[root], first[root + 1]):
            y[root] = max(y[root], gain[pair])
        # Search from the root: the cheapest way to a free prediction, or to a nucleus that becomes single.
        shortest, free, single = y[root], -1, root
        row, base, count = root, 0.0, 0
        while True:
            for pair in range(first[row], first[row + 1]):
                column = pair_pred[pair]
                length = base + y[row] + z[column] - gain[pair]
                if not done[column] and length < distance[column]:
                    if distance[column] == np.inf:
                        reached[count] = column
                        count += 1
                    distance[column], arrival[column] = length, pair
            nearest = -1
            for column in reached[:count]:
                if not done[column] and (nearest < 0 or distance[column] < distance[nearest]):
                    nearest = column
            if nearest < 0 or distance[nearest] >= shortest:
                break
            if owner[nearest] < 0:
                shortest, free = distance[nearest], nearest
                break
            done[nearest] = True
            row, base = owner[nearest], distance[nearest]
            if base + y[row] < shortest:
                shortest, single = base + y[row], row
        # Move the potentials, then turn the path round, from its end back to the root.
        y[root] -= shortest
        for column in reached[:count]:
            if done[column]:
                z[column] += shortest - distance[column]
                y[owner[column]] -= shortest - distance[column]
            done[column], distance[column] = False, np.inf
        column = free
        if free < 0 and single != root:
            column = pair_pred[chosen[single]]
            chosen[single] = -1
        while column >= 0:
            pair = arrival[column]
            row = pair_truth[pair]
            before = pair_pred[chosen[row]] if chosen[row] >= 0 else -1
            chosen[row], owner[column] = pair, row
            column = before
    return chosen
