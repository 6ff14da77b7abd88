"""The generator of CycleGAN (Zhu et al. 2017, after Johnson et al. 2016): residual blocks at a quarter of the size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field, field_validator
from torch import nn

from factory.core.config import Config
from factory.nets.layers import draw_first_weights, logits_in_full_precision, make_norm, odd


class ResnetShape(Config):
    """Shape of both `ResnetGenerator`s of CycleGAN; the defaults are the paper's for 256 x 256."""

    width: int = Field(default=64, ge=1)
    blocks: int = Field(default=9, ge=1)
    norm: str = Field(default="instance", pattern="^(batch|instance)$")
    kernel: int = Field(default=7, ge=3, le=15)

    _odd = field_validator("kernel")(odd)


class ResidualBlock(nn.Module):
    """Two convolutions with reflection padding, added to their input."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            make_norm(norm, channels),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            make_norm(norm, channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] of the same."""
        added: torch.Tensor = x + self.body(x)
        return added


def residual_encoder(
    in_channels: int, widths: Sequence[int], blocks: int, norm: str, kernel: int
) -> tuple[list[nn.Module], int]:
    """Layers of a wide convolution, halvings and residual blocks with reflection padding, as in CycleGAN and pix2pixHD.

    Args:
        in_channels: of the input. widths: channels at full size and after every halving. blocks: residual blocks.
        norm: see `make_norm`. kernel: of the first convolution, and of the generator's last one.

    Returns:
        The layers, and the receptive field to each side of a generator that mirrors them, without its norms and rounded
        up to its stride: half of the wide kernels, one pixel at every size on the way down, two on the way up, two at
        the smallest size in every block.
    """
    layers = [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(in_channels, widths[0], kernel), make_norm(norm, widths[0])]
    layers.append(nn.ReLU(inplace=True))
    for inside, outside in pairwise(widths):
        layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), make_norm(norm, outside), nn.ReLU(inplace=True)]
    layers += [ResidualBlock(widths[-1], norm) for _ in range(blocks)]
    stride = 2 ** (len(widths) - 1)
    reach = 2 * (kernel // 2) + 3 * (stride - 1) + 2 * blocks * stride
    return layers, -(-reach // stride) * stride


class ResnetGenerator(nn.Module):
    """A wide convolution, two halvings, residual blocks, two upsamplings, a wide convolution.

    Args:
        in_channels, out_channels: of the mask and of the logits. width: of the first layer. blocks: residual blocks
        (9 in the paper at 256 x 256). norm: instance in the paper. kernel: of the first and the last convolution, odd
        (7 in the paper).

    Attributes:
        stride: height and width are multiples of it. halo_px: receptive field to each side, see `residual_encoder`.
    """

    stride = 4

    def __init__(
        self, in_channels: int, out_channels: int, width: int, blocks: int, norm: str = "instance", kernel: int = 7
    ) -> None:
        super().__init__()
        layers, self.halo_px = residual_encoder(in_channels, (width, 2 * width, 4 * width), blocks, norm, kernel)
        for level in (4, 2):
            layers += [
                nn.ConvTranspose2d(width * level, width * level // 2, 3, stride=2, padding=1, output_padding=1),
                make_norm(norm, width * level // 2),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(width, out_channels, kernel))
        draw_first_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, out_channels, H, W] of [N, in_channels, H, W]."""
        return logits_in_full_precision(self.head, self.body(x))
