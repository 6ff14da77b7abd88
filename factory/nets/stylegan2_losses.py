"""Losses of StyleGAN2 beside the logistic one (`factory.nets.objectives`): R1, path length; averaged weights.

Regularisers are lazy (Karras et al. 2020, "Analyzing and Improving", Sec. 3.1): taken every few steps, with their
weight multiplied by that number, while Adam's constants are corrected by `LazyAdam`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

_GAMMA = 0.0002


def r1_gamma_of(size: tuple[int, int], batch: int) -> float:
    """The weight of R1 for a height, width and batch: 0.0002 H W / batch, as StyleGAN2-ADA's code chooses it."""
    return _GAMMA * size[0] * size[1] / batch


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient norm of a discriminator's logits at real images (Mescheder et al. 2018), a scalar.

    Args:
        logits: [N], computed from `images`. images: [N, 3, H, W], with ``requires_grad``.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(images: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Path lengths [N], the change of a generator's images with its styles: |J^T y|, y normal (StyleGAN2, Eq. 4).

    Args:
        images: [N, 3, H, W], computed from `ws`. ws: [N, layers, w_dim]; squares are averaged over layers.
        noise: standard normal, shaped as `images`; divided by sqrt(H W) here.
    """
    height, width = images.shape[2:]
    (gradient,) = torch.autograd.grad((images * noise).sum() / math.sqrt(height * width), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def path_length_penalty(
    lengths: torch.Tensor, mean: torch.Tensor, decay: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared distance of lengths [N] from their running mean, and that mean (detached) after these."""
    after = mean.lerp(lengths.mean(), decay)
    return (lengths - after).square().mean(), after.detach()


def ema_kimg_of(batch: int) -> float:
    """Half-life of the generator's average for a batch, in thousands of images: batch x 10 / 32."""
    return batch * 10 / 32


def ema_beta(batch: int, images_seen: int, kimg: float, rampup: float | None) -> float:
    """Share of the generator's average that is kept in a step.

    Args:
        batch: images in a step. images_seen: before it. kimg: half-life in thousands of images. rampup: the half-life
            is at most this share of the images so far, so that a short run forgets its start; None for no ramp.
    """
    half_life = kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, beta: float) -> None:
    """Move an average's parameters to beta average + (1 - beta) network, and copy the buffers."""
    for kept, latest in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(latest, 1 - beta)
    for copied, source in zip(average.buffers(), network.buffers(), strict=True):
        copied.copy_(source)


class LazyAdam(torch.optim.Adam):
    """Adam for a network with a regulariser every `interval` steps, in a step of its own.

    With c = interval / (interval + 1) the learning rate is multiplied by c and the betas are raised to it, so that the
    steps together equal those without the regulariser. The parameter groups keep the uncorrected rate, for schedulers.

    Args:
        parameters: of the network. learning_rate, betas: without the correction. interval: 0 for no regulariser.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float], interval: int
    ) -> None:
        self._share = interval / (interval + 1) if interval else 1.0
        super().__init__(parameters, learning_rate, (betas[0] ** self._share, betas[1] ** self._share))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of Adam with the corrected rate."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * self._share
        try:
            loss: float | None = super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
        return loss
