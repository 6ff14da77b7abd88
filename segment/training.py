"""Fit a network to batches: one linear loop, checkpoints that resume truly, the best weights by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from factory.core.config import Config
from manifests.errors import FaultError, UserError
from segment.augmentation import AugmentConfig
from segment.checkpoints import BEST, LAST, STATE_KIND, read_checkpoint, restore_state, write_state, write_weights
from segment.data import Batch, BatchLoader
from segment.history import write_history
from segment.instances import InstanceConfig
from segment.losses import LossConfig, Losses, segmentation_loss
from segment.networks import DIVISOR, NetworkConfig, to_input

SCORE = "mean_iou"
"""The validation figure that decides which weights are best: pooled over the validation tiles."""


class TrainConfig(Config):
    """One training run.

    Attributes:
        mix: real, synth, real+synth or real+synth:SHARE. scheme: null takes the richest common one.
        network: which network. encoder_weights: null, "imagenet" or a safetensors file.
        steps: optimiser steps. batch: tiles in a step. crop: height and width in pixels, multiples of 32; null takes
            up to 256, as the tiles allow.
        lr: peak learning rate of AdamW; rises over `warmup_steps`, then falls to 0 as a half cosine.
        clip_norm: gradients are scaled down to this L2 norm.
        validate_every: steps between validations, each with a checkpoint. validate_tiles: at most so many tiles.
        seed: of weights, order and augmentation.
        threads: of torch on the CPU; null takes all that the process may use.
        cache_gb: room on the disk for decoded tiles while training.
    """

    mix: str = "real+synth"
    scheme: str | None = None
    network: NetworkConfig = NetworkConfig()
    encoder_weights: str | None = None
    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=8, ge=1)
    crop: tuple[int, int] | None = None
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    validate_every: int = Field(default=100, ge=1)
    validate_tiles: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    cache_gb: float = Field(default=8.0, ge=0)
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    instances: InstanceConfig = InstanceConfig()

    @field_validator("crop")
    @classmethod
    def _divides(cls, crop: tuple[int, int] | None) -> tuple[int, int] | None:
        if crop and any(side < DIVISOR or side % DIVISOR for side in crop):
            lower, upper = ([max(DIVISOR, side // DIVISOR * DIVISOR + add) for side in crop] for add in (0, DIVISOR))
            raise ValueError(f"expected multiples of {DIVISOR} such as {lower[0]}x{lower[1]} or {upper[0]}x{upper[1]}")
        return crop


UNHASHED = ("threads", "cache_gb")
"""Fields that do not change what is learnt and may differ when a run is resumed."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of a step (0-based): a linear rise, then half a cosine to 0 (Loshchilov and Hutter 2017, no restarts)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        step: steps done. start: step that it went on from. best_step, best_score: of the weights kept.
        history: one row per validation. steps_per_s, wait_share: of this call; wait is for data.
    """

    step: int
    start: int
    best_step: int
    best_score: float | None
    history: list[dict[str, Any]]
    steps_per_s: float
    wait_share: float


@dataclass(frozen=True)
class Fit:
    """What `fit` works with.

    Attributes:
        config: how to train. network: on `device` already. draw: step -> batch. validate: network -> named figures.
        out: folder for checkpoints and history. card: what the weights' card says beside step and scores.
        fingerprint: of configuration and data; a checkpoint of another is refused. resume: go on where one is.
        on_step, on_validation: told of progress.
    """

    config: TrainConfig
    network: torch.nn.Module
    draw: Callable[[int], Batch]
    validate: Callable[[torch.nn.Module], dict[str, float]]
    out: Path
    card: Mapping[str, Any]
    fingerprint: str
    device: str = "cpu"
    resume: bool = False
    on_step: Callable[[int], None] = lambda step: None
    on_validation: Callable[[dict[str, Any]], None] = lambda row: None


def fit(job: Fit) -> FitResult:
    """Train to `config.steps` steps; on a CPU a resumed run ends in the same bytes as an unbroken one.

    Raises:
        UserError: when the checkpoint to resume is another run's or damaged.
        FaultError: when the loss is no longer a number; the last checkpoint is as it was.
    """
    config, network, device = job.config, job.network, job.device
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    start, best, history = _resume(job, optimiser)

    network.train()
    started = marked = time.perf_counter()
    waited_before, sums = 0.0, _Sums()
    with BatchLoader(job.draw, start, config.steps) as loader:
        for step, batch in enumerate(loader, start):
            # One step.
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            images, labels = (torch.from_numpy(array).to(device) for array in (batch.images, batch.labels))
            optimiser.zero_grad(set_to_none=True)
            losses = segmentation_loss(network(to_input(images)), labels.long(), config.loss)
            losses.total.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            if not bool(torch.isfinite(losses.total + norm)):
                raise _diverged(job, step + 1, float(losses.total.detach()))
            optimiser.step()
            sums.add(losses)
            done = step + 1
            job.on_step(done)
            if done % config.validate_every and done != config.steps:
                continue

            # Validation, history, the best weights, and last the state: a kill between them costs nothing but time.
            elapsed, waited = time.perf_counter() - marked, loader.waited_s - waited_before
            row: dict[str, Any] = {"step": done, "lr": learning_rate(config, step), **sums.means()}
            row |= {f"val_{name}": _plain(value) for name, value in job.validate(network).items()}
            row |= {"steps_per_s": sums.count / elapsed, "wait_share": waited / elapsed}
            history.append(row)
            score = row[f"val_{SCORE}"]
            if best is None or (score is not None and (best["score"] is None or score > best["score"])):
                best = {"step": done, "score": score}
                validation = {name: value for name, value in row.items() if name.startswith("val_")}
                write_weights(
                    job.out / BEST, network.state_dict(), {**job.card, "step": done, "validation": validation}
                )
            write_history(job.out, history)
            state = {"step": done, "best": best, "history": history, "fingerprint": job.fingerprint}
            write_state(job.out / LAST, network, optimiser, state, device)
            job.on_validation(row)
            marked, waited_before, sums = time.perf_counter(), loader.waited_s, _Sums()
        total = time.perf_counter() - started
        wait_share = loader.waited_s / total
    assert best is not None
    rate = (config.steps - start) / total
    return FitResult(config.steps, start, best["step"], best["score"], history, rate, wait_share)


class _Sums:
    """Running means of the losses since the last validation; kept on the device so that a step waits for nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._total: torch.Tensor | float = 0.0

    def add(self, losses: Losses) -> None:
        terms = torch.stack([losses.total.detach(), losses.dice.detach(), losses.cross_entropy.detach()])
        self._total, self.count = self._total + terms.double(), self.count + 1

    def means(self) -> dict[str, float]:
        assert isinstance(self._total, torch.Tensor)
        names = ("loss", "dice_loss", "cross_entropy")
        return dict(zip(names, (self._total / self.count).tolist(), strict=True))


def _resume(job: Fit, optimiser: torch.optim.Optimizer) -> tuple[int, dict[str, Any] | None, list[dict[str, Any]]]:
    """Restore the last checkpoint where there is one: (steps done, best so far, history)."""
    path = job.out / LAST
    if not job.resume or not path.exists():
        return 0, None, []
    checkpoint = read_checkpoint(path, STATE_KIND)
    if checkpoint.card.get("fingerprint") != job.fingerprint:
        raise UserError(f"{path}: expected the state of this configuration and data, got another's. Use another --out.")
    restore_state(checkpoint, job.network, optimiser, job.device)
    return int(checkpoint.card["step"]), checkpoint.card["best"], list(checkpoint.card["history"])


def _diverged(job: Fit, step: int, loss: float) -> FaultError:
    path = job.out / LAST
    kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint had been written yet"
    return FaultError(
        f"training: expected a finite loss and gradient, got loss {loss:g} at step {step}; {kept}. "
        "Lower --lr, or look at the images and labels of the data sets."
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
