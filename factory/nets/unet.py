"""The U-Net of pix2pix (Isola et al. 2017): mask and noise in, logits out."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from factory.core.config import Config
from factory.nets.discriminators import SLOPE
from factory.nets.layers import NOISE_GAIN, draw_first_weights, logits_in_full_precision, make_norm, noise_pyramid

Activation = Literal["leaky_relu", "relu"]
PaddingMode = Literal["zeros", "reflect"]


class UNetShape(Config):
    """Shape of a `UNet`; the defaults are pix2pix'."""

    added: ClassVar = frozenset({"activation", "padding_mode"})

    width: int = Field(default=64, ge=1)
    depth: int = Field(default=8, ge=2, le=10)
    norm: str = Field(default="instance", pattern="^(batch|instance)$")
    dropout: float = Field(default=0.5, ge=0, lt=1)
    activation: Activation = "leaky_relu"
    padding_mode: PaddingMode = "zeros"

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse crops that cannot be halved so often; for the configs of trainers."""
        step = 2**self.depth
        if any(side % step for side in size):
            raise ValueError(f"size: expected multiples of {step}, 2^depth, got {size[0]}x{size[1]}")


class UNet(nn.Module):
    """Encoder and decoder of strided 4x4 convolutions with skip connections.

    Differs from pix2pix, whose noise is dropout in the decoder, at inference too: here a channel of Gaussian noise
    beside the mask is the only source of randomness, so that the output depends on the row's random numbers alone and
    the network runs in eval mode. The noise also enters every layer of the decoder, shrunk and scaled as in
    `DepasGenerator`; without it the decoder would repeat itself wherever the mask is constant.

    Args:
        in_channels: of the mask and, last, one of noise. out_channels: of the logits.
        width: of the first layer; doubles to 8 x.
        depth: halvings; sides are multiples of 2^depth (8 in the paper, for 256 x 256).
        norm: ``batch``, or ``instance``, which equals batch norm for the paper's batch of one.
        dropout: of the three innermost decoder layers while training.
        activation: of the encoder: ``leaky_relu``, or ``relu`` as in PriorPath.
        padding_mode: of the encoder's convolutions: ``zeros``, or ``reflect`` as in PriorPath. The decoder's transposed
            convolutions pad nothing.

    Attributes:
        stride: height and width are multiples of it.
        halo_px: receptive field to each side without the norms: two pixels at every size, on the way down and up.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        depth: int,
        norm: str = "batch",
        dropout: float = 0.0,
        activation: Activation = "leaky_relu",
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.depth, self.stride = depth, 2**depth
        self.halo_px = 4 * self.stride
        widths = [min(width * 2**level, 8 * width) for level in range(depth)]
        downs, ups = [], []
        for level, outside in enumerate(widths):
            inside = in_channels if level == 0 else widths[level - 1]
            bare = level in (0, depth - 1)  # the first has raw inputs, the innermost few pixels to normalise over
            downs.append(
                nn.Sequential(
                    nn.Identity() if level == 0 else nn.ReLU() if activation == "relu" else nn.LeakyReLU(SLOPE),
                    nn.Conv2d(
                        inside, outside, 4, stride=2, padding=1, bias=bare or norm != "batch", padding_mode=padding_mode
                    ),
                    nn.Identity() if bare else make_norm(norm, outside),
                )
            )
        for level in range(depth - 1, 0, -1):
            inside = widths[level] if level == depth - 1 else 2 * widths[level]
            inner = depth - 1 - level < 3
            ups.append(
                nn.Sequential(
                    nn.ReLU(),
                    nn.ConvTranspose2d(inside, widths[level - 1], 4, stride=2, padding=1, bias=norm != "batch"),
                    make_norm(norm, widths[level - 1]),
                    nn.Dropout(dropout) if inner and dropout else nn.Identity(),
                )
            )
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        self.noise_scale = nn.Parameter(torch.zeros(len(ups)))
        self.head = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2 * widths[0], out_channels, 4, stride=2, padding=1))
        draw_first_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K, H, W] of [N, in_channels, H, W]."""
        noises = noise_pyramid(x[:, -1:].float(), self.depth, torch.float32)[:-1]
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up, scale, noise in zip(self.ups, self.noise_scale, noises, strict=True):
            x = up(x)
            x = torch.cat([x + (NOISE_GAIN * scale * noise).to(x.dtype), skips.pop()], 1)
        return logits_in_full_precision(self.head, x)
