"""`factory make --joint`: tiles of one generator, chosen to meet the plan; they say what they are, and repeat."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import linear_sum_assignment

from factory import joint_making, labeller_run
from factory.core.runs import POOL
from factory.joint.hdgan import BESIDE, Hdgan, HdganConfig, tile_of
from factory.labeller_run import LabellerRunConfig
from factory.latent_pool import read_pool
from factory.order import resolve_joint
from factory.picking import Target, pick, quantile_error
from factory.pipeline import make
from factory.plan import read_draft
from factory.replay import replay
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


def order_of(labeller: Path, out: Path, *shares: str, joint: dict[str, Any] | None = None, **asked: Any) -> Any:
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
    monkeypatch.setattr("factory.latent_pool.CHUNK", 4)

    def stop(made: int) -> None:
        if made == 10:
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"tps": "0.2-0.7", "joint": {"pool": 20, "tolerance": 1.0}}
    broken, whole = (order_of(labeller, tmp_path / name, **asked) for name in ("broken", "whole"))
    with pytest.raises(KeyboardInterrupt):
        joint_making.choose(broken, workers=1, on_tiles=stop)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == [POOL]
    starts: list[tuple[int, int]] = []
    chosen = joint_making.choose(broken, workers=1, on_start=lambda done, total: starts.append((done, total)))
    assert starts == [(8, 20)]
    make(chosen, workers=1)
    make(joint_making.choose(whole, workers=1), workers=1)
    assert open_dataset(tmp_path / "broken").table.equals(open_dataset(tmp_path / "whole").table)
    assert (tmp_path / "broken" / POOL).read_bytes() == (tmp_path / "whole" / POOL).read_bytes()

    # Another request on the same folder is refused, and takes the pool over where it may replace the data set.
    other = order_of(labeller, tmp_path / "whole", tissue="0.5-1", joint={"pool": 20, "tolerance": 1.0})
    with pytest.raises(UserError, match="expected the configuration that it was made with"):
        joint_making.choose(other, workers=1)
    starts.clear()
    joint_making.choose(other, workers=1, overwrite=True, on_start=lambda done, total: starts.append((done, total)))
    assert starts == [(20, 20)]


def test_a_request_that_the_pool_cannot_meet_is_refused_with_what_it_offers(labeller: Path, tmp_path: Path) -> None:
    order = order_of(labeller, tmp_path / "made", tissue="0", joint={"pool": 8})
    with pytest.raises(UserError, match=r"--tissue: .* got \d+ of 6 that are farther: a pool of 8 offers 0\.\d+ to"):
        joint_making.choose(order, workers=1)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [POOL]  # for another request
    bound = order_of(labeller, tmp_path / "made", joint={"pool": 8, "max_uncertainty": 1e-9})
    with pytest.raises(UserError, match=r"--max-uncertainty: expected 6 tiles within 1e-09, got 0 of a pool of 8"):
        joint_making.choose(bound, workers=1)


def test_shares_of_classes_are_asked_by_name(labeller: Path, tmp_path: Path) -> None:
    order = order_of(labeller, tmp_path / "made", "air=0.1-0.3", joint={"pool": 24, "tolerance": 1.0})
    asked = np.array(order.rows["request_fractions"].to_pylist())
    assert ((asked[:, 4] >= 0.1) & (asked[:, 4] <= 0.3)).all()
    np.testing.assert_allclose(asked.sum(1), 1)
    chosen = joint_making.choose(order, workers=1)
    pool = pq.read_table(tmp_path / "made" / POOL)
    air = dict(zip(pool["seed"].to_pylist(), (row[4] for row in pool["class_fractions"].to_pylist()), strict=True))
    got = np.array([air[seed] for seed in chosen.rows["seed"].to_pylist()])
    cost = (asked[:, 4][:, None] - np.array(list(air.values()))[None]) ** 2
    assert ((asked[:, 4] - got) ** 2).sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum())
    with pytest.raises(UserError, match=r"--share: expected a class of pdl1 .*, got 'artery'"):
        order_of(labeller, tmp_path / "made", "artery=0.1")
    with pytest.raises(UserError, match=r"--share: expected shares of at most 1 in all, got 1.4 in row 0"):
        order_of(labeller, tmp_path / "made", "air=0.7", "other=0.7")
    with pytest.raises(UserError, match=r"--share: expected CLASS=DISTRIBUTION, got 'air'"):
        order_of(labeller, tmp_path / "made", "air")


def test_a_plan_can_be_followed_and_asks_for_what_the_weights_draw(labeller: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"request_tissue": [0.7, 0.8, 0.9]}), tmp_path / "plan.parquet")
    draft = read_draft(tmp_path / "plan.parquet")
    typed = {"weights": str(labeller), "pool": 12, "tolerance": 1.0}
    config = resolve_joint({}, typed, [], None, [], draft)
    order = joint_making.prepare(config, tmp_path / "made", manifest=draft, device="cpu")
    chosen = joint_making.choose(order, workers=1)
    assert chosen.rows["request_tissue"].to_pylist() == [0.7, 0.8, 0.9]
    assert chosen.rows["height"].to_pylist() == [SIZE[0]] * 3
    with pytest.raises(UserError, match="--tps: expected none beside --manifest"):
        resolve_joint({"tps": "0.5"}, typed, [], None, [], draft)
    pq.write_table(pa.table({"request_tissue": [0.7], "height": [64], "width": [64]}), tmp_path / "plan.parquet")
    with pytest.raises(UserError, match="--size: expected 32x64, which the weights draw, got 64x64"):
        joint_making.prepare(config, tmp_path / "made", manifest=read_draft(tmp_path / "plan.parquet"), device="cpu")


def test_doubtful_pixels_are_ignored_and_one_classifier_has_no_doubt(labeller: Path, tmp_path: Path) -> None:
    config = HdganConfig(weights=str(labeller), max_pixel_uncertainty=0.02)
    plain, bounded = Hdgan(config.model_copy(update={"max_pixel_uncertainty": None})), Hdgan(config)
    first, second = plain.draw(9), bounded.draw(9)
    ignored = second.tile.semantic == 255
    assert 0 < ignored.mean() == pytest.approx(second.ignored)
    assert np.array_equal(first.tile.semantic[~ignored], second.tile.semantic[~ignored])
    assert first.uncertainty == second.uncertainty


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


def test_many_requests_are_dealt_to_blocks_and_meet_the_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.picking._BLOCK", 50)
    rng = np.random.default_rng(1)
    asked, offered = rng.random(201), rng.beta(2, 2, 1000)
    picked = pick([Target("a", asked, offered)], 201, np.arange(1000))
    assert len(set(picked.tiles)) == 201
    assert quantile_error(asked, offered[picked.tiles]) < 0.02
    nothing = pick([], 5, np.array([9, 4, 7, 1, 0, 3]))
    assert nothing.tiles.tolist() == [9, 4, 7, 1, 0]
    with pytest.raises(ValueError, match="expected at least 7, got 6"):
        pick([], 7, np.arange(6))


def test_weights_that_cannot_be_used_are_refused(labeller: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    joint = ("factory", "make", "--joint", "hdgan", "--out", tmp_path / "made", "--device", "cpu", "--n", "3")
    alone = shutil.copytree(labeller, tmp_path / "alone")
    (alone / BESIDE).unlink()
    assert_refused(cli(*joint, "--weights", alone), r"expected generator.safetensors beside it with the weights")
    write_generator(tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other/best.safetensors", alone / BESIDE)
    assert_refused(cli(*joint, "--weights", alone), r"expected generator.safetensors beside it with the weights")
    assert_refused(cli(*joint), "as there are no starter weights")
    here = (*joint, "--weights", labeller)
    assert_refused(cli(*here, "--size", "64x64"), f"--size: expected {SIZE[0]}x{SIZE[1]}, .* got 64x64")
    assert_refused(cli(*here, "--mpp", "0.25"), "--mpp: expected 0.5, which the weights draw, got 0.25")
    assert_refused(cli(*here, "--scheme", "tissue"), "--scheme: expected pdl1, .* got tissue")
    assert_refused(cli(*here, "--pool", "2"), "--pool: expected at least the 3 tiles")
    assert_refused(cli(*here, "--masks", "ihc"), "--masks: expected none beside --joint")
    assert_refused(cli("factory", "make", "--pool", "4"), "--pool: expected --joint beside it, got none")
    assert_refused(cli(*joint[:3], "hdgn", *joint[4:], "--weights", labeller), "Did you mean hdgan")
    assert not (tmp_path / "made").exists()


def test_a_pool_that_is_damaged_or_anothers_is_no_pool(labeller: Path, tmp_path: Path) -> None:
    order = order_of(labeller, tmp_path / "made", joint={"pool": 6})
    joint_making.choose(order, workers=1)
    path, mark = tmp_path / "made" / POOL, joint_making._fingerprint(order.spec.config)
    assert len(read_pool(path, mark) or []) == 6
    assert read_pool(path, "f" * 64) is None
    path.write_bytes(path.read_bytes()[:-9])
    assert read_pool(path, mark) is None
    joint_making.choose(order, workers=1)
    assert len(read_pool(path, mark) or []) == 6
