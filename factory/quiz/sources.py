"""From data sets to the two kinds of tiles of a quiz: synthetic and real, of one resolution, without leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from factory.core.datasets import groups_of, open_finished, rows_of_split, shape_of
from factory.core.leaks import tested_groups_among
from factory.core.resolutions import common_mpp
from manifests.dataset import Dataset
from manifests.errors import UserError

Truth = Literal["real", "synthetic"]
KINDS: tuple[Truth, Truth] = ("real", "synthetic")
_ROLES = {"real": "--real", "synthetic": "SYNTH"}
_SMALLEST_PX = 32


@dataclass(frozen=True)
class Source:
    """A data set of one kind, or a split of it.

    Attributes:
        truth: real or synthetic. name: of its folder, with the parent's where two folders have the same name.
        dataset: its rows.
    """

    truth: Truth
    name: str
    dataset: Dataset

    @property
    def where(self) -> str:
        """Name in errors."""
        return f"{_ROLES[self.truth]} {self.dataset.root}"

    @property
    def groups(self) -> set[str]:
        """Patients or slides of the rows."""
        return groups_of(self.dataset)


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of a quiz.

    Attributes:
        synthetic, real: the data sets. shape: height and width shown. mpp: median over the real tiles.
    """

    synthetic: tuple[Source, ...]
    real: tuple[Source, ...]
    shape: tuple[int, int]
    mpp: float

    @property
    def all(self) -> tuple[Source, ...]:
        """All data sets."""
        return (*self.real, *self.synthetic)

    def of(self, truth: Truth) -> tuple[Source, ...]:
        """Returns the data sets of one kind."""
        return self.real if truth == "real" else self.synthetic


def open_inputs(
    synthetic: Sequence[Path], real: Sequence[Path], *, n: int, size: tuple[int, int] | None = None, split: str = "test"
) -> Inputs:
    """Opens the data sets of a quiz and refuses those that give no blind test; no pixels are read yet.

    Args:
        synthetic, real: folders of finished data sets. n: number of tiles, half of either kind.
        size: height and width to show; by default the largest that all tiles have.
        split: of the real tiles, or ``all``. Synthetic sets have all their tiles used.

    Raises:
        UserError: for data sets of the other kind or given twice, splits without tiles, different resolutions, tiles
            smaller than the size, fewer than n / 2 tiles, or synthetic tiles whose generator saw the real ones.
    """
    if n < 2 or n % 2:
        raise UserError(f"--n: expected an even number of tiles, half of them real, got {n}.")
    folders = [*real, *synthetic]
    names = _names(folders)
    sources = [
        _open("real" if place < len(real) else "synthetic", names[place], folder, split)
        for place, folder in enumerate(folders)
    ]
    tiles = {source.where: source.dataset.table["mpp"].to_numpy() for source in sources}
    mpp = common_mpp(tiles, [source.where for source in sources[: len(real)]], ": sizes alone would tell them apart")
    inputs = Inputs(tuple(sources[len(real) :]), tuple(sources[: len(real)]), _shape(sources, size), mpp)
    _refuse_seen(inputs)
    for kind in KINDS:
        there = sum(len(source.dataset) for source in inputs.of(kind))
        if there < n // 2:
            more = ", or --split all" if kind == "real" and split != "all" else ""
            raise UserError(
                f"{_ROLES[kind]}: expected at least {n // 2} {kind} tiles for --n {n}, got {there}. Lower --n, or give "
                f"more data sets{more}."
            )
    return inputs


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns a name for every folder: its own, with its parent's where two are equal. No folder may be there twice."""
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(resolved):
        if folder in resolved[:place]:
            raise UserError(f"{folders[place]}: expected every data set once, got it twice. Name it once.")
    short = [folder.name for folder in resolved]
    return [
        folder.name if short.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}" for folder in resolved
    ]


def _open(truth: Truth, name: str, folder: Path, split: str) -> Source:
    dataset = open_finished(folder)
    kinds = set(dataset.table["source"].unique().to_pylist())
    if dataset.info.is_synthetic != (truth == "synthetic") or kinds - {truth}:
        other = "synthetic" if truth == "real" else "real"
        raise UserError(f"{_ROLES[truth]} {folder}: expected {truth} tiles, got {other} ones. Give another data set.")
    if truth == "real":
        dataset = rows_of_split(dataset, split, f"--real {folder}")
    return Source(truth, name, dataset)


def _shape(sources: Sequence[Source], size: tuple[int, int] | None) -> tuple[int, int]:
    shapes = [shape_of(source.dataset) for source in sources]
    if size is None:
        return min(height for height, _ in shapes), min(width for _, width in shapes)
    if min(size) < _SMALLEST_PX:
        raise UserError(f"--size: expected at least {_SMALLEST_PX} pixels a side, got {size[0]}x{size[1]}.")
    for source, (height, width) in zip(sources, shapes, strict=True):
        if height < size[0] or width < size[1]:
            raise UserError(
                f"{source.where}: expected tiles of at least {size[0]}x{size[1]} pixels, got {height}x{width}. "
                "Use a smaller --size, or none for the largest that all have."
            )
    return size


def _refuse_seen(inputs: Inputs) -> None:
    """Refuses real tiles that a generator was trained on: a copy of one would rightly pass for real."""
    shown = {group for source in inputs.real for group in source.groups}
    for source in inputs.synthetic:
        seen = tested_groups_among([*source.dataset.info.training_sources, *source.groups], shown)
        if seen:
            raise UserError(
                f"{source.where}: expected tiles of a generator that never saw the real ones, got group {seen[0]!r} "
                f"({len(seen)} such) among its sources. Show other groups (--split), or train without them."
            )
