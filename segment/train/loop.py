"""Fit a network to batches: one linear loop, checkpoints that resume truly, the best weights by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from factory.core.checkpoints import BEST, LAST, read_checkpoint, restore_state, write_state
from factory.core.config import Config
from factory.core.ema import averaged
from factory.core.history import write_history
from factory.core.loader import BatchLoader
from factory.core.precision import Precision, autocast
from manifests.errors import FaultError, UserError
from segment.data.augmentation import AugmentConfig
from segment.data.sampling import SamplingConfig
from segment.data.tiles import Batch
from segment.network.checkpoints import STATE_KIND, write_weights
from segment.network.head import Head
from segment.network.instances import InstanceConfig
from segment.network.networks import DIVISOR, NetworkConfig, to_input
from segment.train.losses import LossConfig, Losses, segmentation_loss

SCORE = "score"
"""The validation figure that decides which weights are best (`segment.train.validation`)."""


class TrainConfig(Config):
    """One training run.

    Attributes:
        mix: real, synth, real+synth or real+synth:SHARE. scheme: null takes the richest common one.
        network: which network. encoder_weights: null, "imagenet" or a safetensors file.
        real_fraction: share of the real training groups (patients) that is used; smaller shares are subsets of larger.
        steps: optimiser steps. batch: tiles in a step. crop: height and width in pixels, multiples of 32; null takes
            up to 256, as the tiles allow.
        lr: peak learning rate of AdamW; rises over `warmup_steps`, then falls to 0 as a half cosine.
        clip_norm: gradients are scaled down to this L2 norm.
        ema: how slowly the averaged weights follow, which are validated and kept; 0 keeps the last ones.
        precision: of the arithmetic; auto is bf16 where the machine computes it in hardware.
        validate_every: steps between validations, each with a checkpoint. validate_tiles: at most so many tiles.
        patience: validations without a better score after which training stops; null never stops early.
        seed: of weights, order and augmentation.
        threads: of torch on the CPU; null takes all that the process may use.
        cache_gb: room on the disk for decoded tiles while training.
    """

    mix: str = "real+synth"
    scheme: str | None = None
    network: NetworkConfig = NetworkConfig()
    encoder_weights: str | None = None
    real_fraction: float = Field(default=1.0, gt=0, le=1)
    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=8, ge=1)
    crop: tuple[int, int] | None = None
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    precision: Precision = "auto"
    validate_every: int = Field(default=100, ge=1)
    validate_tiles: int = Field(default=32, ge=1)
    patience: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    cache_gb: float = Field(default=8.0, ge=0)
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    instances: InstanceConfig = InstanceConfig()

    @field_validator("crop")
    @classmethod
    def _divides(cls, crop: tuple[int, int] | None) -> tuple[int, int] | None:
        if crop and any(side < DIVISOR or side % DIVISOR for side in crop):
            lower = [max(DIVISOR, side // DIVISOR * DIVISOR) for side in crop]
            upper = [-(-side // DIVISOR) * DIVISOR if side > DIVISOR else 2 * DIVISOR for side in crop]
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
        config: how to train. network: on `device` already. head: what its channels mean. draw: step -> batch.
        validate: network and step -> named figures, `SCORE` among them.
        out: folder for checkpoints and history. card: what the weights' card says beside step and scores.
        fingerprint: of configuration and data; a checkpoint of another is refused. resume: go on where one is.
        on_start, on_step, on_validation: told of progress.
    """

    config: TrainConfig
    network: torch.nn.Module
    head: Head
    draw: Callable[[int], Batch]
    validate: Callable[[torch.nn.Module, int], dict[str, float]]
    out: Path
    card: Mapping[str, Any]
    fingerprint: str
    device: str = "cpu"
    resume: bool = False
    on_start: Callable[[int, int], None] = lambda step, steps: None
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
    mean = averaged(network, config.ema)
    start, best, history = _resume(job, optimiser, mean)
    job.on_start(start, config.steps)

    network.train()
    started = marked = time.perf_counter()
    step, waited_before, sums = start, 0.0, _Sums()
    with BatchLoader(job.draw, start, start if _has_stalled(config, history) else config.steps) as loader:
        for step, batch in enumerate(loader, start + 1):
            # One step.
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step - 1)
            losses = train_step(network, job.head, optimiser, batch, config, device)
            if losses is None:
                raise _diverged(job, step)
            mean.update_parameters(network)
            sums.add(losses)
            job.on_step(step)
            if step % config.validate_every and step != config.steps:
                continue

            # Validation, history, the best weights, and last the state: a kill between them costs nothing but time.
            elapsed, waited = time.perf_counter() - marked, loader.waited_s - waited_before
            row: dict[str, Any] = {"step": step, "lr": learning_rate(config, step - 1), **sums.means()}
            row |= {f"val_{name}": _plain(value) for name, value in job.validate(mean.module, step).items()}
            row |= {"steps_per_s": sums.count / elapsed, "wait_share": waited / elapsed}
            history.append(row)
            score = row[f"val_{SCORE}"]
            if best is None or (score is not None and (best["score"] is None or score > best["score"])):
                best = {"step": step, "score": score}
                validation = {name: value for name, value in row.items() if name.startswith("val_")}
                card = {**job.card, "step": step, "validation": validation}
                write_weights(job.out / BEST, mean.module.state_dict(), card)
            write_history(job.out, history)
            state = {"step": step, "best": best, "history": history, "fingerprint": job.fingerprint}
            parts = {"model": network, "mean": mean}
            write_state(job.out / LAST, parts, {"optimiser": optimiser}, {**state, "kind": STATE_KIND}, device)
            job.on_validation(row)
            if _has_stalled(config, history):
                break
            marked, waited_before, sums = time.perf_counter(), loader.waited_s, _Sums()
        total = time.perf_counter() - started
        wait_share = loader.waited_s / total
    assert best is not None
    rate = (step - start) / total
    return FitResult(step, start, best["step"], best["score"], history, rate, wait_share)


