"""`factory score` from end to end, its API on arrays, and what it refuses before it reads a pixel."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from factory.score import Settings, TileSet, compare_sets
from factory.score.plots import nearest_sheet
from factory.score.report import markdown, to_document
from factory.score.sources import load, open_inputs
from manifests import Dataset
from manifests.table import write_dataset_manifest
from tests.conftest import Outcome, assert_refused, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_features")

QUICK = Settings(bootstrap=20, draws=3, planted=4, subset_sizes=4, modes=3, kernel_subsets=4)


@pytest.fixture
def quick_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command draws as seldom as `QUICK`; test_real_pixels and test_paired_scores run it as it is."""
    asked = QUICK.model_dump(include=QUICK.model_fields_set)
    monkeypatch.setattr("factory.score.settings.Settings", functools.partial(Settings, **asked))


def blobs(count: int, seed: int, width: float = 4.0, shape: tuple[int, int] = (32, 64)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    smooth = [cv2.GaussianBlur(field, (0, 0), width) for field in noise]
    return np.stack([(field > np.median(field)).astype(np.uint8) for field in smooth])


def masks(name: str, count: int, seed: int, width: float = 4.0, **options: object) -> TileSet:
    return TileSet.of_masks(name, blobs(count, seed, width), mpp=0.5, **options)  # type: ignore[arg-type]


def test_the_same_set_twice_has_no_distance_and_full_coverage() -> None:
    tiles = masks("same", 24, 1)
    found = compare_sets(tiles, tiles, QUICK)
    assert found.distance == pytest.approx(0, abs=1e-6)
    assert found.neighbours.coverage == found.neighbours.precision == 1
    assert all(figures.ks == 0 for figures in found.statistics)
    assert found.projections[0].ks < 0.1  # the same point twice may differ in its last bit
    assert found.modes.missing == ()
    assert found.modes.variation == 0
    assert found.copies is None
    assert found.price == ()


def test_better_fakes_score_better_and_the_order_of_the_controls_is_right() -> None:
    groups = [f"p{i % 5}" for i in range(70)]
    real = masks("real", 70, 1, groups=groups)
    shifts = np.linspace(0, 1, 40)
    good = compare_sets(
        masks("good", 40, 2, shifts=shifts),
        real,
        QUICK,
        n=30,
        training=masks("train", 30, 3),
        controls={"coarse": masks("coarse", 20, 4, 9.0)},
    )
    bad = compare_sets(masks("bad", 30, 5, 1.5), real, QUICK)
    assert good.distance < bad.distance
    assert good.extrapolation.limit < bad.extrapolation.limit
    assert good.neighbours.coverage > bad.neighbours.coverage
    assert good.projections[0].ks < bad.projections[0].ks
    rows = {row.name: row.distance for row in good.controls}
    assert list(rows) == [
        "real halves, random",
        "real halves, by group",
        "training tiles",
        "fakes",
        "coarse",
        "shuffled patches",
    ]
    assert rows["fakes"] < rows["shuffled patches"]
    assert rows["fakes"] < rows["coarse"]
    assert good.control_size == 28  # two of five groups against three
    by_name = {figures.name: figures for figures in bad.statistics}
    assert by_name["perimeter_density_per_um"].ks > by_name["perimeter_density_per_um"].floor
    assert by_name["area_fraction"].ks < 0.5
    assert good.copies is not None
    assert len(good.price) == 4
    assert good.distance_interval[0] <= good.distance <= good.distance_interval[1]
    document = json.loads(json.dumps(to_document(good), allow_nan=False))
    assert document["distance"] == good.distance
    assert document["copies"]["recall"] == good.copies.recall
    assert "real tiles of their composition" in markdown(good, "good", ["a note"])
    assert all(0 <= one.matched_gap <= 1 for one in good.price)
    assert "Not searched" in markdown(bad, "bad", [])


def test_a_comparison_is_the_same_for_the_same_seed() -> None:
    sets = masks("fake", 20, 2), masks("real", 30, 1)
    first, again = (to_document(compare_sets(*sets, QUICK)) for _ in range(2))
    assert first == again
    assert to_document(compare_sets(*sets, QUICK.model_copy(update={"seed": 1}))) != first


def test_images_are_compared_without_mask_statistics() -> None:
    rng = np.random.default_rng(0)

    def images(name: str) -> TileSet:
        pixels = rng.integers(0, 256, (20, 32, 48, 3)).astype(np.uint8)
        return TileSet(name, pixels, 0.5, None, tuple(f"{name}-{i}" for i in range(20)))

    found = compare_sets(images("fake"), images("real"), QUICK, training=images("train"))
    assert found.statistics == found.curves == ()
    assert found.copies is not None
    assert "images" in markdown(found, "fake", [])


def test_training_tiles_may_be_larger_than_the_fakes() -> None:
    train = TileSet.of_masks("train", blobs(12, 3, shape=(64, 128)), mpp=0.5)
    copied = np.stack([tile[9:41, 20:84] for tile in train.pixels])
    fakes = TileSet.of_masks("fake", np.concatenate([copied, blobs(12, 2)]), mpp=0.5)
    found = compare_sets(fakes, masks("real", 80, 1), QUICK.model_copy(update={"planted": 2}), training=train)
    assert found.copies is not None
    assert found.copies.reals == 80  # the limit is set by more than the 24 compared
    flagged = {(pair.training, pair.position) for pair in found.copies.flagged}
    assert {(name, (9, 20)) for name in train.ids} <= flagged
    assert found.row("training tiles") is not None
    assert nearest_sheet(found) is not None
    assert "rough, set by fewer than 100 real tiles" in markdown(found, "fake", [])


def test_sets_that_do_not_fit_are_a_mistake_of_the_program() -> None:
    small = TileSet.of_masks("small", blobs(20, 2, shape=(32, 32)), mpp=0.5)
    with pytest.raises(ValueError, match="at least 16"):
        compare_sets(masks("few", 10, 1), masks("real", 20, 2), QUICK)
    with pytest.raises(ValueError, match="at least 32x64"):
        compare_sets(*(masks(name, 20, 1) for name in ("a", "b")), QUICK, training=small)
    with pytest.raises(ValueError, match="size and scheme"):
        compare_sets(masks("fake", 20, 1), TileSet.of_masks("real", blobs(20, 2, shape=(32, 32)), mpp=0.5), QUICK)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_dataset(root / "real", n=54, size=(32, 64))
    write_dataset(root / "fake", n=20, size=(48, 64), source="synthetic", seed=1)
    return root


def relabel(dataset: Dataset, **changes: object) -> None:
    info = dataclasses.replace(dataset.info, **changes)  # type: ignore[arg-type]
    write_dataset_manifest(dataset.root, len(dataset), dataset.table.to_pylist(), info)


@pytest.mark.usefixtures("quick_command")
def test_score_writes_figures_report_and_pictures(cli: Callable[..., Outcome], sets: Path, tmp_path: Path) -> None:
    command = ["factory", "score", sets / "fake", "--real", sets / "real", "--train", sets / "real", "--n", "40"]
    done = cli(*command)
    assert done.code == 0, done.err
    out = tmp_path / "runs/score/fake"
    assert sorted(path.name for path in out.iterdir()) == [
        "modes.png",
        "nearest.png",
        "score.json",
        "score.md",
        "score.png",
    ]
    document = json.loads((out / "score.json").read_text())
    assert document["fakes"]["tiles"] == document["reals"]["tiles"] == 18
    assert document["fakes"]["size"] == [32, 64]
    assert document["inputs"]["real"][0]["split"] == "test"
    assert document["inputs"]["train"][0]["split"] == "train"
    assert len(document["inputs"]["fake"]["sha256sums_sha256"]) == 64
    assert document["settings"]["features"] == "random-vgg16"
    assert "48x64 cropped at random to 32x64" in done.out
    assert "--n 40: 18 tiles of either kind are compared, as many as both have" in done.out
    assert "18 of 20 fakes drawn with seed 0" in done.out
    assert "Frechet distance (random-vgg16)" in done.out
    assert "FID" not in done.out + (out / "score.md").read_text()
    assert "not for diagnosis" in (out / "score.md").read_text()
    assert_refused(cli(*command), "got a score in it. Use another --out, or --overwrite")
    (out / "mine.txt").write_text("kept")
    assert_refused(cli(*command, "--overwrite"), "got 'mine.txt' in it")


def test_score_refuses_before_it_reads(cli: Callable[..., Outcome], sets: Path, tmp_path: Path) -> None:
    fake, real = sets / "fake", ["--real", sets / "real"]
    for arguments, said in (
        ((fake, "--real", tmp_path / "none"), "none: expected a data set, got no such folder. Make one with "),
        ((fake, "--real", fake), "expected real tiles, got synthetic ones"),
        ((fake, *real, "--features", "vgg"), "--features: expected one of"),
        ((fake, *real, "--feature-weights", "w.safetensors"), "expected none with random-vgg16"),
        ((fake, *real, "--out", fake / "x"), "expected a folder outside every data set"),
        ((fake, *real, "--train", sets / "real", "--train-split", "test"), "expected other groups than those scored"),
        ((fake, *real, "--n", "3"), "--n"),
        ((fake, *real, "--device", "toaster"), "--device: expected"),
    ):
        assert_refused(cli("factory", "score", *arguments), said)
    assert not (tmp_path / "runs").exists()


def test_score_refuses_a_generator_that_saw_the_tested_groups(
    cli: Callable[..., Outcome], sets: Path, dataset_factory: Callable[..., Dataset]
) -> None:
    seen = dataset_factory("seen", n=16, source="synthetic")
    relabel(seen, training_sources=("real-slide-2-tile7.png",))
    assert_refused(
        cli("factory", "score", seen.root, "--real", sets / "real"),
        r"never saw the real tiles scored, got group 'real-slide-2' \(1 such\)",
    )
    relabel(seen, training_sources=("real-slide-1", "real-slide-22"))
    assert_refused(cli("factory", "score", seen.root, "--real", sets / "real", "--split", "val"), "'real-slide-1'")


def test_score_refuses_other_schemes_resolutions_and_too_few_tiles(
    cli: Callable[..., Outcome], sets: Path, dataset_factory: Callable[..., Dataset]
) -> None:
    air = dataset_factory("air", n=16, scheme="tissue", source="synthetic").root
    fine = dataset_factory("fine", n=16, source="synthetic", mpp=0.25).root
    few = dataset_factory("few", n=6, source="synthetic").root
    small = dataset_factory("small", n=16, source="synthetic", size=(16, 16)).root
    for fake, said in (
        (air, "expected data sets with a common scheme"),
        (fine, "expected 0.5 um per pixel as the real tiles have, got 0.25"),
        (few, "expected at least 16 tiles"),
        (small, "expected tiles whose pictures are at least 32x32"),
    ):
        assert_refused(cli("factory", "score", fake, "--real", sets / "real"), said)


@pytest.mark.usefixtures("quick_command")
def test_schemes_are_read_as_their_common_one(cli: Callable[..., Outcome], sets: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "ihc", n=16, scheme="ihc", size=(32, 64), source="synthetic", seed=2)
    done = cli("factory", "score", tmp_path / "ihc", "--real", sets / "real", "--on", "masks", "--out", tmp_path / "s")
    assert done.code == 0, done.err
    text = (tmp_path / "s/score.md").read_text()
    assert "masks of nuclei" in text
    assert not (tmp_path / "s/nearest.png").exists()


def test_training_tiles_are_read_whole_and_too_few_tiles_are_refused_before_any_is(
    cli: Callable[..., Outcome], sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "wide", n=4, size=(64, 96), seed=3)
    write_dataset(tmp_path / "tall", n=4, size=(80, 64), seed=4)
    training = [tmp_path / "wide", tmp_path / "tall"]
    inputs = open_inputs(sets / "fake", [sets / "real"], training=training)
    loaded = load(inputs, 0)
    assert loaded.training is not None
    assert loaded.training_crops is not None
    assert loaded.training.shape == (80, 96)
    assert loaded.training_crops.shape == inputs.shape == (32, 64)
    assert len(loaded.training) == len(loaded.training_crops) == 4
    assert any("searched whole for copies" in note for note in loaded.notes)

    def read(*arguments: object) -> None:
        raise AssertionError("a pixel was read")

    monkeypatch.setattr("factory.score.scoring.load", read)
    write_dataset(tmp_path / "few", n=6, source="synthetic", size=(32, 64))
    said = "FAKE: expected at least 16 tiles, got 6"
    assert_refused(cli("factory", "score", tmp_path / "few", "--real", sets / "real"), said)
