"""Images and label maps as PNG, in the folders that `factory ingest` knows, with tables beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from factory.core.encoding import png
from factory.export.base import Export, Files, Format, Part, Record, check_ids
from manifests.dataset import Sample
from manifests.schema import ACHIEVED

_COLUMNS = ("group_id", "split", "mpp", "label_scheme", "label_origin", "source", "licence", *ACHIEVED)
_NAMES = {"group_id": "group"}
"""Names that `factory ingest --groups` and `--splits` look for."""


class Png(Format):
    """Folders images (RGB), masks (classes, 255 = ignore) and instances (16 bits, 0 = background)."""

    bytes_per_px = 3.5

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """Three files for each tile, and its line of the table."""
        lines = []
        for sample in samples:
            check_ids(sample, 2**16 - 2, "16 bits")
            name, comment = sample.row["sample_id"], export.comment(sample.row)
            files.put(f"images/{name}.png", png(sample.image, comment))
            files.put(f"masks/{name}.png", png(sample.tile.semantic, comment))
            if export.cells:
                files.put(f"instances/{name}.png", png(sample.tile.instance.astype(np.uint16), comment))
            lines.append(_line([name, *(sample.row[column] for column in _COLUMNS)]))
        files.put_piece("tiles", part, lines)
        return {}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """``tiles.csv``, ``classes.csv`` and the scheme as `factory ingest --scheme` reads it."""
        del records
        with files.open("tiles.csv") as stream:
            stream.write(f"{_line(['name', *(_NAMES.get(column, column) for column in _COLUMNS)])}\n".encode())
            for split in export.tiles:
                stream.writelines(f"{line}\n".encode() for line in files.lines("tiles", split))
        classes = [_line(["id", "name", "red", "green", "blue", "roles"])]
        classes += [_line([c.id, c.name, *c.colour, " ".join(c.roles)]) for c in export.scheme.classes]
        files.put_text("classes.csv", "".join(f"{line}\n" for line in classes))
        files.put_text("scheme.yaml", yaml.safe_dump(export.scheme.to_dict(), sort_keys=False, allow_unicode=True))


def _line(values: list[Any]) -> str:
    """A line of CSV; lists with spaces between their values."""
    stream = io.StringIO()
    cells = [" ".join(map(str, value)) if isinstance(value, list) else value for value in values]
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()
