"""Decoded tiles behind a memory map, so that a crop costs its own pixels and no more."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class DecodedTiles:
    """Reads tiles, keeping them decoded in a memory-mapped file without a name.

    A tile is decoded when it is first asked for. The file has no name, so no kill leaves it behind and nothing stale
    is ever read. Past the budget, or when the disk is full, tiles are decoded each time. Threads may share it.

    Args:
        decode: position -> arrays of a tile; shapes and dtypes are the same for every tile.
        tiles: how many there are.
        folder: where the file lives.
        budget_bytes: the file's largest size.
    """

    def __init__(
        self, decode: Callable[[int], Sequence[npt.NDArray[Any]]], tiles: int, folder: Path, budget_bytes: int
    ) -> None:
        self._decode, self._tiles, self._folder, self._budget = decode, tiles, folder, budget_bytes
        self._slots: dict[int, int] = {}
        self._lock = threading.Lock()
        self._file: _RecordFile | None = None
        self._is_full = False

    def read(self, position: int) -> list[npt.NDArray[Any]]:
        """The arrays of one tile, as `decode` gives them; they may be read-only views."""
        with self._lock:
            slot, file = self._slots.get(position), self._file
        if slot is not None and file is not None:
            return file.read(slot)
        arrays = list(self._decode(position))
        with self._lock:
            self._keep(position, arrays)
        return arrays

    def _keep(self, position: int, arrays: list[npt.NDArray[Any]]) -> None:
        if self._is_full or position in self._slots:  # another thread may have been faster
            return
        if self._file is None:
            self._file = _RecordFile(arrays, self._tiles, self._folder, self._budget)
        slot = len(self._slots)
        self._is_full = slot >= self._file.room or not self._file.write(slot, arrays)
        if not self._is_full:
            self._slots[position] = slot


class _RecordFile:
    """A file of equal records, one tile each: written with write(2), read through a map.

    Args:
        example: arrays like those of every record. records, folder, budget_bytes: as for `DecodedTiles`.
    """

    def __init__(self, example: Sequence[npt.NDArray[Any]], records: int, folder: Path, budget_bytes: int) -> None:
        fields = [(f"f{number}", array.dtype, array.shape) for number, array in enumerate(example)]
        self._record = np.dtype(fields, align=True)
        self.room = min(records, budget_bytes // self._record.itemsize)
        if not self.room:
            return
        with tempfile.TemporaryFile(dir=folder) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        os.truncate(self._descriptor, self.room * self._record.itemsize)
        mapped = np.frombuffer(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ), self._record)
        self._arrays = [mapped[name] for name, *_ in fields]

    def read(self, slot: int) -> list[npt.NDArray[Any]]:
        return [array[slot] for array in self._arrays]

    def write(self, slot: int, arrays: Sequence[npt.NDArray[Any]]) -> bool:
        """Whether the disk had room; written, not mapped, so that a full disk is an error here and no SIGBUS later."""
        record = np.array([tuple(arrays)], self._record)
        content, offset = memoryview(record.view(np.uint8).data), slot * self._record.itemsize
        try:
            while content:
                written = os.pwrite(self._descriptor, content, offset)
                content, offset = content[written:], offset + written
        except OSError:
            return False
        return True
