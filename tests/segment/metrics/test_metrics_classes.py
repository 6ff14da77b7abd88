"""Panoptic quality class by class, by hand and against the maps of one class at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segment import metrics
from tests import metric_oracles as slow

label_maps = arrays(np.int32, (4, 6), elements=st.sampled_from([0, 1, 2, 7, 300]))
class_of_ids = st.fixed_dictionaries({label: st.sampled_from([1, 2, 3]) for label in (1, 2, 7, 300)})


@settings(max_examples=100, deadline=None)
@given(label_maps, label_maps, class_of_ids, class_of_ids)
def test_panoptic_quality_of_a_class_is_that_of_the_maps_with_only_that_class(
    truth: np.ndarray, pred: np.ndarray, truth_class: dict[int, int], pred_class: dict[int, int]
) -> None:
    table = metrics.overlap(truth, pred)
    classes = [truth_class[int(i)] for i in table.truth_ids], [pred_class[int(i)] for i in table.pred_ids]
    found = metrics.multiclass_panoptic_quality(table, *classes, (1, 2, 3))
    in_truth, in_either = [], []
    for label, part in zip((1, 2, 3), found.per_class, strict=True):
        only = [
            np.where(np.isin(labels, [i for i, kind in of.items() if kind == label]), labels, 0)
            for labels, of in ((truth, truth_class), (pred, pred_class))
        ]
        *counts, iou_sum = slow.panoptic(*only)
        assert [part.tp, part.fp, part.fn] == counts
        assert part.iou_sum == pytest.approx(iou_sum, abs=1e-12)
        in_truth += [part.pq] if only[0].any() else []
        in_either += [part.pq] if only[0].any() or only[1].any() else []
    assert found.mpq == pytest.approx(np.mean(in_either) if in_either else math.nan, nan_ok=True)
    assert found.pannuke_mpq == pytest.approx(np.mean(in_truth) if in_truth else math.nan, nan_ok=True)
    assert found.absent == 3 - len(in_either)


def test_multiclass_panoptic_quality_by_hand() -> None:
    # 1 (class 1) is found as class 1 with IoU 2/3, 2 (class 2) is found exactly but called class 1, and 9 is invented.
    table = metrics.overlap(np.array([[1, 1, 1, 0, 2, 2, 0, 0]]), np.array([[5, 5, 0, 0, 6, 6, 0, 9]]))
    found = metrics.multiclass_panoptic_quality(table, [1, 2], [1, 1, 3], (1, 2, 3, 4))
    counts = [(part.tp, part.fp, part.fn) for part in found.per_class]
    assert counts == [(1, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 0)]
    of_class_1 = (2 / 3) / (1 + 1 / 2)
    assert found.mpq == pytest.approx((of_class_1 + 0 + 0) / 3)  # class 4 is nowhere, class 3 in the prediction alone
    assert found.pannuke_mpq == pytest.approx((of_class_1 + 0) / 2)
    assert found.bpq == found.pannuke_bpq == pytest.approx((2 / 3 + 1) / (2 + 1 / 2))
    assert found.absent == 1


def test_multiclass_panoptic_quality_without_truth_is_zero_and_nan_as_pannuke_has_it() -> None:
    table = metrics.overlap(np.zeros((1, 3), int), np.array([[1, 1, 0]]))
    found = metrics.multiclass_panoptic_quality(table, [], [2], (1, 2))
    assert (found.mpq, found.bpq) == (0, 0)
    assert math.isnan(found.pannuke_mpq)
    assert math.isnan(found.pannuke_bpq)


def test_multiclass_panoptic_quality_of_two_empty_maps_is_nan() -> None:
    nothing = np.zeros((2, 2), int)
    found = metrics.multiclass_panoptic_quality(metrics.overlap(nothing, nothing), [], [], (1, 2))
    assert found.absent == 2
    assert all(math.isnan(value) for value in (found.mpq, found.bpq, found.pannuke_mpq, found.pannuke_bpq))


def test_pooled_multiclass_panoptic_quality_divides_after_it_has_summed() -> None:
    truth = np.array([[1, 1, 1, 2, 2]])
    images = [
        metrics.multiclass_panoptic_quality(metrics.overlap(truth, truth), [1, 2], [1, 2], (1, 2)),
        metrics.multiclass_panoptic_quality(metrics.overlap(truth, np.zeros_like(truth)), [1, 1], [], (1, 2)),
    ]
    pooled = metrics.pool(images)
    assert [(part.tp, part.fp, part.fn) for part in pooled.per_class] == [(1, 0, 2), (1, 0, 0)]
    assert pooled.mpq == (1 / 2 + 1) / 2  # the mean of the images' values would be (1 + 0) / 2
    assert pooled.bpq == pytest.approx(2 / 3)


def test_multiclass_panoptic_quality_refuses_a_class_list_of_another_length() -> None:
    table = metrics.overlap(np.array([[1, 2]]), np.array([[1, 2]]))
    with pytest.raises(ValueError, match="pred_classes: expected one class for each of 2 objects"):
        metrics.multiclass_panoptic_quality(table, [1, 1], [1], (1,))


def test_majority_classes_count_pixels_and_break_ties_by_the_lowest_label() -> None:
    instance = np.array([[4, 4, 4, 900, 900, 0], [4, 4, 70, 900, 900, 0]], np.uint16)
    semantic = np.array([[2, 2, 1, 3, 1, 5], [2, 1, 0, 1, 3, 5]], np.uint8)
    assert metrics.majority_classes(instance, semantic).tolist() == [2, 0, 1]  # of 4, 70 and 900


def test_majority_classes_refuse_negative_labels() -> None:
    with pytest.raises(ValueError, match="labels of 0 or more, got -1"):
        metrics.majority_classes(np.array([[1]]), np.array([[-1]]))
