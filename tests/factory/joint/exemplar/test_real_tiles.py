"""`factory make --ground real`: whole real tiles with another marker, and all else as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import factory
from factory.bank.bank import Bank, open_bank
from factory.bank.stain_separation import estimate_stains
from factory.joint.exemplar.real_tiles import RealTile, real_tile, refusal
from factory.plan.request import Request
from factory.renderers.exemplar.marker import remove_marker
from manifests import get_scheme, open_dataset, verify
from manifests.measure import measure
from tests.annotated_photograph import MPP, bank_of_photograph
from tests.conftest import Outcome, assert_refused

Cli = Callable[..., Outcome]
SIZE = (128, 160)


@pytest.fixture(scope="module")
def bank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank of the photograph as regions of Ki-67."""
    return bank_of_photograph(tmp_path_factory.mktemp("bank"), "ki67")


@pytest.fixture
def bank(bank_file: Path) -> Bank:
    """The same, opened."""
    return open_bank(bank_file)


def request_for(scheme: str = "ki67", size: tuple[int, int] = SIZE, **asked: Any) -> Request:
    return Request(*size, MPP, get_scheme(scheme), **{"tps": 0.3, **asked})


def painted(bank: Bank, seed: int, scheme: str = "ki67", tps: float = 0.3) -> RealTile:
    request = request_for(scheme, tps=tps)
    assert refusal(bank, None, request) is None
    return real_tile(bank, None, request, seed)


@pytest.mark.parametrize("tps", [0.0, 0.01, 0.37, 1.0])
@pytest.mark.parametrize(("scheme", "ids"), [("ki67", (1, 2)), ("pdl1", (2, 3))])
@pytest.mark.parametrize("seed", range(2))
def test_tps_is_exact_and_all_other_labels_stay(
    bank: Bank, scheme: str, ids: tuple[int, int], tps: float, seed: int
) -> None:
    made = painted(bank, seed, scheme, tps)
    own, semantic = bank.semantic[made.origin], made.tile.semantic
    tumour = np.isin(own, (1, 2))
    assert tumour.sum() >= 0.05 * own.size
    assert np.array_equal(np.isin(semantic, ids), tumour)
    assert (semantic == ids[1]).sum() == int(tps * tumour.sum() + 0.5)
    assert (semantic[own == 0] == 0).all()
    assert (semantic[own == 3] == {"ki67": 3, "pdl1": 4}[scheme]).all()
    assert made.tile.scheme.name == scheme
    assert not made.tile.instance.any()  # the bank found nuclei, which nobody labelled


def test_as_many_annotated_cells_are_positive_as_asked_and_all_outlines_stay(tmp_path: Path) -> None:
    cells = open_bank(bank_of_photograph(tmp_path, "ihc"))
    for seed, tps in enumerate((0.0, 0.3, 0.77, 1.0)):
        made = painted(cells, seed, "ihc", tps)
        tile, measured = made.tile, measure(made.tile)
        assert measured.cells > 0
        assert abs(measured.cells_positive - tps * measured.cells) <= 0.5
        assert np.array_equal(tile.semantic > 0, cells.semantic[made.origin] > 0)
        assert np.array_equal(tile.instance > 0, cells.nucleus[made.origin] > 0)
        brown = made.image[..., 0].astype(int) - made.image[..., 2]
        if 0 < tps < 1:
            assert brown[tile.semantic == 2].mean() > brown[tile.semantic == 1].mean() + 20


@pytest.mark.parametrize("scheme", ["ki67", "pdl1"])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_that_are_not_positive_change_where_the_marker_was_taken_away_alone(
    bank: Bank, scheme: str, seed: int
) -> None:
    made = painted(bank, seed, scheme, 0.4)
    own = bank.image[made.origin]
    everywhere = np.ones(SIZE, np.bool_)
    plain = remove_marker(own, everywhere, MPP, kind="nucleus", stains=estimate_stains([own]))
    positive = np.isin(made.tile.semantic, made.tile.scheme.ids("tumour_positive"))
    assert np.array_equal(made.image[~positive], plain[~positive])
    assert (made.image[positive] != plain[positive]).any()


