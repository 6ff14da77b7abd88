"""Trainers of generators: the configuration that they share, their Protocol, and their schedule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import nn

from factory.core.config import Config
from factory.core.precision import Precision
from factory.learn.crops import Tiles
from factory.nets import STRIDE
from manifests.labels import LabelScheme


class TrainerConfig(Config):
    """Settings of every trainer of a generator; each trainer's `Config` adds its networks and losses.

    Attributes:
        scheme: label scheme of the masks; null takes the richest that all data sets can be read as.
        size: height and width of the crops in pixels, multiples of 32. batch: crops per step.
        epochs: passes over the tiles, with one crop of each tile per pass. steps: replaces the number that follows.
        decay_epochs: number of last epochs in which the learning rate falls linearly to 0.
        learning_rate, beta1, beta2: of Adam.
        ema: decay of the running mean of the weights, which is kept; 0 keeps the last weights.
        max_background: crops with a larger share of air are drawn again, as the papers drop such tiles.
        look_every: steps between checkpoints, each with a row of the history and a sheet of samples.
        precision: number format of the networks; auto is bf16 where the machine computes it in hardware.
        seed: of weights, order, crops and noise. threads: CPU threads of torch; null takes all cores.
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
        """Refuse masks that the trainer cannot learn from, before anything is written; by default none.

        Args:
            scheme: of the masks. mpp: micrometres per pixel.

        Raises:
            UserError: with the reason.
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
"""One array of a batch: masks uint8 [N, H, W], masks with images uint8 [N, H, W, 4], or what else a trainer draws."""


class Trainer(Protocol):
    """Networks of a generator and their training objective. Trainers name this class as their base.

    Attributes:
        Config: its configuration. kind: of the weights' file.
        images_alone: whether it learns from images without their masks, so that ignored pixels do no harm.
        networks: all that are trained, by name, on their device. A name contains no dot.
        optimisers: of their parameters, by name. A name contains no dot.
        kept: name of the network whose weights are wanted. shape: of that network, for the card.
    """

    Config: ClassVar[type[TrainerConfig]]
    kind: ClassVar[str]
    images_alone: ClassVar[bool] = False
    networks: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    kept: str = "generator"
    shape: Mapping[str, Any]

    @abstractmethod
    def __init__(self, config: TrainerConfig, scheme: LabelScheme, device: str) -> None: ...

    @abstractmethod
    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return step (0-based) -> batch, a function of the step alone."""

    @abstractmethod
    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Take one step of all optimisers on a batch of `draw_from`.

        Args:
            crops: the batch. step, epoch: 0-based.

        Returns:
            Scalar losses by name, detached.
        """

    @abstractmethod
    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return columns of the sheet of samples, from the same noise each time.

        Args:
            network: the kept one or its running mean. crops: a batch.

        Returns:
            Masks uint8 [n, H, W] or RGB images uint8 [n, H, W, 3].
        """

    def card(self) -> dict[str, Any]:
        """Return the fields of the weights' card that the kept network needs; by default its shape."""
        return {"network": dict(self.shape)}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return tensors besides networks and optimisers that a resumed run needs."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `extra_state`."""
        del tensors

    def descend(self, name: str, loss: torch.Tensor) -> None:
        """Take one step of the optimiser ``adam_NAME`` on a loss."""
        optimiser = self.optimisers[f"adam_{name}"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def adam(config: TrainerConfig, *networks: nn.Module) -> torch.optim.Optimizer:
    """Return Adam for all parameters of some networks."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return torch.optim.Adam(parameters, config.learning_rate, (config.beta1, config.beta2))


def rate_factor(config: TrainerConfig, step: int, steps: int) -> float:
    """Share of the learning rate at a step (0-based): 1, then linearly to 0 over the last `decay_epochs`."""
    decay = steps * min(config.decay_epochs, config.epochs) / config.epochs
    return min(1.0, (steps - step) / decay) if decay else 1.0


def epoch_of(config: TrainerConfig, step: int, steps: int) -> int:
    """Epoch of a step (0-based). A run of fewer steps goes through the same `epochs`, only faster."""
    return min(step * config.epochs // steps, config.epochs - 1)
