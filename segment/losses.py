"""What training minimises: Dice loss + cross entropy / 4 (Eq. 5 of the noise-frequency paper, with signs that fall)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from factory.core.config import Config
from manifests.labels import IGNORE


class LossConfig(Config):
    """Weights of the loss terms; the defaults are the paper's."""

    dice: float = 1.0
    cross_entropy: float = 0.25


@dataclass(frozen=True)
class Losses:
    """Scalars: the weighted sum that is minimised, and its terms before weighting."""

    total: torch.Tensor
    dice: torch.Tensor
    cross_entropy: torch.Tensor


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, config: LossConfig) -> Losses:
    """Dice loss and cross entropy over the pixels that are not `IGNORE`; both 0 where there are none.

    Args:
        logits: float [N, C, H, W].
        labels: int64 [N, H, W], 0..C-1 or 255.
        config: weights.
    """
    logits = logits.float()
    known = labels != IGNORE
    dice = dice_loss(logits.softmax(dim=1), labels, known)
    pixels = known.sum().clamp(min=1)
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / pixels
    return Losses(config.dice * dice + config.cross_entropy * entropy, dice, entropy)


def dice_loss(probabilities: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice, averaged over the classes that the batch's truth contains.

    Dice_c = 2 sum(p_c y_c) / sum(p_c + y_c), sums over the known pixels of the whole batch. A class that is not there
    has no overlap to gain, only cross entropy tells it to stay away.

    Args:
        probabilities: float32 [N, C, H, W]. labels: int64 [N, H, W]. known: bool [N, H, W], pixels that count.
    """
    classes = probabilities.shape[1]
    truth = F.one_hot(labels.where(known, 0), classes).permute(0, 3, 1, 2) * known[:, None]
    axes = (0, 2, 3)
    overlap = (probabilities * truth).sum(axes)
    total = (probabilities * known[:, None]).sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    loss = (1 - 2 * overlap / total.clamp(min=1e-6)) * present
    return loss.sum() / present.sum().clamp(min=1)


def cross_entropy_sum(logits: torch.Tensor, truth: npt.NDArray[np.uint8]) -> float:
    """Cross entropy summed over the labelled pixels of one image: float [C, H, W] against uint8 [H, W]."""
    labels = torch.from_numpy(truth).to(logits.device).long()
    return float(F.cross_entropy(logits[None].float(), labels[None], ignore_index=IGNORE, reduction="sum"))
