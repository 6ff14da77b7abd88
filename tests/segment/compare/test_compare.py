"""`segment compare`: intervals by law, a grid that pairs its trainings, resuming by training, and an honest report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from factory.core.checkpoints import BEST, LAST
from factory.core.config import parse
from factory.core.runs import RunSpec, open_run, write_shard
from factory.core.shipped import configs_dir
from factory.core.statistics import BootstrapConfig, cohens_dz, crossed_bootstrap_mean, crossed_bootstrap_relative
from manifests import Dataset, open_dataset
from manifests.errors import FaultError, UserError
from manifests.store import Layout
from segment.compare import comparison as comparisons
from segment.compare.config import ARMS, CompareConfig, Training, double_patients, grid
from segment.compare.report import Setting, write_report
from segment.compare.summary import Scores, sentences, summarise
from segment.data.weighting import WeightConfig
from segment.train import run as experiment
from segment.train.task import SegmenterTask
from tests.conftest import Outcome, assert_refused, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread", "small_network", "no_training_plots")

TRAIN = {"steps": 2, "batch": 2, "crop": [32, 32], "validate_every": 1, "threads": 1, "precision": "fp32"}
QUICK = {"seeds": 1, "fractions": [0.5, 1.0], "train": TRAIN, "bootstrap": {"resamples": 200}}


def config_of(**changes: object) -> CompareConfig:
    return parse(CompareConfig, {**QUICK, **changes}, "test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve real patients, four in each split, and synthetic tiles."""
    folder = tmp_path_factory.mktemp("home")
    write_dataset(folder / "real", n=12, groups=12, size=(32, 64))
    write_dataset(folder / "synth", n=6, source="synthetic", size=(64, 32))
    return folder


# --- intervals ---------------------------------------------------------------------------------------------------


def test_interval_equals_resampling_one_by_one() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 9)) + rng.normal(size=(4, 1))
    groups = list("aabcdefgh")
    estimate = crossed_bootstrap_mean(values, groups, BootstrapConfig(resamples=20_000))
    columns = {group: [i for i, own in enumerate(groups) if own == group] for group in groups}
    means = []
    for _ in range(20_000):
        rows = rng.integers(4, size=4)
        drawn = [column for group in rng.choice(list(columns), len(columns)) for column in columns[group]]
        means.append(values[np.ix_(rows, drawn)].mean())
    assert estimate.mean == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.02)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        seeds, images = rng.normal(size=(12, 1)), rng.normal(size=(1, 30))
        estimate = crossed_bootstrap_mean(
            0.5 + seeds + images + rng.normal(size=(12, 30)),
            [str(i) for i in range(30)],
            BootstrapConfig(resamples=300),
        )
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= covered / 300 <= 0.99


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    estimate = crossed_bootstrap_mean(np.full((3, 5), 0.25), list("abcde"), BootstrapConfig(resamples=200))
    assert (estimate.mean, estimate.low, estimate.high) == (0.25, 0.25, 0.25)
    assert math.isnan(cohens_dz(np.full((3, 5), 0.25)))


def test_what_an_image_or_a_seed_does_to_both_arms_leaves_the_difference_alone() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.random((2, 3, 8))
    shared = 10 * rng.random((1, 8)) + 10 * rng.random((3, 1))
    groups, boot = list("abcdefgh"), BootstrapConfig(resamples=500)
    plain, shifted = (
        crossed_bootstrap_mean(ours - theirs, groups, boot),
        crossed_bootstrap_mean(ours + shared - (theirs + shared), groups, boot),
    )
    assert (plain.mean, plain.low, plain.high) == pytest.approx((shifted.mean, shifted.low, shifted.high))


def test_images_of_one_patient_are_drawn_together() -> None:
    values, boot = np.random.default_rng(3).random((2, 6)), BootstrapConfig(resamples=500)
    once = crossed_bootstrap_mean(values, list("abcdef"), boot)
    twice = crossed_bootstrap_mean(np.repeat(values, 2, axis=1), list("aabbccddeeff"), boot)
    assert (once.low, once.high) == pytest.approx((twice.low, twice.high))
    assert (twice.images, twice.patients) == (12, 6)
    assert math.isnan(crossed_bootstrap_mean(values, ["a"] * 6, boot).low)


def test_scores_without_a_value_are_left_out_and_counted() -> None:
    values = np.array([[0.2, math.nan, 0.4], [0.6, math.nan, math.nan], [math.nan] * 3])
    estimate = crossed_bootstrap_mean(values, list("abc"), BootstrapConfig(resamples=200))
    assert estimate.mean == pytest.approx(0.4)
    assert (estimate.seeds, estimate.images) == (2, 2)
    assert math.isnan(
        crossed_bootstrap_mean(np.full((2, 2), math.nan), list("ab"), BootstrapConfig(resamples=200)).mean
    )


def test_effect_size_is_that_of_the_images_averaged_over_seeds() -> None:
    # Averages over seeds 1, 2, 3: mean 2, standard deviation 1.
    assert cohens_dz(np.array([[0.0, 2.0, 3.0], [2.0, 2.0, 3.0]])) == pytest.approx(2.0)
    assert math.isnan(cohens_dz(np.array([[1.0]])))


