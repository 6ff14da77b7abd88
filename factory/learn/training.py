"""Fit a generator to masks or images: one linear loop, checkpoints that resume truly, sheets of samples as it goes.

What is learnt, and how, is a `Trainer`: networks, optimisers and one step. The loop knows no generator by name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import nn

from factory.core.checkpoints import BEST, LAST, read_checkpoint, restore_state, write_state, write_weights
from factory.core.config import Config
from factory.core.ema import averaged
from factory.core.history import plot_history, write_history
from factory.core.loader import BatchLoader
from factory.core.precision import Precision
from factory.learn.crops import Tiles
from factory.learn.sample_sheet import write_sample_sheet
from factory.nets import STRIDE
from manifests.errors import FaultError, UserError
from manifests.labels import LabelScheme

STATE_KIND = "generator-state"
SAMPLES = "samples"
_SHOWN = 8

UNHASHED = ("threads",)
"""Fields that say how a machine is used; a run that is resumed keeps its number of threads all the same."""


class TrainerConfig(Config):
    """What every trainer can be told; a generator's own `Trainer.Config` adds its networks and losses.

    Attributes:
        scheme: of the masks; null takes the richest that all data sets read as.
        size: height and width of the crops, multiples of 32. batch: crops in a step.
        epochs: rounds over the tiles; each gives one crop per round. steps: instead of epochs, where given.
        decay_epochs: the learning rate falls linearly to 0 over so many of the last epochs.
        learning_rate, beta1, beta2: of Adam.
        ema: how slowly the averaged weights follow, which are kept; 0 keeps the last ones.
        max_background: crops with a larger share of air are drawn again, as the papers drop such tiles.
        look_every: steps between checkpoints, each with a row of the history and a sheet of samples.
        precision: of the arithmetic; auto is bf16 where the machine computes it in hardware.
        seed: of weights, order, crops and noise. threads: of torch on the CPU; null takes all.
    """

    renamed = {"judges": "discriminators"} | {
        f"judge_{key}": f"discriminator_{key}" for key in ("width", "depth", "norm")
    }

    scheme: str | None = None
    size: tuple[int, int] = (512, 1024)
    batch: int = Field(default=8, ge=1)
    epochs: int = Field(default=100, ge=1)
    steps: int | None = Field(default=None, ge=1)
    decay_epochs: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    beta1: float = Field(default=0.5, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    ema: float = Field(default=0.999, ge=0, lt=1)
    max_background: float = Field(default=0.85, gt=0, le=1)
    look_every: int = Field(default=250, ge=1)
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)

    def check_data(self, scheme: LabelScheme, mpp: float) -> None:
        """Refuse masks that the trainer cannot learn from, before anything is written.

        Args:
            scheme: of the masks. mpp: micrometres per pixel.

        Raises:
            UserError: saying why; by default any will do.
        """

    @field_validator("size")
    @classmethod
    def _divides(cls, size: tuple[int, int]) -> tuple[int, int]:
        for side in size:
            if side < STRIDE or side % STRIDE:
                below = max(STRIDE, side // STRIDE * STRIDE)
                raise ValueError(f"expected multiples of {STRIDE} (use {below} or {below + STRIDE})")
        return size


Crops = npt.NDArray[Any]
"""What a step sees: masks uint8 [N, H, W], or with their images uint8 [N, H, W, 4], and what else a trainer draws."""


class Trainer(Protocol):
    """What the loop trains.

    Attributes:
        networks: all that are trained, by name; no name contains a dot.
        optimisers: of their parameters. kept: the network in `networks` whose weights are what is wanted.
        kind: of the weights' file.
    """

    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    kept: str
    kind: str

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Step (0-based) -> what that step sees; a function of the step alone."""

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """One step of all optimisers on what `draw_from` gave; named losses, detached scalars."""

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Columns of the sheet, masks uint8 [n, H, W] or RGB [n, H, W, 3]: the same draws in every sheet."""

    def card(self) -> dict[str, Any]:
        """What must be known to use `kept`: the network's shape."""

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Tensors besides networks and optimisers that a resumed run needs."""

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put `extra_state` back."""


def rate_factor(config: TrainerConfig, step: int, steps: int) -> float:
    """Share of the learning rate at a step (0-based): 1, then linearly to 0 over the last `decay_epochs`."""
    decay = steps * min(config.decay_epochs, config.epochs) / config.epochs
    return min(1.0, (steps - step) / decay) if decay else 1.0


