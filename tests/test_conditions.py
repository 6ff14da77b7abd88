"""Condition maps: what networks are given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from factory.conditions import CONDITIONS, NOISE_UM, grid_noise, poisson_noise
from manifests.labels import IGNORE, get_scheme
from manifests.tile import Tile


def make_tile(height: int = 48, width: int = 64, mpp: float = 0.5) -> Tile:
    rng = np.random.default_rng(0)
    semantic = rng.integers(0, 5, (height, width)).astype(np.uint8)
    semantic[0, :4] = IGNORE
    return Tile(semantic, np.zeros((height, width), np.int32), mpp, get_scheme("pdl1"))


def test_onehot_is_the_mask_and_leaves_ignore_empty() -> None:
    tile = make_tile()
    array = CONDITIONS["onehot"](tile, np.random.default_rng(0)).array
    assert array.shape == (5, 48, 64)
    assert array.dtype == np.float32
    labelled = tile.semantic != IGNORE
    np.testing.assert_array_equal(array.sum(axis=0), labelled)
    np.testing.assert_array_equal(array.argmax(axis=0)[labelled], tile.semantic[labelled])


@pytest.mark.parametrize("kind", ["onehot+noise", "onehot+noise:poisson"])
def test_onehot_noise_is_a_label_of_its_own(kind: str) -> None:
    tile = make_tile(256, 256)
    array = CONDITIONS[kind](tile, np.random.default_rng(0)).array
    plain = CONDITIONS["onehot"](tile, np.random.default_rng(0)).array
    noise = array[5] == 1
    assert array.shape == (6, 256, 256)
    assert array.dtype == np.float32
    assert noise.any()
    assert (array[:5, noise] == 0).all()
    np.testing.assert_array_equal(array[:5, ~noise], plain[:, ~noise])


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_depend_on_the_generator_only(kind: str) -> None:
    tile = make_tile()
    first, again = (CONDITIONS[kind](tile, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.array, again.array)
    assert (first.mpp, first.scheme) == (tile.mpp, tile.scheme)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_grid_noise_has_one_pixel_per_square_at_every_mpp(mpp: float) -> None:
    spacing = NOISE_UM / mpp
    noise = grid_noise(np.random.default_rng(0), (900, 900), spacing)
    expected = noise.size / spacing**2
    # Two jittered points may share a pixel: with squares of 56 px or more that is under 1 %.
    assert noise.sum() == pytest.approx(expected, rel=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30))
def test_grid_noise_leaves_no_hole_wider_than_two_squares(seed: int, spacing: int) -> None:
    noise = grid_noise(np.random.default_rng(seed), (8 * spacing, 8 * spacing), spacing)
    windows = np.lib.stride_tricks.sliding_window_view(noise, (2 * spacing + 1, 2 * spacing + 1))
    assert windows.any(axis=(2, 3)).all()


@pytest.mark.parametrize("spacing", [8.0, 15.0])
def test_poisson_noise_has_the_asked_mean_nearest_neighbour_distance(spacing: float) -> None:
    noise = poisson_noise(np.random.default_rng(3), (3000, 3000), spacing)
    points = np.argwhere(noise)
    inside = (np.abs(points - 1500) < 1400).all(axis=1)
    distance = cKDTree(points).query(points[inside], k=2)[0][:, 1]
    assert distance.mean() == pytest.approx(spacing, rel=0.03)


@pytest.mark.parametrize("make", [grid_noise, poisson_noise])
def test_noise_refuses_a_spacing_below_one_pixel(make: object) -> None:
    with pytest.raises(ValueError, match="spacing_px"):
        make(np.random.default_rng(0), (8, 8), 0.5)  # type: ignore[operator]