def train_step(
    network: torch.nn.Module,
    head: Head,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    device: str,
) -> Losses | None:
    """One step of the optimiser; None, and no step, where the loss or the gradient is no number.

    Args:
        network: in training mode, on `device`. head: what its channels mean. optimiser: of its parameters.
        batch: what to learn from. config: loss, precision and the largest gradient.
        device: where to compute.
    """
    images, labels = (torch.from_numpy(array).to(device) for array in (batch.images, batch.labels))
    distances = None if batch.distances is None else torch.from_numpy(batch.distances).to(device)
    optimiser.zero_grad(set_to_none=True)
    with autocast(config.precision, device):
        output = network(to_input(images))
    logits, distance_logits = head.split(output)
    losses = segmentation_loss(logits, labels.long(), config.loss, distance_logits=distance_logits, distances=distances)
    losses.total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
    if not bool(torch.isfinite(losses.total + norm)):
        return None
    optimiser.step()
    return losses


def _has_stalled(config: TrainConfig, history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last `patience` validations brought nothing better than the best before them."""
    if config.patience is None or len(history) <= config.patience:
        return False
    found = [row[f"val_{SCORE}"] for row in history]
    scores = [-math.inf if score is None else float(score) for score in found]
    return max(scores[-config.patience :]) <= max(scores[: -config.patience])


class _Sums:
    """Running means of the losses since the last validation; kept on the device so that a step waits for nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._total: torch.Tensor | float = 0.0

    def add(self, losses: Losses) -> None:
        terms = torch.stack([losses.total, losses.dice, losses.cross_entropy, losses.distance]).detach()
        self._total, self.count = self._total + terms.double(), self.count + 1

    def means(self) -> dict[str, float]:
        assert isinstance(self._total, torch.Tensor)
        names = ("loss", "dice_loss", "cross_entropy", "distance_loss")
        return dict(zip(names, (self._total / self.count).tolist(), strict=True))


def _resume(
    job: Fit, optimiser: torch.optim.Optimizer, mean: torch.nn.Module
) -> tuple[int, dict[str, Any] | None, list[dict[str, Any]]]:
    """Restore the last checkpoint where there is one: (steps done, best so far, history)."""
    path = job.out / LAST
    if not job.resume or not path.exists():
        return 0, None, []
    checkpoint = read_checkpoint(path, STATE_KIND)
    if checkpoint.card.get("fingerprint") != job.fingerprint:
        raise UserError(f"{path}: expected the state of this configuration and data, got another's. Use another --out.")
    restore_state(checkpoint, {"model": job.network, "mean": mean}, {"optimiser": optimiser}, job.device)
    return int(checkpoint.card["step"]), checkpoint.card["best"], list(checkpoint.card["history"])


def _diverged(job: Fit, step: int) -> FaultError:
    path = job.out / LAST
    kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint had been written yet"
    return FaultError(
        f"training: expected a finite loss and gradient, got none at step {step}; {kept}. "
        "Lower --lr, or look at the images and labels of the data sets."
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