def epoch_of(config: TrainerConfig, step: int, steps: int) -> int:
    """Epoch of a step (0-based). A run of fewer steps goes through the same `epochs`, only faster."""
    return min(step * config.epochs // steps, config.epochs - 1)


@dataclass(frozen=True)
class Fit:
    """What `fit` works with.

    Attributes:
        config: how to train. trainer: what. scheme: of the masks. steps: how many in all.
        draw: step -> crops of each stream. out: the run's folder. card: what the weights' card says beside the rest.
        fingerprint: of configuration and data; a checkpoint of another is refused. resume: go on where one is.
        on_start, on_step, on_look: told of progress.
    """

    config: TrainerConfig
    trainer: Trainer
    scheme: LabelScheme
    steps: int
    draw: Callable[[int], list[Crops]]
    out: Path
    card: Mapping[str, Any]
    fingerprint: str
    device: str = "cpu"
    resume: bool = False
    on_start: Callable[[int, int], None] = lambda step, steps: None
    on_step: Callable[[int], None] = lambda step: None
    on_look: Callable[[dict[str, Any]], None] = lambda row: None


@dataclass(frozen=True)
class FitResult:
    """How a run ended: steps done, the step it went on from, history, speed and the share of waiting for crops."""

    step: int
    start: int
    history: list[dict[str, Any]]
    steps_per_s: float
    wait_share: float


def fit(job: Fit) -> FitResult:
    """Train to `job.steps` steps; on a CPU a resumed run ends in the same bytes as an unbroken one.

    Raises:
        UserError: when the checkpoint to resume is another run's or damaged.
        FaultError: when a loss or a weight is no longer a number; the last checkpoint is as it was.
    """
    config, trainer = job.config, job.trainer
    mean = averaged(trainer.networks[trainer.kept], config.ema)
    start, history = _resume(job, mean)
    shown = _shown(job)
    job.on_start(start, job.steps)
    for network in trainer.networks.values():
        network.train()
    started = marked = time.perf_counter()
    step, waited_before, sums = start, 0.0, _Sums()
    with BatchLoader(job.draw, start, job.steps) as loader:
        for step, crops in enumerate(loader, start + 1):
            # One step.
            factor = rate_factor(config, step - 1, job.steps)
            for optimiser in trainer.optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"] = config.learning_rate * factor
            losses = trainer.step(crops, step - 1, epoch_of(config, step - 1, job.steps))
            if not all(map(math.isfinite, torch.stack(list(losses.values())).tolist())):
                bad = [name for name, value in losses.items() if not math.isfinite(float(value))]
                raise _diverged(job, step, "losses", bad)
            mean.update_parameters(trainer.networks[trainer.kept])
            sums.add(losses)
            job.on_step(step)
            if step % config.look_every and step != job.steps:
                continue

            # History, samples, weights, and last the state: a kill between them costs nothing but time.
            elapsed, waited = time.perf_counter() - marked, loader.waited_s - waited_before
            row: dict[str, Any] = {"step": step, **sums.means()}
            row |= {"steps_per_s": sums.count / elapsed, "wait_share": waited / elapsed}
            history.append(row)
            _refuse_broken_weights(job, step, mean)
            _look(job, mean.module, shown, history)
            state = {"step": step, "history": history, "fingerprint": job.fingerprint, "kind": STATE_KIND}
            state["threads"] = torch.get_num_threads()
            parts = {**trainer.networks, "mean": mean}
            write_state(job.out / LAST, parts, trainer.optimisers, state, job.device, trainer.extra_state())
            job.on_look(row)
            marked, waited_before, sums = time.perf_counter(), loader.waited_s, _Sums()
        total = time.perf_counter() - started
        wait_share = loader.waited_s / max(total, 1e-9)
    return FitResult(step, start, history, (step - start) / max(total, 1e-9), wait_share)


def _shown(job: Fit) -> list[Crops]:
    """What the sheets of samples are made of: the crops of as many first steps as hold `_SHOWN`."""
    drawn = [job.draw(step) for step in range(math.ceil(_SHOWN / job.config.batch))]
    return [np.concatenate(parts)[:_SHOWN] for parts in zip(*drawn, strict=True)]


def _look(job: Fit, network: nn.Module, shown: list[Crops], history: list[dict[str, Any]]) -> None:
    """Leave a sheet of samples, the plot and the weights of now."""
    step = history[-1]["step"]
    columns = job.trainer.sample(network, shown)
    network.train()
    write_sample_sheet(job.out / SAMPLES / f"step-{step:06d}.png", columns, job.scheme)
    write_history(job.out, history)
    losses = {name: name.replace("_", " ") for name in history[0] if name not in ("step", "steps_per_s", "wait_share")}
    plot_history(job.out, history, {"losses": losses})
    card = {**job.card, **job.trainer.card(), "kind": job.trainer.kind, "step": step}
    write_weights(job.out / BEST, network.state_dict(), card)


class _Sums:
    """Running means of the losses since the last look."""

    def __init__(self) -> None:
        self.count = 0
        self._totals: dict[str, torch.Tensor | float] = {}

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        self.count += 1
        for name, value in losses.items():
            self._totals[name] = self._totals.get(name, 0.0) + value.double()

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self._totals.items()}


def _resume(job: Fit, mean: nn.Module) -> tuple[int, list[dict[str, Any]]]:
    """Restore the last checkpoint where there is one: (steps done, history)."""
    path = job.out / LAST
    if not job.resume or not path.exists():
        return 0, []
    checkpoint = read_checkpoint(path, STATE_KIND)
    if checkpoint.card.get("fingerprint") != job.fingerprint:
        raise UserError(f"{path}: expected the state of this configuration and data, got another's. Use another --out.")
    parts = {**job.trainer.networks, "mean": mean}
    job.trainer.load_extra_state(restore_state(checkpoint, parts, job.trainer.optimisers, job.device))
    return int(checkpoint.card["step"]), list(checkpoint.card["history"])


def _refuse_broken_weights(job: Fit, step: int, mean: nn.Module) -> None:
    """A gradient that overflows breaks weights though its loss was finite; such weights are never written.

    Raises:
        FaultError: naming the networks.
    """
    parts = {**job.trainer.networks, "mean": mean}
    bad = [n for n, part in parts.items() if not all(bool(t.isfinite().all()) for t in part.state_dict().values())]
    if bad:
        raise _diverged(job, step, "weights", bad)


def _diverged(job: Fit, step: int, what: str, bad: Sequence[str]) -> FaultError:
    path = job.out / LAST
    kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint had been written yet"
    return FaultError(
        f"training: expected finite {what}, got others at step {step} ({', '.join(bad)}); {kept}. "
        "Lower --set learning_rate."
    )
