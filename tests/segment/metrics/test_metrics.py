"""Instance metrics by hand, and against slow definitions that share no code with them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segment import metrics
from segment.metrics.overlap import assignment
from tests import metric_oracles as slow

TWO = np.array([[1, 1, 2, 2]])
NONE = np.zeros((1, 4), int)
IDS = [1, 2, 7, 300, 70_000]

label_maps = arrays(np.int32, (5, 6), elements=st.sampled_from([0, 0, *IDS]))


def blobs(seed: int, *, size: int, nuclei: int) -> np.ndarray:
    """Overlapping squares with ids that have gaps, some of them hidden by others."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    for label in rng.permutation(3 * nuclei)[:nuclei] + 1:
        y, x, side = rng.integers(0, size - 3), rng.integers(0, size - 3), rng.integers(2, 8)
        labels[y : y + side, x : x + side] = label
    return labels


@settings(max_examples=150, deadline=None)
@given(label_maps, label_maps)
def test_instance_metrics_equal_the_slow_definitions(truth: np.ndarray, pred: np.ndarray) -> None:
    table = metrics.overlap(truth, pred)
    assert metrics.aji(table).value == pytest.approx(slow.aji(truth, pred), abs=1e-12, nan_ok=True)
    quality = metrics.panoptic_quality(table)
    *counts, iou_sum = slow.panoptic(truth, pred)
    assert [quality.tp, quality.fp, quality.fn] == counts
    assert quality.iou_sum == pytest.approx(iou_sum, abs=1e-12)
    expected_dice = pytest.approx(slow.foreground_dice(truth, pred), abs=1e-12, nan_ok=True)
    assert metrics.foreground_dice(table).value == expected_dice
    assert metrics.object_dice(table).value == pytest.approx(slow.object_dice(truth, pred), abs=1e-12, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(label_maps, label_maps)
def test_assignment_has_the_largest_sum_that_a_one_to_one_matching_can_have(
    truth: np.ndarray, pred: np.ndarray
) -> None:
    table = metrics.overlap(truth, pred)
    dense = np.zeros((table.truth_ids.size, table.pred_ids.size))
    dense[table.pair_truth, table.pair_pred] = table.iou
    chosen = assignment(table, table.iou)
    assert len(set(table.pair_truth[chosen])) == len(set(table.pair_pred[chosen])) == len(chosen)
    assert table.iou[chosen].sum() == pytest.approx(slow.largest_matching(dense), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_aji_plus_of_crowded_maps_equals_the_hungarian_method_on_the_whole_table(seed: int) -> None:
    truth, pred = blobs(seed, size=48, nuclei=60), blobs(seed + 100, size=48, nuclei=50 + 5 * (seed % 4))
    assert metrics.aji_plus(metrics.overlap(truth, pred)).value == pytest.approx(slow.aji_plus(truth, pred), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(label_maps, label_maps, st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.9]))
def test_detection_finds_as_many_objects_as_any_matching_could(
    truth: np.ndarray, pred: np.ndarray, threshold: float
) -> None:
    table = metrics.overlap(truth, pred)
    (found,) = metrics.detection(table, [threshold])
    assert found.tp == slow.matched_above(truth, pred, threshold)
    assert (found.tp + found.fn, found.tp + found.fp) == (table.truth_ids.size, table.pred_ids.size)


@settings(max_examples=60, deadline=None)
@given(label_maps, label_maps, st.permutations(IDS))
def test_instance_metrics_do_not_depend_on_the_ids_of_the_truth(
    truth: np.ndarray, pred: np.ndarray, order: list[int]
) -> None:
    renamed = np.zeros_like(truth)
    for old, new in zip(IDS, order, strict=True):
        renamed[truth == old] = new
    before, after = metrics.overlap(truth, pred), metrics.overlap(renamed, pred)
    assert metrics.aji(before) == metrics.aji(after)
    assert metrics.foreground_dice(before) == metrics.foreground_dice(after)
    assert metrics.panoptic_quality(before).pq == pytest.approx(metrics.panoptic_quality(after).pq, nan_ok=True)
    assert metrics.detection(before, [0.3])[0] == metrics.detection(after, [0.3])[0]


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_instance_metrics_of_a_perfect_prediction_are_exactly_one(truth: np.ndarray) -> None:
    table = metrics.overlap(truth, truth.copy())
    expected = 1.0 if truth.any() else math.nan
    figures = list(metrics.instance_scores(table).figures.values())
    figures += [found.f1 for found in metrics.detection(table)]
    for value in figures:
        assert value == expected or (math.isnan(value) and math.isnan(expected))
    assert metrics.object_dice(table).value == pytest.approx(expected, nan_ok=True)


def test_aji_of_one_prediction_over_two_truths_is_a_half_and_aji_plus_a_third() -> None:
    table = metrics.overlap(TWO, np.full((1, 4), 9))
    assert metrics.aji(table) == metrics.AggregatedJaccard(4, 8)
    assert metrics.aji_plus(table) == metrics.AggregatedJaccard(2, 6)
    assert metrics.aji(table).value == 0.5
    assert metrics.aji_plus(table).value == pytest.approx(1 / 3)


def test_aji_adds_what_nobody_took_to_the_union() -> None:
    # 1 takes 5 (IoU 2/4) and not 6 (1/4); 2 is missed, 6 and 9 are spare.
    truth = np.array([[0, 1, 1, 1, 0, 0, 0, 2, 0]])
    pred = np.array([[6, 6, 5, 5, 5, 0, 9, 0, 0]])
    assert metrics.aji(metrics.overlap(truth, pred)) == metrics.AggregatedJaccard(2, 4 + 1 + 2 + 1)


def test_aji_of_equal_ious_takes_the_larger_prediction() -> None:
    # Prediction 3 has IoU 1/4 (1 of 4 px) and so has 8 (2 of 8 px): 8 is taken, and 3 is spare.
    truth = np.array([[1, 1, 1, 1, 0, 0, 0, 0]])
    pred = np.array([[3, 8, 8, 0, 8, 8, 8, 8]])
    assert metrics.overlap(truth, pred).iou.tolist() == [1 / 4, 1 / 4]
    assert metrics.aji(metrics.overlap(truth, pred)) == metrics.AggregatedJaccard(2, 8 + 1)


def test_aji_plus_takes_the_better_pairing_of_a_chain() -> None:
    # Greedy would give 1-7 (IoU 4/5) and leave 2 with nothing; 7 serves 1, and 8 serves 2, by the larger sum.
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    pred = np.array([[7, 7, 7, 7, 7, 8, 8, 8]])
    assert metrics.aji_plus(metrics.overlap(truth, pred)) == metrics.AggregatedJaccard(7, 9)


def test_aji_plus_leaves_the_best_single_pair_where_two_others_are_worth_more() -> None:
    truth = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]])
    pred = np.array([[8, 8, 8, 7, 7, 7, 7, 7, 7, 7, 7]])
    table = metrics.overlap(truth, pred)
    assert table.iou.tolist() == [5 / 11, 3 / 8, 3 / 8]  # 1-7, 1-8, 2-7
    assert metrics.aji_plus(table) == metrics.AggregatedJaccard(6, 16)


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


