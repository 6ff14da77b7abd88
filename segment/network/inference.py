"""Output of a network for one image of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from factory.core.config import Config
from factory.core.precision import Precision, autocast
from segment.data.stains import Stains
from segment.network import Symmetries
from segment.network.head import Head
from segment.network.networks import DIVISOR, to_input

SYMMETRIES: dict[Symmetries, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": tuple((turns, mirrored) for turns in (0, 2) for mirrored in (False, True)),
    "dihedral": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""Quarter turns of each view, and whether it is mirrored left to right after them."""


class InferenceConfig(Config):
    """How a network is applied to an image; kept with the weights.

    Attributes:
        test_time_augmentation: symmetries of the image over which probabilities and distances are averaged: 4 (flips)
            or 8 (dihedral) times the computation.
        stain_reference: stains that every image gets first (Macenko et al. 2009): numbers, or ``training`` for the
            median of the real training tiles, which replaces it on the card; null leaves images as they are.
    """

    added: ClassVar = frozenset({"stain_reference"})
    test_time_augmentation: Symmetries = "none"
    stain_reference: Stains | Literal["training"] | None = None


PLAIN = InferenceConfig()
"""The image goes through the network once, as it is."""


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
    return _split(_activate(output, head), head)


def _activate(output: torch.Tensor, head: Head) -> torch.Tensor:
    """Probabilities, and the distance if there is one, in place of the logits: float32 [channels, H, W]."""
    logits, distance = head.split(output[None])
    return torch.cat([logits[0].softmax(0), *([] if distance is None else [distance.sigmoid()])])


def _split(activated: torch.Tensor, head: Head) -> Maps:
    values = activated.cpu().numpy()
    return Maps(values[: head.classes], values[head.classes] if head.distance else None)


def predict_maps(
    network: torch.nn.Module,
    head: Head,
    image: npt.NDArray[np.uint8],
    device: str,
    precision: Precision,
    config: InferenceConfig,
) -> Maps:
    """Probabilities and distance of an image on the host, averaged over its symmetries.

    Both are scalars of a pixel and are averaged as such, after softmax and sigmoid (Wang et al. 2019).

    Args:
        network: of `head`. head: what its channels mean. image: uint8 [H, W, 3] of any size.
        device: where the network is. precision: of the arithmetic. config: the symmetries.
    """
    views = SYMMETRIES[config.test_time_augmentation]
    mean = torch.zeros((), device=device)
    for turns, mirrored in views:
        view = np.rot90(image, turns)
        output = predict_output(network, view[:, ::-1] if mirrored else view, device, precision)
        activated = _activate(output.flip(2) if mirrored else output, head)
        mean = mean + torch.rot90(activated, -turns, (1, 2)) / len(views)
    return _split(mean, head)
