"""Schemes, tiles and the composition of masks."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manifests import IGNORE, SCHEMES, LabelScheme, Tile, UserError, get_scheme, measure
from manifests.labels import common_scheme

PDL1 = get_scheme("pdl1")


def tile(semantic: object, instance: object = None, scheme: LabelScheme = PDL1) -> Tile:
    mask = np.array(semantic, np.uint8)
    return Tile(mask, np.zeros(mask.shape, np.int32) if instance is None else np.array(instance, np.int32), 0.5, scheme)


@pytest.mark.parametrize("name", SCHEMES)
def test_scheme_survives_dict_and_pickle(name: str) -> None:
    scheme = get_scheme(name)
    assert LabelScheme.from_dict(scheme.to_dict()) == scheme
    assert pickle.loads(pickle.dumps(scheme)) == scheme


def test_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Did you mean pdl1\?"):
        get_scheme("pdll1")


def test_projection_keeps_ignore_and_maps_classes() -> None:
    table = PDL1.projection(get_scheme("tissue"))
    assert table[[0, 1, 2, 3, 4, IGNORE]].tolist() == [1, 1, 1, 1, 0, IGNORE]
    with pytest.raises(UserError, match="projection"):
        PDL1.projection(get_scheme("nuclei"))


def test_common_scheme_is_the_richest() -> None:
    assert common_scheme([PDL1, PDL1]).name == "pdl1"
    assert common_scheme([PDL1, get_scheme("tissue")]).name == "tissue"
    assert common_scheme([get_scheme("ihc"), get_scheme("nuclei")]).name == "nuclei"
    with pytest.raises(UserError, match="common scheme"):
        common_scheme([PDL1, get_scheme("nuclei")])


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": "../pdl1"},
        {"name": ""},
        {"classes": [{"id": 1, "name": "x", "colour": [0, 0, 0]}]},
        {"classes": [{"id": 0, "name": "x", "colour": [0, 0, 256]}]},
        {"classes": [{"id": float("inf"), "name": "x", "colour": [0, 0, 0]}]},
        {"classes": ["air", "tissue"]},
        {"projections": {"nuclei": [0, 300]}},
        {"projections": {"nuclei": [0, -1]}},
        {"tps_basis": "volume"},
    ],
)
def test_malformed_scheme_is_refused(change: dict) -> None:
    document = {**get_scheme("tissue").to_dict(), **change}
    document = {key: value for key, value in document.items() if value is not None}
    with pytest.raises(UserError, match="label scheme"):
        LabelScheme.from_dict(document)


def test_tile_refuses_labels_outside_scheme_and_wrong_dtypes() -> None:
    with pytest.raises(ValueError, match=r"\[9\]"):
        tile([[9]])
    with pytest.raises(ValueError, match="uint8"):
        Tile(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int32), 0.5, PDL1)
    with pytest.raises(ValueError, match="negative"):
        tile([[0]], [[-1]])


def test_measure_by_hand() -> None:
    # Four positive and four negative tumour pixels, two of inflammation, one other, one of air, two ignored.
    mask = [[3, 3, 3, 3, 255, 0, 4], [2, 2, 2, 2, 255, 1, 1]]
    cells = [[7, 7, 9, 0, 0, 0, 0], [7, 0, 9, 4, 0, 30, 0]]
    found = measure(tile(mask, cells))
    assert found.tps_area == 0.5
    assert found.tissue_fraction == 11 / 12
    assert found.positive_tissue_fraction == 4 / 11
    assert found.class_fractions == (1 / 12, 2 / 12, 4 / 12, 4 / 12, 1 / 12)
    # 7 is positive by majority, 9 is a tie and so negative, 4 negative, 30 no tumour cell.
    assert (found.cells, found.cells_positive, found.cells_negative) == (4, 1, 2)
    assert found.tps_cells == 1 / 3


def test_cut_cells_are_counted_by_hand() -> None:
    # 7 and 9 reach a side, 4 a corner only, 5 lies inside; ids have gaps.
    cells = [[4, 0, 7, 0, 0], [0, 0, 7, 5, 0], [0, 0, 0, 0, 9], [0, 0, 0, 0, 0]]
    found = measure(tile(np.ones((4, 5)), cells, get_scheme("nuclei")))
    assert (found.cells, found.cells_cut) == (4, 3)
    assert measure(tile([[0, 1]])).cells_cut == 0


def test_measure_without_tumour_air_or_labels() -> None:
    found = measure(tile([[0, 1]]))
    assert found.tps_area is None
    assert found.tps_cells is None
    assert found.has_tumour is False
    nuclei = measure(tile([[0, 1]], [[0, 5]], get_scheme("nuclei")))
    assert (nuclei.tissue_fraction, nuclei.has_tumour, nuclei.cells_positive, nuclei.cells) == (None, None, None, 1)
    ignored = measure(tile([[IGNORE]]))
    assert ignored.class_fractions == (0.0,) * 5
    assert ignored.tissue_fraction is None


def test_measure_with_huge_sparse_ids_needs_no_huge_histogram() -> None:
    found = measure(tile([[3, 2]], [[2**31 - 1, 2**30]]))
    assert (found.cells, found.cells_positive, found.cells_negative) == (2, 1, 1)


@given(
    arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
    arrays(np.int32, (9, 7), elements=st.integers(0, 5)),
)
def test_measure_equals_loop_over_cells(mask: np.ndarray, ids: np.ndarray) -> None:
    found = measure(tile(mask, ids))
    positive = negative = 0
    for cell in set(ids[ids > 0].tolist()):
        under = mask[ids == cell]
        p, n = int((under == 3).sum()), int((under == 2).sum())
        positive += p > n
        negative += p <= n and p + n > 0
    assert (found.cells_positive, found.cells_negative) == (positive, negative)
    assert found.cells == len(set(ids[ids > 0].tolist()))
    assert sum(found.class_fractions) == pytest.approx(1.0 if (mask != 255).any() else 0.0)


def test_cells_of_types_are_counted_by_majority() -> None:
    types = get_scheme("nuclei_types")
    found = measure(tile([[1, 1, 2, 2], [1, 4, 0, 2]], [[1, 1, 7, 7], [1, 1, 0, 7]], types))
    assert found.cell_fractions == (0.0, 0.5, 0.5, 0.0, 0.0, 0.0)
    assert measure(tile([[0, 0]], None, types)).cell_fractions is None
    assert measure(tile([[3, 3]], [[1, 1]])).cell_fractions is None  # regions have no types
