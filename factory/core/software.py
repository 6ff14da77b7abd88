"""The software of this process: versions, and a digest of the sources. Equal software draws equal tiles."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from factory.core.folder import library_versions

_PACKAGES = ("factory", "manifests")


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of Python, this package and libraries, by name."""
    return {"python": platform.python_version(), **library_versions(*libraries)}


def software(libraries: Iterable[str]) -> dict[str, str]:
    """The versions, and ``code``, a digest of the sources, which changes with every refactoring."""
    return {**versions(libraries), "code": _code_digest()}


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What was found otherwise than expected, one phrase each: ``expected numpy 2.1.0, got 2.0.1``."""
    return [
        f"expected {name} {value}, got {found.get(name, 'none')}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


@functools.cache
def _code_digest() -> str:
    """sha256 over the package's own modules, by name and content; 16 digits."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