def test_relative_gain_equals_resampling_both_means_one_by_one() -> None:
    rng = np.random.default_rng(5)
    reference = rng.uniform(0.3, 0.6, (3, 10))
    gain = rng.normal(0.1, 0.05, (3, 10))
    gain[0, 0] = math.nan
    estimate = crossed_bootstrap_relative(gain, reference, list("abcdefghij"), BootstrapConfig(resamples=8000))
    known = ~np.isnan(gain)
    ratios = []
    for _ in range(8000):
        drawn = np.ix_(rng.integers(3, size=3), rng.integers(10, size=10))
        there = known[drawn]
        ratios.append(gain[drawn][there].sum() / reference[drawn][there].sum())
    assert estimate.mean == pytest.approx(gain[known].mean() / reference[known].mean())
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.01)
    nothing = crossed_bootstrap_relative(gain, np.zeros_like(gain), list("abcdefghij"), BootstrapConfig(resamples=200))
    assert math.isnan(nothing.mean)


# --- the grid ----------------------------------------------------------------------------------------------------


def test_grid_has_synthetic_alone_once_per_seed_and_names_folders_for_shells() -> None:
    config = config_of(seeds=2, fractions=[1.0, 0.1])
    names = [training.name for training in grid(config)]
    assert names[:7] == ["R-0.1-0", "R-1-0", "R+-0.1-0", "R+-1-0", "S-all-0", "S+-0.1-0", "S+-1-0"]
    assert len(names) == len(set(names)) == 14


def test_trainings_of_a_grid_differ_only_in_what_their_arm_says() -> None:
    config = config_of()
    trained = {
        training.arm: training.train_config(config) for training in grid(config) if training.fraction in (1.0, None)
    }
    assert {arm: train.mix for arm, train in trained.items()} == {
        "R": "real", "R*": "real", "S": "synth", "S*": "real+synth:0.5",
    }  # fmt: skip
    plain, augmented = trained["R"].augment, trained["R*"].augment
    assert plain == trained["S"].augment == type(plain).none()
    assert augmented == trained["S*"].augment == config.train.augment
    rest = {"mix", "augment"}
    assert len({train.model_dump_json(exclude=rest) for train in trained.values()}) == 1


def test_pasting_and_pretraining_are_arms_of_their_own() -> None:
    config = config_of(arms=["R*", "P*", "S*", "S>R"], fractions=[1.0], synth_share="0.75..0.25", pretraining_share=0.4)
    reals, pasted, mixed, pretrained = (training.train_config(config) for training in grid(config))
    assert [training.name for training in grid(config)] == ["R+-1-0", "P+-1-0", "S+-1-0", "S_R-1-0"]
    assert (reals.mix, pasted.mix, mixed.mix, pretrained.mix) == (
        "real", "real", "real+synth:0.75..0.25", "synth-then-real:0.4",
    )  # fmt: skip
    assert pasted.augment == reals.augment.model_copy(update={"paste": config.paste})
    assert reals.augment == mixed.augment == pretrained.augment
    assert (reals.augment.paste.probability, pasted.augment.paste.probability) == (0, 0.5)


def test_weighted_arms_differ_from_the_others_by_their_weights_alone(home: Path, tmp_path: Path) -> None:
    arms = ["S*", "S>R", "W*", "W>R"]
    config = config_of(arms=arms, fractions=[1.0], seeds=1, weighting={"likeness": 2.0, "kept": 0.5})
    trainings = grid(config)
    mixed, pretrained, *weighted = (training.train_config(config) for training in trainings)
    assert [training.name for training in trainings[2:]] == ["W+-1-0", "W_R-1-0"]
    assert [one.model_copy(update={"weighting": mixed.weighting}) for one in weighted] == [mixed, pretrained]
    assert all(one.weighting == config.weighting for one in weighted)
    other = config.model_copy(update={"weighting": WeightConfig(likeness=1.0)})
    prints = []
    for weighting in (config, other):
        comparison = comparisons.prepare(weighting, home / "real", home / "synth", tmp_path / "out")
        prints.append([comparison.fingerprint(training) for training in trainings])
    assert [one == two for one, two in zip(*prints, strict=True)] == [True, True, False, False]
    with pytest.raises(UserError, match=r"expected accepted\.parquet of an audit with weighting.agreement"):
        comparisons.prepare(
            config.model_copy(update={"weighting": WeightConfig(agreement=1.0)}),
            home / "real", home / "synth", tmp_path / "out",
        )  # fmt: skip


