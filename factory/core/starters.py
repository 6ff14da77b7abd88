"""Starter weights, which ship with the package: found by what they serve, or by name (``depas-ki67``)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from factory.core.resolutions import LEARNT_MPP
from factory.core.weights import SUFFIX, Card, read_card
from manifests.errors import UserError
from manifests.labels import LabelScheme

STARTER = Path(__file__).parents[1] / "starter"
ANY = "starter"
"""Stands for the starter that fits, where a file or a folder could be named."""


def starters_of(name: str) -> dict[Path, Card]:
    """The starters of a mask generator or renderer with their cards, those of the fewest classes first."""
    cards = {path: _card(path, path.stat().st_mtime_ns) for path in sorted(STARTER.glob(f"{name}-*{SUFFIX}"))}
    return dict(sorted(cards.items(), key=lambda each: len(each[1].fields["scheme"]["classes"])))


@lru_cache(maxsize=64)
def _card(path: Path, changed_ns: int) -> Card:
    """The card of a file, whose bytes are all read, once for each change of it."""
    del changed_ns
    return read_card(path)


def starter_of(name: str, sha256: str | None = None) -> Path | None:
    """The starter with a digest, else the first of `starters_of`; None where there is none."""
    found = starters_of(name)
    return next((path for path, card in found.items() if card.sha256 == sha256), next(iter(found), None))


def fitting_starter(name: str, scheme: LabelScheme, mpp: float) -> tuple[Path, Card] | None:
    """The starter that serves masks of a scheme best: one that can draw them, then by resolution, then by scheme.

    Args:
        name: of what draws with it. scheme: of the masks. mpp: micrometres per pixel.

    Returns:
        Its file and card; None where there is no starter of that name.
    """

    def misfit(each: tuple[Path, Card]) -> tuple[bool, bool, bool]:
        fields = each[1].fields
        own, trained = str(fields["scheme"]["name"]), float(fields["mpp"])
        reads = own == scheme.name or own in scheme.projections
        return not reads, abs(mpp - trained) > LEARNT_MPP * trained, own != scheme.name

    return min(starters_of(name).items(), key=misfit, default=None)


def named_file(weights: str) -> Path | None:
    """The starter of a name; None for a path.

    Raises:
        UserError: for a bare word that is neither a starter nor in the working folder.
    """
    if Path(weights).exists() or Path(weights).name != weights or Path(weights).suffix:
        return None
    known = sorted(path.stem for path in STARTER.glob(f"*{SUFFIX}"))
    if weights in known:
        return STARTER / f"{weights}{SUFFIX}"
    raise UserError(
        f"{weights}: expected weights, the folder of their run, or a starter ({', '.join(known)}), got nothing by that "
        "name."
    )


def starter_name(path: Path) -> str | None:
    """The name of a starter by its file; None for other files."""
    return path.stem if path.parent == STARTER else None
