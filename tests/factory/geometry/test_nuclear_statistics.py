"""Statistics of nuclei: figures known by hand, and scikit-image as a slow oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from skimage.measure import regionprops

from factory.geometry.nuclear_maps import renumbered, touching
from factory.geometry.nuclear_statistics import NUCLEAR, nuclear_statistics
from factory.masks.allocate import allocate
from factory.masks.nuclei import Nuclei, NucleiConfig
from factory.plan.request import Request
from factory.score.compare import compare_sets
from factory.score.controls import split_halves
from factory.score.plots import plot_score
from factory.score.report import markdown
from factory.score.settings import Settings
from factory.score.tiles import TileSet
from factory.score.two_samples import compare_nuclei, measure_nuclei
from manifests.labels import SCHEMES
from manifests.measure import cut_cells


def drawn(config: NucleiConfig, seed: int, size: int = 128, cells: int | None = None) -> np.ndarray:
    request = Request(size, size, 0.25, SCHEMES["nuclei"], cells=cells)
    (scores,) = Nuclei(config).draw([request], [np.random.default_rng(seed)])
    return allocate(scores, request, np.random.default_rng([seed, 1])).tile.instance


def squares() -> np.ndarray:
    """Ids with a gap: 3 and 7 touch at a corner alone, 9 is 2x8 and alone, 20 is cut by the border."""
    instance = np.zeros((40, 40), np.int32)
    instance[10:14, 10:14] = 3
    instance[14:18, 14:18] = 7
    instance[30:32, 20:28] = 9
    instance[0:4, 30:34] = 20
    return instance


def test_figures_of_squares_are_those_known_by_hand() -> None:
    found = nuclear_statistics([squares()], 0.5).values
    np.testing.assert_allclose(found["area_um2"], [4.0, 4.0, 4.0, np.nan])
    np.testing.assert_allclose(found["elongation"], [1.0, 1.0, 4.0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["neighbour_um"][:2], 0.5 * math.hypot(4, 4))
    assert found["density_per_mm2"] == pytest.approx([4 / (400e-6)])
    assert found["touching_rate"] == pytest.approx([0.5])


@pytest.mark.parametrize(("down", "right"), [(0, 4), (4, 0), (4, 4), (4, -4)])
def test_nuclei_touch_by_eight_neighbours_and_not_across_a_gap(down: int, right: int) -> None:
    instance = np.zeros((20, 20), np.int32)
    instance[8:12, 8:12] = 1
    near = instance.copy()
    near[8 + down : 12 + down, 8 + right : 12 + right] = 2
    apart = instance.copy()
    step = 5 / 4
    top, left = int(8 + down * step), int(8 + right * step)
    apart[top : top + 4, left : left + 4] = 2
    assert touching(near).all()
    assert not touching(apart).any()


def test_form_is_that_of_scikit_image() -> None:
    instance = drawn(NucleiConfig(), 3, 256)
    found = nuclear_statistics([instance], 0.25).values
    whole = np.isfinite(found["area_um2"])
    regions = [region for region, kept in zip(regionprops(instance), whole, strict=True) if kept]
    np.testing.assert_allclose(found["area_um2"][whole], [region.area / 16 for region in regions])
    slow = [region.axis_major_length / region.axis_minor_length for region in regions]
    np.testing.assert_allclose(found["elongation"][whole], slow, rtol=0.02)  # ours gives a pixel a moment of its own
    np.testing.assert_allclose(found["solidity"][whole], [region.solidity for region in regions], atol=0.03)


def test_scattered_points_have_a_dispersion_of_about_one_and_a_grid_of_two() -> None:
    grid = np.zeros((200, 200), np.int32)
    grid[5::10, 5::10] = np.arange(1, 401).reshape(20, 20)
    random = np.zeros((200, 200), np.int32)
    random.ravel()[np.random.default_rng(0).choice(40_000, 400, replace=False)] = np.arange(1, 401)
    values = nuclear_statistics([grid, random], 1.0).values["dispersion"]
    assert values[0] == pytest.approx(2.0)
    assert values[1] == pytest.approx(1.0, abs=0.1)


def test_tiles_without_nuclei_and_with_one_have_no_neighbours() -> None:
    one = np.zeros((16, 16), np.int32)
    one[4:8, 4:8] = 5
    found = nuclear_statistics([np.zeros((16, 16), np.int32), one], 1.0)
    assert found.values["density_per_mm2"][0] == 0
    assert np.isnan(found.values["touching_rate"][0])
    assert found.values["touching_rate"][1] == 0
    assert np.isnan(found.values["neighbour_um"]).all()
    assert nuclear_statistics([], 1.0).count == 0


def test_taking_tiles_is_measuring_them() -> None:
    tiles = [drawn(NucleiConfig(), seed) for seed in range(4)]
    taken, direct = (
        nuclear_statistics(tiles, 0.25).take([2, 0]),
        nuclear_statistics([tiles[2], tiles[0]], 0.25),
    )
    np.testing.assert_array_equal(taken.tile, direct.tile)
    for name in NUCLEAR:
        np.testing.assert_array_equal(taken.values[name], direct.values[name])


def test_renumbering_closes_gaps_of_any_width() -> None:
    instance = squares()
    sparse = np.where(instance == 20, 2_000_000_000, instance)
    np.testing.assert_array_equal(np.unique(renumbered(sparse)), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(renumbered(sparse), renumbered(instance))


def test_cut_cells_are_those_on_the_border() -> None:
    np.testing.assert_array_equal(cut_cells(squares()), [20])
    np.testing.assert_array_equal(cut_cells(np.zeros((4, 4), np.int32)), [])


def sets(name: str, config: NucleiConfig, first: int, count: int = 20) -> TileSet:
    instances = np.stack([drawn(config, seed) for seed in range(first, first + count)])
    ids = tuple(f"{name}-{place}" for place in range(count))
    groups = tuple(f"{name}-g{place % 4}" for place in range(count))
    return TileSet(name, (instances > 0).astype(np.uint8), 0.25, SCHEMES["nuclei"], ids, groups, instances=instances)


def test_layouts_of_one_kind_are_near_the_floor_and_others_are_not() -> None:
    reals, alike = sets("real", NucleiConfig(), 0), sets("alike", NucleiConfig(), 100)
    other = sets("other", NucleiConfig(touching=0.9, bias=2.4, bias_spread=0.0, crowding=(0.0, 0.2)), 200)
    halves = split_halves(reals.groups, 20, 20, 4, 0)
    near, far = (compare_nuclei(measure_nuclei(side, reals, 20), halves) for side in (alike, other))
    assert [figures.name for figures in near] == list(NUCLEAR)
    by_name = {figures.name: figures for figures in far}
    for name in ("area_um2", "touching_rate"):
        assert by_name[name].ks > by_name[name].floor + 0.2
    assert np.mean([f.ks for f in near]) < np.mean([f.ks for f in far]) - 0.1
    assert all(np.isfinite(f.floor_by_group) for f in near)


@pytest.mark.usefixtures("drawn_plots", "narrow_features")
def test_a_comparison_reports_nuclei_where_both_sides_have_them() -> None:
    settings = Settings(features="random-vgg16", draws=2, bootstrap=20, subset_sizes=3, kernel_subsets=2, picture_px=32)
    fakes, reals = sets("fake", NucleiConfig(), 0, 16), sets("real", NucleiConfig(), 50, 16)
    found = compare_sets(fakes, reals, settings)
    assert len(found.nuclei) == len(NUCLEAR)
    text = markdown(found, "fake", ())
    assert "## Nuclei" in text
    assert "share of nuclei that touch another" in text
    assert plot_score(found)[:4] == b"\x89PNG"
    assert measure_nuclei(fakes, reals.with_pixels(reals.pixels), 16) == {}
    assert "## Nuclei" not in markdown(replace(found, nuclei=()), "fake", ())
