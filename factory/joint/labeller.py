"""Labellers: ensembles that classify pixels by a generator's features. Their training, and their files.

Histopathology-DatasetGAN (Rizvi et al.) trains one pixel classifier on 16 annotated images. DatasetGAN (Zhang et al.
2021) trains ten, takes the majority vote, and drops images on which they disagree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, field_validator

from factory.core.checkpoints import build_for, read_checkpoint, write_weights
from factory.core.config import Config
from factory.core.fit import TrainingTask, fit
from factory.core.seeds import Stream, generator, row_seed
from factory.core.training_folder import TrainingFolder
from factory.joint.pixels import Annotated, Pixels, pixel_batch, pixel_sampler
from factory.nets.pixel_classifier import Ensemble
from manifests.errors import FaultError, UserError

KIND = "hdgan-labeller"
STATE_KIND = "labeller-state"
"""Formerly "hdgan-labeller-state", with an optimiser for each member: such a state cannot be resumed."""
_STANDARDISED_ON = 16_384
"""Pixels that mean and deviation of the features are taken from."""


class PixelClassifierConfig(Config):
    """Shape of a `PixelClassifier`, by default the published one."""

    widths: tuple[PositiveInt, PositiveInt] = (128, 32)
    dropout: float = Field(default=0.3, ge=0, lt=1)


class LabellerConfig(Config):
    """Settings of a labeller's training, by default the published ones (paper and its authors' code).

    Attributes:
        network: of each member. members: size of the ensemble, 1 in HDGAN and 10 in DatasetGAN.
        batch: pixels per step. epochs: passes over the labelled pixels. steps: of each member; replaces the number
            that follows from the epochs. steps_within: fewest and most of them, otherwise.
        balanced: draw all classes equally often, however rare they are.
        optimiser: sgd as published, or adam. learning_rate: of either. momentum: of sgd.
        label_smoothing: share of the target that is spread over all classes.
        seed: of weights, pixels and dropout; member i does not depend on the number of members.
    """

    added: ClassVar[frozenset[str]] = frozenset({"steps_within"})

    network: PixelClassifierConfig = PixelClassifierConfig()
    members: int = Field(default=1, ge=1, le=100)
    batch: int = Field(default=65_536, ge=2)
    epochs: int = Field(default=25, ge=1)
    steps: int | None = Field(default=None, ge=1)
    steps_within: tuple[PositiveInt, PositiveInt] | None = None
    balanced: bool = True
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=1e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("steps_within")
    @classmethod
    def _is_range(cls, limits: tuple[int, int] | None) -> tuple[int, int] | None:
        if limits and limits[0] > limits[1]:
            raise ValueError("expected the fewest steps first, then the most")
        return limits


@dataclass(frozen=True)
class Fitted:
    """A trained ensemble in eval mode, and the loss of every step of every member."""

    ensemble: Ensemble
    losses: tuple[tuple[float, ...], ...]


class LabellerTask(TrainingTask[Pixels]):
    """Members of an ensemble, trained one after the other with the same number of steps each.

    Args:
        images: of one generator, features with the same channels. classes: of the labels. config: how to train.
        device: where. state_every: steps of a member between two states; None writes none before the end.

    Attributes:
        ensemble: what is trained. member_steps: of each member. losses: of each step of each member so far.
    """

    state_kind = STATE_KIND
    advice = "Lower learning_rate."
    keeps_history = False
    batches_ahead = 0  # a batch of all features of a large generator takes a gigabyte
    kept = "ensemble"
    ema = None

    def __init__(
        self,
        images: Sequence[Annotated],
        classes: int,
        config: LabellerConfig,
        device: str,
        state_every: int | None = None,
    ) -> None:
        self._images, self._config, self._device, self._every = images, config, device, state_every
        self._sampler = pixel_sampler(images, classes, balanced=config.balanced)
        self.member_steps = steps_of(self._sampler.labelled, config)
        self.steps = config.members * self.member_steps
        self.losses: list[list[float]] = []
        channels, network = sum(images[0].features.record.channels), config.network
        self.ensemble = Ensemble(channels, classes, config.members, network.widths, network.dropout)
        rng = generator(config.seed, Stream.FIT)
        count = min(_STANDARDISED_ON, self._sampler.labelled)
        self.ensemble.standardise_by(pixel_batch(images, self._sampler, rng, count)[0])
        self.ensemble.to(device)
        self._optimiser: torch.optim.Optimizer
        if config.optimiser == "sgd":
            self._optimiser = torch.optim.SGD(self.ensemble.parameters(), config.learning_rate, config.momentum)
        else:
            self._optimiser = torch.optim.Adam(self.ensemble.parameters(), config.learning_rate)
        self.networks, self.optimisers = {"ensemble": self.ensemble}, {"optimiser": self._optimiser}

    def draw(self, step: int) -> Pixels:
        """Return the pixels of a step; they depend on the member and its step alone."""
        number, own_step = divmod(step, self.member_steps)
        rng = generator(row_seed(self._config.seed, number), Stream.TRAIN_ORDER, own_step)
        return pixel_batch(self._images, self._sampler, rng, self._config.batch)

    def learning_rate(self, step: int) -> float:
        """Return the configured rate."""
        del step
        return self._config.learning_rate

    def step(self, batch: Pixels, step: int) -> dict[str, torch.Tensor]:
        """Take one step of the member whose turn it is."""
        number, own_step = divmod(step, self.member_steps)
        if own_step == 0:
            self._begin_member(number)
        x, truth = (part.to(self._device) for part in batch)
        logits = self.ensemble.members[number](self.ensemble.standardised(x))
        loss = F.cross_entropy(logits, truth, label_smoothing=self._config.label_smoothing)
        self._optimiser.zero_grad()  # of all members, so that only this one has gradients and is stepped
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.losses[number].append(float(loss.detach()))
        if not math.isfinite(self.losses[number][-1]):
            raise FaultError(
                f"labeller: expected a finite loss, got {self.losses[number][-1]} at step {own_step + 1} of member "
                f"{number + 1}. {self.advice}"
            )
        return {"loss": loss.detach()}

    def _begin_member(self, number: int) -> None:
        """Seed a member and draw its first weights, so that it is the same however many there are."""
        self._optimiser.state.clear()
        torch.manual_seed(row_seed(self._config.seed, number))
        self.ensemble.members[number].draw_weights()  # type: ignore[operator]
        self.losses.append([])

    def is_due(self, steps: int) -> bool:
        """Return whether a state is due: every so many steps of a member, and at its end."""
        return self._every is not None and steps % self.member_steps % self._every == 0

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return the losses of the members that were begun."""
        return {f"losses{number}": torch.tensor(each, dtype=torch.float64) for number, each in enumerate(self.losses)}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore the losses."""
        self.losses = [tensors[f"losses{number}"].tolist() for number in range(len(tensors))]


def fit_labeller(
    images: Sequence[Annotated],
    classes: int,
    config: LabellerConfig,
    *,
    device: str = "cpu",
    folder: TrainingFolder | None = None,
    state_every: int | None = None,
    on_step: Callable[[int, int, float], None] = lambda member, step, loss: None,
) -> Fitted:
    """Train an ensemble; on a CPU the same images and config give the same bytes.

    Args:
        images, classes, config, device, state_every: see `LabellerTask`.
        folder: that the state is written to, and resumed from if there is one; None writes none.
        on_step: called with member and step, from 0, and the loss.

    Raises:
        UserError: for labels of another size, other classes, nothing labelled, or the state of another fit.
        FaultError: when a loss is not finite.
    """
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        task = LabellerTask(images, classes, config, device, state_every)

        def after(done: int) -> None:
            on_step(*divmod(done - 1, task.member_steps), task.losses[-1][-1])

        fit(task, folder, device=device, resume=True, on_step=after)
    return Fitted(task.ensemble.eval(), tuple(map(tuple, task.losses)))


def steps_of(labelled: int, config: LabellerConfig) -> int:
    """Return the steps of each member for a number of labelled pixels."""
    if config.steps is not None:
        return config.steps
    fewest, most = config.steps_within or (1, sys.maxsize)
    return min(max(config.epochs * math.ceil(labelled / config.batch), fewest), most)


@dataclass(frozen=True)
class Labeller:
    """An ensemble in eval mode and the card that it came with."""

    ensemble: Ensemble
    card: Mapping[str, Any]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the features that it reads, tap by tap."""
        return tuple(self.card["channels"])


