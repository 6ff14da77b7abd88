"""CycleGAN (Zhu et al. 2017) on coarse and fine masks without pairs: the baseline of PriorPath."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.crops import Tiles, mask_crops
from factory.learn.trainer import Crops, Trainer
from factory.masks.learned.coarse_to_fine import CoarseConfig, CoarseTrainerConfig, FromCoarse, coarse_crops
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.nets.annealing import channels_of, probabilities, to_channels, to_labels
from factory.nets.discriminators import PatchDiscriminator, mixed_with_history, refuse_small_crops
from factory.nets.objectives import Adversarial, adversarial_loss
from factory.nets.resnet import ResnetGenerator, ResnetShape
from manifests.labels import LabelScheme

_SAMPLES = 6
_SIDES = ("fine", "coarse")


class CycleGanTrainerConfig(CoarseTrainerConfig):
    """How CycleGAN is trained.

    Attributes:
        network: both generators. discriminator_width, discriminator_depth: of both PatchGANs.
        adversarial: least squares in the paper. cycle: weight of the cycle loss. identity: of the identity loss.
        pool: made-up masks that the discriminators remember.
    """

    network: ResnetShape = ResnetShape()
    discriminator_width: int = Field(default=64, ge=1)
    discriminator_depth: int = Field(default=3, ge=1, le=5)
    adversarial: Adversarial = "lsgan"
    cycle: float = Field(default=10.0, ge=0)
    identity: float = Field(default=0.0, ge=0)
    pool: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _large_enough(self) -> CycleGanTrainerConfig:
        refuse_small_crops(self.size, self.discriminator_depth)
        return self


class CycleGanTrainer(Trainer):
    """Trains two generators, coarse to fine and back, each against a discriminator of what it makes."""

    Config = CycleGanTrainerConfig
    kept = "to_fine"
    kind = WEIGHTS_KIND

    def __init__(self, config: CycleGanTrainerConfig, scheme: LabelScheme, device: str) -> None:
        self._config, self._scheme, self._device = config, scheme, device
        self._channels = channels_of(len(scheme))
        self._shape = {**config.network.model_dump(mode="json"), "channels": self._channels}
        self.networks: dict[str, nn.Module] = {}
        for side in _SIDES:
            self.networks[f"to_{side}"] = CycleGan.build(self._shape).to(device)
        for side in _SIDES:
            discriminator = PatchDiscriminator(
                self._channels, config.discriminator_width, config.discriminator_depth, config.network.norm
            )
            self.networks[f"discriminator_{side}"] = discriminator.to(device)
        rates = (config.learning_rate, (config.beta1, config.beta2))
        made_by = [p for side in _SIDES for p in self.networks[f"to_{side}"].parameters()]
        discriminated_by = [p for side in _SIDES for p in self.networks[f"discriminator_{side}"].parameters()]
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "adam_generators": torch.optim.Adam(made_by, *rates),
            "adam_discriminators": torch.optim.Adam(discriminated_by, *rates),
        }
        self._pools: dict[str, list[npt.NDArray[np.float32]]] = {side: [] for side in _SIDES}

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Crops of two sets of masks that have nothing to do with each other."""
        config = self._config
        return mask_crops(tiles, config.size, config.batch, config.seed, config.max_background, streams=2)

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Take a step of both generators, then of both discriminators; coarse and fine masks are unpaired."""
        del epoch
        config = self._config
        real = {"fine": self._tensor(crops[0]), "coarse": self._tensor(coarse_crops(crops[1], self._scheme, config))}
        discriminators = [self.networks[f"discriminator_{side}"] for side in _SIDES]

        # Generators.
        self.optimisers["adam_generators"].zero_grad(set_to_none=True)
        for discriminator in discriminators:
            discriminator.requires_grad_(False)
        with autocast(config.precision, self._device):
            made = {side: self._made(side, real[_other(side)]) for side in _SIDES}
            fooled = torch.stack([self._adversarial(side, made[side], True) for side in _SIDES]).sum()
            back = [(self._made(side, made[_other(side)]) - real[side]).abs().mean() for side in _SIDES]
            cycle = torch.stack(back).sum()
            total = fooled + config.cycle * cycle
            if config.identity:
                same = [(self._made(side, real[side]) - real[side]).abs().mean() for side in _SIDES]
                total = total + config.identity * torch.stack(same).sum()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_generators"].step()

        # Discriminators, on a history of what was made.
        self.optimisers["adam_discriminators"].zero_grad(set_to_none=True)
        for discriminator in discriminators:
            discriminator.requires_grad_(True)
        with autocast(config.precision, self._device):
            shown = {side: self._from_pool(side, made[side], step) for side in _SIDES}
            told = [self._adversarial(s, real[s], True) + self._adversarial(s, shown[s], False) for s in _SIDES]
            discriminator_loss = 0.5 * torch.stack(told).sum()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_discriminators"].step()
        return {"adversarial": fooled.detach(), "cycle": cycle.detach(), "discriminators": discriminator_loss.detach()}

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Coarse masks, the fine ones made of them, and the real fine ones."""
        real = crops[0][:_SAMPLES]
        coarse = coarse_crops(real, self._scheme, self._config)
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = to_labels(network(self._tensor(coarse))).cpu().numpy()
        return [coarse, made, real]

    def card(self) -> dict[str, Any]:
        """The shape of the network from coarse to fine."""
        return {"network": dict(self._shape)}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Both histories."""
        return {f"pool_{side}": torch.from_numpy(np.stack(pool)) for side, pool in self._pools.items() if pool}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put both histories back."""
        self._pools = {side: list(tensors[f"pool_{side}"].numpy()) for side in _SIDES}

    def _tensor(self, labels: Crops) -> torch.Tensor:
        return to_channels(torch.from_numpy(labels).to(self._device), self._channels)

    def _made(self, side: str, source: torch.Tensor) -> torch.Tensor:
        return probabilities(self.networks[f"to_{side}"](source))

    def _adversarial(self, side: str, masks: torch.Tensor, real: bool) -> torch.Tensor:
        return adversarial_loss(self.networks[f"discriminator_{side}"](masks)[-1], real, self._config.adversarial)

    def _from_pool(self, side: str, made: torch.Tensor, step: int) -> torch.Tensor:
        rng = generator(self._config.seed, Stream.TRAIN_NOISE, 2 * step + _SIDES.index(side))
        masks = list(made.detach().float().cpu().numpy())
        return torch.from_numpy(np.stack(mixed_with_history(self._pools[side], masks, rng, self._config.pool))).to(
            self._device
        )


class CycleGan(FromCoarse):
    """Draws region masks from coarse ones, without noise of its own."""

    name = "cyclegan"
    Config = CoarseConfig
    Trainer = CycleGanTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> ResnetGenerator:
        """The network of a card, with any weights: mask in, logits out."""
        channels, norm = network["channels"], network["norm"]
        return ResnetGenerator(channels, channels, network["width"], network["blocks"], norm, network["kernel"])


def _other(side: str) -> str:
    return _SIDES[1 - _SIDES.index(side)]
