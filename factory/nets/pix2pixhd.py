"""The global generator G1 of pix2pixHD (Wang et al. 2018): condition map in, RGB out."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from factory.nets.layers import draw_first_weights, make_norm
from factory.nets.resnet import ResidualBlock

Upsampling = Literal["transposed", "resize"]


class GlobalGenerator(nn.Module):
    """A wide convolution, halvings, residual blocks, as many doublings, a wide convolution; reflection padding.

    Args:
        in_channels: of the condition map. out_channels: 3 for RGB.
        width: of the first layer; doubles with each halving (64 in the paper).
        downs: halvings (4). blocks: residual blocks at the smallest size (9). norm: instance, without affine.
        kernel: of the first and the last convolution, odd (7).
        widest: channels at most (no limit in the paper).
        upsampling: ``transposed`` convolutions as in the paper, or ``resize``: nearest neighbours and a convolution,
            which leaves no checkerboard (Odena et al. 2016).
        modulated: the condition map, shrunk, scales and shifts the channels after the norm of every doubling, by a
            convolution of one pixel (after SPADE, Park et al. 2019). An instance norm takes away what is the same all
            over a tile, so without it a tile of one class does not know which.

    Attributes:
        stride: what height and width are multiples of.
        halo_px: how far a pixel sees at most, but for the norms, rounded up to the stride: half of the wide kernels,
            one pixel at every size on the way down, two on the way up, two at the smallest size in every block.
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
        reach = 2 * (kernel // 2) + 3 * (self.stride - 1) + 2 * blocks * self.stride
        self.halo_px = -(-reach // self.stride) * self.stride
        widths = [min(width * 2**level, widest) for level in range(downs + 1)]
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(kernel // 2),
            nn.Conv2d(in_channels, width, kernel),
            make_norm(norm, width),
            nn.ReLU(inplace=True),
        ]
        for inside, outside in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(inside, outside, 3, stride=2, padding=1),
                make_norm(norm, outside),
                nn.ReLU(inplace=True),
            ]
        layers += [ResidualBlock(widths[-1], norm) for _ in range(blocks)]
        self.body = nn.Sequential(*layers)
        told = in_channels if modulated else 0
        ups = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.ups = nn.ModuleList([_Up(inside, outside, norm, upsampling, told) for inside, outside in ups])
        self.head = nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(width, out_channels, kernel))
        draw_first_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What tanh makes an image in -1..1 of: [N, out_channels, H, W] of [N, in_channels, H, W]."""
        shown = self.body(x)
        for level, up in enumerate(self.ups, 1 - len(self.ups)):
            shown = up(shown, F.avg_pool2d(x, 2**-level) if level else x)
        made: torch.Tensor = self.head(shown)
        return made.float()


class _Up(nn.Module):
    """A doubling, its norm, and, where the condition map is `told`, what that makes of each channel."""

    def __init__(self, inside: int, outside: int, norm: str, upsampling: Upsampling, told: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_doubling(inside, outside, upsampling), make_norm(norm, outside))
        self.modulation = nn.Conv2d(told, 2 * outside, 1) if told else None
        self.last = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[N, outside, 2 H, 2 W] of [N, inside, H, W] and the condition map at that size."""
        x = self.body(x)
        if self.modulation is not None:
            scale, shift = self.modulation(condition).to(x.dtype).chunk(2, 1)
            x = torch.addcmul(x + shift, x, scale)
        shown: torch.Tensor = self.last(x)
        return shown


def _doubling(inside: int, outside: int, upsampling: Upsampling) -> list[nn.Module]:
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(inside, outside, 3, stride=2, padding=1, output_padding=1)]
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inside, outside, 3, padding=1)]
