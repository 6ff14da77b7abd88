"""Allocation: exact counts, ties, shifts, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factory.masks.allocate import Scores, Unmet, allocate, check
from factory.masks.cells.nuclei_config import NucleiConfig
from factory.masks.ihc import Ihc
from factory.masks.nuclei import Nuclei
from factory.masks.quantiles import target_count, top
from factory.plan.request import Request
from manifests.labels import SCHEMES, LabelClass, LabelScheme, get_scheme
from manifests.measure import measure

PDL1 = get_scheme("pdl1")
ORGAN = LabelScheme(
    "organ",
    (
        LabelClass(0, "stroma", (0, 0, 0)),
        LabelClass(1, "gland", (1, 0, 0)),
        LabelClass(2, "muscle", (2, 0, 0)),
        LabelClass(3, "lumen", (3, 0, 0), ("air",)),
    ),
)
share = st.floats(0.0, 1.0)


def random_scores(seed: int, scheme: LabelScheme, height: int, width: int, levels: int, **more: object) -> Scores:
    """Scores of few different values, so that ties are the rule."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(-levels, levels + 1, (len(scheme), height, width)).astype(np.float32)
    return Scores(fields, (1.0 / len(scheme),) * len(scheme), **more)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    tps=share, tissue=share, tumour=share, inflammation=share, seed=st.integers(0, 2**32), levels=st.integers(0, 9),
    height=st.integers(1, 40), width=st.integers(1, 40),
)  # fmt: skip
def test_allocate_meets_every_share_exactly(
    tps: float, tissue: float, tumour: float, inflammation: float, seed: int, levels: int, height: int, width: int
) -> None:
    inflammation *= 1.0 - tumour
    fractions = (
        tissue * (1 - tumour - inflammation), tissue * inflammation, tissue * tumour * (1 - tps),
        tissue * tumour * tps, 1 - tissue,
    )  # fmt: skip
    fractions = tuple(max(f, 0.0) for f in fractions)
    request = Request(height, width, 0.5, PDL1, tps=tps, tissue=tissue, fractions=fractions)
    assume(check(request) is None)
    scores = random_scores(seed, PDL1, height, width, levels)

    tile = allocate(scores, request, np.random.default_rng(seed)).tile

    total = height * width
    counts = np.bincount(tile.semantic.ravel(), minlength=5)
    assert total - counts[4] == target_count(tissue, total)
    tumour_px = counts[2] + counts[3]
    assert abs(tumour_px - min(total * tissue * tumour, total - counts[4])) <= 0.5 + 1e-6 * total
    assert abs(counts[3] - tps * tumour_px) <= 0.5 + 1e-9
    assert abs(counts[1] - total * tissue * inflammation) <= 1.0 + 1e-6 * total


def test_allocate_takes_the_highest_scores_of_each_step() -> None:
    rng = np.random.default_rng(0)
    fields = rng.random((5, 30, 40), np.float32)
    request = Request(30, 40, 0.5, PDL1, tps=0.3, fractions=(0.3, 0.1, 0.2, 0.2, 0.2))

    labels = allocate(Scores(fields, (0.2,) * 5), request, rng).tile.semantic

    air = fields[4] - fields[:4].max(0)
    assert air[labels == 4].min() >= air[labels != 4].max()
    tumour, tissue = np.isin(labels, (2, 3)), labels != 4
    margin = fields[2:4].max(0) - fields[:2].max(0)
    assert margin[tumour].min() >= margin[tissue & ~tumour].max()
    expression = fields[3] - fields[2]
    assert expression[labels == 3].min() >= expression[labels == 2].max()


def test_allocate_breaks_ties_by_seed_on_constant_fields() -> None:
    request = Request(32, 32, 0.5, PDL1, tps=0.37, tissue=0.8, fractions=(0.4, 0.1, 0.2, 0.1, 0.2))
    scores = random_scores(0, PDL1, 32, 32, 0)

    first, again, other = (allocate(scores, request, np.random.default_rng(s)).tile for s in (1, 1, 2))

    np.testing.assert_array_equal(first.semantic, again.semantic)
    assert (first.semantic != other.semantic).any()
    assert measure(first) == measure(other)
    rows = np.flatnonzero((first.semantic == 3).any(axis=1))
    assert rows.size > 20, "ties are spread over the tile, not taken in reading order"


