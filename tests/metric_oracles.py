"""Slow definitions of the metrics: loops over ids, with a mask of the whole image for each object.

The first four are written as the field's reference code works (HoVer-Net's `stats_utils`: for AJI, AJI+ and PQ a uint8
mask per id, for every true id the sums and products of whole masks with each prediction below it, one loop per metric),
in our own words. They share no code with `segment`, and `bench.metrics` measures against them.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


def id_masks(labels: np.ndarray) -> dict[int, np.ndarray]:
    return {int(label): np.array(labels == label, np.uint8) for label in np.unique(labels) if label != 0}


Masks = list[np.ndarray]


def pair_pixels(truth: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray, Masks, Masks]:
    """Intersections and unions [T, P], and the masks of the objects of both maps."""
    truths, preds = id_masks(truth), id_masks(pred)
    column = {label: at for at, label in enumerate(preds)}
    inter, union = np.zeros((len(truths), len(preds))), np.zeros((len(truths), len(preds)))
    for row, mask in enumerate(truths.values()):
        for label in np.unique(pred[mask > 0]):
            if label != 0:
                other = preds[int(label)]
                shared = (mask * other).sum()
                inter[row, column[int(label)]] = shared
                union[row, column[int(label)]] = (mask + other).sum() - shared
    return inter, union, list(truths.values()), list(preds.values())


def jaccard(inter: np.ndarray, union: np.ndarray, truths: Masks, preds: Masks, pairs: Iterable) -> float:
    pairs = [(t, p) for t, p in pairs if inter[t, p] > 0]
    missed = [truths[t] for t in set(range(len(truths))) - {t for t, _ in pairs}]
    spare = [preds[p] for p in set(range(len(preds))) - {p for _, p in pairs}]
    whole = sum(union[pair] for pair in pairs) + sum(float(mask.sum()) for mask in missed + spare)
    return float(sum(inter[pair] for pair in pairs) / whole) if whole else math.nan


def aji(truth: np.ndarray, pred: np.ndarray) -> float:
    inter, union, truths, preds = pair_pixels(truth, pred)
    best = (inter / (union + 1e-6)).argmax(1) if inter.size else []
    return jaccard(inter, union, truths, preds, enumerate(best))


def aji_plus(truth: np.ndarray, pred: np.ndarray) -> float:
    inter, union, truths, preds = pair_pixels(truth, pred)
    rows, columns = linear_sum_assignment(inter / (union + 1e-6), maximize=True)
    return jaccard(inter, union, truths, preds, zip(rows, columns, strict=True))


def panoptic(truth: np.ndarray, pred: np.ndarray) -> tuple[int, int, int, float]:
    """TP, FP, FN and the sum of the matched IoUs."""
    inter, union, truths, preds = pair_pixels(truth, pred)
    matched = 2 * inter > union
    tp = int(matched.sum())
    return tp, len(preds) - tp, len(truths) - tp, float((inter[matched] / union[matched]).sum())


def foreground_dice(truth: np.ndarray, pred: np.ndarray) -> float:
    a, b = (truth > 0).astype(np.int64), (pred > 0).astype(np.int64)
    total = (a + b).sum()
    return float(2 * (a * b).sum() / total) if total else math.nan


def largest_matching(gain: np.ndarray) -> float:
    """The largest sum that a one-to-one matching can have, by trying all of them."""
    if gain.shape[0] > gain.shape[1]:
        gain = gain.T
    rows = range(gain.shape[0])
    return max(
        (float(sum(gain[row, column] for row, column in zip(rows, columns, strict=True)))
         for columns in itertools.permutations(range(gain.shape[1]), gain.shape[0])), default=0.0,
    )  # fmt: skip


def matched_above(truth: np.ndarray, pred: np.ndarray, threshold: float) -> int:
    """The most pairs with an IoU above the threshold that a one-to-one matching can have."""
    inter, union, _, _ = pair_pixels(truth, pred)
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return round(largest_matching((iou > threshold).astype(float)))


def object_dice(truth: np.ndarray, pred: np.ndarray) -> float:
    """GlaS: each object against the one that covers most of it, weighted by area, from both sides."""
    if not truth.any() and not pred.any():
        return math.nan
    if not truth.any() or not pred.any():
        return 0.0
    halves = 0.0
    for own, other in ((truth, pred), (pred, truth)):
        for mask in id_masks(own).values():
            below = other[(mask > 0) & (other > 0)]
            if below.size:
                most = other == np.bincount(below).argmax()
                dice = 2 * (most & (mask > 0)).sum() / (most.sum() + mask.sum())
                halves += dice * mask.sum() / (own > 0).sum()
    return float(halves / 2)


def boundary_pixels(labels: np.ndarray) -> list[tuple[int, int]]:
    height, width = labels.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if labels[y, x] and any(
            not (0 <= v < height and 0 <= u < width) or labels[v, u] != labels[y, x] for v, u in around
        ):
            found.append((y, x))
    return found


def nearest(here: list[tuple[int, int]], there: list[tuple[int, int]]) -> np.ndarray:
    """The distance of each point to the nearest of the others; inf where there are none."""
    return cdist(here, there).min(1) if here and there else np.full(len(here), math.inf)


def hd95(truth: np.ndarray, pred: np.ndarray) -> float:
    a, b = boundary_pixels((truth > 0).astype(int)), boundary_pixels((pred > 0).astype(int))
    if not a or not b:
        return math.inf if a or b else math.nan
    return float(max(np.percentile(nearest(a, b), 95), np.percentile(nearest(b, a), 95)))


def boundary_f1(truth: np.ndarray, pred: np.ndarray, tolerance: float) -> float:
    a, b = boundary_pixels(truth), boundary_pixels(pred)
    if not a or not b:
        return 0.0 if a or b else math.nan
    recall, precision = float((nearest(a, b) <= tolerance).mean()), float((nearest(b, a) <= tolerance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
