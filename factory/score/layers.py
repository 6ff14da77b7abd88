"""Features of several layers of a network: texture from fine to coarse, for a reader that tells two kinds apart."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from factory.score.features import Extractor, check_extractor, open_extractor
from manifests.errors import UserError

_WITHOUT_LAYERS = ("inception", "random-vgg16-r64")


class Layered(Protocol):
    """A network that returns the output of its stages."""

    def layers(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Computes the stages' outputs, each [N, c, h, w], from float32 [N, 3, H, W] in 0..1."""


class LayerStatistics(nn.Module):
    """Means and standard deviations of each channel over the picture, of all stages: [N, 3, H, W] -> [N, d]."""

    def __init__(self, network: Layered) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Computes them; a picture keeps its size."""
        layers = self.network.layers(pictures)
        return torch.cat([part for each in layers for part in (each.mean((2, 3)), each.std((2, 3), correction=0))], 1)


def check_layers(name: str, weights: Path | None) -> None:
    """Refuses what `open_layers` cannot open, before anything is read.

    Raises:
        UserError: with the names that work, or the fault of the file.
    """
    check_extractor(name, weights)
    if name in _WITHOUT_LAYERS:
        raise UserError(f"--features: expected random-vgg16, resnet50 or timm:NAME, got {name}. Use random-vgg16.")


def open_layers(name: str, weights: Path | None = None) -> Extractor:
    """Opens an extractor of `LayerStatistics`.

    Args:
        name: random-vgg16, resnet50 or ``timm:NAME``. weights: as in `open_extractor`.

    Raises:
        UserError: for an extractor without layers. FaultError: when a download fails.
    """
    check_layers(name, weights)
    whole = open_extractor(name, weights)
    statistics = LayerStatistics(cast(Layered, whole.network))
    return Extractor(f"{name}, layers", "", statistics, whole.origin, whole.sha256)
