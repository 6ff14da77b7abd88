"""CycleGAN (Zhu et al. 2017) between condition maps and images, without pairs: a baseline of pix2pixHD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from factory.learn.crops import ImageCrops, Tiles
from factory.learn.trainer import Crops
from factory.learn.unpaired import UnpairedTrainer, UnpairedTrainerConfig
from factory.nets.resnet import ResnetGenerator
from factory.renderers.learned.image_training import ImageTrainer, ImageTrainerConfig
from factory.renderers.learned.renderer import TrainedRenderer
from manifests.labels import LabelScheme


class CycleGanConfig(ImageTrainerConfig, UnpairedTrainerConfig):
    """Training of CycleGAN."""


class CycleGanTrainer(ImageTrainer, UnpairedTrainer):
    """Trains two generators, maps to images and back, with a discriminator each; maps and images are unpaired."""

    Config = CycleGanConfig
    sides = ("images", "maps")
    _config: CycleGanConfig

    def __init__(self, config: CycleGanConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.shape = {**config.network.model_dump(mode="json"), "in_channels": self.in_channels}
        shape, norm = config.network, config.network.norm
        back = ResnetGenerator(3, self.in_channels, shape.width, shape.blocks, norm, shape.kernel)
        discriminators = {"images": self.discriminator(3), "maps": self.discriminator(self.in_channels)}
        self.oppose({"generator": CycleGan.build(self.shape), "back": back}, discriminators)

    def streams(self, tiles: Tiles) -> list[ImageCrops]:
        """Return two independent streams: of condition maps, and of images."""
        config = self._config
        return [
            ImageCrops(tiles, config.size, config.batch, config.seed, config.max_background, stream)
            for stream in range(2)
        ]

    def both(self, crops: list[Crops]) -> dict[str, torch.Tensor]:
        """Return condition maps with stain references, and images of other crops."""
        return {"maps": self.seen(crops), "images": self.images(crops)}

    def translated(self, side: str, source: torch.Tensor) -> torch.Tensor:
        """Generate images in -1..1, or maps: probabilities of the classes, and colours of the stain reference."""
        if side == "images":
            made: torch.Tensor = self.networks["generator"](source).tanh()
            return made
        output = self.networks["back"](source)
        classes, colours = output[:, : self._channels], output[:, self._channels :]
        return torch.cat([classes.softmax(1), colours.tanh()], 1)


class CycleGan(TrainedRenderer):
    """Renders condition maps of any size that is a multiple of 32."""

    name = "cyclegan"
    Trainer = CycleGanTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> nn.Module:
        """Build the network of a card, without its weights: condition map in, RGB out."""
        shape = (network["width"], network["blocks"], network["norm"], network["kernel"])
        return ResnetGenerator(network["in_channels"], 3, *shape)
