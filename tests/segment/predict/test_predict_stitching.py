"""Windows and blocks: an image in pieces gives what it gives whole, in memory that does not grow with it."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import get_scheme
from segment.network.inference import Maps
from segment.network.instances import InstanceConfig, read_tile
from segment.network.networks import DIVISOR
from segment.predict import stitching
from segment.predict.stitching import Box, Canvas, count_windows, read_blocks
from segment.predict.windows import Axis, blended_bands

MPP = 2.0  # so that the margin of a block is 16 pixels
REACH = 8  # how far the network below looks: what counts of a window of overlap 32 saw that much
CONFIG = InstanceConfig(smooth_um=0.5, min_area_um2=3.0)


def scene(seed: int, height: int, width: int, nuclei: int) -> Maps:
    """Maps of touching ellipses up to 15 pixels long with cones of different heights, in steps of 1/256."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    probability, distance = np.full((height, width), 0.125, np.float32), np.zeros((height, width), np.float32)
    for _ in range(nuclei):
        y, x, a, b = *rng.uniform(0, (height, width)), *rng.uniform(3, 7.5, 2)
        cone = 1 - np.hypot((rows - y) / a, (columns - x) / b)
        inside = cone > 0
        probability[inside] = 0.875
        distance = np.maximum(distance, np.where(inside, rng.integers(150, 256) / 256 * cone, 0))
    quantised = (np.floor(distance * 256) / 256).astype(np.float32)
    return Maps(np.stack([1 - probability, probability]), quantised)


def shifted(layer: np.ndarray, by: int) -> np.ndarray:
    """A layer moved down and right by `by` pixels (or up and left), zeros coming in."""
    moved = np.zeros_like(layer)
    into, out_of = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
    moved[..., into, into] = layer[..., out_of, out_of]
    return moved


def network(maps: Maps) -> Callable[[np.ndarray, np.ndarray], Maps]:
    """Looks `REACH` pixels down and right for classes, up and left for the distance; sees zeros outside a window."""
    assert maps.distance is not None
    seen = shifted(maps.probabilities, REACH), shifted(maps.distance, -REACH)

    def predict(rows: np.ndarray, columns: np.ndarray) -> Maps:
        window = np.ix_(rows, columns)
        probabilities = shifted(seen[0][:, window[0], window[1]], -REACH)
        return Maps(probabilities, shifted(seen[1][window], REACH))

    return predict


def canvas(maps: Maps, tile: int, overlap: int) -> tuple[Canvas, list[tuple[int, int]]]:
    """The image seen by that network through windows, mirrored to a multiple of 32, and the windows asked for."""
    height, width = maps.probabilities.shape[1:]
    rows, columns = Axis.along(height, tile, overlap), Axis.along(width, tile, overlap)
    predict, asked = network(maps), []

    def mirrored(first: int, size: int, length: int) -> np.ndarray:
        index = np.arange(first, first + size)
        return np.where(index < length, index, 2 * length - 1 - index)

    def window(y: int, x: int) -> Maps:
        asked.append((y, x))
        return predict(mirrored(y, rows.size, height), mirrored(x, columns.size, width))

    return Canvas(height, width, rows, columns, window), asked


def painted(seen: Canvas, scheme_name: str = "nuclei") -> tuple[np.ndarray, list[stitching.Block]]:
    """Ids as the blocks give them; a pixel of two nuclei fails."""
    instance = np.zeros((seen.height, seen.width), np.int32)
    blocks = list(read_blocks(seen, get_scheme(scheme_name), MPP, CONFIG))
    for n, nucleus in enumerate((nucleus for block in blocks for nucleus in block.nuclei), 1):
        part = instance[nucleus.box.top : nucleus.box.bottom, nucleus.box.left : nucleus.box.right]
        assert not part[nucleus.mask].any()
        part[nucleus.mask] = n
    return instance, blocks


def assert_same_up_to_ids(one: np.ndarray, other: np.ndarray) -> None:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    np.testing.assert_array_equal(pairs[0] == 0, pairs[1] == 0)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


