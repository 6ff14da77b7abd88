"""`--dry-run`: of every command that writes; says the room and writes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome, assert_refused, write_dataset
from tests.factory.commands.test_help import COMMANDS

Cli = Callable[..., Outcome]
READERS = {"factory verify", "factory replay", "factory doctor", "segment score"}
"""Commands that write nothing, or one file that an option names."""


def test_every_command_that_writes_has_a_dry_run() -> None:
    without = {words for words, command in COMMANDS if "dry_run" not in {param.name for param in command.params}}
    assert without == READERS


@pytest.mark.parametrize(
    "words",
    [
        "factory plan --n 4 --size 64",
        "factory make --n 4 --size 64",
        "factory make --n 4 --size 64x96 --scheme nuclei --out elsewhere",
        "factory render real --split all",
        "factory inspect real --n 2",
        "factory sketches synth --k 2",
        "factory score synth --real real --split all --n 16",
    ],
)
def test_a_dry_run_writes_nothing(cli: Cli, tmp_path: Path, words: str) -> None:
    write_dataset(tmp_path / "real", scheme="pdl1", n=18, size=(64, 64))
    write_dataset(tmp_path / "synth", scheme="pdl1", n=18, size=(64, 64), source="synthetic")
    before = sorted(tmp_path.rglob("*"))
    done = cli(*words.split(), "--dry-run")
    assert done.code == 0, done.err
    assert "dry run: nothing was written. The run " in " ".join(done.out.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_the_run_would_refuse(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    small = ("factory", "make", "--n", "2", "--size", "64", "--dry-run")
    assert_refused(cli(*small, "--out", "mine"), "thesis.tex")
    monkeypatch.setattr("factory.core.runs.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    assert_refused(cli(*small), r"expected room for about \d+ kB, got 1 kB free", code=1)
