"""Reading nuclei off maps: touching ones part, what is no nucleus is dropped, classes and ids agree."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction

from manifests import get_scheme
from segment import metrics
from segment.data.targets import DISTANCE_SCALE, distance_target
from segment.network.inference import Maps
from segment.network.instances import InstanceConfig, components, deep_maxima, read_tile, separate

CONFIG = InstanceConfig(min_area_um2=0.0)


def discs(size: tuple[int, int], centres: list[tuple[int, int]], radius: int) -> npt.NDArray[np.int32]:
    """Discs with ids 1..n; where they overlap the later one is on top."""
    rows, columns = np.indices(size)
    instance = np.zeros(size, np.int32)
    for number, (y, x) in enumerate(centres, 1):
        instance[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = number
    return instance


def maps_of(instance: npt.NDArray[np.int32], classes: npt.NDArray[np.uint8] | None = None, n: int = 2) -> Maps:
    """Output of a network that knows the truth."""
    classes = (instance > 0).astype(np.uint8) if classes is None else classes
    probabilities = np.full((n, *instance.shape), 0.1 / (n - 1), np.float32)
    np.put_along_axis(probabilities, classes[None].astype(np.intp), np.float32(0.9), axis=0)
    distance = distance_target(instance, instance > 0).astype(np.float32) / DISTANCE_SCALE
    return Maps(probabilities, distance)


def test_touching_nuclei_come_apart_where_components_see_one() -> None:
    truth = discs((64, 96), [(30, 30), (30, 47), (44, 39)], 9)
    maps = maps_of(truth)
    tile = read_tile(maps, get_scheme("nuclei"), 0.25, CONFIG)
    assert tile.instance.max() == 3
    assert metrics.panoptic_quality(metrics.overlap(truth, tile.instance)).pq > 0.95
    semantic = maps.probabilities.argmax(0).astype(np.uint8)
    assert components(semantic, get_scheme("nuclei"), 0.25, CONFIG).max() == 1


def test_without_a_distance_nuclei_are_the_components() -> None:
    maps = Maps(maps_of(discs((40, 60), [(20, 15), (20, 45)], 8)).probabilities, None)
    tile = read_tile(maps, get_scheme("nuclei"), 0.25, CONFIG)
    assert np.array_equal(tile.instance > 0, tile.semantic == 1)
    assert tile.instance.max() == 2


def test_a_deeper_valley_is_asked_for_and_two_maxima_become_one_nucleus() -> None:
    probability = np.ones((20, 40), np.float32)
    x = np.arange(40)
    ridge = np.maximum(1 - np.abs(x - 10) / 20, 1 - np.abs(x - 30) / 20)  # two maxima of 1, a valley of 0.5 between
    distance = np.repeat(ridge[None], 20, axis=0).astype(np.float32)
    counts = [
        separate(probability, distance, 1.0, InstanceConfig(h=h, smooth_um=0, min_area_um2=0)).max() for h in (0.4, 0.6)
    ]
    assert counts == [2, 1]


def test_foreground_follows_the_threshold_and_ids_run_from_one() -> None:
    probability = np.zeros((30, 60), np.float32)
    probability[5:25, 5:25], probability[5:25, 35:55] = 0.45, 0.8
    distance = distance_target((probability > 0).astype(np.int32), probability > 0).astype(np.float32) / 254
    both = separate(probability, distance, 0.25, InstanceConfig(foreground=0.4, min_area_um2=0))
    one = separate(probability, distance, 0.25, InstanceConfig(foreground=0.5, min_area_um2=0))
    assert set(np.unique(both)) == {0, 1, 2}
    assert set(np.unique(one)) == {0, 1}
    assert np.array_equal(one > 0, probability == np.float32(0.8))


@pytest.mark.parametrize(("mpp", "kept"), [(0.25, 1), (0.5, 2)])
def test_debris_is_dropped_by_its_area_in_square_micrometres(mpp: float, kept: int) -> None:
    truth = discs((60, 60), [(15, 15), (45, 45)], 10)
    truth[45:, 45:] = 0
    truth[:45, 45:] = 0
    truth[48:55, 38:44] = 2  # what is left of the second: below 10 um2 at 0.25, above at 0.5
    config = InstanceConfig(min_area_um2=12.0, smooth_um=0)
    assert read_tile(maps_of(truth), get_scheme("nuclei"), mpp, config).instance.max() == kept


def test_a_hole_in_a_nucleus_is_filled_and_a_lumen_is_not() -> None:
    rows, columns = np.indices((80, 80))
    radius = np.hypot(rows - 40, columns - 40)
    probability = ((radius < 30) & (radius > 20)).astype(np.float32)
    probability[40 - 25, 40] = 0  # one pixel that the network is unsure of
    instance = separate(probability, np.full((80, 80), 0.8, np.float32), 0.25, CONFIG)
    assert instance[40 - 25, 40] > 0
    assert instance[40, 40] == 0


def test_a_nucleus_has_one_class_and_pixels_outside_have_none_of_the_nuclei() -> None:
    truth = discs((40, 80), [(20, 20), (20, 60)], 10)
    classes = np.where(truth == 1, 1, np.where(truth == 2, 2, 0)).astype(np.uint8)
    classes[14:18, 14:26] = 2  # a minority of the first nucleus looks positive
    classes[2, 2] = 1  # debris
    maps = maps_of(truth, classes, 3)
    tile = read_tile(maps, get_scheme("ihc"), 0.25, InstanceConfig(min_area_um2=2.0))
    for number in range(1, int(tile.instance.max()) + 1):
        assert len(np.unique(tile.semantic[tile.instance == number])) == 1
    assert sorted(np.unique(tile.semantic[tile.instance > 0]).tolist()) == [1, 2]
    assert np.unique(tile.semantic[tile.instance == 0]).tolist() == [0]


def test_an_image_without_nuclei_gives_none() -> None:
    maps = Maps(np.stack([np.ones((8, 8)), np.zeros((8, 8))]).astype(np.float32), np.zeros((8, 8), np.float32))
    tile = read_tile(maps, get_scheme("nuclei"), 0.25, CONFIG)
    assert tile.instance.max() == 0
    assert tile.semantic.max() == 0


def test_a_scheme_without_nuclei_has_classes_and_no_instances() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), (6, 7)).transpose(2, 0, 1).astype(np.float32)
    tile = read_tile(Maps(probabilities, None), get_scheme("pdl1"), 0.5, CONFIG)
    assert np.array_equal(tile.semantic, probabilities.argmax(0))
    assert tile.instance.max() == 0


@pytest.mark.parametrize("seed", range(60))
def test_deep_maxima_are_the_extended_maxima_of_the_reconstruction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (int(rng.integers(1, 30)), int(rng.integers(1, 30)))).astype(float)
    smooth = ndimage.gaussian_filter(noise, rng.uniform(0.3, 2))
    levels = np.clip((smooth - smooth.min()) * rng.uniform(1, 5), 0, 255).astype(np.uint8)
    h = int(rng.integers(1, 80))
    padded = np.pad(levels, 1).astype(int)
    rebuilt = reconstruction(padded - (h - 1), padded, method="dilation", footprint=np.ones((3, 3)))
    regions = label(local_maxima(rebuilt, connectivity=2), connectivity=2)[1:-1, 1:-1]
    expected = {region for region in range(1, regions.max() + 1) if levels[regions == region].max() >= h}
    markers = deep_maxima(levels, h)
    found = regions[markers > 0].tolist()
    assert sorted(found) == sorted(expected)
    assert sorted(markers[markers > 0].tolist()) == list(range(1, len(expected) + 1))
