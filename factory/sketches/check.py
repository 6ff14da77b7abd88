"""Check of drawings: each is read as a sketch, before any tile is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory.core.console import progress
from factory.core.seeds import Stream, generator
from factory.inspect.layout import Block, View
from factory.inspect.sheet import render_sheet
from factory.masks.coarse.augment import augment_sketch
from factory.masks.coarse.drawings import Sketch, White, read_sketch, sketch_files
from factory.masks.coarse.morphology import LabelMap
from factory.sketches.report import SHEET, check_folder
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.labels import LabelScheme

_SHOWN = 60
_AUGMENTED = 12


@dataclass(frozen=True)
class Reading:
    """A drawing: its sketch, or the reason why it cannot be read."""

    name: str
    sketch: Sketch | None
    problem: str

    @property
    def fractions(self) -> tuple[float, ...]:
        """Shares of the classes in scheme order; empty where it was not read."""
        return () if self.sketch is None else class_shares(self.sketch.labels, len(self.sketch.scheme))


@dataclass(frozen=True)
class CheckReport:
    """Every drawing of a folder, and the sheet with its size; no sheet where none could be read."""

    readings: tuple[Reading, ...]
    sheet: Path | None = None
    size_bytes: int = 0

    @property
    def unread(self) -> int:
        """Drawings that cannot be read."""
        return sum(reading.sketch is None for reading in self.readings)


def check_sketches(
    folder: Path,
    scheme: LabelScheme,
    out: Path,
    *,
    size: tuple[int, int],
    white: White = "air",
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
) -> CheckReport:
    """Read every drawing of a folder, and show the sketches and a few augmented maps on a sheet.

    Args:
        folder: of drawings, or one of them.
        scheme: to read them in.
        out: folder for the sheet.
        size: (height, width) of the tiles to be made.
        white: meaning of white in a scheme of two classes.
        seed: of the augmentations shown.
        overwrite: whether an earlier sheet there may be replaced. dry_run: write nothing.

    Raises:
        UserError: for a folder without drawings, or an `out` that holds something. A drawing that cannot be read is
            reported with the others.
    """
    files = sketch_files(folder)
    check_folder(out, overwrite=overwrite)
    if len(scheme) < 2:
        raise UserError(f"--scheme {scheme.name}: expected two classes or more, got one. There is nothing to draw.")
    with progress("drawings", len(files), unit="drawings") as bar:
        readings = []
        for file in files:
            readings.append(_read(file, scheme, white, size))
            bar.advance()
    sketches = [reading.sketch for reading in readings if reading.sketch is not None]
    if not sketches:
        return CheckReport(tuple(readings))
    sheet = render_sheet([_as_read(sketches, size), _augmented(sketches, size, seed)])
    if dry_run:
        return CheckReport(tuple(readings), None, len(sheet))
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / SHEET, sheet)
    return CheckReport(tuple(readings), out / SHEET, len(sheet))


def class_shares(labels: LabelMap, classes: int) -> tuple[float, ...]:
    """Share of every class in a map."""
    return tuple((np.bincount(labels.ravel(), minlength=classes) / labels.size).tolist())


def _read(file: Path, scheme: LabelScheme, white: White, size: tuple[int, int]) -> Reading:
    try:
        return Reading(file.name, read_sketch(file, scheme, white=white, size=size), "")
    except UserError as error:
        return Reading(file.name, None, str(error).removeprefix(f"{file}: "))


def _as_read(sketches: Sequence[Sketch], size: tuple[int, int]) -> Block:
    scheme = sketches[0].scheme
    more = f" of {len(sketches)}" if len(sketches) > _SHOWN else ""

    def view(place: int) -> View:
        sketch = sketches[place]
        shares = class_shares(sketch.labels, len(scheme))
        text = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(scheme.names, shares, strict=True))
        return View(scheme.palette[sketch.labels], None, (sketch.name, text, *sketch.notes))

    count = min(len(sketches), _SHOWN)
    return Block(
        title=f"{count}{more} drawings as they are read",
        note="before augmentation",
        warning="",
        panels=("image",),
        schemes=(scheme,),
        count=count,
        shape=size,
        lines=2 + max(len(sketch.notes) for sketch in sketches[:count]),
        view=view,
    )


def _augmented(sketches: Sequence[Sketch], size: tuple[int, int], seed: int) -> Block:
    palette = sketches[0].scheme.palette

    def view(place: int) -> View:
        coarse = augment_sketch(sketches, generator(seed, Stream.MASK, place), *size)
        return View(palette[coarse], None, (f"map {place + 1}",))

    return Block(
        title="coarse maps made of them",
        note="turned, sheared, bent, mirrored and merged at random",
        warning="",
        panels=("image",),
        schemes=(),
        count=_AUGMENTED,
        shape=size,
        lines=1,
        view=view,
    )
