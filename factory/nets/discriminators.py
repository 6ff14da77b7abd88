"""Discriminators of whole masks (DCGAN) and of patches (pix2pix), and their history of generated images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from factory.nets.layers import draw_first_weights, make_norm

SLOPE = 0.2
"""Slope of the leaky ReLU, in all of the papers."""


class WholeDiscriminator(nn.Module):
    """A mask of one size -> one logit (Radford et al. 2016; DEPAS, Fig. 2B).

    Strided convolutions with batch norm (not in the first) and leaky ReLU until a side is 4 or would be odd; the last
    kernel covers the rest.

    Args:
        channels: of the mask. width: of the first layer; doubles to `widest`. size: height and width of the mask.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int], widest: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, length = size
        inside, outside = channels, width
        while min(height, length) > 4 and height % 2 == 0 and length % 2 == 0:
            layers.append(nn.Conv2d(inside, outside, 4, stride=2, padding=1, bias=not layers))
            if len(layers) > 1:
                layers.append(nn.BatchNorm2d(outside))
            layers.append(nn.LeakyReLU(SLOPE, inplace=True))
            height, length = height // 2, length // 2
            inside, outside = outside, min(2 * outside, widest)
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, 1, (height, length)))
        draw_first_weights(self)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        """Logits [N] of masks [N, K, H, W]."""
        logits: torch.Tensor = self.layers(mask)
        return logits.flatten()


def smallest_side(depth: int, discriminators: int = 1) -> int:
    """Smallest side of a mask for `PatchDiscriminator`s of a depth, the last of them at 1/2^(discriminators - 1)."""
    return 3 << (depth + discriminators - 1)  # the two unstrided 4x4 convolutions take a pixel each


def refuse_small_crops(size: tuple[int, int], depth: int, discriminators: int = 1) -> None:
    """Refuse crops that are too small for `PatchDiscriminator`s of a depth; for the configs of trainers."""
    least = smallest_side(depth, discriminators)
    if min(size) < least:
        raise ValueError(f"size: expected sides from {least} for these discriminators, got {size[0]}x{size[1]}")


class PatchDiscriminator(nn.Module):
    """A mask -> a map of logits, one for every patch (70 x 70 pixels with three strided layers; Isola et al. 2017).

    Args:
        channels: of its input, condition included. width: of the first layer. depth: strided layers. norm: kind.
        padding: of every convolution, 1 (pix2pix) or 2 (pix2pixHD's code).
    """

    def __init__(self, channels: int, width: int, depth: int = 3, norm: str = "instance", *, padding: int = 1) -> None:
        super().__init__()
        stages = [nn.Sequential(nn.Conv2d(channels, width, 4, stride=2, padding=padding), nn.LeakyReLU(SLOPE))]
        inside = width
        for position in range(1, depth + 1):
            outside, stride = min(width * 2**position, width * 8), 2 if position < depth else 1
            stages.append(
                nn.Sequential(
                    nn.Conv2d(inside, outside, 4, stride=stride, padding=padding, bias=norm != "batch"),
                    make_norm(norm, outside),
                    nn.LeakyReLU(SLOPE),
                )
            )
            inside = outside
        stages.append(nn.Sequential(nn.Conv2d(inside, 1, 4, padding=padding)))
        self.stages = nn.ModuleList(stages)
        draw_first_weights(self)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The output of every stage; the last is the logits [N, 1, h, w]."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class Scales(nn.Module):
    """Discriminators of one kind at 100, 50, 25 ... per cent of the size.

    Args:
        discriminators: that of the full size first.
        pooling: side of the squares of pixels whose means, two pixels apart, are the next smaller image: 2, or 3 with
            neighbours overlapping (pix2pixHD's code).
    """

    def __init__(self, discriminators: Sequence[nn.Module], pooling: int = 2) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)
        self.pooling = pooling

    def forward(self, x: torch.Tensor) -> list[torch.Tensor | list[torch.Tensor]]:
        """Output of each discriminator, that of the full size first."""
        outputs = []
        for position, discriminator in enumerate(self.discriminators):
            if self.pooling == 3:
                seen = x = F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False) if position else x
            else:
                seen = F.avg_pool2d(x, 2**position) if position else x
            outputs.append(discriminator(seen))
        return outputs


def mixed_with_history(
    history: list[npt.NDArray[np.float32]], made: Sequence[npt.NDArray[np.float32]], rng: np.random.Generator, size: int
) -> list[npt.NDArray[np.float32]]:
    """Replace about half of the generated images by earlier ones (Shrivastava et al. 2017), for the discriminator.

    Args:
        history: earlier images, changed in place. made: new ones. rng: chooses. size: of the history (50 in the paper).
    """
    shown = []
    for image in made:
        if len(history) < size:
            history.append(image)
            shown.append(image)
        elif rng.random() < 0.5:
            place = int(rng.integers(size))
            shown.append(history[place])
            history[place] = image
        else:
            shown.append(image)
    return shown