@given(length=st.integers(1, 700), tile=st.integers(2, 6), overlap=st.integers(0, 3))
def test_windows_cover_every_pixel_at_the_phase_of_the_network(length: int, tile: int, overlap: int) -> None:
    overlap = min(overlap, tile // 2)
    axis = Axis.along(length, tile * DIVISOR, overlap * DIVISOR)
    total = np.zeros(axis.length)
    for number, start in enumerate(axis.starts):
        assert start % DIVISOR == 0
        total[start : start + axis.size] += axis.weights(number)
    assert axis.length - DIVISOR < length <= axis.length
    assert total.min() > 0
    np.testing.assert_allclose(total[: axis.starts[-1]], 1, rtol=1e-6)  # the last one, shifted inward, may add to it


@given(length=st.integers(1, 700), low=st.integers(0, 699), span=st.integers(1, 200))
def test_windows_that_touch_a_span_are_those_that_count_in_it(length: int, low: int, span: int) -> None:
    axis = Axis.along(length, 96, 32)
    low = min(low, length - 1)
    high = min(low + span, length)
    counting = []
    for number, start in enumerate(axis.starts):
        weights = np.zeros(axis.length)
        weights[start : start + axis.size] = axis.weights(number)
        if weights[low:high].any():
            counting.append(number)
    assert axis.touching(low, high) == counting


def test_windows_that_do_not_fit_the_network_are_refused() -> None:
    for tile, overlap in ((100, 32), (96, 20), (64, 64), (64, -32)):
        with pytest.raises(ValueError, match="expected multiples of 32"):
            Axis.along(300, tile, overlap)


@pytest.mark.parametrize(("height", "width"), [(300, 420), (64, 500), (31, 33), (256, 64)])
def test_blended_maps_equal_those_of_one_pass(height: int, width: int) -> None:
    maps = scene(0, height, width, 60)
    whole, _ = canvas(maps, 512, 0)
    tiled, _ = canvas(maps, 64, 32)
    (expected,) = blended_bands(whole.predict, whole.rows, whole.columns, (0, width))
    bands = list(blended_bands(tiled.predict, tiled.rows, tiled.columns, (0, width)))
    assert [band.top for band in bands[1:]] == [band.top + band.maps.probabilities.shape[1] for band in bands[:-1]]
    found = np.concatenate([band.maps.probabilities for band in bands], axis=1)
    np.testing.assert_array_equal(found[:, :height], expected.maps.probabilities[:, :height])
    distance = np.concatenate([band.maps.distance for band in bands if band.maps.distance is not None])
    np.testing.assert_array_equal(distance[:height], expected.maps.distance[:height])  # type: ignore[index]


@pytest.mark.parametrize("seed", range(4))
def test_nuclei_of_a_tiled_image_equal_those_of_the_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = scene(seed, 230, 330, 190)
    scheme = get_scheme("nuclei")
    whole, _ = canvas(maps, 512, 0)
    seen = whole.predict(0, 0)
    assert seen.distance is not None
    expected = read_tile(Maps(seen.probabilities[:, :230, :330], seen.distance[:230, :330]), scheme, MPP, CONFIG)
    assert expected.instance.max() > 90
    for stripe, block in ((8192, 4096), (140, 50), (8192, 75)):
        monkeypatch.setattr(stitching, "STRIPE_PX", stripe)
        monkeypatch.setattr(stitching, "BLOCK_PX", block)
        tiled, asked = canvas(maps, 96, 32)
        instance, blocks = painted(tiled)
        assert_same_up_to_ids(instance, expected.instance)
        assert sum(len(block.nuclei) for block in blocks) == expected.instance.max()
        assert len(asked) == count_windows(tiled.rows, tiled.columns, 330, MPP, scheme)
        ground = np.full(instance.shape, 255, np.uint8)
        for part in blocks:
            ground[part.box.top : part.box.bottom, part.box.left : part.box.right] = part.background
        assert not ground.any()  # background everywhere: blocks cover the image, nuclei are no part of the ground


def test_one_pass_is_read_as_one_image() -> None:
    maps = scene(1, 200, 300, 150)
    seen, asked = canvas(maps, 512, 0)
    instance, blocks = painted(seen)
    whole = seen.predict(0, 0)
    assert whole.distance is not None
    tile = read_tile(
        Maps(whole.probabilities[:, :200, :300], whole.distance[:200, :300]), get_scheme("nuclei"), MPP, CONFIG
    )
    np.testing.assert_array_equal(instance, tile.instance)
    assert (len(blocks), len(asked)) == (1, 2)


def test_objects_larger_than_the_margin_may_be_parted_but_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stitching, "STRIPE_PX", 130)
    rows, columns = np.indices((260, 260))
    cone = (1 - np.hypot(rows - 130, columns - 128) / 110).clip(0).astype(np.float32)
    probability = np.where(cone > 0, 0.875, 0.125).astype(np.float32)
    maps = Maps(np.stack([1 - probability, probability]), np.floor(cone * 256) / 256)
    seen, _ = canvas(maps, 96, 32)
    instance, _ = painted(seen)
    inside = np.zeros((260, 260), bool)
    inside[:252, :252] = (cone > 0)[:252, :252]  # the network's own zeros at the edge of the image left out
    assert np.count_nonzero(instance[inside]) > 0.8 * np.count_nonzero(inside)
    assert not instance[cone == 0].any()


