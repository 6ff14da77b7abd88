"""Fakes against the real image of the same mask: SSIM, FSIM and GMSD of the pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factory.core.console import progress
from factory.core.encoding import parquet_bytes
from factory.core.leaks import seen_in_images
from factory.core.statistics import Floats, enough_groups
from factory.score.image_quality import Quality, image_quality
from factory.score.settings import generator
from factory.score.sources import Inputs, Source
from manifests.errors import UserError

Measure = Literal["ssim", "fsim", "gmsd"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""The fields of `Quality`."""
LOWER_IS_BETTER: frozenset[Measure] = frozenset({"gmsd"})
RESAMPLES = 2000

_COLUMNS = (
    "sample_id", "index", "group_id", "height", "width", "instance_sha256", "semantic_sha256",
    "source_uri", "source_x", "source_y", "source_level",
)  # fmt: skip
Row = dict[str, Any]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """Rows of a fake and of the real tile of the same mask, and the real tile's data set; no pixels yet."""

    fake: Row
    real: Row
    source: Source


@dataclass(frozen=True)
class Pairing:
    """The pairs in the order of the fakes, and notes on tiles without a partner and on leaks, in lines.

    Attributes:
        seen: groups of the pairs whose images the fakes' generator was trained on or fitted to.
    """

    pairs: tuple[Pair, ...]
    seen: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PairQuality:
    """Sample ids, group and measures of one pair."""

    fake: str
    real: str
    group: str
    quality: Quality


@dataclass(frozen=True)
class MeasureFigures:
    """Mean of one measure over all pairs, its 95 % interval, and the places of its best, median and worst pair."""

    name: Measure
    mean: float
    interval: tuple[float, float]
    extremes: Mapping[str, int]


@dataclass(frozen=True)
class PairedFigures:
    """Results of `factory score --paired`.

    Attributes:
        pairs: of each pair. measures: over all pairs. notes: those of the pairing.
        by_group: whether the intervals draw whole groups. groups: number of groups of the pairs.
        shown: fake and real image of the extreme pairs, by place.
    """

    pairs: tuple[PairQuality, ...]
    measures: tuple[MeasureFigures, ...]
    notes: tuple[str, ...]
    by_group: bool
    groups: int
    shown: dict[int, tuple[Image, Image]]


def find_pairs(inputs: Inputs) -> Pairing:
    """Finds the real tile of each fake's mask, by the digest of its instances, or of its classes without instances.

    Where several real tiles have that mask, as empty masks do, or none has, the place in the source image decides.

    Raises:
        UserError: when no fake has a partner.
    """
    by_mask: dict[tuple[Any, ...], list[tuple[Row, Source]]] = {}
    by_place: dict[tuple[Any, ...], list[tuple[Row, Source]]] = {}
    for source in inputs.reals:
        for row in _rows(source):
            by_mask.setdefault(_mask_of(row), []).append((row, source))
            if place := _place_of(row):
                by_place.setdefault(place, []).append((row, source))
    pairs, ambiguous = [], 0
    fakes = _rows(inputs.fake)
    for fake in fakes:
        same_mask, same_place = by_mask.get(_mask_of(fake), []), by_place.get(_place_of(fake), [])
        if len(same_mask) > 1:
            places = {id(row) for row, _ in same_place}
            same_mask = [one for one in same_mask if id(one[0]) in places]
            ambiguous += len(same_mask) != 1
            found = same_mask
        else:
            found = same_mask or same_place
        if len(found) == 1:
            pairs.append(Pair(fake, *found[0]))
    if not pairs:
        raise UserError(
            f"{inputs.fake.root}: expected fakes on the masks of the real tiles, got none of {len(fakes)}. Draw some "
            f"with factory render {inputs.reals[0].root} --split {inputs.reals[0].split}, or leave --paired out."
        )
    groups = {pair.real["group_id"] for pair in pairs if pair.real["group_id"] is not None}
    seen = tuple(seen_in_images(inputs.fake.dataset.info.training_sources, groups))
    reals = sum(len(source.dataset) for source in inputs.reals)
    return Pairing(tuple(pairs), seen, tuple(_notes(pairs, len(fakes), ambiguous, reals, seen)))


def _rows(source: Source) -> list[Row]:
    rows: list[Row] = source.dataset.table.select(_COLUMNS).to_pylist()
    return rows


