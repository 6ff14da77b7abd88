"""Decoded tiles in a memory-mapped file, so that a crop reads only its own pixels."""

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
    """Reads tiles and keeps them decoded in a memory-mapped file without a name.

    A tile is decoded when it is first read. Because the file has no name, it disappears with the process, however that
    ends. Past the budget, or when the disk is full, tiles are decoded each time. Threads may share it.

    Args:
        decode: position -> arrays of a tile; shapes and dtypes are the same for every tile.
        tiles: their number.
        folder: of the file.
        budget_bytes: largest size of the file.
    """

    def __init__(
        self, decode: Callable[[int], Sequence[npt.NDArray[Any]]], tiles: int, folder: Path, budget_bytes: int
    ) -> None:
        self._decode, self._tiles, self._folder, self._budget = decode, tiles, folder, budget_bytes
        self._slots: dict[int, int] = {}
        self._lock = threading.Lock()
        self._room = 1  # until the first tile shows how many fit
        self._columns: list[npt.NDArray[Any]] = []

    def read(self, position: int) -> list[npt.NDArray[Any]]:
        """The arrays of one tile, as `decode` gives them; they may be read-only views."""
        with self._lock:
            slot = self._slots.get(position)
        if slot is not None:
            return [column[slot] for column in self._columns]
        arrays = list(self._decode(position))
        with self._lock:
            if position not in self._slots and len(self._slots) < self._room:  # another thread may have kept it
                self._keep(position, arrays)
        return arrays

    def _keep(self, position: int, arrays: Sequence[npt.NDArray[Any]]) -> None:
        record = np.dtype([(f"f{n}", array.dtype, array.shape) for n, array in enumerate(arrays)], align=True)
        if not self._columns:
            self._room = min(self._tiles, self._budget // record.itemsize)
            if not self._room:
                return
            self._open(record)
        # Written, not mapped: a full disk is an error here, where a write through the map would kill the process.
        content = memoryview(np.array([tuple(arrays)], record).view(np.uint8).data)
        offset = len(self._slots) * record.itemsize
        try:
            while content:
                written = os.pwrite(self._descriptor, content, offset)
                content, offset = content[written:], offset + written
        except OSError:
            self._room = 0
            return
        self._slots[position] = len(self._slots)

    def _open(self, record: np.dtype[Any]) -> None:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        os.truncate(self._descriptor, self._room * record.itemsize)
        mapped = np.frombuffer(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ), record)
        self._columns = [mapped[name] for name in record.names or ()]
