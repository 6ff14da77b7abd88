"""The experiment of automatic readers: its protocol, what a call does again and what it does not, and its report."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import automatic_reader
from experiments.automatic_reader_report import CONTROL, OF_PATIENTS, OF_TILES, write_report
from factory.core.config import read_yaml
from factory.core.shipped import configs_dir
from factory.core.statistics import Interval
from factory.quiz.automatic import NETWORK, REGRESSION, VIEWS, Answered, AutomaticConfig, Rate, Tiles
from tests.conftest import run_command, write_dataset

PROTOCOL: dict[str, Any] = {
    "readers": {"features": "random-vgg16", "seed": 0},
    "tasks": {
        "nuclei": {
            "about": "drawn nuclei",
            "real": "real",
            "n": 8,
            "make": "--scheme nuclei --size 64x96 --mpp 0.5 --cells 4 --n 4",
            "arms": {"palette": "--renderer palette", "later": "--renderer no-such-renderer"},
        }
    },
}


def answered(tiles: Tiles, *rest: object) -> tuple[Answered, ...]:
    """A test double of the readers: right for as many tiles as there are groups of synthetic ones."""
    del rest
    share = len(np.unique(tiles.groups[tiles.is_synthetic])) / 10
    rate = Rate(share, Interval(share - 0.1, share + 0.1))
    return tuple(Answered(reader, view, rate, rate, rate) for view in VIEWS for reader in (REGRESSION, NETWORK))


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that an experiment of doubles called; the real tiles lie in ``data``."""
    commands: list[str] = []

    def run_here(command: Sequence[str], check: bool) -> None:
        assert (command[:3], check) == ([sys.executable, "-m", "factory.cli"], True)
        commands.append(shlex.join(command[3:]))
        assert run_command("factory", *command[3:]) == 0

    write_dataset(tmp_path / "data/real", n=30, groups=6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.setattr(automatic_reader, "read_yaml", lambda path: PROTOCOL)
    monkeypatch.setattr(automatic_reader, "read_tiles", answered)
    monkeypatch.setattr(
        automatic_reader,
        "read_control",
        lambda *given: {(name, view): (0.5, 0.6) for name in (REGRESSION, NETWORK) for view in VIEWS},
    )
    monkeypatch.setattr(sys, "argv", ["automatic_reader", "--data", "data", "--results", "results"])
    return commands


def test_arms_are_made_and_read_once_and_unknown_renderers_wait(
    called: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    automatic_reader.main()
    assert len(called) == 1
    assert "nuclei/later: left out, as this version has no renderer no-such-renderer" in capsys.readouterr().out
    document = json.loads((tmp_path / "results/automatic-reader.json").read_text())
    figures = {arm: each["figures"] for arm, each in document["found"]["nuclei"].items()}
    assert [*figures] == sorted(["palette", OF_TILES, OF_PATIENTS, CONTROL])
    assert figures["palette"][0]["accuracy"]["value"] == figures[OF_TILES][0]["accuracy"]["value"] == 0.4
    assert figures[OF_PATIENTS][0]["accuracy"]["value"] < 0.5  # real tiles in their place go by patient
    text = (tmp_path / "results/automatic-reader.md").read_text()
    assert "| palette | 40.0 [30.0, 50.0] |" in text
    assert "| real: halves of the test patients | 55 (50 to 60) |" in text
    automatic_reader.main()
    assert len(called) == 1
    assert (tmp_path / "results/automatic-reader.md").read_text() == text


def test_the_protocol_is_what_the_readers_and_the_report_take(tmp_path: Path) -> None:
    protocol = dict(read_yaml(configs_dir() / "experiments/automatic_reader.yaml"))
    AutomaticConfig.model_validate(protocol["readers"])
    for plan in protocol["tasks"].values():
        for words in plan["arms"].values():
            assert "--renderer" in shlex.split(f"{plan['make']} {words}".format(data="data"))
        assert plan["n"] == 2 * int(shlex.split(plan["make"])[shlex.split(plan["make"]).index("--n") + 1])
    write_report("automatic_reader", protocol, {}, tmp_path)
    assert protocol["tasks"]["ki67"]["about"] in (tmp_path / "automatic-reader.md").read_text()
