"""The discrete adaptive block of DEPAS: sigmoid and softmax that approach steps during training (Eqs. 1 and 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def slope(epoch: int, every: int) -> float:
    """Delta of Eq. 1: 1, and 1 more every `every` epochs (10 in the paper)."""
    return 1.0 + epoch // every


def inverse_temperature(epoch: int, every: int, divisor: float = 1.25) -> float:
    """1 / T of Eq. 2: T is 1 and is divided by 1.25 every `every` epochs."""
    return float(divisor ** (epoch // every))


def sharpness(epoch: int, every: int, channels: int) -> float:
    """Factor of the logits in an epoch: the slope for one channel, 1 / T for several."""
    return slope(epoch, every) if channels == 1 else inverse_temperature(epoch, every)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Sharpened logits -> probabilities: sigmoid of one channel (Eq. 1), softmax over several.

    Eq. 2 is garbled in print; it is read as e^(x_c / T) / sum_i e^(x_i / T).
    """
    return logits.sigmoid() if logits.shape[1] == 1 else F.softmax(logits, 1)


def to_channels(labels: torch.Tensor, channels: int) -> torch.Tensor:
    """Classes uint8 [N, H, W] -> input of a network: float32 [N, K, H, W], 1 where the pixel has the class.

    One channel stands for two classes and is 1 where the class is 1.
    """
    if channels == 1:
        return labels[:, None].float()
    return F.one_hot(labels.long(), channels).permute(0, 3, 1, 2).float()


def to_labels(logits: torch.Tensor) -> torch.Tensor:
    """The generator's own decision: step function at 0, or arg max; uint8 [N, H, W]."""
    return ((logits[:, 0] > 0) if logits.shape[1] == 1 else logits.argmax(1)).to(torch.uint8)


def channels_of(classes: int) -> int:
    """Channels of a mask of so many classes in a network: 1 for two, else one each."""
    return 1 if classes == 2 else classes
