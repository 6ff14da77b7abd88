"""Ids and indices of rows, of which a data set has each once: checked with eight bytes a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_IDS_AT_ONCE = 4096


class Keys:
    """Whether ids or indices may repeat in tables that come one after the other.

    An id is kept as its hash, an index not at all where all ascend: what may repeat has to be compared as it is.
    """

    def __init__(self) -> None:
        self._hashes: list[npt.NDArray[np.int64]] = []
        self._last = -1
        self._ascend = True

    def add(self, table: pa.Table) -> None:
        """Take in the columns sample_id and index of a table; neither has nulls."""
        if not len(table):
            return
        hashes = (
            hash(name)
            for batch in table.select(["sample_id"]).to_batches(max_chunksize=_IDS_AT_ONCE)
            for name in batch.column(0).to_pylist()
        )
        self._hashes.append(np.fromiter(hashes, np.int64, len(table)))
        index = table["index"].to_numpy()
        self._ascend &= bool(index[0] > self._last and np.all(index[:-1] < index[1:]))
        self._last = int(index[-1])

    @property
    def ascend(self) -> bool:
        """Whether each index is above the one before it."""
        return self._ascend

    @property
    def may_repeat(self) -> bool:
        """Whether two rows may have the same id or index."""
        hashes = np.concatenate([*self._hashes, np.empty(0, np.int64)])
        hashes.sort()
        return not self._ascend or bool((hashes[:-1] == hashes[1:]).any())
