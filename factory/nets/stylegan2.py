"""The networks of StyleGAN2 (Karras et al. 2020), square or not: mapping, synthesis with skips, discriminator.

Images grow from a learnt constant of h0 x w0 pixels, doubled n times. The original has h0 = w0 = 4 and widths that
depend on the side of the square; here the longer side stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from factory.core.config import Config
from factory.nets.stylegan2_layers import (
    EqualConvolution,
    EqualLinear,
    StyledConvolution,
    ToRgb,
    doubled,
    unit_length,
    with_batch_deviation,
)

_SMALLEST = 4
_MAPPING_RATE = 0.01
_RESIDUAL_GAIN = math.sqrt(0.5)
"""Gain of both branches of a residual block, whose sum then has variance 1."""


class StyleGan2Shape(Config):
    """Shape of both networks; the defaults are the paper's at 1024 x 1024.

    Attributes:
        z_dim, w_dim: lengths of latents and of styles. mapping_layers: from one to the other.
        channel_base, channel_max: a block of s pixels (the longer side) has ``channel_base / s`` channels, at most
            ``channel_max``.
        conv_clamp: bound of the outputs of convolutions, for weights that were trained with one (the original trains
            in float16 with 256); null for none.
    """

    z_dim: int = Field(default=512, ge=1)
    w_dim: int = Field(default=512, ge=1)
    mapping_layers: int = Field(default=8, ge=1, le=16)
    channel_base: int = Field(default=32768, ge=1)
    channel_max: int = Field(default=512, ge=1)
    conv_clamp: float | None = Field(default=None, gt=0)

    def channels(self, size: tuple[int, int]) -> int:
        """Channels of the block of a height and width."""
        return max(min(self.channel_base // max(size), self.channel_max), 1)


def sizes_of(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths of all blocks, the smallest first: halved while even and at least 8."""
    sizes = [size]
    while all(side % 2 == 0 and side >= 2 * _SMALLEST for side in sizes[0]):
        height, width = sizes[0]
        sizes.insert(0, (height // 2, width // 2))
    if len(sizes) == 1:
        raise ValueError(f"size: expected even sides of at least {2 * _SMALLEST}, got {size[0]}x{size[1]}")
    return sizes


class Mapping(nn.Module):
    """Latents -> styles: layers of leaky ReLU with a hundredth of the others' learning rate.

    Attributes:
        w_avg: running mean of the styles, float32 [w_dim], towards which truncation moves styles.
    """

    w_avg: torch.Tensor

    def __init__(self, shape: StyleGan2Shape) -> None:
        super().__init__()
        widths = [shape.z_dim] + [shape.w_dim] * shape.mapping_layers
        self.layers = nn.Sequential(
            *(
                EqualLinear(inside, outside, lr_multiplier=_MAPPING_RATE, active=True)
                for inside, outside in pairwise(widths)
            )
        )
        self.register_buffer("w_avg", torch.zeros(shape.w_dim))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Styles [N, w_dim] of latents [N, z_dim], which are scaled to a mean square of 1 first."""
        styles: torch.Tensor = self.layers(unit_length(latents))
        return styles

    @torch.no_grad()
    def follow(self, styles: torch.Tensor, beta: float) -> None:
        """Move `w_avg` to beta w_avg + (1 - beta) mean(styles), of styles [N, w_dim]."""
        self.w_avg.lerp_(styles.detach().mean(0).to(self.w_avg.dtype), 1 - beta)

    def truncated(self, styles: torch.Tensor, layers: int, psi: float = 1.0, cutoff: int | None = None) -> torch.Tensor:
        """Styles [N, layers, w_dim] for each layer, the first `cutoff` (None: all) moved to the mean by `psi`.

        Args:
            styles: [N, w_dim]. layers: number of layers. psi: 1 leaves styles as they are, 0 gives the mean.
        """
        ws = styles[:, None].expand(-1, layers, -1)
        if psi == 1:
            return ws
        drawn = self.w_avg.lerp(ws, psi)
        return drawn if cutoff is None else torch.cat([drawn[:, :cutoff], ws[:, cutoff:]], 1)


class Tap(NamedTuple):
    """Output of one convolution: its name, as ``b64.conv1`` or ``b64x128.conv1``, and features [N, C, H, W]."""

    name: str
    features: torch.Tensor


class _Block(nn.Module):
    """Convolutions of one size, and their contribution to the image."""

    def __init__(self, in_channels: int | None, size: tuple[int, int], shape: StyleGan2Shape) -> None:
        super().__init__()
        height, width = size
        self.name = f"b{height}" if height == width else f"b{height}x{width}"
        channels, clamp = shape.channels(size), shape.conv_clamp
        self.convolutions = nn.ModuleDict()
        if in_channels is not None:
            self.convolutions["conv0"] = StyledConvolution(
                in_channels, channels, shape.w_dim, size, up=True, clamp=clamp
            )
        self.convolutions["conv1"] = StyledConvolution(channels, channels, shape.w_dim, size, clamp=clamp)
        self.to_rgb = ToRgb(channels, 3, shape.w_dim, clamp)


class Synthesis(nn.Module):
    """Styles for each layer -> an image; each block adds to it at its own size ("skips", Fig. 7 of the paper).

    Attributes:
        layers: styles that an image takes: one for each convolution and one for the last image.
        noise_sizes: height and width of the noise of each convolution, in order.
    """

    def __init__(self, shape: StyleGan2Shape, size: tuple[int, int]) -> None:
        super().__init__()
        sizes = sizes_of(size)
        self.constant = nn.Parameter(torch.randn(shape.channels(sizes[0]), *sizes[0]))
        inside = [None, *(shape.channels(s) for s in sizes[:-1])]
        blocks = [_Block(c, s, shape) for c, s in zip(inside, sizes, strict=True)]
        self.blocks = nn.ModuleList(blocks)
        self.noise_sizes = [s for block, s in zip(blocks, sizes, strict=True) for _ in block.convolutions]
        self.layers = len(self.noise_sizes) + 1

    def forward(
        self, ws: torch.Tensor, noise: Sequence[torch.Tensor] | None = None, taps: list[Tap] | None = None
    ) -> torch.Tensor:
        """Images float32 [N, 3, H, W], about -1..1.

        Args:
            ws: [N, layers, w_dim]. noise: for each convolution [N or 1, 1, H_k, W_k], see `noise_sizes`; None takes
            the constant noise that belongs to the weights. taps: takes the output of every convolution, in order.

        Raises:
            ValueError: for styles or noise of another number of layers.
        """
        if ws.shape[1] != self.layers:
            raise ValueError(f"ws: expected styles for {self.layers} layers, got {ws.shape[1]}")
        if noise is not None and len(noise) != len(self.noise_sizes):
            raise ValueError(f"noise: expected {len(self.noise_sizes)} maps, got {len(noise)}")
        x = _channels_last(self.constant.expand(len(ws), -1, -1, -1))
        image: torch.Tensor | None = None
        place = 0
        for block in self.blocks:
            assert isinstance(block, _Block)
            for name, convolution in block.convolutions.items():
                x = convolution(x, ws[:, place], None if noise is None else noise[place])
                if taps is not None:
                    taps.append(Tap(f"{block.name}.{name}", x))
                place += 1
            # The image of a block shares its style with the next block's first convolution.
            added = block.to_rgb(x, ws[:, place])
            added = added.float() if added.dtype.itemsize < 4 else added
            image = added if image is None else doubled(image).add_(added)
        assert image is not None
        return image


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """Features [N, C, H, W] in that order in memory on a CPU: a step then takes a tenth less, large images more."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


class Generator(nn.Module):
    """Latents -> images.

    Args:
        shape: of the network. size: height and width of the images.
    """

    def __init__(self, shape: StyleGan2Shape, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape, self.z_dim, self.size = shape, shape.z_dim, size
        self.mapping = Mapping(shape)
        self.synthesis = Synthesis(shape, size)

    def inputs(self, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
        """Latents float32 [N, z_dim], each from its own generator; on the CPU."""
        return torch.from_numpy(np.stack([rng.standard_normal(self.z_dim, np.float32) for rng in rngs]))

    def noise(self, rngs: Sequence[np.random.Generator]) -> list[torch.Tensor]:
        """Noise float32 [N, 1, H_k, W_k] of every convolution, each image's from its own generator; on the CPU."""
        return [
            torch.from_numpy(np.stack([rng.standard_normal((1, *size), np.float32) for rng in rngs]))
            for size in self.synthesis.noise_sizes
        ]

    def forward(
        self,
        latents: torch.Tensor,
        noise: Sequence[torch.Tensor] | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
    ) -> torch.Tensor:
        """Images float32 [N, 3, H, W], about -1..1, of latents [N, z_dim].

        Args:
            latents: standard normal. noise: see `Synthesis`. psi, cutoff: of the truncation, see `Mapping`.
        """
        ws = self.mapping.truncated(self.mapping(latents), self.synthesis.layers, psi, cutoff)
        image: torch.Tensor = self.synthesis(ws, noise)
        return image


class _ResidualBlock(nn.Module):
    """Two convolutions beside one of 1x1, to half the size."""

    def __init__(self, in_channels: int, out_channels: int, clamp: float | None) -> None:
        super().__init__()
        self.first = EqualConvolution(in_channels, in_channels, 3, clamp=clamp)
        self.second = EqualConvolution(in_channels, out_channels, 3, down=True, gain=_RESIDUAL_GAIN, clamp=clamp)
        self.beside = EqualConvolution(in_channels, out_channels, 1, active=False, down=True, gain=_RESIDUAL_GAIN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / 2, W / 2]."""
        halved: torch.Tensor = self.second(self.first(x)) + self.beside(x)
        return halved


class Discriminator(nn.Module):
    """Images -> logits, one each: residual blocks, then the deviation over the batch, then two linear layers.

    Args:
        shape: of the network, as the generator's. size: height and width of the images.
        mbstd_group_size: images that are compared with each other, see `with_batch_deviation`.
    """

    def __init__(self, shape: StyleGan2Shape, size: tuple[int, int], mbstd_group_size: int = 4) -> None:
        super().__init__()
        sizes = sizes_of(size)[::-1]
        widths = [shape.channels(s) for s in sizes]
        self.from_rgb = EqualConvolution(3, widths[0], 1, clamp=shape.conv_clamp)
        pairs = pairwise(widths)
        self.blocks = nn.Sequential(*(_ResidualBlock(a, b, shape.conv_clamp) for a, b in pairs))
        last = widths[-1]
        self.convolution = EqualConvolution(last + 1, last, 3, clamp=shape.conv_clamp)
        self.hidden = EqualLinear(last * math.prod(sizes[-1]), last, active=True)
        self.head = EqualLinear(last, 1)
        self._group = mbstd_group_size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N] of images [N, 3, H, W], above 0 where an image looks real."""
        x = self.blocks(self.from_rgb(_channels_last(image)))
        x = with_batch_deviation(x, self._group)
        logits: torch.Tensor = self.head(self.hidden(self.convolution(x).flatten(1)))
        return logits.flatten()
