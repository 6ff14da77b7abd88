"""Stores -> batches: decoded tiles behind a memory map, a sampler that mixes sources, and a loader that works ahead.

A batch is a function of the configuration and the step, and of nothing else. So the sampler has no state to save, and
training that goes on at step k sees the batches that unbroken training would have seen.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.dataset import Dataset
from manifests.labels import LabelScheme
from manifests.store import ARRAYS, StoreReader
from segment.augmentation import AugmentConfig, draw_view, recolour, take
from segment.sources import projections


class Draw(IntEnum):
    """What a random stream of training is for. Numbers are frozen: a new use takes a new number."""

    ORDER = 100
    VIEW = 101


def draw_generator(seed: int, stream: Draw, *position: int) -> np.random.Generator:
    """The generator for one place of a stream, e.g. (step, slot); drawing elsewhere does not move it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), *position))))


@dataclass(frozen=True)
class Batch:
    """uint8 [N, h, w, 3] images and uint8 [N, h, w] classes of the common scheme, 255 = ignore."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


class DecodedTiles:
    """Reads tiles of a store, keeping them decoded in a memory-mapped file without a name.

    A tile is decoded when it is first asked for. The file has no name, so no kill leaves it behind and nothing stale
    is ever read. Past the budget, or when the disk is full, tiles are decoded each time. Threads may share it.
    """

    def __init__(self, store: StoreReader, arrays: Sequence[str], folder: Path, budget_bytes: int) -> None:
        self._store = store
        self._specs = [next(spec for spec in ARRAYS if spec.name == name) for name in arrays]
        self._shapes = [store.layout.sample_shape(spec) for spec in self._specs]
        sizes = [
            int(np.prod(shape)) * spec.dtype.itemsize for shape, spec in zip(self._shapes, self._specs, strict=True)
        ]
        self._offsets = [0, *np.cumsum(sizes).tolist()]
        self._slots: dict[int, int] = {}
        self._room = min(store.layout.n, budget_bytes // self._offsets[-1])
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        if self._room:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._descriptor)
            os.truncate(self._descriptor, self._room * self._offsets[-1])
            self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def read(self, index: int) -> list[npt.NDArray[Any]]:
        """The arrays of one tile, in the order asked for; they may be read-only views."""
        with self._lock:
            slot = self._slots.get(index)
        if slot is None:
            arrays = [self._store.read(index, spec.name) for spec in self._specs]
            self._keep(index, arrays)
            return arrays
        assert self._map is not None
        start = slot * self._offsets[-1]
        return [
            np.frombuffer(self._map, self._dtype(spec.dtype), int(np.prod(shape)), start + offset).reshape(shape)
            for spec, shape, offset in zip(self._specs, self._shapes, self._offsets, strict=False)
        ]

    @staticmethod
    def _dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype("<i4") if stored == np.dtype("<u4") else stored  # as StoreReader gives instance ids

    def _keep(self, index: int, arrays: list[npt.NDArray[Any]]) -> None:
        with self._lock:
            slot = len(self._slots)
            if self._map is None or index in self._slots or slot >= self._room:
                return
            try:  # written, not mapped, so that a full disk is an error here and no SIGBUS later
                for array, offset in zip(arrays, self._offsets, strict=False):
                    _write_all(self._descriptor, np.ascontiguousarray(array), slot * self._offsets[-1] + offset)
            except OSError:
                self._room = slot
                return
            self._slots[index] = slot


def _write_all(descriptor: int, array: npt.NDArray[Any], offset: int) -> None:
    content = memoryview(array.data).cast("B")
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


class Tiles:
    """Rows of a data set as training tiles: images, and masks in the common scheme."""

    def __init__(self, dataset: Dataset, scheme: LabelScheme, reader: DecodedTiles) -> None:
        tables = projections(dataset, scheme)
        self._indices = dataset.table["index"].to_numpy()
        names = dataset.table["label_scheme"].to_pylist()
        distinct = list(tables)
        self._tables = np.stack([tables[name] for name in distinct]) if distinct else np.empty((0, 256), np.uint8)
        self._table_of = np.array([distinct.index(name) for name in names], np.intp)
        self._reader = reader
        layout = dataset.store.layout
        self.size = (layout.height, layout.width)

    def __len__(self) -> int:
        return int(self._indices.size)

    def view(
        self, position: int, rng: np.random.Generator, crop: tuple[int, int], augment: AugmentConfig
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """A random view of one tile: uint8 [h, w, 3] and uint8 [h, w] in the common scheme."""
        image, semantic = self._reader.read(int(self._indices[position]))
        taken, (labels,) = take(draw_view(rng, self.size, crop, augment), image, [semantic])
        table: npt.NDArray[np.uint8] = self._tables[self._table_of[position]]
        return recolour(taken, rng, augment), table[labels]


@dataclass(frozen=True)
class MixingSampler:
    """Draws batches from two lists of tiles in a fixed proportion.

    After any number of batches the second list's share is met to half a tile; each list is walked in a new random
    order every time round.

    Attributes:
        tiles: one or two lists. second_share: share of the second. batch: tiles per batch. seed: of everything drawn.
        crop: pixels of a view. augment: how views differ.
    """

    tiles: tuple[Tiles, ...]
    second_share: float
    batch: int
    seed: int
    crop: tuple[int, int]
    augment: AugmentConfig

    def plan(self, step: int) -> list[tuple[int, int]]:
        """What the batch of a step holds: (list, position) per slot."""
        second = [int(np.floor(k * self.batch * self.second_share + 0.5)) for k in (step, step + 1)]
        first = [k * self.batch - drawn for k, drawn in zip((step, step + 1), second, strict=True)]
        planned = []
        for source, (start, stop) in enumerate((first, second)):
            for drawn in range(start, stop):
                epoch, offset = divmod(drawn, len(self.tiles[source]))
                planned.append((source, int(_order(self.seed, source, epoch, len(self.tiles[source]))[offset])))
        return planned

    def draw(self, step: int) -> Batch:
        """The batch of a step; always the same for the same step."""
        views = []
        for slot, (source, position) in enumerate(self.plan(step)):
            rng = draw_generator(self.seed, Draw.VIEW, step, slot)
            views.append(self.tiles[source].view(position, rng, self.crop, self.augment))
        return Batch(np.stack([image for image, _ in views]), np.stack([labels for _, labels in views]))


@lru_cache(maxsize=8)
def _order(seed: int, source: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    return draw_generator(seed, Draw.ORDER, source, epoch).permutation(n)


class BatchLoader:
    """Makes the batches of steps start..stop-1 in one background thread, two ahead of the one in use.

    Attributes:
        waited_s: time that the consumer has waited for batches.
    """

    AHEAD = 2

    def __init__(self, draw: Callable[[int], Batch], start: int, stop: int) -> None:
        self._draw, self._next, self._stop = draw, start, stop
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._window: deque[Future[Batch]] = deque()
        self.waited_s = 0.0

    def __enter__(self) -> BatchLoader:
        return self

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while self._next < self._stop and len(self._window) <= self.AHEAD:
            self._window.append(self._pool.submit(self._draw, self._next))
            self._next += 1
        if not self._window:
            raise StopIteration
        started = time.perf_counter()
        batch = self._window.popleft().result()
        self.waited_s += time.perf_counter() - started
        return batch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
