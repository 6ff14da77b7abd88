"""`factory make --joint`: tiles of one generator, chosen to meet the plan; they say what they are, and repeat."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import linear_sum_assignment

from experiments.hdgan_scores import counts_of_labeller, dice
from factory.core.runs import POOL
from factory.core.seeds import row_seed
from factory.core.starters import STARTER
from factory.core.weights import BEST, read_card
from factory.joint.hdgan import BESIDE, Hdgan, HdganConfig, tile_of
from factory.make import joint_candidates
from factory.make.joint_candidates import _fingerprint, choose, read_pool
from factory.make.pipeline import make
from factory.make.recipes import joint as joint_making
from factory.make.replay import replay
from factory.make.report import run_text
from factory.make.resolve import resolve_joint
from factory.plan.assignment import Target, pick, quantile_error, targets_of
from factory.plan.rows import read_draft
from factory.starter.pack import pack
from factory.train import labeller as labeller_run
from factory.train.labeller import LabellerRunConfig
from manifests import get_scheme, open_dataset, verify
from manifests.errors import UserError
from tests.annotated_images import SIZE, write_annotated, write_generator
from tests.conftest import Outcome, assert_refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def labeller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    generator = write_generator(folder / "generator")
    data = write_annotated(folder / "annotated", generator).root
    quick = {"members": 2, "batch": 512, "steps": 30, "optimiser": "adam", "learning_rate": 0.01, "threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labeller_run, "plot_history", lambda out, history, panels: out)
        config = LabellerRunConfig.model_validate(quick)
        labeller_run.train(labeller_run.prepare(str(generator), [data], config, folder / "labeller"))
    return folder / "labeller"


def run_of(labeller: Path, out: Path, *shares: str, joint: dict[str, Any] | None = None, **asked: Any) -> Any:
    flags = {"n": 6, "seed": 3, **asked}
    config = resolve_joint(flags, {"weights": str(labeller), **(joint or {})}, shares, None, ["shard=4"])
    return joint_making.prepare(config, out, manifest=None, device="cpu")


def test_tiles_are_chosen_for_what_is_asked_and_say_what_they_are(
    labeller: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    words = ("--joint", "hdgan", "--weights", labeller, "--tissue", "0.5-1", "--n", 5, "--pool", 40, "--workers", 1)
    words = (*words, "--device", "cpu", "--set", "joint.tolerance=1", "--out", tmp_path / "made")
    dry = cli("factory", "make", *words, "--dry-run")
    assert "stylegan2 + hdgan, scheme pdl1" in dry.out
    assert not (tmp_path / "made").exists()
    done = cli("factory", "make", *words)
    assert done.code == 0, done.err
    assert "5 tiles chosen from a pool of 40" in done.out
    assert "Asked and chosen" in done.out
    assert "labels are predicted: mean Dice" in done.out
    assert "quantile error" in done.out
    assert verify(tmp_path / "made") == []
    dataset = open_dataset(tmp_path / "made")
    pool = pq.read_table(tmp_path / "made" / POOL)
    rows = dataset.table.to_pylist()
    assert len({row["seed"] for row in rows}) == 5
    measured = dict(zip(pool["seed"].to_pylist(), pool["tissue_fraction"].to_pylist(), strict=True))
    part = Hdgan(HdganConfig(weights=str(labeller)))
    for row in rows:
        assert (row["label_origin"], row["recipe"], row["source"]) == ("predicted", "stylegan2+hdgan", "synthetic")
        assert row["tissue_fraction"] == measured[row["seed"]]
        assert row["image_weights_sha256"] == part.generator.digest
        drawn = part.draw(row["seed"])
        assert np.array_equal(np.float32(row["latent"]), drawn.latent)
        assert np.array_equal(dataset[row["index"]].image, drawn.image)
    assert replay(tmp_path / "made", rows[3]["sample_id"]).masks_equal
    assert replay(tmp_path / "made", rows[3]["sample_id"]).image_difference == 0
    again = cli("factory", "make", *words)
    assert again.code == 0, again.err
    assert open_dataset(tmp_path / "made").table.equals(dataset.table)


def test_a_stopped_pool_goes_on_and_the_tiles_are_those_of_an_unbroken_run(
    labeller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_candidates, "CHUNK", 4)  # the unbroken run has other tasks

    def stop(made: int) -> None:
        if made == 10:
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"tps": "0.2-0.7", "joint": {"pool": 20, "tolerance": 1.0}}
    broken, whole = (run_of(labeller, tmp_path / name, **asked) for name in ("broken", "whole"))
    with pytest.raises(KeyboardInterrupt):
        choose(broken, workers=1, on_tiles=stop)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == [POOL]
    starts: list[tuple[int, int]] = []
    chosen = choose(broken, workers=1, on_start=lambda done, total: starts.append((done, total)))
    assert starts == [(8, 20)]
    with pytest.raises(KeyboardInterrupt):
        make(chosen, workers=1, on_tiles=lambda made: stop(made + 5))  # the second shard
    make(choose(broken, workers=1), workers=1)
    monkeypatch.setattr(joint_candidates, "CHUNK", 32)
    make(choose(whole, workers=1), workers=1)
    assert open_dataset(tmp_path / "broken").table.equals(open_dataset(tmp_path / "whole").table)
    assert (tmp_path / "broken" / POOL).read_bytes() == (tmp_path / "whole" / POOL).read_bytes()

    # Another request on the same folder is refused, and takes the pool over where it may replace the data set.
    other = run_of(labeller, tmp_path / "whole", tissue="0.5-1", joint={"pool": 20, "tolerance": 1.0})
    with pytest.raises(UserError, match="expected the configuration that it was made with"):
        choose(other, workers=1)
    starts.clear()
    choose(other, workers=1, overwrite=True, on_start=lambda done, total: starts.append((done, total)))
    assert starts == [(20, 20)]


def test_a_request_that_the_pool_cannot_meet_is_refused_with_what_it_offers(labeller: Path, tmp_path: Path) -> None:
    prepared = run_of(labeller, tmp_path / "made", tissue="0", joint={"pool": 8})
    with pytest.raises(
        UserError, match=r"--tissue: .* got \d+ of 6 that are farther: a pool of 8 offers 0\.\d+ to"
    ) as far:
        choose(prepared, workers=1)
    enough = float(str(far.value).rpartition("joint.tolerance=")[2].rstrip("."))
    near = run_of(labeller, tmp_path / "made", tissue="0", joint={"pool": 8, "tolerance": enough})
    assert len(choose(near, workers=1).rows) == 6  # what the line offers is enough
    assert [path.name for path in (tmp_path / "made").iterdir()] == [POOL]  # for another request
    bound = run_of(labeller, tmp_path / "made", joint={"pool": 8, "max_uncertainty": 1e-9})
    with pytest.raises(UserError, match=r"--max-uncertainty: expected 6 tiles within 1e-09, got 0 of a pool of 8"):
        choose(bound, workers=1)


def test_shares_of_classes_are_asked_by_name(labeller: Path, tmp_path: Path) -> None:
    prepared = run_of(labeller, tmp_path / "made", "air=0.1-0.3", joint={"pool": 24, "tolerance": 1.0})
    asked = np.array(prepared.rows["request_fractions"].to_pylist())
    assert ((asked[:, 4] >= 0.1) & (asked[:, 4] <= 0.3)).all()
    np.testing.assert_allclose(asked.sum(1), 1)
    chosen = choose(prepared, workers=1)
    pool = pq.read_table(tmp_path / "made" / POOL)
    air = dict(zip(pool["seed"].to_pylist(), (row[4] for row in pool["class_fractions"].to_pylist()), strict=True))
    got = np.array([air[seed] for seed in chosen.rows["seed"].to_pylist()])
    cost = (asked[:, 4][:, None] - np.array(list(air.values()))[None]) ** 2
    assert ((asked[:, 4] - got) ** 2).sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum())
    with pytest.raises(UserError, match=r"--share: expected a class of pdl1 .*, got 'artery'"):
        run_of(labeller, tmp_path / "made", "artery=0.1")
    with pytest.raises(UserError, match=r"--share: expected shares of at most 1 in all, got 1.4 in row 0"):
        run_of(labeller, tmp_path / "made", "air=0.7", "other=0.7")
    with pytest.raises(UserError, match=r"--share: expected CLASS=DISTRIBUTION, got 'air'"):
        run_of(labeller, tmp_path / "made", "air")
    with pytest.raises(UserError, match=r"--share: expected each class once, got air twice"):
        run_of(labeller, tmp_path / "made", "air=0.1", "air=0.2")
    with pytest.raises(UserError, match=r"--share air: expected a share from 0 to 1, got 1.5"):
        run_of(labeller, tmp_path / "made", "air=1.5")
    with pytest.raises(UserError, match=r"--tumour: expected none with --joint, .* Write --share CLASS="):
        run_of(labeller, tmp_path / "made", tumour="0.3")  # which would ask for no inflammation and no air
    assert "share of air 0.1-0.3" in run_text(prepared)


def test_a_plan_can_be_followed_and_asks_for_what_the_weights_draw(labeller: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    pq.write_table(pa.table({"request_tissue": [0.7, 0.8, 0.9]}), path)
    draft = read_draft(path)
    typed = {"weights": str(labeller), "pool": 12, "tolerance": 1.0}
    config = resolve_joint({}, typed, [], None, [], draft)
    prepared = joint_making.prepare(config, tmp_path / "made", manifest=draft, device="cpu")
    chosen = choose(prepared, workers=1)
    assert chosen.rows["request_tissue"].to_pylist() == [0.7, 0.8, 0.9]
    assert chosen.rows["height"].to_pylist() == [SIZE[0]] * 3
    assert chosen.rows["sample_id"].to_pylist() == prepared.rows["sample_id"].to_pylist()  # a plan's names stay
    with pytest.raises(UserError, match="--tps: expected none beside --manifest"):
        resolve_joint({"tps": "0.5"}, typed, [], None, [], draft)
    pq.write_table(pa.table({"request_tissue": [0.7, 0.8], "seed": pa.array([1, 2], pa.uint64())}), path)
    other = resolve_joint({"seed": 8}, typed, [], None, [], read_draft(path))  # that of the pool: tiles have their own
    assert other.plan.seed == 8
    pq.write_table(pa.table({"request_tissue": [0.7], "height": [64], "width": [64]}), path)
    with pytest.raises(UserError, match="--size: expected 32x64, which the weights draw, got 64x64"):
        joint_making.prepare(config, tmp_path / "made", manifest=read_draft(path), device="cpu")


def test_doubtful_pixels_are_ignored_and_one_classifier_has_no_doubt(labeller: Path, tmp_path: Path) -> None:
    config = HdganConfig(weights=str(labeller), max_pixel_uncertainty=0.02)
    plain, bounded = Hdgan(config.model_copy(update={"max_pixel_uncertainty": None})), Hdgan(config)
    first, second = plain.draw(9), bounded.draw(9)
    ignored = second.tile.semantic == 255
    assert 0 < ignored.mean() == pytest.approx(second.ignored)
    assert np.array_equal(first.tile.semantic[~ignored], second.tile.semantic[~ignored])
    assert first.uncertainty == second.uncertainty


def test_a_labeller_at_work_has_the_dice_that_its_training_reported(labeller: Path) -> None:
    """Labels of a pass of the generator are those of stored features, so the experiment's table gives the same Dice."""
    counts = counts_of_labeller(labeller, labeller.parent / "annotated", "cpu")
    reported = json.loads((labeller / "held_out.json").read_text())
    assert len(counts) == reported["images"]
    np.testing.assert_allclose(dice(counts.sum(0)), [each["dice"] for each in reported["classes"]], atol=0.02)


