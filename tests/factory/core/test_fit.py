"""The training loop with the smallest task: optional parts can be left out, and a resumed run is the unbroken one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from factory.core import fit as core_fit
from factory.core.checkpoints import LAST, read_checkpoint
from factory.core.fit import Diverged, Row, TrainingTask, fit
from factory.core.history import HISTORY
from factory.core.training_folder import TrainingFolder
from manifests.errors import FaultError, UserError

pytestmark = pytest.mark.usefixtures("one_thread")


class Line(TrainingTask[torch.Tensor]):
    """Fits a line with dropout to points; only what the Protocol requires, and when to end."""

    state_kind = "line-state"
    advice = "Draw other points."
    kept = "line"

    def __init__(self, *, ema: float | None = 0.5, steps: int = 7, last: int = 100) -> None:
        torch.manual_seed(0)
        line = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.networks, self.ema, self.steps, self.last = {"line": line}, ema, steps, last
        self.optimisers = {"adam": torch.optim.Adam(line.parameters())}
        self.rates: list[float] = []

    def draw(self, step: int) -> torch.Tensor:
        return torch.randn(3, 2, generator=torch.Generator().manual_seed(step))

    def learning_rate(self, step: int) -> float:
        return 0.1 / (step + 1)

    def step(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        loss = (self.networks["line"](batch) - batch.sum(1, keepdim=True)).square().mean()
        if not bool(loss.isfinite()):
            raise Diverged("a finite loss", ["square"])
        self.optimisers["adam"].zero_grad()
        loss.backward()
        self.optimisers["adam"].step()
        self.rates += [group["lr"] for group in self.optimisers["adam"].param_groups]
        return {"square": loss.detach()}

    def is_due(self, steps: int) -> bool:
        return steps % 2 == 0

    def has_ended(self, history: Sequence[Row]) -> bool:
        return bool(history) and history[-1]["step"] >= self.last


def folder(out: Path, document: str = "this run") -> TrainingFolder:
    return TrainingFolder(out, {"run": document}, {})


def run(out: Path | None, task: Line, resume: bool = False, stop: int | None = None) -> list[Row]:
    def on_step(done: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    return fit(task, out and folder(out), resume=resume, on_step=on_step).history


def tensors(out: Path) -> dict[str, bytes]:
    return {
        name: tensor.numpy().tobytes() for name, tensor in read_checkpoint(out / LAST, "line-state").tensors.items()
    }


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, ema: float | None) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert [row["step"] for row in run(whole, Line(ema=ema))] == [2, 4, 6, 7]
    with pytest.raises(KeyboardInterrupt):
        run(broken, Line(ema=ema), stop=5)
    history = run(broken, Line(ema=ema), resume=True)
    assert [row["step"] for row in history] == [2, 4, 6, 7]
    assert tensors(whole) == tensors(broken)
    assert any(name.startswith("mean.") for name in tensors(whole)) == (ema is not None)
    with pytest.raises(UserError, match="got another's"):
        fit(Line(ema=ema), folder(broken, "another"), resume=True)


@pytest.fixture
def heeds_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise, whatever they do to the process that runs the tests (nohup ignores SIGINT)."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda *_: sys.exit(1)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeds_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_keeps_it(tmp_path: Path, number: signal.Signals) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = run(whole, Line())
    before = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        fit(Line(), folder(broken), on_step=lambda done: signal.raise_signal(number) if done == 3 else None)
    assert signal.getsignal(number) is before
    assert stopped.value.__notes__ == [f"{broken / LAST} has the state after step 3."]
    history = run(broken, Line(), resume=True)
    assert [(row["step"], row["square"]) for row in history] == [(row["step"], row["square"]) for row in expected]
    assert tensors(whole) == tensors(broken)


@pytest.mark.usefixtures("heeds_signals")
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def on_step(done: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), folder(tmp_path), on_step=on_step)
    assert not (tmp_path / LAST).exists()


def test_states_between_checkpoints_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = run(whole, Line())
    monkeypatch.setattr(core_fit, "_STATE_EVERY_S", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run(broken, Line(), stop=4)  # killed before the state of step 4: that of step 3 is there
    assert read_checkpoint(broken / LAST, "line-state").card["step"] == 3
    history = run(broken, Line(), resume=True)
    assert [(row["step"], row["square"]) for row in history] == [(row["step"], row["square"]) for row in expected]
    assert tensors(whole) == tensors(broken)


def test_every_step_has_its_own_learning_rate_and_a_task_can_end_early(tmp_path: Path) -> None:
    task = Line(last=4)
    assert [row["step"] for row in run(tmp_path, task)] == [2, 4]
    assert task.rates == [0.1 / step for step in (1, 2, 3, 4)]
    assert run(tmp_path, task, resume=True)[-1]["step"] == 4  # an ended run takes no further step
    assert len(task.rates) == 4


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(run(None, Line())) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", [False, True])
def test_what_diverges_is_named_and_the_last_state_stays(tmp_path: Path, weights: bool) -> None:
    task = Line()

    def on_step(done: int) -> None:
        if done == (4 if weights else 3):
            with torch.no_grad():
                next(task.networks["line"].parameters()).fill_(float("nan"))

    expected = r"finite weights, got others at step 4 \(line\)" if weights else r"finite loss.* at step 4 \(square\)"
    with pytest.raises(FaultError, match=rf"expected a? ?{expected}; the last good .*{LAST}. Draw other points."):
        fit(task, folder(tmp_path), on_step=on_step)
    assert read_checkpoint(tmp_path / LAST, "line-state").card["step"] == 2
    assert (tmp_path / HISTORY).exists()


def test_history_rows_are_told_once_each(tmp_path: Path) -> None:
    rows: list[Row] = []
    told: Callable[[Row], None] = rows.append
    fit(Line(steps=4), folder(tmp_path), on_row=told)
    assert [sorted(row) for row in rows] == [["square", "step", "steps_per_s", "wait_share"]] * 2
