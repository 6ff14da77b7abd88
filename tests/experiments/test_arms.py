"""Arms of the experiments in `bench`: trained by the ordinary command, counted when finished, compared seed by seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import arms
from experiments.arms import Arm, is_finished, real_views, render_finished, train
from experiments.sharp_gan_report import RunFigures, Scored, write_report
from factory.core.config import read_yaml
from factory.learn.crops import open_tiles
from manifests.labels import get_scheme
from tests.conftest import run_command, write_dataset
from tests.mask_training import as_file

pytestmark = pytest.mark.usefixtures("one_thread")

PROTOCOL: dict[str, Any] = {
    "size": [32, 64], "steps": 2, "seeds": [0, 1], "view_size": [32, 64], "views": 3, "view_seed": 7, "split": "test",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn tiles of nuclei of six slides, two in each split."""
    root = tmp_path_factory.mktemp("data") / "real"
    write_dataset(root, n=12, groups=6)
    return root


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    """A generator of width 4 that sees the relief of nuclei."""
    base = as_file(tmp_path_factory.mktemp("config") / "base.yaml", "sharpgan")
    return Arm("relief + contrast", "sharpgan", str(base), {"condition.kind": "skeleton", "loss.contrast": 0.1})


def run_here(command: Sequence[str], check: bool) -> None:
    """Run ``python -m factory.cli ...`` in this process."""
    assert (command[:3], check) == ([sys.executable, "-m", "factory.cli"], True)
    assert run_command("factory", *command[3:]) == 0


@pytest.fixture(scope="module")
def runs(data: Path, arm: Arm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs: the arm with seed 0 has been trained."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", run_here)
        train(arm, 0, PROTOCOL, [data], out, threads=1)
    return out


def test_an_arm_is_trained_by_the_command_with_its_values_over_the_base(runs: Path, arm: Arm) -> None:
    assert [path.name for path in runs.iterdir()] == ["relief-and-contrast-0"]
    config = read_yaml(arm.folder(runs, 0) / "run.yaml")["config"]
    assert (config["condition"]["kind"], config["loss"]["contrast"], config["resnet"]["width"]) == ("skeleton", 0.1, 4)
    assert (config["size"], config["steps"], config["seed"], config["threads"]) == ([32, 64], 2, 0, 1)


def test_a_run_is_finished_with_all_steps_of_the_configuration_that_is_asked_for(
    runs: Path, arm: Arm, tmp_path: Path
) -> None:
    assert is_finished(arm, 0, PROTOCOL, runs)
    assert not is_finished(arm, 1, PROTOCOL, runs)
    for changes in ({"loss.contrast": 1}, {"condition.kind": "distance"}, {"resnet.width": 6}):
        assert not is_finished(replace(arm, values={**arm.values, **changes}), 0, PROTOCOL, runs)
    for changed in ({"steps": 3}, {"size": [32, 32]}):
        assert not is_finished(arm, 0, {**PROTOCOL, **changed}, runs)
    card = json.loads((arm.folder(runs, 0) / "best.json").read_text())
    stopped = arm.folder(tmp_path, 0)
    stopped.mkdir()
    (stopped / "best.json").write_text(json.dumps({**card, "step": 1}))  # as a run leaves it that was stopped then
    assert not is_finished(arm, 0, PROTOCOL, tmp_path)
    (stopped / "best.json").write_text(json.dumps({**card, "config": {**card["config"], "threads": 2}}))
    assert is_finished(arm, 0, PROTOCOL, tmp_path), "threads are of the machine"


