"""CycleGAN (Zhu et al. 2017) on coarse and fine masks without pairs: the baseline of PriorPath."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from factory.learn.trainer import Crops
from factory.learn.unpaired import UnpairedTrainer, UnpairedTrainerConfig
from factory.masks.learned.coarse_to_fine import CoarseToFineMasks, CoarseTrainer, CoarseTrainerConfig
from factory.nets.annealing import probabilities, to_labels
from factory.nets.resnet import ResnetGenerator
from manifests.labels import LabelScheme


class CycleGanTrainerConfig(UnpairedTrainerConfig, CoarseTrainerConfig):
    """Training of CycleGAN.

    Attributes:
        identity: weight of the identity loss.
    """

    identity: float = Field(default=0.0, ge=0)


class CycleGanTrainer(CoarseTrainer, UnpairedTrainer):
    """Trains two generators, coarse to fine and back, each against a discriminator of what it makes."""

    Config = CycleGanTrainerConfig
    kept = "to_fine"
    sides = ("fine", "coarse")
    streams = 2
    _config: CycleGanTrainerConfig

    def __init__(self, config: CycleGanTrainerConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.shape = {**config.network.model_dump(mode="json"), "channels": self._channels}
        generators = {f"to_{side}": CycleGan.build(self.shape) for side in self.sides}
        self.identity = config.identity
        self.oppose(generators, {side: self.discriminator(self._channels) for side in self.sides})

    def both(self, crops: list[Crops]) -> dict[str, torch.Tensor]:
        """Return fine masks, and the coarse maps of others."""
        return {"fine": self.tensor(crops[0]), "coarse": self.tensor(self.coarse(crops[1]))}

    def translated(self, side: str, source: torch.Tensor) -> torch.Tensor:
        """Generate probabilities of fine or coarse masks."""
        return probabilities(self.networks[f"to_{side}"](source))

    def made(self, network: nn.Module, coarse: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """Return the fine masks made of coarse ones."""
        return [to_labels(network(self.tensor(coarse))).cpu().numpy()]


class CycleGan(CoarseToFineMasks):
    """Draws region masks from coarse ones, without noise of its own."""

    name = "cyclegan"
    Trainer = CycleGanTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> ResnetGenerator:
        """Build the network of a card, without its weights: mask in, logits out."""
        channels, norm = network["channels"], network["norm"]
        return ResnetGenerator(channels, channels, network["width"], network["blocks"], norm, network["kernel"])
