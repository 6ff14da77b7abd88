"""Data sets to comparable sets of tiles: splits, a common scheme, a common size, and the guards against leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from factory.core.console import progress
from factory.core.leaks import MASKS_OF, tested_groups_among
from factory.core.resolutions import common_mpp
from factory.score.compare import LEAST_TILES
from factory.score.tiles import TileSet, generator, labelled, random_crops
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme, common_scheme

On = Literal["masks", "images"]
SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True)
class Source:
    """The rows of a data set that take part in one role.

    Attributes:
        role: the option that named it: ``--real``. dataset: its rows. split: which of them.
    """

    role: str
    dataset: Dataset
    split: str

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.dataset.root

    @property
    def groups(self) -> set[str]:
        """Patients or slides of its rows."""
        return {group for group in self.dataset.table["group_id"].unique().to_pylist() if group is not None}

    def to_dict(self) -> dict[str, object]:
        """Where the tiles are from, for the report."""
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
    """What a score reads, checked: sources by role, and what they have in common.

    Attributes:
        on: masks or images. fake: the fakes. reals: of one or several data sets. training, controls: likewise, or none.
        scheme: that all masks read as; None for images. shape: common height and width. mpp: of the real tiles.
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
        """Every source."""
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
    """Open the data sets of a score and refuse what cannot be compared, or is too little; no pixel is read yet.

    Args:
        fake: data set of the fakes, whose every row counts. reals: real data sets. on: what is compared.
        split: of the real ones and controls, or all. training, training_split: what the generator was trained on.
        controls: other data sets for the table. paired: whether fakes are held against the images of their own masks,
            and so may be of the groups that are scored.

    Raises:
        UserError: for a missing data set, an empty split, schemes without a common one, other resolutions, or leaks.
    """
    if not reals:
        raise UserError("--real: expected at least one data set of real tiles, got none.")
    fakes = _open("FAKE", fake, "all")
    real_sources = tuple(_open("--real", root, split) for root in reals)
    training_sources = tuple(_open("--train", root, training_split) for root in training)
    control_sources = tuple(_open("--control", root, _split_of_control(root, split)) for root in controls)
    sources = (fakes, *real_sources, *training_sources, *control_sources)
    _refuse_synthetic(real_sources)
    if not paired:
        refuse_leaks(fakes, real_sources)
    refuse_shared_groups(real_sources, training_sources)
    scheme = common_scheme([own for source in sources for own in source.dataset.schemes]) if on == "masks" else None
    shapes = [(source.dataset.store.layout.height, source.dataset.store.layout.width) for source in sources]
    shape = (min(height for height, _ in shapes), min(width for _, width in shapes))
    mpp = _common_mpp(sources, real_sources)
    _refuse_few("FAKE", len(fakes.dataset))
    _refuse_few("--real", sum(len(source.dataset) for source in real_sources))
    return Inputs(on, fakes, real_sources, training_sources, control_sources, scheme, shape, mpp)


def _split_of_control(root: Path, split: str) -> str:
    """Another organ needs no split: all of it, unless it has the one asked for."""
    dataset = open_dataset(root)
    return split if split in dataset.table["split"].unique().to_pylist() else "all"


def _open(role: str, root: Path, split: str) -> Source:
    if split not in SPLITS:
        raise UserError(f"--split: expected one of {', '.join(SPLITS)}, got {split!r}.")
    dataset = open_dataset(root)
    if split != "all":
        dataset = dataset.where(pc.equal(pc.fill_null(dataset.table["split"], "train"), split))
    if not len(dataset):
        known = ", ".join(str(name) for name in open_dataset(root).table["split"].unique().to_pylist())
        raise UserError(
            f"{role} {root}: expected tiles of split {split}, got none (there are: {known}). Use --split all."
        )
    return Source(role, dataset, split)


def _refuse_few(role: str, count: int, which: str = "") -> None:
    if count < LEAST_TILES:
        raise UserError(
            f"{role}: expected at least {LEAST_TILES} tiles{which}, got {count}. Give more, or --split all."
        )


