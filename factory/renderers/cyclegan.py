"""CycleGAN (Zhu et al. 2017) between condition maps and images, without pairs: a baseline of pix2pixHD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.crops import ImageCrops, Tiles
from factory.learn.trainer import Crops
from factory.nets.discriminators import PatchDiscriminator, mixed_with_history, refuse_small_crops
from factory.nets.objectives import Adversarial, adversarial_loss
from factory.nets.resnet import ResnetGenerator, ResnetShape
from factory.renderers.learned.image_training import ImageTrainer, ImageTrainerConfig
from factory.renderers.learned.renderer import TrainedRenderer
from manifests.labels import LabelScheme


class CycleGanConfig(ImageTrainerConfig):
    """How CycleGAN is trained.

    Attributes:
        network: both generators. discriminator_width, discriminator_depth: of both PatchGANs. adversarial: least
        squares in the paper. cycle: weight of the cycle loss. pool: made-up images that the discriminators remember.
    """

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


class CycleGanTrainer(ImageTrainer):
    """Trains two generators, maps to images and back, with a discriminator each; maps and images are unpaired."""

    Config = CycleGanConfig
    _config: CycleGanConfig

    def __init__(self, config: CycleGanConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self._shape = {**config.network.model_dump(mode="json"), "in_channels": self.in_channels}
        shape, norm = config.network, config.network.norm
        back = ResnetGenerator(3, self.in_channels, shape.width, shape.blocks, norm, shape.kernel)
        discriminators = [
            PatchDiscriminator(channels, config.discriminator_width, config.discriminator_depth, norm)
            for channels in (3, self.in_channels)
        ]
        self.networks = {
            "generator": CycleGan.build(self._shape).to(device),
            "back": back.to(device),
            "discriminator_images": discriminators[0].to(device),
            "discriminator_maps": discriminators[1].to(device),
        }
        rates = (config.learning_rate, (config.beta1, config.beta2))
        made_by = [*self.networks["generator"].parameters(), *self.networks["back"].parameters()]
        discriminated_by = [*discriminators[0].parameters(), *discriminators[1].parameters()]
        self.optimisers = {
            "adam_generators": torch.optim.Adam(made_by, *rates),
            "adam_discriminators": torch.optim.Adam(discriminated_by, *rates),
        }
        self._pools: dict[str, list[npt.NDArray[np.float32]]] = {"images": [], "maps": []}

    def shape(self) -> dict[str, Any]:
        """Shape of the generator of images."""
        return dict(self._shape)

    def streams(self, tiles: Tiles) -> list[ImageCrops]:
        """Two streams that have nothing to do with each other: of condition maps, and of images."""
        config = self._config
        return [
            ImageCrops(tiles, config.size, config.batch, config.seed, config.max_background, stream)
            for stream in range(2)
        ]

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """One step of both generators, then one of both discriminators."""
        del epoch
        config = self._config
        real = {"maps": self.seen(crops), "images": self.images(crops)}
        discriminators = [self.networks["discriminator_images"], self.networks["discriminator_maps"]]

        # Generators.
        self.optimisers["adam_generators"].zero_grad(set_to_none=True)
        for discriminator in discriminators:
            discriminator.requires_grad_(False)
        with autocast(config.precision, self._device):
            made = {side: self._made(side, real[_other(side)]) for side in real}
            fooled = torch.stack([self._adversarial(side, made[side], True) for side in real]).sum()
            back = [(self._made(side, made[_other(side)]) - real[side]).abs().mean() for side in real]
            cycle = torch.stack(back).sum()
            total = fooled + config.cycle * cycle
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_generators"].step()

        # Discriminators, on a history of what was made.
        self.optimisers["adam_discriminators"].zero_grad(set_to_none=True)
        for discriminator in discriminators:
            discriminator.requires_grad_(True)
        with autocast(config.precision, self._device):
            told = [
                self._adversarial(s, real[s], True) + self._adversarial(s, self._remembered(s, made[s], step), False)
                for s in real
            ]
            discriminator_loss = 0.5 * torch.stack(told).sum()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_discriminators"].step()
        return {"adversarial": fooled.detach(), "cycle": cycle.detach(), "discriminators": discriminator_loss.detach()}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Both histories."""
        return {f"pool_{side}": torch.from_numpy(np.stack(pool)) for side, pool in self._pools.items() if pool}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put both histories back."""
        self._pools = {side: list(tensors[f"pool_{side}"].numpy()) for side in self._pools}

    def _made(self, side: str, source: torch.Tensor) -> torch.Tensor:
        """Images in -1..1, or maps: probabilities of the classes, and the look's colours."""
        if side == "images":
            made: torch.Tensor = self.networks["generator"](source).tanh()
            return made
        said = self.networks["back"](source)
        classes, colours = said[:, : self._channels], said[:, self._channels :]
        return torch.cat([classes.softmax(1), colours.tanh()], 1)

    def _adversarial(self, side: str, shown: torch.Tensor, real: bool) -> torch.Tensor:
        return adversarial_loss(self.networks[f"discriminator_{side}"](shown)[-1], real, self._config.adversarial)

    def _remembered(self, side: str, made: torch.Tensor, step: int) -> torch.Tensor:
        rng = generator(self._config.seed, Stream.TRAIN_NOISE, 2 * step + (side == "maps"))
        shown = mixed_with_history(self._pools[side], list(made.detach().float().cpu().numpy()), rng, self._config.pool)
        return torch.from_numpy(np.stack(shown)).to(self._device)


class CycleGan(TrainedRenderer):
    """Renders condition maps of any size that is a multiple of 32."""

    name = "cyclegan"
    Trainer = CycleGanTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> nn.Module:
        """The network of a card, with any weights: condition map in, RGB out."""
        shape = (network["width"], network["blocks"], network["norm"], network["kernel"])
        return ResnetGenerator(network["in_channels"], 3, *shape)


def _other(side: str) -> str:
    return "maps" if side == "images" else "images"
