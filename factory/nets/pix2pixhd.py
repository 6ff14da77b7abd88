"""The global generator G1 of pix2pixHD (Wang et al. 2018): condition map in, RGB out."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import nn

from factory.core.config import Config
from factory.nets.layers import draw_first_weights, make_norm, odd
from factory.nets.resnet import residual_encoder

Upsampling = Literal["transposed", "resize"]


class GlobalShape(Config):
    """Shape of a `GlobalGenerator`; the defaults are pix2pixHD's."""

    width: int = Field(default=64, ge=1)
    downs: int = Field(default=4, ge=1, le=5)
    blocks: int = Field(default=9, ge=1)
    norm: str = Field(default="instance", pattern="^(batch|instance)$")
    kernel: int = Field(default=7, ge=3, le=15)
    widest: int = Field(default=1024, ge=1)
    upsampling: Upsampling = "transposed"
    modulated: bool = False

    _odd = field_validator("kernel")(odd)

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse crops that are too small for reflection padding; for the configs of trainers."""
        least = 2 ** (self.downs + 1)
        if min(size) < least:
            raise ValueError(f"size: expected sides from {least}, which reflection padding needs, got {size}")


class GlobalGenerator(nn.Module):
    """A wide convolution, halvings, residual blocks, as many upsamplings, a wide convolution; reflection padding.

    Args:
        in_channels: of the condition map. out_channels: 3 for RGB.
        width: of the first layer; doubles with each halving (64 in the paper).
        downs: halvings (4). blocks: residual blocks at the smallest size (9). norm: instance, without affine.
        kernel: of the first and the last convolution, odd (7).
        widest: channels at most (no limit in the paper).
        upsampling: ``transposed`` convolutions as in the paper, or ``resize``: nearest neighbours and a convolution,
            which leaves no checkerboard (Odena et al. 2016).
        modulated: the condition map, shrunk, scales and shifts the channels after the norm of every upsampling, by a
            convolution of one pixel (after SPADE, Park et al. 2019). An instance norm removes what is constant over a
            tile, so without modulation a tile of one class is drawn the same for every class.

    Attributes:
        stride: height and width are multiples of it.
        halo_px: receptive field to each side, see `residual_encoder`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 3,
        *,
        width: int = 64,
        downs: int = 4,
        blocks: int = 9,
        norm: str = "instance",
        kernel: int = 7,
        widest: int = 1024,
        upsampling: Upsampling = "transposed",
        modulated: bool = False,
    ) -> None:
        super().__init__()
        self.stride = 2**downs
        widths = [min(width * 2**level, widest) for level in range(downs + 1)]
        layers, self.halo_px = residual_encoder(in_channels, widths, blocks, norm, kernel)
        self.body = nn.Sequential(*layers)
        conditions = in_channels if modulated else 0
        ups = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.ups = nn.ModuleList([_Up(inside, outside, norm, upsampling, conditions) for inside, outside in ups])
        self.head = nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(width, out_channels, kernel))
        draw_first_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pre-tanh output [N, out_channels, H, W] of [N, in_channels, H, W]."""
        features = self.body(x)
        for level, up in enumerate(self.ups, 1 - len(self.ups)):
            features = up(features, F.avg_pool2d(x, 2**-level) if level else x)
        made: torch.Tensor = self.head(features)
        return made.float()


class _Up(nn.Module):
    """Upsampling, norm and, with `conditions` channels of the condition map, its modulation of each channel."""

    def __init__(self, inside: int, outside: int, norm: str, upsampling: Upsampling, conditions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_upsampling(inside, outside, upsampling), make_norm(norm, outside))
        self.modulation = nn.Conv2d(conditions, 2 * outside, 1) if conditions else None
        self.last = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[N, outside, 2 H, 2 W] of [N, inside, H, W] and the condition map at that size."""
        x = self.body(x)
        if self.modulation is not None:
            scale, shift = self.modulation(condition).to(x.dtype).chunk(2, 1)
            x = torch.addcmul(x + shift, x, scale)
        activated: torch.Tensor = self.last(x)
        return activated


def _upsampling(inside: int, outside: int, upsampling: Upsampling) -> list[nn.Module]:
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(inside, outside, 3, stride=2, padding=1, output_padding=1)]
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inside, outside, 3, padding=1)]