def test_a_tile_is_one_window_of_one_page_by_its_seed(bank: Bank) -> None:
    first, again, other = (painted(bank, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.origin, other.origin)
    page = int(np.searchsorted(bank.pages[:, 0], first.origin[0, 0], side="right")) - 1
    assert (np.diff(first.origin, axis=1) == 1).all()
    assert (np.diff(first.origin, axis=0) == bank.pages[page, 2]).all()
    assert first.slide == bank.slides[bank.pages[page, 3]]
    looks = {real_tile(bank, 1, request_for(), seed).slide for seed in range(4)}
    assert looks == {bank.slides[1]}


def test_windows_with_ignored_pixels_are_never_drawn(bank: Bank) -> None:
    semantic = np.array(bank.semantic)
    for first, height, width in bank.pages[:, :3]:
        semantic[first : first + height * width].reshape(height, width)[:, 168] = 255
    holed = replace(bank, semantic=semantic)
    for seed in range(4):
        made = real_tile(holed, None, request_for(), seed)
        assert (made.tile.semantic != 255).all()
    assert "none has a window with 5 % tumour and every pixel labelled" in str(
        refusal(holed, None, request_for(size=(128, 192)))
    )


def test_a_bank_without_tumour_or_with_other_classes_is_refused_with_what_it_holds(bank: Bank) -> None:
    fields = {**bank.card.fields, "classes": {"other": 1, "air": 1}}
    bare = replace(bank, card=replace(bank.card, fields=fields))
    assert refusal(bare, None, request_for()) == "ground: the bank holds no tumour to paint a marker on (other, air)"
    assert "no class of regions" in str(refusal(bank, None, replace(request_for(), scheme=_without_air())))
    assert "regions in the bank (ki67) and cells in --scheme (ihc)" in str(refusal(bank, None, request_for("ihc")))
    assert "nuclei or cells in --scheme (ki67_cells)" in str(refusal(bank, None, request_for("ki67_cells")))
    assert "expected a scheme with positive and negative tumour, got tissue" in str(
        refusal(bank, None, request_for("tissue"))
    )
    assert str(refusal(bank, None, request_for(tissue=0.5))).startswith("tissue: --ground real keeps the layout")


def _without_air() -> Any:
    ki67 = get_scheme("ki67")
    return replace(ki67, name="regions", classes=ki67.classes[:3], projections={})


def words(bank: Path, out: str, *more: object) -> tuple[object, ...]:
    return (
        "factory", "make", "--ground", "real", "--weights", bank, "--n", 4, "--size", "96x128", "--seed", 5,
        "--out", out, *more,
    )  # fmt: skip


@pytest.mark.parametrize("scheme", [None, "pdl1"])
def test_make_needs_no_other_word_and_repeats(bank_file: Path, cli: Cli, tmp_path: Path, scheme: str | None) -> None:
    asked = ("--tps", "0.1-0.6", "--set", "shard=2", *(("--scheme", scheme) if scheme else ()))
    done = cli(*words(bank_file, "one", *asked, "--workers", 1))
    assert done.code == 0, done.err
    assert "all but the marker is as it is there" in done.out
    assert verify(tmp_path / "one") == []
    dataset = open_dataset(tmp_path / "one")
    assert dataset.info.real_pixels
    for row in dataset.table.to_pylist():
        assert (row["label_origin"], row["renderer"], row["real_pixels"]) == ("copied", "exemplar", True)
        assert (row["label_scheme"], row["licence"]) == (scheme or "ki67", "CC0-1.0")
        assert len(row["real_groups"]) == 1
        assert row["tps_area"] == pytest.approx(row["request_tps"], abs=0.5 / (0.05 * 96 * 128))
    assert cli("factory", "replay", dataset.table["sample_id"][2], "--data", "one").code == 0
    assert cli(*words(bank_file, "two", *asked, "--joint", "exemplar", "--workers", 2)).code == 0
    for name in ("image_sha256", "semantic_sha256", "instance_sha256"):
        assert dataset.table[name].equals(open_dataset(tmp_path / "two").table[name])


def test_a_plan_is_followed_from_python(bank_file: Path, cli: Cli, tmp_path: Path) -> None:
    asked = ("--tps", "0.2-0.4", "--n", 2, "--size", 96, "--scheme", "pdl1", "--tissue", "none")
    bare = ("--tumour", "none", "--inflammation", "none", "--out", "plan.parquet")
    assert cli("factory", "plan", *asked, *bare).code == 0
    made = factory.make(tmp_path / "made", manifest=tmp_path / "plan.parquet", ground="real", weights=bank_file)
    assert made.table["label_scheme"].to_pylist() == ["pdl1", "pdl1"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], r"tps: expected one with --ground real"),
        (["--tps", "0.2", "--tissue", "0.8"], r"--tissue: expected none with --ground real"),
        (["--tps", "0.2", "--cells", "8"], r"--cells: expected none with --ground real"),
        (["--tps", "0.2", "--share", "air=0.1"], r"--share: expected none with --ground real"),
        (["--tps", "0.2", "--set", "joint.masks.name=polygons"], r"joint.masks: expected none with --ground real"),
        (["--tps", "0.2", "--size", "512"], r"no image of 512x512 pixels, the largest of 3 has 256x256"),
        (["--tps", "0.2", "--joint", "hdgan"], r"--ground: expected none with --joint hdgan"),
        (["--tps", "0.2", "--renderer", "stain"], r"--renderer: expected none beside --joint"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    bank_file: Path, cli: Cli, tmp_path: Path, more: list[str], said: str
) -> None:
    assert_refused(cli(*words(bank_file, "made", *more)), said)
    assert not (tmp_path / "made").exists()


def test_quilted_ground_needs_a_joint_part(cli: Cli) -> None:
    assert_refused(cli("factory", "make", "--ground", "quilted"), r"--ground: expected --joint beside it")
