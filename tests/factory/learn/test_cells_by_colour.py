"""Cells and air by colour: which pixels of a real image become them, and which never do."""

import numpy as np
import pytest
import skimage.data

from factory.learn.cells_by_colour import AIR_GREY, CELL_GREY, CELL_RULES, brown_cells, dark_cells, grey, with_cells
from manifests import IGNORE, Tile, get_scheme

KI67, KI67_CELLS = get_scheme("ki67"), get_scheme("ki67_cells")
OTHER, NEGATIVE, POSITIVE, AIR, CELL = range(5)
PALE, WHITE, BLUE, BROWN = (222, 226, 235), (250, 250, 250), (90, 120, 190), (130, 80, 40)


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    """Pale tissue with a blue and a brown nucleus, a speck, and a white hole; uint8 [H, W, 3]."""
    image = np.full((height, width, 3), PALE, np.uint8)
    image[10:20, 10:20] = BLUE
    image[10:20, 30:40] = BROWN
    image[50:52, 10:12] = BROWN
    image[30:40, 30:40] = WHITE
    return image


@pytest.mark.parametrize(("rule", "cells"), [("grey", (10, 30)), ("depas", (30,))])
def test_nuclei_become_cells_and_holes_air(rule: str, cells: tuple[int, ...]) -> None:
    labels = np.full((60, 80), NEGATIVE, np.uint8)
    labels[:, 25:] = POSITIVE
    wanted = labels.copy()
    wanted[30:40, 30:40] = AIR
    for x in cells:
        wanted[10:20, x : x + 10] = CELL
    np.testing.assert_array_equal(with_cells(labels, picture(), 0.5, KI67, KI67_CELLS, rule=rule), wanted)


def test_air_and_ignore_stay_and_the_mask_is_not_changed() -> None:
    labels = np.full((60, 80), OTHER, np.uint8)
    labels[:15], labels[:, 35:] = AIR, IGNORE
    before = labels.copy()
    painted = with_cells(labels, picture(), 0.5, KI67, KI67_CELLS)
    np.testing.assert_array_equal(labels, before)
    for value in (AIR, IGNORE):
        assert (painted[before == value] == value).all()
    assert (painted[15:20, 10:20] == CELL).all()


def test_specks_are_measured_in_micrometres() -> None:
    labels = np.full((60, 80), NEGATIVE, np.uint8)
    coarse, fine = (with_cells(labels, picture(), mpp, KI67, KI67_CELLS) for mpp in (2.0, 0.1))
    assert (coarse[50:52, 10:12] == CELL).all()
    assert (fine != CELL).all()


def test_pdl1_masks_take_cells_of_their_own_scheme() -> None:
    labels = np.full((60, 80), 2, np.uint8)
    target = get_scheme("pdl1_cells")
    painted = with_cells(labels, picture(), 0.5, get_scheme("pdl1"), target)
    assert np.unique(painted).tolist() == [2, 4, 5]
    Tile(painted, np.zeros(painted.shape, np.int32), 0.5, target)


def test_rules_hold_on_a_stained_photograph() -> None:
    image = skimage.data.immunohistochemistry()
    dark, brown = dark_cells(image), brown_cells(image)
    levels = 0.299 * image[..., 0].astype(float) + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    assert np.abs(grey(image) - levels).max() <= 0.51
    assert (levels[dark] <= CELL_GREY + 0.51).all()
    assert (image[brown][:, 1:] < 200).all()
    assert (image[brown][:, :1] > image[brown][:, 1:]).all()
    assert 0 < brown.mean() < dark.mean() < 1
    labels = np.full(image.shape[:2], NEGATIVE, np.uint8)
    painted = with_cells(labels, image, 0.5, KI67, KI67_CELLS)
    np.testing.assert_array_equal(painted == AIR, grey(image) > AIR_GREY)
    assert dark[painted == CELL].all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_scheme": get_scheme("pdl1_cells")}, "target_scheme: expected other, Ki-67 negative"),
        ({"image": np.zeros((60, 79, 3), np.uint8)}, r"image: expected \(60, 80, 3\) as its mask"),
        ({"rule": "hue"}, f"rule: expected one of {', '.join(CELL_RULES)}, got 'hue'"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], said: str) -> None:
    given = {"labels": np.zeros((60, 80), np.uint8), "image": picture(), "mpp": 0.5, "scheme": KI67}
    with pytest.raises(ValueError, match=said):
        with_cells(**(given | {"target_scheme": KI67_CELLS} | change))  # type: ignore[arg-type]
