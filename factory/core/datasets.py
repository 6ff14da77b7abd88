"""Data sets that a command reads, and output folders that must lie outside of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factory.core.runs import is_finished
from factory.core.wording import plural
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.schema import DatasetInfo
from manifests.store import STORE


def open_finished(root: Path) -> Dataset:
    """Opens a finished data set. Raises a UserError when its run is not finished."""
    dataset = open_dataset(root)
    if not is_finished(root):
        raise UserError(f"{root}: expected a finished data set, got one without SHA256SUMS. Run its command again.")
    return dataset


def rows_of_split(dataset: Dataset, split: str, where: str) -> Dataset:
    """Returns the rows of a split; rows without a split count as train.

    Args:
        dataset: the data set. split: train, val, test or all. where: names the data set in the error.

    Raises:
        UserError: when there are none.
    """
    if split != "all":
        chosen = dataset.where(pc.equal(pc.fill_null(dataset.table["split"], "train"), split))
        if not len(chosen):
            known = ", ".join(sorted(str(name) for name in dataset.table["split"].unique().to_pylist()))
            raise UserError(
                f"{where}: expected tiles of split {split}, got none (there are: {known}). Use --split all."
            )
        dataset = chosen
    if not len(dataset):
        raise UserError(f"{where}: expected tiles, got a data set without rows.")
    return dataset


def random_rows(dataset: Dataset, n: int, rng: np.random.Generator) -> Dataset:
    """Returns at most `n` random rows, in their order."""
    if len(dataset) <= n:
        return dataset
    keep = np.zeros(len(dataset), bool)
    keep[rng.permutation(len(dataset))[:n]] = True
    return dataset.where(keep)


def shape_of(dataset: Dataset) -> tuple[int, int]:
    """Returns height and width of a data set's tiles."""
    return dataset.store.layout.height, dataset.store.layout.width


def groups_of(dataset: Dataset) -> set[str]:
    """Returns the patients or slides of a data set's rows."""
    return {group for group in dataset.table["group_id"].unique().to_pylist() if group is not None}


def real_groups_of(table: pa.Table) -> set[str]:
    """Returns whose pixels rows of synthetic tiles hold, ``data set/group``."""
    return set(pc.list_flatten(table["real_groups"]).unique().to_pylist())


@dataclass(frozen=True)
class RealPixelsOf:
    """Real pixels in synthetic tiles: of which groups, and under which licences. Both sorted."""

    groups: tuple[str, ...]
    licences: tuple[str, ...]

    @property
    def text(self) -> str:
        """For people, in one line."""
        licences = ", ".join(self.licences) or "no licence that is named"
        return f"tiles hold real pixels of {plural(len(self.groups), 'group')} under {licences}"


def real_pixels_of(table: pa.Table, info: DatasetInfo) -> RealPixelsOf | None:
    """Returns whose pixels synthetic tiles hold; None where they hold none, and for real tiles."""
    if not (info.is_synthetic and info.real_pixels):
        return None
    own = table.filter(pc.fill_null(table["real_pixels"], False))["licence"].unique().to_pylist()
    licences = {licence for joined in own if joined for licence in joined.split("; ")}
    return RealPixelsOf(tuple(sorted(real_groups_of(table))), tuple(sorted(licences or info.licences)))


def real_pixel_lines(table: pa.Table, info: DatasetInfo) -> list[str]:
    """Returns a line that says whose pixels synthetic tiles hold; no line where they hold none."""
    inside = real_pixels_of(table, info)
    return [] if inside is None else [inside.text]


def check_out(out: Path) -> Path:
    """Returns the folder to write to.

    Raises:
        UserError: when it is a file, or lies in a data set, whose checksums list every file.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: expected a folder, got a file. Choose another --out.")
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / STORE).is_dir():
            raise UserError(
                f"--out {out}: expected a folder outside every data set, got one in {folder}. Choose another --out."
            )
    return out
