"""The training loop of generators, labellers and segmenters. Imports torch.

What is trained is a `TrainingTask`: networks, optimisers, one step, and what is written at each checkpoint. On a CPU a
resumed run ends in the same bytes as an unbroken one, because batches and learning rates are functions of the step
and everything else is in the state. The state is kept at each checkpoint, every few minutes between them, and when the
run is stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn

from factory.core.checkpoints import read_checkpoint, restore_state, write_state
from factory.core.ema import averaged
from factory.core.history import write_history
from factory.core.loader import BatchLoader
from factory.core.stopping import StopRequest
from factory.core.training_folder import TrainingFolder
from manifests.errors import FaultError, UserError

Row = dict[str, Any]
"""A row of the history: the step, mean losses, other figures (None where undefined), speed."""

Batch = TypeVar("Batch")

_STATE_EVERY_S = 180.0
"""Longest time without a state, in seconds, besides that of one step or one checkpoint."""
_QUICK = 3e13
"""Parameters times pixels of a batch whose step takes seconds on a CPU."""


class Diverged(Exception):
    """A loss or a gradient is not finite.

    Args:
        expected: for the message, e.g. "finite losses". names: of the losses that are not finite.
    """

    def __init__(self, expected: str, names: Sequence[str] = ()) -> None:
        super().__init__(expected)
        self.expected, self.names = expected, tuple(names)


class TrainingTask(Protocol[Batch]):
    """Protocol of what `fit` trains. Implementations name it as their base; methods with a body are optional.

    Attributes:
        state_kind: `kind` in the card of the training state. advice: what to do about a run that diverged.
        keeps_history: whether there is a history; without one only the state is written.
        batches_ahead: batches that are drawn ahead of the one in use; None lets the loader choose.
        networks: all networks by name, on their device. A name contains no dot.
        optimisers: of their parameters, by name. A name contains no dot.
        kept: name of the network whose weights are wanted.
        ema: decay of the running mean of its weights, which is reported on and kept; None takes no mean.
        steps: in total.
    """

    state_kind: ClassVar[str]
    advice: ClassVar[str]
    keeps_history: ClassVar[bool] = True
    batches_ahead: ClassVar[int | None] = None
    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    kept: str
    ema: float | None
    steps: int

    @abstractmethod
    def draw(self, step: int) -> Batch:
        """Return the batch of a step (0-based), a function of the step alone; called from several threads."""

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""

    @abstractmethod
    def step(self, batch: Batch, step: int) -> Mapping[str, torch.Tensor]:
        """Take one step (0-based) of the optimisers.

        Returns:
            Scalar losses by name, detached; always the same names.

        Raises:
            Diverged: when a loss or gradient is not finite.
        """

    @abstractmethod
    def is_due(self, steps: int) -> bool:
        """Return whether a checkpoint is due after so many steps. One is always made at the end."""

    def report(self, network: nn.Module, steps: int) -> Row:
        """Return further figures for the row of the history, such as validation scores.

        Args:
            network: the kept one, or its running mean. steps: done so far.
        """
        del network, steps
        return {}

    def keep(self, network: nn.Module, history: Sequence[Row]) -> None:
        """Write weights, plots and samples.

        Args:
            network: the kept one, or its running mean. history: all rows; the last one is of now.
        """
        del network, history

    def has_ended(self, history: Sequence[Row]) -> bool:
        """Return whether training stops before the last step."""
        del history
        return False

    def extra_state(self) -> Mapping[str, torch.Tensor]:
        """Return tensors besides networks and optimisers that a resumed run needs."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `extra_state`."""
        del tensors


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        step: steps done. start: the step that it continued from. history: one row per checkpoint.
        steps_per_s: of this call. wait_share: share of its time spent waiting for batches.
    """

    step: int
    start: int
    history: list[Row]
    steps_per_s: float
    wait_share: float


def fit(
    task: TrainingTask[Batch],
    folder: TrainingFolder | None,
    *,
    device: str = "cpu",
    resume: bool = False,
    on_start: Callable[[int, int], None] = lambda step, steps: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> FitResult:
    """Train to the last step, or until the task has ended.

    Args:
        task: what to train. folder: for state and history, opened by the caller; None writes nothing.
        device: where the task trains. resume: continue from the folder's state if there is one.
        on_start: called with the steps done before and in total. on_step: with the steps done, after each step.
        on_row: with each new row of the history.

    Raises:
        UserError: when the state to resume is damaged or belongs to another run.
        FaultError: when losses or weights are no longer finite; the last state stays as it was.
        KeyboardInterrupt: after Ctrl-C, with a note that says what is kept; so for SIGTERM, with its own exception.
    """
    mean = None if task.ema is None else averaged(task.networks[task.kept], task.ema)
    kept: nn.Module = task.networks[task.kept] if mean is None else mean.module
    parts = {**task.networks, **({} if mean is None else {"mean": mean})}
    losses = _Means()
    start, history = _resume(task, folder, parts, losses, device) if resume else (0, [])
    on_start(start, task.steps)
    for network in task.networks.values():
        network.train()
    stop = start if task.has_ended(history) else task.steps
    started = marked = kept_at = time.perf_counter()
    step, marked_step, waited_before = start, start, 0.0
    with BatchLoader(task.draw, start, stop, ahead=task.batches_ahead) as loader, StopRequest().listen() as stopping:
        for step, batch in enumerate(loader, start + 1):
            # One step.
            for optimiser in task.optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"] = task.learning_rate(step - 1)
            try:
                losses.add(task.step(batch, step - 1))
            except Diverged as reason:
                raise _fault(task, folder, step, reason) from reason
            if mean is not None:
                mean.update_parameters(task.networks[task.kept])
            on_step(step)
            is_due = task.is_due(step) or step == task.steps
            if not (is_due or stopping or time.perf_counter() - kept_at > _STATE_EVERY_S):
                continue

            # Checkpoint. The state comes last: after a kill before it, the run repeats the steps since the last one.
            if broken := [name for name, part in parts.items() if not _is_finite(part)]:
                raise _fault(task, folder, step, Diverged("finite weights", broken))
            if is_due and task.keeps_history:
                elapsed, waited = time.perf_counter() - marked, loader.waited_s - waited_before
                row = {"step": step, **losses.values(), **task.report(kept, step)}
                speed = (step - marked_step) / elapsed
                history.append({**row, "steps_per_s": speed, "wait_share": waited / elapsed})
                task.keep(kept, history)
            if is_due:
                losses.clear()
            if folder is not None:
                _write_state(task, folder, parts, device, step, history, losses)
            kept_at = time.perf_counter()
            if is_due and task.keeps_history:
                on_row(history[-1])
                marked, marked_step, waited_before = kept_at, step, loader.waited_s
            if stopping and step != task.steps:
                _stop(stopping, folder, step)
            if is_due and task.has_ended(history):
                break
        total = max(time.perf_counter() - started, 1e-9)
        return FitResult(step, start, history, (step - start) / total, loader.waited_s / total)


def _stop(stopping: StopRequest, folder: TrainingFolder | None, step: int) -> None:
    """Stop as the signal would have done, with a note on what is kept."""
    try:
        stopping.obey()
    except BaseException as stop:
        if folder is not None:
            stop.add_note(f"{folder.state} has the state after step {step}.")
        raise


def bytes_of_run(networks: Mapping[str, nn.Module], kept: str, ema: float | None) -> int:
    """Return the bytes of weights and state of a run; see `TrainingTask` for what it takes."""
    tensors = [value for network in networks.values() for value in network.state_dict().values()]
    weights = sum(value.nbytes for value in networks[kept].state_dict().values())
    state = sum(value.nbytes for value in tensors) + 8 * _parameters(networks)  # Adam keeps two moments of each
    return weights + state + (0 if ema is None else weights)


def _parameters(networks: Mapping[str, nn.Module]) -> int:
    return sum(value.numel() for network in networks.values() for value in network.parameters())


def estimate(task: TrainingTask[Batch], pixels: int, device: str) -> tuple[int, float | None]:
    """Estimate what a run needs: bytes of its weights and state, and its seconds.

    Two steps are taken, the second is timed; the task is not fit for training afterwards. On a CPU steps are taken only
    where the parameters and the `pixels` of a batch promise that they are quick. Otherwise the time is None.
    """
    parameters, need = _parameters(task.networks), bytes_of_run(task.networks, task.kept, task.ema)
    if device == "cpu" and parameters * pixels > _QUICK:
        return need, None
    for network in task.networks.values():
        network.train()
    started = 0.0
    for step in range(2):
        batch = task.draw(step)
        started = time.perf_counter()
        for loss in task.step(batch, step).values():
            float(loss)  # waits for the device
    return need, (time.perf_counter() - started) * task.steps


class _Means:
    """Mean losses since the last checkpoint, summed on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        self.count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value.double() if name in self._sums else value.double()

    def values(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums().items()}

    def sums(self) -> dict[str, float]:
        return {name: float(total) for name, total in self._sums.items()}

    def clear(self) -> None:
        self.count, self._sums = 0, {}

    def restore(self, count: int, sums: Mapping[str, float], device: str) -> None:
        self.count = count
        self._sums = {name: torch.tensor(total, dtype=torch.float64, device=device) for name, total in sums.items()}