def test_nuclei_of_a_scheme_become_instances_and_others_none() -> None:
    semantic = np.array([[1, 1, 0, 2], [0, 0, 0, 2], [1, 0, 255, 1]], np.uint8)
    tile = tile_of(semantic, get_scheme("ihc"), 0.25)
    assert sorted(np.unique(tile.instance)) == [0, 1, 2, 3]
    assert tile.instance[0, 3] == tile.instance[1, 3] == tile.instance[2, 3]  # touching nuclei are one, whatever class
    assert tile.instance[2, 2] == 0
    assert not tile_of(semantic, get_scheme("pdl1"), 0.5).instance.any()


def test_picking_is_the_best_assignment_without_repeats() -> None:
    rng = np.random.default_rng(0)
    targets = [
        Target("a", rng.random(12), rng.random(40)),
        Target("b", rng.integers(5, 50, 12).astype(float), rng.integers(0, 60, 40).astype(float), 50.0),
    ]
    targets[0].offered[3] = np.nan
    targets[0].asked[2] = np.nan  # anything will do
    allowed = np.flatnonzero(rng.random(40) < 0.8)
    picked = pick(targets, 12, allowed)
    assert set(picked.tiles) <= set(allowed)
    assert len(set(picked.tiles)) == 12
    assert 3 not in picked.tiles
    cost = sum(np.nan_to_num((t.asked[:, None] - t.offered[None, allowed]) / t.scale, nan=0.0) ** 2 for t in targets)
    best = cost[linear_sum_assignment(cost)].sum()
    got = sum(np.nan_to_num((t.asked - t.offered[picked.tiles]) / t.scale, nan=0.0) ** 2 for t in targets)
    assert got.sum() >= best - 1e-12
    distances = np.stack([np.nan_to_num(np.abs(t.asked - t.offered[picked.tiles]) / t.scale) for t in targets])
    np.testing.assert_allclose(picked.misfit, distances.max(0))
    assert np.array_equal(picked.worst, distances.argmax(0))


