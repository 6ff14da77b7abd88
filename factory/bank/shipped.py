"""Where a bank is: a file, the folder of its run, or the one that ships with the package, packed."""

from __future__ import annotations

from pathlib import Path

from factory.bank.packed import unpack_bank
from factory.core.starters import ANY, named_file, starter_of
from manifests.errors import UserError

BANK = "bank.safetensors"
"""The bank in the folder of its run."""


def bank_path(name: str) -> Path:
    """Return the file of a bank.

    Args:
        name: a file, the folder of `factory train exemplar`, "starter", or the name of one (``exemplar-tissue``).

    Raises:
        UserError: where none ships with the package.
    """
    if name == ANY:
        found = starter_bank()
        if found is None:
            raise UserError(
                "--renderer exemplar: expected a bank of real tissue, got none. Collect one with factory train "
                "exemplar --data DATA and name it (--set renderer.bank=FOLDER), or add --like DATA."
            )
        return unpack_bank(found)
    if (starter := named_file(name)) is not None:
        return unpack_bank(starter)
    path = Path(name)
    return path / BANK if path.is_dir() else path


def starter_bank() -> Path | None:
    """The packed bank that ships with the package, None without."""
    return starter_of("exemplar")


def starter_bank_name(name: str) -> str | None:
    """The name of the starter bank that a name stands for; None for other banks."""
    path = starter_bank() if name == ANY else named_file(name)
    return path.stem if path else None
