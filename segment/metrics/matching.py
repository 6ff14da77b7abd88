"""Pairs of nucleus and prediction that belong together: the best pair of each, and the best one-to-one matching."""

from __future__ import annotations

import numpy as np

from factory.core.compiled import compiled
from segment.metrics.overlap import Floats, Ints, Overlap


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
    pairs: Ints = _assignment(table.pair_truth, table.pair_pred, gain, table.truth_ids.size, table.pred_ids.size)
    return pairs


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
def _assignment(pair_truth: Ints, pair_pred: Ints, gain: Floats, truths: int, preds: int) -> Ints:
    """Maximum-weight bipartite matching on the pairs alone, by shortest augmenting paths with potentials.

    The Hungarian method (Kuhn 1955) as Dijkstra's search (Edmonds and Karp 1972), on a sparse graph. The potentials are
    the dual solution: ``y[t] + z[p] >= gain`` for every pair, with equality for chosen pairs, and 0 for single objects.
    A nucleus may stay single, at the cost of its ``y``, so each search stays among objects that overlap each other.
    SciPy's sparse matching gives the same sums, but takes 300 times as long on an image with 1,200 pairs.
    """
    first = np.searchsorted(pair_truth, np.arange(truths + 1))
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
    return chosen[chosen >= 0]
