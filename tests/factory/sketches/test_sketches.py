"""`factory sketches`: kinds of coarse maps, and how drawings are read."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as nd
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from factory.masks.coarse import read_sketches
from factory.sketches.features import STATISTICS, count_parts, features, statistics, weights
from factory.sketches.kinds import MAX_K, MIN_K, find_kinds
from factory.sketches.masks import open_masks, training_rows
from factory.sketches.report import sketches_to_draw
from manifests import Dataset, get_scheme
from tests.conftest import Outcome, assert_refused

TISSUE, PDL1 = get_scheme("tissue"), get_scheme("pdl1")


def labels(seed: int, classes: int = 2, shape: tuple[int, int] = (64, 128)) -> np.ndarray:
    field = nd.gaussian_filter(np.random.default_rng(seed).random(shape), 4)
    return np.digitize(field, np.quantile(field, np.arange(1, classes) / classes)).astype(np.uint8)


# ---- features ----


@given(seed=st.integers(0, 1000), scheme=st.sampled_from([TISSUE, PDL1]))
@settings(max_examples=25, deadline=None)
def test_mirror_images_have_the_same_features(seed: int, scheme: object) -> None:
    coarse = labels(seed, len(scheme))  # type: ignore[arg-type]
    found = features(coarse, scheme)  # type: ignore[arg-type]
    assert found.shape == weights(scheme).shape  # type: ignore[arg-type]
    for image in (coarse[::-1], coarse[:, ::-1], coarse[::-1, ::-1]):
        other = features(np.ascontiguousarray(image), scheme)  # type: ignore[arg-type]
        assert np.allclose(found, other, atol=1e-5)


def test_statistics_of_a_ring_by_hand() -> None:
    ring = np.zeros((40, 60), np.uint8)
    ring[10:30, 10:40] = 1
    ring[15:25, 20:30] = 0
    found = dict(zip(STATISTICS, statistics(ring), strict=True))
    assert found["area"] == pytest.approx((600 - 100) / 2400)
    assert found["perimeter"] == pytest.approx(np.log((2 * (30 + 20) + 40 + 1) / 2400))
    assert found["parts"] == pytest.approx(np.log(2))
    assert found["holes"] == pytest.approx(np.log(2))
    assert found["direction"] == pytest.approx((80 - 60) / 140)  # across: 2 x 30 + 2 x 10, down: 2 x 20 + 2 x 10
    assert found["thick"] == 1.0  # squares of 3 fit everywhere
    assert found["thicker"] == pytest.approx(400 / 500)  # squares of 7 do not fit above and below the hole
    assert found["open"] == pytest.approx(1.0)


def test_holes_are_what_does_not_reach_the_border() -> None:
    mask = np.ones((20, 30), np.uint8)
    mask[5:8, 5:8] = 0
    mask[12:15, 12:15] = 0
    mask[0:3, 20:25] = 0
    assert (count_parts(mask).parts, count_parts(mask).holes) == (1, 2)
    assert (count_parts(1 - mask).parts, count_parts(1 - mask).holes) == (3, 0)
    flat = np.zeros((20, 30), np.uint8)
    assert (count_parts(flat).parts, count_parts(flat).holes) == (0, 0)
    assert (count_parts(1 - flat).parts, count_parts(1 - flat).holes) == (1, 0)


@pytest.mark.parametrize("value", [0, 1])
def test_features_of_a_map_of_one_class_are_finite(value: int) -> None:
    assert np.isfinite(features(np.full((32, 64), value, np.uint8), TISSUE)).all()


# ---- kinds ----


def clusters(count: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well-separated points, the first cluster the largest: features, true kind."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(count, 44)) * 8
    truth = np.concatenate([np.full(each + 2 * (count - kind), kind) for kind in range(count)])
    return middles[truth] + rng.normal(size=(truth.size, 44)), truth


@pytest.mark.parametrize("count", [MIN_K, 7])
def test_auto_finds_separate_clusters_and_orders_them_by_size(count: int) -> None:
    points, truth = clusters(count, 8)
    kinds = find_kinds(points, np.ones(44), None, 0)
    assert kinds.k == count
    assert np.array_equal(kinds.kind, truth)
    assert set(kinds.silhouette) == set(range(MIN_K, MAX_K + 1))


def test_members_come_from_typical_to_far_off() -> None:
    points, _ = clusters(4, 6)
    kinds = find_kinds(points, np.ones(44), 4, 0)
    for kind in range(4):
        rows = kinds.members(kind)
        assert (kinds.kind[rows] == kind).all()
        assert (np.diff(kinds.distance[rows]) >= 0).all()


def test_kinds_are_the_same_for_the_same_seed_and_row_order_moves_no_mask() -> None:
    points, _ = clusters(5, 6, seed=3)
    kinds = find_kinds(points, np.ones(44), None, 7)
    assert np.array_equal(kinds.kind, find_kinds(points, np.ones(44), None, 7).kind)
    order = np.random.default_rng(0).permutation(len(points))
    shuffled = find_kinds(points[order], np.ones(44), None, 7)
    assert np.array_equal(shuffled.kind, kinds.kind[order])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_there_are_never_more_kinds_than_different_maps(rows: int) -> None:
    distinct = np.random.default_rng(0).normal(size=(rows, 44))
    kinds = find_kinds(np.repeat(distinct, 3, axis=0), np.ones(44), None, 0)
    assert kinds.k <= rows
    assert np.array_equal(kinds.kind[::3], kinds.kind[1::3])


def test_a_feature_without_spread_says_nothing() -> None:
    points, truth = clusters(4, 6)
    constant = np.concatenate([points, np.full((len(points), 3), 1e6)], axis=1)
    assert np.array_equal(find_kinds(constant, np.ones(47), 4, 0).kind, truth)


def test_sketches_are_shared_out_by_size_with_a_few_for_the_rarest() -> None:
    assert [sketches_to_draw(share) for share in (1.0, 0.28, 0.09, 0.001)] == [100, 28, 9, 3]


# ---- the command ----


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def masks(dataset_factory: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Twelve tissue masks that all differ, four of them for training; those of `write_dataset` are alike."""
    dataset = dataset_factory("masks", scheme="tissue", n=12, size=(64, 96), cells=False)
    monkeypatch.setattr("manifests.store.StoreReader.read", lambda self, index, name: labels(index, 2, (64, 96)))
    return dataset


