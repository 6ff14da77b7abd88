"""Synthetic sets of a comparison: one for all trainings, or one for each cell, a fraction and a seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.files import write_atomic
from segment.compare.config import Training
from segment.data.mixing import Mix
from segment.data.sources import Source, groups_of, open_sources

_FIELDS = ("{fraction}", "{seed}")
Part = Callable[[float, int], Dataset]
"""Fraction and seed -> real training tiles."""


def is_pattern(synth: Path) -> bool:
    """Whether a path names a set for each cell, as in ``data/synth-{fraction}-{seed}``."""
    return any(field in str(synth) for field in _FIELDS)


def path_of(synth: Path, training: Training) -> Path:
    """Folder of the synthetic tiles of a training."""
    fraction = 1.0 if training.fraction is None else training.fraction
    return Path(str(synth).replace("{fraction}", f"{fraction:g}").replace("{seed}", str(training.seed)))


def open_sets(synth: Path, trainings: Iterable[Training]) -> dict[Path, Source]:
    """Open every set of a comparison, in the order of its trainings.

    Raises:
        UserError: for a set that is missing or not finished, and for sets of unequal size.
    """
    paths = dict.fromkeys(path_of(synth, training) for training in trainings if training.has_synth)
    sets = {path: open_sources(Mix(("synth",)), path, path)[0] for path in paths}
    sizes = {path: _size(source) for path, source in sets.items()}
    if len(set(sizes.values())) > 1:
        first = next(iter(sizes))
        other = next(path for path in sizes if sizes[path] != sizes[first])
        raise UserError(
            f"--synth {synth}: expected sets of one size, got {sizes[first]} in {first} and {sizes[other]} in {other}. "
            "Make them with one --n and --size."
        )
    return sets


def _size(source: Source) -> str:
    layout = source.dataset.store.layout
    if source.accepted is not None:  # audits accept as many as they will
        return f"audited tiles of {layout.height}x{layout.width}"
    return f"{len(source.split('train'))} training tiles of {layout.height}x{layout.width}"


def patients_of_cells(fractions: Sequence[float], seeds: int, part: Part) -> list[tuple[float, int, str]]:
    """Fraction, seed and patient of every real training patient of every cell."""
    return [
        (fraction, seed, patient)
        for fraction in fractions
        for seed in range(seeds)
        for patient in sorted(groups_of(part(fraction, seed)))
    ]


def write_patients(path: Path, rows: Sequence[tuple[float, int, str]]) -> None:
    """Write them as CSV with the columns fraction, seed and group."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("fraction", "seed", "group"))
    writer.writerows((f"{fraction:g}", seed, group) for fraction, seed, group in rows)
    write_atomic(path, text.getvalue().encode())
