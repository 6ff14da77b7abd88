"""A segmenter of three convolutions, for tests of what is done with a network and not of the network."""

from collections.abc import Sequence

import torch
from torch import nn

from segment.network.networks import UnetPlusPlus


class SmallNetwork(nn.Module):
    """Logits [N, C, H, W] for images [N, 3, H, W] of even sides."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Conv2d(12, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = nn.functional.interpolate(self.middle(self.encoder(x)), scale_factor=2, mode="bilinear")
        logits: torch.Tensor = self.head(doubled)
        return logits


class Small(UnetPlusPlus):
    """An entry for the table of networks; with every encoder it is the same network."""

    def build(self, encoder: str, in_channels: int, classes: int, decoder: Sequence[int] | None) -> nn.Module:
        del encoder, decoder
        return SmallNetwork(in_channels, classes)
