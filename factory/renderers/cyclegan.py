"""CycleGAN (Zhu et al. 2017) between condition maps and images, without pairs: a baseline of pix2pixHD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from factory.learn.crops import ImageCrops, Tiles
from factory.learn.trainer import Crops, TrainerConfig
from factory.learn.unpaired import CycleLoss, CycleStep
from factory.nets.discriminators import PatchDiscriminator, refuse_small_crops
from factory.nets.objectives import Adversarial
from factory.nets.resnet import ResnetGenerator, ResnetShape
from factory.renderers.conditions import ConditionConfig
from factory.renderers.learned.image_training import ImageTrainer, NetworkInputs
from factory.renderers.learned.renderer import TrainedRenderer
from manifests.labels import LabelScheme


class CycleGanConfig(TrainerConfig):
    """Training of CycleGAN.

    Attributes:
        condition, look, look_jitter: inputs of the network, see `NetworkInputs`.
        network: both generators. discriminator_width, discriminator_depth: of both PatchGANs. adversarial: least
        squares in the paper. cycle: weight of the cycle loss. pool: size of each discriminator's history buffer.
    """

    condition: ConditionConfig = ConditionConfig()
    look: bool = False
    look_jitter: float = Field(default=0.0, ge=0, le=0.5)
    batch: int = Field(default=1, ge=1)
    network: ResnetShape = ResnetShape()
    discriminator_width: int = Field(default=64, ge=1)
    discriminator_depth: int = Field(default=3, ge=1, le=5)
    adversarial: Adversarial = "lsgan"
    cycle: float = Field(default=10.0, ge=0)
    pool: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _large_enough(self) -> CycleGanConfig:
        refuse_small_crops(self.size, self.discriminator_depth)
        return self

    @property
    def inputs(self) -> NetworkInputs:
        """Inputs of the network."""
        return NetworkInputs(self.condition, self.look, self.look_jitter)

    def check_data(self, scheme: LabelScheme, mpp: float) -> None:
        """Refuse masks that the inputs cannot be made of; see `NetworkInputs.check`."""
        self.inputs.check(scheme, mpp)


class CycleGanTrainer(ImageTrainer):
    """Trains two generators, maps to images and back, with a discriminator each; maps and images are unpaired."""

    Config = CycleGanConfig

    def __init__(self, config: CycleGanConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, config.inputs, scheme, device)
        self._shape = {**config.network.model_dump(mode="json"), "in_channels": self.in_channels}
        shape, norm = config.network, config.network.norm
        back = ResnetGenerator(3, self.in_channels, shape.width, shape.blocks, norm, shape.kernel)
        discriminators: dict[str, nn.Module] = {
            side: PatchDiscriminator(channels, config.discriminator_width, config.discriminator_depth, norm).to(device)
            for side, channels in (("images", 3), ("maps", self.in_channels))
        }
        self.networks = {"generator": CycleGan.build(self._shape).to(device), "back": back.to(device)}
        generators = [*self.networks["generator"].parameters(), *self.networks["back"].parameters()]
        self.networks |= {f"discriminator_{side}": network for side, network in discriminators.items()}
        loss = CycleLoss(config.adversarial, config.cycle, 0.0, config.pool, config.seed, config.precision)
        rates = (config.learning_rate, (config.beta1, config.beta2))
        self._cycle = CycleStep(loss, ("images", "maps"), self._made, discriminators, generators, rates, device)
        self.optimisers = self._cycle.optimisers

    def shape(self) -> dict[str, Any]:
        """Return the shape of the generator of images."""
        return dict(self._shape)

    def streams(self, tiles: Tiles) -> list[ImageCrops]:
        """Return two independent streams: of condition maps, and of images."""
        config = self._config
        return [
            ImageCrops(tiles, config.size, config.batch, config.seed, config.max_background, stream)
            for stream in range(2)
        ]

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Train both generators, then both discriminators; see `CycleStep`."""
        del epoch
        return self._cycle.step({"maps": self.seen(crops), "images": self.images(crops)}, step)

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return both history buffers."""
        return self._cycle.extra_state()

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore both history buffers."""
        self._cycle.load_extra_state(tensors)

    def _made(self, side: str, source: torch.Tensor) -> torch.Tensor:
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
