"""Metrics by hand, and against slow definitions that share no code with them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segment import metrics

TWO = np.array([[1, 1, 2, 2]])
NONE = np.zeros((1, 4), int)


def masks(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == value for value in np.unique(labels) if value != 0]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def slow_aji(truth: np.ndarray, pred: np.ndarray) -> float:
    """Kumar 2017, Algorithm 1, object by object."""
    nuclei, found = masks(truth), masks(pred)
    inter = union = 0
    used = set()
    for nucleus in nuclei:
        ious = [iou(nucleus, other) for other in found]
        best = int(np.argmax(ious)) if ious else -1
        if best < 0 or ious[best] == 0:
            union += nucleus.sum()
            continue
        used.add(best)
        inter += (nucleus & found[best]).sum()
        union += (nucleus | found[best]).sum()
    union += sum(found[j].sum() for j in range(len(found)) if j not in used)
    return float(inter / union) if union else math.nan


def slow_matching_gain(truth: np.ndarray, pred: np.ndarray) -> float:
    """The largest sum of IoU that a one-to-one matching can have, by trying all of them."""
    nuclei, found = masks(truth), masks(pred)
    if len(nuclei) > len(found):
        nuclei, found = found, nuclei
    return max(
        (
            sum(iou(a, b) for a, b in zip(nuclei, chosen, strict=True))
            for chosen in itertools.permutations(found, len(nuclei))
        ),
        default=0.0,
    )


def slow_panoptic(truth: np.ndarray, pred: np.ndarray) -> tuple[int, int, int, float]:
    nuclei, found = masks(truth), masks(pred)
    ious = [iou(a, b) for a in nuclei for b in found if 2 * int((a & b).sum()) > int((a | b).sum())]
    return len(ious), len(found) - len(ious), len(nuclei) - len(ious), sum(ious)


label_maps = arrays(np.int32, (5, 6), elements=st.sampled_from([0, 0, 1, 2, 7, 300, 70_000]))


@settings(max_examples=150, deadline=None)
@given(label_maps, label_maps)
def test_instance_metrics_equal_the_slow_definitions(truth: np.ndarray, pred: np.ndarray) -> None:
    table = metrics.overlap(truth, pred)
    assert metrics.aji(table).value == pytest.approx(slow_aji(truth, pred), abs=1e-12, nan_ok=True)
    quality = metrics.panoptic_quality(table)
    assert (quality.tp, quality.fp, quality.fn) == slow_panoptic(truth, pred)[:3]
    assert quality.iou_sum == pytest.approx(slow_panoptic(truth, pred)[3])
    chosen = metrics._assign(table)
    assert len(set(table.pair_truth[chosen])) == len(set(table.pair_pred[chosen])) == len(chosen)
    assert table.iou[chosen].sum() == pytest.approx(slow_matching_gain(truth, pred))


@settings(max_examples=60, deadline=None)
@given(label_maps, label_maps, st.permutations([1, 2, 7, 300, 70_000]))
def test_instance_metrics_do_not_depend_on_the_ids_of_the_truth(
    truth: np.ndarray, pred: np.ndarray, order: list[int]
) -> None:
    renamed = np.zeros_like(truth)
    for old, new in zip([1, 2, 7, 300, 70_000], order, strict=True):
        renamed[truth == old] = new
    before, after = metrics.overlap(truth, pred), metrics.overlap(renamed, pred)
    assert metrics.aji(before) == metrics.aji(after)
    assert metrics.panoptic_quality(before).pq == pytest.approx(metrics.panoptic_quality(after).pq, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_instance_metrics_of_a_perfect_prediction_are_exactly_one(truth: np.ndarray) -> None:
    table = metrics.overlap(truth, truth.copy())
    expected = 1.0 if truth.any() else math.nan
    for value in (metrics.aji(table).value, metrics.aji_plus(table).value, metrics.panoptic_quality(table).pq):
        assert value == expected or (math.isnan(value) and math.isnan(expected))


def test_aji_of_one_prediction_over_two_truths_is_a_half_and_aji_plus_a_third() -> None:
    table = metrics.overlap(TWO, np.full((1, 4), 9))
    assert metrics.aji(table) == metrics.AggregatedJaccard(4, 8)
    assert metrics.aji_plus(table) == metrics.AggregatedJaccard(2, 6)
    assert metrics.aji(table).value == 0.5
    assert metrics.aji_plus(table).value == pytest.approx(1 / 3)


def test_aji_plus_takes_the_better_pairing_of_a_chain() -> None:
    # Greedy would give 1-7 (IoU 4/5) and leave 2 with nothing; 7 serves 1, and 8 serves 2, by the larger sum.
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    pred = np.array([[7, 7, 7, 7, 7, 8, 8, 8]])
    assert metrics.aji_plus(metrics.overlap(truth, pred)) == metrics.AggregatedJaccard(7, 9)


def test_panoptic_quality_of_an_iou_of_exactly_a_half_is_no_match() -> None:
    quality = metrics.panoptic_quality(metrics.overlap(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]])))
    assert (quality.tp, quality.fp, quality.fn) == (0, 1, 1)
    assert (quality.dq, quality.sq, quality.pq) == (0, 0, 0)


def test_panoptic_quality_by_hand() -> None:
    truth = np.array([[1, 1, 1, 0, 2, 2, 0, 3]])
    pred = np.array([[5, 5, 0, 0, 6, 6, 9, 0]])
    quality = metrics.panoptic_quality(metrics.overlap(truth, pred))
    assert (quality.tp, quality.fp, quality.fn) == (2, 1, 1)
    assert quality.sq == pytest.approx((2 / 3 + 1) / 2)
    assert quality.dq == pytest.approx(2 / 3)
    assert quality.pq == pytest.approx(2 / 3 * 5 / 6)


@pytest.mark.parametrize(("truth", "pred"), [(TWO, NONE), (NONE, TWO)], ids=["empty prediction", "empty truth"])
def test_instance_metrics_of_one_empty_side_are_zero(truth: np.ndarray, pred: np.ndarray) -> None:
    table = metrics.overlap(truth, pred)
    assert metrics.aji(table).value == metrics.aji_plus(table).value == metrics.panoptic_quality(table).pq == 0


def test_instance_metrics_of_two_empty_sides_are_nan() -> None:
    table = metrics.overlap(NONE, NONE)
    values = (metrics.aji(table).value, metrics.aji_plus(table).value, metrics.panoptic_quality(table).sq)
    assert all(math.isnan(value) for value in (*values, metrics.panoptic_quality(table).dq))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64, np.uint64])
def test_overlap_takes_every_integer_type_gaps_and_no_background(dtype: type) -> None:
    truth, pred = np.array([[3, 3, 250, 250]], dtype), np.array([[9, 9, 9, 200]], dtype)
    table = metrics.overlap(truth, pred)
    assert table.truth_ids.tolist() == [3, 250]
    assert table.pred_ids.tolist() == [9, 200]
    assert table.truth_area_px.tolist() == [2, 2]
    assert table.pred_area_px.tolist() == [3, 1]
    assert table.intersection_px.tolist() == [2, 1, 1]
    assert table.iou.tolist() == [2 / 3, 1 / 4, 1 / 2]


def test_overlap_counts_more_pairs_than_its_first_table_holds() -> None:
    truth = np.arange(6400).reshape(80, 80)
    pred = truth[::-1] * 300_000
    table = metrics.overlap(truth, pred)
    assert table.truth_ids.size == table.pred_ids.size == 6399
    assert table.intersection_px.sum() == 6398  # each zero hides one object of the other map


@pytest.mark.parametrize(
    "bad",
    [
        np.array([[-1]]),
        np.array([[-1]], np.int32),
        np.array([[2**31]]),
        np.array([[2**31]], np.uint32),
        np.array([[1.0]]),
    ],
)
def test_overlap_refuses_ids_out_of_range_and_floats(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        metrics.overlap(bad, np.zeros((1, 1), int))


def test_overlap_refuses_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        metrics.overlap(TWO, TWO[:, :3])


def test_pooled_metrics_are_those_of_the_images_side_by_side() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 5, (9, 9)), rng.integers(0, 5, (9, 9))) for _ in range(4)]
    tables = [metrics.overlap(*pair) for pair in pairs]
    joined = [
        np.hstack([np.where(pair[side] > 0, pair[side] + 10 * n, 0) for n, pair in enumerate(pairs)]) for side in (0, 1)
    ]
    whole = metrics.overlap(*joined)
    assert metrics.pool_jaccard([metrics.aji(table) for table in tables]) == metrics.aji(whole)
    pooled = metrics.pool_panoptic([metrics.panoptic_quality(table) for table in tables])
    assert pooled.pq == pytest.approx(metrics.panoptic_quality(whole).pq)


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
