"""Collects a bank of real tissue into a run folder: `factory train exemplar`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.bank.collect import DEFAULT_MB, Collection, choose_pages, collect
from factory.bank.shipped import BANK
from factory.core.folder import check_free
from factory.plan.rows import load_scheme
from manifests.errors import UserError
from manifests.files import write_atomic

OUT = Path("runs/train/exemplar")


@dataclass(frozen=True)
class BankRun:
    """A bank that is ready to be collected: what it is made of, and its run folder."""

    collection: Collection
    out: Path

    @property
    def size_bytes(self) -> int:
        """About what the file will take."""
        return self.collection.size_bytes


def prepare(
    data: Sequence[Path],
    out: Path | None,
    *,
    scheme: str | None = None,
    max_mb: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> BankRun:
    """Choose what goes into a bank; writes nothing.

    Args:
        data: data sets. out: the run's folder; None takes `OUT`. scheme: name or YAML file; None takes the richest that
            all data can be read as. max_mb: size of the file at most. seed: of the choice among tiles.
        overwrite: replace a bank that is there.

    Raises:
        UserError: when the data hold nothing to collect, or the folder has a bank.
    """
    run = BankRun(
        choose_pages(data, load_scheme(scheme) if scheme else None, max_mb or DEFAULT_MB, seed or 0), out or OUT
    )
    if (run.out / BANK).exists() and not overwrite:
        raise UserError(
            f"{run.out}: expected a folder without a bank, got one with it. Use --overwrite, or another --out."
        )
    check_free(run.out, run.size_bytes, "Free some, choose another --out, or a smaller --max-mb.")
    return run


def write(run: BankRun, on_page: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Collect the bank, and write its card beside it for people; returns the card.

    Args:
        run: as `prepare` returns it. on_page: called with the number of finished tiles.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    card = collect(run.collection, run.out / BANK, on_page=on_page)
    write_atomic((run.out / BANK).with_suffix(".json"), json.dumps(card, indent=2, sort_keys=True).encode() + b"\n")
    return card
