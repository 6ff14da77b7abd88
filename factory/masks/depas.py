"""DEPAS (Larey et al. 2023): masks from noise; spatial noise, annealed output, discriminators at three scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config
from factory.learn.weights import WeightsConfig
from factory.masks.learned.generator import TrainedMasks
from factory.masks.learned.noise_to_mask import NoiseToMaskTrainer, NoiseToMaskTrainerConfig
from factory.nets.annealing import channels_of, sharpness
from factory.nets.depas import DepasGenerator
from factory.nets.discriminators import Scales, WholeDiscriminator
from factory.plan.request import Request
from manifests.labels import LabelScheme


class DepasShape(Config):
    """The generator's shape, see `DepasGenerator`; its widths and latents are ours, the paper gives none."""

    latent_tile: int = Field(default=16, ge=1)
    latent_place: int = Field(default=112, ge=1)
    widths: tuple[int, int, int, int, int] = (512, 256, 128, 64, 32)
    mixing: int = Field(default=2, ge=0)


class DepasTrainerConfig(NoiseToMaskTrainerConfig):
    """Training of DEPAS; the defaults are the paper's schedule.

    Attributes:
        network: the generator. discriminator_width: channels of the first layer of each discriminator.
        scales: discriminators at 100, 50, 25 % ... of the size, equal weights.
        anneal_epochs: the sigmoid's slope grows by 1, or the softmax's temperature falls to 4/5, every so many epochs.
    """

    network: DepasShape = DepasShape()
    discriminator_width: int = Field(default=64, ge=1)
    scales: int = Field(default=3, ge=1, le=4)
    anneal_epochs: int = Field(default=10, ge=1)


class DepasTrainer(NoiseToMaskTrainer):
    """Trains a `DepasGenerator`."""

    Config = DepasTrainerConfig

    def __init__(self, config: DepasTrainerConfig, scheme: LabelScheme, device: str) -> None:
        channels = channels_of(len(scheme))
        shape = {**config.network.model_dump(mode="json"), "out_channels": channels}
        sizes = [(config.size[0] >> level, config.size[1] >> level) for level in range(config.scales)]
        discriminators = Scales([WholeDiscriminator(channels, config.discriminator_width, size) for size in sizes])
        super().__init__(
            config,
            DepasGenerator(**shape),
            discriminators,
            channels,
            lambda epoch: sharpness(epoch, config.anneal_epochs, channels),
            device,
            shape,
        )


class Depas(TrainedMasks):
    """Draws region masks of any size that is a multiple of 32."""

    name = "depas"
    Config = WeightsConfig
    Trainer = DepasTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> DepasGenerator:
        """Build the network of a card, without its weights."""
        return DepasGenerator(**{key: value for key, value in network.items() if key != "sharpness"})

    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Sharpened logits of one tile, float32 [K, H, W]."""
        inputs = self.network.inputs([rng], (request.height, request.width))  # type: ignore[operator]
        return self.forward(*inputs) * np.float32(self.card.fields["network"]["sharpness"])