def write_labeller(
    path: Path,
    fitted: Fitted,
    config: LabellerConfig,
    images: Sequence[Annotated],
    card: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> None:
    """Write a labeller as safetensors with its card, and the card beside as JSON.

    Args:
        path: the file. fitted, config, images: result, settings and training images.
        card: further fields: the scheme, sources, licences. calibration: on held-out images if there are some.
    """
    records = [image.features.record for image in images]
    document = {
        **card,
        "kind": KIND,
        "network": {
            "channels": fitted.ensemble.channels,
            "classes": fitted.ensemble.classes,
            "members": config.members,
            **config.network.model_dump(mode="json"),
        },
        "channels": list(records[0].channels),
        "generator_sha256": records[0].weights_sha256,
        "latents_sha256": [record.latent_sha256 for record in records],
        "config": config.model_dump(mode="json"),
        "calibration": calibration,
    }
    write_weights(path, fitted.ensemble.state_dict(), document)


def read_labeller(path: Path, generator_sha256: str | None = None) -> Labeller:
    """Read a labeller.

    Args:
        path: the file. generator_sha256: of the weights whose features it must have been trained on; None takes any.

    Raises:
        UserError: for a file that is missing, damaged, of another kind, or for another generator.
    """
    checkpoint = read_checkpoint(path, KIND)
    card = checkpoint.card
    found = str(card.get("generator_sha256"))
    if generator_sha256 is not None and found != generator_sha256:
        raise UserError(
            f"{path}: expected a labeller for the generator {generator_sha256[:12]}, got one for {found[:12]}. "
            "Features of one generator mean nothing to the labeller of another: train one for these weights."
        )
    try:
        ensemble = build_for(path, lambda: Ensemble(**card["network"]))
        ensemble.load_state_dict(checkpoint.tensors)
        if sum(card["channels"]) != ensemble.channels:
            raise ValueError("channels")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: expected the weights that its card describes, got others. Get it again.") from error
    return Labeller(ensemble.eval(), card)
