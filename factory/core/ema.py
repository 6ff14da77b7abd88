"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.swa_utils import AveragedModel


def averaged(network: torch.nn.Module, decay: float) -> AveragedModel:
    """Return a running mean of weights and buffers: mean <- r mean + (1 - r) weights at each update.

    The rate r = min(decay, (1 + n) / (10 + n)) after n updates rises to `decay`, so that a short run does not keep its
    random initial weights (as in TensorFlow's ExponentialMovingAverage with `num_updates`).

    Args:
        network: on its device. decay: 0..1; 0 keeps the last weights.
    """

    def follow(mean: Sequence[torch.Tensor], now: Sequence[torch.Tensor], updates: torch.Tensor | int) -> None:
        n = int(updates)
        rate = min(decay, (1 + n) / (10 + n))
        for kept, latest in zip(mean, now, strict=True):
            if kept.is_floating_point():
                kept.lerp_(latest.to(kept.dtype), 1 - rate)
            else:
                kept.copy_(latest)

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
