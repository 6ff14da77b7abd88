"""SegNet (Badrinarayanan, Kendall and Cipolla 2017): a VGG16 encoder, and a decoder that unpools with its indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from manifests.errors import UserError

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of the 13 convolutions of VGG16 (configuration D), pooled after each stage."""


class Vgg16Encoder(nn.Module):
    """The convolutions of VGG16 with batch norm, each stage followed by a 2x2 max-pooling that returns its indices.

    Layers have the numbers of torchvision's ``vgg16_bn().features``, so its weights load by name.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in STAGES:
            for channels in stage:
                layers += [
                    nn.Conv2d(in_channels, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                in_channels = channels
            layers.append(nn.MaxPool2d(2, return_indices=True))
        self.features = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Float [N, 3, H, W] -> features [N, 512, H/32, W/32] and the five index maps, first stage first."""
        indices: list[torch.Tensor] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, index = layer(x)
                indices.append(index)
            else:
                x = layer(x)
        return x, indices


class SegNet(nn.Module):
    """SegNet: logits [N, C, H, W] for images [N, 3, H, W] whose sides are multiples of 32.

    The decoder mirrors the encoder: each stage unpools to the positions of the maxima (zeros elsewhere), followed by as
    many convolutions as in the encoder; the last one gives the logits.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.encoder = Vgg16Encoder(in_channels)
        self.unpool = nn.MaxUnpool2d(2)
        self.decoder = nn.ModuleList()
        for number, stage in enumerate(reversed(STAGES)):
            following = STAGES[len(STAGES) - 2 - number][-1] if number < len(STAGES) - 1 else None
            self.decoder.append(_decoder_stage(stage, following, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, in_channels, H, W] -> logits [N, classes, H, W]."""
        x, indices = self.encoder(x)
        for stage, index in zip(self.decoder, reversed(indices), strict=True):
            x = stage(self.unpool(x, index))
        return x


def _decoder_stage(channels: tuple[int, ...], following: int | None, classes: int) -> nn.Sequential:
    """Convolutions at one scale; the last one has the channels of the next stage, or the logits."""
    layers: list[nn.Module] = []
    for position, width in enumerate(channels):
        is_last = position == len(channels) - 1
        if is_last and following is None:
            layers.append(nn.Conv2d(width, classes, 3, padding=1))
            break
        out = following if is_last and following is not None else width
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SegNetVgg16:
    """SegNet as an entry of `segment.network.networks.NETWORKS`: the decoder mirrors the layers of VGG16."""

    default_encoder = "vgg16_bn"

    def encoders(self) -> list[str]:
        """VGG16 with batch norm, the only one."""
        return [self.default_encoder]

    def accepts(self, encoder: str) -> bool:
        """Whether it is the only one."""
        return encoder == self.default_encoder

    def build(self, encoder: str, in_channels: int, classes: int, decoder: Sequence[int] | None) -> nn.Module:
        """Build the network; `segment.network.networks.Architecture` has the contract."""
        del encoder
        if decoder is not None:
            raise UserError("network.decoder: expected null for segnet, whose decoder mirrors its encoder, got widths.")
        return SegNet(in_channels, classes)
