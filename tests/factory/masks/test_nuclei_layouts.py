"""Layouts of nuclei: the touching rate that is asked, numbers that fit, and the fit of `--like`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from factory.core.statistics import ks_statistic
from factory.geometry.nuclear_maps import touching
from factory.geometry.nuclear_statistics import NuclearStatistics, nuclear_statistics
from factory.masks.allocate import Unmet, allocate
from factory.masks.cells.layout_fit import LEAST_NUCLEI
from factory.masks.cells.nuclei_config import Layout
from factory.masks.cells.placement import _partners
from factory.masks.cells.type_fit import fit_types
from factory.masks.nuclei import Nuclei, NucleiConfig
from factory.plan.request import Request
from manifests import open_dataset
from manifests.errors import UserError
from manifests.labels import SCHEMES, get_scheme
from manifests.measure import cut_cells
from manifests.tile import Tile
from tests.conftest import Outcome, write_dataset

Cli = Callable[..., Outcome]
SMALL = ("--scheme", "nuclei", "--n", "3", "--size", "128x128", "--workers", "1")
REQUEST = Request(256, 256, 0.25, SCHEMES["nuclei"])
REAL = NucleiConfig(
    bias=1.6,
    bias_spread=0.1,
    crowding=(0.0, 0.6),
    count_spread=5,
    touching=0.55,
    shares=(0.5, 0.1, 0.4),
    clusters=0.0,
)
"""Stands for a data set: larger, sparser, longer and more often touching than what is usual."""


def drawn(config: NucleiConfig, count: int, request: Request = REQUEST, first: int = 0) -> list[Tile]:
    tiles = []
    for seed in range(first, first + count):
        (scores,) = Nuclei(config).draw([request], [np.random.default_rng(seed)])
        tiles.append(allocate(scores, request, np.random.default_rng([seed, 1])).tile)
    return tiles


def measured(tiles: list[Tile]) -> NuclearStatistics:
    return nuclear_statistics([tile.instance for tile in tiles], 0.25)


@pytest.mark.parametrize("asked", [0.0, 0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize(("cells", "within"), [(20, 0.04), (40, 0.09)])
def test_the_touching_rate_is_what_is_asked(asked: float, cells: int, within: float) -> None:
    request = Request(256, 256, 0.25, SCHEMES["nuclei"], cells=cells)
    tiles = drawn(NucleiConfig(touching=asked), 15, request)
    assert np.mean([touching(tile.instance).mean() for tile in tiles]) == pytest.approx(asked, abs=within)


def test_crowded_tiles_still_follow_a_high_rate() -> None:
    request = Request(256, 256, 0.25, SCHEMES["nuclei"], cells=100)
    for asked in (0.5, 0.8):
        tiles = drawn(NucleiConfig(touching=asked), 8, request)
        assert np.mean([touching(tile.instance).mean() for tile in tiles]) == pytest.approx(asked, abs=0.06)


def test_no_nucleus_of_the_groups_stays_alone() -> None:
    for count in range(2, 30):
        partner = _partners(count, 0.5, np.random.default_rng(count))
        followed = set(partner.tolist()) - {-1}
        grouped = sum(1 for place in range(count) if partner[place] >= 0 or place in followed)
        assert abs(grouped - np.floor(0.5 * count + 0.5)) <= 1


LARGE = NucleiConfig().tumour.model_copy(update={"smallest_um2": 20.0})


@pytest.mark.parametrize(
    "config",
    [NucleiConfig(), NucleiConfig(bias=0.3), NucleiConfig(bias=2.0), NucleiConfig(tumour=LARGE, shares=(1, 0, 0))],
    ids=["default", "small", "large", "enlarged"],
)
def test_the_largest_number_that_is_said_to_fit_does(config: NucleiConfig) -> None:
    for size, mpp in ((64, 0.25), (128, 0.5)):
        masks = Nuclei(config)
        most = masks.capacity(Request(size, size, mpp, SCHEMES["nuclei"]))
        for cells in (most, most + 1):
            request = Request(size, size, mpp, SCHEMES["nuclei"], cells=cells)
            assert (masks.refusal(request) is None) == (cells == most)
        request = Request(size, size, mpp, SCHEMES["nuclei"], cells=most)
        failed = 0
        for seed in range(6):
            (scores,) = masks.draw([request], [np.random.default_rng(seed)])
            try:
                tile = allocate(scores, request, np.random.default_rng([seed, 1])).tile
                assert tile.instance.max() == most
            except Unmet:
                failed += 1
        assert failed <= 1


def test_small_nuclei_are_enlarged_so_no_more_of_them_fit(tmp_path: Path, cli: Cli) -> None:
    done = cli("factory", "make", *SMALL, "--set", "masks.bias=0.3", "--cells", "200")
    assert done.code == 2
    assert "cells: 200 do not fit into 128x128, at most 76 do" in done.err
    assert not (tmp_path / "data").exists()


def test_a_density_that_no_tile_can_have_is_refused_before_anything_is_written(tmp_path: Path, cli: Cli) -> None:
    layouts = ("--set", "masks.layouts=[{density_per_mm2: 200000}]")
    for asked, said in (
        (("--set", "masks.crowding=[60,60]"), "crowding: asks for at least 455 cells in 128x128, at most 76 fit (9.46"),
        (("--set", "masks.bias=3.9", "--set", "masks.crowding=[1,1]"), "at least 12 cells in 128x128, at most 8 fit"),
        (layouts, "layouts: density_per_mm2: asks for at least 205 cells in 128x128, at most 76 fit"),
    ):
        refused = cli("factory", "make", *SMALL, *asked)
        assert (refused.code, len(refused.err.strip().splitlines())) == (2, 1)
        assert said in refused.err
        assert not (tmp_path / "data").exists()
    # what the config says of crowding has no meaning where a number is asked
    assert cli("factory", "make", *SMALL, "--set", "masks.crowding=[60,60]", "--cells", "20", "--dry-run").code == 0


def test_a_density_that_only_some_tiles_cannot_have_is_said(cli: Cli) -> None:
    done = cli("factory", "make", *SMALL, "--set", "masks.crowding=[0,60]", "--dry-run")
    assert done.code == 0, done.err
    said = "note: masks.crowding: asks for up to 455 cells in 128x128, at most 76 fit (9.46 does); denser tiles"
    assert said in done.out
    usual = cli("factory", "make", *SMALL, "--dry-run")
    assert "crowding" not in usual.out


def test_what_a_draw_lacks_is_said_of_cells() -> None:
    request = Request(64, 64, 0.25, SCHEMES["nuclei"], cells=60)
    (scores,) = Nuclei(NucleiConfig()).draw([request], [np.random.default_rng(0)])
    with pytest.raises(Unmet, match=r"^\d+ of 60 cells fit$"):
        allocate(scores, request, np.random.default_rng(1))


def test_empty_layouts_and_cut_nuclei_are_drawn() -> None:
    request = Request(128, 128, 0.25, SCHEMES["nuclei"], cells=0)
    assert not drawn(NucleiConfig(), 1, request)[0].instance.any()
    tiles = drawn(NucleiConfig(), 10)
    assert sum(len(cut_cells(tile.instance)) for tile in tiles) > 0


def test_layouts_decide_density_size_and_touching() -> None:
    sparse = NucleiConfig(layouts=(Layout(density_per_mm2=2500, bias=0.8, touching=0.0),))
    dense = NucleiConfig(layouts=(Layout(density_per_mm2=12_000, bias=1.0, touching=0.8),))
    few, many = measured(drawn(sparse, 8)), measured(drawn(dense, 8))
    assert np.mean(few.values["density_per_mm2"]) == pytest.approx(2500, rel=0.1)
    assert np.mean(many.values["density_per_mm2"]) == pytest.approx(12_000, rel=0.1)
    assert np.mean(few.values["touching_rate"]) < 0.1 < 0.6 < np.mean(many.values["touching_rate"])


def test_a_requested_number_takes_the_layout_of_its_density() -> None:
    both = tuple(Layout(density_per_mm2=d, bias=1.0, touching=t) for d, t in ((2500, 0.0), (10_000, 0.9)) for _ in "ab")
    request = Request(256, 256, 0.25, SCHEMES["nuclei"], cells=40)
    rate = measured(drawn(NucleiConfig(layouts=both), 6, request)).values["touching_rate"]
    assert (rate > 0.5).all()


def test_a_fit_brings_drawn_nuclei_near_and_is_the_same_every_time() -> None:
    real = drawn(REAL, 12)
    fitted = Nuclei(NucleiConfig()).fit_tiles(real, REQUEST, frozenset())
    assert fitted == Nuclei(NucleiConfig()).fit_tiles(real, REQUEST, frozenset())
    assert NucleiConfig.model_validate(fitted.model_dump(mode="json")) == fitted
    sides = drawn(REAL, 40, first=500), drawn(NucleiConfig(), 40), drawn(fitted, 40)
    wanted, before, after = (measured(tiles) for tiles in sides)
    for name in ("area_um2", "elongation", "neighbour_um", "density_per_mm2", "touching_rate"):
        old, new = (ks_statistic(side.values[name], wanted.values[name]) for side in (before, after))
        assert new < max(0.25, 0.7 * old), (name, old, new)


def test_what_is_typed_stays() -> None:
    real = drawn(REAL, 8)
    typed = NucleiConfig(touching=0.1, room=1.3)
    fitted = Nuclei(typed).fit_tiles(real, REQUEST, frozenset({"touching", "room", "shares"}))
    assert (fitted.touching, fitted.room, fitted.shares) == (0.1, 1.3, typed.shares)
    assert all(layout.touching is None for layout in fitted.layouts)


def test_unlabelled_windows_are_left_out_and_few_nuclei_refused() -> None:
    request = Request(64, 64, 0.25, SCHEMES["nuclei"])
    with pytest.raises(UserError, match=f"expected {LEAST_NUCLEI} whole nuclei"):
        Nuclei(NucleiConfig()).fit_tiles(drawn(REAL, 1, request), request, frozenset())
    blank = [Tile(np.full_like(t.semantic, 255), t.instance * 0, t.mpp, t.scheme) for t in drawn(REAL, 2)]
    with pytest.raises(UserError, match="whole nuclei"):
        Nuclei(NucleiConfig()).fit_tiles(blank, REQUEST, frozenset())


def fitted_set(root: Path, cli: Cli, *more: str) -> Outcome:
    write_dataset(root / "real", n=18, size=(128, 128), mpp=0.25)
    return cli("factory", "make", *SMALL, "--like", "real", *more)


def test_too_few_nuclei_leave_layouts_as_usual_where_the_renderer_can_be_fitted(tmp_path: Path, cli: Cli) -> None:
    write_dataset(tmp_path / "real", n=2, size=(64, 64), mpp=0.25)
    done = cli("factory", "make", *SMALL, "--like", "real", "--renderer", "stain", "--dry-run")
    assert done.code == 0, done.err
    assert "too few to fit layouts; they are laid out as usual" in " ".join(done.out.split())
    refused = cli("factory", "make", *SMALL, "--like", "real", "--renderer", "palette", "--dry-run")
    assert refused.code == 2
    assert f"expected {LEAST_NUCLEI} whole nuclei" in " ".join(refused.err.split())


def test_make_like_a_data_set_keeps_the_fit_in_the_run(tmp_path: Path, cli: Cli) -> None:
    done = fitted_set(tmp_path, cli, "--renderer", "palette", "--set", "masks.touching=0.2")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "layouts of masks are fitted to" in said
    assert "palette cannot be fitted" in said
    made, real = open_dataset(tmp_path / "data/synth"), open_dataset(tmp_path / "real")
    train = {row["group_id"] for row in real.table.to_pylist() if row["split"] == "train"}
    assert set(made.info.training_sources) == {f"real/{group}" for group in train}
    config = yaml.safe_load((tmp_path / "data/synth/run.yaml").read_text())["config"]
    assert config["masks"]["touching"] == 0.2
    assert config["masks"]["layouts"]
    assert {layout["touching"] for layout in config["masks"]["layouts"]} == {None}
    (tmp_path / "real").rename(tmp_path / "gone")
    assert cli("factory", "replay", made.table["sample_id"][1].as_py()).code == 0


def test_images_alone_fit_the_renderer_alone_and_a_line_says_so(tmp_path: Path, cli: Cli) -> None:
    from skimage.data import immunohistochemistry
    from skimage.io import imsave

    imsave(tmp_path / "real.png", immunohistochemistry()[:128, :128])
    done = cli("factory", "make", *SMALL, "--like", "real.png")
    assert done.code == 0, done.err
    assert "the renderer alone is fitted" in " ".join(done.out.split())
    config = yaml.safe_load((tmp_path / "data/synth/run.yaml").read_text())["config"]
    assert config["masks"]["layouts"] == []
    refused = cli("factory", "make", *SMALL, "--like", "real.png", "--renderer", "palette", "--out", "other")
    assert refused.code == 2
    assert "a data set with instances" in " ".join(refused.err.split())


def test_types_are_as_common_and_as_large_as_in_real_tiles() -> None:
    scheme = get_scheme("nuclei_types")
    rows, columns = np.mgrid[:128, :128]
    corner = np.maximum(abs(rows % 32 - 16), abs(columns % 32 - 16))
    number = rows // 32 * 4 + columns // 32 + 1
    label = np.where(number % 4 == 0, 2, 1)  # a quarter is inflammatory, of 9x9 px, the others neoplastic, of 17x17 px
    instance = np.where(corner <= np.where(label == 2, 4, 8), number, 0).astype(np.int32)
    tile = Tile(np.where(instance, label, 0).astype(np.uint8), instance, 0.5, scheme)
    types = fit_types([tile, tile], scheme, NucleiConfig(bias=1.0)).types
    weights = [types.neoplastic.weight, types.inflammatory.weight, types.dead.weight]
    assert weights == [24, 8, 0]
    areas = [kind.outline.mean_area_at_um2(1.0) for kind in (types.neoplastic, types.inflammatory)]
    assert areas == pytest.approx([17**2 / 4, 9**2 / 4], rel=0.01)
    other = Tile(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.int32), 0.5, get_scheme("nuclei"))
    assert fit_types([other], scheme, NucleiConfig()).types == NucleiConfig().types
