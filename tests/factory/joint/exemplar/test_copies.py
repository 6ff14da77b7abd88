"""`factory make --joint exemplar`: labels are those of the pixels they came with, and requests are met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factory.bank.bank import Bank, open_bank
from factory.core.config import parse
from factory.joint.exemplar.exchange import Copy
from factory.joint.exemplar.exemplar import Copied, Exemplar
from factory.joint.exemplar.regions import _clear_slivers, instances_of
from factory.joint.exemplar.targets import TOLERANCE, fitted_shares, targets_of
from factory.masks.base import resolve_mask_generator
from factory.plan.request import Request
from manifests import get_scheme, open_dataset, verify
from manifests.errors import UserError
from manifests.measure import measure
from tests.annotated_photograph import MPP, SIZE, bank_of_photograph
from tests.conftest import Outcome, assert_refused

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``banks("nuclei")``: the file of the photograph's bank in a scheme, collected once."""
    folder, made = tmp_path_factory.mktemp("banks"), dict[str, Path]()

    def bank(scheme: str) -> Path:
        if scheme not in made:
            made[scheme] = bank_of_photograph(folder / scheme, scheme)
        return made[scheme]

    return bank


MASKS = {"nuclei": "nuclei", "ihc": "nuclei", "ki67": "polygons", "tissue": "polygons"}


def copied(bank: Path, scheme: str, seed: int, size: tuple[int, int] = (160, 192), **asked: Any) -> Copied:
    values = {key: asked.pop(key) for key in ("classes", "attempts") if key in asked}
    part = Exemplar(parse(Exemplar.Config, {"weights": str(bank), **values}, "joint"))
    kind = resolve_mask_generator(MASKS[scheme])
    found = part.draw(Request(*size, MPP, get_scheme(scheme), **asked), seed, kind(kind.Config()))
    assert found is not None
    return found


def place(bank: Bank, origin: np.ndarray) -> np.ndarray:
    """Page, row and column of pixels of a bank, int64 [..., 3]."""
    page = np.searchsorted(bank.pages[:, 0], origin, side="right") - 1
    return np.stack([page, *np.divmod(origin - bank.pages[page, 0], bank.pages[page, 2])], axis=-1)


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_regions_are_those_of_the_pixels_and_colours_too_within_a_piece(
    banks: Callable[[str], Path], seed: int
) -> None:
    bank, tile = open_bank(banks("ki67")), copied(banks("ki67"), "ki67", seed, tps=0.4, tissue=0.85)
    assert np.array_equal(tile.tile.semantic, bank.semantic[tile.origin])
    assert not tile.tile.instance.any()  # the bank found nuclei, which nobody labelled
    # A pixel all of whose neighbours within three steps were its neighbours in the bank is of one piece, not mixed.
    at = place(bank, tile.origin)
    whole = np.ones(tile.origin.shape, np.uint8)
    for axis in (0, 1):
        apart = np.abs(np.diff(at, axis=axis)).sum(-1) != 1
        whole[: -1 if axis == 0 else None, : -1 if axis == 1 else None][apart] = 0
        whole[1 if axis == 0 else 0 :, 1 if axis == 1 else 0 :][apart] = 0
    whole = cv2.erode(whole, np.ones((7, 7), np.uint8)) > 0
    inner = np.s_[4:-4, 4:-4]
    assert whole[inner].mean() > 0.3
    # Two patches of one place may meet over what is left of a soft cut to a third that they cover.
    equal = (tile.image[inner][whole[inner]] == bank.image[tile.origin][inner][whole[inner]]).all(-1)
    assert equal.mean() > 0.99


