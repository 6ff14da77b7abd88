"""The training step of CycleGAN (Zhu et al. 2017): unpaired sides, a generator and a discriminator each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.trainer import Crops, Trainer, TrainerConfig, adam
from factory.nets.discriminators import PatchDiscriminator, mixed_with_history, refuse_small_crops
from factory.nets.objectives import Adversarial, adversarial_loss
from factory.nets.resnet import ResnetShape


class UnpairedTrainerConfig(TrainerConfig):
    """Training without pairs.

    Attributes:
        network: both generators. discriminator_width, discriminator_depth: of both PatchGANs.
        adversarial: least squares in the paper. cycle: weight of the cycle loss.
        pool: size of each discriminator's history buffer.
    """

    network: ResnetShape = ResnetShape()
    discriminator_width: int = Field(default=64, ge=1)
    discriminator_depth: int = Field(default=3, ge=1, le=5)
    adversarial: Adversarial = "lsgan"
    cycle: float = Field(default=10.0, ge=0)
    pool: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _large_enough(self) -> UnpairedTrainerConfig:
        refuse_small_crops(self.size, self.discriminator_depth)
        return self


class UnpairedTrainer(Trainer):
    """Trains both generators, then both discriminators on a history of generated samples.

    Attributes:
        sides: names of the sides; their places choose random streams. identity: weight of the identity loss.
    """

    sides: ClassVar[tuple[str, str]]
    identity: float = 0.0
    _config: UnpairedTrainerConfig
    _device: str

    def discriminator(self, channels: int) -> nn.Module:
        """Make the discriminator of a side."""
        config = self._config
        width, depth, norm = config.discriminator_width, config.discriminator_depth, config.network.norm
        return PatchDiscriminator(channels, width, depth, norm)

    def oppose(self, generators: Mapping[str, nn.Module], discriminators: Mapping[str, nn.Module]) -> None:
        """Take both generators by name and the discriminators by side, and make optimisers for them."""
        named = {f"discriminator_{side}": network for side, network in discriminators.items()}
        self.networks = {name: network.to(self._device) for name, network in {**generators, **named}.items()}
        self.optimisers = {
            "adam_generators": adam(self._config, *generators.values()),
            "adam_discriminators": adam(self._config, *(discriminators[side] for side in self.sides)),
        }
        self._pools: dict[str, list[npt.NDArray[np.float32]]] = {side: [] for side in self.sides}

    @abstractmethod
    def both(self, crops: list[Crops]) -> dict[str, torch.Tensor]:
        """Return a batch of each side, float32 [N, C, H, W]; they are unpaired."""

    @abstractmethod
    def translated(self, side: str, source: torch.Tensor) -> torch.Tensor:
        """Generate samples of a side from samples of the other."""

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Train both generators, then both discriminators; the step seeds the history buffers."""
        del epoch
        config, real = self._config, self.both(crops)
        other = dict(zip(self.sides, self.sides[::-1], strict=True))

        # Generators.
        self._train_discriminators(False)
        with autocast(config.precision, self._device):
            made = {side: self.translated(side, real[other[side]]) for side in real}
            fooled = torch.stack([self._adversarial(side, made[side], True) for side in real]).sum()
            back = [(self.translated(side, made[other[side]]) - real[side]).abs().mean() for side in real]
            cycle = torch.stack(back).sum()
            total = fooled + config.cycle * cycle
            if self.identity:
                same = [(self.translated(side, real[side]) - real[side]).abs().mean() for side in real]
                total = total + self.identity * torch.stack(same).sum()
        self.descend("generators", total)

        # Discriminators.
        self._train_discriminators(True)
        with autocast(config.precision, self._device):
            shown = {side: self._from_pool(side, made[side], step) for side in real}
            losses = [self._adversarial(s, real[s], True) + self._adversarial(s, shown[s], False) for s in real]
            discriminator_loss = 0.5 * torch.stack(losses).sum()
        self.descend("discriminators", discriminator_loss)
        return {"adversarial": fooled.detach(), "cycle": cycle.detach(), "discriminators": discriminator_loss.detach()}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return both history buffers."""
        return {f"pool_{side}": torch.from_numpy(np.stack(pool)) for side, pool in self._pools.items() if pool}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore both history buffers."""
        self._pools = {side: list(tensors[f"pool_{side}"].numpy()) for side in self.sides}

    def _train_discriminators(self, wanted: bool) -> None:
        for side in self.sides:
            self.networks[f"discriminator_{side}"].requires_grad_(wanted)

    def _adversarial(self, side: str, shown: torch.Tensor, real: bool) -> torch.Tensor:
        return adversarial_loss(self.networks[f"discriminator_{side}"](shown)[-1], real, self._config.adversarial)

    def _from_pool(self, side: str, made: torch.Tensor, step: int) -> torch.Tensor:
        rng = generator(self._config.seed, Stream.TRAIN_NOISE, 2 * step + self.sides.index(side))
        samples = list(made.detach().float().cpu().numpy())
        mixed = mixed_with_history(self._pools[side], samples, rng, self._config.pool)
        return torch.from_numpy(np.stack(mixed)).to(self._device)
