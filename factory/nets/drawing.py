"""Networks made ready to draw from: eval mode, batch norm folded in, in the precision that is asked for."""

from __future__ import annotations

import torch
from torch import nn

from factory.core.precision import Precision
from factory.nets.layers import fold_batch_norm


def ready(network: nn.Module, precision: Precision, device: str) -> nn.Module:
    """Prepare a network for drawing, in place.

    Args:
        network: with its weights. precision: bf16 computes all but the last layer in bfloat16.
        device: where to compute.
    """
    network = fold_batch_norm(network.eval()).requires_grad_(False).to(device)
    if precision == "bf16":
        network = network.to(torch.bfloat16)
        head = network.head
        assert isinstance(head, nn.Module)
        head.float()
    return network