def test_kinds_are_written_with_a_sheet_a_table_and_templates(
    cli: Callable[..., Outcome], masks: Dataset, tmp_path: Path
) -> None:
    done = cli("factory", "sketches", masks.root, "--k", 2, "--out", "kinds")
    assert done.code == 0, done.err
    assert "draw about" in done.out
    assert "silhouette" in done.out
    rows = read_table(tmp_path / "kinds/kinds.csv")
    training = [row["sample_id"] for row in masks.table.to_pylist() if row["split"] == "train"]
    assert [row["sample_id"] for row in rows] == training
    assert {row["kind"] for row in rows} == {"1", "2"}
    assert {row["dataset"] for row in rows} == {"masks"}
    with Image.open(tmp_path / "kinds/sheet.png") as sheet:
        assert min(sheet.size) > 100
    assert sorted(path.name for path in (tmp_path / "kinds/templates").iterdir()) == ["kind-01.png", "kind-02.png"]


def test_a_template_reads_as_the_coarse_map_it_shows(
    cli: Callable[..., Outcome], masks: Dataset, tmp_path: Path
) -> None:
    assert cli("factory", "sketches", masks.root, "--k", 1, "--out", "kinds").code == 0
    rows = read_table(tmp_path / "kinds/kinds.csv")
    typical = int(np.argmin([float(row["distance"]) for row in rows]))
    (sketch,) = read_sketches(tmp_path / "kinds/templates", TISSUE)
    assert sketch.notes == ()
    assert np.array_equal(sketch.labels, open_masks([masks.root], None).read(typical))


