"""`factory score` of tiles made of real pixels: the largest piece from one place, slides, places, what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import factory
from factory.make.fit_to_real import read_real_tiles
from factory.make.origins import composer_of
from factory.score.real_pixels import measure_real_pixels, real_pixel_blocks, real_pixel_rows
from manifests.dataset import Dataset, open_dataset
from tests.annotated_photograph import bank_of_photograph
from tests.conftest import Outcome, with_columns, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_features")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bank.safetensors`` of the photograph's nuclei, and ``synth``: 16 tiles of them."""
    folder = tmp_path_factory.mktemp("real-pixels")
    bank = bank_of_photograph(folder, "nuclei")
    factory.make(
        folder / "synth",
        scheme="nuclei",
        cells="4-8",
        n=16,
        size=64,
        mpp=0.5,
        renderer="exemplar",
        set={"renderer.bank": str(bank)},
        workers=1,
    )
    return folder


@pytest.fixture
def synth(home: Path) -> Dataset:
    return open_dataset(home / "synth")


def test_tiles_composed_again_have_the_stored_bytes_and_their_origin(synth: Dataset) -> None:
    composer = composer_of(synth.root)
    for place in (0, 7, 15):
        sample = synth[place]
        image, origin = composer.compose(sample)
        assert np.array_equal(image, sample.image)
        assert list(composer.bank.slides_of(origin)) == sample.row["real_groups"]


def test_figures_are_of_the_tiles_that_are_named(synth: Dataset) -> None:
    ids = synth.table["sample_id"].to_pylist()[3:7]
    figures = measure_real_pixels(synth, ids)
    assert figures is not None
    assert figures.usage is not None
    assert (figures.tiles, figures.different) == (4, 0)
    assert {piece.tile for piece in figures.usage.pieces} == set(ids)
    assert 0 < figures.usage.median_share <= figures.usage.largest.share < 1
    assert sum(figures.usage.slides.values()) == pytest.approx(1)
    assert set(figures.inside.groups) <= {"nuclei/00", "nuclei/0256", "nuclei/2560"}
    assert figures.inside.licences == ("CC0-1.0",)


def test_score_reports_pieces_in_place_of_copies(cli: Callable[..., Outcome], home: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "held-out", n=20, size=(64, 64))
    write_dataset(tmp_path / "train", n=20, size=(64, 64), seed=1, source="synthetic")  # its groups have other names
    done = cli(
        *("factory", "score", home / "synth", "--real", tmp_path / "held-out", "--split", "all", "--on", "images"),
        *("--train", tmp_path / "train", "--train-split", "all"),
    )
    assert done.code == 0, done.err
    out = tmp_path / "runs/score/synth"
    document = json.loads((out / "score.json").read_text())
    assert document["copies"] is None
    assert not (out / "nearest.png").exists()
    real = document["real_pixels"]
    assert real["tiles"] == 16
    assert real["missing"] is None
    assert real["usage"]["largest_share"] == max(piece["share"] for piece in real["usage"]["pieces"])
    report = (out / "score.md").read_text()
    assert "## Real pixels" in report
    assert "No tile does" in report
    assert "Not searched" not in report
    assert "CC0-1.0" in done.out
    assert "largest piece" in done.out
    assert "equal to a real crop" in " ".join(done.out.split())


def test_a_missing_bank_is_named_in_one_line(home: Path, synth: Dataset) -> None:
    bank = home / "bank.safetensors"
    moved = bank.rename(home / "elsewhere.safetensors")
    try:
        figures = measure_real_pixels(synth, synth.table["sample_id"].to_pylist())
    finally:
        moved.rename(bank)
    assert figures is not None
    assert figures.usage is None
    assert str(bank) in str(figures.missing)
    assert "\n" not in str(figures.missing)
    assert any("Not measured" in str(block) for block in real_pixel_blocks(figures))
    assert real_pixel_rows(figures)[-1][2].startswith("not measured")


def test_tiles_without_real_pixels_have_no_such_figures(tmp_path: Path) -> None:
    for source in ("real", "synthetic"):
        dataset = write_dataset(tmp_path / source, n=6, source=source)
        assert measure_real_pixels(dataset, dataset.table["sample_id"].to_pylist()) is None


def test_tiles_on_given_masks_are_composed_again_without_the_data_set_of_the_masks(home: Path, tmp_path: Path) -> None:
    masks = write_dataset(tmp_path / "masks", n=3, size=(64, 64))
    drawn = factory.render(
        masks.root,
        tmp_path / "drawn",
        split="all",
        renderer="exemplar",
        set={"renderer.bank": str(home / "bank.safetensors")},
    )
    shutil.rmtree(masks.root)
    figures = measure_real_pixels(drawn, drawn.table["sample_id"].to_pylist())
    assert figures is not None
    assert (figures.tiles, figures.different, figures.missing) == (3, 0, None)


def test_tiles_that_are_composed_otherwise_today_are_counted(synth: Dataset) -> None:
    seeds = synth.table["seed"].to_pylist()
    other = with_columns(synth, seed=[seed + (place < 5) for place, seed in enumerate(seeds)])
    figures = measure_real_pixels(other, synth.table["sample_id"].to_pylist())
    assert figures is not None
    assert (figures.tiles, figures.different) == (16, 5)
    assert any("5 of 16 tiles, composed again, differ" in str(block) for block in real_pixel_blocks(figures))


def test_tiles_of_another_command_have_a_note_in_place_of_figures(synth: Dataset, tmp_path: Path) -> None:
    shutil.copytree(synth.root, tmp_path / "labelled")
    run = tmp_path / "labelled/run.yaml"
    document = yaml.safe_load(run.read_text())
    del document["config"]["renderer"]
    run.write_text(yaml.safe_dump(document))
    figures = measure_real_pixels(open_dataset(tmp_path / "labelled"), [synth.row(0)["sample_id"]])
    assert figures is not None
    assert figures.usage is None
    assert "got run.yaml without a renderer" in str(figures.missing)


def test_drawing_on_their_masks_leaves_the_real_pixels_behind_and_keeps_the_patients_as_sources(
    synth: Dataset, tmp_path: Path
) -> None:
    drawn = factory.render(synth.root, tmp_path / "drawn", split="all", renderer="stain")
    assert not drawn.info.real_pixels
    assert drawn.table["real_pixels"].to_pylist() == [False] * 16
    assert drawn.table["real_groups"].null_count == 16
    fitted = read_real_tiles(synth.root)
    assert set(synth.info.training_sources) <= set(fitted.behind_images.sources)


def test_tiles_whose_labels_are_copied_too_are_traced(home: Path, tmp_path: Path) -> None:
    made = factory.make(
        tmp_path / "copied", joint="exemplar", weights=home / "bank.safetensors", cells="4-8", n=3, size=128, mpp=0.5
    )
    composer = composer_of(made.root)
    for sample in made:
        image, origin = composer.compose(sample)
        assert np.array_equal(image, sample.image)
        inside = sample.tile.instance > 0
        assert (composer.bank.semantic[origin][inside] == sample.tile.semantic[inside]).all()
    figures = measure_real_pixels(made, made.table["sample_id"].to_pylist())
    assert figures is not None
    assert (figures.tiles, figures.different, figures.missing) == (3, 0, None)
