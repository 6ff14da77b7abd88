"""Feature extractors: the type that all of them have, and the loop that runs one over pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into vectors.

    Attributes:
        name: as in `factory.score.features.EXTRACTORS`, or ``timm:NAME``.
        distance: name of a Frechet distance on its features.
        network: float32 [N, 3, H, W] from 0 to 1 -> float32 [N, d]; in eval mode.
        origin: source of its weights, in words. sha256: digest of their file; None for random weights.
        known: features by digest of the picture, so that real tiles scored against many fakes run once.
    """

    name: str
    distance: str
    network: nn.Module
    origin: str
    sha256: str | None = None
    known: dict[bytes, npt.NDArray[np.float64]] = field(default_factory=dict, compare=False, repr=False)


def extract(
    extractor: Extractor,
    pictures: npt.NDArray[np.uint8],
    *,
    device: str = "cpu",
    batch: int = 8,
    on_pictures: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float64]:
    """Computes the feature vectors of pictures.

    Args:
        extractor: the network. pictures: uint8 [N, h, w, 3]. device: cpu, cuda... batch: pictures per forward pass.
        on_pictures: called with the number of pictures just done.

    Returns:
        float64 [N, d].
    """
    network = extractor.network.to(device).eval()
    digests = [hashlib.blake2b(repr(picture.shape).encode() + picture.tobytes()).digest() for picture in pictures]
    fresh = [place for place, digest in enumerate(digests) if digest not in extractor.known]
    on_pictures(len(pictures) - len(fresh))
    with torch.inference_mode():
        for start in range(0, len(fresh), batch):
            places = fresh[start : start + batch]
            block = torch.from_numpy(pictures[places]).to(device)
            # NHWC viewed as NCHW is torch's channels_last, the fastest layout for convolutions.
            rows = network(block.permute(0, 3, 1, 2).float().div_(255)).double().cpu().numpy()
            extractor.known.update(zip((digests[place] for place in places), rows, strict=True))
            on_pictures(len(places))
    return np.stack([extractor.known[digest] for digest in digests])
