"""TensorBoard events of a run, derived from its history."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from factory.core.history import HISTORY

TENSORBOARD = "tensorboard"
"""Folder of the events in a run's folder: ``tensorboard --logdir runs/segment``."""


class Scalars:
    """Writes every row of a history as events.

    A resumed run writes the folder anew from its history, because events cannot be removed: steps that were lost with a
    killed run do not stay in the curves.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the newest row of the history, which must be on disk already."""
        if self._writer is None:
            earlier = pq.read_table(self._out / HISTORY).to_pylist()
            self._begin([other for other in earlier if other["step"] < row["step"]])
        self._write(row)
        self._writer.flush()

    def complete(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write all rows if none was added: a run can be killed after its last checkpoint, before the last event."""
        if self._writer is None:
            self._begin(history)

    def close(self) -> None:
        """Close the file of events."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from tensorboardX import SummaryWriter

        folder = self._out / TENSORBOARD
        if folder.exists():
            shutil.rmtree(folder)
        self._writer = SummaryWriter(logdir=str(folder))
        for row in rows:
            self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name == "step" or value is None:
                continue
            group = "validation" if name.startswith("val_") else "training"
            self._writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, row["step"])
