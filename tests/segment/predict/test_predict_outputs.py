"""Inputs of a network, resampled, and its outputs: outlines, GeoJSON, labels in the image's own pixels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from shapely.geometry import shape

from manifests import get_scheme
from manifests.errors import UserError
from segment.data.overlay import draw_labels
from segment.predict.geojson import write_geojson
from segment.predict.rasters import assemble, ids_for_png
from segment.predict.scaling import Scaling, choose_scaling, read_scaled, to_own_pixels
from segment.predict.stitching import Block, Box, Nucleus
from segment.predict.writing import OUTLINES
from tests.factory.core.test_outlines import filled

NUCLEI = get_scheme("nuclei")


class Pyramid:
    """An image in levels, that notes what is read of it."""

    def __init__(self, *levels: np.ndarray) -> None:
        self.levels, self.asked = levels, []

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        assert min(y, x) >= 0
        assert y + height <= self.levels[level].shape[0]
        assert x + width <= self.levels[level].shape[1]
        self.asked.append(level)
        return self.levels[level][y : y + height, x : x + width]


def test_resolution_within_a_tenth_is_taken_as_it_is() -> None:
    for mpp in (0.23, 0.25, 0.27):
        scaling = choose_scaling([(100, 200)], mpp, [0.25], "a.png")
        assert (scaling.height, scaling.width, scaling.mpp, scaling.is_resampled, scaling.scale) == (
            100,
            200,
            mpp,
            False,
            (1, 1),
        )


def test_another_resolution_is_resampled_from_the_coarsest_level_that_is_fine_enough() -> None:
    sizes = [(1000, 2000), (250, 500), (63, 125)]
    scaling = choose_scaling(sizes, 0.25, [1.25], "a.svs")
    assert (scaling.height, scaling.width, scaling.level, scaling.mpp, scaling.is_resampled) == (
        200,
        400,
        1,
        1.25,
        True,
    )
    assert scaling.own_mpp == pytest.approx(0.25)
    scaling = choose_scaling(sizes, 0.25, [1.0], "a.svs")
    assert (scaling.height, scaling.width, scaling.level, scaling.is_resampled, scaling.scale) == (
        250,
        500,
        1,
        False,
        (4, 4),
    )
    scaling = choose_scaling(sizes, 0.5, [0.25], "a.svs")
    assert (scaling.height, scaling.width, scaling.level, scaling.scale) == (2000, 4000, 0, (0.5, 0.5))
    scaling = choose_scaling(sizes, 0.5, [0.2, 0.47, 1.5], "a.svs")  # the nearest of those that the weights know
    assert (scaling.height, scaling.mpp) == (1000, 0.5)


def test_unknown_resolution_is_the_weights_own_unless_they_know_several() -> None:
    assert choose_scaling([(10, 20)], None, [0.5], "a.png").mpp == 0.5
    assert choose_scaling([(10, 20)], None, [], "a.png").height == 10
    with pytest.raises(UserError, match=r"a\.png: expected a resolution, as the weights know several \(0\.25, 0\.5 um"):
        choose_scaling([(10, 20)], None, [0.25, 0.5], "a.png")
    with pytest.raises(
        UserError, match=r"expected at most 1 um per pixel for weights that were trained at 0\.25, got 2"
    ):
        choose_scaling([(10, 20)], 2.0, [0.25], "a.png")


@pytest.mark.parametrize("mpp", [0.11, 0.4, 0.9])
def test_resampled_windows_agree_with_each_other_and_with_the_whole(mpp: float) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8), (0, 0), 2)
    scaling = choose_scaling([image.shape[:2]], mpp, [0.25], "a.png")
    whole = read_scaled(Pyramid(image), scaling, 0, 0, scaling.height, scaling.width)
    assert whole.shape == (scaling.height, scaling.width, 3)
    expected = cv2.resize(image, (scaling.width, scaling.height), interpolation=cv2.INTER_AREA if mpp < 0.25 else 2)
    assert np.abs(whole.astype(int) - expected).mean() < 2
    for y, x in ((0, 0), (13, 29), (scaling.height - 40, scaling.width - 40)):
        window = read_scaled(Pyramid(image), scaling, y, x, 40, 40).astype(int)
        assert np.abs(window - whole[y : y + 40, x : x + 40]).max() <= 1


def test_window_beyond_the_image_is_mirrored() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    scaling = choose_scaling([(50, 70)], 0.25, [0.25], "a.png")
    window = read_scaled(Pyramid(image), scaling, 32, 64, 32, 32)
    np.testing.assert_array_equal(window[:18, :6], image[32:, 64:])
    np.testing.assert_array_equal(window[18:, :6], image[49:35:-1, 64:])
    np.testing.assert_array_equal(window[:18, 6:12], image[32:, 69:63:-1])


def test_labels_go_back_to_the_images_pixels_by_the_nearest() -> None:
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    doubled = Scaling(2, 3, 0.5, 4, 6, 0, 4, 6)
    np.testing.assert_array_equal(to_own_pixels(labels, doubled), np.kron(labels, np.ones((2, 2), np.int32)))
    halved = Scaling(4, 6, 0.25, 2, 3, 0, 2, 3)
    np.testing.assert_array_equal(to_own_pixels(np.kron(labels, np.ones((2, 2), np.int32)), halved), labels)


def block(top: int, left: int, background: np.ndarray, nuclei: list[Nucleus]) -> Block:
    confidence = np.full(background.shape, 0.5, np.float32)
    return Block(Box(top, top + background.shape[0], left, left + background.shape[1]), background, confidence, nuclei)


def nucleus(label: int, top: int, left: int, mask: np.ndarray) -> Nucleus:
    return Nucleus(label, 0.87654, Box(top, top + mask.shape[0], left, left + mask.shape[1]), mask)


def test_nuclei_that_fall_between_the_pixels_of_a_coarser_image_leave_no_gap_in_the_ids() -> None:
    scaling = Scaling(40, 40, 0.25, 10, 10, 0, 10, 10)
    dot, disc = np.ones((1, 1), bool), np.ones((12, 12), bool)
    nuclei = [nucleus(1, 3, 3, dot), nucleus(2, 8, 8, disc), nucleus(1, 24, 24, disc)]
    tile = assemble([block(0, 0, np.zeros((40, 40), np.uint8), nuclei)], scaling, get_scheme("ihc"))
    assert tile.shape == (10, 10)
    assert tile.mpp == pytest.approx(1.0)
    assert np.unique(tile.instance).tolist() == [0, 1, 2]
    assert set(tile.semantic[tile.instance == 1]) == {2}
    assert set(tile.semantic[tile.instance == 2]) == {1}
    assert not tile.semantic[tile.instance == 0].any()


def test_more_nuclei_than_a_png_can_number_are_refused() -> None:
    assert ids_for_png(np.array([[0, 65535]], np.int32), "a.png").dtype == np.uint16
    with pytest.raises(UserError, match=r"a\.png: expected at most 65535 nuclei .* got 65536\. Use --format tiff"):
        ids_for_png(np.array([[0, 65536]], np.int32), "a.png")


def test_geojson_is_what_qupath_reads(tmp_path: Path) -> None:
    scaling = Scaling(20, 30, 0.5, 40, 60, 0, 40, 60)  # the image has twice the pixels
    donut = np.ones((5, 5), bool)
    donut[2, 2] = False
    nuclei = [nucleus(1, 2, 3, donut), nucleus(2, 10, 10, np.ones((2, 4), bool))]
    blocks = [block(0, 0, np.zeros((20, 30), np.uint8), nuclei)]
    path = tmp_path / "a.geojson"
    assert write_geojson(path, blocks, scaling, get_scheme("ihc"), {"use": "not for diagnosis"}) == 2
    document = json.loads(path.read_text())
    assert (document["type"], document["segment"]) == (
        "FeatureCollection",
        {"use": "not for diagnosis", "origin": [0, 0]},
    )
    first, second = document["features"]
    assert first["type"] == "Feature"
    assert first["geometry"]["type"] == "Polygon"
    outer, hole = (np.array(ring) for ring in first["geometry"]["coordinates"])
    np.testing.assert_array_equal(outer[0], outer[-1])  # RFC 7946: a ring ends where it began
    assert (outer.min(axis=0).tolist(), outer.max(axis=0).tolist()) == ([6, 4], [16, 14])
    assert hole.min(axis=0).tolist() == [10, 8]
    assert first["properties"] == {
        "objectType": "detection",
        "classification": {"name": "negative cell", "color": [74, 110, 180]},
        "measurements": {"Probability": 0.8765, "Area µm^2": 6.0},
    }
    assert second["properties"]["classification"]["name"] == "positive cell"
    assert list(tmp_path.iterdir()) == [path]


def test_geojson_counts_from_the_origin_that_qupath_has(tmp_path: Path) -> None:
    blocks = [block(0, 0, np.zeros((20, 30), np.uint8), [nucleus(1, 12, 13, np.ones((2, 4), bool))])]
    scaling = Scaling(20, 30, 0.5, 40, 60, 0, 40, 60)
    write_geojson(tmp_path / "a.geojson", blocks, scaling, NUCLEI, {}, (20, 16))
    document = json.loads((tmp_path / "a.geojson").read_text())
    assert document["segment"]["origin"] == [20, 16]
    assert document["features"][0]["geometry"]["coordinates"][0][0] == [2 * 17 - 20, 2 * 12 - 16]


def test_nucleus_in_two_pieces_is_a_valid_multipolygon(tmp_path: Path) -> None:
    blocks = [block(0, 0, np.zeros((8, 8), np.uint8), [nucleus(1, 1, 1, np.eye(2, dtype=bool))])]
    write_geojson(tmp_path / "a.geojson", blocks, Scaling(8, 8, 0.5, 8, 8, 0, 8, 8), NUCLEI, {})
    geometry = shape(json.loads((tmp_path / "a.geojson").read_text())["features"][0]["geometry"])
    assert (geometry.geom_type, geometry.is_valid, geometry.area) == ("MultiPolygon", True, 2)


def test_geojson_without_objects_is_an_empty_collection(tmp_path: Path) -> None:
    scaling = Scaling(8, 8, 0.5, 8, 8, 0, 8, 8)
    assert (
        write_geojson(tmp_path / "a.geojson", [block(0, 0, np.zeros((8, 8), np.uint8), [])], scaling, NUCLEI, {}) == 0
    )
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


def test_regions_without_nuclei_cover_each_class_but_air(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    background = cv2.resize(rng.integers(0, 5, (6, 8), dtype=np.uint8), (32, 24), interpolation=cv2.INTER_NEAREST)
    scaling = Scaling(24, 32, 0.5, 24, 32, 0, 24, 32)
    blocks = [block(0, 0, background[:16], []), block(16, 0, background[16:], [])]
    write_geojson(tmp_path / "a.geojson", blocks, scaling, get_scheme("pdl1"), {})
    drawn = np.full((24, 32), 4, np.uint8)
    names = get_scheme("pdl1").names
    for feature in json.loads((tmp_path / "a.geojson").read_text())["features"]:
        rings = [np.array(ring[:-1]) for ring in feature["geometry"]["coordinates"]]
        assert feature["properties"]["objectType"] == "annotation"
        drawn[filled(rings, background.shape)] = names.index(feature["properties"]["classification"]["name"])
    np.testing.assert_array_equal(drawn, background)


def test_geojson_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def blocks() -> object:
        yield block(0, 0, np.zeros((8, 8), np.uint8), [nucleus(1, 1, 1, np.ones((2, 2), bool))])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_geojson(tmp_path / "a.geojson", blocks(), Scaling(8, 8, 0.5, 8, 8, 0, 8, 8), NUCLEI, {})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_overlay_outlines_nuclei_by_class_and_leaves_the_rest() -> None:
    image = np.full((20, 20, 3), 200, np.uint8)
    instance = np.zeros((20, 20), np.int32)
    instance[4:10, 4:10], instance[12:18, 12:18] = 1, 2
    semantic = instance.astype(np.uint8)
    drawn = draw_labels(image, semantic, instance, get_scheme("ihc"), OUTLINES)
    edge = np.zeros((20, 20), bool)
    for first in (4, 12):
        edge[first : first + 6, first : first + 6] = True
        edge[first + 1 : first + 5, first + 1 : first + 5] = False
    np.testing.assert_array_equal((drawn != image).any(axis=2), edge)
    assert (drawn[4, 4] != drawn[12, 12]).any()
