"""pix2pix (Isola et al. 2017) from condition maps to images: a baseline of pix2pixHD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from factory.nets.objectives import Adversarial
from factory.nets.unet import UNet, UNetShape
from factory.renderers.learned.paired_training import ImageLossWeights, PairedImageConfig, PairedImageTrainer
from factory.renderers.learned.renderer import TrainedRenderer
from manifests.labels import LabelScheme


class Pix2PixConfig(PairedImageConfig):
    """Training of pix2pix.

    Attributes:
        network: the generator. discriminator_loss, fooling, loss: as in the paper.
    """

    network: UNetShape = UNetShape()
    discriminator_loss: Adversarial = "bce"
    fooling: Adversarial = "bce"
    loss: ImageLossWeights = ImageLossWeights(l1=100.0)

    @model_validator(mode="after")
    def _deep_enough(self) -> Pix2PixConfig:
        self.network.check_size(self.size)
        return self


class Pix2PixTrainer(PairedImageTrainer):
    """Trains a U-Net with a channel of noise, see `UNet`."""

    Config = Pix2PixConfig
    noise_channels = 1

    def __init__(self, config: Pix2PixConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.shape = {**config.network.model_dump(mode="json"), "in_channels": self.in_channels}
        self.set_generator(Pix2Pix.build(self.shape))


class Pix2Pix(TrainedRenderer):
    """Renders condition maps whose sides are multiples of 2^depth."""

    name = "pix2pix"
    Trainer = Pix2PixTrainer
    noise_channels = 1
    """The noise channel of `UNet`."""

    @staticmethod
    def build(network: Mapping[str, Any]) -> UNet:
        """Build the network of a card, without its weights: condition map and a channel of noise in, RGB out."""
        shape = dict(network)
        return UNet(shape.pop("in_channels") + 1, 3, **shape)