def test_allocate_divides_a_generic_scheme_by_its_fractions() -> None:
    request = Request(50, 40, 0.5, ORGAN, fractions=(0.35, 0.25, 0.3, 0.1))

    tile = allocate(random_scores(3, ORGAN, 50, 40, 2), request, np.random.default_rng(0)).tile

    assert np.bincount(tile.semantic.ravel()).tolist() == [700, 500, 600, 200]


def test_allocate_uses_one_threshold_for_tissue() -> None:
    fields = np.zeros((2, 20, 20), np.float32)
    fields[0] = np.arange(400, dtype=np.float32).reshape(20, 20)
    request = Request(20, 20, 0.5, get_scheme("tissue"), tissue=0.6)

    labels = allocate(Scores(fields, (0.5, 0.5)), request, np.random.default_rng(0)).tile.semantic

    np.testing.assert_array_equal(labels.ravel(), (np.arange(400) < 240).astype(np.uint8))


def test_tissue_takes_precedence_over_fractions() -> None:
    request = Request(100, 100, 0.5, PDL1, tissue=0.5, tps=0.5, fractions=(0.4, 0.1, 0.2, 0.2, 0.1))

    achieved = measure(allocate(random_scores(1, PDL1, 100, 100, 5), request, np.random.default_rng(0)).tile)

    assert achieved.tissue_fraction == 0.5
    assert achieved.tps_area == 0.5
    np.testing.assert_allclose(achieved.class_fractions, np.array([0.4, 0.1, 0.2, 0.2, 0]) * 5 / 9 + [0, 0, 0, 0, 0.5],
                               atol=2e-4)  # fmt: skip


def test_shift_is_none_without_calibration_and_zero_for_the_generators_own_composition() -> None:
    rng = np.random.default_rng(5)
    fields = rng.normal(size=(5, 40, 40)).astype(np.float32)
    own = allocate_own(fields)
    shares = np.bincount(own.ravel(), minlength=5) / own.size
    tps = shares[3] / (shares[2] + shares[3])
    request = Request(40, 40, 0.5, PDL1, tps=float(tps), fractions=tuple(shares.tolist()))

    calibrated = allocate(Scores(fields, (0.2,) * 5, calibrated=True), request, rng)

    assert calibrated.shift == 0.0
    np.testing.assert_array_equal(calibrated.tile.semantic, own)
    assert allocate(Scores(fields, (0.2,) * 5), request, rng).shift is None


def allocate_own(fields: np.ndarray) -> np.ndarray:
    """Labels of a softmax network itself, step by step."""
    return np.argmax(fields, axis=0).astype(np.uint8)


def test_shift_is_the_largest_distance_of_a_threshold_from_zero() -> None:
    logits = np.array([[-2.0, -1.0, 1.0, 3.0]], np.float32)
    fields = np.stack([np.zeros_like(logits), logits])
    request = Request(1, 4, 0.5, get_scheme("tissue"), tissue=1.0)

    shift = allocate(Scores(fields, (0.5, 0.5), calibrated=True), request, np.random.default_rng(0)).shift

    assert shift == 2.0


def test_top_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        top(np.full(10, np.nan, np.float32), 3, np.random.default_rng(0))


def test_allocate_is_unmet_where_a_tps_is_asked_and_the_draw_has_no_tumour() -> None:
    scores = dataclasses.replace(random_scores(0, PDL1, 8, 8, 1), fractions=(0.8, 0.0, 0.0, 0.0, 0.2))
    with pytest.raises(Unmet, match="no pixel is tumour"):
        allocate(scores, Request(8, 8, 0.5, PDL1, tps=0.5), np.random.default_rng(0))