def test_training_skips_what_is_finished_and_nothing_else(
    runs: Path, arm: Arm, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Sequence[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    for each, seed in ((arm, 0), (arm, 1), (replace(arm, values={"condition.kind": "distance"}), 0)):
        train(each, seed, PROTOCOL, [data], runs, threads=1)
    assert [command[command.index("--seed") + 1] for command in called] == ["1", "0"]
    assert all("--resume" in command for command in called)


def test_finished_runs_render_the_masks_of_the_held_out_views(runs: Path, arm: Arm, data: Path) -> None:
    tiles = open_tiles([data], None, (32, 64), 1, split="test")
    views, groups = real_views(tiles, PROTOCOL, nuclei=True)
    assert views.shape == (3, 32, 64, 8)
    assert set(groups) <= {"real/real-slide-2", "real/real-slide-5"}
    other = Arm("never trained", arm.trainer, arm.config)
    shown = render_finished([other, arm], PROTOCOL, runs, views, tiles)
    assert list(shown) == [(arm.name, 0)]
    images = shown[arm.name, 0]
    assert (images.shape, images.dtype) == ((3, 32, 64, 3), np.uint8)
    flat = views.copy()
    flat[..., [0, 4, 5, 6, 7]] = 0  # neither classes nor instances
    assert not np.array_equal(arms.render(arm, arm.folder(runs, 0), flat, tiles.mpp, tiles.scheme, 0), images)


# --- the report --------------------------------------------------------------------------------------------------

VIEWS = 6
REPORT = {
    "base": "sharpgan_light", "set": {}, "size": [128, 128], "steps": 2, "seeds": [0, 1, 2], "view_size": [8, 8],
    "views": VIEWS, "split": "test", "resamples": 100, "published": {"first": [0.452, 0.712, 0.212, 0.657]},
    "arms": {"first": {}, "second": {}, "late": {}, "never": {}},
}  # fmt: skip


def figures_of(gain: float, seed: int) -> RunFigures:
    """The effect of a seed on every arm is ten times the difference between arms."""
    level = np.linspace(0.3, 0.5, VIEWS) + seed / 10 + gain
    return RunFigures(np.stack([level, level, level], 1), level)


def report_on(finished: dict[str, tuple[float, list[int]]], out: Path) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the report's tables, as cells, and its JSON."""
    figures = {(arm, seed): figures_of(gain, seed) for arm, (gain, seeds) in finished.items() for seed in seeds}
    images = {key: np.zeros((VIEWS, 8, 8, 3), np.uint8) for key in figures}
    distances = {"FD": {"runs": {key: 10.0 + key[1] for key in figures}, "floor": 5.0}}
    groups = tuple(f"patient-{number // 2}" for number in range(VIEWS))
    views = np.zeros((VIEWS, 8, 8, 8), np.uint8)
    scored = Scored(figures, np.full(VIEWS, 0.6), groups, distances, images, views, get_scheme("nuclei"))
    write_report("tiny_trial", REPORT, scored, out)
    text = (out / "tiny-trial.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return rows, json.loads((out / "tiny-trial.json").read_text())


def test_report_pairs_equal_seeds_only_and_names_those_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the report goes to docs/results/reports as well
    finished = {"second": (0.01, [2, 1]), "first": (0.0, [0, 1, 2]), "late": (0.0, [0])}
    rows, document = report_on(finished, tmp_path / "out")
    table = {row[0]: row[1:] for row in rows}
    assert len({len(row) for row in table.values()}) == 2  # columns of the table and of the differences
    assert [table[arm][0] for arm in ("first", "second", "late")] == ["0, 1, 2", "1, 2", "0"]
    assert table["first"][-2:] == ["10.0, 11.0, 12.0", "0.452, 0.712, 0.212, 0.657"]
    assert "never" not in table
    assert table["second - first"] == ["1, 2", *["+0.010 [+0.010, +0.010]"] * 4]
    assert "late - second" not in table, "no seed of both is finished"
    assert table["real images"][4] == "0.600 [0.600, 0.600]"
    assert document["seeds"] == {"first": [0, 1, 2], "second": [1, 2], "late": [0]}
    published = tmp_path / "docs/results/reports/tiny-trial.md"
    assert published.read_bytes() == (tmp_path / "out/tiny-trial.md").read_bytes()
    assert (tmp_path / "out/sheet.png").is_file()