def _write_state(
    task: TrainingTask[Batch],
    folder: TrainingFolder,
    parts: Mapping[str, nn.Module],
    device: str,
    step: int,
    history: list[Row],
    losses: _Means,
) -> None:
    card: dict[str, Any] = {"kind": task.state_kind, "step": step, "fingerprint": folder.fingerprint}
    card |= {"threads": torch.get_num_threads()}
    if task.keeps_history:
        if history:
            write_history(folder.out, history)
        card |= {"history": history, "losses": {"count": losses.count, "sums": losses.sums()}}
    write_state(folder.state, parts, task.optimisers, card, device, task.extra_state())


def _resume(
    task: TrainingTask[Batch],
    folder: TrainingFolder | None,
    parts: Mapping[str, nn.Module],
    losses: _Means,
    device: str,
) -> tuple[int, list[Row]]:
    """Restore the last state, and the losses since the last checkpoint; returns the steps done and the history."""
    if folder is None or not folder.state.exists():
        return 0, []
    state = read_checkpoint(folder.state, task.state_kind)
    if state.card.get("fingerprint") != folder.fingerprint:
        raise UserError(
            f"{folder.state}: expected the state of this configuration and data, got another's. Use another --out."
        )
    task.load_extra_state(restore_state(state, parts, task.optimisers, device))
    if "losses" in state.card:
        losses.restore(**state.card["losses"], device=device)
    return int(state.card["step"]), list(state.card.get("history", []))


def _is_finite(part: nn.Module) -> bool:
    """Return whether all weights are finite: a gradient can overflow although its loss is finite."""
    return all(bool(tensor.isfinite().all()) for tensor in part.state_dict().values())


def _fault(task: TrainingTask[Batch], folder: TrainingFolder | None, step: int, reason: Diverged) -> FaultError:
    kept = "no checkpoint had been written yet"
    if folder is not None and folder.state.exists():
        kept = f"the last good checkpoint is {folder.state}"
    names = f" ({', '.join(reason.names)})" if reason.names else ""
    return FaultError(f"training: expected {reason.expected}, got others at step {step}{names}; {kept}. {task.advice}")
