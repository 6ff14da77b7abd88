"""Outlines of masks: exact, simple, and valid by the rules of OGC, which shapely checks."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import MultiPolygon, Polygon

from factory.core.outlines import outlines, polygons

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def area(corners: np.ndarray) -> float:
    """Shoelace formula; positive where the outline runs clockwise on the screen."""
    x, y = corners[:, 0], corners[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie inside by the even-odd rule: crossings of a ray to the left are counted."""
    inside = np.zeros(shape, int)
    for corners in rings:
        for (x, y), (_, v) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if v != y:
                inside[min(y, v) : max(y, v), x:] += 1
    return inside % 2 == 1


@settings(max_examples=100, deadline=None)
@given(mask=MASKS)
def test_outlines_hold_exactly_the_pixels_of_a_mask(mask: np.ndarray) -> None:
    rings = outlines(mask)
    assert sum(area(ring) for ring in rings) == np.count_nonzero(mask)
    np.testing.assert_array_equal(filled(rings, mask.shape), mask)
    n, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert sum(area(ring) > 0 for ring in rings) == n - 1
    for ring in rings:  # corners only: the direction changes at each
        steps = np.diff(np.concatenate([ring, ring[:1]]), axis=0)
        assert ((steps == 0).sum(axis=1) == 1).all()
        assert ((steps != 0).argmax(axis=1) != np.roll((steps != 0).argmax(axis=1), 1)).all()


def test_outline_of_a_ring_is_its_outside_and_then_its_hole() -> None:
    mask = np.ones((3, 4), bool)
    mask[1, 1:3] = False
    outer, hole = outlines(mask)
    assert {tuple(corner) for corner in outer.tolist()} == {(0, 0), (4, 0), (4, 3), (0, 3)}
    assert {tuple(corner) for corner in hole.tolist()} == {(1, 1), (3, 1), (3, 2), (1, 2)}
    assert (area(outer), area(hole)) == (12, -2)


@settings(max_examples=100, deadline=None)
@given(mask=MASKS)
def test_polygons_are_valid_and_have_the_area_of_the_mask(mask: np.ndarray) -> None:
    whole = MultiPolygon([Polygon(rings[0], rings[1:]) for rings in polygons(mask)])
    assert whole.is_valid
    assert whole.area == np.count_nonzero(mask)


def test_hole_that_meets_the_outside_in_a_corner_is_a_ring_of_its_own() -> None:
    mask = np.ones((5, 5), bool)
    mask[1, 1] = mask[0, 0] = False
    ((outer, hole),) = polygons(mask)
    assert (area(outer), area(hole)) == (24, -1)
    assert Polygon(outer, [hole]).is_valid
