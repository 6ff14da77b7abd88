"""Logits of a network as scores: its decision stands, its unsure pixels go first, its sure ones from the border in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from factory.masks.allocate import allocate
from factory.masks.learned.generator import CERTAIN, rank_certain_pixels, to_scores
from factory.plan.request import Request
from manifests.labels import get_scheme

SIZE = (32, 64)


def request(tissue: float) -> Request:
    return Request(*SIZE, 0.5, get_scheme("tissue"), tissue=tissue)


def test_the_shift_is_how_far_the_threshold_went() -> None:
    logits = np.linspace(-1.0, 1.0, 32 * 64, dtype=np.float32).reshape(1, *SIZE)
    for tissue, threshold in ((0.5, 0.0), (0.25, 0.5), (0.75, -0.5), (1.0, -1.0), (0.0, 1.0)):
        shift = allocate(to_scores(logits), request(tissue), np.random.default_rng(0)).shift
        assert shift == pytest.approx(abs(threshold), abs=2 / 2047)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), scale=st.sampled_from([0.01, 1.0, 30.0]), bias=st.sampled_from([-100.0, 0.0, 100.0]))
def test_sure_pixels_rank_by_their_distance_to_the_border(seed: int, scale: float, bias: float) -> None:
    margin = (scale * np.random.default_rng(seed).standard_normal((16, 24)) + bias).astype(np.float32)
    found = rank_certain_pixels(margin)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found > 0, margin > 0)  # no decision changes
    inside = margin > 0
    unsure = (np.abs(margin) <= CERTAIN) | inside.all() | ~inside.any()  # without a border none has a distance from it
    np.testing.assert_array_equal(found[unsure], margin[unsure])
    assert (np.abs(found[~unsure]) > CERTAIN).all()


def test_a_threshold_moved_far_takes_tissue_from_its_border_inwards() -> None:
    margin = np.full((64, 64), -9.0, np.float32)
    margin[16:48, 16:48] = 9.0 + np.random.default_rng(0).standard_normal((32, 32))
    field = rank_certain_pixels(margin)
    distance = ndimage.distance_transform_edt(margin > 0)
    kept = field >= np.sort(field.ravel())[-500]  # about half of the square's pixels; those of its corners tie
    assert 500 <= kept.sum() < 600
    assert distance[kept].min() >= distance[(margin > 0) & ~kept].max() - 2.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), classes=st.integers(2, 6), scale=st.sampled_from([0.1, 1.0, 20.0]))
def test_scores_decide_as_the_logits_do(seed: int, classes: int, scale: float) -> None:
    channels = 1 if classes == 2 else classes
    logits = (scale * np.random.default_rng(seed).standard_normal((channels, 16, 24))).astype(np.float32)
    scores = to_scores(logits)
    decided = (logits[0] > 0).astype(int) if channels == 1 else logits.argmax(0)
    assert scores.fields.shape == (classes, 16, 24)
    np.testing.assert_array_equal(scores.fields.argmax(0), decided)
    np.testing.assert_allclose(scores.fractions, np.bincount(decided.ravel(), minlength=classes) / decided.size)


@pytest.mark.parametrize("value", [-30.0, 30.0])
def test_a_network_that_is_sure_everywhere_still_meets_every_request(value: float) -> None:
    """Without a border no pixel has a distance from it."""
    logits = (value + np.random.default_rng(0).standard_normal((1, *SIZE))).astype(np.float32)
    for tissue in (0.0, 0.3, 1.0):
        allocation = allocate(to_scores(logits), request(tissue), np.random.default_rng(0))
        assert int(allocation.tile.semantic.sum()) == round(tissue * 2048)
        assert np.isfinite(allocation.shift)
