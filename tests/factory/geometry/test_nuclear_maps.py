"""Maps of nuclei: against erosions and thinning of one nucleus at a time, wherever it lies, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage import data, morphology

from factory.geometry.nuclear_maps import Metric, contour_of, distance_map, skeleton_map, skeleton_of

METRICS: tuple[Metric, ...] = ("chessboard", "cityblock")
ANY_MAP = arrays(
    np.int32, st.tuples(st.integers(0, 12), st.integers(0, 12)), elements=st.sampled_from([0, 1, 2, 10**9])
)
BLOBS = {
    "seed": st.integers(0, 2**32),
    "height": st.integers(1, 40),
    "width": st.integers(1, 140),  # past two words of 64 pixels
    "count": st.integers(0, 12),
    "gap": st.sampled_from([1, 7, 10**8]),
}


def blobs(seed: int, height: int, width: int, count: int, gap: int) -> np.ndarray:
    """Ellipses that overlap, touch and leave the tile; the last drawn is on top, so that some lie in pieces."""
    rng = np.random.default_rng(seed)
    instance = np.zeros((height, width), np.int32)
    rows, columns = np.indices((height, width))
    for number in range(count):
        y, x, angle = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
        along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        instance[(along / rng.uniform(0.6, 14)) ** 2 + (across / rng.uniform(0.6, 7)) ** 2 < 1] = 1 + number * gap
    return instance


def ids_of(instance: np.ndarray) -> list[int]:
    return sorted(set(instance.ravel().tolist()) - {0})


def eroded_counts(instance: np.ndarray, metric: Metric) -> np.ndarray:
    """How many erosions each pixel stands until it is gone, one nucleus at a time; the border erodes nothing."""
    footprint = ndimage.generate_binary_structure(2, 2 if metric == "chessboard" else 1)
    counts = np.zeros(instance.shape, np.float32)
    for label in ids_of(instance):
        left = instance == label
        if left.all():  # nothing ever erodes it
            return np.ones(instance.shape, np.float32)
        while left.any():
            counts += left
            left = ndimage.binary_erosion(left, footprint, border_value=1)
    return counts


def assert_equals_erosion(instance: np.ndarray) -> None:
    for metric in METRICS:
        counts = eroded_counts(instance, metric)
        expected = np.zeros(instance.shape, np.float32)
        for label in ids_of(instance):
            expected[instance == label] = counts[instance == label] / counts[instance == label].max()
        found = distance_map(instance, metric)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        is_one_nucleus = instance.size > 0 and len(np.unique(instance)) == 1
        np.testing.assert_array_equal(contour_of(instance, metric), (counts == 1) & (not is_one_nucleus))


def assert_equals_thinning(instance: np.ndarray) -> None:
    """Each nucleus alone on its tile: the same lines; each piece keeps a pixel, no piece falls apart."""
    found = skeleton_of(instance)
    assert found.dtype == np.bool_
    assert not found[instance == 0].any()
    for label in ids_of(instance):
        nucleus = instance == label
        np.testing.assert_array_equal(found & nucleus, morphology.thin(nucleus))
        pieces, count = ndimage.label(nucleus, np.ones((3, 3)))
        assert set(pieces[found & nucleus].tolist()) == set(range(1, count + 1))
        assert ndimage.label(found & nucleus, np.ones((3, 3)))[1] == count


@settings(max_examples=60, deadline=None)
@given(**BLOBS)
def test_maps_equal_erosion_and_thinning_of_each_nucleus_for_touching_and_cut_ones(
    seed: int, height: int, width: int, count: int, gap: int
) -> None:
    instance = blobs(seed, height, width, count, gap)
    assert_equals_erosion(instance)
    assert_equals_thinning(instance)


@settings(max_examples=100, deadline=None)
@given(ANY_MAP)
def test_maps_equal_erosion_and_thinning_of_each_nucleus_for_any_map(instance: np.ndarray) -> None:
    assert_equals_erosion(instance)
    assert_equals_thinning(instance)


def test_maps_equal_erosion_and_thinning_of_real_shapes() -> None:
    horse, coins = ~data.horse()[::3, ::3], data.coins()[::2, ::2] > 110
    for instance in (horse.astype(np.int32), ndimage.label(coins)[0].astype(np.int32)):
        assert_equals_erosion(instance)
        assert_equals_thinning(instance)


@settings(max_examples=40, deadline=None)
@given(shift=st.tuples(st.integers(0, 9), st.integers(0, 9)), **BLOBS)
def test_maps_of_a_nucleus_are_the_same_wherever_it_lies(
    shift: tuple[int, int], seed: int, height: int, width: int, count: int, gap: int
) -> None:
    instance = np.pad(blobs(seed, height, width, count, gap), 1)
    down, right = shift
    moved = np.pad(instance, ((down, 3), (right, 5)))
    inner = slice(down, down + instance.shape[0]), slice(right, right + instance.shape[1])
    for metric in METRICS:
        np.testing.assert_array_equal(skeleton_map(moved, metric)[inner], skeleton_map(instance, metric))


def test_distance_by_hand_of_a_square_a_pixel_and_touching_nuclei() -> None:
    instance = np.zeros((7, 9), np.int32)
    instance[1:6, 1:6] = 4
    instance[3, 6] = 9  # one pixel, beside the square
    third = np.float32(1) / np.float32(3)
    row = [0, third, 2 * third, 1, 2 * third, third, 1, 0, 0]
    for metric in METRICS:
        np.testing.assert_array_equal(distance_map(instance, metric)[3], np.array(row, np.float32))
    assert distance_map(instance, "chessboard")[2, 2] == distance_map(instance, "cityblock")[2, 2] == 2 * third
    halves = np.repeat([[1] * 3 + [2] * 3], 5, axis=0).astype(np.int32)
    np.testing.assert_array_equal(contour_of(halves)[2], [False, False, True, True, False, False])


def test_metrics_differ_where_a_corner_of_background_looks_in() -> None:
    instance = np.ones((5, 5), np.int32)
    instance[0, 0] = 0
    assert contour_of(instance, "chessboard").sum() == 3
    assert contour_of(instance, "cityblock").sum() == 2


def test_border_is_no_contour_unless_background_is_padded() -> None:
    cut = np.zeros((5, 6), np.int32)
    cut[:, :4] = 3
    np.testing.assert_array_equal(distance_map(cut)[2], np.array([1, 0.75, 0.5, 0.25, 0, 0], np.float32))
    assert contour_of(cut).sum(axis=0).tolist() == [0, 0, 0, 5, 0, 0]
    closed = distance_map(np.pad(cut, 1))[1:-1, 1:-1]
    np.testing.assert_array_equal(closed[2], np.array([0.5, 1, 1, 0.5, 0, 0], np.float32))


def test_skeleton_map_is_the_sum_and_reaches_from_0_to_2() -> None:
    instance = blobs(5, 60, 70, 9, 3)
    for metric in METRICS:
        found = skeleton_map(instance, metric)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, distance_map(instance, metric) + skeleton_of(instance))
        assert found.min() == 0
        assert 1 < found.max() <= 2


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (4, 6)])
@pytest.mark.parametrize("label", [0, 1, 2**31 - 1])
def test_maps_of_empty_tiles_and_of_one_nucleus_all_over(shape: tuple[int, int], label: int) -> None:
    instance = np.full(shape, label, np.int32)
    for metric in METRICS:
        np.testing.assert_array_equal(distance_map(instance, metric), np.full(shape, label > 0, np.float32))
        assert not contour_of(instance, metric).any()
        assert skeleton_map(instance, metric).shape == shape
    assert skeleton_of(instance).any() == (label > 0 and instance.size > 0)


def test_maps_of_views_and_read_only_maps_are_those_of_copies() -> None:
    instance = blobs(2, 50, 60, 9, 1)
    instance.flags.writeable = False
    view = instance[3:40, 2:51]
    np.testing.assert_array_equal(skeleton_map(view), skeleton_map(view.copy()))
    np.testing.assert_array_equal(contour_of(view), contour_of(view.copy()))
    np.testing.assert_array_equal(skeleton_map(instance.T), skeleton_map(instance.T.copy()))


def test_other_arrays_and_metrics_are_refused() -> None:
    good = np.ones((3, 3), np.int32)
    for make in (distance_map, skeleton_map, skeleton_of, contour_of):
        for wrong in (good.astype(np.uint8), good.astype(np.int64), good[None]):
            with pytest.raises(ValueError, match=r"instance: expected int32 \[H, W\], got"):
                make(wrong)  # type: ignore[operator]
        with pytest.raises(ValueError, match="instance: expected ids from 0, got -1"):
            make(-good)  # type: ignore[operator]
    for make in (distance_map, skeleton_map, contour_of):
        with pytest.raises(ValueError, match="metric: expected chessboard or cityblock, got euclidean"):
            make(good, "euclidean")  # type: ignore[operator]
