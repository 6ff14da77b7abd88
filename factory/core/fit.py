"""The training loop of generators, labellers and segmenters. Imports torch.

What is trained is a `TrainingTask`: networks, optimisers, one step, and what is written at each checkpoint. On a CPU a
resumed run ends in the same bytes as an unbroken one, because batches and learning rates are functions of the step
and everything else is in the state.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from factory.core.checkpoints import LAST, read_checkpoint, restore_state, write_state
from factory.core.ema import averaged
from factory.core.history import write_history
from factory.core.loader import BatchLoader
from manifests.errors import FaultError, UserError

Row = dict[str, Any]
"""A row of the history: the step, mean losses, other figures (None where undefined), speed."""

Batch = TypeVar("Batch")
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class Diverged(Exception):
    """A loss or a gradient is not finite.

    Args:
        expected: for the message, e.g. "finite losses". names: of the losses that are not finite.
    """

    def __init__(self, expected: str, names: Sequence[str] = ()) -> None:
        super().__init__(expected)
        self.expected, self.names = expected, tuple(names)


class TrainingTask(Protocol[BatchT_contra]):
    """What `fit` trains. Implementations name this class as their base; methods with a body are optional.

    Attributes:
        state_kind: `kind` in the card of the training state. advice: what to do about a run that diverged.
        keeps_history: whether there is a history; without one only the state is written.
        networks: all networks by name, on their device. A name contains no dot.
        optimisers: of their parameters, by name. A name contains no dot.
        kept: name of the network whose weights are wanted.
        ema: decay of the running mean of its weights, which is reported on and kept; None takes no mean.
    """

    state_kind: ClassVar[str]
    advice: ClassVar[str]
    keeps_history: ClassVar[bool] = True
    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    kept: str
    ema: float | None

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""

    @abstractmethod
    def step(self, batch: BatchT_contra, step: int) -> Mapping[str, torch.Tensor]:
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
class Fit(Generic[Batch]):
    """Arguments of `fit`.

    Attributes:
        task: what to train. draw: step (0-based) -> batch, a function of the step alone. steps: in total.
        out: folder for state and history; None writes nothing.
        fingerprint: of configuration and data; a state with another one is refused.
        device: where the task trains. resume: continue from the state in `out` if there is one.
        batches_ahead: batches that are drawn ahead of the one in use; None lets the loader choose.
        on_start: called with the steps done before and in total. on_step: with the steps done, after each step.
        on_row: with each new row of the history.
    """

    task: TrainingTask[Batch]
    draw: Callable[[int], Batch]
    steps: int
    out: Path | None
    fingerprint: str
    device: str = "cpu"
    resume: bool = False
    batches_ahead: int | None = None
    on_start: Callable[[int, int], None] = lambda step, steps: None
    on_step: Callable[[int], None] = lambda step: None
    on_row: Callable[[Row], None] = lambda row: None


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


def fit(job: Fit[Batch]) -> FitResult:
    """Train to the last step, or until the task has ended.

    Raises:
        UserError: when the state to resume is damaged or belongs to another run.
        FaultError: when losses or weights are no longer finite; the last state stays as it was.
    """
    task = job.task
    mean = None if task.ema is None else averaged(task.networks[task.kept], task.ema)
    kept = task.networks[task.kept] if mean is None else mean.module
    start, history = _resume(job, mean)
    job.on_start(start, job.steps)
    for network in task.networks.values():
        network.train()
    stop = start if task.has_ended(history) else job.steps
    started = marked = time.perf_counter()
    step, waited_before, losses = start, 0.0, _Means()
    with BatchLoader(job.draw, start, stop, ahead=job.batches_ahead) as loader:
        for step, batch in enumerate(loader, start + 1):
            # One step.
            for optimiser in task.optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"] = task.learning_rate(step - 1)
            try:
                losses.add(task.step(batch, step - 1))
            except Diverged as reason:
                raise _fault(job, step, reason) from reason
            if mean is not None:
                mean.update_parameters(task.networks[task.kept])
            job.on_step(step)
            if not task.is_due(step) and step != job.steps:
                continue

            # Checkpoint. The state comes last: after a kill before it, the run repeats the steps since the last one.
            _refuse_broken_weights(job, step, mean)
            if task.keeps_history:
                elapsed, waited = time.perf_counter() - marked, loader.waited_s - waited_before
                row = {"step": step, **losses.values(), **task.report(kept, step)}
                history.append({**row, "steps_per_s": losses.count / elapsed, "wait_share": waited / elapsed})
                task.keep(kept, history)
            _write_state(job, step, mean, history)
            if task.keeps_history:
                job.on_row(history[-1])
            if task.has_ended(history):
                break
            marked, waited_before, losses = time.perf_counter(), loader.waited_s, _Means()
        total = max(time.perf_counter() - started, 1e-9)
        return FitResult(step, start, history, (step - start) / total, loader.waited_s / total)


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
        return {name: float(total) / self.count for name, total in self._sums.items()}


def _parts(job: Fit[Batch], mean: AveragedModel | None) -> dict[str, nn.Module]:
    """All modules of a state, by name."""
    return {**job.task.networks, **({} if mean is None else {"mean": mean})}


def _write_state(job: Fit[Batch], step: int, mean: AveragedModel | None, history: list[Row]) -> None:
    if job.out is None:
        return
    card = {"kind": job.task.state_kind, "step": step, "fingerprint": job.fingerprint}
    card |= {"threads": torch.get_num_threads()}
    if job.task.keeps_history:
        write_history(job.out, history)
        card |= {"history": history}
    parts, extra = _parts(job, mean), job.task.extra_state()
    write_state(job.out / LAST, parts, job.task.optimisers, card, job.device, extra)


def _resume(job: Fit[Batch], mean: AveragedModel | None) -> tuple[int, list[Row]]:
    """Restore the last state if there is one; returns the steps done and the history."""
    if job.out is None or not job.resume or not (job.out / LAST).exists():
        return 0, []
    path = job.out / LAST
    state = read_checkpoint(path, job.task.state_kind)
    if state.card.get("fingerprint") != job.fingerprint:
        raise UserError(f"{path}: expected the state of this configuration and data, got another's. Use another --out.")
    extra = restore_state(state, _parts(job, mean), job.task.optimisers, job.device)
    job.task.load_extra_state(extra)
    return int(state.card["step"]), list(state.card.get("history", []))


def _refuse_broken_weights(job: Fit[Batch], step: int, mean: AveragedModel | None) -> None:
    """Raise a FaultError if a weight is not finite: a gradient can overflow although its loss is finite."""
    tensors = {name: part.state_dict().values() for name, part in _parts(job, mean).items()}
    broken = [name for name, values in tensors.items() if not all(bool(t.isfinite().all()) for t in values)]
    if broken:
        raise _fault(job, step, Diverged("finite weights", broken))


def _fault(job: Fit[Batch], step: int, reason: Diverged) -> FaultError:
    path = None if job.out is None else job.out / LAST
    kept = f"the last good checkpoint is {path}" if path and path.exists() else "no checkpoint had been written yet"
    names = f" ({', '.join(reason.names)})" if reason.names else ""
    return FaultError(
        f"training: expected {reason.expected}, got others at step {step}{names}; {kept}. {job.task.advice}"
    )
