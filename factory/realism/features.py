"""Pictures to feature vectors: the table of extractors, and the one loop that runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from factory.core.registry import resolve
from manifests.errors import UserError

EXTRACTORS: dict[str, str] = {
    "random-vgg16": "factory.realism.random_vgg:compact",
    "random-vgg16-4096": "factory.realism.random_vgg:wide",
    "random-vgg16-pooled": "factory.realism.random_vgg:pooled",
    "inception": "factory.realism.inception:inception",
    "resnet50": "factory.realism.timm_features:resnet50",
}
"""Extractors by name; ``timm:NAME`` besides, for any encoder of timm with a file of its weights."""

TIMM = "timm:"


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into vectors.

    Attributes:
        name: as asked for. distance: what a Frechet distance on its features may be called.
        network: float32 [N, 3, H, W] from 0 to 1 -> float32 [N, d]; in eval mode.
        origin: where its weights are from, in words. sha256: of their file; None for random ones.
    """

    name: str
    distance: str
    network: nn.Module
    origin: str
    sha256: str | None = None


def check_extractor(name: str, weights: Path | None) -> None:
    """Refuse a name that no extractor has, and a file that is not there or of no use, before anything is read.

    Raises:
        UserError: with the names there are.
    """
    from factory.core.weights import read_header

    if not name.startswith(TIMM) and name not in EXTRACTORS:
        resolve({**EXTRACTORS, "timm:NAME": ""}, name, "--features")
    if name.startswith("random-") and weights is not None:
        raise UserError(f"--feature-weights: expected none with {name}, got {weights}. Leave it out.")
    if name.startswith(TIMM) and weights is None:
        raise UserError(
            f"--features {name}: expected --feature-weights with a safetensors file, got none. "
            "Without a file use random-vgg16."
        )
    if weights is not None:
        read_header(weights)


def open_extractor(name: str, weights: Path | None = None) -> Extractor:
    """Build an extractor and load its weights.

    Args:
        name: in `EXTRACTORS`, or ``timm:NAME``. weights: a safetensors file, or None.

    Raises:
        UserError: for an unknown name or a file that does not fit. FaultError: when a download fails.
    """
    check_extractor(name, weights)
    if name.startswith(TIMM):
        from factory.realism.timm_features import any_encoder

        return any_encoder(name.removeprefix(TIMM), weights)
    opener: Callable[[Path | None], Extractor] = resolve(EXTRACTORS, name, "--features")
    return opener(weights)


def extract(
    extractor: Extractor,
    pictures: npt.NDArray[np.uint8],
    *,
    device: str = "cpu",
    batch: int = 8,
    on_pictures: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float64]:
    """Feature vectors of pictures.

    Args:
        extractor: what to use. pictures: uint8 [N, h, w, 3]. device: cpu, cuda... batch: per forward pass.
        on_pictures: called with the number of pictures just done.

    Returns:
        float64 [N, d].
    """
    network = extractor.network.to(device).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch):
            block = torch.from_numpy(pictures[start : start + batch]).to(device)
            # NHWC seen as NCHW is torch's channels_last, on which convolutions are fastest.
            rows.append(network(block.permute(0, 3, 1, 2).float().div_(255)).double().cpu().numpy())
            on_pictures(len(block))
    return np.concatenate(rows)
