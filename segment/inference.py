"""One image through a network: padded to what the network divides by, and cut back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from segment.networks import DIVISOR, to_input


def predict_logits(network: torch.nn.Module, image: npt.NDArray[np.uint8], device: str) -> torch.Tensor:
    """Logits of a whole image of any size, in eval mode and without gradients.

    Args:
        network: takes sides that are multiples of `DIVISOR`.
        image: uint8 [H, W, 3]; padded by mirroring at the bottom and the right.
        device: where the network is.

    Returns:
        float32 [C, H, W] on `device`.
    """
    height, width = image.shape[:2]
    padding = ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0))
    padded = np.ascontiguousarray(np.pad(image, padding, mode="symmetric"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            logits: torch.Tensor = network(to_input(torch.from_numpy(padded)[None].to(device)))
    finally:
        network.train(was_training)
    return logits[0, :, :height, :width].float()
