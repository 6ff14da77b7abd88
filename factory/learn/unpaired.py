"""The training step of CycleGAN (Zhu et al. 2017): unpaired sides, a generator and a discriminator each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from factory.core.precision import Precision, autocast
from factory.core.seeds import Stream, generator
from factory.nets.discriminators import mixed_with_history
from factory.nets.objectives import Adversarial, adversarial_loss


@dataclass(frozen=True)
class CycleLoss:
    """Loss and arithmetic of the step.

    Attributes:
        adversarial: kind of the adversarial loss. cycle, identity: weights of these terms.
        pool: size of the history buffer of each discriminator. seed: of its random choices. precision: of the networks.
    """

    adversarial: Adversarial
    cycle: float
    identity: float
    pool: int
    seed: int
    precision: Precision


class CycleStep:
    """Trains both generators, then both discriminators on a history of generated samples.

    Args:
        loss: weights. sides: their names; the place of a side chooses its random stream.
        generate: (side, tensor of the other side) -> tensor of that side. discriminators: by side.
        generators: parameters of both. rates: learning rate and betas of Adam. device: where to compute.

    Attributes:
        optimisers: of the generators and of the discriminators.
    """

    def __init__(
        self,
        loss: CycleLoss,
        sides: tuple[str, str],
        generate: Callable[[str, torch.Tensor], torch.Tensor],
        discriminators: Mapping[str, nn.Module],
        generators: list[nn.Parameter],
        rates: tuple[float, tuple[float, float]],
        device: str,
    ) -> None:
        self._loss, self._sides, self._generate, self._device = loss, sides, generate, device
        self._discriminators = discriminators
        discriminated_by = [parameter for side in sides for parameter in discriminators[side].parameters()]
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "adam_generators": torch.optim.Adam(generators, *rates),
            "adam_discriminators": torch.optim.Adam(discriminated_by, *rates),
        }
        self._pools: dict[str, list[npt.NDArray[np.float32]]] = {side: [] for side in sides}

    def step(self, real: Mapping[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """Train on a real batch of each side; `step` (0-based) seeds the history buffers. Returns named losses."""
        loss = self._loss
        other = dict(zip(self._sides, self._sides[::-1], strict=True))

        # Generators.
        self.optimisers["adam_generators"].zero_grad(set_to_none=True)
        for discriminator in self._discriminators.values():
            discriminator.requires_grad_(False)
        with autocast(loss.precision, self._device):
            made = {side: self._generate(side, real[other[side]]) for side in real}
            fooled = torch.stack([self._adversarial(side, made[side], True) for side in real]).sum()
            back = [(self._generate(side, made[other[side]]) - real[side]).abs().mean() for side in real]
            cycle = torch.stack(back).sum()
            total = fooled + loss.cycle * cycle
            if loss.identity:
                same = [(self._generate(side, real[side]) - real[side]).abs().mean() for side in real]
                total = total + loss.identity * torch.stack(same).sum()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_generators"].step()

        # Discriminators.
        self.optimisers["adam_discriminators"].zero_grad(set_to_none=True)
        for discriminator in self._discriminators.values():
            discriminator.requires_grad_(True)
        with autocast(loss.precision, self._device):
            shown = {side: self._from_pool(side, made[side], step) for side in real}
            losses = [self._adversarial(s, real[s], True) + self._adversarial(s, shown[s], False) for s in real]
            discriminator_loss = 0.5 * torch.stack(losses).sum()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_discriminators"].step()
        return {"adversarial": fooled.detach(), "cycle": cycle.detach(), "discriminators": discriminator_loss.detach()}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return both history buffers."""
        return {f"pool_{side}": torch.from_numpy(np.stack(pool)) for side, pool in self._pools.items() if pool}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `extra_state`."""
        self._pools = {side: list(tensors[f"pool_{side}"].numpy()) for side in self._sides}

    def _adversarial(self, side: str, shown: torch.Tensor, real: bool) -> torch.Tensor:
        return adversarial_loss(self._discriminators[side](shown)[-1], real, self._loss.adversarial)

    def _from_pool(self, side: str, made: torch.Tensor, step: int) -> torch.Tensor:
        rng = generator(self._loss.seed, Stream.TRAIN_NOISE, 2 * step + self._sides.index(side))
        samples = list(made.detach().float().cpu().numpy())
        return torch.from_numpy(np.stack(mixed_with_history(self._pools[side], samples, rng, self._loss.pool))).to(
            self._device
        )
