"""A segmenter as the training loop trains it: one step, validation, the best weights, and when to stop early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from factory.core.checkpoints import BEST
from factory.core.fit import Diverged, Row, TrainingTask
from factory.core.precision import autocast
from segment.data.tiles import Batch
from segment.network.head import Head
from segment.network.networks import to_input
from segment.network.weights import STATE_KIND, write_weights
from segment.train.config import TrainConfig, learning_rate
from segment.train.losses import Losses, segmentation_loss

SCORE = "score"
"""The validation figure that decides which weights are best (`segment.train.validation`)."""


class SegmenterTask(TrainingTask[Batch]):
    """A segmentation network, validated at each checkpoint; the weights with the best score are kept.

    Args:
        network: on `device` already. head: meaning of its output channels. config: how to train.
        draw: step -> batch, a function of the step alone.
        validate: network and steps done -> named figures, `SCORE` among them.
        out: the run's folder. card: fields of the weights' card besides step and scores. device: where to train.
    """

    state_kind = STATE_KIND
    advice = "Lower --lr, or look at the images and labels of the data sets."
    kept = "model"

    def __init__(
        self,
        network: torch.nn.Module,
        head: Head,
        config: TrainConfig,
        draw: Callable[[int], Batch],
        validate: Callable[[torch.nn.Module, int], dict[str, float]],
        out: Path,
        card: Mapping[str, Any],
        device: str,
    ) -> None:
        self.networks = {"model": network}
        self._optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.optimisers = {"optimiser": self._optimiser}
        self.ema, self.steps, self.config = config.ema, config.steps, config
        self._network, self._head, self._device = network, head, device
        self._draw, self._validate, self._out, self._card = draw, validate, out, card

    def draw(self, step: int) -> Batch:
        """Return the batch of a step."""
        return self._draw(step)

    def learning_rate(self, step: int) -> float:
        """Return the rate of `segment.train.config.learning_rate`."""
        return learning_rate(self.config, step)

    def step(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Take one step; see `train_step`."""
        del step
        losses = train_step(self._network, self._head, self._optimiser, batch, self.config, self._device)
        terms = {
            "loss": losses.total,
            "dice_loss": losses.dice,
            "cross_entropy": losses.cross_entropy,
            "distance_loss": losses.distance,
        }
        return {name: term.detach() for name, term in terms.items()}

    def is_due(self, steps: int) -> bool:
        """Return whether `validate_every` steps have passed."""
        return steps % self.config.validate_every == 0

    def report(self, network: torch.nn.Module, steps: int) -> Row:
        """Return the learning rate and the validation figures; an undefined figure is None."""
        figures = self._validate(network, steps)
        scores = {f"val_{name}": None if math.isnan(value) else value for name, value in figures.items()}
        return {"lr": self.learning_rate(steps - 1), **scores}

    def keep(self, network: torch.nn.Module, history: Sequence[Row]) -> None:
        """Write the weights if they are the best so far."""
        row = history[-1]
        if best_row(history) is row:
            validation = {name: value for name, value in row.items() if name.startswith("val_")}
            card = {**self._card, "step": row["step"], "validation": validation}
            write_weights(self._out / BEST, network.state_dict(), card)

    def has_ended(self, history: Sequence[Row]) -> bool:
        """Return whether the last `patience` validations brought nothing better than those before them."""
        patience = self.config.patience
        if patience is None or len(history) <= patience:
            return False
        scores = [_score(row) for row in history]
        return max(scores[-patience:]) <= max(scores[:-patience])


def best_row(history: Sequence[Row]) -> Row:
    """Return the row with the best validation score; the first of several, and of undefined ones."""
    return max(history, key=_score)


def _score(row: Row) -> float:
    score = row[f"val_{SCORE}"]
    return -math.inf if score is None else float(score)


def train_step(
    network: torch.nn.Module,
    head: Head,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    device: str,
) -> Losses:
    """Take one step of the optimiser.

    Args:
        network: in training mode, on `device`. head: meaning of its output channels. optimiser: of its parameters.
        batch: what to learn from. config: loss, precision and the largest gradient.
        device: where to compute.

    Raises:
        Diverged: before the step, when the loss or the gradient is not finite.
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
        raise Diverged("a finite loss and gradient")
    optimiser.step()
    return losses
