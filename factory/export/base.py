"""What a format is given and what it must have: the export as a whole, its parts, and a folder to write into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from factory.core.registry import resolve
from factory.export import FORMATS
from manifests.dataset import Sample
from manifests.errors import UserError
from manifests.files import temporary_beside
from manifests.labels import LabelClass, LabelScheme
from manifests.schema import DISCLAIMER

_OF_A_TILE = (
    "sample_id", "seed", "config_sha256", "mask_weights_sha256", "image_weights_sha256", "label_origin", "licence",
    "real_groups",
)  # fmt: skip
"""Columns that tell where a tile comes from."""

Record = dict[str, Any]
"""What a format remembers of a part, JSON-ready. ``lost``: what the format cannot hold -> its number."""


@dataclass(frozen=True)
class Export:
    """An export as a whole.

    Attributes:
        root: of the data set. name: its own. out: the folder that will be written. scheme: of all labels.
        size: height and width of every tile. mpp: micrometres per pixel, the median.
        tiles: split -> number of tiles; only splits that have some. cells: number of instances.
        mark: origin of the data set, JSON-ready, see `factory.export.origin`.
    """

    root: Path
    name: str
    out: Path
    scheme: LabelScheme
    size: tuple[int, int]
    mpp: float
    tiles: Mapping[str, int]
    cells: int
    mark: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """``synthetic`` or ``real``."""
        return "synthetic" if self.mark["is_synthetic"] else "real"

    @property
    def cell_classes(self) -> tuple[LabelClass, ...]:
        """Classes that a cell can have: those of nuclei, or every class of a scheme of regions."""
        nuclei = self.scheme.ids("nucleus")
        return tuple(label for label in self.scheme.classes if not nuclei or label.id in nuclei)

    @property
    def holds_regions(self) -> bool:
        """Whether the semantic mask says more than the cells: in a scheme of regions, or where there are no cells."""
        return not self.scheme.ids("nucleus") or not self.cells

    def comment(self, row: Mapping[str, Any]) -> str:
        """Origin of one tile in a line of ASCII, for text fields of image files."""
        return f"{self.kind}; {DISCLAIMER}; {json.dumps(self.mark_of(row), sort_keys=True)}"

    def mark_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Origin of one tile, JSON-ready."""
        own = {key: row[key] for key in _OF_A_TILE if row[key] is not None and row[key] != []}
        general = {key: self.mark[key] for key in ("is_synthetic", "generator", "licences", "real_pixels", "use")}
        return {**general, **own}


@dataclass(frozen=True)
class Part:
    """Tiles of one split that are written together.

    Attributes:
        number: over all parts. split: of its tiles. first: place of its first tile in the split.
        index, parts: its place among the parts of the split, and their number. rows: of the manifest.
    """

    number: int
    split: str
    first: int
    index: int
    parts: int
    rows: tuple[dict[str, Any], ...]


@dataclass
class Files:
    """The folder that becomes the export, and a folder beside it for pieces that `Format.finish` joins.

    Attributes:
        root, pieces: the folders. sizes: bytes of every file written, by its path in `root`.
    """

    root: Path
    pieces: Path
    sizes: dict[str, int] = field(default_factory=dict)

    def put(self, name: str, content: bytes) -> None:
        """Write a file of the export, given its relative path."""
        path = self._place(self.root / name)
        path.write_bytes(content)
        self.sizes[name] = len(content)

    def put_text(self, name: str, text: str) -> None:
        """Write a text file of the export."""
        self.put(name, text.encode())

    def put_json(self, name: str, document: Mapping[str, Any] | Sequence[Any]) -> None:
        """Write a JSON file of the export."""
        self.put_text(name, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A stream to a file of the export, for content that is made bit by bit."""
        path = self._place(self.root / name)
        temporary = temporary_beside(path)
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
        self.sizes[name] = path.stat().st_size

    def make_stack(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Make an NPY file of zeros for `open_stack`, unless it is there."""
        path = self._place(self.root / name)
        if not path.exists():
            temporary = temporary_beside(path)
            np.lib.format.open_memmap(temporary, "w+", np.dtype(dtype), shape).flush()
            temporary.replace(path)

    def open_stack(self, name: str) -> np.memmap:
        """An NPY file, mapped for writing."""
        return np.lib.format.open_memmap(self.root / name, "r+")

    def put_piece(self, kind: str, part: Part, lines: Iterable[str]) -> None:
        """Keep lines of a part for `finish`."""
        self._place(self._piece(kind, part.split, part.index)).write_text("".join(f"{line}\n" for line in lines))

    def lines(self, kind: str, split: str) -> Iterator[str]:
        """The kept lines of all parts of a split, in their order."""
        index = 0
        while (path := self._piece(kind, split, index)).exists():
            with path.open() as stream:
                yield from (line.rstrip("\n") for line in stream)
            index += 1

    def _piece(self, kind: str, split: str, index: int) -> Path:
        return self.pieces / f"{kind}-{split}-{index:06d}"

    def _place(self, path: Path) -> Path:
        os.makedirs(path.parent, exist_ok=True)  # noqa: PTH103 - one call a file: pathlib's takes three times as long
        return path


class Format(Protocol):
    """A format of other tools. Its methods are static, as the class is never built.

    Attributes:
        bytes_per_px: room of a pixel with its labels on the disk, at most.
    """

    bytes_per_px: float = 4.0

    @staticmethod
    def check(export: Export) -> None:
        """Refuse, before anything is written, what the format cannot hold.

        Raises:
            UserError: with the reason.
        """

    @staticmethod
    def begin(export: Export, files: Files) -> None:
        """Make files that all parts fill, unless they are there."""

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """Write the tiles of a part. Safe to repeat; parts are written in any order, by several processes.

        Raises:
            UserError: when the format cannot hold a label.
        """
        ...

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """Write the files over the whole set; `records` are those of all parts, by number."""


def resolve_format(name: str) -> type[Format]:
    """The format of a name; an unknown one is refused with the nearest known."""
    found: type[Format] = resolve(FORMATS, name, "--format")
    return found


def check_ids(sample: Sample, largest: int, what: str) -> None:
    """Refuse instance ids that a format cannot hold.

    Raises:
        UserError: naming the sample and its largest id.
    """
    found = int(sample.tile.instance.max())
    if found > largest:
        raise UserError(
            f"sample {sample.row['sample_id']}: expected instance ids up to {largest:,} ({what}), got {found:,}. "
            "Use --format hf, which numbers none."
        )
