"""Statistics of masks, pictures of them, and the search for copies."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp
from skimage.measure import euler_number

from factory.realism.control_price import price_of_control
from factory.realism.copies import PLANTED, FeatureSets, find_copies, searches
from factory.realism.mask_statistics import (
    STATISTICS,
    correlation_length,
    mask_statistics,
    perimeter_px,
    shape_figures,
    two_point_curve,
)
from factory.realism.pictures import reduction, shrink, to_pictures
from factory.realism.similarity import SYMMETRIES, closest, edges_of, overlap_similarity
from factory.realism.tiles import TileSet, labelled, random_crops
from factory.realism.two_samples import ks_statistic
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


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)], ids=["square", "oblong"])
def test_every_planted_copy_is_found(shape: tuple[int, int]) -> None:
    masks = blobs(100, shape, width=3)
    places = {"fake": slice(20), "real": slice(20, 60), "train": slice(60, None)}
    sets = [TileSet.of_masks(name, masks[part], mpp=0.5) for name, part in places.items()]
    found = find_copies(*sets, longest_px=96, quantile=0.99, planted=15, seed=1)
    assert set(found.recall_by_kind) == set(PLANTED)
    assert min(found.recall_by_kind.values()) >= 0.99, found.recall_by_kind
    assert found.recall >= 0.99
    assert found.planted == 15
    assert found.share <= 0.1
    assert found.fakes == 20


def test_a_generator_that_copies_is_caught_with_the_names_of_what_it_copied() -> None:
    masks = blobs(60, (48, 96), width=3)
    train, real = TileSet.of_masks("train", masks[:30], mpp=0.5), TileSet.of_masks("real", masks[30:], mpp=0.5)
    fresh = blobs(8, (48, 96), seed=9, width=3)
    flipped = masks[[4, 7], ::-1]
    fakes = TileSet.of_masks("fake", np.concatenate([fresh, flipped, np.ones((1, 48, 96), np.uint8)]), mpp=0.5)
    calls: list[None] = []
    points = rng(1).normal(size=(11, 3)), rng(2).normal(size=(30, 3)), rng(3).normal(size=(30, 3))
    found = find_copies(
        fakes,
        real,
        train,
        longest_px=96,
        quantile=1.0,
        planted=5,
        seed=0,
        features=FeatureSets(*points),
        on_tile=lambda: calls.append(None),
    )
    assert {(pair.fake, pair.training, pair.symmetry) for pair in found.flagged} == {
        ("fake-8", "train-4", "flipped up-down"),
        ("fake-9", "train-7", "flipped up-down"),
    }
    assert found.share == pytest.approx(2 / 10)
    assert found.blank_fakes == 1
    assert len(calls) == searches(11, 30, 30, 5)
    assert found.feature_ratio == pytest.approx(1, abs=0.5)


def test_blank_training_tiles_have_nothing_to_copy() -> None:
    blank = edges_of(TileSet.of_masks("b", np.ones((3, 32, 64), np.uint8), mpp=0.5), 64)
    matches = closest(edges_of(TileSet.of_masks("m", blobs(2, (32, 64)), mpp=0.5), 64), blank)
    assert [match.place for match in matches] == [-1, -1]


def test_similarity_is_one_under_every_symmetry_and_says_the_shift() -> None:
    mask = blobs(1, (64, 64), width=3)
    tile = edges_of(TileSet.of_masks("m", mask, mpp=0.5), 64)
    for name, turn in SYMMETRIES.items():
        turned = edges_of(TileSet.of_masks("m", np.ascontiguousarray(turn(mask)), mpp=0.5), 64)
        match = closest(turned, tile)[0]
        assert match.similarity == pytest.approx(1, abs=1e-4), name
    wide = blobs(1, (64, 80), width=3)
    a, b = (edges_of(TileSet.of_masks("m", wide[:, :, x : x + 64], mpp=0.5), 64)[0] for x in (0, 8))
    similarity, shift = overlap_similarity(b, a)
    assert similarity > 0.95
    assert shift == pytest.approx((0, 8 / 64))


def test_price_of_control_rises_with_a_shift_that_harms() -> None:
    shifts = np.linspace(-1, 1, 80)
    fakes = rng(1).normal(size=(80, 4)) + 3 * np.abs(shifts)[:, None]
    reals = rng(2).normal(size=(40, 4))
    bins = price_of_control(fakes, shifts, reals, bins=4, draws=3, rng=rng())
    assert [one.fakes for one in bins] == [20] * 4
    assert [one.size for one in bins] == [20] * 4
    distances = [one.distance for one in bins]
    assert distances == sorted(distances)
    assert bins[0].low == pytest.approx(np.abs(shifts).min())
    assert price_of_control(fakes, np.zeros(80), reals, bins=4, draws=3, rng=rng()) == ()
    assert price_of_control(fakes, np.full(80, np.nan), reals, bins=4, draws=3, rng=rng()) == ()
