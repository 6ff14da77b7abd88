"""Markers taken from and painted on the photograph of an immunostain that scikit-image ships."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from factory.bank.stain_separation import Stains, compose, estimate_stains, separate
from factory.bank.tissue_nuclei import find_tissue_nuclei
from factory.renderers.exemplar.marker import (
    MarkerConfig,
    he_to_counterstain,
    paint_marker,
    positive_field,
    remove_marker,
)
from factory.renderers.exemplar.marker_removal import MarkerKind
from factory.renderers.stain.dyes import DAB, HAEMATOXYLIN_IHC

MPP = 0.5
KINDS: tuple[MarkerKind, ...] = ("membrane", "nucleus")
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def photograph() -> Image:
    image: Image = data.immunohistochemistry()
    return image


@pytest.fixture(scope="module")
def stains(photograph: Image) -> Stains:
    return estimate_stains([photograph])


@pytest.fixture(scope="module")
def stroma(photograph: Image) -> Image:
    """The part of the photograph between its brown glands: blue nuclei only."""
    return np.ascontiguousarray(photograph[:, 470:])


@pytest.fixture(scope="module")
def unmarked(photograph: Image) -> Image:
    return remove_marker(photograph, np.ones(photograph.shape[:2], np.bool_), MPP, kind="membrane")


@pytest.fixture(scope="module")
def positive() -> Mask:
    mask = np.zeros((512, 512), np.uint8)
    cv2.ellipse(mask, (240, 220), (170, 120), 30, 0, 360, (1,), -1)
    return mask > 0


def air(image: Image) -> Mask:
    """Pixels whose surroundings are about as bright as the light."""
    return np.asarray(cv2.erode(image.min(axis=2), np.ones((7, 7), np.uint8)) >= 222)


def brown_nuclei() -> tuple[Image, npt.NDArray[np.int32]]:
    """Discs on pale ground, the first half of them blue, the others so brown that haematoxylin cannot be seen."""
    number = np.zeros((192, 192), np.uint8)
    for cell in range(36):
        cv2.circle(number, (16 + cell % 6 * 32, 16 + cell // 6 * 32), 8, (cell + 1,), -1)
    nuclei = number.astype(np.int32)
    brown = nuclei > 18
    density = np.stack([0.08 + 0.7 * ((nuclei > 0) & ~brown), 1.5 * brown, 0 * brown]).astype(np.float32)
    density = np.stack([cv2.GaussianBlur(layer, (0, 0), 0.8) for layer in density])
    light = Stains(np.full(3, 245.0), np.asarray(HAEMATOXYLIN_IHC), np.asarray(DAB))
    return compose(density.reshape(3, -1), light).reshape(192, 192, 3), nuclei


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_outside_the_positive_region_stay_as_they_are(unmarked: Image, positive: Mask, kind: MarkerKind) -> None:
    painted = paint_marker(unmarked, positive, kind, MPP, np.random.default_rng(0))
    np.testing.assert_array_equal(painted[~positive], unmarked[~positive])
    assert (painted[positive] != unmarked[positive]).any(axis=1).mean() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_dab_rises_where_it_is_painted(unmarked: Image, positive: Mask, stains: Stains, kind: MarkerKind) -> None:
    painted = paint_marker(unmarked, positive, kind, MPP, np.random.default_rng(0), stains=stains)
    more = separate(painted, stains)[1] - separate(unmarked, stains)[1]
    assert more[positive].mean() > 0.05
    assert np.percentile(more[positive], 1) > -0.05


@pytest.mark.parametrize("kind", KINDS)
def test_air_stays_air(unmarked: Image, kind: MarkerKind) -> None:
    everywhere = np.ones(unmarked.shape[:2], np.bool_)
    painted = paint_marker(unmarked, everywhere, kind, MPP, np.random.default_rng(0))
    bare = air(unmarked)
    assert bare.sum() > 500
    np.testing.assert_array_equal(painted[bare], unmarked[bare])


@pytest.mark.parametrize("kind", KINDS)
def test_same_generator_paints_the_same_bytes(stroma: Image, kind: MarkerKind) -> None:
    positive = np.ones(stroma.shape[:2], np.bool_)
    first, second, other = (
        paint_marker(stroma, positive, kind, MPP, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_whole_cells_are_positive_and_no_others() -> None:
    image, nuclei = brown_nuclei()
    blue = remove_marker(image, np.ones(nuclei.shape, np.bool_), MPP)
    chosen = nuclei % 2 == 1
    chosen[:, :3] = chosen[:, -3:] = False
    positive = chosen & (nuclei > 0)
    positive[14:17, 46:50] = True  # a corner of nucleus 2, which stays negative
    settings = MarkerConfig(spread=(0.0, 0.0))
    painted = paint_marker(blue, positive, "nucleus", MPP, np.random.default_rng(0), nuclei, settings)
    changed = (painted != blue).any(axis=2)
    for cell in range(1, 37):
        share = changed[nuclei == cell].mean()
        assert share > 0.7 if cell % 2 else share == 0, cell


def test_nothing_positive_leaves_the_image(stroma: Image) -> None:
    nowhere = np.zeros(stroma.shape[:2], np.bool_)
    np.testing.assert_array_equal(paint_marker(stroma, nowhere, "membrane", MPP, np.random.default_rng(0)), stroma)


def test_removal_takes_dab_out_and_leaves_haematoxylin(photograph: Image, unmarked: Image, stains: Stains) -> None:
    before, after = separate(photograph, stains), separate(unmarked, stains)
    brown = before[1] > 0.4
    assert np.median(before[1][brown]) > 0.8
    assert abs(np.median(after[1][brown])) < 0.12
    assert np.percentile(after[1][brown], 95) < 0.3
    blue = (before[0] > 0.4) & (before[1] < 0.1)
    assert blue.sum() > 2000
    assert np.abs(after[0] - before[0])[blue].mean() < 0.03


def test_removal_leaves_air_and_what_is_not_asked(photograph: Image) -> None:
    where = np.zeros(photograph.shape[:2], np.bool_)
    where[:, :300] = True
    result = remove_marker(photograph, where, MPP, kind="membrane")
    np.testing.assert_array_equal(result[:, 300:], photograph[:, 300:])
    bare = air(photograph)
    np.testing.assert_array_equal(result[bare], photograph[bare])


def test_brown_nuclei_become_blue_ones() -> None:
    image, nuclei = brown_nuclei()
    blue = remove_marker(image, np.ones(nuclei.shape, np.bool_), MPP)
    inside = cv2.erode((nuclei > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    was_blue, was_brown = (blue[inside & side].mean(axis=0) for side in (nuclei <= 18, nuclei > 18))
    assert np.abs(was_brown - was_blue).max() < 25
    assert was_brown[2] > was_brown[1] > was_brown[0]


def test_removed_and_painted_marker_come_back(stroma: Image) -> None:
    everywhere = np.ones(stroma.shape[:2], np.bool_)
    stains = estimate_stains([stroma])
    painted = paint_marker(stroma, everywhere, "membrane", MPP, np.random.default_rng(3), stains=stains)
    again = remove_marker(painted, everywhere, MPP, kind="membrane")
    added = separate(painted, stains)[1] - separate(stroma, stains)[1]
    left = separate(again, stains)[1] - separate(stroma, stains)[1]
    assert np.abs(left[added > 0.2]).mean() < 0.4 * added[added > 0.2].mean()


def test_counterstain_has_no_eosin_and_keeps_the_air() -> None:
    photograph: Image = data.immunohistochemistry()
    stains = estimate_stains([photograph])
    number = find_tissue_nuclei(np.maximum(separate(photograph, stains)[0], 0), MPP) > 0
    pink = np.where(number[..., None], (90, 60, 140), (225, 150, 190)).astype(np.uint8)
    pink[:40] = 245
    pink = cv2.GaussianBlur(pink, (0, 0), 1.0)
    counterstain = he_to_counterstain(pink, np.random.default_rng(0))
    np.testing.assert_array_equal(counterstain[:30], pink[:30])
    red, _, blue = (counterstain[60:].astype(np.int32)[..., c] for c in range(3))
    assert (blue - red).min() >= -4
    assert (blue - red)[number[60:]].mean() > 40
    assert counterstain[60:][~number[60:]].mean() > 200
    np.testing.assert_array_equal(counterstain, he_to_counterstain(pink, np.random.default_rng(0)))


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_nuclei_are_found_one_by_one(mpp: float) -> None:
    image, nuclei = brown_nuclei()
    if mpp == 0.25:
        image = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    densities = separate(image, Stains(np.full(3, 245.0), np.asarray(HAEMATOXYLIN_IHC), np.asarray(DAB)))
    found = find_tissue_nuclei(np.maximum(densities[0] + densities[1], 0), mpp)
    step = round(0.5 / mpp)
    centres = found[16 * step :: 32 * step, 16 * step :: 32 * step]
    assert found.max() == nuclei.max() == 36
    assert len(np.unique(centres)) == 36
    assert centres.min() > 0


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([0.25, 0.5, 1.0]))
def test_positive_field_is_exact_and_nested(seed: int, tps: float, mpp: float) -> None:
    tumour = np.random.default_rng(seed).random((48, 64)) < 0.6
    region = positive_field(tumour, tps, np.random.default_rng(seed), mpp)
    assert region.sum() == int(tps * tumour.sum() + 0.5)
    assert not (region & ~tumour).any()
    larger = positive_field(tumour, min(1.0, tps + 0.1), np.random.default_rng(seed), mpp)
    assert not (region & ~larger).any()


def test_positive_field_has_patches_of_many_cells() -> None:
    tumour = np.ones((512, 512), np.bool_)
    for seed in range(5):
        region = positive_field(tumour, 0.3, np.random.default_rng(seed), MPP)
        count, _, figures, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
        large = figures[1:, cv2.CC_STAT_AREA] * MPP**2 > 600
        assert figures[1:, cv2.CC_STAT_AREA][large].sum() > 0.9 * region.sum()
        assert count < 200


@pytest.mark.parametrize("tps", [-0.1, 1.1, float("nan")])
def test_positive_field_refuses_shares_outside_0_to_1(tps: float) -> None:
    with pytest.raises(ValueError, match="tps: expected 0 to 1"):
        positive_field(np.ones((8, 8), np.bool_), tps, np.random.default_rng(0), MPP)


def test_density_and_light_are_inverse(photograph: Image, stains: Stains) -> None:
    dark = (photograph <= stains.background).all(axis=2)
    np.testing.assert_array_equal(compose(separate(photograph, stains)[:, dark], stains), photograph[dark])
