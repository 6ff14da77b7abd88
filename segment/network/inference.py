"""Output of a network for one image of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from factory.core.precision import Precision, autocast
from segment.network.head import Head
from segment.network.networks import DIVISOR, to_input


@dataclass(frozen=True)
class Maps:
    """Predictions for every pixel.

    Attributes:
        probabilities: float32 [C, H, W], with sum 1 over the classes.
        distance: float32 [H, W], 0 at the edge of a nucleus and outside, 1 in its middle; None for a network without.
    """

    probabilities: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32] | None


def predict_output(
    network: torch.nn.Module, image: npt.NDArray[np.uint8], device: str, precision: Precision = "fp32"
) -> torch.Tensor:
    """The network's output for a whole image of any size, in eval mode and without gradients.

    Args:
        network: takes sides that are multiples of `DIVISOR`.
        image: uint8 [H, W, 3]; padded by mirroring at the bottom and the right.
        device: where the network is.
        precision: of the arithmetic.

    Returns:
        float32 [channels, H, W] on `device`.
    """
    height, width = image.shape[:2]
    padding = ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0))
    padded = np.ascontiguousarray(np.pad(image, padding, mode="symmetric"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), autocast(precision, device):
            output: torch.Tensor = network(to_input(torch.from_numpy(padded)[None].to(device)))
    finally:
        network.train(was_training)
    return output[0, :, :height, :width].float()


def to_maps(output: torch.Tensor, head: Head) -> Maps:
    """Probabilities and distance of an output [channels, H, W]."""
    logits, distance = head.split(output[None])
    return Maps(
        logits[0].softmax(0).cpu().numpy(),
        None if distance is None else distance[0].sigmoid().cpu().numpy(),
    )


def predict_maps(
    network: torch.nn.Module,
    head: Head,
    image: npt.NDArray[np.uint8],
    device: str,
    precision: Precision = "fp32",
) -> Maps:
    """`predict_output` as probabilities and distance, on the host.

    Args:
        network: of `head`. head: what its channels mean. image: uint8 [H, W, 3] of any size.
        device: where the network is. precision: of the arithmetic.
    """
    return to_maps(predict_output(network, image, device, precision), head)
