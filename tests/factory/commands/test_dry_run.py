"""`--dry-run`: of every command that writes; says the room and writes nothing."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.core.wording import duration
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.factory.commands.test_help import COMMANDS

Cli = Callable[..., Outcome]
READERS = {"factory verify", "factory replay", "factory doctor", "factory scheme check", "segment score"}
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
    said = " ".join(done.out.split())
    assert re.search(r"dry run: nothing was written\. The run needs about [\d.]+ (bytes|[kMGT]B) for \S+", said)
    assert re.search(r"(and about [\d.]+ (s|min|h)( on 1 worker)?|; its time is not estimated)\.$", said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", ["factory make --n 4 --size 64", "factory render real --split all"])
def test_a_dry_run_times_tiles_and_divides_by_the_workers_that_have_work(
    cli: Cli, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "real", scheme="pdl1", n=4, size=(64, 64))
    clock = itertools.count(step=10)  # every reading of the clock is 10 s later: 5 s for each of two tiles
    monkeypatch.setattr("factory.core.runs.time.perf_counter", lambda: next(clock))
    assert "and about 20 s on 1 worker." in cli(*words.split(), "--workers", "2", "--dry-run").out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli(*words.split(), "--out", "made").code == 0
    assert "needs about 0 bytes for made and about 1 s." in cli(*words.split(), "--out", "made", "--dry-run").out


def test_times_have_the_unit_that_fits() -> None:
    assert [duration(s) for s in (0.2, 59, 100, 300, 4000, 10_000, 90_000)] == [
        "1 s", "59 s", "1.7 min", "5 min", "67 min", "2.8 h", "25 h",
    ]  # fmt: skip


def test_a_dry_run_refuses_what_the_run_would_refuse(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    small = ("factory", "make", "--n", "2", "--size", "64", "--dry-run")
    assert_refused(cli(*small, "--out", "mine"), "thesis.tex")
    monkeypatch.setattr("factory.core.runs.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    assert_refused(cli(*small), r"expected room for about \d+ kB, got 1 kB free", code=1)
