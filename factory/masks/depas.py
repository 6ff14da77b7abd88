"""DEPAS (Larey et al. 2023) and its baseline DCGAN (Radford et al. 2016): masks from noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.config import Config
from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.trainer import Crops, TrainerConfig, adam
from factory.masks.learned.generator import MaskTrainer, TrainedMasks
from factory.nets import STRIDE
from factory.nets.annealing import probabilities, sharpness, to_labels
from factory.nets.depas import DcganGenerator, DepasGenerator
from factory.nets.discriminators import Scales, WholeDiscriminator
from factory.nets.objectives import adversarial_loss
from factory.plan.request import Request
from manifests.labels import LabelScheme

_SAMPLES = 8

Build = Callable[[Mapping[str, Any]], nn.Module]


class NoiseToMaskTrainerConfig(TrainerConfig):
    """Training of masks from noise; refuses batches that batch norm cannot normalise."""

    @model_validator(mode="after")
    def _more_than_one_value(self) -> NoiseToMaskTrainerConfig:
        if self.batch == 1 and self.size == (STRIDE, STRIDE):  # a seed map of one pixel: batch norm has no variance
            raise ValueError(f"batch: expected at least 2 crops of {STRIDE}x{STRIDE}, got 1")
        return self


class NoiseToMaskTrainer(MaskTrainer):
    """Trainer of the original GAN (Goodfellow et al. 2014; DEPAS, Eqs. 3 and 4, non-saturating generator loss)."""

    _epoch = 0
    _scale_weights: torch.Tensor

    def oppose(
        self, build: Build, width: int, sizes: Sequence[tuple[int, int]], weights: Sequence[float] = (1.0,)
    ) -> None:
        """Make discriminators of masks of some sizes, whose first layer has `width` channels, and the generator.

        `weights` are those of their losses (alpha in DEPAS, Eq. 3).
        """
        self._scale_weights = torch.tensor(weights, device=self._device)
        discriminators = Scales([WholeDiscriminator(self._channels, width, size) for size in sizes])
        network = build(self.shape)
        self.networks = {"generator": network.to(self._device), "discriminators": discriminators.to(self._device)}
        self.optimisers = {f"adam_{name}": adam(self._config, part) for name, part in self.networks.items()}

    @property
    def sharpness(self) -> float:
        """Factor on the logits in the current epoch."""
        return 1.0

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Train the discriminators on real and generated masks, then the generator."""
        self._epoch, config, discriminators = epoch, self._config, self.networks["discriminators"]
        real, count = self.tensor(crops[0]), len(crops[0])
        rngs = [generator(config.seed, Stream.TRAIN_NOISE, step * count + place) for place in range(count)]
        with autocast(config.precision, self._device):
            fake = probabilities(self._logits(self.networks["generator"], rngs, crops[0].shape[1:]))

            # Discriminators.
            pairs = zip(discriminators(real), discriminators(fake.detach()), strict=True)
            losses = [adversarial_loss(r, True, "bce") + adversarial_loss(f, False, "bce") for r, f in pairs]
            discriminator_loss = (self._scale_weights * torch.stack(losses)).sum()
        self.descend("discriminators", discriminator_loss)

        # Generator.
        discriminators.requires_grad_(False)
        with autocast(config.precision, self._device):
            fooling = torch.stack([adversarial_loss(found, True, "bce") for found in discriminators(fake)])
            loss = (self._scale_weights * fooling).sum()
        self.descend("generator", loss)
        discriminators.requires_grad_(True)
        return {"generator": loss.detach(), "discriminators": discriminator_loss.detach()}

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return real masks, and generated ones from fixed noise."""
        real = crops[0][:_SAMPLES]
        rngs = [generator(self._config.seed, Stream.SAMPLE, place) for place in range(2 * len(real))]
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = to_labels(self._logits(network, rngs, real.shape[1:])).cpu().numpy()
        return [real, made[: len(real)], made[len(real) :]]

    def card(self) -> dict[str, Any]:
        """Return the network's shape and the sharpness of its logits at the end."""
        return {"network": {**self.shape, "sharpness": self.sharpness}}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return the epoch, for the card of a resumed run without steps left."""
        return {"epoch": torch.tensor(self._epoch)}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `extra_state`."""
        self._epoch = int(tensors["epoch"])

    def _logits(self, network: nn.Module, rngs: list[np.random.Generator], size: tuple[int, ...]) -> torch.Tensor:
        inputs = network.inputs(rngs, size)  # type: ignore[operator]
        logits: torch.Tensor = network(*(tensor.to(self._device) for tensor in inputs))
        return self.sharpness * logits


