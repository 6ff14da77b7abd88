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
from factory.learn.crops import Tiles, mask_crops
from factory.learn.trainer import Crops, Trainer
from factory.learn.unpaired import CycleLoss, CycleStep
from factory.masks.learned.coarse_to_fine import CoarseConfig, CoarseToFineMasks, CoarseTrainerConfig, coarse_crops
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.nets.annealing import channels_of, probabilities, to_channels, to_labels
from factory.nets.discriminators import PatchDiscriminator, refuse_small_crops
from factory.nets.objectives import Adversarial
from factory.nets.resnet import ResnetGenerator, ResnetShape
from manifests.labels import LabelScheme

_SAMPLES = 6
_SIDES = ("fine", "coarse")


class CycleGanTrainerConfig(CoarseTrainerConfig):
    """Training of CycleGAN.

    Attributes:
        network: both generators. discriminator_width, discriminator_depth: of both PatchGANs.
        adversarial: least squares in the paper. cycle: weight of the cycle loss. identity: of the identity loss.
        pool: size of each discriminator's history buffer.
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
        width, depth, norm = config.discriminator_width, config.discriminator_depth, config.network.norm
        discriminators: dict[str, nn.Module] = {
            side: PatchDiscriminator(self._channels, width, depth, norm).to(device) for side in _SIDES
        }
        generators = [p for network in self.networks.values() for p in network.parameters()]
        self.networks |= {f"discriminator_{side}": network for side, network in discriminators.items()}
        loss = CycleLoss(config.adversarial, config.cycle, config.identity, config.pool, config.seed, config.precision)
        rates = (config.learning_rate, (config.beta1, config.beta2))
        self._cycle = CycleStep(loss, _SIDES, self._made, discriminators, generators, rates, device)
        self.optimisers = self._cycle.optimisers

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return two independent streams of crops of masks."""
        config = self._config
        return mask_crops(tiles, config.size, config.batch, config.seed, config.max_background, streams=2)

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Take a step of both generators, then of both discriminators; coarse and fine masks are unpaired."""
        del epoch
        coarse = coarse_crops(crops[1], self._scheme, self._config)
        return self._cycle.step({"fine": self._tensor(crops[0]), "coarse": self._tensor(coarse)}, step)

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return coarse masks, the fine ones made of them, and the real fine ones."""
        real = crops[0][:_SAMPLES]
        coarse = coarse_crops(real, self._scheme, self._config)
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = to_labels(network(self._tensor(coarse))).cpu().numpy()
        return [coarse, made, real]

    def card(self) -> dict[str, Any]:
        """Return the shape of the network from coarse to fine."""
        return {"network": dict(self._shape)}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return both history buffers."""
        return self._cycle.extra_state()

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore both history buffers."""
        self._cycle.load_extra_state(tensors)

    def _tensor(self, labels: Crops) -> torch.Tensor:
        return to_channels(torch.from_numpy(labels).to(self._device), self._channels)

    def _made(self, side: str, source: torch.Tensor) -> torch.Tensor:
        return probabilities(self.networks[f"to_{side}"](source))


class CycleGan(CoarseToFineMasks):
    """Draws region masks from coarse ones, without noise of its own."""

    name = "cyclegan"
    Config = CoarseConfig
    Trainer = CycleGanTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> ResnetGenerator:
        """Build the network of a card, without its weights: mask in, logits out."""
        channels, norm = network["channels"], network["norm"]
        return ResnetGenerator(channels, channels, network["width"], network["blocks"], norm, network["kernel"])
