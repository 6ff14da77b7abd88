"""The generators of DEPAS (Larey et al. 2023, Fig. 2A) and of its baseline DCGAN (Radford et al. 2016).

Both are five transposed convolutions of stride 2, each with batch norm and ReLU, and give logits, to which
`factory.nets.annealing` is applied. They differ in two of DEPAS' three additions (the third is in the discriminators).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from factory.nets import STRIDE
from factory.nets.layers import (
    NOISE_GAIN,
    UpsamplingBlock,
    draw_first_weights,
    logits_in_full_precision,
    noise_pyramid,
)  # fmt: skip


class DepasGenerator(nn.Module):
    """Latent noise and one map of spatial noise -> logits.

    The paper does not say how the latent becomes the seed map, nor how the noise is scaled. Here the latent has a part
    that is one vector for the whole tile (`latent_tile`) and a part that is drawn for every seed pixel
    (`latent_place`), so that any size can be drawn; `mixing` 3x3 convolutions with growing dilation join them, so that
    shapes may be larger than a seed pixel's 32 x 32. The noise map is shrunk by averaging, brought back to variance 1
    and scaled by one learnable number per layer that starts at 0 (as StyleGAN2 does, Karras et al. 2020).

    Args:
        latent_tile, latent_place: channels of the two parts.
        widths: channels of the five hidden layers.
        mixing: convolutions on the seed map.
        out_channels: 1 for two classes (the logit of the second), else one for each class.
    """

    def __init__(
        self, latent_tile: int, latent_place: int, widths: Sequence[int], mixing: int, out_channels: int
    ) -> None:
        super().__init__()
        self.latent_tile, self.latent_place = latent_tile, latent_place
        channels = latent_tile + latent_place
        layers: list[nn.Module] = []
        for depth in range(mixing):
            inside, reach = widths[0] if depth else channels, 2**depth
            layers += [
                nn.Conv2d(inside, widths[0], 3, padding=reach, dilation=reach, bias=False, padding_mode="replicate"),
                nn.BatchNorm2d(widths[0]),
                nn.ReLU(inplace=True),
            ]
        self.mix = nn.Sequential(*layers)
        inputs = [widths[0] if mixing else channels, *widths[:-1]]
        self.layers = nn.ModuleList(UpsamplingBlock(a, b) for a, b in zip(inputs, widths, strict=True))
        self.noise_scale = nn.Parameter(torch.zeros(len(widths)))
        self.head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        draw_first_weights(self)

    def inputs(self, rngs: Sequence[np.random.Generator], size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        """Draw the arguments of `forward`, for each tile from its own generator; float32, on the CPU."""
        seed = (self.latent_place, size[0] // STRIDE, size[1] // STRIDE)
        return _drawn(rngs, (self.latent_tile,), seed, (1, *size))

    def forward(self, tile: torch.Tensor, place: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Logits [N, K, H, W] of latents [N, latent_tile], [N, latent_place, H/32, W/32] and noise [N, 1, H, W]."""
        spread = tile[:, :, None, None].expand(-1, -1, *place.shape[2:])
        x = self.mix(torch.cat([spread, place], 1))
        for scale, layer, scaled in zip(self.noise_scale, self.layers, noise_pyramid(noise, 5, x.dtype), strict=True):
            x = layer(x, NOISE_GAIN * scale * scaled)
        return logits_in_full_precision(self.head, x)


class DcganGenerator(nn.Module):
    """One latent vector -> logits, of one size: the first layer's kernel is the seed map.

    Args:
        latent: length of the vector (100 in the paper).
        widths: channels of the seed map and of the four hidden layers after it.
        size: height and width of the masks, multiples of 32.
        out_channels: as in `DepasGenerator`.
    """

    def __init__(self, latent: int, widths: Sequence[int], size: tuple[int, int], out_channels: int) -> None:
        super().__init__()
        self.latent, self.size = latent, size
        seed = (size[0] // STRIDE, size[1] // STRIDE)
        self.seed = nn.Sequential(
            nn.ConvTranspose2d(latent, widths[0], seed, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.layers = nn.ModuleList(UpsamplingBlock(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.ConvTranspose2d(widths[-1], out_channels, 4, stride=2, padding=1)
        draw_first_weights(self)

    def inputs(self, rngs: Sequence[np.random.Generator], size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        """Draw the arguments of `forward`, for each tile from its own generator; float32, on the CPU."""
        assert size == self.size
        return _drawn(rngs, (self.latent,))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Logits [N, K, H, W] of latents [N, latent]."""
        x = self.seed(latent[:, :, None, None])
        for layer in self.layers:
            x = layer(x)
        return logits_in_full_precision(self.head, x)


def _drawn(rngs: Sequence[np.random.Generator], *shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Standard normal tensors [N, *shape], one for each shape; every tile draws its own in order."""
    drawn = [[rng.standard_normal(shape, np.float32) for shape in shapes] for rng in rngs]
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
