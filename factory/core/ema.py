"""An exponential moving average of a network's weights: what is validated, kept and used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.swa_utils import AveragedModel


def averaged(network: torch.nn.Module, decay: float) -> AveragedModel:
    """A copy of a network that follows its weights and buffers: mean <- r mean + (1 - r) weights after every step.

    The rate r = min(decay, (1 + n) / (10 + n)) after n steps rises to `decay`, so that a short run does not keep its
    random start (as in TensorFlow's ExponentialMovingAverage with `num_updates`).

    Args:
        network: on its device already. decay: 0..1; 0 keeps the last weights.
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
