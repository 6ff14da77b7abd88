"""Pixel classifier of Histopathology-DatasetGAN: a small network from a pixel's features to its class.

The layers are those of the paper (Rizvi et al., "a 3-layer MLP with ReLU activations, Batch Normalization and
Dropout") in the order of its authors' code, where batch norm follows ReLU. Several of them make an ensemble, as in
DatasetGAN (Zhang et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from factory.nets.layers import draw_first_weights

_CHANNELS_AT_ONCE = 64
"""Channels whose mean and deviation are computed at once, in float64; a generator has thousands."""


class PixelClassifier(nn.Module):
    """Standardised features -> logits.

    Args:
        channels: of the features. classes: of the labels.
        widths: of the two hidden layers. dropout: share of the first hidden layer.
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, int] = (128, 32), dropout: float = 0.3) -> None:
        super().__init__()
        self.first = nn.Linear(channels, widths[0])
        self.first_norm = nn.BatchNorm1d(widths[0])
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(widths[0], widths[1])
        self.second_norm = nn.BatchNorm1d(widths[1])
        self.third = nn.Linear(widths[1], classes)
        self.draw_weights()

    def draw_weights(self) -> None:
        """Draw first weights from N(0, 0.02), as the authors' code has it, from torch's global generator."""
        draw_first_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [P, K] of standardised features [P, C]."""
        x = self.dropout(self.first_norm(self.first(x).relu()))
        logits: torch.Tensor = self.third(self.second_norm(self.second(x).relu()))
        return logits


class Ensemble(nn.Module):
    """Pixel classifiers of the same features, with their standardisation.

    Args:
        channels, classes, widths, dropout: of each `PixelClassifier`. members: how many; 1 in HDGAN, 10 in DatasetGAN.
    """

    def __init__(
        self, channels: int, classes: int, members: int = 1, widths: Sequence[int] = (128, 32), dropout: float = 0.3
    ) -> None:
        super().__init__()
        first, second = widths
        self.channels, self.classes = channels, classes
        self.mean, self.std = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))
        self.members = nn.ModuleList(
            PixelClassifier(channels, classes, (first, second), dropout) for _ in range(members)
        )

    def standardise_by(self, features: torch.Tensor) -> None:
        """Set mean and standard deviation to those of features [P, C]; a constant channel keeps its scale."""
        for start in range(0, self.channels, _CHANNELS_AT_ONCE):
            some = slice(start, start + _CHANNELS_AT_ONCE)
            std, mean = torch.std_mean(features[:, some].double(), 0, correction=0)
            self.mean[some] = mean
            self.std[some] = torch.where(std > 0, std, 1.0)

    def standardised(self, x: torch.Tensor) -> torch.Tensor:
        """Features [P, C] less the mean, over the standard deviation, of `standardise_by`."""
        return (x - self.mean) / self.std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [E, K, P] of all members for features [P, C] of a generator."""
        x = self.standardised(x)
        return torch.stack([member(x).T for member in self.members])


@dataclass(frozen=True)
class FoldedEnsemble:
    """An ensemble in eval mode as three linear maps with ReLU between them, for all members; float32.

    Attributes:
        mean: [C], subtracted from the features. It is not folded into the bias, because a feature whose mean is far
            from 0 would lose digits, in bfloat16 most of them.
        first: [E, C, D], the scale of the standardisation folded in. first_bias: [E, D].
        second: [E, D, F], the first batch norm folded in. second_bias: [E, F].
        third: [E, K, F], the second batch norm folded in. third_bias: [E, K, 1].
    """

    mean: torch.Tensor
    first: torch.Tensor
    first_bias: torch.Tensor
    second: torch.Tensor
    second_bias: torch.Tensor
    third: torch.Tensor
    third_bias: torch.Tensor

    @property
    def members(self) -> int:
        """Number of classifiers."""
        return len(self.second)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.third.shape[1]


def fold(ensemble: Ensemble) -> FoldedEnsemble:
    """Fold standardisation and batch norms into the linear maps; computed in float64."""
    firsts, seconds, thirds = [], [], []
    for member in ensemble.members:
        assert isinstance(member, PixelClassifier)
        scale = 1.0 / ensemble.std.detach().double()
        firsts.append((member.first.weight.detach().double() * scale, member.first.bias.detach().double()))
        seconds.append(_after_norm(member.first_norm, member.second))
        thirds.append(_after_norm(member.second_norm, member.third))
    (first, first_bias), (second, second_bias), (third, third_bias) = (
        [torch.stack(parts).float() for parts in zip(*pairs, strict=True)] for pairs in (firsts, seconds, thirds)
    )
    return FoldedEnsemble(
        mean=ensemble.mean.detach().float().clone(),
        first=first.transpose(1, 2).contiguous(),
        first_bias=first_bias,
        second=second.transpose(1, 2).contiguous(),
        second_bias=second_bias,
        third=third,
        third_bias=third_bias[:, :, None],
    )


def _after_norm(norm: nn.BatchNorm1d, linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, float64, of a linear map that equals batch norm in eval mode followed by `linear`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    weight = linear.weight.detach().double()
    return weight * scale, weight @ shift + linear.bias.detach().double()


def majority_vote(logits: torch.Tensor) -> torch.Tensor:
    """Return the class that most members of an ensemble choose: uint8 [...] of logits [E, K, ...].

    Ties go to the class with the larger mean probability.
    """
    choices = logits.max(1).indices  # argmax is many times slower on a CPU
    labels: torch.Tensor = choices[0].to(torch.uint8)
    if len(logits) == 1:
        return labels
    votes = torch.stack([(choices == label).sum(0) for label in range(logits.shape[1])])
    chosen = votes + 0.5 * logits.float().softmax(1).mean(0)
    return chosen.max(0).indices.to(torch.uint8)


def disagreement(logits: torch.Tensor) -> torch.Tensor:
    """Compute the Jensen-Shannon divergence between members: float32 [...] of logits [E, K, ...], in nats.

    The entropy of the mean distribution minus the mean entropy (Zhang et al. 2021): 0 where all members agree with the
    same confidence, at most the logarithms of K and of E.
    """
    log = logits.float().log_softmax(1)
    p = log.exp()
    mean = p.mean(0)
    divergence: torch.Tensor = (p * log).sum(1).mean(0) - torch.special.xlogy(mean, mean).sum(0)
    return divergence.clamp_min_(0.0)
