"""Peaks of the spectrum at the strides of a network: none in photographs, found where they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage import data

from factory.nets.pix2pixhd import GlobalGenerator
from factory.nets.stitching import to_pixels
from factory.score.periodicity import PERIODS, periodic_excess

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photographs() -> Images:
    """Nine crops of each of two photographs, their contrast halved so that nothing is clipped."""
    whole = [data.immunohistochemistry(), data.astronaut()]
    starts = [(y, x) for y in (0, 128, 256) for x in (0, 128, 256)]
    return np.stack([image[y : y + 256, x : x + 256] // 2 + 64 for image in whole for y, x in starts])


def board(period: int) -> npt.NDArray[np.float64]:
    """A pattern of that period along both axes and of no shorter one: [256, 256], mean 0, from -1 to 1."""
    y, x = np.mgrid[:256, :256]
    return np.cos(2 * np.pi * y / period) * np.cos(2 * np.pi * x / period)


def test_photographs_have_no_excess(photographs: Images) -> None:
    assert all(0.5 < value < 1.8 for value in periodic_excess(photographs))


@pytest.mark.parametrize("period", PERIODS)
def test_a_faint_pattern_shows_at_its_own_period(photographs: Images, period: int) -> None:
    plain = periodic_excess(photographs)
    strength = {2: 1.0, 4: 4.0, 8: 12.0, 16: 40.0}[period]  # photographs have the more power the longer the period
    marked = np.clip(np.rint(photographs + strength * board(period)[None, ..., None]), 0, 255).astype(np.uint8)
    for own, before, after in zip(PERIODS, plain, periodic_excess(marked), strict=True):
        if own == period:
            assert after > 1.5 * before
        else:
            assert after == pytest.approx(before, rel=0.15)


def test_noise_has_no_excess() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 256, 256, 3), dtype=np.uint8)
    assert periodic_excess(noise) == pytest.approx([1.0] * 4, abs=0.2)


def test_even_images_have_none_and_small_ones_no_value() -> None:
    assert periodic_excess(np.full((2, 256, 256, 3), 77, np.uint8)) == pytest.approx([1.0] * 4)
    assert math.isnan(periodic_excess(np.zeros((1, 96, 96, 3), np.uint8))[-1])


def test_transposed_convolutions_leave_a_checkerboard_and_resizing_does_not() -> None:
    shape: dict[str, Any] = {"width": 8, "downs": 2, "blocks": 1, "kernel": 3}
    seen = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 4, 256, 256), np.float32))
    excess = {}
    for upsampling in ("transposed", "resize"):
        torch.manual_seed(3)
        network = GlobalGenerator(4, upsampling=upsampling, **shape).eval()
        with torch.inference_mode():
            excess[upsampling] = periodic_excess(to_pixels(40 * network(seen)))
    assert excess["transposed"][0] > 3 * excess["resize"][0]
