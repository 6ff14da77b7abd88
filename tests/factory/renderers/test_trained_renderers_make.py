"""`factory train` and `factory make` with renderers that learn: rows, provenance, the same bytes again, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.core.checkpoints import BEST, read_checkpoint, write_weights
from factory.core.weights import read_card
from factory.renderers import TRAINABLE
from factory.renderers.learned.renderer import WEIGHTS_KIND
from manifests import open_dataset, verify
from manifests.labels import get_scheme
from tests.conftest import Outcome, assert_refused
from tests.kill_after_every_operation import tree
from tests.mask_training import (
    as_assignments,
    as_file,
    blobs,
    poke,
    trained_once,
    trainer_name,
    write_blobs,
    write_masks,
)

Cli = Callable[..., Outcome]
Weights = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

SYNTH = Path("data/synth")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """``weights("pix2pix")``: a weights file of a renderer that was trained on ki67 for a few steps, made once."""
    run = trained_once(tmp_path_factory.mktemp("weights"), "renderers")
    return lambda name, scheme="ki67", **changes: run(name, scheme, **changes) / BEST


def make_words(name: str, path: Path, *more: object, n: int = 3, masks: str = "polygons") -> tuple[object, ...]:
    return (
        "factory", "make", "--masks", masks, "--renderer", name, "--set", f"renderer.weights={path}",
        "--set", "renderer.precision=fp32", "--set", "shard=2", "--size", "64x96", "--n", n, "--workers", 1, *more,
    )  # fmt: skip


# Tiles.


@pytest.mark.parametrize("name", TRAINABLE)
def test_make_meets_the_requested_tps_and_says_what_rendered_it(
    name: str, weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    path = weights(name)
    words = make_words(name, path, "--scheme", "ki67", "--tps", "0.01-0.5")
    done = cli(*words)
    assert done.code == 0, done
    dataset = open_dataset(tmp_path / SYNTH)
    assert verify(tmp_path / SYNTH) == []
    assert len(dataset) == 3
    for row in dataset.table.to_pylist():
        assert row["label_scheme"] == "ki67"
        assert 0.01 <= row["request_tps"] <= 0.5
        tumour = round(sum(row["class_fractions"][1:3]) * 64 * 96)
        assert tumour > 0
        assert abs(row["tps_area"] - row["request_tps"]) * tumour <= 0.5 + 1e-6
        assert row["image_weights_sha256"] == read_card(path).sha256
        assert row["mask_weights_sha256"] is None
        assert (row["label_origin"], row["precision"], row["device"]) == ("conditioned", "float32", "cpu")
        assert (row["renderer"], row["recipe"]) == (name, f"polygons+{name}")
    assert dataset.info.training_sources == tuple(f"ki67/slide-{n}" for n in range(3))
    assert dataset.info.licences == ("licence of ki67",)
    assert "torch" in dataset.info.versions
    again = cli("factory", "replay", dataset.row(1)["sample_id"])
    assert again.code == 0, again
    assert "masks same bytes, image same bytes" in again.out
    assert "nothing to do" in cli(*words).out


def test_the_scheme_of_the_weights_is_the_default_and_its_plan(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    words = [word for word in make_words("pix2pixhd", weights("pix2pixhd"), n=2) if word not in ("--masks", "polygons")]
    done = cli(*words)
    assert done.code == 0, done
    for row in open_dataset(tmp_path / SYNTH).table.to_pylist():
        assert (row["label_scheme"], row["mask_generator"]) == ("ki67", "polygons")


@pytest.mark.parametrize("name", TRAINABLE)
def test_neither_the_batch_nor_shards_nor_workers_change_a_byte(
    name: str, weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    words = make_words(name, weights(name), "--tps", "0.1", n=4)
    assert cli(*words, "--out", "one").code == 0
    batched = cli(*words, "--set", "batch=3", "--set", "shard=4", "--out", "batched")
    assert batched.code == 0, batched
    one, other = open_dataset(tmp_path / "one"), open_dataset(tmp_path / "batched")
    for column in ("image_sha256", "semantic_sha256"):
        assert one.table[column].to_pylist() == other.table[column].to_pylist()
    assert len(set(one.table["image_sha256"].to_pylist())) == 4
    if name == "pix2pixhd":  # all draw by the same lines, and processes take long to start
        two = cli(*words, "--workers", "2", "--out", "two")
        assert two.code == 0, two
        assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_masks_and_images_of_two_networks_keep_both_provenances(
    weights: Weights, tmp_path: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = write_blobs(tmp_path / "others", n=4, scheme="ki67", group=lambda index: f"patient-{index}").root
    words = ("factory", "train", "depas", "--data", data, "--out", "run", "--device", "cpu")
    assert cli(*words, *as_assignments("depas", steps=2)).code == 0
    path = weights("pix2pixhd")
    more = ("--set", "masks.weights=run", "--set", "masks.precision=fp32", "--set", "renderer.precision=bf16")
    made = cli(*make_words("pix2pixhd", path, *more, "--tps", "0.25", masks="depas", n=2))
    assert made.code == 0, made
    dataset = open_dataset(tmp_path / SYNTH)
    groups = {f"others/patient-{n}" for n in range(4)} | {f"ki67/slide-{n}" for n in range(3)}
    assert set(dataset.info.training_sources) == groups
    assert set(dataset.info.licences) == {"licence of others", "licence of ki67"}
    for row in dataset.table.to_pylist():
        assert row["mask_weights_sha256"] == read_card(Path("run") / BEST).sha256
        assert row["image_weights_sha256"] == read_card(path).sha256
        assert row["precision"] == "bfloat16"  # of the coarser of the two
        tumour = sum(row["class_fractions"][1:3]) * 64 * 96
        assert abs(row["tps_area"] - 0.25) * tumour <= 0.5 + 1e-6


@pytest.mark.usefixtures("small_network")
def test_segment_train_refuses_images_of_weights_that_learnt_from_the_groups_it_tests(
    weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    assert cli(*make_words("pix2pixhd", weights("pix2pixhd"), "--tps", "0.3")).code == 0
    splits = ["train", "train", "val", "test"]
    masks = [blobs(seed, 4, (64, 96)) for seed in range(4)]
    for name, tested in (("leaky", "slide-1"), ("clean", "slide-7")):
        groups = ["a", "b", "c", tested]
        write_masks(tmp_path / name, masks, "ki67", split=splits.__getitem__, group=groups.__getitem__)
    words = ("segment", "train", "--mix", "real+synth", "--synth", SYNTH, "--crop", "64x64", "--dry-run", "--real")
    assert_refused(cli(*words, "leaky"), "got its group 'slide-1' .* among the sources")
    done = cli(*words, "clean")
    assert done.code == 0, done


def test_tiles_of_weights_that_never_saw_inflammation_need_inflammation_0(
    weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    masks = [np.uint8([0, 2, 3, 4])[blobs(seed, 4, (48, 96))] for seed in range(4)]
    write_masks(tmp_path / "pdl1", masks, "pdl1")
    config = as_file(tmp_path / "small.yaml", "pix2pixhd", steps=2)
    words = ("factory", "train", "pix2pixhd", "--data", "pdl1", "--out", "run", "--device", "cpu", "--config", config)
    assert cli(*words).code == 0
    before = sorted(tmp_path.iterdir())
    order = make_words("pix2pixhd", Path("run"), "--tps", "0.2")
    assert_refused(
        cli(*order), "row 0: masks: the weights of pix2pixhd never saw inflammation.*ask for --inflammation 0"
    )
    assert sorted(tmp_path.iterdir()) == before
    done = cli(*order, "--inflammation", "0")
    assert done.code == 0, done
    for row in open_dataset(tmp_path / SYNTH).table.to_pylist():
        assert row["class_fractions"][1] == 0
        assert row["tps_area"] == pytest.approx(0.2, abs=2e-3)


def test_tiles_larger_than_a_window_are_made_and_replayed(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    words = make_words("pix2pixhd", weights("pix2pixhd"), "--set", "renderer.window_px=256", "--tps", "0.2", n=1)
    done = cli(*words, "--size", "288x320")
    assert done.code == 0, done
    dataset = open_dataset(tmp_path / SYNTH)
    assert dataset[0].image.shape == (288, 320, 3)
    again = cli("factory", "replay", dataset.row(0)["sample_id"])
    assert "masks same bytes, image same bytes" in again.out, again


# Refused before anything is written.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--scheme", "pdl1"), "scheme: the weights of pix2pixhd draw ki67, got pdl1"),
        (("--scheme", "tissue"), "scheme: the weights of pix2pixhd draw ki67, got tissue"),
        (("--scheme", "ki67_cells"), "--masks: expected a generator that draws scheme ki67_cells, got polygons"),
        (("--mpp", "0.25"), "mpp: the weights of pix2pixhd were trained at 0.5 um per pixel, got 0.25"),
        (("--size", "64x100"), r"--size: expected multiples of 32, got 64x100\. Use 64x96 or 64x128"),
        (("--size", "500x500"), r"size: expected multiples of 32, got 500\. Use 480 or 512"),
        (("--renderer", "pix2pix"), "expected weights of pix2pix, got those of pix2pixhd. Use --renderer pix2pixhd"),
        (("--renderer", "cyclegan"), "expected weights of cyclegan, got those of pix2pixhd"),
        (("--set", "renderer.weights=nowhere"), "nowhere: expected weights, .* or a starter"),
        (("--set", "renderer.weigths=x"), r"renderer.*Did you mean weights"),
        (("--set", "renderer.precision=fp16"), "precision"),
        (("--set", "renderer.threads=0"), "threads"),
        (("--set", "renderer.window_px=100"), "window_px"),
        (("--set", "renderer.look=7"), "renderer.look: expected 0 to 2, or random, got 7"),
        (("--set", "renderer.look=any"), "look"),
        (("--like", "nowhere"), "--like|nowhere"),
    ],
)
def test_an_order_that_does_not_fit_the_weights_is_one_line_and_writes_nothing(
    changes: tuple[str, ...], said: str, weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    assert_refused(cli(*make_words("pix2pixhd", weights("pix2pixhd"), *changes)), said)
    assert list(tmp_path.iterdir()) == []


def test_weights_with_another_condition_map_are_refused_on_masks_of_regions(
    weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    path = weights("pix2pixhd", condition={"kind": "polygons+air+cells"})
    assert read_card(path).fields["scheme"]["name"] == "ki67_cells"
    assert_refused(cli(*make_words("pix2pixhd", path)), "scheme ki67_cells, got polygons")
    assert_refused(
        cli(*make_words("pix2pixhd", path, "--scheme", "ki67")), "the weights of pix2pixhd draw ki67_cells, got ki67"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "short", "masks", "state", "text"])
def test_weights_that_are_damaged_or_of_something_else_are_refused(
    damage: str, weights: Weights, tmp_path: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = weights("pix2pixhd")
    bad = tmp_path / "w.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    if damage == "masks":
        shutil.copy(trained_once(tmp_path_factory.mktemp("masks"))("cyclegan") / BEST, bad)
    else:
        other = {"flipped": content, "short": path.read_bytes()[:-9], "text": b"weights"}
        bad.write_bytes(other[damage] if damage in other else (path.parent / "last.safetensors").read_bytes())
    said = {"flipped": "matches its sha256, got a damaged", "short": "damaged", "text": "expected safetensors"}
    kind = "expected a file of kind renderer-weights, got generator-"
    assert_refused(cli(*make_words("pix2pixhd", bad)), rf"w\.safetensors: .*{said.get(damage, kind)}")
    assert [found.name for found in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_that_changed_under_their_name_are_refused_on_replay_and_resume(
    weights: Weights, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "w.safetensors"
    shutil.copy(weights("pix2pix"), path)
    assert cli(*make_words("pix2pix", path, n=2)).code == 0
    sample_id = open_dataset(tmp_path / SYNTH).row(0)["sample_id"]
    before = tree(tmp_path / SYNTH)
    whole = read_checkpoint(path, WEIGHTS_KIND)
    write_weights(path, {name: tensor + 1 for name, tensor in whole.tensors.items()}, whole.card)
    assert_refused(cli("factory", "replay", sample_id), "expected the weights .*Put those back")
    assert_refused(cli(*make_words("pix2pix", path, n=2)), r"renderer\.weights_sha256")
    assert tree(tmp_path / SYNTH) == before


def test_a_renderer_that_learns_is_not_fitted(weights: Weights, tmp_path: Path, cli: Cli) -> None:
    write_blobs(tmp_path / "d", n=2, scheme="ki67", size=(64, 96))
    outcome = cli(*make_words("pix2pixhd", weights("pix2pixhd"), "--like", "d"))
    assert_refused(outcome, r"--like: expected a renderer that fits itself \(stain, exemplar\), got pix2pixhd")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


# Training.


def train_words(name: str, **changes: Any) -> tuple[object, ...]:
    return (
        "factory",
        "train",
        name,
        "--data",
        "d",
        "--out",
        "run",
        "--device",
        "cpu",
        *as_assignments(name, **changes),
    )


CELLS = {"kind": "polygons+air+cells"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("factory", "train", "cyclegan", "--data", "d"), "NAME: expected masks/cyclegan or renderers/cyclegan"),
        (
            ("factory", "train", "stain", "--data", "d"),
            "NAME: expected one of .*pix2pixhd.*, got stain, which needs no",
        ),
        (("factory", "train", "pix2pxihd", "--data", "d"), "Did you mean pix2pixhd"),
        ((*train_words("pix2pixhd"), "--scheme", "tissue", "--set", "condition.kind=polygons+air+cells"), "got tissue"),
        (train_words("pix2pixhd", condition={"kind": "labels"}), "condition.kind: expected a map that a network sees"),
        (train_words("pix2pix", condition={"kind": "polygon"}), r"condition\.kind: expected"),
        (train_words("pix2pixhd", condition={"kind": "polygons+noise", "spacing_um": 0.3}), "condition.spacing_um"),
        (train_words("pix2pixhd", loss={"perceptual": 10}), "perceptual_weights: expected a file of VGG19's weights"),
        (train_words("pix2pixhd", loss={"perceptual": 10}, perceptual_weights="nowhere"), "nowhere: .*No such file"),
        (train_words("pix2pix", size=[32, 48]), "multiples of 32"),
        (train_words("pix2pixhd", size=[64, 128]), r"d: expected tiles of at least 64x128"),
    ],
)
def test_training_that_cannot_be_is_one_line_and_writes_nothing(
    words: tuple[object, ...], said: str, tmp_path: Path, cli: Cli
) -> None:
    write_blobs(tmp_path / "d", n=2, scheme="ki67")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(cli(*words), said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", TRAINABLE)
def test_labels_outside_the_scheme_are_refused_before_the_first_step(name: str, tmp_path: Path, cli: Cli) -> None:
    write_blobs(tmp_path / "d", n=4, scheme="ki67")
    poke(tmp_path / "d", 2, 4)
    before = sorted(tmp_path.rglob("*"))
    words = train_words(trainer_name(name, "renderers"))
    assert_refused(cli(*words), "d: d-2: expected classes 0 to 3 of ki67, got 4.*--class-map")
    assert sorted(tmp_path.rglob("*")) == before
    poke(tmp_path / "d", 2, 255)
    done = cli(*words, "--dry-run")
    assert done.code == 0, done
    assert "1 tiles contain ignored pixels (255) and are left out" in done.out


def test_the_command_trains_a_renderer_and_make_draws_with_its_folder(tmp_path: Path, cli: Cli) -> None:
    write_blobs(tmp_path / "d", n=4, scheme="ki67")
    config = as_file(tmp_path / "small.yaml", "renderers/cyclegan", steps=2)
    done = cli("factory", "train", "renderers/cyclegan", "--data", "d", "--device", "cpu", "--config", config)
    assert done.code == 0, done
    run = Path("runs/train/renderers-cyclegan")
    assert f"weights {run}/best.safetensors" in done.out
    assert read_card(tmp_path / run / BEST, WEIGHTS_KIND).fields["generator"] == "cyclegan"
    made = cli(*make_words("cyclegan", run, "--tps", "0.5", n=1))
    assert made.code == 0, made
    image = open_dataset(tmp_path / SYNTH)[0].image
    assert image.shape == (64, 96, 3)
    assert not np.array_equal(image, get_scheme("ki67").palette[open_dataset(tmp_path / SYNTH)[0].tile.semantic])
