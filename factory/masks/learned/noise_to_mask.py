"""Training of masks from noise against discriminators of whole masks, as in DEPAS and DCGAN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import model_validator
from torch import nn

from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.crops import Tiles, mask_crops
from factory.learn.trainer import Crops, Trainer, TrainerConfig
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.nets import STRIDE
from factory.nets.annealing import probabilities, to_channels, to_labels
from factory.nets.objectives import adversarial_loss

_SAMPLES = 8


class NoiseToMaskTrainerConfig(TrainerConfig):
    """Training of masks from noise; refuses batches that batch norm cannot normalise."""

    @model_validator(mode="after")
    def _more_than_one_value(self) -> NoiseToMaskTrainerConfig:
        if self.batch == 1 and self.size == (STRIDE, STRIDE):  # a seed map of one pixel: batch norm has no variance
            raise ValueError(f"batch: expected at least 2 crops of {STRIDE}x{STRIDE}, got 1")
        return self


class NoiseToMaskTrainer(Trainer):
    """Trainer of the original GAN (Goodfellow et al. 2014; DEPAS, Eqs. 3 and 4, non-saturating generator loss).

    Args:
        config: how to train. network: the generator, with `inputs`. discriminators: give a logit per mask at each
            scale. channels: of masks in networks. sharpness: epoch -> factor on the logits before the discriminators.
        device: where to compute. shape: of the network, for the card.
    """

    kept = "generator"
    kind = WEIGHTS_KIND

    def __init__(
        self,
        config: NoiseToMaskTrainerConfig,
        network: nn.Module,
        discriminators: nn.Module,
        channels: int,
        sharpness: Callable[[int], float],
        device: str,
        shape: Mapping[str, Any],
    ) -> None:
        self._config, self._channels, self._sharpness = config, channels, sharpness
        self._device, self._shape = device, shape
        self._network, self._discriminators = network.to(device), discriminators.to(device)
        self.networks: dict[str, nn.Module] = {"generator": self._network, "discriminators": self._discriminators}
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            f"adam_{name}": torch.optim.Adam(part.parameters(), config.learning_rate, (config.beta1, config.beta2))
            for name, part in self.networks.items()
        }
        self._epoch = 0

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return crops of masks."""
        config = self._config
        return mask_crops(tiles, config.size, config.batch, config.seed, config.max_background)

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Train the discriminators on real and generated masks, then the generator."""
        self._epoch = epoch
        real = to_channels(torch.from_numpy(crops[0]).to(self._device), self._channels)
        first = step * len(crops[0])
        rngs = [generator(self._config.seed, Stream.TRAIN_NOISE, first + place) for place in range(len(crops[0]))]
        with autocast(self._config.precision, self._device):
            fake = probabilities(self._logits(self._network, rngs, crops[0].shape[1:]))

            # Discriminators.
            self.optimisers["adam_discriminators"].zero_grad(set_to_none=True)
            pairs = zip(self._discriminators(real), self._discriminators(fake.detach()), strict=True)
            discriminator_loss = torch.stack(
                [adversarial_loss(r, True, "bce") + adversarial_loss(f, False, "bce") for r, f in pairs]
            ).sum()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_discriminators"].step()

        # Generator.
        self.optimisers["adam_generator"].zero_grad(set_to_none=True)
        self._discriminators.requires_grad_(False)
        with autocast(self._config.precision, self._device):
            making = torch.stack([adversarial_loss(found, True, "bce") for found in self._discriminators(fake)]).sum()
        making.backward()  # type: ignore[no-untyped-call]
        self._discriminators.requires_grad_(True)
        self.optimisers["adam_generator"].step()
        return {"generator": making.detach(), "discriminators": discriminator_loss.detach()}

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
        return {"network": {**self._shape, "sharpness": self._sharpness(self._epoch)}}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return the epoch, for the card of a resumed run without steps left."""
        return {"epoch": torch.tensor(self._epoch)}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `extra_state`."""
        self._epoch = int(tensors["epoch"])

    def _logits(self, network: nn.Module, rngs: list[np.random.Generator], size: tuple[int, ...]) -> torch.Tensor:
        inputs = network.inputs(rngs, size)  # type: ignore[operator]
        logits: torch.Tensor = network(*(tensor.to(self._device) for tensor in inputs))
        return self._sharpness(self._epoch) * logits
