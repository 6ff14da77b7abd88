"""What DEPAS and DCGAN share: a generator that learns masks from noise against judges of whole masks."""

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
from factory.learn.crops import Tiles, mask_streams
from factory.learn.training import LessonConfig, Views
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.nets import STRIDE
from factory.nets.annealing import probabilities, to_channels, to_labels
from factory.nets.objectives import judged_as

_SAMPLES = 8


class FromNoiseConfig(LessonConfig):
    """What both lessons are told: nothing of their own, but one choice less."""

    @model_validator(mode="after")
    def _more_than_one_value(self) -> FromNoiseConfig:
        if self.batch == 1 and self.size == (STRIDE, STRIDE):  # a seed map of one pixel: batch norm has no variance
            raise ValueError(f"batch: expected at least 2 views of {STRIDE}x{STRIDE}, got 1")
        return self


class FromNoise:
    """A lesson of the vanilla GAN (Goodfellow et al. 2014; DEPAS, Eqs. 3 and 4, with the non-saturating generator).

    Args:
        config: how to train. network: the generator, with `inputs`. judges: give a logit per mask at each scale.
        channels: of masks in networks. sharpness: epoch -> what logits are multiplied by before they are judged.
        device: where to compute. shape: of the network, for the card.
    """

    kept = "generator"
    kind = WEIGHTS_KIND

    def __init__(
        self,
        config: FromNoiseConfig,
        network: nn.Module,
        judges: nn.Module,
        channels: int,
        sharpness: Callable[[int], float],
        device: str,
        shape: Mapping[str, Any],
    ) -> None:
        self._config, self._channels, self._sharpness = config, channels, sharpness
        self._device, self._shape = device, shape
        self._network, self._judges = network.to(device), judges.to(device)
        self.networks: dict[str, nn.Module] = {"generator": self._network, "judges": self._judges}
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            f"adam_{name}": torch.optim.Adam(part.parameters(), config.learning_rate, (config.beta1, config.beta2))
            for name, part in self.networks.items()
        }
        self._epoch = 0

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Views]]:
        """Views of masks."""
        config = self._config
        return mask_streams(tiles, config.size, config.batch, config.seed, config.max_background)

    def step(self, views: list[Views], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """One step of the judges on real and made-up masks, then one of the generator."""
        self._epoch = epoch
        real = to_channels(torch.from_numpy(views[0]).to(self._device), self._channels)
        first = step * len(views[0])
        rngs = [generator(self._config.seed, Stream.TRAIN_NOISE, first + place) for place in range(len(views[0]))]
        with autocast(self._config.precision, self._device):
            fake = probabilities(self._logits(self._network, rngs, views[0].shape[1:]))

            # Judges.
            self.optimisers["adam_judges"].zero_grad(set_to_none=True)
            pairs = zip(self._judges(real), self._judges(fake.detach()), strict=True)
            judging = torch.stack([judged_as(r, True, "bce") + judged_as(f, False, "bce") for r, f in pairs]).sum()
        judging.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_judges"].step()

        # Generator.
        self.optimisers["adam_generator"].zero_grad(set_to_none=True)
        self._judges.requires_grad_(False)
        with autocast(self._config.precision, self._device):
            making = torch.stack([judged_as(said, True, "bce") for said in self._judges(fake)]).sum()
        making.backward()  # type: ignore[no-untyped-call]
        self._judges.requires_grad_(True)
        self.optimisers["adam_generator"].step()
        return {"generator": making.detach(), "judges": judging.detach()}

    def sample(self, network: nn.Module, views: list[Views]) -> list[npt.NDArray[np.uint8]]:
        """Real masks and what the generator makes of always the same noise."""
        real = views[0][:_SAMPLES]
        rngs = [generator(self._config.seed, Stream.SAMPLE, place) for place in range(2 * len(real))]
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = to_labels(self._logits(network, rngs, real.shape[1:])).cpu().numpy()
        return [real, made[: len(real)], made[len(real) :]]

    def card(self) -> dict[str, Any]:
        """The network's shape and how sharp its logits were at the end."""
        return {"network": {**self._shape, "sharpness": self._sharpness(self._epoch)}}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """The epoch, for the card of a resumed run that has nothing left to do."""
        return {"epoch": torch.tensor(self._epoch)}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put `extra_state` back."""
        self._epoch = int(tensors["epoch"])

    def _logits(self, network: nn.Module, rngs: list[np.random.Generator], size: tuple[int, ...]) -> torch.Tensor:
        inputs = network.inputs(rngs, size)  # type: ignore[operator]
        logits: torch.Tensor = network(*(tensor.to(self._device) for tensor in inputs))
        return self._sharpness(self._epoch) * logits
