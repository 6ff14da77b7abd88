"""Semantic metrics by hand, and against loops over pixels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segment import metrics


def test_semantic_metrics_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0, 0, 0, 1, 1]], np.uint8)
    pred = np.array([[0, 0, 0, 0, 0, 1, 1, 0]], np.uint8)
    matrix = metrics.confusion(truth, pred, 3)
    assert matrix.tolist() == [[5, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert metrics.mean_iou(matrix) == pytest.approx((5 / 7 + 1 / 3) / 2)  # class 2 is nowhere: left out
    assert metrics.wiou(matrix) == pytest.approx(0.75 * 5 / 7 + 0.25 / 3)
    assert metrics.wprecision(matrix) == pytest.approx(0.75 * 5 / 6 + 0.25 * 1 / 2)
    assert metrics.wrecall(matrix) == pytest.approx(6 / 8)
    assert metrics.dice(matrix) == pytest.approx((10 / 12 + 2 / 4) / 2)
    assert np.isnan(metrics.class_iou(matrix)[2])


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.uint8, 40, elements=st.sampled_from([0, 1, 2, 3, 255])), arrays(np.uint8, 40, elements=st.integers(0, 3))
)
def test_semantic_metrics_equal_the_slow_definitions(truth: np.ndarray, pred: np.ndarray) -> None:
    matrix = metrics.confusion(truth, pred, 4)
    known = [(t, p) for t, p in zip(truth.tolist(), pred.tolist(), strict=True) if t != 255]
    ious, dices, weighted, precision, recall = [], [], 0.0, 0.0, 0.0
    for label in range(4):
        tp = sum(t == p == label for t, p in known)
        fp = sum(p == label != t for t, p in known)
        fn = sum(t == label != p for t, p in known)
        if tp + fp + fn:
            ious.append(tp / (tp + fp + fn))
            dices.append(2 * tp / (2 * tp + fp + fn))
        if tp + fn:
            share = (tp + fn) / len(known)
            weighted += share * tp / (tp + fp + fn)
            precision += share * tp / (tp + fp) if tp + fp else 0.0
            recall += share * tp / (tp + fn)
    if not known:
        assert all(math.isnan(metric(matrix)) for metric in metrics.SEMANTIC.values())
        return
    expected = {
        "mean_iou": np.mean(ious), "dice": np.mean(dices), "wiou": weighted, "wprecision": precision, "wrecall": recall,
    }  # fmt: skip
    assert {name: metric(matrix) for name, metric in metrics.SEMANTIC.items()} == pytest.approx(expected)


def test_weighted_metrics_of_a_perfect_prediction_are_one_whatever_the_number_of_classes() -> None:
    truth = np.repeat(np.arange(5, dtype=np.uint8), [1, 2, 3, 4, 90])
    matrix = metrics.confusion(truth, truth, 5)
    assert {metric(matrix) for metric in metrics.SEMANTIC.values()} == {1.0}


def test_confusion_refuses_labels_outside_the_classes_and_unequal_shapes() -> None:
    labels = np.array([0, 2], np.uint8)
    with pytest.raises(ValueError, match=r"labels 0\.\.1, got 2"):
        metrics.confusion(labels, np.zeros(2, np.uint8), 2)
    with pytest.raises(ValueError, match=r"labels 0\.\.1, got 2"):
        metrics.confusion(np.zeros(2, np.uint8), labels, 2)
    with pytest.raises(ValueError, match="one shape"):
        metrics.confusion(labels, labels[:1], 3)


def test_t_objective_is_the_papers_printed_form() -> None:
    assert metrics.t_objective(0.8, 0.4) == pytest.approx(1 / 0.9)
    assert math.isnan(metrics.t_objective(0.0, 0.0))
