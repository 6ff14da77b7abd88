"""The stain count: images composed of known stains give back vectors, amounts, nuclei and thresholds."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from experiments.stain_count_constants import Found, group_errors
from factory.core.statistics import otsu_threshold, youden_threshold
from segment.audit.stain_count import (
    LEAST_OD,
    StainVectors,
    estimate_vectors,
    find_nuclei,
    mean_dab,
    positive_area,
    smooth_dab,
    stain_densities,
)

BLUE = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
BROWN = np.array([0.27, 0.57, 0.78]) / np.linalg.norm([0.27, 0.57, 0.78])
KNOWN = StainVectors(tuple(BLUE.tolist()), tuple(BROWN.tolist()))


def compose(blue: np.ndarray, brown: np.ndarray) -> np.ndarray:
    """The image of two stain amounts [H, W] by Beer-Lambert."""
    density = blue[..., None] * BLUE + brown[..., None] * BROWN
    return np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)


def degrees(one: tuple[float, ...], other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(one, other), -1, 1))))


def discs(centres: list[tuple[int, int]], size: tuple[int, int], radius: int) -> np.ndarray:
    rows, columns = np.indices(size)
    return np.any([(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in centres], axis=0)


def patches(seed: int) -> np.ndarray:
    """Clear ground, and pixels of blue and brown in every proportion, a tenth of them of each stain alone."""
    rng = np.random.default_rng(seed)
    share = np.clip(rng.uniform(-0.1, 1.1, (96, 96)), 0, 1)
    amount = rng.uniform(0.4, 1.2, (96, 96)) * (np.arange(96) > 15)
    return compose(amount * (1 - share), amount * share)


def test_vectors_are_recovered_to_two_degrees() -> None:
    found = estimate_vectors([patches(0), patches(1)])
    assert found is not None
    assert degrees(found.haematoxylin, BLUE) < 2
    assert degrees(found.dab, BROWN) < 2


def test_vectors_of_images_without_stain_or_of_one_colour_are_none() -> None:
    blue = np.where(np.arange(64) > 20, 0.8, 0.0) * np.ones((64, 64))
    assert estimate_vectors([np.full((32, 32, 3), 250, np.uint8)]) is None
    assert estimate_vectors([compose(blue, 0 * blue)]) is None
    assert estimate_vectors([]) is None


def test_vectors_survive_json() -> None:
    assert TypeAdapter(StainVectors).validate_json(json.dumps(asdict(KNOWN))) == KNOWN


def test_densities_are_the_amounts_above_the_clear_ground() -> None:
    blue, brown = np.zeros((20, 30)), np.zeros((20, 30))
    blue[:, 10:20], brown[:, 20:] = 0.5, 0.7
    densities = stain_densities(compose(blue + 0.05, brown), KNOWN)  # pale blue everywhere
    np.testing.assert_allclose(densities[..., 0], blue, atol=0.02)
    np.testing.assert_allclose(densities[..., 1], brown, atol=0.02)


def test_pale_nuclei_are_found_beside_dark_ones() -> None:
    size = (96, 128)
    pale, dark = discs([(20, 20), (60, 30), (70, 90)], size, 9), discs([(25, 70), (50, 110)], size, 9)
    densities = stain_densities(compose(0.25 * pale, 1.6 * dark), KNOWN)
    nuclei = find_nuclei(densities, 0.5)
    ids, dab = mean_dab(densities, nuclei)
    assert ids.tolist() == [1, 2, 3, 4, 5]
    assert np.count_nonzero(dab > 0.5) == 2
    for truth in (pale, dark):
        assert (nuclei[truth] > 0).mean() > 0.8


def test_what_is_paler_than_the_least_density_is_no_nucleus() -> None:
    blue = (LEAST_OD + 0.1) * discs([(25, 25)], (80, 80), 9) + 0.6 * LEAST_OD * discs([(55, 55)], (80, 80), 9)
    densities = stain_densities(compose(blue, 0 * blue), KNOWN)
    assert find_nuclei(densities, 0.5).max() == 1
    assert find_nuclei(densities, 0.5, least_od=0.0).max() == 2


def test_constants_are_scored_by_group_and_an_empty_tile_is_the_worse_answer() -> None:
    dab, total = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.05, 0.5, 0.8, 0.9])
    kind = np.array([0, 0, 1, 1], np.int8)
    tiles = [
        Found("a", dab, total, kind, 0.5, 4),
        Found("a", dab[2:], total[2:], kind[2:], 0.75, 4),
        Found("b", dab[:1], total[:1], kind[:1], 0.3, 20),  # its one nucleus is left out by density
    ]
    by_hand = [((abs(2 / 3 - 0.5) + abs(1 - 0.75)) / 2, (3 / 4 + 2 / 4) / 2 - 1), (0.7, -1.0)]
    np.testing.assert_allclose(list(group_errors(tiles, 0.1)), by_hand)


def test_touching_nuclei_come_apart_and_cut_ones_stay_whole() -> None:
    blue = 0.8 * discs([(30, 30), (30, 46), (70, 0)], (96, 96), 9)
    assert find_nuclei(stain_densities(compose(blue, 0 * blue), KNOWN), 0.5).max() == 3


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_nothing_is_found_in_a_flat_image(grey: int) -> None:
    densities = stain_densities(np.full((64, 64, 3), grey, np.uint8), KNOWN)
    nuclei = find_nuclei(densities, 0.25)
    assert nuclei.shape == (64, 64)
    assert nuclei.max() == 0
    assert mean_dab(densities, nuclei)[0].size == 0


def test_mean_dab_is_per_nucleus_with_gaps_in_the_ids() -> None:
    densities = np.zeros((2, 3, 2), np.float32)
    densities[..., 1] = [[1, 3, 9], [0, 0.5, 9]]
    instance = np.array([[7, 7, 0], [900, 900, 0]], np.int32)
    ids, dab = mean_dab(densities, instance)
    assert ids.tolist() == [7, 900]
    assert dab.tolist() == [2.0, 0.25]


def test_positive_area_is_the_brown_share_of_the_region_alone() -> None:
    densities = np.zeros((80, 160, 2), np.float32)
    densities[:, 80:, 1] = 1.0
    region = np.zeros((80, 160), bool)
    region[:, :40] = region[:, 120:] = True  # far from the step, so that smoothing leaves it alone
    assert positive_area(densities, region, 1.0, 0.5) == 0.5
    assert positive_area(densities, region & (np.arange(160) < 40), 1.0, 0.5) == 0.0
    assert np.isnan(positive_area(densities, np.zeros((80, 160), bool), 1.0, 0.5))
    np.testing.assert_allclose(smooth_dab(densities, region & (np.arange(160) >= 120), 1.0)[:, 120:], 1.0, rtol=1e-5)


def test_threshold_by_hand() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.6, 0.8])
    threshold, accuracy = youden_threshold(values, np.array([False, False, True, True, True]))
    assert threshold == pytest.approx(0.25)
    assert accuracy == 1.0
    threshold, accuracy = youden_threshold(values, np.array([False, True, False, True, True]))
    assert threshold == pytest.approx(0.45)  # both negatives below it, two of three positives above
    assert accuracy == pytest.approx((1 + 2 / 3) / 2)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=20))
def test_threshold_is_the_best_of_all_there_are(cells: list[tuple[int, bool]]) -> None:
    values, positive = np.array([v for v, _ in cells], float), np.array([p for _, p in cells])
    if positive.all() or not positive.any():
        return
    threshold, accuracy = youden_threshold(values, positive)

    def balanced(t: float) -> float:
        return float(((values[positive] > t).mean() + (values[~positive] <= t).mean()) / 2)

    assert accuracy == pytest.approx(max(balanced(t) for t in np.arange(-1, 8) + 0.5))
    assert balanced(threshold) == pytest.approx(accuracy)


def test_otsu_by_hand() -> None:
    assert otsu_threshold(np.array([0.0, 0.2, 0.1, 2.0, 2.2])) == pytest.approx(1.1)
    assert otsu_threshold(np.array([3.0, 3.0])) == 3.0
    assert otsu_threshold(np.array([3.0])) == 3.0


@given(st.lists(st.integers(0, 9), min_size=2, max_size=20))
def test_otsu_has_the_least_variance_within_its_groups(numbers: list[int]) -> None:
    values = np.array(numbers, float)
    if not np.ptp(values):
        return

    def within(t: float) -> float:
        groups = values[values > t], values[values <= t]
        return sum(float(((g - g.mean()) ** 2).sum()) for g in groups)

    halves = [t for t in np.arange(10) + 0.5 if (values > t).any() and (values <= t).any()]
    assert within(otsu_threshold(values)) == pytest.approx(min(within(t) for t in halves))
