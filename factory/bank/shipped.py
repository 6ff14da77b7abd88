"""Where a bank is: a file, the folder of its run, or the one that ships with the package, packed."""

from __future__ import annotations

from pathlib import Path

from factory.bank.packed import unpack_bank
from manifests.errors import UserError

BANK = "bank.safetensors"
"""The bank in the folder of its run."""
STARTER = Path(__file__).parents[1] / "starter"


def bank_path(name: str) -> Path:
    """Return the file of a bank.

    Args:
        name: a file, the folder of `factory train exemplar`, or "starter".

    Raises:
        UserError: where none ships with the package.
    """
    if name == "starter":
        found = starter_bank()
        if found is None:
            raise UserError(
                "--renderer exemplar: expected a bank of real tissue, got none. Collect one with factory train "
                "exemplar --data DATA and name it (--set renderer.bank=FOLDER), or add --like DATA."
            )
        return unpack_bank(found)
    path = Path(name)
    return path / BANK if path.is_dir() else path


def starter_bank() -> Path | None:
    """The packed bank that ships with the package, None without."""
    return next(iter(sorted(STARTER.glob("exemplar-*.safetensors"))), None)
