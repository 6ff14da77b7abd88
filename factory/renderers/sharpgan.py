"""Sharp-GAN and Enhanced Sharp-GAN (Butte et al. 2022, 2023): nuclei with clean edges, in the stain of any slide.

It differs from pix2pix in the condition map (`factory.geometry.nuclear_maps`) and in terms of the loss for contours
(`factory.nets.contours`). Both are keys of the config, so that the presets are the rows of the paper's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from factory.nets.objectives import Adversarial
from factory.nets.pix2pixhd import GlobalGenerator, GlobalShape
from factory.nets.unet import UNet, UNetShape
from factory.renderers.conditions import ConditionConfig
from factory.renderers.learned.paired_training import PairedImageConfig, PairedImageTrainer
from factory.renderers.learned.renderer import TrainedRenderer
from manifests.labels import LabelScheme

Architecture = Literal["unet", "resnet"]


class SharpGanConfig(PairedImageConfig):
    """Training of Sharp-GAN.

    Attributes:
        architecture: of the generator: the U-Net of pix2pix, on which the paper builds, or pix2pixHD's.
        unet, resnet: its shape; only the one that `architecture` names is used.
        noise_channels: of Gaussian noise beside the condition map, for detail that no map describes: without it wide
            areas between nuclei are flat. A `UNet` has one.
        discriminator_loss, fooling, condition: as in the paper, whose terms of the loss are in the presets.
    """

    architecture: Architecture = "unet"
    unet: UNetShape = UNetShape()
    resnet: GlobalShape = GlobalShape()
    noise_channels: int = Field(default=1, ge=0)
    condition: ConditionConfig = ConditionConfig(kind="skeleton")
    discriminator_loss: Adversarial = "bce"
    fooling: Adversarial = "bce"

    @model_validator(mode="after")
    def _fits(self) -> SharpGanConfig:
        (self.unet if self.architecture == "unet" else self.resnet).check_size(self.size)
        if self.architecture == "unet" and self.noise_channels != 1:
            raise ValueError(f"noise_channels: expected 1 with architecture unet, got {self.noise_channels}")
        return self


class SharpGanTrainer(PairedImageTrainer):
    """Trains a generator on reliefs of nuclei, with contour terms."""

    Config = SharpGanConfig

    def __init__(self, config: SharpGanConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.noise_channels = config.noise_channels
        shape = config.unet if config.architecture == "unet" else config.resnet
        self.shape = {
            **shape.model_dump(mode="json"), "architecture": config.architecture,
            "in_channels": self.in_channels, "noise_channels": self.noise_channels,
        }  # fmt: skip
        self.set_generator(SharpGan.build(self.shape))


class SharpGan(TrainedRenderer):
    """Renders masks of nuclei."""

    name = "sharpgan"
    Trainer = SharpGanTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> UNet | GlobalGenerator:
        """Build the network of a card, without its weights: condition map and noise in, RGB out."""
        shape = dict(network)
        architecture, seen = shape.pop("architecture"), shape.pop("in_channels") + shape.pop("noise_channels")
        return GlobalGenerator(seen, **shape) if architecture == "resnet" else UNet(seen, 3, **shape)