def test_requests_that_only_some_rows_have_count_for_these() -> None:
    scheme = get_scheme("tissue")
    rows = pa.table(
        {
            "request_tps": pa.nulls(3, pa.float64()), "request_tissue": [0.2, None, None],
            "request_cells": pa.array([None, 7, 3]), "request_fractions": [None, [0.4, 0.6], None],
        }
    )  # fmt: skip
    tiles = pa.table({"tissue_fraction": [0.2, 0.9], "cells": [3, None], "class_fractions": [[0.8, 0.2], [0.1, 0.9]]})
    tissue, cells, air, of_tissue = targets_of(rows, tiles, scheme)
    assert [each.name for each in (tissue, cells, air, of_tissue)] == [
        "--tissue", "--cells", "share of air", "share of tissue",
    ]  # fmt: skip
    np.testing.assert_array_equal(air.asked, [np.nan, 0.4, np.nan])
    np.testing.assert_array_equal(of_tissue.offered, [0.2, 0.9])
    np.testing.assert_array_equal(cells.offered, [3, np.nan])
    assert (cells.scale, tissue.scale) == (7, 1)
    assert [each.name for each in targets_of(rows, tiles, scheme, ["tissue"])][-1] == "share of tissue"


def test_many_requests_are_dealt_to_blocks_and_meet_the_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.plan.assignment._BLOCK", 50)
    rng = np.random.default_rng(1)
    asked, offered = rng.random(201), rng.beta(2, 2, 1000)
    picked = pick([Target("a", asked, offered)], 201, np.arange(1000))
    assert len(set(picked.tiles)) == 201
    assert quantile_error(asked, offered[picked.tiles]) < 0.02
    assert len(set(pick([Target("a", asked, offered[:201])], 201, np.arange(201)).tiles)) == 201  # none to spare
    nothing = pick([], 5, np.array([9, 4, 7, 1, 0, 3]))
    assert nothing.tiles.tolist() == [9, 4, 7, 1, 0]
    with pytest.raises(ValueError, match="expected at least 7, got 6"):
        pick([], 7, np.arange(6))


