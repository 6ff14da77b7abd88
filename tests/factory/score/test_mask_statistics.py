"""Statistics of masks, pictures of them, and the search for copies."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp
from skimage.measure import euler_number

from factory.core.statistics import ks_statistic
from factory.score.controls import price_of_control
from factory.score.copies import PLANTED, find_copies, searches
from factory.score.mask_statistics import (
    STATISTICS,
    correlation_length,
    mask_statistics,
    perimeter_px,
    shape_figures,
    two_point_curve,
)
from factory.score.settings import Settings
from factory.score.similarity import (
    SYMMETRIES,
    _inside,
    _window_sums,
    closest,
    inverse,
    overlap,
    prepare,
    turned,
)
from factory.score.tiles import TileSet, labelled, random_crops, reduction, shrink, to_pictures
from manifests import get_scheme


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(count: int, shape: tuple[int, int] = (64, 128), seed: int = 0, width: float = 4.0) -> np.ndarray:
    """Masks with a boundary of their own: smoothed noise above its median."""
    noise = rng(seed).normal(size=(count, *shape)).astype(np.float32)
    smooth = [cv2.GaussianBlur(field, (0, 0), width, borderType=cv2.BORDER_REFLECT) for field in noise]
    return np.stack([(field > np.median(field)).astype(np.uint8) for field in smooth])


def figures(mask: np.ndarray, mpp: float = 0.5) -> dict[str, float]:
    return dict(zip(STATISTICS, shape_figures(mask.astype(bool), mpp), strict=False))


def test_figures_of_a_ring_with_an_island_by_hand() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[1:8, 1:8] = 1
    mask[2:7, 2:7] = 0
    mask[4, 4] = 1
    found = figures(mask)
    assert found["area_fraction"] == 25 / 120
    assert found["components"] == 2
    assert found["holes"] == 1
    assert found["euler_number"] == 1
    assert found["component_area_um2"] == pytest.approx(25 / 2 * 0.25)
    assert found["hole_area_um2"] == pytest.approx(24 * 0.25)
    assert found["largest_component_share"] == pytest.approx(24 / 25)
    edges = 4 * 7 + 4 * 5 + 4
    assert found["perimeter_density_per_um"] == pytest.approx(edges * np.pi / 4 * 0.5 / (120 * 0.25))


def test_pieces_that_touch_at_a_corner_are_one_and_the_gap_is_no_hole() -> None:
    diagonal = np.eye(4, dtype=np.uint8)
    assert figures(diagonal)["components"] == 1
    assert figures(diagonal)["holes"] == 0
    diamond = np.zeros((5, 5), np.uint8)
    diamond[[1, 2, 2, 3], [2, 1, 3, 2]] = 1
    assert figures(diamond)["components"] == 1
    assert figures(diamond)["holes"] == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_euler_number_is_scikit_images(seed: int, share: float) -> None:
    mask = rng(seed).random((23, 31)) < share
    assert figures(mask)["euler_number"] == euler_number(mask, connectivity=2)


def test_empty_and_full_masks_have_no_sizes() -> None:
    empty, full = figures(np.zeros((8, 8))), figures(np.ones((8, 8)))
    assert (empty["area_fraction"], empty["components"], empty["holes"]) == (0, 0, 0)
    assert np.isnan(empty["component_area_um2"])
    assert (full["area_fraction"], full["components"], full["holes"]) == (1, 1, 0)
    assert full["perimeter_density_per_um"] == 0


def test_perimeter_of_a_disc_is_right_within_two_percent() -> None:
    rows, columns = np.indices((201, 201)) - 100
    assert perimeter_px(rows**2 + columns**2 <= 80**2) == pytest.approx(2 * np.pi * 80, rel=0.02)


def naive_curve(field: np.ndarray, lags: int) -> np.ndarray:
    height, width = field.shape
    centred = field - field.mean()
    sums: list[list[float]] = [[] for _ in range(lags)]
    for dy in range(-lags + 1, lags):
        for dx in range(lags):
            ring = round(np.hypot(dy, dx))
            if ring >= lags:
                continue
            pairs = [
                centred[y, x] * centred[y + dy, x + dx]
                for y in range(max(0, -dy), min(height, height - dy))
                for x in range(width - dx)
            ]
            sums[ring].append(float(np.mean(pairs)))
    return np.array([np.mean(ring) for ring in sums]) / field.var()


def test_two_point_curve_is_that_of_loops() -> None:
    field = (rng(1).random((16, 20)) < 0.4).astype(np.float32)
    curve = two_point_curve(field)
    assert len(curve) == 5
    assert curve[0] == pytest.approx(1)
    np.testing.assert_allclose(curve, naive_curve(field.astype(float), 5), atol=1e-5)


def test_correlation_length_by_hand_and_of_coarser_masks() -> None:
    assert correlation_length(np.array([1.0, np.exp(-1) + 0.1, np.exp(-1) - 0.1])) == pytest.approx(1.5)
    assert correlation_length(np.array([1.0, 0.9, 0.8])) == 2
    assert np.isnan(correlation_length(np.array([np.nan, np.nan])))
    sets = [TileSet.of_masks("m", blobs(6, width=width), mpp=0.5) for width in (1.5, 3, 6)]
    lengths = [np.median(mask_statistics(tiles)[0].values["correlation_length_um"]) for tiles in sets]
    assert all(a < b for a, b in pairwise(lengths))


def test_statistics_of_many_classes_are_one_against_the_rest() -> None:
    masks = rng(1).integers(0, 5, (3, 16, 16)).astype(np.uint8)
    found = mask_statistics(TileSet.of_masks("m", masks, mpp=0.5, scheme="pdl1"))
    assert [one.class_name for one in found] == list(get_scheme("pdl1").names)
    for label, one in enumerate(found):
        np.testing.assert_allclose(one.values["area_fraction"], (masks == label).mean((1, 2)))
    assert found[0].head(2).curves.shape[0] == 2


def test_ks_statistic_is_scipys_and_leaves_out_what_has_no_value() -> None:
    a, b = rng(1).normal(size=30), rng(2).normal(size=20) + 0.5
    assert ks_statistic(a, b) == pytest.approx(ks_2samp(a, b).statistic)
    assert ks_statistic(np.append(a, np.nan), b) == ks_statistic(a, b)
    assert np.isnan(ks_statistic(np.full(3, np.nan), b))


def test_pictures_are_black_and_white_or_coloured_and_only_averaged() -> None:
    masks = blobs(2, (64, 128))
    same = to_pictures(TileSet.of_masks("m", masks, mpp=0.5), 128)
    np.testing.assert_array_equal(same, np.repeat(masks[..., None] * 255, 3, 3))
    half = to_pictures(TileSet.of_masks("m", masks, mpp=0.5), 64)
    mean = masks.reshape(2, 32, 2, 64, 2).mean((2, 4)) * 255
    assert np.abs(half[..., 0] - mean).max() <= 0.5
    coloured = to_pictures(TileSet.of_masks("m", masks, mpp=0.5, scheme="pdl1"), 128)
    np.testing.assert_array_equal(coloured, get_scheme("pdl1").palette[masks])
    assert reduction((512, 1024), 256) == 4
    assert reduction((100, 257), 256) == 2
    assert shrink(np.full((1, 5, 7), 3, np.uint8), 2).shape == (1, 2, 3)


def test_tile_sets_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected labels of tissue"):
        TileSet.of_masks("m", np.full((1, 4, 4), 2, np.uint8), mpp=0.5)
    with pytest.raises(ValueError, match="expected 2 ids"):
        TileSet.of_masks("m", np.zeros((2, 4, 4), np.uint8), mpp=0.5, ids=["a"])
    with pytest.raises(ValueError, match="in 3 dimensions"):
        TileSet.of_masks("m", np.zeros((2, 4, 4, 3), np.uint8), mpp=0.5)


def test_crops_and_tiles_without_ignored_pixels() -> None:
    masks = np.zeros((3, 6, 6), np.uint8)
    masks[1, 0, 0] = 255
    assert labelled(masks).tolist() == [0, 2]
    crops = random_crops(rng(1).integers(0, 9, (4, 10, 12)).astype(np.uint8), (4, 5), rng(2))
    assert crops.shape == (4, 4, 5)
    assert random_crops(masks, (6, 6), rng()) is masks


def settings(copy_px: int, quantile: float, *, planted: int, seed: int = 1) -> Settings:
    return Settings(copy_px=copy_px, copy_quantile=quantile, planted=planted, seed=seed)


def tile_set(name: str, pixels: np.ndarray) -> TileSet:
    return TileSet.of_masks(name, np.ascontiguousarray(pixels), mpp=0.5)


def test_every_unchanged_training_crop_is_found_in_the_larger_tiles_and_new_tiles_are_not() -> None:
    train = blobs(10, (120, 240), seed=1, width=3)
    crops, wanted = [], []
    draw = rng(2)
    for number in range(24):  # three in each symmetry, anywhere, on the side too
        name, place = list(SYMMETRIES)[number % 8], int(draw.integers(10))
        h, w = (48, 96) if number % 8 < 4 else (96, 48)
        y, x = int(draw.integers(120 - h + 1)), int(draw.integers(240 - w + 1))
        crops.append(turned(train[place, y : y + h, x : x + w], inverse(name)))
        wanted.append((place, name, (y, x)))
    new = blobs(16, (48, 96), seed=3, width=3)
    fakes = tile_set("fake", np.concatenate([crops, new]))
    reals = tile_set("real", blobs(40, (48, 96), seed=4, width=3))
    found = find_copies(fakes, reals, tile_set("train", train), settings(96, 0.95, planted=6))
    by_fake = {pair.fake_place: pair for pair in found.pairs}
    for place, where in enumerate(wanted):
        pair = by_fake[place]
        assert (pair.training_place, pair.symmetry, pair.position) == where
        assert pair.flagged
        assert pair.similarity == pytest.approx(1, abs=1e-5)
    assert sum(by_fake[place].flagged for place in range(24, 40)) <= 3  # one in twenty by the quantile
    assert min(found.recall_by_kind.values()) >= 0.99, found.recall_by_kind
    assert set(found.recall_by_kind) == set(PLANTED)
    assert (found.reals, found.planted, found.training_tiles) == (40, 6, 10)


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)], ids=["square", "oblong"])
def test_every_planted_copy_is_found_in_tiles_of_the_same_size(shape: tuple[int, int]) -> None:
    masks = blobs(60, shape, width=3)
    places = {"fake": slice(10), "real": slice(10, 35), "train": slice(35, None)}
    sets = [tile_set(name, masks[part]) for name, part in places.items()]
    found = find_copies(*sets, settings(96, 0.99, planted=6))
    assert min(found.recall_by_kind.values()) >= 0.99, found.recall_by_kind
    assert found.recall >= 0.99
    assert max(pair.similarity for pair in found.pairs) < 0.6  # new ones


def test_new_tiles_are_flagged_about_as_often_as_the_quantile_says() -> None:
    masks = blobs(120, (32, 64), width=3)
    fakes, reals = tile_set("fake", masks[:60]), tile_set("real", masks[60:120])
    train = tile_set("train", blobs(5, (64, 128), seed=5, width=3))
    found = find_copies(fakes, reals, train, settings(64, 0.9, planted=1))
    assert found.real_share == pytest.approx(0.1)
    assert found.share <= 0.25  # 2.7 standard deviations of a share of 60 beside a limit from 60


def test_a_generator_that_copies_is_caught_with_the_names_of_what_it_copied() -> None:
    masks = blobs(40, (48, 96), width=3)
    train, real = tile_set("train", masks[:20]), tile_set("real", masks[20:])
    fresh = blobs(8, (48, 96), seed=9, width=3)
    fakes = tile_set("fake", np.concatenate([fresh, masks[[4, 7], ::-1], np.ones((1, 48, 96), np.uint8)]))
    calls: list[None] = []
    points = rng(1).normal(size=(11, 3)), rng(2).normal(size=(20, 3)), rng(3).normal(size=(20, 3))
    copies = settings(96, 1.0, planted=2, seed=0)
    found = find_copies(fakes, real, train, copies, points, on_tile=lambda: calls.append(None))
    assert {(pair.fake, pair.training, pair.symmetry, pair.position) for pair in found.flagged[:2]} == {
        ("fake-8", "train-4", "flipped up-down", (0, 0)),
        ("fake-9", "train-7", "flipped up-down", (0, 0)),
    }
    assert [pair.similarity > 0.6 for pair in found.pairs] == [True] * 2 + [False] * 8
    assert found.share == len(found.flagged) / 10
    assert found.blank_fakes == 1
    assert len(calls) == searches(11, 20, 2)
    assert found.feature_ratio == pytest.approx(1, abs=0.5)


def test_blank_training_tiles_have_nothing_to_copy() -> None:
    blank = prepare(tile_set("b", np.ones((3, 64, 96), np.uint8)), (32, 64), 64)
    matches = closest(tile_set("m", blobs(2, (32, 64))), blank)
    assert [match.place for match in matches] == [-1, -1]


def test_a_tile_that_reaches_past_a_training_tile_is_found_where_it_lies() -> None:
    wide = blobs(1, (64, 144), width=3)
    training = prepare(tile_set("t", wide[:, :, :128]), (32, 64), 64)
    match = closest(tile_set("m", wide[:, 20:52, 80:144]), training)[0]
    assert match.position == (20, 80)
    assert match.similarity > 0.95


def test_places_between_the_pixels_of_the_search_are_found_exactly() -> None:
    train = blobs(3, (256, 512), width=8)
    training = prepare(tile_set("t", train), (128, 256), 128)
    assert (training.fine, training.coarse) == (2, 8)
    match = closest(tile_set("m", train[1:2, 61:189, 203:459]), training)[0]
    assert (match.place, match.symmetry, match.position) == (1, "as it is", (61, 203))
    assert match.similarity == pytest.approx(1, abs=1e-5)


def test_window_sums_and_what_lies_inside_are_those_of_loops() -> None:
    plane, tile = rng(1).random((9, 11)).astype(np.float32), rng(2).random((1, 4, 5)).astype(np.float32)
    sums = _window_sums(plane[None], (4, 5), (1, 2))[0]
    rows, columns = np.arange(-1, 9 - 4 + 2), np.arange(-2, 11 - 5 + 3)
    own = _inside(tile, rows, columns, (9, 11))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            mine, part = overlap(tile[0], plane, (int(y), int(x)))
            assert sums[i, j] == pytest.approx(part.sum(), rel=1e-5)
            assert own[i, j] == pytest.approx(np.square(mine).sum(), rel=1e-5)
    assert sums.shape == own.shape


def test_every_symmetry_has_its_inverse() -> None:
    image = rng(1).integers(0, 9, (4, 6, 3)).astype(np.uint8)
    for name in SYMMETRIES:
        np.testing.assert_array_equal(turned(turned(image, name), inverse(name)), image)


FOUR_BINS = Settings(shift_bins=4, draws=3)


def test_price_of_control_rises_with_a_shift_that_harms() -> None:
    shifts = np.linspace(-1, 1, 80)
    fakes = rng(1).normal(size=(80, 4)) + 3 * np.abs(shifts)[:, None]
    reals = rng(2).normal(size=(40, 4))
    bins = price_of_control(fakes, shifts, reals, FOUR_BINS)
    assert [one.fakes for one in bins] == [20] * 4
    assert [one.size for one in bins] == [20] * 4
    distances = [one.distance for one in bins]
    assert distances == sorted(distances)
    assert bins[0].low == pytest.approx(np.abs(shifts).min())
    assert price_of_control(fakes, np.zeros(80), reals, FOUR_BINS) == ()
    assert price_of_control(fakes, np.full(80, np.nan), reals, FOUR_BINS) == ()


def test_price_of_control_stands_beside_real_tiles_of_the_same_composition() -> None:
    """Perfect fakes of extreme requests: far from the reals as they come, no farther than reals matched to them."""
    draw = rng(1)
    reals = draw.uniform(size=(400, 1))
    asked = np.concatenate([draw.uniform(0.3, 0.7, 80), draw.uniform(0.9, 1.0, 80)])[:, None]

    def features(shares: np.ndarray) -> np.ndarray:
        return np.hstack([4 * shares, draw.normal(scale=0.1, size=(len(shares), 2))])

    fractions = tuple(np.hstack([1 - shares, shares]) for shares in (asked, reals))
    shifts = np.abs(asked[:, 0] - 0.5)
    two_bins = Settings(shift_bins=2, draws=4, seed=2)
    bins = price_of_control(features(asked), shifts, features(reals), two_bins, fractions)
    assert bins[1].distance > 2 * bins[0].distance
    for one in bins:
        assert one.size == 80
        assert one.matched == pytest.approx(one.distance, rel=0.15)
        assert one.matched_gap < 0.02
        assert 8 < one.matched_tiles <= 80
    without = price_of_control(features(asked), shifts, features(reals), two_bins)
    assert np.isnan(without[0].matched)