class NoiseToMasks(TrainedMasks):
    """Draws region masks from noise."""

    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Sharpened logits of one tile, float32 [K, H, W]."""
        inputs = self.network.inputs([rng], (request.height, request.width))  # type: ignore[operator]
        return self.forward(*inputs) * np.float32(self.card.fields["network"]["sharpness"])


class DepasShape(Config):
    """The generator's shape, see `DepasGenerator`; its widths and latents are ours, the paper gives none."""

    latent_tile: int = Field(default=16, ge=1)
    latent_place: int = Field(default=112, ge=1)
    widths: tuple[int, int, int, int, int] = (512, 256, 128, 64, 32)
    mixing: int = Field(default=2, ge=0)


class DepasTrainerConfig(NoiseToMaskTrainerConfig):
    """Training of DEPAS; the defaults are the paper's schedule.

    Attributes:
        network: the generator. discriminator_width: channels of the first layer of each discriminator.
        scales: discriminators at 100, 50, 25 % ... of the size. scale_weights: of their losses (alpha in Eq. 3),
            in that order; none stands for 1 each, as in the paper.
        anneal_epochs: the sigmoid's slope grows by 1, or the softmax's temperature falls to 4/5, every so many epochs.
    """

    network: DepasShape = DepasShape()
    discriminator_width: int = Field(default=64, ge=1)
    added: ClassVar[frozenset[str]] = frozenset({"scale_weights"})

    scales: int = Field(default=3, ge=1, le=4)
    scale_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    anneal_epochs: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> DepasTrainerConfig:
        if self.scale_weights and (len(self.scale_weights) != self.scales or not any(self.scale_weights)):
            got = ", ".join(f"{weight:g}" for weight in self.scale_weights)
            raise ValueError(
                f"scale_weights: expected {self.scales} weights, one for each scale and not all 0, got {got}"
            )
        return self


class DepasTrainer(NoiseToMaskTrainer):
    """Trains a `DepasGenerator`."""

    Config = DepasTrainerConfig
    _config: DepasTrainerConfig

    def __init__(self, config: DepasTrainerConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.shape = {**config.network.model_dump(mode="json"), "out_channels": self._channels}
        sizes = [(config.size[0] >> level, config.size[1] >> level) for level in range(config.scales)]
        self.oppose(Depas.build, config.discriminator_width, sizes, config.scale_weights or (1.0,) * config.scales)

    @property
    def sharpness(self) -> float:
        """Factor on the logits in the current epoch, which anneals them."""
        return sharpness(self._epoch, self._config.anneal_epochs, self._channels)


class Depas(NoiseToMasks):
    """Draws region masks of any size that is a multiple of 32."""

    name = "depas"
    Trainer = DepasTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> nn.Module:
        """Build the network of a card, without its weights."""
        return DepasGenerator(**{key: value for key, value in network.items() if key != "sharpness"})


class DcganShape(Config):
    """The generator's shape, see `DcganGenerator`; a latent of 100 as in the paper."""

    latent: int = Field(default=100, ge=1)
    widths: tuple[int, int, int, int, int] = (512, 256, 128, 64, 32)


class DcganTrainerConfig(NoiseToMaskTrainerConfig):
    """Training of DCGAN: DEPAS' data, schedule and optimiser.

    Attributes:
        network: the generator. discriminator_width: channels of the first layer of the discriminator.
    """

    network: DcganShape = DcganShape()
    discriminator_width: int = Field(default=64, ge=1)


class DcganTrainer(NoiseToMaskTrainer):
    """Trains a `DcganGenerator` against one discriminator; its tanh is our sigmoid, up to scale."""

    Config = DcganTrainerConfig

    def __init__(self, config: DcganTrainerConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        own = {"size": list(config.size), "out_channels": self._channels}
        self.shape = {**config.network.model_dump(mode="json"), **own}
        self.oppose(Dcgan.build, config.discriminator_width, [config.size])


class Dcgan(NoiseToMasks):
    """Draws region masks of the one size that its weights were trained on."""

    name = "dcgan"
    Trainer = DcganTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> nn.Module:
        """Build the network of a card, without its weights."""
        size = tuple(network["size"])
        return DcganGenerator(network["latent"], network["widths"], size, network["out_channels"])

    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""
        height, width = self.card.fields["network"]["size"]
        if (request.height, request.width) != (height, width):
            return f"size: the weights of dcgan draw {height}x{width}, got {request.height}x{request.width}"
        return super().refusal(request)
