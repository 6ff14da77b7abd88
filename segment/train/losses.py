"""Loss of a segmenter: Dice loss + cross entropy / 4, plus a distance loss where nuclei are separated.

The first two terms are Eq. 5 of "Noise in the correct frequency" (Daniel et al. 2023), with the sign that is minimised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from factory.core.config import Config
from manifests.labels import IGNORE
from segment.data.targets import DISTANCE_SCALE, DISTANCE_UNKNOWN


class LossConfig(Config):
    """Weights of the loss terms: Dice and cross entropy as in the paper, the distance ours."""

    dice: float = 1.0
    cross_entropy: float = 0.25
    distance: float = 1.0


@dataclass(frozen=True)
class Losses:
    """Scalar tensors: the weighted sum, and its terms before weighting; `distance` is 0 without the distance head."""

    total: torch.Tensor
    dice: torch.Tensor
    cross_entropy: torch.Tensor
    distance: torch.Tensor


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: LossConfig,
    *,
    distance_logits: torch.Tensor | None = None,
    distances: torch.Tensor | None = None,
) -> Losses:
    """Compute the loss over labelled pixels; each term is 0 where there are none.

    Args:
        logits: float [N, C, H, W]. labels: int64 [N, H, W], 0..C-1 or 255. config: weights.
        distance_logits: float [N, H, W], or None for a network without the distance head.
        distances: uint8 [N, H, W] of `segment.data.targets`; needed where there are distance logits.
    """
    logits = logits.float()
    known = labels != IGNORE
    dice = dice_loss(logits.softmax(dim=1), labels, known)
    pixels = known.sum().clamp(min=1)
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / pixels
    distance = logits.new_zeros(())
    if distance_logits is not None:
        if distances is None:
            raise ValueError("expected distances for a network with a distance head, got none")
        distance = distance_loss(distance_logits, distances, known)
    total = config.dice * dice + config.cross_entropy * entropy + config.distance * distance
    return Losses(total, dice, entropy, distance)


def distance_loss(logits: torch.Tensor, distances: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy against the distance as a soft label, less the label's own entropy, so that 0 is perfect.

    Like the squared error it is minimal at the mean of the possible distances, but its gradient does not vanish where
    the sigmoid is flat. StarDist trains its object probability the same way (Schmidt et al. 2018, section 2.1).

    Args:
        logits: float32 [N, H, W]. distances: uint8 [N, H, W], 254 d or 255 = unknown. known: bool [N, H, W].
    """
    known = known & (distances != DISTANCE_UNKNOWN)
    target = distances.float().clamp(max=DISTANCE_SCALE) / DISTANCE_SCALE
    entropy = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target))
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none") - entropy
    return (loss * known).sum() / known.sum().clamp(min=1)


def dice_loss(probabilities: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice, averaged over the classes that the batch's truth contains.

    Dice_c = 2 sum(p_c y_c) / sum(p_c + y_c), with sums over the known pixels of the whole batch. Predictions of a class
    that the batch does not contain are penalised by the cross entropy alone.

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
    """Sum the cross entropy over the labelled pixels of one image: float [C, H, W] against uint8 [H, W]."""
    labels = torch.from_numpy(truth).to(logits.device).long()
    return float(F.cross_entropy(logits[None].float(), labels[None], ignore_index=IGNORE, reduction="sum"))
