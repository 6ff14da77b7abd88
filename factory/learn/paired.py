"""The training step of pix2pix (Isola et al. 2017): pairs of a condition and what is drawn on it, seen together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.config import Config
from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.trainer import Crops, Trainer, TrainerConfig, adam
from factory.nets.discriminators import PatchDiscriminator, Scales, refuse_small_crops
from factory.nets.objectives import Adversarial, adversarial_loss

Terms = dict[str, torch.Tensor]


class PairedTrainerConfig(TrainerConfig):
    """Training on pairs.

    Attributes:
        discriminator_width, discriminator_depth: of each PatchGAN. discriminators: at 100, 50 ... % of the size.
        discriminator_padding: of their convolutions. discriminator_pooling: side of the squares whose means are the
            smaller image, see `Scales`. sum_discriminators: the adversarial loss is a sum over the discriminators, not
            their mean. pix2pixHD's code has 2, 3 and true.
    """

    added: ClassVar = frozenset({"discriminator_padding", "discriminator_pooling", "sum_discriminators"})

    discriminator_width: int = Field(default=64, ge=1)
    discriminator_depth: int = Field(default=3, ge=1, le=5)
    discriminators: int = Field(default=1, ge=1, le=3)
    discriminator_padding: int = Field(default=1, ge=1, le=2)
    discriminator_pooling: int = Field(default=2, ge=2, le=3)
    sum_discriminators: bool = False

    @model_validator(mode="after")
    def _large_enough(self) -> PairedTrainerConfig:
        refuse_small_crops(self.size, self.discriminator_depth, self.discriminators)
        return self


class PairedTrainer(Trainer):
    """Trains a generator against PatchGANs that see the condition and the drawn or real sample."""

    noise_channels = 0
    """Channels of Gaussian noise after those of the condition."""
    _config: PairedTrainerConfig
    _device: str

    def oppose(self, network: nn.Module, channels: int, norm: str, kind: Adversarial, weights: Config) -> None:
        """Take a generator, and make its discriminators and the optimisers.

        Args:
            network: the generator. channels, norm: of the discriminators. kind: of their loss. weights: of the terms
                of the generator loss, by name.
        """
        config = self._config
        self._kind, self._weights = kind, weights.model_dump()
        transposed = any(isinstance(layer, nn.ConvTranspose2d) for layer in network.modules())
        # On a CPU channels last takes 18 % less time a step (pix2pixhd_light), but many times as long with transposed
        # convolutions.
        self._layout = torch.contiguous_format if transposed else torch.channels_last
        width, depth, padding = config.discriminator_width, config.discriminator_depth, config.discriminator_padding
        patches = [
            PatchDiscriminator(channels, width, depth, norm, padding=padding) for _ in range(config.discriminators)
        ]
        discriminators = Scales(patches, config.discriminator_pooling)
        self.networks = {
            name: part.to(self._device).to(memory_format=self._layout)
            for name, part in (("generator", network), ("discriminators", discriminators))
        }
        self.optimisers = {f"adam_{name}": adam(config, part) for name, part in self.networks.items()}

    @abstractmethod
    def pair(self, crops: list[Crops]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return conditions and real samples of a batch, float32 [N, C, H, W] each."""

    @abstractmethod
    def activated(self, output: torch.Tensor) -> torch.Tensor:
        """Return samples, of the generator's output."""

    @abstractmethod
    def terms(self, seen: torch.Tensor, real: torch.Tensor, made: torch.Tensor) -> Terms:
        """Return the terms of the generator loss with a weight above 0; computed in the networks' number format."""

    def extra_terms(self, real: torch.Tensor, made: torch.Tensor, crops: list[Crops]) -> Terms:
        """Return further terms, computed in float32; by default none."""
        del real, made, crops
        return {}

    def step(self, crops: list[Crops], step: int, epoch: int) -> Terms:
        """Train the discriminators on real and generated samples, then the generator."""
        del epoch
        config, discriminators = self._config, self.networks["discriminators"]
        seen, real = (part.contiguous(memory_format=self._layout) for part in self.pair(crops))
        with autocast(config.precision, self._device):
            made = self.activated(self.networks["generator"](self.with_noise(seen, Stream.TRAIN_NOISE, step)))

            # Discriminators: half of their loss, as in pix2pix, so that they learn more slowly.
            outputs = zip(self.discriminated(seen, real), self.discriminated(seen, made.detach()), strict=True)
            discriminator_loss = 0.5 * self.over_discriminators(
                adversarial_loss(r[-1], True, self._kind) + adversarial_loss(m[-1], False, self._kind)
                for r, m in outputs
            )
        self.descend("discriminators", discriminator_loss)

        # Generator.
        discriminators.requires_grad_(False)
        with autocast(config.precision, self._device):
            terms = self.terms(seen, real, made)
        terms |= self.extra_terms(real, made, crops)
        self.descend("generator", torch.stack([self._weights[name] * value for name, value in terms.items()]).sum())
        discriminators.requires_grad_(True)
        return {name: value.detach() for name, value in {**terms, "discriminators": discriminator_loss}.items()}

    def discriminated(self, seen: torch.Tensor, sample: torch.Tensor) -> list[list[torch.Tensor]]:
        """Return the outputs of each discriminator's layers for conditions and samples; the last are logits."""
        features: list[list[torch.Tensor]] = self.networks["discriminators"](
            torch.cat([seen, sample.to(seen.dtype)], 1)
        )
        return features

    def over_discriminators(self, losses: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the adversarial loss of all discriminators, of that of each."""
        each = torch.stack(list(losses))
        return each.sum() if self._config.sum_discriminators else each.mean()

    def with_noise(self, seen: torch.Tensor, stream: Stream, step: int) -> torch.Tensor:
        """Return conditions with the channels of noise of a step."""
        if not self.noise_channels:
            return seen
        shape = (len(seen), self.noise_channels, *seen.shape[2:])
        noise = torch.from_numpy(generator(self._config.seed, stream, step).standard_normal(shape, np.float32))
        return torch.cat([seen, noise.to(self._device)], 1)
