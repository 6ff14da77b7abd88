"""Features of a VGG16 with random weights: no download, no pickle, no ImageNet.

Naeem et al. 2020 (section 4) use a randomly initialised VGG16 where pictures are far from ImageNet, as masks are. All
three extractors here have torchvision's convolutions and max pools, with orthogonal weights (Saxe et al. 2014) of gain
sqrt(2), no biases, and one fixed seed. The paper does not state its weights in a form that can be repeated, so these
distances compare within this project only.

- ``random-vgg16``: means of all five blocks over the picture, 1472 values, projected to 64 by a fixed random matrix.
  The paper takes a fully connected layer behind the last block instead; docs/results/features.md compares the two.
- ``random-vgg16-pooled``: the 1472 means themselves.
- ``random-vgg16-r64``: the paper's version: adaptive mean to 7x7, fully connected 4096 with ReLU, and a last hidden
  layer of 64 ("R64"); normal weights with variance 2 / inputs. It depends on where things lie in the tile.

Pictures keep their size and aspect ratio; the paper resizes them to 224x224.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from factory.score.features import Extractor

_SEED = 20200223  # the day on which Naeem et al. appeared; never changes
_POOLED = 64 + 128 + 256 + 512 + 512
_COMPACT = 64
_GAIN = 2**0.5


class _Trunk(nn.Module):
    """The 13 convolutions of VGG16 (Simonyan 2015, D); returns the output of each of the five blocks."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = make_layers(cfgs["D"])
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight, _GAIN, generator)
                layer.bias = None

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        values = (pictures - 0.5) / 0.25
        blocks = []
        for layer in self.layers:
            values = layer(values)
            if isinstance(layer, nn.MaxPool2d):
                blocks.append(values)
        return blocks


class _Pooled(nn.Module):
    """Means of all five blocks over the picture: [N, 3, H, W] -> [N, 1472], or projected to [N, compact]."""

    def __init__(self, compact: int | None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_SEED)
        self.trunk = _Trunk(generator)
        self.head: nn.Module = nn.Identity()
        if compact is not None:
            self.head = nn.Linear(_POOLED, compact, bias=False)
            nn.init.normal_(self.head.weight, 0.0, compact**-0.5, generator)

    def layers(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Returns the outputs of the five blocks."""
        blocks: list[torch.Tensor] = self.trunk(pictures)
        return blocks

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        means = torch.cat([block.mean((2, 3)) for block in self.layers(pictures)], 1)
        features: torch.Tensor = self.head(means)
        return features


class _Hidden(nn.Module):
    """Trunk, adaptive mean to 7x7, fully connected layers of 4096 and 64: [N, 3, H, W] -> [N, 64]."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_SEED)
        self.trunk = _Trunk(generator)
        wide, narrow = nn.Linear(512 * 7 * 7, 4096, bias=False), nn.Linear(4096, _COMPACT, bias=False)
        for layer in (wide, narrow):
            nn.init.normal_(layer.weight, 0.0, (2 / layer.in_features) ** 0.5, generator)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), wide, nn.ReLU(), narrow)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.head(self.trunk(pictures)[-1])
        return features


def compact(weights: Path | None = None) -> Extractor:
    """Opens the default, 64 features: few enough for a Frechet distance on a hundred tiles."""
    return _extractor("random-vgg16", _Pooled(_COMPACT), weights)


def pooled(weights: Path | None = None) -> Extractor:
    """Opens the extractor of 1472 features."""
    return _extractor("random-vgg16-pooled", _Pooled(None), weights)


def hidden(weights: Path | None = None) -> Extractor:
    """Opens the extractor of 64 features of Naeem et al. 2020."""
    return _extractor("random-vgg16-r64", _Hidden(), weights)


def _extractor(name: str, network: nn.Module, weights: Path | None) -> Extractor:
    assert weights is None  # refused by `check_extractor`
    network = network.to(memory_format=torch.channels_last)
    return Extractor(name, f"Frechet distance ({name})", network, f"random weights, seed {_SEED}")