def _refuse_synthetic(reals: Sequence[Source]) -> None:
    for source in reals:
        if source.dataset.info.is_synthetic:
            raise UserError(f"--real {source.root}: expected real tiles, got synthetic ones.")


def refuse_leaks(fake: Source, reals: Sequence[Source]) -> None:
    """Refuse fakes of the groups that are scored against.

    A group counts as a source alone or as the beginning of a file's name (``p1`` in ``p1-a.png``), the rule of
    `segment train`.

    Raises:
        UserError: naming the group.
    """
    scored = {group for source in reals for group in source.groups}
    sources = fake.dataset.info.training_sources
    shared = tested_groups_among([*sources, *fake.groups], scored)
    if shared:
        drawn = any(source.startswith(MASKS_OF) for source in sources)
        advice = "Add --on images --paired, which holds each against its own." if drawn else ""
        raise UserError(
            f"{fake.root}: expected fakes of a generator that never saw the real tiles scored, got group {shared[0]!r} "
            f"({len(shared)} such) among its sources. {advice or 'Score against other groups, or train without them.'}"
        )


def refuse_shared_groups(reals: Sequence[Source], training: Sequence[Source]) -> None:
    """Refuse training tiles of the groups that are scored against.

    Raises:
        UserError: naming the group.
    """
    scored = {group for source in reals for group in source.groups}
    for source in training:
        both = sorted(source.groups & scored)
        if both:
            raise UserError(
                f"--train {source.root}: expected other groups than those scored, got {both[0]!r} ({len(both)} such) "
                "in both. Held-out tiles set the limit for copies: choose --split or --train-split so that none is in "
                "both."
            )


def _common_mpp(sources: Sequence[Source], reals: Sequence[Source]) -> float:
    tiles = {f"{source.role} {source.root}": source.dataset.table["mpp"].to_numpy() for source in sources}
    return common_mpp(tiles, [f"{source.role} {source.root}" for source in reals])


@dataclass(frozen=True)
class Loaded:
    """Tiles in memory.

    Attributes:
        fakes: those compared or a superset of them. reals, controls: likewise.
        training: whole tiles, of any size from the common one on; training_views: a random crop of each, of the common
            size. None without them.
        ignored: role -> tiles left out for pixels without a label. notes: what was done to sizes, in lines.
    """

    fakes: TileSet
    reals: TileSet
    training: TileSet | None
    training_views: TileSet | None
    controls: dict[str, TileSet]
    ignored: dict[str, int]
    notes: tuple[str, ...]


def load(inputs: Inputs, seed: int, fakes_per_real: int = 4, most: int | None = None) -> Loaded:
    """Read the pixels.

    Args:
        inputs: opened. seed: of crops and choices. fakes_per_real: fakes read per real tile at most: those beyond the
            number compared serve the price of control. most: tiles compared, at most.

    Raises:
        UserError: when fewer than 16 tiles of either kind are left.
    """
    ignored: dict[str, int] = {}
    total = sum(len(source.dataset) for source in inputs.all)
    with progress("reading", total) as bar:

        def read(sources: Sequence[Source], name: str) -> TileSet:
            return _join(name, [read_whole(source, cropped=True) for source in sources], inputs)

        def read_whole(source: Source, *, cropped: bool = False) -> TileSet:
            tiles = _read(source, inputs.shape if cropped else None, inputs, seed, ignored)
            bar.advance(len(source.dataset))
            return tiles

        reals = read(inputs.reals, "real")
        wanted = fakes_per_real * min(len(reals), most or len(reals))
        few = _thin(inputs.fake, wanted, seed)
        fakes = read([few], inputs.fake.root.resolve().name)
        wholes = [read_whole(source) for source in inputs.training]
        training = _join("training", [_widen(part, wholes) for part in wholes], inputs) if wholes else None
        views = [_crops(part, inputs.shape, generator(seed, "crops", 1, place)) for place, part in enumerate(wholes)]
        training_views = _join("training", views, inputs) if wholes else None
        controls = {source.root.resolve().name: read([source], source.root.name) for source in inputs.controls}
    for side, role in ((fakes, "FAKE"), (reals, "--real")):
        _refuse_few(role, len(side), " without ignored pixels")
    notes = _size_notes(inputs)
    notes += [
        f"{count} tiles of {where} left out: they have pixels without a label"
        for where, count in ignored.items()
        if count
    ]
    return Loaded(fakes, reals, training, training_views, controls, ignored, tuple(notes))


