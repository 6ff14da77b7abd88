"""The course of a run as TensorBoard events, derived from its history."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from segment.history import HISTORY

TENSORBOARD = "tensorboard"
"""Folder of the events in a run's folder: ``tensorboard --logdir runs/segment``."""


class Scalars:
    """Writes every row of a history as events.

    Events cannot be taken back, so the folder is written anew from the history when a run goes on: a step that was
    lost to a kill does not stay in the curves.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the newest row of the history, which is on the disk already."""
        if self._writer is None:
            self._writer = self._open()
            for earlier in pq.read_table(self._out / HISTORY).to_pylist():
                if earlier["step"] < row["step"]:
                    self._write(earlier)
        self._write(row)
        self._writer.flush()

    def close(self) -> None:
        """End the file of events."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Any:
        from tensorboardX import SummaryWriter

        folder = self._out / TENSORBOARD
        if folder.exists():
            shutil.rmtree(folder)
        return SummaryWriter(logdir=str(folder))

    def _write(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name == "step" or value is None:
                continue
            group = "validation" if name.startswith("val_") else "training"
            self._writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, row["step"])
