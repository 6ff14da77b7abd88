"""Pasted nuclei: pixels, classes, distances and ids come along, and what they cover is cut off."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segment.data.augmentation import AugmentConfig
from segment.data.pasting import Donor, LabelledCrop, PasteConfig, paste_nuclei, whole_nuclei
from segment.data.targets import distance_target

NUCLEUS = np.isin(np.arange(256), (1, 255))


def discs(seed: int, count: int, size: int = 64) -> LabelledCrop:
    """A tile of discs, each of one grey level that no other place has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    instance = np.zeros((size, size), np.int32)
    for number in range(1, count + 1):
        at, radius = rng.integers(0, size, 2), rng.integers(3, 8)
        instance[(y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2] = number
    labels = (instance > 0).astype(np.uint8)
    image = np.repeat((instance * 3 % 200 + 20 * (instance > 0)).astype(np.uint8)[..., None], 3, axis=2)
    return LabelledCrop(image, labels, distance_target(instance, NUCLEUS[labels]), instance)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 12), st.integers(1, 12))
def test_labels_and_distances_are_those_of_the_pasted_ids(seed: int, cells: int, most: int) -> None:
    crop, tile = discs(seed, cells), discs(seed + 1, 8)
    boxes = whole_nuclei(tile.instance)
    config = PasteConfig(probability=1, most=most)
    pasted = paste_nuclei(crop, Donor(tile, boxes), NUCLEUS, np.random.default_rng(seed), config)
    new = pasted.instance > crop.instance.max()
    assert new.any() == bool(boxes)
    assert np.array_equal(pasted.labels, (pasted.instance > 0).astype(np.uint8))
    assert np.array_equal(pasted.instance[~new], crop.instance[~new])
    # whatever is covered is cut: distances are those of the final ids; a pasted one keeps those of its whole
    old = np.where(new, 0, pasted.instance)
    touched = np.isin(crop.instance, np.unique(crop.instance[new]))
    expected = distance_target(np.where(touched, old, 0), NUCLEUS[pasted.labels] & touched & ~new)
    left = touched & (old > 0)
    assert np.array_equal(pasted.distances[left], expected[left])
    assert np.array_equal(pasted.distances[~new & ~touched], crop.distances[~new & ~touched])
    assert (pasted.distances[new] > 0).all()


def test_a_nucleus_is_pasted_whole_with_its_pixels() -> None:
    tile, empty = discs(3, 6), discs(0, 0)
    boxes = whole_nuclei(tile.instance)
    config = PasteConfig(probability=1, most=1, edge_px=0.1)
    pasted = paste_nuclei(empty, Donor(tile, boxes), NUCLEUS, np.random.default_rng(5), config)
    inside = pasted.instance > 0
    assert np.array_equal(pasted.image[..., 0] > 0, inside)
    level = np.unique(pasted.image[inside])
    assert level.size == 1
    source = tile.image[..., 0] == level[0]
    assert inside.sum() == source.sum()  # not cut by the crop at this seed
    assert sorted(pasted.distances[inside]) == sorted(tile.distances[source])


def test_nuclei_that_the_border_cuts_are_not_pasted() -> None:
    instance = np.zeros((32, 32), np.int32)
    instance[:4, 5:9], instance[10:14, 10:14] = 1, 2
    assert [number for number, _ in whole_nuclei(instance)] == [2]


def test_nothing_is_pasted_by_default() -> None:
    assert AugmentConfig().paste.probability == 0
    assert AugmentConfig.none().paste.probability == 0


@pytest.mark.parametrize("field", ["probability", "same_tile"])
def test_shares_beyond_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        PasteConfig(**{field: 1.5})