def _thin(source: Source, most: int, seed: int) -> Source:
    """At most so many rows of a source, drawn at random and in their order."""
    if len(source.dataset) <= most:
        return source
    chosen = np.zeros(len(source.dataset), bool)
    chosen[generator(seed, "choice", 1).permutation(len(chosen))[:most]] = True
    return Source(source.role, source.dataset.where(chosen), source.split)


def _crops(tiles: TileSet, shape: tuple[int, int], rng: np.random.Generator) -> TileSet:
    return tiles.with_pixels(random_crops(tiles.pixels, shape, rng))


def _widen(tiles: TileSet, others: Sequence[TileSet]) -> TileSet:
    """Tiles brought to the largest height and width by their last rows and columns, which draw no edge of their own."""
    height, width = (max(other.shape[axis] for other in others) for axis in (0, 1))
    if tiles.shape == (height, width):
        return tiles
    more = ((0, 0), (0, height - tiles.shape[0]), (0, width - tiles.shape[1]), (0, 0))
    return tiles.with_pixels(np.pad(tiles.pixels, more[: tiles.pixels.ndim], mode="edge"))


def _read(source: Source, shape: tuple[int, int] | None, inputs: Inputs, seed: int, ignored: dict[str, int]) -> TileSet:
    """The tiles of a source without ignored pixels, cropped at random to `shape` first where one is given."""
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
        ignored[f"{source.role} {source.root}"] = len(rows) - len(kept)
        if len(kept) < len(rows):
            pixels, rows = pixels[kept], [rows[place] for place in kept]
            instances = None if instances is None else instances[kept]
    shifts = np.array(
        [np.nan if row["allocation_shift"] is None else row["allocation_shift"] for row in rows], np.float64
    )
    return TileSet(
        source.root.name,
        pixels,
        inputs.mpp,
        inputs.scheme,
        tuple(f"{row['sample_id']}" for row in rows),
        tuple(
            row["group_id"] if row["group_id"] is not None else f"{source.root.name}/{row['sample_id']}" for row in rows
        )
        if source.groups
        else None,
        shifts if np.isfinite(shifts).any() else None,
        instances,
    )


def _join(name: str, parts: Sequence[TileSet], inputs: Inputs) -> TileSet:
    """One set of several; ids and groups as they are, groups None unless all parts know theirs."""
    if len(parts) == 1:
        only = parts[0]
        return replace(only, name=name)
    groups = [part.groups for part in parts]
    instances = [part.instances for part in parts]
    known = None if any(of_part is None for of_part in groups) else tuple(g for of in groups if of for g in of)
    return TileSet(
        name,
        np.concatenate([part.pixels for part in parts]),
        inputs.mpp,
        inputs.scheme,
        tuple(tile for part in parts for tile in part.ids),
        known,
        instances=None
        if any(own is None for own in instances)
        else np.concatenate([own for own in instances if own is not None]),
    )


def _size_notes(inputs: Inputs) -> list[str]:
    height, width = inputs.shape
    notes = []
    for source in inputs.all:
        own = source.dataset.store.layout
        if (own.height, own.width) != inputs.shape:
            done = f"cropped at random to {height}x{width}, the common size"
            if source.role == "--train":
                done += ", for the table of controls; searched whole for copies"
            notes.append(f"{source.role} {source.root}: {own.height}x{own.width} {done}")
    return notes
