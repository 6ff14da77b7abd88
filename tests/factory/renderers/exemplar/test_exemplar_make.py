"""`factory train exemplar` and `factory make --renderer exemplar` from end to end, and their refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage.data import immunohistochemistry

from factory.bank.collect import choose_pages, collect
from factory.bank.shipped import BANK
from manifests.dataset import open_dataset, verify
from tests.annotated_photograph import MPP, write_photograph
from tests.conftest import Outcome, assert_refused
from tests.ingest_files import save

MAKE = ("factory", "make", "--scheme", "nuclei", "--renderer", "exemplar", "--n", 4, "--size", "96x96", "--mpp", MPP)
Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photograph(tmp_path_factory.mktemp("photograph"), "nuclei").root


@pytest.fixture(scope="module")
def bank(data: Path) -> Path:
    path = data.parent / "bank.safetensors"
    collect(choose_pages([data], None, 200, 0), path)
    return path


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photograph(tmp_path_factory.mktemp("photograph"), "ki67").root


def test_a_bank_is_collected_and_drawn_from(cli: Cli, data: Path, tmp_path: Path) -> None:
    collected = cli("factory", "train", "exemplar", "--data", data, "--out", tmp_path / "run")
    assert collected.code == 0
    assert "nucleus" in collected.out
    made = cli(*MAKE, "--set", f"renderer.bank={tmp_path / 'run'}", "--set", "shard=2", "--out", tmp_path / "one")
    assert made.code == 0
    assert "real pixels of 3 slides under CC0-1.0" in " ".join(made.out.split())
    dataset = open_dataset(tmp_path / "one")
    assert not list(verify(tmp_path / "one"))
    assert dataset.info.real_pixels
    assert dataset.info.training_sources == ("nuclei/00", "nuclei/0256", "nuclei/2560")
    for row in dataset.table.to_pylist():
        assert row["real_pixels"]
        assert row["licence"] == "CC0-1.0"
        assert row["label_origin"] == "exact"
        assert set(row["real_groups"]) <= set(dataset.info.training_sources)
    words = (*MAKE, "--set", f"renderer.bank={tmp_path / 'run'}", "--set", "shard=2", "--workers", 2)
    assert cli(*words, "--out", tmp_path / "two").code == 0
    assert (tmp_path / "one" / "SHA256SUMS").read_text() == (tmp_path / "two" / "SHA256SUMS").read_text()
    assert cli("factory", "replay", dataset.row(2)["sample_id"], "--data", tmp_path / "one").code == 0


def test_like_collects_a_bank_once(cli: Cli, regions: Path, tmp_path: Path) -> None:
    words = ("factory", "make", "--renderer", "exemplar", "--like", regions, "--masks", "polygons", "--n", 2)
    words = (*words, "--size", "128x128", "--mpp", MPP, "--tumour", 0.4)
    assert cli(*words, "--out", tmp_path / "a").code == 0
    (bank,) = Path("runs/banks").glob("*.safetensors")
    written = bank.stat().st_mtime_ns
    assert cli(*words, "--seed", 1, "--out", tmp_path / "b").code == 0
    assert bank.stat().st_mtime_ns == written
    dataset = open_dataset(tmp_path / "a")
    assert dataset.table["label_scheme"].unique().to_pylist() == ["ki67"]
    assert dataset.table["label_origin"].unique().to_pylist() == ["conditioned"]


def test_dyes_are_recorded_and_replayed_without_their_images(cli: Cli, data: Path, bank: Path, tmp_path: Path) -> None:
    shown, made = tmp_path / "laboratory", tmp_path / "made"
    save(shown / "one.png", immunohistochemistry()[200:, 390:])
    words = (*MAKE, "--set", f"renderer.bank={bank}", "--set", "renderer.mix=0")
    assert cli(*words, "--out", tmp_path / "plain").code == 0
    outcome = cli(*words, "--set", f"renderer.dyes={shown}", "--out", made)
    assert outcome.code == 0, outcome
    assert "shown in the dyes of 1 slide" in outcome.out
    dataset, plain = open_dataset(made), open_dataset(tmp_path / "plain")
    assert "laboratory/one" in dataset.info.training_sources
    assert all("laboratory/one" not in row["real_groups"] for row in dataset.table.to_pylist())
    assert np.array_equal(dataset[0].tile.semantic, plain[0].tile.semantic)
    assert not np.array_equal(dataset[0].image, plain[0].image)
    shutil.rmtree(shown)
    assert cli("factory", "replay", dataset.row(0)["sample_id"], "--data", made).code == 0


def test_masks_that_are_there_are_rendered(cli: Cli, regions: Path, tmp_path: Path) -> None:
    assert (
        cli("factory", "render", regions, "--renderer", "exemplar", "--like", regions, "--out", tmp_path / "r").code
        == 0
    )
    rendered, real = open_dataset(tmp_path / "r"), open_dataset(regions)
    (held_out,) = [real[i] for i, row in enumerate(real.table.to_pylist()) if row["split"] == "test"]
    assert np.array_equal(rendered[0].tile.semantic, held_out.tile.semantic)
    assert rendered.row(0)["real_groups"]


def test_another_bank_under_the_name_is_refused(cli: Cli, data: Path, regions: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("factory", "train", "exemplar", "--data", data, "--out", run).code == 0
    assert cli(*MAKE, "--set", f"renderer.bank={run}", "--out", tmp_path / "made").code == 0
    assert_refused(
        cli("factory", "train", "exemplar", "--data", regions, "--out", run), "expected a folder without a bank"
    )
    assert (
        cli(
            "factory", "train", "exemplar", "--data", data, "--seed", 1, "--max-mb", 1, "--out", run, "--overwrite"
        ).code
        == 0
    )
    row = open_dataset(tmp_path / "made").row(0)
    assert_refused(cli("factory", "replay", row["sample_id"], "--data", tmp_path / "made"), "expected the weights")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("factory", "train", "exemplar", "--data", "{data}", "--steps", 5), "--steps: expected none for exemplar"),
        (("factory", "train", "exemplar", "--data", "{data}", "--set", "a=1"), "--set: expected none for exemplar"),
        (("factory", "train", "exemplar", "--data", "{data}", "--max-mb", 0.001), "--max-mb: expected at least"),
        (("factory", "train", "depas", "--data", "{data}", "--max-mb", 5), "--max-mb: expected none for depas"),
        ((*MAKE, "--out", "made", "--like", "{data}/../source"), "expected a data set with labels"),
        (
            (*MAKE, "--out", "made", "--set", "renderer.bank={bank}", "--set", "renderer.look=7"),
            "expected 0 to 2, or random, got 7",
        ),
        (
            (*MAKE[:-1], 0.25, "--out", "made", "--set", "renderer.bank={bank}"),
            "0.5 um per pixel, got 0.25; .*--mpp 0.5",
        ),
        ((*MAKE, "--out", "made", "--set", "renderer.bank={data}/manifest.parquet"), "expected safetensors"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    cli: Cli, data: Path, bank: Path, words: tuple[object, ...], said: str
) -> None:
    places = {"data": data, "bank": bank}
    assert_refused(cli(*(str(word).format(**places) for word in words)), said)
    assert not Path("made").exists()
    assert not Path("runs/train").exists()


def test_a_dry_run_writes_nothing(cli: Cli, data: Path, tmp_path: Path) -> None:
    outcome = cli("factory", "train", "exemplar", "--data", data, "--out", tmp_path / "run", "--dry-run")
    assert outcome.code == 0
    assert "dry run: nothing was written" in outcome.out
    assert not (tmp_path / "run" / BANK).exists()
