"""DCGAN (Radford et al. 2016) on masks: the baseline of DEPAS, of one size, one discriminator, a plain sigmoid."""

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
from factory.nets.annealing import channels_of
from factory.nets.depas import DcganGenerator
from factory.nets.discriminators import Scales, WholeDiscriminator
from factory.plan.request import Request
from manifests.labels import LabelScheme


class DcganShape(Config):
    """The generator's shape, see `DcganGenerator`; a latent of 100 as in the paper."""

    latent: int = Field(default=100, ge=1)
    widths: tuple[int, int, int, int, int] = (512, 256, 128, 64, 32)


class DcganTrainerConfig(NoiseToMaskTrainerConfig):
    """Training of DCGAN: DEPAS' data, schedule and optimiser.

    Attributes:
        network: the generator. discriminator_width: channels of the first layer of the discriminator.
    """

    network: DcganShape = DcganShape()
    discriminator_width: int = Field(default=64, ge=1)


class DcganTrainer(NoiseToMaskTrainer):
    """Trains a `DcganGenerator`; its tanh is our sigmoid, up to scale."""

    Config = DcganTrainerConfig

    def __init__(self, config: DcganTrainerConfig, scheme: LabelScheme, device: str) -> None:
        channels = channels_of(len(scheme))
        shape = {**config.network.model_dump(mode="json"), "size": list(config.size), "out_channels": channels}
        discriminators = Scales([WholeDiscriminator(channels, config.discriminator_width, config.size)])
        super().__init__(config, Dcgan.build(shape), discriminators, channels, lambda epoch: 1.0, device, shape)


class Dcgan(TrainedMasks):
    """Draws region masks of the one size that its weights were trained on."""

    name = "dcgan"
    Config = WeightsConfig
    Trainer = DcganTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> DcganGenerator:
        """Build the network of a card, without its weights."""
        size = tuple(network["size"])
        return DcganGenerator(network["latent"], network["widths"], size, network["out_channels"])

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        height, width = self.card.fields["network"]["size"]
        if (request.height, request.width) != (height, width):
            return f"size: the weights of dcgan draw {height}x{width}, got {request.height}x{request.width}"
        return super().refusal(request)

    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Logits of one tile, float32 [K, H, W]."""
        return self.forward(*self.network.inputs([rng], (request.height, request.width)))  # type: ignore[operator]