@pytest.mark.parametrize("scheme", ["nuclei", "ihc"])
@pytest.mark.parametrize("seed", range(3))
def test_nuclei_come_with_their_own_outlines_and_colours(banks: Callable[[str], Path], scheme: str, seed: int) -> None:
    asked = {"tps": 0.4} if scheme == "ihc" else {}
    bank, made = open_bank(banks(scheme)), copied(banks(scheme), scheme, seed, cells=14, **asked)
    instance, semantic = made.tile.instance, made.tile.semantic
    assert len(np.unique(instance)) == 15
    assert np.array_equal(instance > 0, semantic > 0)
    at = place(bank, made.origin)
    far = cv2.erode((instance == 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    (ground,) = np.unique(bank.pages[at[..., 0][far], 3])
    for number in range(1, 15):
        inside = instance == number
        (source,) = np.unique(at[inside][:, 0] * 100_000 + bank.nucleus[made.origin[inside]])
        row = np.flatnonzero(bank.nuclei.page * 100_000 + bank.nuclei.number.astype(np.int64) == source)
        assert (semantic[inside] == bank.nuclei.label[row]).all()
        if (bank.pages[bank.nuclei.page[row], 3] == ground).all():  # the colours of those from other slides are matched
            inner = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # an outline may be softened
            assert np.array_equal(made.image[inner], bank.image[made.origin[inner]])
        # every pixel of the source is there, but for what others hide or the border cuts
        assert len(np.unique(made.origin[inside])) == inside.sum() <= bank.nuclei.area[row] + 0.5
        grown = np.pad(inside, 1)
        alone = not any(
            (np.roll(grown, step, (0, 1))[1:-1, 1:-1] & (instance != number) & (instance > 0)).any()
            for step in ((0, 1), (0, -1), (1, 0), (-1, 0))
        )
        if alone and not (inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any()):
            assert inside.sum() == bank.nuclei.area[row]


@pytest.mark.parametrize(
    ("scheme", "asked"),
    [
        ("ki67", {"tps": 0.25, "tissue": 0.8}),
        ("ki67", {"tps": 0.7}),
        ("ki67", {"fractions": (0.4, 0.3, 0.2, 0.1), "classes": ("other", "Ki-67 positive")}),
        ("tissue", {"tissue": 0.9}),
        ("tissue", {"tissue": 1.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(2))
def test_shares_are_met_within_the_tolerance(
    banks: Callable[[str], Path], scheme: str, asked: dict[str, Any], seed: int
) -> None:
    found = measure(copied(banks(scheme), scheme, seed, **asked).tile)
    if "tps" in asked:
        assert found.tps_area == pytest.approx(asked["tps"], abs=TOLERANCE)
    if "tissue" in asked:
        assert found.tissue_fraction == pytest.approx(asked["tissue"], abs=TOLERANCE)
    for name in asked.get("classes", ()):
        label = get_scheme(scheme).names.index(name)
        assert found.class_fractions[label] == pytest.approx(asked["fractions"][label], abs=TOLERANCE)


@pytest.mark.parametrize("tps", [0.0, 0.3, 1.0])
def test_tps_by_cells_is_met_within_half_a_cell(banks: Callable[[str], Path], tps: float) -> None:
    found = measure(copied(banks("ihc"), "ihc", 1, cells=11, tps=tps).tile)
    assert found.cells == 11
    assert found.cells_positive == np.floor(tps * 11 + 0.5)


def test_ignored_pixels_are_never_copied(banks: Callable[[str], Path], tmp_path: Path) -> None:
    from factory.joint.exemplar.patches import patches_of

    bank = open_bank(banks("ki67"))
    semantic = np.array(bank.semantic)
    semantic[: SIZE * 100] = 255
    ignoring = Bank(**{**{name: getattr(bank, name) for name in Bank.__dataclass_fields__}, "semantic": semantic})
    slide = int(bank.pages[0, 3])
    there = patches_of(ignoring, slide, 72)
    assert 0 < len(there.shares) < len(patches_of(bank, slide, 72).shares)
    np.testing.assert_allclose(there.shares.sum(1), 1, atol=1e-5)
    for first, width, y, x, *_ in there.places.rows.tolist():
        rows = first + (y + np.arange(72))[:, None] * width + x + np.arange(72)
        assert (semantic[rows] != 255).all()


def test_a_piece_of_a_nucleus_is_an_instance_and_two_copies_are_two(banks: Callable[[str], Path]) -> None:
    bank = open_bank(banks("nuclei"))
    first, height, width = bank.pages[0, :3]
    page = bank.nucleus[first : first + height * width].reshape(height, width)
    number = int(bank.nuclei.number[0])
    y, x = (int(value) for value in np.rint(bank.nuclei.centre[0]))
    window = first + (y - 20 + np.arange(40))[:, None] * width + x - 20 + np.arange(40)
    twice = instances_of(bank, np.hstack([window, window]))
    mask = page[y - 20 : y + 20, x - 20 : x + 20] == number
    left, right = twice[:, :40][mask], twice[:, 40:][mask]
    assert len(np.unique(left)) == len(np.unique(right)) == 1
    assert left[0] != right[0]
    assert np.array_equal(twice > 0, bank.nucleus[np.hstack([window, window])] > 0)


def test_targets_that_contradict_each_other_have_no_shares() -> None:
    scheme = get_scheme("ki67")
    request = Request(64, 64, MPP, scheme, tps=0.5, tissue=0.3, fractions=(0.0, 0.5, 0.0, 0.5))
    everything = np.ones(4, np.bool_)
    assert fitted_shares(np.ones(4), everything, targets_of(request, scheme.names)) is None
    fitted = fitted_shares(np.ones(4), everything, targets_of(request, ()))
    assert fitted is not None
    assert fitted[3] == pytest.approx(0.7, abs=1e-3)
    assert fitted[1] == pytest.approx(fitted[2], abs=1e-3)


def words(bank: Path, out: str, *more: object) -> tuple[object, ...]:
    return (
        "factory", "make", "--joint", "exemplar", "--weights", bank, "--n", 4, "--size", "96x128", "--seed", 5,
        "--out", out, *more,
    )  # fmt: skip


def test_make_writes_tiles_that_say_whose_pixels_they_are_and_repeat(
    banks: Callable[[str], Path], cli: Cli, tmp_path: Path
) -> None:
    bank = banks("ki67")
    asked = ("--tps", "0.2-0.6", "--tissue", "0.8-0.9", "--set", "shard=2")
    done = cli(*words(bank, "one", *asked, "--workers", 1))
    assert done.code == 0, done.err
    assert "tiles hold real pixels of 3 slides under CC0-1.0" in done.out
    assert verify(tmp_path / "one") == []
    dataset = open_dataset(tmp_path / "one")
    assert dataset.info.real_pixels
    assert set(dataset.info.training_sources) == set(open_bank(bank).slides)
    for row in dataset.table.to_pylist():
        assert (row["label_origin"], row["renderer"], row["real_pixels"]) == ("copied", "exemplar", True)
        assert row["licence"] == "CC0-1.0"
        assert set(row["real_groups"]) <= set(open_bank(bank).slides)
        assert row["tps_area"] == pytest.approx(row["request_tps"], abs=TOLERANCE)
        assert row["tissue_fraction"] == pytest.approx(row["request_tissue"], abs=TOLERANCE)
    assert cli("factory", "replay", dataset.table["sample_id"][2], "--data", "one").code == 0
    assert cli(*words(bank, "two", *asked, "--workers", 2)).code == 0
    for name in ("image_sha256", "semantic_sha256", "instance_sha256"):
        assert dataset.table[name].equals(open_dataset(tmp_path / "two").table[name])


def test_make_of_nuclei_follows_a_data_set_and_meets_counts(cli: Cli, tmp_path: Path) -> None:
    from tests.annotated_photograph import write_photograph

    root = write_photograph(tmp_path / "real", "nuclei").root
    call = ("factory", "make", "--joint", "exemplar", "--like", root, "--cells", "8-12", "--n", 2, "--size", 96)
    done = cli(*call, "--workers", 1, "--out", "made")
    assert done.code == 0, done.err
    rows = open_dataset(tmp_path / "made").table.to_pylist()
    assert [row["cells"] for row in rows] == [row["request_cells"] for row in rows]
    assert cli("factory", "replay", rows[0]["sample_id"], "--data", "made").code == 0


@pytest.mark.parametrize(
    ("scheme", "more", "said"),
    [
        ("ki67", ["--cells", "5"], r"cells: tiles of scheme ki67 are copied by area"),
        ("ki67", ["--share", "Ki-67 positive=0.97"], r"share of Ki-67 positive: the bank cannot give it .*of a patch"),
        ("ki67", ["--share", "tumour=0.1"], r"--share: expected a class of ki67"),
        ("ki67", ["--tissue", "0.5", "--share", "air=0.1"], r"tissue, share of air: cannot be met together"),
        ("ki67", ["--pool", "8"], r"--pool: expected none with --joint exemplar"),
        ("ki67", ["--mpp", "0.25"], r"--mpp: expected 0.5"),
        ("ki67", ["--scheme", "nuclei"], r"--scheme: expected ki67"),
        ("ki67", ["--tumour", "0.3"], r"--tumour: expected none with --joint"),
        ("ki67", ["--renderer", "stain"], r"--renderer: expected none beside --joint"),
        ("ki67", ["--like", "."], r"--like, --weights: expected one of them"),
        ("ki67", ["--set", "joint.look=9"], r"joint.look: expected 0 to 2"),
        ("ki67", ["--set", "joint.patch_px=240", "--set", "joint.lok=2"], r"expected a known key, got 'lok'"),
        ("nuclei", ["--cells", "4000"], r"cells: 4000 do not fit"),
        ("nuclei", ["--tps", "0.3"], r"--tps: expected a scheme with"),
        ("nuclei", ["--share", "nucleus=0.3"], r"fractions: nuclei have no requested area"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    banks: Callable[[str], Path], cli: Cli, tmp_path: Path, scheme: str, more: list[str], said: str
) -> None:
    assert_refused(cli(*words(banks(scheme), "made", *more)), said)
    assert not (tmp_path / "made").exists()


def test_a_bank_that_is_not_there_or_not_one_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert_refused(cli("factory", "make", "--joint", "exemplar"), r"--joint exemplar: expected a bank of real tissue")
    assert_refused(cli(*words(tmp_path / "no.safetensors", "made")), r"no.safetensors: expected")
    assert_refused(
        cli("factory", "make", "--joint", "exemplr"), r"--joint: expected one of exemplar, hdgan.*mean exemplar"
    )
    assert_refused(
        cli("factory", "make", "--joint", "hdgan", "--like", tmp_path), r"--like: expected none with --joint hdgan"
    )
    assert_refused(
        cli("factory", "make", "--joint", "exemplar", "--like", tmp_path), r"expected a data set with labels"
    )


def test_a_class_that_no_nucleus_has_is_refused(banks: Callable[[str], Path]) -> None:
    bank = open_bank(banks("ihc"))
    part = Exemplar(parse(Exemplar.Config, {"weights": str(banks("ihc"))}, "joint"))
    kept = bank.nuclei.label == 1
    nuclei = type(bank.nuclei)(**{name: getattr(bank.nuclei, name)[kept] for name in bank.nuclei.__dataclass_fields__})
    fields = {name: getattr(bank, name) for name in Bank.__dataclass_fields__}
    part.__dict__["bank"] = Bank(**{**fields, "nuclei": nuclei})
    request = Request(96, 96, MPP, bank.scheme, tps=0.5)
    assert "no nucleus of class positive cell" in str(part.refusal(request))
    assert part.refusal(Request(96, 96, MPP, bank.scheme, tps=0.0)) is None


def test_another_bank_under_the_same_name_is_refused(banks: Callable[[str], Path]) -> None:
    config = parse(Exemplar.Config, {"weights": str(banks("ki67")), "weights_sha256": "0" * 64}, "joint")
    with pytest.raises(UserError, match="make the data set anew"):
        assert Exemplar(config).bank


def test_a_sliver_of_a_nucleus_gives_way_to_the_piece_beside_it(banks: Callable[[str], Path]) -> None:
    bank = open_bank(banks("nuclei"))
    first, height, width = (int(value) for value in bank.pages[0, :3])
    page = bank.nucleus[first : first + height * width].reshape(height, width)
    clear = cv2.erode((page == 0).astype(np.uint8), np.ones((41, 41), np.uint8))
    y, x = (int(value) for value in np.argwhere(clear[20:-20, 20:-20])[0] + 20)
    origin = first + (y - 16 + np.arange(32))[:, None] * width + x - 16 + np.arange(32)
    ground = origin.copy()
    inside = int(np.flatnonzero(page.ravel() > 0)[0]) + first
    origin[10:12, 10] = inside
    copy = Copy(np.array(bank.image[origin]), np.array(bank.semantic[origin]), origin)
    assert _clear_slivers(copy, bank, MPP)
    assert np.array_equal(copy.origin, ground)
    assert np.array_equal(copy.image, bank.image[ground])
    assert not _clear_slivers(copy, bank, MPP)
