"""Crops and their appearance: geometry that moves image and labels alike, colour that keeps what it should."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import get_scheme
from segment.data.augmentation import (
    STAINS,
    AugmentConfig,
    CropTransform,
    change_appearance,
    draw_transform,
    recolour,
    take,
)
from segment.data.targets import distance_target

PLAIN = AugmentConfig.none()
EXACT = PLAIN.model_copy(update={"dihedral": True})
WARPED = EXACT.model_copy(update={"warp_probability": 1.0})


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 20), st.integers(8, 20), st.integers(20, 30), st.integers(20, 30))
def test_exact_views_move_image_classes_and_instances_alike(seed: int, h: int, w: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 5, (height, width)).astype(np.uint8)
    instance = rng.integers(0, 2**31 - 1, (height, width)).astype(np.int32)
    image = np.stack([semantic, instance % 251, instance % 241], axis=-1).astype(np.uint8)
    taken, (classes, ids) = take(draw_transform(rng, (height, width), (h, w), EXACT), image, [semantic, instance])
    assert taken.shape == (h, w, 3)
    assert (classes.dtype, ids.dtype) == (np.uint8, np.int32)
    assert np.array_equal(taken[..., 0], classes)
    assert np.array_equal(taken[..., 1], ids % 251)
    assert set(ids.ravel().tolist()) <= set(instance.ravel().tolist())
    assert len(set(ids.ravel().tolist())) == len(set(ids.ravel().tolist()) & set(instance.ravel().tolist()))


def test_exact_views_of_a_square_are_its_eight_symmetries() -> None:
    tile = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image, rng = np.repeat(tile[..., None], 3, axis=2), np.random.default_rng(0)
    seen = Counter(take(draw_transform(rng, (4, 4), (4, 4), EXACT), image, [tile])[1][0].tobytes() for _ in range(400))
    turns = [np.rot90(side, turn) for side in (tile, tile.T) for turn in range(4)]
    assert set(seen) == {np.ascontiguousarray(turn).tobytes() for turn in turns}
    assert min(seen.values()) > 25


def test_a_warped_view_keeps_labels_on_what_they_label() -> None:
    rows, columns = np.indices((96, 96))
    semantic = ((rows // 24 + columns // 24) % 3).astype(np.uint8)
    image = np.repeat(semantic[..., None] * 100, 3, axis=2).astype(np.uint8)
    rng, agreement = np.random.default_rng(4), []
    for _ in range(20):
        taken, (labels,) = take(draw_transform(rng, (96, 96), (64, 64), WARPED), image, [semantic])
        inside = np.abs(taken[..., 0].astype(int) - labels.astype(int) * 100) <= 50  # interpolation at the seams
        agreement.append(inside.mean())
        assert set(np.unique(labels)) <= {0, 1, 2}
    assert min(agreement) > 0.97  # where 2 meets 0, half a pixel on either side is off by more than 50


@pytest.mark.parametrize("axis", [0, 1])
def test_edges_of_labels_and_image_coincide_after_a_warp(axis: int) -> None:
    """Across one straight edge, half way between two pixels is where both interpolations switch."""
    semantic = (np.indices((96, 96))[axis] >= 48).astype(np.uint8)
    image = np.repeat(semantic[..., None] * 255, 3, axis=2).astype(np.uint8)
    rng = np.random.default_rng(7)
    for _ in range(20):
        taken, (labels,) = take(draw_transform(rng, (96, 96), (64, 64), WARPED), image, [semantic])
        differs = (taken[..., 0] > 127) != (labels == 1)
        assert (np.abs(taken[differs].astype(int) - 127.5) <= 255 / 32 + 1).all()  # OpenCV has 32 steps to a pixel
        assert differs.mean() < 0.005


def position_of(transform: CropTransform, row: float, column: float) -> np.ndarray:
    """Where a pixel of an unbent crop comes from, by the definition of `CropTransform`."""
    middle = (np.array(transform.crop) - 1) / 2
    return transform.centre + transform.matrix @ (np.array([row, column]) - middle)


def test_views_read_the_tile_where_their_definition_says() -> None:
    """A tile whose colours are its coordinates: every pixel of a crop tells where it was read."""
    tile = np.stack([*np.indices((120, 100)), np.full((120, 100), 9)], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(11)
    for config in (EXACT, WARPED.model_copy(update={"elastic_px": 0.0})):
        for _ in range(40):
            transform = draw_transform(rng, (120, 100), (40, 56), config)
            taken, (rows,) = take(transform, tile, [tile[..., 0]])
            for row, column in ((0, 0), (0, 55), (39, 0), (39, 55), (13, 29)):
                expected = position_of(transform, row, column)
                assert (expected >= 0).all()
                assert np.abs(taken[row, column, :2] - expected).max() <= 0.5 + 1 / 32
                assert abs(rows[row, column] - expected[0]) <= 0.5 + 1 / 32


def test_a_bent_view_is_displaced_by_its_grid() -> None:
    tile = np.stack([*np.indices((120, 100)), np.full((120, 100), 9)], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(3)
    for _ in range(20):
        transform = draw_transform(rng, (120, 100), (33, 33), WARPED)
        assert transform.bend is not None
        taken, (rows,) = take(transform, tile, [tile[..., 0]])
        for row, column, node in ((16, 16, (1, 1)), (5, 16, (0, 1)), (27, 16, (2, 1)), (16, 27, (1, 2))):
            expected = position_of(transform, row, column) + transform.bend[:, node[0], node[1]]
            assert np.abs(taken[row, column, :2] - expected).max() <= 0.6
            assert abs(rows[row, column] - expected[0]) <= 0.6


@pytest.mark.parametrize(("crop", "elastic_px"), [(40, 6.0), (8, 25.0)])
def test_a_view_past_the_border_reads_reflections_whatever_part_of_the_tile_it_sees(
    crop: int, elastic_px: float
) -> None:
    rng = np.random.default_rng(2)
    tile = rng.integers(0, 255, (70, 50, 3)).astype(np.uint8)
    margin = 200
    mirrored = np.pad(tile, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    warp = WARPED.model_copy(update={"rotate_degrees": 60.0, "scale": 0.6, "elastic_px": elastic_px})
    for _ in range(40):
        transform = draw_transform(rng, (70, 50), (crop, crop), warp)
        taken, (green,) = take(transform, tile, [tile[..., 1]])
        outside, (green_outside,) = take(
            replace(transform, centre=transform.centre + margin), mirrored, [mirrored[..., 1]]
        )
        # Positions round to float32 elsewhere in the larger tile.
        assert np.abs(taken.astype(int) - outside).max() <= 1
        assert (green != green_outside).mean() < 0.02


def test_a_view_around_a_pixel_holds_it_in_its_middle_half_or_at_the_border() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        tile = np.zeros((90, 80, 3), np.uint8)
        y, x = int(rng.integers(90)), int(rng.integers(80))
        tile[y, x] = 255
        transform = draw_transform(rng, (90, 80), (32, 48), EXACT, around=(y, x))
        rows, columns = np.nonzero(take(transform, tile, [])[0][..., 0])
        assert rows.size == 1
        if 48 <= y < 90 - 48 and 48 <= x < 80 - 48:
            assert abs(rows[0] - 15.5) <= 8.5
            assert abs(columns[0] - 23.5) <= 12.5


def test_views_around_a_pixel_use_all_of_the_middle_half() -> None:
    rng = np.random.default_rng(5)
    centres = [draw_transform(rng, (200, 200), (40, 40), PLAIN, around=(100, 100)).centre for _ in range(400)]
    offsets = np.array(centres) - 100
    assert np.abs(offsets.mean(0)).max() < 5 * 20 / np.sqrt(12 * 400) + 0.5
    assert (offsets.max(0) > 8).all()
    assert (offsets.min(0) < -8).all()


def test_a_warped_view_larger_than_its_tile_reads_no_pixel_outside() -> None:
    tile = np.full((40, 40), 7, np.uint8)
    image, rng = np.full((40, 40, 3), 90, np.uint8), np.random.default_rng(0)
    warp = AugmentConfig(warp_probability=1, rotate_degrees=45, scale=0.5)
    for _ in range(30):
        taken, (labels,) = take(draw_transform(rng, (40, 40), (40, 40), warp), image, [tile])
        assert (taken == 90).all()
        assert (labels == 7).all()


def test_a_crop_larger_than_the_tile_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw_transform(np.random.default_rng(0), (32, 32), (64, 32), PLAIN)


def test_recolouring_keeps_white_and_the_order_of_grey_levels() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    config = AugmentConfig(brightness=0)
    for seed in range(50):
        changed = recolour(image, np.random.default_rng(seed), config)
        assert (changed[0, 255] == 255).all()
        assert (np.diff(changed[0].astype(int), axis=0) >= 0).all()
        assert np.abs(changed.astype(int) - image).max() < 40
    assert np.array_equal(recolour(image, np.random.default_rng(0), PLAIN), image)


def test_recolouring_changes_nothing_of_any_colour_when_all_spreads_are_zero() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert np.array_equal(recolour(image, np.random.default_rng(0), PLAIN), image)
    assert change_appearance(image, np.random.default_rng(0), PLAIN) is image


@pytest.mark.parametrize("stain", [0, 1, 2])
def test_stain_gain_makes_a_stain_stronger_or_weaker_and_leaves_its_hue(stain: int) -> None:
    density = np.linspace(0.2, 1.2, 40)[:, None, None] * STAINS[stain]
    image = np.rint(255 * np.exp(-density)).astype(np.uint8)
    config = PLAIN.model_copy(update={"stain_gain": 0.3})
    gains = []
    for seed in range(60):
        changed = -np.log(recolour(image, np.random.default_rng(seed), config) / 255)
        gain = (changed * density).sum() / (density**2).sum()
        assert np.abs(changed - gain * density).max() < 0.03  # what rounding to grey levels moves
        gains.append(gain)
    assert 0.69 < min(gains) < 0.8
    assert 1.2 < max(gains) < 1.31


def test_brightness_scales_the_light_of_every_pixel_alike() -> None:
    image = np.full((4, 4, 3), 120, np.uint8)
    config = PLAIN.model_copy(update={"brightness": 0.2})
    levels = [recolour(image, np.random.default_rng(seed), config) for seed in range(100)]
    assert all(len(np.unique(level)) == 1 for level in levels)
    lights = np.array([level[0, 0, 0] / 120 for level in levels])
    assert 0.79 < lights.min() < 0.84
    assert 1.16 < lights.max() < 1.21


def test_noise_has_the_mean_and_spread_asked_for() -> None:
    image = np.full((128, 128, 3), 128, np.uint8)
    config = PLAIN.model_copy(update={"noise_probability": 1.0, "noise": 0.04})
    spreads = []
    for seed in range(60):
        noisy = change_appearance(image, np.random.default_rng(seed), config).astype(float) - 128
        assert abs(noisy.mean()) < 5 * max(noisy.std(), 0.5) / np.sqrt(noisy.size)
        assert abs(np.corrcoef(noisy[:, 1:, 0].ravel(), noisy[:, :-1, 0].ravel())[0, 1]) < 0.05 or noisy.std() < 0.5
        spreads.append(noisy.std() / 255)
    assert 0.036 < max(spreads) < 0.0405
    assert min(spreads) < 0.006


def test_blur_smooths_and_keeps_the_mean() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    config = PLAIN.model_copy(update={"blur_probability": 1.0, "blur_px": 2.0})
    spreads = []
    for seed in range(30):
        blurred = change_appearance(image, np.random.default_rng(seed), config)
        assert abs(float(blurred.mean()) - float(image.mean())) < 2
        spreads.append(float(blurred.std() / image.std()))
    assert max(spreads) <= 1
    assert min(spreads) < 0.25


def test_the_rates_of_warp_blur_and_noise_are_those_asked_for() -> None:
    image = np.random.default_rng(0).integers(60, 200, (32, 32, 3)).astype(np.uint8)
    for name in ("warp_probability", "blur_probability", "noise_probability"):
        config = PLAIN.model_copy(update={name: 0.3})
        changed = 0
        for seed in range(400):
            rng = np.random.default_rng(seed)
            transform = draw_transform(rng, (32, 32), (16, 16), config)
            crop, _ = take(transform, image, [])
            changed += not transform.is_exact or change_appearance(crop, rng, config) is not crop
        low, high = (400 * 0.3 + sign * 5 * np.sqrt(400 * 0.3 * 0.7) for sign in (-1, 1))
        assert low * 0.9 < changed < high  # a blur too weak to see leaves the crop as it is


def test_warped_distances_stay_whole_numbers_of_the_tile_and_on_their_nuclei() -> None:
    scheme, rng = get_scheme("nuclei"), np.random.default_rng(0)
    semantic, instance = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.int32)
    semantic[8:40, 8:40], instance[8:40, 8:24] = 1, 1  # half of what is a nucleus has no id
    distances = distance_target(instance, semantic == 1)
    image = np.repeat(semantic[..., None] * 255, 3, axis=2).astype(np.uint8)
    for _ in range(20):
        _, (labels, depth) = take(draw_transform(rng, (64, 64), (48, 48), WARPED), image, [semantic, distances])
        assert np.array_equal(labels == scheme.ids("nucleus")[0], depth > 0)
        assert set(np.unique(depth)) <= set(np.unique(distances))
