"""Features of a VGG16 with random weights: no download, no pickle, no ImageNet.

Naeem et al. 2020 (Reliable Fidelity and Diversity Metrics, section 4) take features of a randomly initialised VGG16 for
pictures that are far from ImageNet, with the last hidden layer narrowed from 4096 to 64 ("R64"). Masks are as far from
ImageNet as can be. Here: torchvision's topology (13 convolutions of 3x3 with ReLU, five 2x2 max pools, adaptive mean to
7x7, a fully connected layer of 4096 with ReLU, one of 64 without), and

- orthogonal weights (Saxe et al. 2014) with gain sqrt(2) in the convolutions, normal ones with variance 2 / inputs in the
  fully connected layers, no biases, all from one fixed seed. Theirs are not stated in a form that can be repeated, so
  distances compare within this project only;
- pictures keep their size and aspect instead of being brought to 224x224, since the adaptive mean takes any;
- all divided by 100, because the unit of a random network is nobody's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from factory.realism.features import Extractor

_SEED = 20200223  # the day on which Naeem et al. appeared; never changes
_PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: max pool (Simonyan 2015, D)
_UNIT = 100.0
_GAIN = 2**0.5


class _Trunk(nn.Module):
    """The convolutions of VGG16; the output of each of the five blocks."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        channels = 3
        for width in _PLAN:
            if width == 0:
                self.layers.append(nn.MaxPool2d(2))
                continue
            layer = nn.utils.skip_init(nn.Conv2d, channels, width, 3, padding=1, bias=False)
            nn.init.orthogonal_(layer.weight, _GAIN, generator)
            self.layers += [layer, nn.ReLU(inplace=True)]
            channels = width

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        values = (pictures - 0.5) / 0.25
        blocks = []
        for layer in self.layers:
            values = layer(values)
            if isinstance(layer, nn.MaxPool2d):
                blocks.append(values)
        return blocks


class _Hidden(nn.Module):
    """Trunk, adaptive mean to 7x7, and fully connected layers: [N, 3, H, W] -> [N, widths[-1]]."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_SEED)
        self.trunk = _Trunk(generator)
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
        inputs = 512 * 7 * 7
        for width in widths:
            layer = nn.utils.skip_init(nn.Linear, inputs, width, bias=False)
            nn.init.normal_(layer.weight, 0.0, (2 / inputs) ** 0.5, generator)
            layers += [layer, nn.ReLU()]
            inputs = width
        self.head = nn.Sequential(*layers[: -1 if len(widths) > 1 else None])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(pictures)[-1]) / _UNIT


class _Pooled(nn.Module):
    """Means of all five blocks over the picture: [N, 3, H, W] -> [N, 1472]; blind to where things lie."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _Trunk(torch.Generator().manual_seed(_SEED))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([block.mean((2, 3)) for block in self.trunk(pictures)], 1) / _UNIT


def compact(weights: Path | None = None) -> Extractor:
    """64 features, the default: few enough for a Frechet distance on a hundred tiles."""
    return _extractor("random-vgg16", _Hidden((4096, 64)), weights)


def wide(weights: Path | None = None) -> Extractor:
    """4096 features of the first fully connected layer."""
    return _extractor("random-vgg16-4096", _Hidden((4096,)), weights)


def pooled(weights: Path | None = None) -> Extractor:
    """1472 features that do not know where in the tile something is."""
    return _extractor("random-vgg16-pooled", _Pooled(), weights)


def _extractor(name: str, network: nn.Module, weights: Path | None) -> Extractor:
    assert weights is None  # refused by `check_extractor`
    network = network.to(memory_format=torch.channels_last)
    return Extractor(name, f"Frechet distance ({name})", network, f"random weights, seed {_SEED}")