def test_allocate_is_unmet_where_the_cells_do_not_fit() -> None:
    masks = Ihc(Ihc.Config())
    request = Request(64, 64, 0.5, PDL1, tps=0.5, cells=500)
    (scores,) = masks.draw([request], [np.random.default_rng(0)])
    with pytest.raises(Unmet, match="fit"):
        allocate(scores, request, np.random.default_rng(0))


def test_allocate_refuses_fields_of_another_shape() -> None:
    scores = random_scores(0, PDL1, 8, 8, 1)
    with pytest.raises(ValueError, match=r"fields: expected float32 \(5, 8, 9\)"):
        allocate(scores, Request(8, 9, 0.5, PDL1), np.random.default_rng(0))


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "tps above 1": ({"tps": 1.5}, "tps: expected a share from 0 to 1"),
    "tissue below 0": ({"tissue": -0.1}, "tissue: expected a share from 0 to 1"),
    "negative cells": ({"cells": -1}, "cells: expected a number from 0"),
    "tps without tissue": ({"tps": 0.1, "tissue": 0.0}, "which has no tumour"),
    "tps of a sliver of tissue": ({"tps": 0.1, "tissue": 1e-9}, "which has no tumour"),
    "tps without tumour": ({"tps": 0.1, "fractions": (0.5, 0.5, 0, 0, 0)}, "tile without tumour"),
    "no tissue but tumour": ({"tissue": 0.0, "fractions": (0.5, 0, 0.5, 0, 0)}, "no place for the tumour"),
    "tissue of air": ({"tissue": 0.5, "fractions": (0, 0, 0, 0, 1)}, "all air"),
    "shares above 1": ({"fractions": (0.5, 0.5, 0.5, 0, 0)}, "expected a sum of 1, got 1.5"),
    "a share above 1": ({"fractions": (2, -1, 0, 0, 0)}, "expected shares from 0 to 1"),
    "too few shares": ({"fractions": (0.5, 0.5)}, "expected 5 shares"),
    "no size": ({"height": 0}, "expected a size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_check_says_why_a_request_can_never_be_met(case: str) -> None:
    changes, reason = REFUSED[case]
    refusal = check(dataclasses.replace(Request(64, 64, 0.5, PDL1), **changes))  # type: ignore[arg-type]
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize("shares", [(0.6, 0.3, 0, 0, 0.1), (0, 0, 0, 0, 1)])
def test_a_tps_of_zero_is_that_of_tissue_without_tumour_too(shares: tuple[float, ...]) -> None:
    request = Request(16, 24, 0.5, PDL1, tps=0.0, fractions=shares)
    assert check(request) is None
    fields = np.random.default_rng(0).random((5, 16, 24), np.float32)
    tile = allocate(Scores(fields, shares), request, np.random.default_rng(0)).tile
    assert not np.isin(tile.semantic, PDL1.ids("tumour_positive") + PDL1.ids("tumour_negative")).any()
    assert measure(tile).tps_area is None


@pytest.mark.parametrize(("scheme", "changes", "reason"), [
    ("nuclei", {"tps": 0.5}, "knows no tumour"),
    ("ihc", {"tissue": 0.5}, "knows no air"),
])  # fmt: skip
def test_check_refuses_what_a_scheme_does_not_know(scheme: str, changes: dict[str, float], reason: str) -> None:
    refusal = check(Request(64, 64, 0.5, SCHEMES[scheme], **changes))  # type: ignore[arg-type]
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize("tps", [0.0, 0.001, 1.0])
def test_check_accepts_the_ends_of_the_range(tps: float) -> None:
    assert (
        check(Request(64, 64, 0.5, PDL1, tps=tps, tissue=1.0, fractions=(0.6, 0, 0.4 - 0.4 * tps, 0.4 * tps, 0)))
        is None
    )


@settings(max_examples=60, deadline=None)
@given(
    named=st.lists(st.none() | st.floats(0.0, 0.3), min_size=5, max_size=5).filter(lambda each: None in each),
    tissue=st.none() | share, tps=st.none() | share, seed=st.integers(0, 2**32), height=st.integers(1, 40),
    levels=st.integers(0, 9),
)  # fmt: skip
def test_shares_of_some_classes_are_met_exactly_and_the_others_fill_up(
    named: list[float | None], tissue: float | None, tps: float | None, seed: int, height: int, levels: int
) -> None:
    request = Request(height, 31, 0.5, PDL1, tissue=tissue, tps=tps, fractions=tuple(named))
    assume(check(request) is None)
    scores = random_scores(seed, PDL1, height, 31, levels)
    try:
        tile = allocate(scores, request, np.random.default_rng(seed)).tile
    except Unmet:
        assert tps is not None  # without tumour
        return
    total = tile.semantic.size
    counts = np.bincount(tile.semantic.ravel(), minlength=5)
    room = total - (target_count(1 - tissue, total) if tissue is not None else 0)
    for label, wanted in enumerate(named):
        if wanted is not None and sum(each or 0.0 for each in named) * total < room - 3:
            assert counts[label] == target_count(wanted, total)
    if tissue is not None:
        assert total - counts[4] == target_count(tissue, total)
    if tps is not None:
        assert counts[3] == target_count(tps, counts[2] + counts[3])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"fractions": (None, 0.7, None, None, 0.4)}, "at most 1 of the pixels for inflammation"),
        ({"fractions": (0.1, 0.1, 0.1, 0.1, None), "tissue": 0.8}, "exactly 0.8 of the pixels for other"),
        ({"fractions": (None, None, None, 0.1, None), "tps": 0.5}, "beside a share of PD-L1 positive"),
        ({"cell_fractions": (0.5, None, None, None, None)}, "pdl1 has no types of nuclei"),
    ],
)
def test_shares_that_contradict_are_refused(asked: dict[str, object], said: str) -> None:
    assert said in str(check(Request(32, 32, 0.5, PDL1, **asked)))  # type: ignore[arg-type]


