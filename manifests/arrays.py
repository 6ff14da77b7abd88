"""Tiles as dictionaries of numpy arrays, for loaders: a sequence that is small, picklable and safe to fork."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.errors import UserError
from manifests.store import ARRAYS, StoreReader


def place_of(position: SupportsIndex, length: int) -> int:
    """The place 0..length-1 of a position, which counts from the end where it is negative.

    Raises:
        IndexError: for one outside.
    """
    place = operator.index(position)
    if not -length <= place < length:
        raise IndexError(f"row {place} is outside 0..{length - 1}")
    return place % length


@dataclass(frozen=True, eq=False)
class Arrays(Sequence[dict[str, Any]]):
    """Tiles in the order of their rows, each a dictionary: a map-style data set for loaders.

    A tile has `image` uint8 [H, W, 3], `semantic` uint8 [H, W] (255 = ignore), `instance` int32 [H, W] (0 =
    background), `mpp` float, `sample_id` str, and the columns that were asked for. Arrays are new and may be written
    to. Missing values are NaN in columns of numbers, False in those of truth values and "" in text.

    Attributes:
        store: of the pixels. places: int64 [N], places in it. columns: name -> values [N].
    """

    store: StoreReader
    places: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, store: StoreReader, table: pa.Table, columns: Sequence[str] = ()) -> Arrays:
        """The tiles of rows; see `manifests.Dataset.arrays`."""
        found = {name: _values(table, name) for name in ("sample_id", "mpp", *columns)}
        return cls(store, table["index"].to_numpy().astype(np.int64), found)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, position: slice) -> Arrays: ...
    def __getitem__(self, position: SupportsIndex | slice) -> dict[str, Any] | Arrays:
        """The tile at a position, counted from the end where it is negative; of a slice, its tiles."""
        if isinstance(position, slice):
            return Arrays(self.store, self.places[position], {k: v[position] for k, v in self.columns.items()})
        place = place_of(position, len(self))
        tile = {spec.name: self.store.read(int(self.places[place]), spec.name) for spec in ARRAYS}
        return tile | {name: values[place].item() for name, values in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))


def _values(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """The values of a column as a plain numpy array, [N]."""
    if name not in table.column_names:
        raise UserError(f"columns: expected names of the manifest, got {name!r}.")
    column = table[name]
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([value or "" for value in column.to_pylist()], np.str_)
    if pa.types.is_boolean(kind):
        return np.asarray(column.fill_null(False).to_numpy(), np.bool_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column.to_numpy())
    raise UserError(f"columns: expected numbers, truth values or text, got {name} of {kind}.")
