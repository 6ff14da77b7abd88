"""Point lists in CSV, and the table of points beside the manifest. No outlines are invented for points."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factory.core.encoding import parquet_bytes
from factory.core.images.files import UnreadableError
from manifests.limits import read_text

MAX_POINTS = 2_000_000

SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
        pa.field("y", pa.float64(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
    ]
)
"""One row per point and tile that it lies in; x and y in pixels from the tile's top left corner, as in the source."""


@dataclass(frozen=True)
class Points:
    """Points of one image: float64 x and y in its pixels, and a class name each."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def where(self, mask: npt.NDArray[np.bool_]) -> Points:
        """The points that a boolean array selects."""
        return Points(self.x[mask], self.y[mask], tuple(c for c, keep in zip(self.classes, mask, strict=True) if keep))

    def inside(self, x: float, y: float, width: float, height: float) -> npt.NDArray[np.bool_]:
        """Which points lie in [x, x + width) x [y, y + height)."""
        return (self.x >= x) & (self.x < x + width) & (self.y >= y) & (self.y < y + height)

    def moved(self, scale: float, x: float, y: float) -> Points:
        """Points scaled, then shifted by (-x, -y)."""
        return Points(self.x * scale - x, self.y * scale - y, self.classes)


def read_points(path: Path, columns: tuple[str, str, str], names: Mapping[str, str]) -> Points:
    """Read a CSV with a header line; comma, semicolon or tab between fields.

    Args:
        columns: names of the columns with x, y and class.
        names: class as written -> class as stored; empty keeps every class as written.

    Raises:
        UnreadableError: naming the first line that does not fit.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"expected a CSV file in UTF-8, got {type(error).__name__}") from error
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    found = [name.strip() for name in reader.fieldnames or ()]
    missing = [name for name in columns if name not in found]
    if missing:
        raise UnreadableError(
            f"expected the columns {', '.join(columns)}, got {', '.join(found) or 'none'}. "
            "Name them with --point-columns X,Y,CLASS"
        )
    reader.fieldnames = found
    places: list[tuple[float, float]] = []
    classes: list[str] = []
    try:
        for row in reader:
            if len(classes) >= MAX_POINTS:
                raise UnreadableError(f"expected at most {MAX_POINTS:,} points, got more. Split the file")
            line = reader.line_num
            places.append((_coordinate(row, columns[0], line), _coordinate(row, columns[1], line)))
            classes.append(_class_name(row[columns[2]], names, line))
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num}: expected CSV, got {error}") from error
    x, y = np.array(places, np.float64).reshape(-1, 2).T
    return Points(x, y, tuple(classes))


def _coordinate(row: Mapping[str, str | None], column: str, line: int) -> float:
    try:
        value = float(row[column] or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnreadableError(f"line {line}: expected a number in {column}, got {row[column]!r}")
    return value


def _class_name(written: str | None, names: Mapping[str, str], line: int) -> str:
    text = (written or "").strip()
    if not text:
        raise UnreadableError(f"line {line}: expected a class, got nothing")
    if names and text not in names:
        raise UnreadableError(f"line {line}: expected a class of {', '.join(names)}, got {text!r}. See --point-classes")
    return names.get(text, text)


def encode_points(tiles: Iterable[tuple[str, Points]]) -> bytes:
    """The Parquet file of the points of all tiles: (sample_id, points in the tile's own pixels)."""
    parts = [
        pa.table(
            {"sample_id": [sample_id] * len(points), "x": points.x, "y": points.y, "class": points.classes}, SCHEMA
        )
        for sample_id, points in tiles
        if len(points)
    ]
    table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
    return parquet_bytes(table.combine_chunks())
