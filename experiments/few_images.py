"""Synthetic sets for the cells of `segment compare`: each knows the few real patients of its cell alone. Resumes.

    segment compare --real data/real --fractions 0.25,1.0 --seeds 3 --patients-of-cells cells.csv
    python -m experiments.few_images --real data/real --patients cells.csv --out 'data/few-{fraction}-{seed}' -- OPTIONS
    segment compare --real data/real --fractions 0.25,1.0 --seeds 3 --synth 'data/few-{fraction}-{seed}'

For every cell its patients' real tiles are copied into a data set of their own (`OUT-real`), and `factory make --like`
that data set makes the tiles, with OPTIONS (such as ``--renderer exemplar --n 600``) and the cell's seed. So bank,
layouts and stain come from these patients.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from experiments.hdgan_copies import copy
from factory.core.console import run
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from segment.compare.config import Training
from segment.compare.sets import is_pattern, path_of


def main() -> None:
    """Make the sets that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="data set of real tiles")
    parser.add_argument("--patients", type=Path, required=True, help="CSV of segment compare --patients-of-cells")
    parser.add_argument("--out", type=Path, required=True, help="pattern of the sets: 'data/few-{fraction}-{seed}'")
    parser.add_argument("make", nargs="*", help="options of factory make, after --")
    arguments = parser.parse_args()
    if not is_pattern(arguments.out):
        raise UserError(f"--out: expected a pattern with {{fraction}} or {{seed}}, got {arguments.out}.")
    real = open_dataset(arguments.real)
    for (fraction, seed), patients in read_patients(arguments.patients).items():
        out = path_of(arguments.out, Training("S*", fraction, seed))
        like = out.with_name(f"{out.name}-real")
        copy_patients(real, patients, like)
        words = ["make", "--like", like, "--seed", seed, "--split", "1,0,0", "--out", out, *arguments.make]
        subprocess.run([sys.executable, "-m", "factory.cli", *map(str, words)], check=True)


def read_patients(path: Path) -> dict[tuple[float, int], set[str]]:
    """Patients of every cell, in the order of the file."""
    cells: dict[tuple[float, int], set[str]] = defaultdict(set)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                cells[float(row["fraction"]), int(row["seed"])].add(row["group"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a CSV with the columns fraction, seed and group, got: {error!r}.") from error
    return dict(cells)


def copy_patients(real: Dataset, patients: set[str], out: Path) -> Dataset:
    """Write the tiles of some patients as a data set of its own, all of them to train on; a finished one is kept."""
    places = [place for place, group in enumerate(real.table["group_id"].to_pylist()) if group in patients]
    if missing := sorted(patients - {real.table["group_id"][place].as_py() for place in places}):
        raise UserError(f"--patients: expected patients of {real.root}, got {missing[0]!r} ({len(missing)} such).")
    config = {"patients": sorted(patients)}
    return copy(
        out,
        real,
        places,
        lambda sample: sample.tile,
        lambda place: {"split": "train"},
        config=config,
        is_synthetic=False,
    )


if __name__ == "__main__":
    run(main)
