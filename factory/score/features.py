"""Feature extractors: their table, how one is opened, and the loop that runs it over pictures."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from factory.core.registry import resolve
from factory.core.statistics import Floats
from factory.core.weights import read_header
from manifests.errors import UserError
from manifests.files import sha256_file

EXTRACTORS: dict[str, str] = {
    "random-vgg16": "factory.score.random_vgg:compact",
    "random-vgg16-pooled": "factory.score.random_vgg:pooled",
    "random-vgg16-r64": "factory.score.random_vgg:hidden",
    "inception": "factory.score.pretrained:inception",
    "resnet50": "factory.score.pretrained:resnet50",
}
"""Extractors by name. ``timm:NAME`` also works, for any encoder of timm with a file of its weights."""

_TIMM = "timm:"
_ENCODER = "factory.score.pretrained:any_encoder"


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into vectors.

    Attributes:
        name: in `EXTRACTORS`, or ``timm:NAME``.
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
    known: dict[bytes, Floats] = field(default_factory=dict, compare=False, repr=False)


def extract(
    extractor: Extractor,
    pictures: npt.NDArray[np.uint8],
    *,
    device: str = "cpu",
    batch: int = 8,
    on_pictures: Callable[[int], None] = lambda count: None,
) -> Floats:
    """Computes the feature vectors of pictures.

    Args:
        pictures: uint8 [N, h, w, 3]. batch: pictures per forward pass.
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


def check_extractor(name: str, weights: Path | None) -> None:
    """Refuses an unknown name and an unusable file of weights, before anything is read."""
    if not name.startswith(_TIMM) and name not in EXTRACTORS:
        resolve({**EXTRACTORS, f"{_TIMM}NAME": ""}, name, "--features")
    if name.startswith("random-") and weights is not None:
        raise UserError(f"--feature-weights: expected none with {name}, got {weights}. Leave it out.")
    if name.startswith(_TIMM) and weights is None:
        raise UserError(
            f"--features {name}: expected --feature-weights with a safetensors file, got none. "
            "Without a file use random-vgg16."
        )
    if weights is not None:
        read_header(weights)


def open_extractor(name: str, weights: Path | None = None) -> Extractor:
    """Builds an extractor and loads its weights from a safetensors file; within a process it is opened once.

    Raises:
        UserError: for an unknown name or a file that does not fit. FaultError: when a download fails.
    """
    check_extractor(name, weights)
    return _open(name, weights, None if weights is None else sha256_file(weights))


@functools.lru_cache(maxsize=2)
def _open(name: str, weights: Path | None, sha256: str | None) -> Extractor:
    del sha256  # part of the cache's key: another file may have the same name
    if name.startswith(_TIMM):
        assert weights is not None  # refused by `check_extractor`
        any_encoder: Callable[[str, str, Path], Extractor] = resolve({_TIMM: _ENCODER}, _TIMM, "--features")
        return any_encoder(name, name.removeprefix(_TIMM), weights)
    opener: Callable[[Path | None], Extractor] = resolve(EXTRACTORS, name, "--features")
    return opener(weights)
