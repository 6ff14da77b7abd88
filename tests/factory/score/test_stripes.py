"""Stripes: none in photographs, found with their period and direction, whatever the contrast of a tile."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from factory.score.stripes import Stripes, strongest_stripes

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def views() -> Images:
    """Crops of a photograph of tissue in all eight symmetries, their contrast halved so that nothing is clipped."""
    whole = data.immunohistochemistry() // 2 + 64
    crops = [whole[y : y + 128, x : x + 128] for y in (0, 128, 256, 384) for x in (0, 128, 256, 384)]
    return np.stack([np.rot90(flipped, turns) for c in crops for flipped in (c, c[::-1]) for turns in range(4)])


def test_in_all_symmetries_there_are_none(views: Images) -> None:
    assert strongest_stripes(views).excess == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("period", "direction"), [(3.0, 30.0), (4.0, 45.0), (2.5, 120.0)])
def test_faint_stripes_are_found_with_period_and_direction(views: Images, period: float, direction: float) -> None:
    y, x = np.mgrid[:128, :128]
    along = math.radians(direction)
    wave = np.sin(2 * np.pi / period * (x * math.sin(along) + y * math.cos(along)))  # y points down
    found = strongest_stripes(np.clip(views + 3 * wave[None, ..., None], 0, 255).astype(np.uint8))
    assert found.excess > 2
    assert found.period_px == pytest.approx(period, rel=0.1)
    assert found.direction_deg == pytest.approx(direction, abs=6)


def test_rows_of_a_scanner_and_a_checkerboard_are_no_stripes() -> None:
    noise = np.random.default_rng(0).integers(0, 40, (64, 64, 64, 3))
    y, x = np.mgrid[:64, :64]
    for pattern in (40 * (y % 3 == 0), 40 * ((x + y) % 2)):
        both = (100 + noise + pattern[None, ..., None]).astype(np.uint8)
        assert strongest_stripes(both).excess < 1.8


def test_even_images_have_none_and_small_ones_no_value() -> None:
    assert strongest_stripes(np.full((2, 64, 64, 3), 77, np.uint8)).excess == pytest.approx(1)
    assert all(map(math.isnan, vars(strongest_stripes(np.zeros((1, 8, 8, 3), np.uint8))).values()))
    assert list(vars(Stripes(1, 2, 3))) == ["excess", "period_px", "direction_deg"]
