"""Condition maps: what renderers are given."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from factory.core.config import parse
from factory.renderers.conditions import (
    NOISE_UM,
    RELIEF_STEPS,
    RELIEFS,
    ConditionConfig,
    Kind,
    channels_of_condition,
    draw_condition,
    grid_noise,
    labels_of_condition,
    poisson_noise,
    scatter_noise,
)
from manifests.errors import UserError
from manifests.labels import IGNORE, SCHEMES, get_scheme
from manifests.tile import Tile

ARRANGEMENTS = ("grid", "poisson")


def make_tile(height: int = 48, width: int = 64, mpp: float = 0.5, scheme: str = "pdl1") -> Tile:
    rng = np.random.default_rng(0)
    semantic = rng.integers(0, len(get_scheme(scheme)), (height, width)).astype(np.uint8)
    semantic[0, :4] = IGNORE
    instance = np.zeros((height, width), np.int32)
    instance[8:12, 8:12] = 70_000
    return Tile(semantic, instance, mpp, get_scheme(scheme))


def config_of(**values: object) -> ConditionConfig:
    return parse(ConditionConfig, values, "condition")


@pytest.mark.parametrize("kind", ["polygons", "polygons+air+cells"])
def test_classes_are_the_mask_in_memory_of_its_own(kind: str) -> None:
    tile = make_tile()
    array = draw_condition(config_of(kind=kind), tile, np.random.default_rng(0)).array
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, tile.semantic)
    assert not np.shares_memory(array, tile.semantic)


def test_labels_are_classes_and_instances_whatever_their_ids() -> None:
    tile = make_tile()
    array = draw_condition(config_of(kind="labels"), tile, np.random.default_rng(0)).array
    assert array.dtype == np.int32
    np.testing.assert_array_equal(array, np.stack([tile.semantic.astype(np.int32), tile.instance]))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_noise_is_a_label_of_its_own_in_the_place_of_classes(arrangement: str) -> None:
    tile = make_tile(256, 256)
    config = config_of(kind="polygons+noise", arrangement=arrangement)
    array = draw_condition(config, tile, np.random.default_rng(0)).array
    noise = array == len(tile.scheme)
    assert array.dtype == np.uint8
    assert array.shape == (256, 256)
    assert noise.any()
    np.testing.assert_array_equal(array[~noise], tile.semantic[~noise])


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(("spacing_um", "mpp"), [(4.0, 0.5), (16.0, 0.5), (16.0, 0.25)])
def test_noise_is_as_dense_as_its_spacing_in_micrometres_says(arrangement: str, spacing_um: float, mpp: float) -> None:
    config = config_of(kind="polygons+noise", spacing_um=spacing_um, arrangement=arrangement)
    scattered = scatter_noise(np.zeros((1024, 1024), np.uint8), config, mpp, 9, np.random.default_rng(1))
    assert set(np.unique(scattered)) == {0, 9}
    squares = (spacing_um / mpp) ** 2 * (1 if arrangement == "grid" else 4)
    count = 1024**2 / squares
    assert (scattered == 9).sum() == pytest.approx(count, rel=0.03, abs=3 * count**0.5)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_conditions_depend_on_the_generator_only(kind: str) -> None:
    tile, config = make_tile(), config_of(kind=kind)
    first, again, other = (draw_condition(config, tile, np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.array, again.array)
    assert (first.mpp, first.scheme) == (tile.mpp, tile.scheme)
    assert np.array_equal(first.array, other.array) == (kind != "polygons+noise")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "labels"])
def test_every_value_of_a_condition_has_a_channel(kind: str, scheme: str) -> None:
    tile = make_tile(64, 64, scheme=scheme)
    array = draw_condition(config_of(kind=kind, spacing_um=2.0), tile, np.random.default_rng(0)).array
    labels = labels_of_condition(kind, get_scheme(scheme))  # type: ignore[arg-type]
    assert labels == len(get_scheme(scheme)) + (kind == "polygons+noise")
    assert channels_of_condition(config_of(kind=kind), get_scheme(scheme)) == labels + (kind in RELIEFS)
    assert set(np.unique(array)) == {*range(labels), IGNORE}


@pytest.mark.parametrize("metric", ["chessboard", "cityblock"])
@pytest.mark.parametrize("kind", RELIEFS)
def test_a_relief_is_the_map_of_the_nuclei_in_eight_bits(kind: str, metric: Literal["chessboard", "cityblock"]) -> None:
    tile = make_tile(48, 64, scheme="nuclei")
    relief = draw_condition(config_of(kind=kind, metric=metric), tile, np.random.default_rng(0)).relief
    assert relief is not None
    assert relief.dtype == np.uint8
    np.testing.assert_allclose(relief / RELIEF_STEPS, RELIEFS[kind](tile.instance, metric), atol=0.5 / RELIEF_STEPS)
    assert draw_condition(config_of(kind="polygons"), tile, np.random.default_rng(0)).relief is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"kind": "polygon"},
            "kind: expected .*'polygons', 'polygons.noise', 'polygons.air.cells', 'distance' or 'skeleton'",
        ),
        ({"spacing_um": 0}, "spacing_um: .*greater than 0"),
        ({"metric": "euclidean"}, "metric: expected 'chessboard' or 'cityblock'"),
        ({"arrangement": "hexagons"}, "arrangement: expected 'grid' or 'poisson'"),
        ({"spacing": 15}, "Did you mean spacing_um"),
    ],
)
def test_a_condition_that_there_is_not_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config_of(**values)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_noise_closer_than_the_pixels_of_the_tile_is_refused(arrangement: str) -> None:
    config = config_of(kind="polygons+noise", spacing_um=0.75, arrangement=arrangement)
    draw_condition(config, make_tile(mpp=0.5), np.random.default_rng(0))
    with pytest.raises(ValueError, match="spacing_px"):
        draw_condition(config, dataclasses.replace(make_tile(), mpp=1.0), np.random.default_rng(0))


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
