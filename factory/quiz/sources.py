"""Data sets to the two kinds of tiles of a quiz: synthetic and real, of one resolution, strangers to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc

from factory.core.leaks import tested_groups_among
from factory.core.resolutions import common_mpp
from factory.inspect.report import open_finished
from manifests.dataset import Dataset
from manifests.errors import UserError

Truth = Literal["real", "synthetic"]
KINDS: tuple[Truth, Truth] = ("real", "synthetic")
_ROLES = {"real": "--real", "synthetic": "SYNTH"}
_SMALLEST_PX = 32


@dataclass(frozen=True)
class Source:
    """A data set that takes part, or the split of it that does.

    Attributes:
        truth: what its tiles are. name: its folder's name, with the parent's where two would be called the same.
        dataset: the rows.
    """

    truth: Truth
    name: str
    dataset: Dataset

    @property
    def where(self) -> str:
        """How an error names it."""
        return f"{_ROLES[self.truth]} {self.dataset.root}"

    @property
    def groups(self) -> set[str]:
        """Patients or slides of its rows."""
        return {group for group in self.dataset.table["group_id"].unique().to_pylist() if group is not None}


@dataclass(frozen=True)
class Inputs:
    """What a quiz is made of, checked.

    Attributes:
        synthetic, real: the data sets. shape: height and width of what is shown. mpp: of the real tiles, by their
            median.
    """

    synthetic: tuple[Source, ...]
    real: tuple[Source, ...]
    shape: tuple[int, int]
    mpp: float

    @property
    def all(self) -> tuple[Source, ...]:
        """Every data set."""
        return (*self.real, *self.synthetic)

    def of(self, truth: Truth) -> tuple[Source, ...]:
        """The data sets of one kind."""
        return self.real if truth == "real" else self.synthetic


def open_inputs(
    synthetic: Sequence[Path], real: Sequence[Path], *, n: int, size: tuple[int, int] | None = None, split: str = "test"
) -> Inputs:
    """Open the data sets of a quiz and refuse what gives no blind test; no pixel is read yet.

    Args:
        synthetic, real: folders of finished data sets.
        n: tiles of the quiz; half of them are of either kind.
        size: height and width to show; by default the largest that all tiles have.
        split: of the real tiles, or ``all``. Of the synthetic sets every tile counts.

    Raises:
        UserError: for data sets of the other kind or given twice, splits without tiles, other resolutions, a size
            that tiles do not have, fewer than n / 2 tiles, or synthetic tiles whose generator saw the real ones.
    """
    if n < 2 or n % 2:
        raise UserError(f"--n: expected an even number of tiles, half of them real, got {n}.")
    folders = [*real, *synthetic]
    names = _names(folders)
    sources = [
        _open("real" if place < len(real) else "synthetic", names[place], folder, split)
        for place, folder in enumerate(folders)
    ]
    inputs = Inputs(
        tuple(sources[len(real) :]), tuple(sources[: len(real)]), _shape(sources, size), _common_mpp(sources)
    )
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
    """A name for every folder: its own, with its parent's where that alone is not enough.

    Raises:
        UserError: for a folder that was given twice.
    """
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
    if truth == "real" and split != "all":
        chosen = dataset.where(pc.equal(pc.fill_null(dataset.table["split"], "train"), split))
        if not len(chosen):
            known = ", ".join(sorted(str(name) for name in dataset.table["split"].unique().to_pylist()))
            raise UserError(
                f"--real {folder}: expected tiles of split {split}, got none (there are: {known}). Use --split all."
            )
        dataset = chosen
    return Source(truth, name, dataset)


def _shape(sources: Sequence[Source], size: tuple[int, int] | None) -> tuple[int, int]:
    layouts = [(source.dataset.store.layout.height, source.dataset.store.layout.width) for source in sources]
    if size is None:
        return min(height for height, _ in layouts), min(width for _, width in layouts)
    if min(size) < _SMALLEST_PX:
        raise UserError(f"--size: expected at least {_SMALLEST_PX} pixels a side, got {size[0]}x{size[1]}.")
    for source, (height, width) in zip(sources, layouts, strict=True):
        if height < size[0] or width < size[1]:
            raise UserError(
                f"{source.where}: expected tiles of at least {size[0]}x{size[1]} pixels, got {height}x{width}. "
                "Use a smaller --size, or none for the largest that all have."
            )
    return size


def _common_mpp(sources: Sequence[Source]) -> float:
    tiles = {source.where: source.dataset.table["mpp"].to_numpy() for source in sources}
    reals = [source.where for source in sources if source.truth == "real"]
    return common_mpp(tiles, reals, ": sizes alone would tell them apart")


def _refuse_seen(inputs: Inputs) -> None:
    """Refuse real tiles that a generator learnt from: a copy of one would pass for real, and rightly so."""
    shown = {group for source in inputs.real for group in source.groups}
    for source in inputs.synthetic:
        seen = tested_groups_among([*source.dataset.info.training_sources, *source.groups], shown)
        if seen:
            raise UserError(
                f"{source.where}: expected tiles of a generator that never saw the real ones, got group {seen[0]!r} "
                f"({len(seen)} such) among its sources. Show other groups (--split), or train without them."
            )