def _mask_of(row: Row) -> tuple[Any, ...]:
    """Returns a key of the mask; digests are of bytes, so the size is part of it."""
    size = row["height"], row["width"]
    has_instances = row["instance_sha256"] != _no_instances(*size)
    return (*size, row["instance_sha256"]) if has_instances else (*size, "classes", row["semantic_sha256"])


@lru_cache
def _no_instances(height: int, width: int) -> str:
    return hashlib.sha256(bytes(4 * height * width)).hexdigest()


def _place_of(row: Row) -> tuple[Any, ...]:
    """Returns image and position of a tile; empty where they are unknown."""
    if row["source_uri"] is None or row["source_x"] is None or row["source_y"] is None:
        return ()
    return tuple(row[name] for name in ("source_uri", "source_x", "source_y", "source_level", "height", "width"))


def measure_pairs(pairing: Pairing, inputs: Inputs, seed: int) -> PairedFigures:
    """Reads the images of all pairs and measures each; `seed` is that of the intervals."""
    measured = []
    with progress("pairs", len(pairing.pairs), unit="pairs") as bar:
        for pair in pairing.pairs:
            group = pair.real["group_id"] or f"{pair.source.root.name}/{pair.real['sample_id']}"
            quality = image_quality(*_read(pair, inputs))
            measured.append(PairQuality(pair.fake["sample_id"], pair.real["sample_id"], group, quality))
            bar.advance()
    groups = [one.group for one in measured]
    measures = tuple(
        _figures(name, np.array([getattr(one.quality, name) for one in measured]), groups, generator(seed, "pairs", at))
        for at, name in enumerate(MEASURES)
    )
    shown = {place for one in measures for place in one.extremes.values()}
    return PairedFigures(
        tuple(measured),
        measures,
        pairing.notes,
        enough_groups(groups),
        len(set(groups)),
        {place: _read(pairing.pairs[place], inputs) for place in sorted(shown)},
    )


def _read(pair: Pair, inputs: Inputs) -> tuple[Image, Image]:
    """Returns fake and real image of a pair."""
    fake: Image = inputs.fake.dataset.store.read(pair.fake["index"], "image")
    real: Image = pair.source.dataset.store.read(pair.real["index"], "image")
    return fake, real


def _figures(name: Measure, values: Floats, groups: Sequence[str], rng: np.random.Generator) -> MeasureFigures:
    order = np.argsort(values if name in LOWER_IS_BETTER else -values, kind="stable")
    places = {"best": 0, "median": len(order) // 2, "worst": -1}
    extremes = {which: int(order[place]) for which, place in places.items()}
    return MeasureFigures(name, float(values.mean()), mean_interval(values, groups, rng), extremes)


def mean_interval(
    values: Floats, groups: Sequence[str], rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a mean over tiles; with five groups or more, whole groups are drawn."""
    names = groups if enough_groups(groups) else range(len(values))
    _, members = np.unique(np.asarray(names), return_inverse=True)
    counts = np.bincount(members)
    sums = np.bincount(members, values)
    drawn = rng.integers(0, len(counts), (resamples, len(counts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def _notes(pairs: Sequence[Pair], fakes: int, ambiguous: int, reals: int, seen: Sequence[str]) -> Iterator[str]:
    alone = fakes - len(pairs)
    if alone:
        several = f", {ambiguous} of them because several real tiles have their mask" if ambiguous else ""
        yield f"{alone} of {fakes} fakes left out of the pairs: no one real tile has their mask{several}"
    without = reals - len({(pair.source.root, pair.real["sample_id"]) for pair in pairs})
    if without:
        yield f"{without} of {reals} real tiles have no fake on their mask"
    if seen:
        yield (
            f"the fakes' generator was trained on or fitted to images of {len(seen)} groups of the pairs "
            f"({seen[0]}, ...): likeness to these says nothing of images that it never saw"
        )


def pairs_table(figures: PairedFigures) -> bytes:
    """Returns a Parquet file with a row per pair: fake, real, group and the measures."""
    rows = [
        {"fake": pair.fake, "real": pair.real, "group": pair.group, **asdict(pair.quality)} for pair in figures.pairs
    ]
    return parquet_bytes(pa.Table.from_pylist(rows))
