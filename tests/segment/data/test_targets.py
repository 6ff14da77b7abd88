"""The distance target: against a slow oracle per nucleus, and by hand where nuclei touch, are cut or unknown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segment.data.targets import DISTANCE_SCALE, DISTANCE_UNKNOWN, distance_target


def slow_target(instance: np.ndarray, nucleus: np.ndarray) -> np.ndarray:
    """One nucleus at a time, every pixel against every edge pixel of the same nucleus."""
    target = np.where(nucleus & (instance == 0), DISTANCE_UNKNOWN, 0).astype(np.uint8)
    for identity in set(instance.ravel().tolist()) - {0}:
        pixels = [tuple(pixel) for pixel in np.argwhere(instance == identity)]
        edge = [(y, x) for y, x in pixels if (instance[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] != identity).any()]
        depth = {(y, x): 1 + min((np.hypot(y - v, x - u) for v, u in edge), default=0.0) for y, x in pixels}
        largest = max(depth.values())
        for pixel, value in depth.items():
            target[pixel] = round(DISTANCE_SCALE * value / largest)
    return target


def blobs(seed: int, height: int, width: int, count: int, gap: int) -> np.ndarray:
    """Discs that overlap, touch and leave the image; the last drawn is on top."""
    rng = np.random.default_rng(seed)
    instance = np.zeros((height, width), np.int32)
    rows, columns = np.indices((height, width))
    for number in range(count):
        y, x, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, 9)
        instance[(rows - y) ** 2 + (columns - x) ** 2 < r**2] = 1 + number * gap
    return instance


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 33), st.integers(1, 33), st.integers(0, 12), st.sampled_from([1, 7, 10**8])
)
def test_distance_equals_the_slow_oracle_of_touching_and_cut_nuclei(
    seed: int, height: int, width: int, count: int, gap: int
) -> None:
    instance = blobs(seed, height, width, count, gap)
    nucleus = np.random.default_rng(seed).random((height, width)) < 0.3
    found, expected = distance_target(instance, nucleus), slow_target(instance, nucleus)
    assert found.dtype == np.uint8
    # float32 against float64: a value that lies on .5 may round to either side.
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.02
    assert np.array_equal(found == DISTANCE_UNKNOWN, expected == DISTANCE_UNKNOWN)


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_distance_of_any_map_is_complete_and_equals_the_oracle(instance: np.ndarray) -> None:
    nowhere = np.zeros(instance.shape, bool)
    found = distance_target(instance, nowhere)
    assert np.array_equal(found > 0, instance > 0)
    assert {int(found[instance == identity].max()) for identity in set(instance.ravel().tolist()) - {0}} <= {254}
    assert np.abs(found.astype(int) - slow_target(instance, nowhere)).max() <= 1


def test_touching_nuclei_have_a_valley_between_them_by_hand() -> None:
    instance = np.zeros((5, 12), np.int32)
    instance[:, 1:6], instance[:, 6:11] = 4, 9
    row = distance_target(instance, instance > 0)[2].tolist()
    third, two_thirds = round(254 / 3), round(254 * 2 / 3)
    assert row == [0, third, two_thirds, 254, two_thirds, third, third, two_thirds, 254, two_thirds, third, 0]


def test_a_nucleus_cut_by_the_border_is_deepest_there() -> None:
    instance = np.zeros((3, 6), np.int32)
    instance[:, :4] = 1
    assert distance_target(instance, instance > 0).tolist() == [[254, 190, 127, 64, 0, 0]] * 3


def test_pixels_of_a_nucleus_class_without_an_id_are_unknown() -> None:
    instance, nucleus = np.zeros((4, 4), np.int32), np.zeros((4, 4), bool)
    instance[1, 1], nucleus[1, 1:3] = 5, True
    target = distance_target(instance, nucleus)
    assert (target[1, 1], target[1, 2]) == (254, DISTANCE_UNKNOWN)
    assert np.count_nonzero(target) == 2


@pytest.mark.parametrize(("identity", "value"), [(0, 0), (3, 254), (2**31 - 1, 254)])
def test_one_id_all_over_is_flat(identity: int, value: int) -> None:
    assert (distance_target(np.full((6, 7), identity, np.int32), np.zeros((6, 7), bool)) == value).all()


def test_read_only_and_strided_maps_are_fine() -> None:
    instance = blobs(3, 24, 40, 6, 1)
    expected = distance_target(instance, instance > 0)
    turned = np.ascontiguousarray(instance.T).T
    turned.flags.writeable = False
    assert np.array_equal(distance_target(turned, instance > 0), expected)