def test_both_dices_by_hand() -> None:
    truth = np.array([[1, 1, 1, 0, 2, 2, 0, 3]])
    pred = np.array([[5, 5, 0, 0, 6, 6, 9, 0]])
    table = metrics.overlap(truth, pred)
    assert metrics.foreground_dice(table).value == 2 * 4 / (6 + 5)
    # Truth: 3/6 x 4/5 + 2/6 x 1 + 1/6 x 0; prediction: 2/5 x 4/5 + 2/5 x 1 + 1/5 x 0.
    assert metrics.object_dice(table).value == pytest.approx(((3 / 6 * 4 / 5 + 2 / 6) + (2 / 5 * 4 / 5 + 2 / 5)) / 2)


def test_object_dice_takes_the_object_that_covers_most_and_not_the_one_with_the_best_iou() -> None:
    truth = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    pred = np.array([[4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]])
    # 8 covers 3 px of nucleus 1 (Dice 6/16), 4 only 2 (Dice 4/7).
    of_pred = (2 * 4 / 7 + 11 * 6 / 16) / 13
    assert metrics.object_dice(metrics.overlap(truth, pred)).value == pytest.approx((6 / 16 + of_pred) / 2)


def test_detection_counts_strictly_above_the_threshold() -> None:
    truth, pred = np.array([[1, 1, 0, 2, 2, 2, 2, 2]]), np.array([[1, 0, 0, 2, 2, 2, 2, 0]])  # IoU 1/2 and 4/5
    at = {found.threshold: found for found in metrics.detection(metrics.overlap(truth, pred), [0.4, 0.5, 0.75, 0.8])}
    assert {threshold: found.tp for threshold, found in at.items()} == {0.4: 2, 0.5: 1, 0.75: 1, 0.8: 0}
    assert (at[0.5].precision, at[0.5].recall, at[0.5].f1) == (0.5, 0.5, 0.5)


def test_detection_below_a_half_matches_as_many_as_it_can() -> None:
    # 1 overlaps 7 (3/8) and 8 (3/9), 2 overlaps 7 alone (2/7): 1 must take 8 though 7 is closer.
    truth = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2]])
    pred = np.array([[7, 7, 7, 8, 8, 8, 8, 8, 8, 7, 7, 0, 0]])
    table = metrics.overlap(truth, pred)
    assert table.iou.tolist() == [3 / 8, 3 / 9, 2 / 7]
    assert metrics.detection(table, [0.2])[0].tp == 2
    assert metrics.detection(table, [0.3])[0].tp == 1


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_detection_refuses_a_threshold_that_nothing_or_everything_passes(threshold: float) -> None:
    with pytest.raises(ValueError, match="thresholds from 0 to below 1"):
        metrics.detection(metrics.overlap(TWO, TWO), [threshold])