def test_nucleus_seen_by_two_blocks_loses_only_what_is_taken() -> None:
    """A reading that puts a nucleus elsewhere the second time: at most half new is a duplicate, more is a neighbour."""
    scheme = get_scheme("nuclei")
    core = Box(0, 32, 0, 32)
    semantic = np.zeros((32, 32), np.uint8)
    semantic[4:14, 4:24] = 1
    maps = Maps(np.stack([1.0 - semantic, semantic]).astype(np.float32), None)
    tile = read_tile(maps, scheme, MPP, CONFIG)
    for columns_taken, areas in ((0, [200]), (6, [140]), (10, []), (20, [])):
        taken = np.zeros((32, 32), bool)
        taken[:, 4 : 4 + columns_taken] = True
        found = list(stitching._own_nuclei(core, core, core, tile, maps, taken))
        assert [int(nucleus.mask.sum()) for nucleus in found] == areas
        assert all(nucleus.box == Box(4, 14, 4 + columns_taken, 24) for nucleus in found)


def test_each_nucleus_has_its_class_and_the_mean_probability_of_it() -> None:
    probabilities = np.zeros((3, 64, 64), np.float32)
    probabilities[0] = 1
    for (y, x), values in {(10, 10): (0.125, 0.75, 0.125), (40, 40): (0.25, 0.25, 0.5)}.items():
        probabilities[:, y : y + 8, x : x + 8] = np.array(values, np.float32)[:, None, None]
    distance = np.where(probabilities[0] < 1, 0.5, 0).astype(np.float32)
    axis = Axis.along(64, 64, 0)
    seen = Canvas(64, 64, axis, axis, lambda y, x: Maps(probabilities, distance))
    (block,) = read_blocks(seen, get_scheme("ihc"), MPP, CONFIG)
    assert [(n.label, n.probability, n.box) for n in block.nuclei] == [
        (1, 0.75, Box(10, 18, 10, 18)),
        (2, 0.5, Box(40, 48, 40, 48)),
    ]
    assert not block.background.any()
    assert (block.confidence[0, 0], block.confidence[12, 12]) == (1, 0.125)


def test_semantic_classes_are_the_most_probable_ones() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), (100, 150)).transpose(2, 0, 1).astype(np.float32)
    padded = np.pad(probabilities, ((0, 0), (0, 28), (0, 10)), mode="symmetric")
    rows, columns = Axis.along(100, 64, 32), Axis.along(150, 64, 32)
    seen = Canvas(100, 150, rows, columns, lambda y, x: Maps(padded[:, y : y + 64, x : x + 64], None))
    blocks = list(read_blocks(seen, get_scheme("pdl1"), MPP, CONFIG))
    ground = np.concatenate([block.background for block in blocks])
    np.testing.assert_array_equal(ground, probabilities.argmax(0))
    np.testing.assert_allclose(np.concatenate([b.confidence for b in blocks]), probabilities.max(0), rtol=1e-6)
    assert not any(block.nuclei for block in blocks)


@settings(max_examples=50)
@given(length=st.integers(1, 1000), most=st.integers(1, 300))
def test_parts_follow_each_other_and_none_is_too_long(length: int, most: int) -> None:
    found = stitching.split_evenly(length, most)
    assert [first for first, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == length
    assert all(0 < end - first <= most for first, end in found)
    assert len(found) == -(-length // most)


def test_memory_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stitching, "STRIPE_PX", 192)
    monkeypatch.setattr(stitching, "BLOCK_PX", 192)
    probabilities = np.full((2, 64, 64), 0.25, np.float32)
    probabilities[:, 20:30, 20:30] = np.array([[[0.125]], [[0.875]]], np.float32)
    maps = Maps(probabilities, np.where(probabilities[1] > 0.5, 0.75, 0).astype(np.float32))
    peaks = []
    for side in (384, 384, 768):  # the first one compiles and imports
        axis = Axis.along(side, 64, 32)
        tracemalloc.start()
        n = sum(
            len(block.nuclei)
            for block in read_blocks(
                Canvas(side, side, axis, axis, lambda y, x: maps), get_scheme("nuclei"), MPP, CONFIG
            )
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert n > 0
    assert peaks[2] < 1.1 * peaks[1]