TYPES = get_scheme("nuclei_types")


@settings(max_examples=8, deadline=None)
@given(
    dead=st.floats(0, 0.4), neoplastic=st.floats(0, 0.6), cells=st.none() | st.integers(1, 40), seed=st.integers(0, 99)
)
def test_types_of_nuclei_have_the_requested_shares_of_the_cells(
    dead: float, neoplastic: float, cells: int | None, seed: int
) -> None:
    asked = (None, neoplastic, None, None, dead, None)
    request = Request(128, 128, 0.25, TYPES, cells=cells, cell_fractions=asked)
    masks = Nuclei(NucleiConfig())
    assert masks.refusal(request) is None
    (scores,) = masks.draw([request], [np.random.default_rng(seed)])
    found = measure(allocate(scores, request, np.random.default_rng(seed)).tile)
    assert found.cells == (found.cells if cells is None else cells)
    assert found.cell_fractions is not None
    counts = np.rint(np.array(found.cell_fractions) * found.cells)
    assert counts[4] == target_count(dead, found.cells)
    assert counts[1] == target_count(neoplastic, found.cells)


def test_types_that_do_not_fit_leave_the_shares_exact() -> None:
    asked = (None, 0.5, None, 0.2, None, None)
    request = Request(64, 64, 0.25, TYPES, cell_fractions=asked)
    (scores,) = Nuclei(NucleiConfig(crowding=(2, 2))).draw([request], [np.random.default_rng(1)])
    assert scores.cells is not None
    more = tuple(
        dataclasses.replace(each, outlines=each.outlines.pick(np.arange(8 * len(each.outlines)) % len(each.outlines)))
        for each in scores.cells.populations
        if len(each.outlines)
    )
    crowded = dataclasses.replace(scores, cells=dataclasses.replace(scores.cells, populations=more, loss=1.0))
    found = measure(allocate(crowded, request, np.random.default_rng(1)).tile)
    wanted = sum(len(each.outlines) for each in more)
    assert 0 < found.cells < wanted
    assert found.cell_fractions is not None
    counts = np.rint(np.array(found.cell_fractions) * found.cells)
    assert counts[[1, 3]].tolist() == [target_count(0.5, found.cells), target_count(0.2, found.cells)]
