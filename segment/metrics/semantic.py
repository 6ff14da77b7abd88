"""Semantic metrics, all computed from one confusion matrix of pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from segment.metrics.overlap import Floats, Ints

IGNORE = 255
"""True label that every semantic metric leaves out."""


def confusion(truth: npt.NDArray[np.uint8], pred: npt.NDArray[np.uint8], classes: int) -> Ints:
    """Confusion matrix int64 [C, C]: pixels by true class (row) and predicted class (column), truth 255 left out.

    Raises:
        ValueError: for unequal shapes or labels outside 0..C-1.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"expected maps of one shape, got {truth.shape} and {pred.shape}")
    known = truth != IGNORE
    t, p = truth[known].astype(np.int64), pred[known].astype(np.int64)
    if t.size and (max(int(t.max()), int(p.max())) >= classes or min(int(t.min()), int(p.min())) < 0):
        raise ValueError(f"expected labels 0..{classes - 1}, got {max(int(t.max()), int(p.max()))}")
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: Ints) -> Floats:
    """IoU per class: float64 [C], NaN for a class absent from both sides."""
    tp, truth, pred = _counts(matrix)
    return _ratio(tp, truth + pred - tp)


def class_dice(matrix: Ints) -> Floats:
    """Dice per class, 2 TP / (2 TP + FP + FN): float64 [C], NaN for a class absent from both sides."""
    tp, truth, pred = _counts(matrix)
    return _ratio(2 * tp, truth + pred)


def mean_iou(matrix: Ints) -> float:
    """Mean IoU of the classes that are in the truth or the prediction ("Noise in the correct frequency", Eq. 1)."""
    return _mean(class_iou(matrix))


def dice(matrix: Ints) -> float:
    """Mean Dice of the classes that are in the truth or the prediction."""
    return _mean(class_dice(matrix))


def wiou(matrix: Ints) -> float:
    """IoU weighted by class share of the truth, sum of s_c / S x IoU_c ("Noise in the correct frequency", Eq. 2).

    The paper's Eqs. 2 to 4 also divide by C, which would limit the value to 1/C; here that factor is left out.
    """
    return _weighted(matrix, class_iou(matrix))


def wprecision(matrix: Ints) -> float:
    """Precision weighted by class share (Eq. 3 without 1/C); 0 for a true class that is never predicted."""
    tp, _, pred = _counts(matrix)
    return _weighted(matrix, np.nan_to_num(_ratio(tp, pred)))


def wrecall(matrix: Ints) -> float:
    """Recall weighted by class share (Eq. 4 without 1/C); equals pixel accuracy."""
    tp, truth, _ = _counts(matrix)
    return _weighted(matrix, _ratio(tp, truth))


SEMANTIC: dict[str, Callable[[Ints], float]] = {
    "mean_iou": mean_iou,
    "wiou": wiou,
    "wprecision": wprecision,
    "wrecall": wrecall,
    "dice": dice,
}
"""Metrics of a confusion matrix by name. To add one, write a function above and a line here and in `names`."""


def t_objective(mean_dice: float, cross_entropy: float) -> float:
    """Objective of "Noise in the correct frequency" as printed (Eq. 5), 1 / (mean Dice + CE / 4): lower is better.

    Args:
        mean_dice: of the classes that are in the truth or the prediction.
        cross_entropy: mean over the labelled pixels, natural logarithm.
    """
    total = mean_dice + cross_entropy / 4
    return 1 / total if total else float("nan")


def _counts(matrix: Ints) -> tuple[Ints, Ints, Ints]:
    """True positives, and pixels of the class in the truth and in the prediction: int64 [C] each."""
    return np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def _ratio(part: Ints, whole: Ints) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _weighted(matrix: Ints, values: Floats) -> float:
    """Sum of values weighted by the class's share of the truth; other classes have weight 0."""
    shares, there = matrix.sum(axis=1), matrix.sum(axis=1) > 0
    return float((shares[there] * values[there]).sum() / shares.sum()) if there.any() else float("nan")
