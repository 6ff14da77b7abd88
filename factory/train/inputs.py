"""Inputs of a training run: the shipped configuration, and the digests of data sets."""

from __future__ import annotations

from pathlib import Path

from factory.core.config import digest
from manifests.files import sha256_file
from manifests.table import MANIFEST


def shipped_name(name: str, device: str) -> str:
    """Return the name of the shipped configuration that is used without ``--config``."""
    return f"{name}_light" if device == "cpu" else name


def manifest_digest(root: Path) -> str:
    """Return the sha256 of a data set's manifest."""
    path = root / MANIFEST
    return sha256_file(path) if path.is_file() else digest([sha256_file(p) for p in sorted(root.glob("manifest/*"))])