def test_auto_needs_no_more_than_a_few_masks_and_several_data_sets_count_together(
    cli: Callable[..., Outcome], masks: Dataset, dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    more = dataset_factory("more", scheme="pdl1", n=6, size=(64, 96), seed=1, cells=False)
    done = cli("factory", "sketches", masks.root, more.root, "--out", "kinds", "--scheme", "tissue")
    assert done.code == 0, done.err
    assert len((tmp_path / "kinds/kinds.csv").read_text().splitlines()) == 1 + 4 + 2


def test_training_masks_are_used_and_all_where_there_are_none(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("masks", scheme="tissue", n=7)
    assert training_rows(dataset) == [0, 3, 6]
    without = dataset.where([split != "train" for split in dataset.table["split"].to_pylist()])
    assert training_rows(without) == [0, 1, 2, 3]


def test_the_same_seed_writes_the_same_files(cli: Callable[..., Outcome], masks: Dataset, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert cli("factory", "sketches", masks.root, "--k", 3, "--out", out).code == 0
    for name in ("sheet.png", "kinds.csv", "templates/kind-01.png", "templates/kind-03.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_with_files_is_kept_unless_told(cli: Callable[..., Outcome], masks: Dataset, tmp_path: Path) -> None:
    assert cli("factory", "sketches", masks.root, "--k", 3, "--out", "kinds").code == 0
    (tmp_path / "kinds/mine.txt").write_text("mine")
    refused = cli("factory", "sketches", masks.root, "--k", 2, "--out", "kinds")
    assert_refused(refused, "expected an empty or new folder")
    assert (tmp_path / "kinds/templates/kind-03.png").exists()
    assert cli("factory", "sketches", masks.root, "--k", 2, "--out", "kinds", "--overwrite").code == 0
    assert not (tmp_path / "kinds/templates/kind-03.png").exists()
    assert (tmp_path / "kinds/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--k", "5"], r"--k: expected 1 to 4, the number of masks, got 5"),
        (["--k", "0"], r"--k: expected 1 to 4"),
        (["--k", "many"], r"--k: expected auto or a number"),
        (["--scheme", "pdl1"], r"expected a projection onto one of tissue, got pdl1"),
        (["--scheme", "tisue"], r"Did you mean tissue\?"),
        (["--out", "masks/kinds"], r"outside every data set"),
        (["--out", "file"], r"expected a folder, got a file"),
        (["nowhere"], r"nowhere: expected a data set"),
        (["--check", "drawings"], r"expected data sets, or --check FOLDER with drawings, and not both"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    cli: Callable[..., Outcome], masks: Dataset, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(cli("factory", "sketches", masks.root, *arguments), said)
    assert not (tmp_path / "runs").exists()


def test_neither_data_nor_drawings_is_refused(cli: Callable[..., Outcome]) -> None:
    assert_refused(cli("factory", "sketches"), "expected data sets, or --check FOLDER")


# ---- drawings ----


def write_drawing(path: Path, scheme_colours: np.ndarray, seed: int = 0, shape: tuple[int, int] = (64, 128)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(scheme_colours[labels(seed, len(scheme_colours), shape)]).save(path)


def test_check_says_how_every_drawing_is_read(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for seed in range(3):
        write_drawing(tmp_path / f"drawings/[{seed}].png", TISSUE.palette[:2], seed)
    write_drawing(tmp_path / "drawings/other.png", TISSUE.palette[:2], 4, (50, 50))
    done = cli("factory", "sketches", "--check", "drawings", "--size", "64x128", "--out", "read")
    assert done.code == 0, done.err
    assert "[0].png" in done.out
    assert "50x50 resized to 64x128, its middle kept" in done.out
    assert "50 %" in done.out
    assert (tmp_path / "read/sheet.png").stat().st_size > 1000
    assert_refused(cli("factory", "sketches", "--check", "drawings", "--out", "read"), "--overwrite")


def test_check_goes_on_after_a_bad_drawing_and_counts_it(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    write_drawing(tmp_path / "drawings/good.png", TISSUE.palette[:2])
    Image.new("RGB", (64, 64), "white").save(tmp_path / "drawings/empty.png")
    (tmp_path / "drawings/broken.png").write_bytes(b"no")
    done = cli("factory", "sketches", "--check", "drawings")
    assert_refused(done, "2 of 3 drawings cannot be read: the table says why")
    assert "one shade only" in done.out
    assert "damaged" in done.out
    assert (tmp_path / "runs/sketches-check/sheet.png").exists()


def test_check_without_any_good_drawing_writes_nothing(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "drawings").mkdir()
    Image.new("L", (64, 64), 0).save(tmp_path / "drawings/black.png")
    assert_refused(cli("factory", "sketches", "--check", "drawings"), "1 of 1 drawings cannot be read")
    assert not (tmp_path / "runs").exists()


def test_check_reads_colours_of_other_schemes_and_white_as_tissue(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    write_drawing(tmp_path / "colours/a.png", PDL1.palette[:5])
    done = cli("factory", "sketches", "--check", "colours", "--scheme", "pdl1", "--out", "a", "--size", "64x128")
    assert done.code == 0, done.err
    assert "inflammation" in done.out
    page = np.zeros((64, 128), np.uint8)
    page[:16] = 255
    (tmp_path / "white").mkdir()
    Image.fromarray(page).save(tmp_path / "white/a.png")
    for white, tissue in (("air", "75 %"), ("tissue", "25 %")):
        done = cli(
            "factory", "sketches", "--check", "white/a.png", "--white", white, "--out", white, "--size", "64x128"
        )
        assert done.code == 0, done.err
        assert done.out.split("a.png")[1].split("%")[1].strip() == tissue.removesuffix(" %")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--check", "none"], "folder of PNG drawings or labelme's JSON"), (["--check", "bare"], "got none. Draw some"),
     (["--check", "bare", "--size", "tall"], "--size: expected HEIGHTxWIDTH")],
)  # fmt: skip
def test_folders_without_drawings_are_refused(
    cli: Callable[..., Outcome], tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "bare").mkdir()
    assert_refused(cli("factory", "sketches", *arguments), said)
