"""The looks of slides: mean colours of classes, as a slow reading of every pixel gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from factory.learn.crops import open_tiles
from factory.renderers.learned.image_training import measure_stain_references
from manifests.labels import get_scheme
from tests.mask_training import blobs, write_masks

SIZE = (32, 64)
COLOURS = {"a": (200, 150, 100), "b": (20, 40, 60)}


def write(root: Path, masks: list[np.ndarray], images: list[np.ndarray], groups: str) -> Path:
    write_masks(root, masks, "ki67", images=lambda index: images[index], group=lambda index: groups[index])
    return root


def test_looks_are_the_mean_colours_of_every_class_over_all_tiles_of_a_slide(tmp_path: Path) -> None:
    masks = [blobs(seed, 4, SIZE) for seed in range(5)]
    images = [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8) for seed in range(5)]
    groups = "babab"
    looks = measure_stain_references(open_tiles([write(tmp_path / "d", masks, images, groups)], None, SIZE, 1), every=1)
    assert looks.names == ("d/a", "d/b")
    assert looks.colours.shape == (2, 4, 3)
    assert looks.colours.dtype == np.float32
    for place, slide in enumerate("ab"):
        of_slide = [index for index, group in enumerate(groups) if group == slide]
        for label in range(4):
            pixels = np.concatenate([images[index][masks[index] == label] for index in of_slide])
            np.testing.assert_allclose(looks.colours[place, label], pixels.mean(0) / 127.5 - 1, atol=1e-5)


def test_a_class_that_a_slide_has_not_looks_as_in_the_others(tmp_path: Path) -> None:
    masks = [np.full(SIZE, label, np.uint8) for label in (1, 2, 1)]
    images = [np.full((*SIZE, 3), colour, np.uint8) for colour in (COLOURS["a"], COLOURS["b"], COLOURS["a"])]
    looks = measure_stain_references(open_tiles([write(tmp_path / "d", masks, images, "aba")], None, SIZE, 1))
    expected = np.float32([COLOURS["a"], COLOURS["b"]]) / 127.5 - 1
    np.testing.assert_allclose(looks.colours[:, 1:3], np.stack([expected] * 2), atol=1e-6)
    assert np.isfinite(looks.colours).all()  # also those of classes that no slide has


def test_slides_of_two_data_sets_stay_apart_though_their_groups_have_one_name(tmp_path: Path) -> None:
    for name in "ab":
        images = [np.full((*SIZE, 3), COLOURS[name], np.uint8)]
        write(tmp_path / name, [np.zeros(SIZE, np.uint8)], images, "s")
    looks = measure_stain_references(open_tiles([tmp_path / "b", tmp_path / "a"], None, SIZE, 1))
    assert looks.names == ("a/s", "b/s")
    for place, name in enumerate("ab"):
        np.testing.assert_allclose(looks.colours[place, 0], np.float32(COLOURS[name]) / 127.5 - 1, atol=1e-6)


def test_a_coarser_reading_is_nearly_the_same(tmp_path: Path) -> None:
    masks = [blobs(seed, 4, (128, 128)) for seed in range(2)]
    images = [np.random.default_rng(seed).integers(90, 160, (128, 128, 3), np.uint8) for seed in range(2)]
    images = [np.where(mask[..., None] == 2, image // 3, image) for mask, image in zip(masks, images, strict=True)]
    tiles = open_tiles([write(tmp_path / "d", masks, images, "ab")], None, SIZE, 1)
    fine, coarse = (measure_stain_references(tiles, every=every).colours for every in (1, 4))
    assert np.abs(fine - coarse).max() < 0.1
    assert np.abs(fine[:, 2] - fine[:, 1]).min() > 0.5


def test_looks_are_of_the_scheme_that_the_masks_are_read_as(tmp_path: Path) -> None:
    mask = np.full(SIZE, 3, np.uint8)
    mask[:, :32] = 1
    image = np.where((mask == 3)[..., None], np.uint8(255), np.uint8(100)).repeat(3, axis=2)
    root = write(tmp_path / "d", [mask], [image], "s")
    looks = measure_stain_references(open_tiles([root], "tissue", SIZE, 1))
    assert looks.colours.shape == (1, len(get_scheme("tissue")), 3)
    np.testing.assert_allclose(looks.colours[0, 0], 1.0)
    np.testing.assert_allclose(looks.colours[0, 1], 100 / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_looks_do_not_depend_on_the_order_of_the_data_sets(tmp_path: Path, every: int) -> None:
    roots = []
    for name in "ab":
        images = [np.random.default_rng(ord(name)).integers(0, 256, (*SIZE, 3), np.uint8)]
        roots.append(write(tmp_path / name, [blobs(ord(name), 4, SIZE)], images, "s"))
    one, other = (measure_stain_references(open_tiles(order, None, SIZE, 1), every) for order in (roots, roots[::-1]))
    assert one.names == other.names
    np.testing.assert_array_equal(one.colours, other.colours)
