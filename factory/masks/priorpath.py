"""PriorPath (Daniel et al. 2024): fine masks from coarse ones by pix2pix (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.config import Config
from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.crops import Tiles, mask_crops
from factory.learn.trainer import Crops, Trainer
from factory.masks.learned.coarse_to_fine import CoarseConfig, CoarseToFineMasks, CoarseTrainerConfig, coarse_crops
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.nets.annealing import channels_of, probabilities, to_channels, to_labels
from factory.nets.discriminators import PatchDiscriminator, Scales, refuse_small_crops
from factory.nets.objectives import Adversarial, adversarial_loss, feature_matching
from factory.nets.unet import UNet, UNetShape
from manifests.labels import LabelScheme

_SAMPLES = 6


class LossWeights(Config):
    """Weights of the terms of the generator loss.

    Attributes:
        adversarial: of the discriminators. l1: mean absolute difference from the paired mask (pix2pix: 100).
        feature: feature matching, for each discriminator. mean_prediction: square of the difference between the
            discriminators' mean predictions of generated and of real masks (PriorPath, 2.8).
    """

    adversarial: float = Field(default=1.0, ge=0)
    l1: float = Field(default=100.0, ge=0)
    feature: float = Field(default=0.0, ge=0)
    mean_prediction: float = Field(default=0.0, ge=0)


class PriorPathTrainerConfig(CoarseTrainerConfig):
    """Training of PriorPath.

    Attributes:
        network: the generator. discriminator_width, discriminator_depth: of each PatchGAN. discriminators: at 100, 50
        ... % of the size. adversarial: cross entropy or least squares. loss: weights of the terms.
    """

    network: UNetShape = UNetShape()
    discriminator_width: int = Field(default=64, ge=1)
    discriminator_depth: int = Field(default=3, ge=1, le=5)
    discriminators: int = Field(default=1, ge=1, le=3)
    adversarial: Adversarial = "bce"
    loss: LossWeights = LossWeights()

    @model_validator(mode="after")
    def _deep_enough(self) -> PriorPathTrainerConfig:
        self.network.check_size(self.size)
        refuse_small_crops(self.size, self.discriminator_depth, self.discriminators)
        return self


class PriorPathTrainer(Trainer):
    """Trains a `UNet` on pairs of coarse and fine masks against PatchGANs that see both."""

    Config = PriorPathTrainerConfig
    kept = "generator"
    kind = WEIGHTS_KIND

    def __init__(self, config: PriorPathTrainerConfig, scheme: LabelScheme, device: str) -> None:
        self._config, self._scheme, self._device = config, scheme, device
        self._channels = channels_of(len(scheme))
        self._shape = {**config.network.model_dump(mode="json"), "channels": self._channels}
        self._network = PriorPath.build(self._shape).to(device)
        seen = 2 * self._channels
        norm = config.network.norm
        self._discriminators = Scales(
            [
                PatchDiscriminator(seen, config.discriminator_width, config.discriminator_depth, norm)
                for _ in range(config.discriminators)
            ]
        ).to(device)
        self.networks: dict[str, nn.Module] = {"generator": self._network, "discriminators": self._discriminators}
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            f"adam_{name}": torch.optim.Adam(part.parameters(), config.learning_rate, (config.beta1, config.beta2))
            for name, part in self.networks.items()
        }

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return crops of masks."""
        config = self._config
        return mask_crops(tiles, config.size, config.batch, config.seed, config.max_background)

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Train the discriminators on real and generated pairs, then the generator."""
        del epoch
        config = self._config
        fine, coarse = self._pairs(crops[0])
        with autocast(config.precision, self._device):
            made = probabilities(self._network(torch.cat([coarse, self._noise(fine, Stream.TRAIN_NOISE, step)], 1)))

            # Discriminators.
            self.optimisers["adam_discriminators"].zero_grad(set_to_none=True)
            outputs = zip(self._discriminator(coarse, fine), self._discriminator(coarse, made.detach()), strict=True)
            kind = config.adversarial
            discriminator_loss = torch.stack(
                [adversarial_loss(r[-1], True, kind) + adversarial_loss(f[-1], False, kind) for r, f in outputs]
            )
            discriminator_loss = (
                0.5 * discriminator_loss.mean()
            )  # half, as in pix2pix, so that the discriminators learn more slowly
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_discriminators"].step()

        # Generator.
        self.optimisers["adam_generator"].zero_grad(set_to_none=True)
        self._discriminators.requires_grad_(False)
        with autocast(config.precision, self._device):
            terms = self._terms(coarse, fine, made)
        total = torch.stack([getattr(config.loss, name) * value for name, value in terms.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        self._discriminators.requires_grad_(True)
        self.optimisers["adam_generator"].step()
        return {name: value.detach() for name, value in {**terms, "discriminators": discriminator_loss}.items()}

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return coarse masks, two fine ones made of each from fixed noise, and the real fine ones."""
        real = crops[0][:_SAMPLES]
        fine, coarse = self._pairs(real)
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = [
                to_labels(network(torch.cat([coarse, self._noise(fine, Stream.SAMPLE, draw)], 1))).cpu().numpy()
                for draw in range(2)
            ]
        return [to_labels_of_channels(coarse), *made, real]

    def card(self) -> dict[str, Any]:
        """Return the network's shape."""
        return {"network": dict(self._shape)}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing to put back."""

    def _pairs(self, crops: Crops) -> tuple[torch.Tensor, torch.Tensor]:
        coarse = coarse_crops(crops, self._scheme, self._config)
        fine_map, coarse_map = (
            to_channels(torch.from_numpy(maps).to(self._device), self._channels) for maps in (crops, coarse)
        )
        return fine_map, coarse_map

    def _noise(self, like: torch.Tensor, stream: Stream, step: int) -> torch.Tensor:
        rng = generator(self._config.seed, stream, step)
        drawn = rng.standard_normal((len(like), 1, *like.shape[2:]), np.float32)
        return torch.from_numpy(drawn).to(self._device)

    def _discriminator(self, coarse: torch.Tensor, fine: torch.Tensor) -> list[list[torch.Tensor]]:
        features: list[list[torch.Tensor]] = self._discriminators(torch.cat([coarse, fine], 1))
        return features

    def _terms(self, coarse: torch.Tensor, fine: torch.Tensor, made: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the terms of the generator loss with a weight above 0."""
        weights, kind = self._config.loss, self._config.adversarial
        of_made = self._discriminator(coarse, made)
        terms = {"adversarial": torch.stack([adversarial_loss(found[-1], True, kind) for found in of_made]).mean()}
        if weights.l1:
            terms["l1"] = (made.float() - fine).abs().mean()
        if weights.feature or weights.mean_prediction:
            with torch.no_grad():
                of_real = self._discriminator(coarse, fine)
            pairs = list(zip(of_made, of_real, strict=True))
            if weights.feature:
                terms["feature"] = torch.stack([feature_matching(m, r) for m, r in pairs]).sum()
            if weights.mean_prediction:
                gaps = [m[-1].float().sigmoid().mean() - r[-1].float().sigmoid().mean() for m, r in pairs]
                terms["mean_prediction"] = torch.stack([gap.square() for gap in gaps]).mean()
        return terms


class PriorPath(CoarseToFineMasks):
    """Draws region masks from coarse ones that the plan draws, a person sketches, or a data set has."""

    name = "priorpath"
    Config = CoarseConfig
    Trainer = PriorPathTrainer
    noise_channels = 1

    @staticmethod
    def build(network: Mapping[str, Any]) -> UNet:
        """Build the network of a card, without its weights: coarse mask and a channel of noise in, logits out."""
        channels = network["channels"]
        return UNet(channels + 1, channels, network["width"], network["depth"], network["norm"], network["dropout"])


def to_labels_of_channels(maps: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Invert `to_channels`: classes, uint8 [N, H, W]."""
    labels: npt.NDArray[np.uint8] = to_labels(maps - 0.5 if maps.shape[1] == 1 else maps).cpu().numpy()
    return labels
