"""The folder of a training run: what may be in it, who may write to it, and when it can be resumed.

It holds ``run.yaml`` (what decides the result), ``last.safetensors`` (the state to resume from), ``best.safetensors``
(the weights that are wanted), ``best.json`` (their card, for people) and ``history.parquet`` with its plot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from factory.core.config import digest
from factory.core.folder import RUN, begin, check_free, check_same, is_begun, lock_folder
from factory.core.history import HISTORY, PLOT
from factory.core.weights import BEST, LAST, read_card
from manifests.errors import UserError

_COMMON = (RUN, BEST, "best.json", LAST, HISTORY, PLOT)


@dataclass(frozen=True)
class TrainingFolder:
    """A run's folder, there already or not.

    Attributes:
        out: the folder. document: everything that decides the result, JSON-ready.
        config: the whole resolved configuration, JSON-ready. names: patterns of what the training leaves in the folder
            besides the common files, such as ``panels`` or ``evaluation-*``.
    """

    out: Path
    document: Mapping[str, Any]
    config: Mapping[str, Any]
    names: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """sha256 of the document."""
        return digest(self.document)

    @property
    def weights(self) -> Path:
        """File of the weights that are wanted."""
        return self.out / BEST

    @property
    def state(self) -> Path:
        """File of the state to resume from."""
        return self.out / LAST

    def check(self, *, resume: bool, overwrite: bool) -> bool:
        """Refuse a folder that holds something else; writes nothing.

        Returns:
            Whether there is a run that will be resumed.

        Raises:
            UserError: for other files, a run that is neither resumed nor overwritten, or another configuration.
        """
        begun = is_begun(self.out, "a run", lambda name: any(fnmatch(name, own) for own in (*_COMMON, *self.names)))
        if not begun or (overwrite and not resume):
            return False
        if not resume:
            raise UserError(
                f"{self.out}: expected an empty folder, got a run. Use --resume, --overwrite or another --out."
            )
        check_same(self.out, "a run", self.document, "Use another --out, or --overwrite.")
        return True

    def refuse_other_threads(self, threads: int) -> None:
        """Refuse to resume with another number of threads: the last bits of sums depend on it."""
        before = read_card(self.state).fields.get("threads") if self.state.exists() else None
        if before not in (None, threads):
            raise UserError(
                f"{self.state}: expected the {before} threads it was trained with, got {threads}. "
                f"Use --set threads={before}."
            )

    def check_room(self, need: int) -> None:
        """Refuse a disk without room for weights and state of `need` bytes; writes nothing.

        They are written beside those of before, which are removed afterwards, so there must be room for both.
        """
        there = sum(path.stat().st_size for path in (self.weights, self.state) if path.is_file())
        check_free(self.out, 2 * need - there, "Free some, choose another --out, or train a smaller network.")

    @contextlib.contextmanager
    def open(self, *, resume: bool) -> Iterator[None]:
        """Hold the folder as its only writer: made if needed, cleared unless resumed, with its ``run.yaml``."""
        self.out.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.out):
            begin(self.out, self.document, self.config, clear=not resume)
            yield
