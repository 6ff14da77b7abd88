"""PriorPath (Daniel et al. 2024): fine masks from coarse ones by pix2pix (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.config import Config
from factory.core.seeds import Stream
from factory.learn.paired import PairedTrainer, PairedTrainerConfig, Terms
from factory.learn.trainer import Crops
from factory.masks.learned.coarse_to_fine import CoarseToFineMasks, CoarseTrainer, CoarseTrainerConfig
from factory.nets.annealing import probabilities, to_labels
from factory.nets.objectives import Adversarial, adversarial_loss, feature_matching
from factory.nets.unet import UNet, UNetShape
from manifests.labels import LabelScheme


class LossWeights(Config):
    """Weights of the terms of the generator loss.

    Attributes:
        adversarial: of the discriminators. l1: mean absolute difference from the paired mask (pix2pix: 100).
        feature: feature matching, for each discriminator. mean_prediction: square of the difference between the
            discriminators' mean predictions of generated and of real masks (PriorPath, 2.8).
    """

    adversarial: float = Field(default=1.0, ge=0)
    l1: float = Field(default=100.0, ge=0)
    feature: float = Field(default=0.0, ge=0)
    mean_prediction: float = Field(default=0.0, ge=0)


class PriorPathTrainerConfig(PairedTrainerConfig, CoarseTrainerConfig):
    """Training of PriorPath.

    Attributes:
        network: the generator. adversarial: cross entropy or least squares. discriminator_loss: that of the
            discriminators, where it is another. loss: weights of the terms.
    """

    added: ClassVar = PairedTrainerConfig.added | {"discriminator_loss"}

    network: UNetShape = UNetShape()
    adversarial: Adversarial = "bce"
    discriminator_loss: Adversarial | None = None
    loss: LossWeights = LossWeights()

    @model_validator(mode="after")
    def _deep_enough(self) -> PriorPathTrainerConfig:
        self.network.check_size(self.size)
        return self


class PriorPathTrainer(CoarseTrainer, PairedTrainer):
    """Trains a `UNet` on pairs of coarse and fine masks against PatchGANs that see both."""

    Config = PriorPathTrainerConfig
    noise_channels = 1
    _config: PriorPathTrainerConfig

    def __init__(self, config: PriorPathTrainerConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.shape = {**config.network.model_dump(mode="json"), "channels": self._channels}
        network = PriorPath.build(self.shape)
        kind = config.discriminator_loss or config.adversarial
        self.oppose(network, 2 * self._channels, config.network.norm, kind, config.loss)

    def pair(self, crops: list[Crops]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coarse and fine masks."""
        return self.tensor(self.coarse(crops[0])), self.tensor(crops[0])

    def activated(self, output: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        return probabilities(output)

    def terms(self, seen: torch.Tensor, real: torch.Tensor, made: torch.Tensor) -> Terms:
        """Return the terms of the generator loss with a weight above 0."""
        weights, kind = self._config.loss, self._config.adversarial
        of_made = self.discriminated(seen, made)
        terms = {"adversarial": self.over_discriminators(adversarial_loss(f[-1], True, kind) for f in of_made)}
        if weights.l1:
            terms["l1"] = (made.float() - real).abs().mean()
        if weights.feature or weights.mean_prediction:
            with torch.no_grad():
                of_real = self.discriminated(seen, real)
            pairs = list(zip(of_made, of_real, strict=True))
            if weights.feature:
                terms["feature"] = torch.stack([feature_matching(m, r) for m, r in pairs]).sum()
            if weights.mean_prediction:
                gaps = [m[-1].float().sigmoid().mean() - r[-1].float().sigmoid().mean() for m, r in pairs]
                terms["mean_prediction"] = torch.stack([gap.square() for gap in gaps]).mean()
        return terms

    def made(self, network: nn.Module, coarse: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """Return two fine masks made of each coarse one, from fixed noise."""
        seen = self.tensor(coarse)
        return [to_labels(network(self.with_noise(seen, Stream.SAMPLE, draw))).cpu().numpy() for draw in range(2)]


class PriorPath(CoarseToFineMasks):
    """Draws region masks from coarse ones that the plan draws, a person sketches, or a data set has."""

    name = "priorpath"
    Trainer = PriorPathTrainer
    noise_channels = 1

    @staticmethod
    def build(network: Mapping[str, Any]) -> UNet:
        """Build the network of a card, without its weights: coarse mask and a channel of noise in, logits out."""
        shape = dict(network)
        channels = shape.pop("channels")
        return UNet(channels + 1, channels, **shape)
