"""Boundary metrics by hand, and against loops over pixels."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segment import metrics
from tests import metric_oracles as slow

NONE = np.zeros((6, 6), np.uint16)
ONE = np.pad(np.full((2, 2), 700, np.uint16), 2)

label_maps = arrays(np.uint16, (7, 9), elements=st.sampled_from([0, 0, 0, 1, 2, 700]))


@settings(max_examples=100, deadline=None)
@given(label_maps, label_maps, st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_boundary_metrics_equal_the_slow_definitions(truth: np.ndarray, pred: np.ndarray, tolerance: float) -> None:
    assert np.argwhere(metrics.boundary(truth)).tolist() == [list(at) for at in slow.boundary_pixels(truth)]
    found = metrics.surface_distances(truth, pred)
    assert found.hd95 == pytest.approx(slow.hd95(truth, pred), abs=1e-9, nan_ok=True)
    score = metrics.boundary_f1(truth, pred, tolerance_px=tolerance)
    assert score.f1 == pytest.approx(slow.boundary_f1(truth, pred, tolerance), abs=1e-12, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(label_maps)
def test_boundary_metrics_of_a_perfect_prediction_are_perfect(truth: np.ndarray) -> None:
    hd95, f1 = metrics.surface_distances(truth, truth).hd95, metrics.boundary_f1(truth, truth, tolerance_px=0).f1
    assert (hd95, f1) == (0, 1) if truth.any() else math.isnan(hd95) and math.isnan(f1)


def test_hd95_of_a_shifted_square_is_the_shift_in_pixels_and_in_micrometres() -> None:
    truth, pred = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    truth[10:30, 10:30], pred[10:30, 17:37] = 1, 1
    assert metrics.surface_distances(truth, pred).hd95 == 7
    assert metrics.surface_distances(truth, pred, mpp=0.25).hd95 == 7 / 4


@pytest.mark.parametrize("away", [(1, 799), (799, 2), (560, 560), (1, 1999), (1, 3999)])
def test_distances_are_exact_up_to_800_px_and_right_to_a_millionth_beyond(away: tuple[int, int]) -> None:
    truth, pred = np.zeros((2, away[0] + 1, away[1] + 1), np.uint8)
    truth[0, 0] = pred[away] = 1
    expected = math.sqrt(away[0] ** 2 + away[1] ** 2)
    found = metrics.surface_distances(truth, pred).hd95
    assert found == (expected if expected < 800 else pytest.approx(expected, rel=1e-6))


def test_hd95_leaves_out_the_farthest_twentieth() -> None:
    # 1 of 101 boundary pixels is 50 px off: the maximum is 50, the 95th percentile is 0.
    truth = np.zeros((60, 120), np.uint8)
    truth[5, :100] = 1
    pred = truth.copy()
    pred[55, 0] = 1
    assert metrics.surface_distances(truth, pred).pred_to_truth.max() == 50
    assert metrics.surface_distances(truth, pred).hd95 == 0


def test_hd95_joins_touching_objects_and_boundary_f1_does_not() -> None:
    apart, joined = np.ones((5, 8), int), np.ones((5, 8), int)
    apart[:, 4:] = 2
    assert metrics.surface_distances(apart, joined).hd95 == 0
    score = metrics.boundary_f1(apart, joined, tolerance_px=0)
    assert (score.truth_px, score.truth_hits) == (22 + 6, 22)  # the seam is two pixels wide, three of five rows inside
    assert (score.pred_px, score.pred_hits) == (22, 22)


def test_boundary_f1_grows_with_the_tolerance_and_counts_the_tolerance_itself() -> None:
    truth, pred = np.zeros((9, 12), int), np.zeros((9, 12), int)
    truth[2, 2:10], pred[5, 2:10] = 4, 9
    scores = [metrics.boundary_f1(truth, pred, tolerance_px=tolerance).f1 for tolerance in (0, 2.9, 3, 5)]
    assert scores == [0, 0, 1, 1]
    assert all(a <= b for a, b in pairwise(scores))


@pytest.mark.parametrize(("truth", "pred"), [(ONE, NONE), (NONE, ONE)], ids=["empty prediction", "empty truth"])
def test_boundary_metrics_of_one_empty_side_are_the_worst(truth: np.ndarray, pred: np.ndarray) -> None:
    assert metrics.surface_distances(truth, pred).hd95 == math.inf
    score = metrics.boundary_f1(truth, pred)
    assert score.f1 == 0
    assert math.isnan(score.precision) == (pred is NONE)
    assert math.isnan(score.recall) == (truth is NONE)


def test_boundary_metrics_of_two_empty_sides_are_nan() -> None:
    assert math.isnan(metrics.surface_distances(NONE, NONE).hd95)
    assert math.isnan(metrics.boundary_f1(NONE, NONE).f1)


def test_pooled_distances_are_measured_within_each_image() -> None:
    far = np.roll(ONE, 2, axis=1)
    parts = [metrics.surface_distances(ONE, far), metrics.surface_distances(ONE, ONE)]
    pooled = metrics.pool(parts)
    assert sorted(pooled.truth_to_pred.tolist()) == [0, 0, 0, 0, 1, 1, 2, 2]
    assert pooled.hd95 == 2
    lost = metrics.pool([metrics.surface_distances(ONE, NONE), *[parts[1]] * 30])
    assert lost.hd95 == 0  # 4 of 124 boundary pixels have no prediction in their image: less than a twentieth
    assert metrics.pool([metrics.surface_distances(ONE, NONE), parts[1]]).hd95 == math.inf


def test_pooled_boundary_f1_adds_pixels() -> None:
    parts = [metrics.boundary_f1(ONE, ONE, tolerance_px=0), metrics.boundary_f1(ONE, NONE, tolerance_px=0)]
    pooled = metrics.pool(parts)
    assert (pooled.precision, pooled.recall) == (1, 0.5)
    assert pooled.f1 == pytest.approx(2 / 3)


def test_boundary_metrics_refuse_unequal_shapes_and_a_negative_tolerance() -> None:
    with pytest.raises(ValueError, match="one shape"):
        metrics.surface_distances(ONE, ONE[:3])
    with pytest.raises(ValueError, match="one shape"):
        metrics.boundary_f1(ONE, ONE[:3])
    with pytest.raises(ValueError, match="0 pixels or more, got -1"):
        metrics.boundary_f1(ONE, ONE, tolerance_px=-1)