def test_starter_weights_are_packed_together_and_taken_where_none_are_named(
    labeller: Path, tmp_path: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = tmp_path / "starter"
    monkeypatch.setattr("factory.core.starters.STARTER", starter)
    make_pair = ("factory", "make", "--joint", "hdgan", "--n", "1", "--device", "cpu", "--workers", "1")
    draw = ("factory", "sample", "--n", "2", "--device", "cpu", "--workers", "1")
    assert_refused(cli(*make_pair), "--weights: .* no starter weights")
    assert_refused(cli(*draw), "--weights: .* no starter weights")
    starter.mkdir()

    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(labeller / BESIDE, run / BEST)
    half = pack(run, "stylegan2-he", starter)
    assert half.stat().st_size < 0.75 * (run / BEST).stat().st_size
    # It was trained on what the generator drew before it was rounded.
    with pytest.raises(UserError, match=r"expected a labeller of a generator in .* stylegan2-he"):
        pack(labeller, "hdgan-he", starter)
    with pytest.raises(UserError, match="NAME: expected hdgan-WHAT, got 'stylegan2-he'"):
        pack(labeller, "stylegan2-he", starter)
    assert cli(*draw).code == 0
    assert open_dataset("data/sampled").row(0)["image_weights_sha256"] == read_card(half).sha256

    shutil.copy(labeller / BESIDE, half)  # as if it had been trained on the packed one
    packed = pack(labeller, "hdgan-he", starter)
    assert read_card(packed).fields["stored_as"] == "float32"
    assert cli(*make_pair).code == 0
    row = open_dataset("data/synth").row(0)
    assert (row["mask_weights_sha256"], row["image_weights_sha256"]) == (
        read_card(packed).sha256, read_card(half).sha256,
    )  # fmt: skip
    assert str(tmp_path) not in Path("data/synth/run.yaml").read_text()  # the same wherever the package is
    assert replay(Path("data/synth"), row["sample_id"]).holds


@pytest.mark.parametrize("name", ["stylegan2-he", "hdgan-he"])
def test_the_weights_that_come_along_say_what_they_learnt_from(name: str) -> None:
    path = STARTER / f"{name}.safetensors"
    card = read_card(path).fields
    assert path.stat().st_size <= 16_000_000
    assert card["licences"] == ["CC BY-NC-SA 4.0"]
    assert len(card["sources"]) == 16
    assert "/work" not in path.with_suffix(".json").read_text()


def test_pairs_are_made_out_of_the_box(cli: Callable[..., Outcome]) -> None:
    words = ("--n", 6, "--cells", "2-8", "--device", "cpu", "--workers", 1)
    made = cli("factory", "make", "--joint", "hdgan", *words, "--set", "joint.tolerance=1")
    assert made.code == 0, made.err
    assert "mean Dice 0.83" in made.out
    tiles = open_dataset("data/synth")
    assert tiles.schemes[0].name == "nuclei"
    assert all(0 < (tiles[place].tile.semantic == 1).mean() < 1 for place in range(6))
    assert np.std([tiles[place].image.mean() for place in range(6)]) > 3  # stains of several slides
    assert replay(Path("data/synth"), tiles.row(0)["sample_id"]).holds


def test_weights_that_cannot_be_used_are_refused(labeller: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    joint = ("factory", "make", "--joint", "hdgan", "--out", tmp_path / "made", "--device", "cpu", "--n", "3")
    alone = shutil.copytree(labeller, tmp_path / "alone")
    (alone / BESIDE).unlink()
    assert_refused(cli(*joint, "--weights", alone), r"expected generator.safetensors beside it with the weights")
    write_generator(tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other/best.safetensors", alone / BESIDE)
    assert_refused(cli(*joint, "--weights", alone), r"expected generator.safetensors beside it with the weights")
    here = (*joint, "--weights", labeller)
    assert_refused(cli(*here, "--size", "64x64"), f"--size: expected {SIZE[0]}x{SIZE[1]}, .* got 64x64")
    assert_refused(cli(*here, "--mpp", "0.25"), "--mpp: expected 0.5, which the weights draw, got 0.25")
    assert_refused(cli(*here, "--scheme", "tissue"), "--scheme: expected pdl1, .* got tissue")
    assert_refused(cli(*here, "--tps", "0.5", "--pool", "2"), "--pool: expected at least the 3 tiles")
    assert_refused(cli(*here, "--pool", "9"), "--pool: expected --tps, .* beside it, got none")  # nothing to choose by
    assert_refused(cli(*here, "--masks", "ihc"), "--masks: expected none beside --joint")
    assert_refused(cli("factory", "make", "--pool", "4"), "--pool: expected --joint beside it, got none")
    assert_refused(cli(*joint[:3], "hdgn", *joint[4:], "--weights", labeller), "Did you mean hdgan")
    assert not (tmp_path / "made").exists()


def test_where_nothing_is_asked_no_pool_is_drawn(labeller: Path, tmp_path: Path) -> None:
    prepared = run_of(labeller, tmp_path / "made", n=2)
    assert choose(prepared, workers=1) is prepared
    _, made = make(prepared, workers=1)
    seeds = open_dataset(tmp_path / "made").table["seed"].to_pylist()
    assert (made, seeds) == (2, [row_seed(3, index) for index in range(2)])
    assert not (tmp_path / "made" / POOL).exists()
    assert verify(tmp_path / "made") == []


def test_a_pool_stays_where_weights_move(labeller: Path, tmp_path: Path) -> None:
    here = run_of(labeller, tmp_path / "made", tissue="0.5-1")
    moved = run_of(shutil.copytree(labeller, tmp_path / "moved"), tmp_path / "made", tissue="0-1", joint={"pool": 9})
    assert _fingerprint(here.spec.config) == _fingerprint(moved.spec.config)
    other = run_of(labeller, tmp_path / "made", tissue="0.5-1", joint={"psi": 0.5})
    assert _fingerprint(here.spec.config) != _fingerprint(other.spec.config)


def test_labels_of_a_person_are_not_made_again_and_predicted_ones_may_change_with_versions(
    labeller: Path, tmp_path: Path
) -> None:
    again = replay(labeller.parent / "annotated", "t-0")
    assert again.tile is None
    assert again.holds
    assert "labels are a person's and were not made again, image same bytes" in again.summary
    make(run_of(labeller, tmp_path / "made", n=1), workers=1)
    found = replay(tmp_path / "made", open_dataset(tmp_path / "made").row(0)["sample_id"])
    assert found.holds
    assert "masks same bytes, image same bytes" in found.summary
    assert found.tile is not None
    semantic = (found.tile.semantic + 1) % 5
    torn = replace(found, tile=replace(found.tile, semantic=semantic))
    assert not torn.holds
    assert "masks DIFFER" in torn.summary
    assert replace(torn, changed_versions=("torch==1.0",)).holds


def test_a_pool_that_is_damaged_or_anothers_is_no_pool(labeller: Path, tmp_path: Path) -> None:
    prepared = run_of(labeller, tmp_path / "made", tissue="0-1", joint={"pool": 6, "tolerance": 1.0})
    choose(prepared, workers=1)
    path, mark = tmp_path / "made" / POOL, _fingerprint(prepared.spec.config)
    assert len(read_pool(path, mark) or []) == 6
    assert read_pool(path, "f" * 64) is None
    path.write_bytes(path.read_bytes()[:-9])
    assert read_pool(path, mark) is None
    choose(prepared, workers=1)
    assert len(read_pool(path, mark) or []) == 6
