"""The table of feature extractors, and how one is opened."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from factory.core.registry import resolve
from factory.core.weights import read_header
from factory.score.extractor import Extractor
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


def check_extractor(name: str, weights: Path | None) -> None:
    """Refuses an unknown name and an unusable file of weights, before anything is read.

    Raises:
        UserError: with the known names, or the fault of the file.
    """
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
    """Builds an extractor and loads its weights; within a process the same extractor is opened once.

    Args:
        name: in `EXTRACTORS`, or ``timm:NAME``. weights: a safetensors file, or None.

    Raises:
        UserError: for an unknown name or a file that does not fit. FaultError: when a download fails.
    """
    check_extractor(name, weights)
    return _open(name, weights, None if weights is None else sha256_file(weights))


@functools.lru_cache(maxsize=2)
def _open(name: str, weights: Path | None, sha256: str | None) -> Extractor:
    del sha256  # part of the cache's key: another file may have the same name
    if name.startswith(_TIMM):
        from factory.score.pretrained import any_encoder

        assert weights is not None  # refused by `check_extractor`
        return any_encoder(name, name.removeprefix(_TIMM), weights)
    opener: Callable[[Path | None], Extractor] = resolve(EXTRACTORS, name, "--features")
    return opener(weights)
