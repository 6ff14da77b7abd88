"""From data sets to comparable sets of tiles: splits, a common scheme, a common size, and checks against leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from factory.core.console import progress
from factory.core.datasets import groups_of, random_rows, real_groups_of, rows_of_split, shape_of
from factory.core.leaks import MASKS_OF, tested_groups_among
from factory.core.resolutions import common_mpp
from factory.score.compare import LEAST_TILES
from factory.score.settings import generator
from factory.score.tiles import TileSet, labelled, random_crops
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme, common_scheme

On = Literal["masks", "images"]
SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True)
class Source:
    """A data set in one role: the option that named it (``--real``), the rows that are compared, and their split."""

    role: str
    dataset: Dataset
    split: str

    @property
    def root(self) -> Path:
        """Folder of the data set."""
        return self.dataset.root

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of its tiles."""
        return shape_of(self.dataset)

    @property
    def where(self) -> str:
        """Name in errors and notes."""
        return f"{self.role} {self.root}"

    @property
    def groups(self) -> set[str]:
        """Patients or slides of the rows."""
        return groups_of(self.dataset)

    def to_dict(self) -> dict[str, object]:
        """Returns the origin of the tiles, for the report."""
        sums = self.root / SUMS
        return {
            "folder": str(self.root),
            "split": self.split,
            "tiles": len(self.dataset),
            "generator": self.dataset.info.generator,
            "sha256sums_sha256": sha256_file(sums) if sums.is_file() else None,
        }


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of a score.

    Attributes:
        fake, reals, training, controls: data sets in these roles; the last two may be empty.
        scheme: common scheme of all masks; None for images. shape: common height and width. mpp: of the real tiles.
    """

    on: On
    fake: Source
    reals: tuple[Source, ...]
    training: tuple[Source, ...]
    controls: tuple[Source, ...]
    scheme: LabelScheme | None
    shape: tuple[int, int]
    mpp: float

    @property
    def all(self) -> tuple[Source, ...]:
        """All sources."""
        return (self.fake, *self.reals, *self.training, *self.controls)


def open_inputs(
    fake: Path,
    reals: Sequence[Path],
    *,
    on: On = "masks",
    split: str = "test",
    training: Sequence[Path] = (),
    training_split: str = "train",
    controls: Sequence[Path] = (),
    paired: bool = False,
) -> Inputs:
    """Opens the data sets of a score and refuses those that cannot be compared; no pixels are read yet.

    Args:
        fake: data set of the fakes, all splits. reals: real data sets. on: masks or images.
        split: of the real tiles and controls, or all. training, training_split: data that the generator was trained on.
        controls: other data sets for the table. paired: whether fakes are compared with the images of their own masks,
            and so may belong to the groups that are scored.

    Raises:
        UserError: for a missing data set, an empty split, no common scheme, different resolutions, too few tiles, or
            leaks.
    """
    if not reals:
        raise UserError("--real: expected at least one data set of real tiles, got none.")
    fakes = _open("FAKE", fake, "all")
    real_sources = tuple(_open("--real", root, split) for root in reals)
    training_sources = tuple(_open("--train", root, training_split) for root in training)
    control_sources = tuple(_open("--control", root, split, missing="all") for root in controls)
    sources = (fakes, *real_sources, *training_sources, *control_sources)
    for source in real_sources:
        if source.dataset.info.is_synthetic:
            raise UserError(f"{source.where}: expected real tiles, got synthetic ones.")
    if not paired:
        refuse_leaks(fakes, real_sources)
    refuse_shared_groups(real_sources, training_sources)
    scheme = common_scheme([own for source in sources for own in source.dataset.schemes]) if on == "masks" else None
    shape = (min(source.shape[0] for source in sources), min(source.shape[1] for source in sources))
    tiles = {source.where: source.dataset.table["mpp"].to_numpy() for source in sources}
    mpp = common_mpp(tiles, [source.where for source in real_sources])
    _refuse_few("FAKE", len(fakes.dataset))
    _refuse_few("--real", sum(len(source.dataset) for source in real_sources))
    return Inputs(on, fakes, real_sources, training_sources, control_sources, scheme, shape, mpp)


def _open(role: str, root: Path, split: str, missing: str | None = None) -> Source:
    """Opens a split, or `missing` where there is none: a control, such as another organ, needs no split."""
    if split not in SPLITS:
        raise UserError(f"--split: expected one of {', '.join(SPLITS)}, got {split!r}.")
    dataset = open_dataset(root)
    if missing is not None and split not in dataset.table["split"].unique().to_pylist():
        split = missing
    return Source(role, rows_of_split(dataset, split, f"{role} {root}"), split)


def _refuse_few(role: str, count: int, which: str = "") -> None:
    if count < LEAST_TILES:
        raise UserError(
            f"{role}: expected at least {LEAST_TILES} tiles{which}, got {count}. Give more, or --split all."
        )


def refuse_leaks(fake: Source, reals: Sequence[Source]) -> None:
    """Refuses fakes whose generator saw the groups of the real tiles; see `tested_groups_among`."""
    scored = {group for source in reals for group in source.groups}
    sources = [*fake.dataset.info.training_sources, *real_groups_of(fake.dataset.table)]
    shared = tested_groups_among([*sources, *fake.groups], scored)
    if shared:
        drawn = any(source.startswith(MASKS_OF) for source in sources)
        advice = "Add --on images --paired, which holds each against its own." if drawn else ""
        raise UserError(
            f"{fake.root}: expected fakes of a generator that never saw the real tiles scored, got group {shared[0]!r} "
            f"({len(shared)} such) among its sources. {advice or 'Score against other groups, or train without them.'}"
        )


def refuse_shared_groups(reals: Sequence[Source], training: Sequence[Source]) -> None:
    """Refuses training tiles of the groups of the real tiles."""
    scored = {group for source in reals for group in source.groups}
    for source in training:
        both = sorted(source.groups & scored)
        if both:
            raise UserError(
                f"--train {source.root}: expected other groups than those scored, got {both[0]!r} ({len(both)} such) "
                "in both. Held-out tiles set the limit for copies: choose --split or --train-split so that none is in "
                "both."
            )


@dataclass(frozen=True)
class Loaded:
    """Tiles in memory; fakes and reals may be more than are compared.

    Attributes:
        training: whole tiles, of the common size or larger. training_crops: a random part of each, of the common size.
            Both None without training tiles. notes: on crops and tiles left out, in lines.
    """

    fakes: TileSet
    reals: TileSet
    training: TileSet | None
    training_crops: TileSet | None
    controls: dict[str, TileSet]
    notes: tuple[str, ...]


def load(inputs: Inputs, seed: int, fakes_per_real: int = 4, most: int | None = None) -> Loaded:
    """Reads the pixels.

    Args:
        inputs: from `open_inputs`. seed: of crops and random choices.
        fakes_per_real: most fakes read per real tile; those that are not compared serve the price of control.
        most: tiles compared, at most.

    Raises:
        UserError: when fewer than 16 tiles of either kind remain.
    """
    ignored: dict[str, int] = {}
    total = sum(len(source.dataset) for source in inputs.all)
    with progress("reading", total) as bar:

        def read(source: Source, shape: tuple[int, int] | None = inputs.shape) -> TileSet:
            tiles = _read(source, shape, inputs, seed, ignored)
            bar.advance(len(source.dataset))
            return tiles

        reals = _join("real", [read(source) for source in inputs.reals])
        wanted = fakes_per_real * min(len(reals), most or len(reals))
        few = random_rows(inputs.fake.dataset, wanted, generator(seed, "choice", 1))
        fakes = replace(read(replace(inputs.fake, dataset=few)), name=inputs.fake.root.resolve().name)
        wholes = [read(source, None) for source in inputs.training]
        crops = [
            part.with_pixels(random_crops(part.pixels, inputs.shape, generator(seed, "crops", 1, place)))
            for place, part in enumerate(wholes)
        ]
        controls = {source.root.resolve().name: read(source) for source in inputs.controls}
    for side, role in ((fakes, "FAKE"), (reals, "--real")):
        _refuse_few(role, len(side), " without ignored pixels")
    notes = _size_notes(inputs)
    notes += [
        f"{count} tiles of {where} left out: they have pixels without a label"
        for where, count in ignored.items()
        if count
    ]
    whole, cropped = (
        _join("training", parts) if wholes else None for parts in ([_widen(part, wholes) for part in wholes], crops)
    )
    return Loaded(fakes, reals, whole, cropped, controls, tuple(notes))


def _widen(tiles: TileSet, others: Sequence[TileSet]) -> TileSet:
    """Pads tiles to the largest height and width by repeating their last rows and columns, which adds no edges."""
    height, width = (max(other.shape[axis] for other in others) for axis in (0, 1))
    if tiles.shape == (height, width):
        return tiles
    more = ((0, 0), (0, height - tiles.shape[0]), (0, width - tiles.shape[1]), (0, 0))
    return tiles.with_pixels(np.pad(tiles.pixels, more[: tiles.pixels.ndim], mode="edge"))


def _read(source: Source, shape: tuple[int, int] | None, inputs: Inputs, seed: int, ignored: dict[str, int]) -> TileSet:
    """Reads the tiles of a source, cropped at random to `shape` if given, and leaves out those with ignore pixels."""
    rows = source.dataset.table.select(
        ["sample_id", "index", "group_id", "label_scheme", "allocation_shift", "cells"]
    ).to_pylist()
    store = source.dataset.store
    if inputs.scheme is None:
        pixels = np.stack([store.read(row["index"], "image") for row in rows])
    else:
        tables = {own.name: own.projection(inputs.scheme) for own in source.dataset.schemes}
        pixels = np.stack([tables[row["label_scheme"]][store.read(row["index"], "semantic")] for row in rows])
    instances = None
    if inputs.scheme is not None and any(row["cells"] for row in rows):
        instances = np.stack([store.read(row["index"], "instance").astype(np.int32) for row in rows])
    if shape is not None:
        pixels = random_crops(pixels, shape, generator(seed, "crops"))
        instances = None if instances is None else random_crops(instances, shape, generator(seed, "crops"))
    if inputs.scheme is not None:
        kept = labelled(pixels)
        ignored[source.where] = len(rows) - len(kept)
        pixels, rows = pixels[kept], [rows[place] for place in kept]
        instances = None if instances is None else instances[kept]
    name = source.root.name
    groups = tuple(f"{name}/{row['sample_id']}" if row["group_id"] is None else row["group_id"] for row in rows)
    shifts = np.array([row["allocation_shift"] for row in rows], np.float64)  # None becomes NaN
    return TileSet(
        name=name,
        pixels=pixels,
        mpp=inputs.mpp,
        scheme=inputs.scheme,
        ids=tuple(row["sample_id"] for row in rows),
        groups=groups if source.groups else None,
        shifts=shifts if np.isfinite(shifts).any() else None,
        instances=instances,
    )


def _join(name: str, parts: Sequence[TileSet]) -> TileSet:
    """Joins sets; groups and instances are None unless all parts have them, shifts where there are several parts."""
    if len(parts) == 1:
        return replace(parts[0], name=name)
    groups = [part.groups for part in parts if part.groups is not None]
    instances = [part.instances for part in parts if part.instances is not None]
    return replace(
        parts[0],
        name=name,
        pixels=np.concatenate([part.pixels for part in parts]),
        ids=tuple(tile for part in parts for tile in part.ids),
        groups=tuple(group for part in groups for group in part) if len(groups) == len(parts) else None,
        shifts=None,
        instances=np.concatenate(instances) if len(instances) == len(parts) else None,
    )


def _size_notes(inputs: Inputs) -> list[str]:
    height, width = inputs.shape
    notes = []
    for source in inputs.all:
        if source.shape != inputs.shape:
            more = ", for the table of controls; searched whole for copies" if source.role == "--train" else ""
            cropped = f"cropped at random to {height}x{width}, the common size{more}"
            notes.append(f"{source.where}: {source.shape[0]}x{source.shape[1]} {cropped}")
    return notes