def test_every_fraction_of_a_seed_is_part_of_the_larger_ones(home: Path, tmp_path: Path) -> None:
    for final, patients in ((False, 4), (True, 8)):
        comparison = comparisons.prepare(config_of(final=final), home / "real", home / "synth", tmp_path / "out")
        chosen = []
        for seed in (0, 1, 2):
            parts = [set(comparison.real_training(f, seed).table["group_id"].to_pylist()) for f in (0.1, 0.5, 1.0)]
            assert [len(part) for part in parts] == [max(round(0.1 * patients), 1), patients // 2, patients]
            assert parts[0] < parts[1] < parts[2]
            assert not parts[2] & set(comparison.test.table["group_id"].to_pylist())
            chosen.append(frozenset(parts[1]))
        assert len(set(chosen)) > 1


@pytest.fixture(scope="module")
def cells(home: Path) -> Path:
    """Synthetic sets of two cells, each knowing the two patients of its cell; their pattern."""
    config = config_of(seeds=2, fractions=[0.5])
    patients = comparisons.training_patients(config, home / "real")
    for seed in (0, 1):
        sources = tuple(f"real/{group}" for _, own, group in patients if own == seed)
        assert len(sources) == 2
        rewritten(open_dataset(home / "synth"), home / f"set-0.5-{seed}", training_sources=sources)
    return home / "set-{fraction}-{seed}"


def test_each_cell_trains_on_its_own_set_and_no_other_knows_enough(home: Path, cells: Path, tmp_path: Path) -> None:
    config = config_of(arms=["R*", "W>R"], seeds=2, fractions=[0.5])
    comparison = comparisons.prepare(config, home / "real", cells, tmp_path / "out")
    assert [path.name for path in comparison.sets] == ["set-0.5-0", "set-0.5-1"]
    scores = comparisons.run(comparison)
    assert len(scores.finished) == 4
    runs = [yaml.safe_load((tmp_path / "out/cells" / f"W_R-0.5-{seed}" / "run.yaml").read_text()) for seed in (0, 1)]
    assert all(run["config"]["weighting"]["likeness"] == 1 for run in runs)
    assert len({str(run) for run in runs}) == 2
    with pytest.raises(UserError, match=r"set-0.5-0: expected tiles that know the 2 patients .* got 'real-slide-"):
        comparisons.prepare(config, home / "real", home / "set-0.5-0", tmp_path / "other")


def test_sets_that_are_missing_or_of_another_size_are_refused(home: Path, cells: Path, tmp_path: Path) -> None:
    config = config_of(arms=["S*"], seeds=2, fractions=[0.5])
    with pytest.raises(UserError, match="set-1-0: expected a data set of synthetic tiles"):
        comparisons.prepare(config_of(arms=["S*"], fractions=[1.0]), home / "real", cells, tmp_path / "out")
    write_dataset(home / "odd-0", n=6, source="synthetic", size=(64, 32))
    write_dataset(home / "odd-1", n=6, source="synthetic", size=(64, 64))
    with pytest.raises(
        UserError, match=r"--synth .*odd-\{seed\}: expected sets of one size, got 2 training tiles of 64x32"
    ):
        comparisons.prepare(config, home / "real", home / "odd-{seed}", tmp_path / "out")


def test_patients_of_cells_are_those_that_are_trained_on(
    cli: Callable[..., Outcome], home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cells.csv"
    grid_of = ("--fractions", "0.5,1.0", "--seeds", "2")
    done = cli("segment", "compare", "--real", home / "real", *grid_of, "--patients-of-cells", out)
    assert "12 patients of 4 cells" in done.out
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["fraction", "seed", "group"]
    comparison = comparisons.prepare(config_of(seeds=2), home / "real", home / "synth", tmp_path / "out")
    for fraction, seed in ((0.5, 0), (0.5, 1), (1.0, 0)):
        groups = {group for f, s, group in rows[1:] if (float(f), int(s)) == (fraction, seed)}
        assert groups == set(comparison.real_training(fraction, seed).table["group_id"].to_pylist())


# --- running -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[comparisons.Comparison, Scores]:
    """Two trainings to the end."""
    out = tmp_path_factory.mktemp("finished") / "out"
    comparison = comparisons.prepare(config_of(arms=["R", "S*"], fractions=[0.5]), home / "real", home / "synth", out)
    return comparison, comparisons.run(comparison)


def test_a_comparison_scores_every_test_image_in_every_training(
    finished: tuple[comparisons.Comparison, Scores],
) -> None:
    comparison, scores = finished
    assert len(scores.images) == len(set(scores.groups)) == 4
    assert set(scores.finished) == set(comparison.trainings)
    assert not scores.failed
    for training in scores.finished.values():
        assert {"aji", "pq", "foreground_dice", "mean_iou"} <= set(training)
    assert not list(comparison.out.rglob("*.safetensors"))


def test_arms_of_one_seed_start_from_the_same_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = comparisons.prepare(
        config_of(fractions=[1.0], seeds=2), home / "real", home / "synth", tmp_path / "out"
    )
    starts: dict[int, list[bytes]] = {}

    def stop(task: SegmenterTask, *arguments: object, **options: object) -> None:
        tensors = task.networks["model"].state_dict().values()
        starts.setdefault(task.config.seed, []).append(b"".join(tensor.numpy().tobytes() for tensor in tensors))
        raise FaultError("stopped before the first step")

    monkeypatch.setattr(experiment, "fit", stop)
    scores = comparisons.run(comparison)
    assert [len(set(first)) for first in starts.values()] == [1, 1]
    assert starts[0][0] != starts[1][0]
    assert len(scores.failed) == 8


def test_a_killed_comparison_goes_on_in_the_training_that_was_cut_and_ends_alike(
    finished: tuple[comparisons.Comparison, Scores], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = finished
    comparison = comparisons.prepare(whole.config, home / "real", home / "synth", tmp_path / "out")

    def kill(steps: int) -> None:
        if steps == 4:  # the last step of the second training, whose first left a checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        comparisons.run(comparison, on_step=kill)
    first, second = comparison.trainings
    assert sorted(path.name for path in (comparison.out / "cells").glob("*.json")) == [f"{first.name}.json"]
    assert (comparison.out / "cells" / second.name / LAST).is_file()

    started: list[tuple[str, int]] = []
    run = experiment.run

    def watched(job: experiment.Experiment, **options: object) -> object:
        result = run(job, **options)  # type: ignore[arg-type]
        started.append((job.out.name, result.start))
        return result

    monkeypatch.setattr(experiment, "run", watched)
    scores = comparisons.run(comparison)
    assert started == [(second.name, 1)]
    for training in expected.finished:
        record = (comparison.out / "cells" / f"{training.name}.json").read_bytes()
        assert record == (whole.out / "cells" / f"{training.name}.json").read_bytes()
    np.testing.assert_equal(
        [dict(training) for training in scores.finished.values()],
        [dict(training) for training in expected.finished.values()],
    )


def test_a_failed_training_is_shown_and_tried_again_and_the_others_go_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(arms=["R", "R*"], fractions=[1.0])
    comparison = comparisons.prepare(config, home / "real", home / "synth", tmp_path / "out")
    run = experiment.run

    def diverge(job: experiment.Experiment, **options: object) -> object:
        if job.out.name == "R-1-0":
            raise FaultError("training: expected a finite loss, got none at step 1.")
        return run(job, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run", diverge)
        scores = comparisons.run(comparison)
    failed, other = comparison.trainings
    assert scores.failed == {failed: "training: expected a finite loss, got none at step 1."}
    assert set(scores.finished) == {other}
    write_report(scores, comparison.config, comparisons.setting(comparison, "cpu"), comparison.out)
    assert (
        "R, 100% of the real patients, seed 0: training: expected a finite loss"
        in (comparison.out / "report.md").read_text()
    )
    table = pq.read_table(comparison.out / "scores.parquet").to_pylist()
    assert [(row["arm"], row["status"]) for row in table] == [("R", "failed")] + [("R*", "finished")] * 4
    again = comparisons.run(comparison, keep_weights=True)
    assert set(again.finished) == {failed, other}
    assert (comparison.out / "cells" / failed.name / BEST).is_file()
    assert not (comparison.out / "cells" / failed.name / LAST).exists()


def test_final_trains_on_val_too_and_chooses_nothing(home: Path, tmp_path: Path) -> None:
    config = config_of(arms=["R"], fractions=[1.0], final=True)
    comparison = comparisons.prepare(config, home / "real", home / "synth", tmp_path / "out")
    comparisons.run(comparison, keep_weights=True)
    card = json.loads((tmp_path / "out/cells/R-1-0/best.json").read_text())
    assert card["step"] == 2
    assert card["trained_on"]["real"]["tiles"] == 8
    assert card["instances_chosen"] is None
    assert card["instances"] == config.train.instances.model_dump()
    assert pq.read_table(tmp_path / "out/cells/R-1-0/history.parquet")["step"].to_pylist() == [2]


def test_weights_that_were_kept_stay_and_a_larger_grid_makes_none_again(home: Path, tmp_path: Path) -> None:
    config = config_of(arms=["R"], fractions=[1.0])
    comparison = comparisons.prepare(config, home / "real", home / "synth", tmp_path / "out")
    comparisons.run(comparison, keep_weights=True)
    kept = tmp_path / "out/cells/R-1-0" / BEST
    before = kept.read_bytes()
    grown = comparisons.prepare(
        config_of(arms=["R"], fractions=[1.0], seeds=2, claims={"min_seeds": 2}),
        home / "real",
        home / "synth",
        tmp_path / "out",
    )
    trained = []
    assert (
        len(comparisons.run(grown, on_training=lambda record, scores: trained.append(record.training.seed)).finished)
        == 2
    )
    assert trained == [1]
    assert kept.read_bytes() == before
    assert not (tmp_path / "out/cells/R-1-1" / BEST).exists()


def test_trainings_without_synthetic_tiles_are_taken_over_from_another_comparison(
    finished: tuple[comparisons.Comparison, Scores], home: Path, tmp_path: Path
) -> None:
    first, scores = finished
    other = tmp_path / "synth"
    write_dataset(other, n=4, source="synthetic", size=(64, 32))
    config = config_of(arms=["R", "S*"], fractions=[0.5])
    second = comparisons.prepare(config, home / "real", other, tmp_path / "out", reuse=[first.out])
    assert first.document != second.document
    assert [training.arm for training in comparisons.reused(second)] == ["R"]
    trained = []
    found = comparisons.run(second, on_training=lambda record, scores: trained.append(record.training.arm))
    assert trained == ["S*"]
    (taken,) = (training for training in found.finished if training.arm == "R")
    assert np.array_equal(found.finished[taken]["aji"], scores.finished[taken]["aji"])
    assert not comparisons.reused(second), "it is in this one now"
    joined = comparisons.prepare(config, home / "real", other, tmp_path / "joined", reuse=[first.out, second.out])
    assert [training.arm for training in comparisons.reused(joined)] == ["R", "S*"]
    shorter = config_of(arms=["R", "S*"], fractions=[0.5], train={**TRAIN, "steps": 1})
    with pytest.raises(
        UserError, match="--reuse: expected the folder of a comparison with a training that is the same"
    ):
        comparisons.prepare(shorter, home / "real", other, tmp_path / "none", reuse=[first.out])


def test_the_command_says_how_many_trainings_are_taken_over_and_with_other_tests_none_are(
    cli: Callable[..., Outcome], finished: tuple[comparisons.Comparison, Scores], home: Path, tmp_path: Path
) -> None:
    first, _ = finished
    write_dataset(tmp_path / "synth", n=4, source="synthetic", size=(64, 32))
    external = rewritten(
        open_dataset(home / "real"), tmp_path / "lgg", lambda i: {"split": "test", "group_id": f"other-{i}"}
    )
    (tmp_path / "c.yaml").write_text(json.dumps({**QUICK, "arms": ["R", "S*"], "fractions": [0.5]}))
    words = ["--config", tmp_path / "c.yaml", "--real", home / "real", "--synth", tmp_path / "synth", "--dry-run"]
    words += ["--device", "cpu", "--reuse", first.out, "--out", tmp_path / "out"]
    done = cli("segment", "compare", *words)
    assert done.code == 0, done.err
    assert f"1 of 2 trainings taken over from {first.out}" in done.out
    assert_refused(
        cli("segment", "compare", *words, "--also-test", external),
        r"Those without synthetic tiles are, where real tiles, config and --also-test are\.",
    )
    help_of = " ".join(cli("segment", "compare", "--help").out.replace("│", " ").split())
    assert "Give the same --also-test" in help_of


def test_a_comparison_that_is_stopped_has_the_reports_of_its_complete_seeds_of_every_test_set(
    cli: Callable[..., Outcome], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = rewritten(
        open_dataset(home / "real"), tmp_path / "lgg", lambda i: {"split": "test", "group_id": f"other-{i}"}
    )
    (tmp_path / "c.yaml").write_text(json.dumps({**QUICK, "arms": ["R"], "fractions": [1.0], "seeds": 2}))
    run = experiment.run

    def stop(job: experiment.Experiment, **options: object) -> object:
        if job.config.seed == 1:
            raise UserError("stopped in the second seed")
        return run(job, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "run", stop)
    words = ["--config", tmp_path / "c.yaml", "--real", home / "real", "--also-test", other, "--device", "cpu"]
    done = cli("segment", "compare", *words, "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.endswith("error: stopped in the second seed\n")
    for folder, images in ((tmp_path / "out", 4), (tmp_path / "out/lgg", 12)):
        rows = pq.read_table(folder / "scores.parquet").to_pylist()
        assert [(row["seed"], row["status"]) for row in rows] == [(0, "finished")] * images + [(1, "missing")]
        assert (folder / "report.md").is_file()


def test_tiles_from_elsewhere_are_scored_by_every_training_and_reported_by_themselves(
    cli: Callable[..., Outcome], finished: tuple[comparisons.Comparison, Scores], home: Path, tmp_path: Path
) -> None:
    other = rewritten(
        write_dataset(tmp_path / "other", n=6, groups=6, seed=5, size=(32, 64)),
        tmp_path / "external",
        lambda i: {"split": "test", "group_id": f"other-{i}"},
    )
    base = ["--real", home / "real", "--synth", home / "synth", "--device", "cpu", "--arms", "R,S*", "--fractions", 0.5]
    base += ["--seeds", 1, "--also-test", other, "--out", tmp_path / "out"]
    values = json.dumps({"train": TRAIN, "bootstrap": {"resamples": 200}})
    (tmp_path / "c.yaml").write_text(values)
    done = cli("segment", "compare", *base, "--config", tmp_path / "c.yaml")
    assert done.code == 0, done.err
    own, further = (pq.read_table(tmp_path / "out" / part / "scores.parquet") for part in (".", "external"))
    assert set(further["group"].to_pylist()) == {f"other-{i}" for i in range(6)}
    assert (len(own), len(further)) == (2 * 4, 2 * 6)
    comparison, scores = finished  # the same trainings without further tests: these change nothing
    for training in comparison.trainings:
        row = [
            value
            for value, arm in zip(own["aji"].to_pylist(), own["arm"].to_pylist(), strict=True)
            if arm == training.arm
        ]
        np.testing.assert_array_equal(np.array(row, float), scores.finished[training]["aji"])
    assert "test split of" in (tmp_path / "out/external/report.md").read_text()
    assert_refused(
        cli("segment", "compare", *base[:-4], "--config", tmp_path / "c.yaml", "--out", tmp_path / "out"),
        "expected an empty folder or a comparison, got 'external' in it",
    )
    again = cli("segment", "compare", *base, "--config", tmp_path / "c.yaml")
    assert again.code == 0
    assert "2 of 2" in (tmp_path / "out/external/report.md").read_text()


def test_a_patient_that_is_trained_on_is_not_tested_elsewhere(home: Path, tmp_path: Path) -> None:
    other = rewritten(open_dataset(home / "real"), tmp_path / "external", lambda i: {"split": "test"})
    with pytest.raises(UserError, match=r"--also-test .*expected patients that are not trained on, got 'real-slide-"):
        comparisons.prepare(config_of(), home / "real", home / "synth", tmp_path / "out", external=[other])
    untested = rewritten(
        open_dataset(home / "real"), tmp_path / "none", lambda i: {"split": "train", "group_id": f"other-{i}"}
    )
    with pytest.raises(UserError, match="expected tiles with split test, got none"):
        comparisons.prepare(config_of(), home / "real", home / "synth", tmp_path / "out", external=[untested])
    assert not (tmp_path / "out").exists()


# --- refusals ----------------------------------------------------------------------------------------------------


def rewritten(
    source: Dataset, out: Path, row: Callable[[int], dict[str, object]] = lambda index: {}, **info: object
) -> Path:
    """The same tiles with other rows or other metadata."""
    layout = source.store.layout
    spec = RunSpec(out, {}, Layout(len(source), layout.height, layout.width, 4), replace(source.info, **info))  # type: ignore[arg-type]
    samples = [(sample.image, sample.tile, {**sample.row, **row(i)}) for i, sample in enumerate(source)]
    with open_run(spec) as run:
        for shard in run.todo:
            run.add(write_shard(spec, shard, [samples[index] for index in spec.layout.rows(shard)]))
        run.finish()
    return out


@pytest.mark.parametrize(
    ("split", "message"), [("train", "'real-slide-2' in train and test"), ("val", "'real-slide-2' in val and test")]
)
def test_a_patient_on_both_sides_is_refused(home: Path, tmp_path: Path, split: str, message: str) -> None:
    first = {"train": 0, "val": 1}[split]
    leaky = rewritten(
        open_dataset(home / "real"), tmp_path / "leaky", lambda i: {"group_id": "real-slide-2"} if i == first else {}
    )
    with pytest.raises(UserError, match=message):
        comparisons.prepare(config_of(), leaky, home / "synth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tiles_of_unknown_patients_are_refused(home: Path, tmp_path: Path) -> None:
    nameless = rewritten(
        open_dataset(home / "real"), tmp_path / "nameless", lambda i: {"group_id": None} if i == 0 else {}
    )
    with pytest.raises(UserError, match="expected a patient or slide"):
        comparisons.prepare(config_of(), nameless, home / "synth", tmp_path / "out")


def test_synthetic_tiles_fitted_to_a_test_patient_are_refused(home: Path, tmp_path: Path) -> None:
    sources = ("monuseg/real-slide-2",)
    fitted = rewritten(open_dataset(home / "synth"), tmp_path / "fitted", training_sources=sources)
    with pytest.raises(UserError, match="got its group 'real-slide-2'"):
        comparisons.prepare(config_of(), home / "real", fitted, tmp_path / "out")
    assert len(comparisons.prepare(config_of(arms=["R", "R*"]), home / "real", fitted, tmp_path / "out").sources) == 1


def test_another_comparison_in_the_folder_is_refused_and_its_published_values_may_change(
    finished: tuple[comparisons.Comparison, Scores], home: Path
) -> None:
    done, _ = finished
    real, synth, values = home / "real", home / "synth", done.config.model_dump()
    for key, changed in (("synth_share", 0.25), ("final", True)):
        with pytest.raises(UserError, match=rf"got others \(config.{key}"):
            comparisons.prepare(parse(CompareConfig, {**values, key: changed}, "test"), real, synth, done.out)
    published = [{"name": "U-Net", "metric": "aji", "value": 0.5, "source": "somebody"}]
    comparisons.prepare(parse(CompareConfig, {**values, "published": published}, "test"), real, synth, done.out)


def test_real_tiles_without_a_val_split_are_refused_unless_nothing_is_chosen(home: Path, tmp_path: Path) -> None:
    dataset = open_dataset(home / "real")
    splits = dataset.table["split"].to_pylist()
    bare = rewritten(dataset, tmp_path / "bare", lambda i: {"split": splits[i].replace("val", "train")})
    config = config_of(arms=["S", "S*"], fractions=[1.0])
    with pytest.raises(
        UserError, match=r"expected tiles with split val, got none\. Ingest it with one, or use --final"
    ):
        comparisons.prepare(config, bare, home / "synth", tmp_path / "out")
    final = config.model_copy(update={"final": True})
    assert not comparisons.run(comparisons.prepare(final, bare, home / "synth", tmp_path / "out")).failed


def test_fractions_that_come_to_the_same_patients_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got 1 for both 0.1 and 0.25"):
        comparisons.prepare(config_of(fractions=[0.1, 0.25]), home / "real", home / "synth", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["R", "R"]}, "expected one value or more, each once"),
        ({"arms": ["Q"]}, "arms"),
        ({"fractions": [0.0]}, "expected shares above 0"),
        ({"train": {**TRAIN, "seed": 3}}, "expected no train.seed"),
        ({"train": {**TRAIN, "patience": 3}}, "expected no train.patience"),
        ({"train": {**TRAIN, "weighting": {"likeness": 1}}}, "expected no train.weighting"),
        ({"weighting": {"likeness": 0}}, "expected a weighting by agreement or likeness"),
        ({"train": {**TRAIN, "augment": {"paste": {"probability": 0.5}}}}, "expected no train.augment.paste"),
        ({"synth_share": 1.5}, "expected a share between 0 and 1, or FIRST..LAST"),
        ({"stepz": 3}, "expected a known key, got 'stepz'"),
        ({"published": [{"name": "x", "metric": "aji", "value": 61.8, "source": "y"}]}, "published"),
    ],
)
def test_configurations_that_cannot_be_compared_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(**changes)


@pytest.mark.parametrize("path", sorted((configs_dir() / "compare").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_comparison_loads(path: Path) -> None:
    parse(CompareConfig, yaml.safe_load(path.read_text()), path.name)


# --- the report --------------------------------------------------------------------------------------------------


def made_up(config: CompareConfig, gain: float, images: int = 12) -> Scores:
    """Scores in which S* is better than R* by about `gain` on every image, and nothing else differs."""
    rng = np.random.default_rng(4)
    level = rng.uniform(0.3, 0.6, images)
    found = {}
    for training in grid(config):
        noise = rng.normal(0, 0.01, images)
        found[training] = {"aji": level + noise + (gain if training.arm == "S*" else 0.0)}
    names = tuple(f"image-{number}" for number in range(images))
    return Scores(names, names, found, {})


PATIENTS = {0.5: 2, 1.0: 4}
ENOUGH = {"seeds": 3, "claims": {"min_steps": 2, "min_seeds": 3, "min_patients": 10}}


def test_a_claim_is_a_sentence_where_the_interval_leaves_out_zero() -> None:
    config = config_of(**ENOUGH)
    scores = made_up(config, gain=0.1)
    summary = summarise(scores, config, PATIENTS)
    said = sentences(scores, summary, config)
    assert len(said) == 10
    assert re.match(r"With 50% of the real patients, S\* against R\*: AJI is higher by 0\.(09|10)", said[0])
    assert "no difference in AJI shown" in said[2]
    assert re.match(
        r"With 50% of the real patients, S\* against R\* with 100% of them: AJI is higher by 0\.(09|10)", said[8]
    )
    assert "With 100% of the real patients, R* against R* with 50% of them: no difference" in said[9]
    gain = next(d for d in summary.differences if (d.arm, d.than, d.fraction) == ("S*", "R*", 1.0))
    assert gain.estimate.low < 0.1 < gain.estimate.high
    assert gain.effect > 2
    baseline = scores.matrix("R*", 1.0, "aji", 3).mean()
    assert gain.relative.mean == pytest.approx(gain.estimate.mean / baseline)
    assert f"{gain.relative.mean:.1%} of R*" in said[1]


@pytest.mark.parametrize(
    ("changes", "images", "short"),
    [
        ({**ENOUGH, "claims": {"min_steps": 1000}}, 12, "2 steps of at least 1000"),
        ({**ENOUGH, "seeds": 2}, 12, "2 seeds of at least 3"),
        (ENOUGH, 9, "9 test patients of at least 10"),
    ],
)
def test_no_claim_is_made_below_the_minimum(changes: dict[str, object], images: int, short: str) -> None:
    config = config_of(**changes)
    scores = made_up(config, gain=0.3, images=images)
    (said,) = sentences(scores, summarise(scores, config, PATIENTS), config)
    assert said == f"No claim: too few for one ({short})."


def test_an_arm_whose_trainings_failed_gets_no_claim() -> None:
    config = config_of(**ENOUGH)
    whole = made_up(config, gain=0.3)
    lost = Training("S*", 1.0, 2)
    scores = replace(whole, finished={c: s for c, s in whole.finished.items() if c != lost}, failed={lost: "diverged"})
    said = sentences(scores, summarise(scores, config, PATIENTS), config)
    assert "S* against R*: no claim, 2 seeds and 12 test patients have both" in said[1]
    assert "AJI is higher" in said[0]


@pytest.mark.usefixtures("drawn_plots")
def test_report_marks_published_values_and_needs_no_other_file(tmp_path: Path) -> None:
    published = [{"name": "HoVer-Net <1>", "metric": "aji", "value": 0.618, "source": "Graham et al. 2019"}]
    config = config_of(**ENOUGH, published=published, arms=list(ARMS))
    setting = Setting(tmp_path, {0.5: 2, 1.0: 4}, {0.5: 2, 1.0: 4}, tmp_path, ["a.png"], tmp_path, 6, "cpu", 1)
    write_report(made_up(config, gain=0.1), config, setting, tmp_path)
    markdown, html = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    table = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    header = next(row for row in table if row[0] == "| training set")
    assert header[-1] == "published, not run here |"
    row = next(row for row in table if row[0] == "| HoVer-Net <1>")
    assert row[1:-1] == ["-"] * (len(header) - 2)
    assert row[-1] == "AJI 0.618 (Graham et al. 2019) |"
    assert r"| S\* - R\* | 50% | AJI | +0." in markdown
    assert r"| S\* - R\* | 2 (50%) against 4 (100%) | AJI | +0." in markdown
    assert r"| R\* - R\* | 4 (100%) against 2 (50%) | AJI | " in markdown
    assert "as many further real patients" in html
    assert "leaves out 0" in markdown
    assert "HoVer-Net &lt;1&gt;" in html
    assert "data:image/png;base64," in html
    assert "http" not in html
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 3 * 15 * 12
    document = json.loads((tmp_path / "summary.json").read_text())
    further = [d for d in document["differences"] if d["fraction"] != d["than_fraction"]]
    assert [(d["arm"], d["real_patients"], d["than"], d["than_real_patients"]) for d in further] == [
        ("S*", 2, "R*", 4),
        ("R*", 4, "R*", 2),
    ]
    assert further[0]["estimate"]["low"] < 0.1 < further[0]["estimate"]["high"]
    assert further[0]["relative"]["mean"] > 0.1


def test_twice_is_by_numbers_of_patients_and_near_enough() -> None:
    assert double_patients({0.1: 2, 0.2: 4, 0.5: 9, 1.0: 18}) == {0.1: 0.2, 0.2: 0.5, 0.5: 1.0}
    assert double_patients({0.1: 2, 0.2: 4, 0.25: 6, 0.5: 11, 1.0: 22}) == {0.1: 0.2, 0.25: 0.5, 0.5: 1.0}, (
        "6 are not twice 4"
    )
    assert double_patients({0.3: 4, 0.5: 7, 0.6: 9}) == {0.3: 0.5}, "7 and 9 are as near to 8: the smaller"
    assert double_patients({1.0: 5}) == {}


def test_without_such_fractions_the_report_says_that_nothing_can_be_said(tmp_path: Path) -> None:
    config = config_of(**ENOUGH)
    setting = Setting(tmp_path, {0.5: 1, 1.0: 4}, {0.5: 1, 1.0: 4}, tmp_path, ["a.png"], tmp_path, 6, "cpu", 1)
    write_report(made_up(config, gain=0.1), config, setting, tmp_path)
    assert "No fraction comes to twice the patients of another" in (tmp_path / "report.md").read_text()
    assert not [d for d in summarise(made_up(config, 0.1), config, setting.patients).differences if d.has_more_patients]


def test_regions_are_compared_by_the_metrics_of_the_noise_paper() -> None:
    figures = {name: np.array([0.5]) for name in ("dice", "mean_iou", "wiou", "wprecision", "wrecall", "t_objective")}
    scores = Scores(("a",), ("a",), {Training("R", 1.0, 0): figures}, {})
    assert scores.metrics == ["mean_iou", "wiou", "wprecision", "wrecall", "dice"]


# --- the command -------------------------------------------------------------------------------------------------


def test_command_runs_reports_and_has_nothing_left_to_do(
    cli: Callable[..., Outcome], home: Path, tmp_path: Path
) -> None:
    (tmp_path / "published.csv").write_text("name,metric,value,source\nU-Net,aji,0.556,Graham et al. 2019\n")
    sets = [f"--set=train.{key}={json.dumps(value)}" for key, value in TRAIN.items() if key != "steps"]
    words = [
        "--real", home / "real", "--synth", home / "synth", "--arms", "R,S", "--fractions", "1.0", "--seeds", "1",
        "--steps", "2", "--published", "published.csv", "--device", "cpu", "--out", "out", *sets,
    ]  # fmt: skip
    dry = cli("segment", "compare", *words, "--dry-run")
    assert dry.code == 0, dry
    assert "2 trainings of 2 steps; 4 whole test images" in dry.out
    assert re.search(r"needs about [\d.]+ [kM]B for out and about \d+ s\.", dry.out)
    assert not (tmp_path / "out").exists()
    first = cli("segment", "compare", *words)
    assert first.code == 0, first
    assert "Train on both kinds of tiles: segment train --mix real+synth" in first.out
    assert "[2/2] S, no real patients, seed 0: AJI" in first.out
    assert "No claim: too few for one (2 steps of at least 1000; 1 seeds of at least 3; 4 test patients" in first.out
    report = (tmp_path / "out/report.md").read_text()
    assert "AJI 0.556 (Graham et al. 2019)" in report
    assert "leaves out 0" not in report
    again = cli("segment", "compare", *words)
    assert again.code == 0
    assert "[2/2]" not in again.out
    assert (tmp_path / "out/report.md").read_text() == report
    assert_refused(
        cli("segment", "compare", *words, "--steps", "3"), r"got others \(config.train.steps: 2 there, 3 asked\)"
    )


def test_bad_requests_are_one_line_and_write_nothing(cli: Callable[..., Outcome], home: Path, tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text("method,aji\nU-Net,0.556\n")
    base = ["--real", home / "real", "--synth", home / "synth", "--device", "cpu", "--out", "out"]
    for words, message in (
        (["--arms", "R,Q"], "arms.1"),
        (["--fractions", "half"], "fractions.0"),
        (
            ["--config", "nothing"],
            "expected a YAML file or a shipped name \\(few_images, ki67, monuseg, monuseg_segnet\\), got 'nothing'",
        ),
        (["--published", "published.csv"], "expected the columns name,metric,value,source, got method,aji"),
        (["--published", "none.csv"], "none.csv: expected a CSV file"),
        (["--real", home / "synth"], "expected real tiles, got synthetic ones"),
    ):
        assert_refused(cli("segment", "compare", *base, *words), message)
    assert not (tmp_path / "out").exists()
