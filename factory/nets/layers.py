"""Parts that several networks share: first weights, norms and their folding, noise, a last layer in float32."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from factory.nets.inference_layers import FullPrecisionHead

Network = TypeVar("Network", bound=nn.Module)

NOISE_GAIN = 20.0
"""Factor of the learnable noise scales, so that Adam's small steps change them within a few thousand steps."""

WEIGHT_STD = 0.02
"""Standard deviation of the first weights: DCGAN (Radford et al. 2016), pix2pix (Isola et al. 2017), PriorPath."""


def draw_first_weights(network: Network) -> Network:
    """Draw all weights from N(0, 0.02), the gains of batch norm from N(1, 0.02), from torch's global generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, WEIGHT_STD)
            nn.init.zeros_(module.bias)
    return network


class InstanceNorm2d(nn.InstanceNorm2d):
    """Torch's, except that a batch of one uses batch norm: the same numbers, without a copy of "channels last"."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] with mean 0 and variance 1 over the pixels of each channel of each sample."""
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, None, None, training=True, eps=self.eps)


class UpsamplingBlock(nn.Module):
    """Transposed convolution, batch norm, scaled noise, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up: nn.Module = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """[N, out_channels, 2 H, 2 W] of [N, in_channels, H, W] and noise of the output's size."""
        x = self.norm(self.up(x))
        return F.relu(x if noise is None else x + noise, inplace=True)


def make_norm(kind: str, channels: int) -> nn.Module:
    """``batch``, ``instance`` (without affine, as pix2pixHD has it) or ``none``."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return InstanceNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm: expected batch, instance or none, got {kind!r}")


def fold_batch_norm(network: Network) -> Network:
    """Fold every batch norm into the convolution right before it, in place; for eval mode, up to rounding the same.

    A pair is a convolution and a batch norm that follow each other in an `nn.Sequential` or in an `UpsamplingBlock`.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                module[index], module[index + 1] = _folded(module[index], module[index + 1])
        elif isinstance(module, UpsamplingBlock):
            module.up, module.norm = _folded(module.up, module.norm)
    return network


def _folded(first: nn.Module, second: nn.Module) -> tuple[nn.Module, nn.Module]:
    if not isinstance(first, nn.Conv2d | nn.ConvTranspose2d) or not isinstance(second, nn.BatchNorm2d):
        return first, second
    transpose = isinstance(first, nn.ConvTranspose2d)
    with torch.no_grad():
        return fuse_conv_bn_eval(first.eval(), second.eval(), transpose=transpose), nn.Identity()


def noise_pyramid(noise: torch.Tensor, levels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Noise [N, 1, H, W] at 1 / 2^(levels - 1) ... 1/2 and full size, each of variance 1 again, in a number format."""
    maps = [noise]
    for _ in range(levels - 1):
        maps.append(F.avg_pool2d(maps[-1], 2) * 2.0)  # the mean of four has a quarter of the variance
    return [level.to(dtype) for level in reversed(maps)]


def logits_in_full_precision(head: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Compute the last layer in float32, whatever the others use.

    A mask is thresholded at a quantile of its logits; in bfloat16 thousands of pixels would share that value, and would
    be ordered at random.
    """
    with torch.autocast(x.device.type, enabled=False):
        logits: torch.Tensor = head(x if isinstance(head, FullPrecisionHead) else x.float())
    return logits


def odd(kernel: int) -> int:
    """A pydantic validator of kernel sizes."""
    if kernel % 2 == 0:
        raise ValueError("expected an odd number")
    return kernel