@pytest.mark.parametrize(("truth", "pred"), [(TWO, NONE), (NONE, TWO)], ids=["empty prediction", "empty truth"])
def test_instance_metrics_of_one_empty_side_are_zero(truth: np.ndarray, pred: np.ndarray) -> None:
    table = metrics.overlap(truth, pred)
    assert set(metrics.instance_scores(table).figures.values()) == {0.0}
    assert metrics.object_dice(table).value == 0
    (found,) = metrics.detection(table, [0.5])
    assert found.f1 == 0
    assert math.isnan(found.precision) == (pred is NONE)
    assert math.isnan(found.recall) == (truth is NONE)


@pytest.mark.parametrize("empty", [NONE, np.zeros((0, 0), np.uint16)], ids=["no object", "no pixel"])
def test_instance_metrics_of_two_empty_sides_are_nan(empty: np.ndarray) -> None:
    table = metrics.overlap(empty, empty)
    values = list(metrics.instance_scores(table).figures.values())
    values += [metrics.object_dice(table).value, metrics.detection(table, [0.3])[0].f1]
    assert all(math.isnan(value) for value in values)


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


@pytest.mark.parametrize("pixels", [1, 7, 8, 9, 1023, 1024, 1025, 2048, 5000])
def test_overlap_counts_every_pixel_at_any_size(pixels: int) -> None:
    rng = np.random.default_rng(pixels)
    truth, pred = (np.repeat(rng.integers(0, 4, pixels), rng.integers(1, 5, pixels))[:pixels] for _ in range(2))
    table = metrics.overlap(truth[None], pred[None])
    counted = {
        (int(table.truth_ids[t]), int(table.pred_ids[p])): int(shared)
        for t, p, shared in zip(table.pair_truth, table.pair_pred, table.intersection_px, strict=True)
    }
    pairs, counts = np.unique(np.stack([truth, pred]), axis=1, return_counts=True)
    assert counted == {(int(t), int(p)): int(n) for (t, p), n in zip(pairs.T, counts, strict=True) if t > 0 and p > 0}
    assert table.truth_area_px.sum() == np.count_nonzero(truth)
    assert table.pred_area_px.sum() == np.count_nonzero(pred)


def test_overlap_counts_more_pairs_than_its_first_table_holds() -> None:
    truth = np.arange(6400).reshape(80, 80)
    pred = truth[::-1] * 300_000
    table = metrics.overlap(truth, pred)
    assert table.truth_ids.size == table.pred_ids.size == 6399
    assert table.intersection_px.sum() == 6398  # each zero hides one object of the other map


def test_overlap_takes_maps_that_are_read_only_or_strided() -> None:
    truth = np.arange(48, dtype=np.int32).reshape(6, 8) // 4
    frozen = truth.copy()
    frozen.flags.writeable = False
    assert metrics.aji(metrics.overlap(frozen, truth)).value == 1
    assert metrics.aji(metrics.overlap(truth.T, np.asfortranarray(truth.T))).value == 1
    assert metrics.aji(metrics.overlap(truth[:, ::2], truth[:, ::2].copy())).value == 1


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
    with pytest.raises(ValueError, match="expected"):
        metrics.overlap(np.zeros((1, 1), int), bad)


def test_overlap_refuses_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        metrics.overlap(TWO, TWO[:, :3])


def test_ignored_pixels_count_for_neither_side() -> None:
    truth, pred = np.array([[1, 1, 2, 2]], np.uint16), np.array([[5, 5, 5, 5]], np.int32)
    ignored = np.array([[False, False, True, True]])
    left = metrics.without_ignored(truth, pred, ignored)
    assert [part.tolist() for part in left] == [[[1, 1, 0, 0]], [[5, 5, 0, 0]]]
    assert [part.dtype for part in left] == [np.uint16, np.int32]
    assert metrics.aji(metrics.overlap(*left)).value == 1


def test_pooled_metrics_are_those_of_the_images_side_by_side() -> None:
    pairs = [(blobs(n, size=24, nuclei=9), blobs(n + 50, size=24, nuclei=9)) for n in range(4)]
    tables = [metrics.overlap(*pair) for pair in pairs]
    joined = [
        np.hstack([np.where(pair[side] > 0, pair[side] + 100 * n, 0) for n, pair in enumerate(pairs)])
        for side in (0, 1)
    ]
    whole = metrics.overlap(*joined)
    pooled = metrics.pool([metrics.instance_scores(table) for table in tables])
    assert pooled.figures == pytest.approx(metrics.instance_scores(whole).figures)
    object_dice = metrics.pool([metrics.object_dice(table) for table in tables])
    assert object_dice.value == pytest.approx(metrics.object_dice(whole).value)
    (found,) = metrics.detection(whole, [0.3])
    assert metrics.pool([metrics.detection(table, [0.3])[0] for table in tables]) == found


def test_pooling_detections_of_two_thresholds_is_refused() -> None:
    with pytest.raises(ValueError, match="one threshold"):
        metrics.pool(metrics.detection(metrics.overlap(TWO, TWO), [0.5, 0.6]))
