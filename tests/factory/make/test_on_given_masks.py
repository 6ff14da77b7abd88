"""`factory render`: the masks of a data set with other images, said so, made again, and kept from training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from factory.core.checkpoints import BEST
from factory.core.weights import read_card
from manifests import Dataset, open_dataset, verify
from manifests.ledger import record_path
from manifests.table import write_dataset_manifest
from segment.data.sources import Source, check_leaks
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.kill_after_every_operation import tree
from tests.mask_training import trained_once, write_blobs

Cli = Callable[..., Outcome]
RENDER = ("factory", "render", "real", "--out", "out", "--workers", "1")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def real(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "real", n=7, size=(64, 96))


def same_pixels(drawn: Dataset, real: Dataset) -> None:
    for new, old in zip(drawn, real, strict=True):
        assert np.array_equal(new.tile.semantic, old.tile.semantic)
        assert np.array_equal(new.tile.instance, old.tile.instance)
        assert new.image.shape == old.image.shape
        assert not np.array_equal(new.image, old.image)


def test_masks_stay_and_rows_say_what_was_drawn(cli: Cli, real: Dataset, tmp_path: Path) -> None:
    done = cli(*RENDER, "--split", "all", "--like", "real", "--set", "shard=3", "--seed", 5)
    assert done.code == 0, done
    drawn = open_dataset(tmp_path / "out")
    assert verify(tmp_path / "out") == []
    same_pixels(drawn, real)
    rows, given = drawn.table.to_pylist(), real.table.to_pylist()
    kept = ("split", "group_id", "mpp", "label_scheme", "cells", "class_fractions", "licence", "instance_sha256")
    for new, old in zip(rows, given, strict=True):
        assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
        assert (new["source"], new["label_origin"], new["recipe"]) == ("synthetic", "conditioned", "masks+stain")
    assert len({row["seed"] for row in rows}) == len({row["sample_id"] for row in rows}) == 7
    assert not {row["sample_id"] for row in rows} & {row["sample_id"] for row in given}
    assert drawn.info.is_synthetic
    groups = ("real-slide-0", "real-slide-1", "real-slide-2")
    assert set(drawn.info.training_sources) == {*(f"masks of real/{group}" for group in groups), "real/real-slide-0"}
    assert drawn.info.licences == ("test",)
    assert "note: stain was trained on or fitted to images of 1 of the groups drawn (real-slide-0)" in done.out


def test_a_tile_is_the_same_whatever_split_shard_or_worker_and_another_with_another_seed(
    cli: Cli, real: Dataset, tmp_path: Path
) -> None:
    del real
    assert cli(*RENDER, "--split", "all").code == 0
    assert cli(*RENDER[:4], "test", "--set", "shard=1", "--workers", 2).code == 0
    assert cli(*RENDER[:4], "again", "--set", "shard=1", "--workers", 1).code == 0
    assert cli(*RENDER[:4], "other", "--seed", 1, "--workers", 1).code == 0
    images = {
        name: {row["instance_sha256"]: row["image_sha256"] for row in open_dataset(tmp_path / name).table.to_pylist()}
        for name in ("out", "test", "other")
    }
    assert len(images["test"]) == 2
    assert images["test"].items() <= images["out"].items()
    assert images["test"].keys() == images["other"].keys()
    assert not set(images["test"].values()) & set(images["other"].values())
    assert tree(tmp_path / "test") == tree(tmp_path / "again")


def test_what_is_missing_is_drawn_again_and_another_order_is_refused(cli: Cli, real: Dataset, tmp_path: Path) -> None:
    del real
    words = (*RENDER, "--split", "all", "--set", "shard=2")
    assert cli(*words).code == 0
    before = tree(tmp_path / "out")
    record_path(tmp_path / "out", 1).unlink()
    assert "2 made" in cli(*words).out
    assert tree(tmp_path / "out") == before
    assert "nothing to do" in cli(*words).out
    assert_refused(cli(*words, "--seed", 3), r"another one \(config\.seed: 0 there, 3 asked\)")
    assert cli(*words, "--seed", 3, "--overwrite").code == 0
    assert verify(tmp_path / "out") == []


def test_replay_needs_the_masks_and_refuses_others(cli: Cli, real: Dataset, tmp_path: Path) -> None:
    assert cli(*RENDER).code == 0
    sample_id = open_dataset(tmp_path / "out").row(1)["sample_id"]
    words = ("factory", "replay", sample_id, "--data", "out")
    done = cli(*words, "--masks-of", "real")
    assert done.code == 0, done
    assert "masks same bytes, image same bytes" in done.out
    assert_refused(cli(*words), "expected --masks-of with the data set whose masks these are, real, got none")
    write_dataset(tmp_path / "another", n=7, size=(64, 96), seed=1)
    assert_refused(cli(*words, "--masks-of", "another"), "expected real as it was drawn on, got another data set")
    del real


def test_masks_of_a_test_set_are_kept_from_its_training(cli: Cli, real: Dataset, tmp_path: Path) -> None:
    assert cli(*RENDER).code == 0
    assert cli(*RENDER[:4], "learn", "--split", "train", "--workers", 1).code == 0
    check_leaks([Source("real", real), Source("synth", open_dataset(tmp_path / "learn"))])
    with pytest.raises(Exception, match="nothing that comes from the test split, got its group 'real-slide-2'"):
        check_leaks([Source("real", real), Source("synth", open_dataset(tmp_path / "out"))])


def test_masks_that_were_drawn_stay_exact_where_the_renderer_is(cli: Cli, tmp_path: Path) -> None:
    made = ("factory", "make", "--scheme", "nuclei", "--size", "64x64", "--n", "3", "--cells", "4", "--workers", "1")
    assert cli(*made, "--out", "real").code == 0
    assert cli(*RENDER, "--renderer", "palette", "--split", "all").code == 0
    drawn, masks = open_dataset(tmp_path / "out"), open_dataset(tmp_path / "real")
    same_pixels(drawn, masks)
    for row in drawn.table.to_pylist():
        assert (row["label_origin"], row["recipe"], row["request_cells"]) == ("exact", "nuclei+palette", 4)
    assert drawn.info.training_sources == ()


def test_weights_draw_on_masks_that_they_know_and_say_what_they_saw(
    cli: Cli, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = trained_once(tmp_path_factory.mktemp("weights"), "renderers")("pix2pix", "ki67") / BEST
    write_blobs(tmp_path / "real", n=3, scheme="ki67", size=(64, 96), split="test")
    words = (*RENDER, "--renderer", "pix2pix", "--set", f"renderer.weights={path}", "--set", "renderer.precision=fp32")
    done = cli(*words)
    assert done.code == 0, done
    assert "note: pix2pix was trained on or fitted to images of 3 of the groups drawn (slide-0, slide-1" in done.out
    drawn = open_dataset(tmp_path / "out")
    row = drawn.row(0)
    assert row["image_weights_sha256"] == read_card(path).sha256
    assert (row["label_origin"], row["precision"]) == ("conditioned", "float32")
    assert {"ki67/slide-0", "masks of real/slide-0"} <= set(drawn.info.training_sources)
    assert (
        "masks same bytes, image same bytes"
        in cli("factory", "replay", row["sample_id"], "--data", "out", "--masks-of", "real").out
    )
    write_blobs(tmp_path / "odd", n=2, scheme="ki67", size=(50, 96), split="test")
    odd = ("factory", "render", "odd", "--out", "no", *words[7:])
    assert_refused(cli(*odd), r"odd: odd-0: size: pix2pix draws multiples of \d+, got 50x96")
    write_blobs(tmp_path / "air", n=2, size=(64, 96), split="test")
    assert_refused(cli("factory", "render", "air", *odd[3:]), "air: air-0: scheme: the weights of pix2pix draw ki67")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--renderer", "nothing"), "--renderer"),
        (("--out", "real"), "--out real: expected a folder apart from real"),
        (("--out", "real/in"), "--out real/in: expected a folder apart from real"),
        (("--set", "plan.tps=0.3"), "plan: expected a known key"),
        (("--set", "renderer=stain"), "renderer: expected keys with values"),
        (("--set", "renderer.stian=he"), "Did you mean stain"),
        (("--set", "split=none"), "split"),
        (("--renderer", "palette", "--like", "real"), "expected a renderer that fits itself"),
        (("--workers", "0"), "--workers: expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    changes: tuple[str, ...], said: str, cli: Cli, real: Dataset, tmp_path: Path
) -> None:
    before = tree(real.root)
    assert_refused(cli(*RENDER, *changes), said)
    assert tree(real.root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


def test_masks_that_are_not_there_or_not_one_scheme_are_refused(cli: Cli, real: Dataset, tmp_path: Path) -> None:
    learn = real.where(np.array([split == "train" for split in real.table["split"].to_pylist()]))
    write_dataset(tmp_path / "one", n=2, size=(64, 96), groups=1)
    assert_refused(cli("factory", "render", "one", "--out", "out"), "expected tiles of split test, got none")
    assert_refused(cli("factory", "render", "none", "--out", "out"), "none: expected a data set, got no such folder")
    (tmp_path / "one/SHA256SUMS").unlink()
    assert_refused(cli("factory", "render", "one", "--out", "out"), "expected a finished data set")
    assert len(learn) == 3
    names = ["nuclei"] * 6 + ["tissue"]
    place = real.table.schema.get_field_index("label_scheme")
    table = real.table.set_column(place, real.table.schema.field("label_scheme"), [names])
    write_dataset_manifest(real.root, len(table), table.to_pylist(), dataclasses.replace(real.info))
    assert_refused(cli(*RENDER), "expected masks of one label scheme, got nuclei, tissue")


def test_a_dry_run_writes_nothing(cli: Cli, real: Dataset, tmp_path: Path) -> None:
    done = cli(*RENDER, "--dry-run")
    assert done.code == 0
    assert "2 tiles of 64x96: masks of real (test), renderer stain, scheme nuclei -> out" in done.out
    assert not (tmp_path / "out").exists()
    del real
