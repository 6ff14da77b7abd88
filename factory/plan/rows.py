"""Rows of a manifest from requested distributions: the request of every tile, before any is drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from factory.core.config import Config, digest, parse
from factory.core.seeds import Stream, generator, row_seed
from factory.plan.class_shares import decided_by_shares, draw_cell_shares, draw_shares
from factory.plan.distributions import Distribution, Quantity, Values, is_like, parse_distribution, stratified
from factory.plan.origin import ORIGIN, check_seeds
from factory.plan.origin import sample_name as sample_name
from factory.plan.request import Request
from factory.plan.scheme_file import load_scheme as load_scheme
from manifests.errors import UserError
from manifests.labels import LabelScheme, get_scheme
from manifests.schema import METADATA_KEY, SCHEMA, SPLITS, conform, validate
from manifests.store import MAX_TILE_PX
from manifests.table import INFO, find_info, read_columns, read_info

SIZE_STEP_PX = 32
MAX_TILES = 10_000_000
MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel that a tile can have: finer than any light microscope, coarser than any overview."""

_VALUES_AT_ONCE = 4096
"""Values of a column that are Python objects at the same time."""

_QUANTITIES: tuple[Quantity, ...] = ("tps", "tissue", "cells", "tumour", "inflammation")
_PLANNED = ["sample_id", "index", "split", "source", "group_id", "height", "width", "mpp", "label_scheme", "seed"]
REQUESTS = ["request_tps", "request_tissue", "request_cells", "request_fractions", "request_cell_fractions"]


class PlanConfig(Config):
    """The requested composition of a data set.

    Attributes:
        scheme: a label scheme by name, or a YAML file with one.
        n: number of tiles. size: height and width in pixels, multiples of 32. mpp: micrometres per pixel.
        tps, tissue, cells: requested distributions (see `factory.plan.distributions`); None leaves it to the generator.
        tumour, inflammation: shares of the tissue, as distributions; for schemes that have those classes.
        shares: class -> distribution of its share of all pixels; the other classes divide the rest as the mask
            generator draws them. cell_shares: the same of the cells, for schemes with types of cells.
        debias: for every quantity requested ``like:`` a data set, request what makes both together uniform.
        split: shares of train, val, test. seed: root of every random draw.
    """

    added: ClassVar[frozenset[str]] = frozenset({"shares", "cell_shares"})

    scheme: str = "pdl1"
    n: int = Field(default=100, gt=0, le=MAX_TILES)
    size: tuple[int, int] = (512, 1024)
    mpp: float = Field(default=0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    tps: str | None = None
    tissue: str | None = None
    cells: str | None = None
    tumour: str | None = None
    inflammation: str | None = None
    debias: bool = False
    shares: dict[str, str] = Field(default_factory=dict)
    cell_shares: dict[str, str] = Field(default_factory=dict)
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("tps", "tissue", "cells", "tumour", "inflammation", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("shares", "cell_shares", mode="before")
    @classmethod
    def _as_texts(cls, values: Any) -> Any:
        return {key: cls._as_text(value) for key, value in values.items()} if isinstance(values, Mapping) else values

    @field_validator("size")
    @classmethod
    def _whole_steps(cls, size: tuple[int, int]) -> tuple[int, int]:
        if any(length < SIZE_STEP_PX or length % SIZE_STEP_PX for length in size):
            below = [max(SIZE_STEP_PX, length // SIZE_STEP_PX * SIZE_STEP_PX) for length in size]
            above = [low if low == length else low + SIZE_STEP_PX for low, length in zip(below, size, strict=True)]
            got, lower, upper = (_size_text(each) for each in (size, below, above))
            raise ValueError(f"expected multiples of {SIZE_STEP_PX}, got {got}. Use {lower} or {upper}")
        if size[0] * size[1] > MAX_TILE_PX:
            raise ValueError(f"expected at most {MAX_TILE_PX} pixels")
        return size

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        return check_shares(split)


def _size_text(size: Sequence[int]) -> str:
    """Height and width as they are typed: ``512x1024``, and ``512`` for a square."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def check_shares(split: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return shares of train, val and test; a ValueError where one is negative or their sum is not 1."""
    if min(split) < 0 or abs(sum(split) - 1) > 1e-6:
        raise ValueError("expected three shares of train, val and test that sum to 1")
    return split


def plan(config: PlanConfig, scheme: LabelScheme | None = None) -> pa.Table:
    """Draw the requests of a data set.

    Args:
        config: the request. scheme: the one that it names, where that is not a shipped one.

    Returns:
        A manifest with null in the achieved columns; rows in random order of their requests.
    """
    scheme = scheme or load_scheme(config.scheme)
    _check_scheme(config, scheme)
    asked = {quantity: _draw(config, quantity) for quantity in _QUANTITIES}
    shares = draw_shares(config.shares, scheme, config.n, config.seed)
    cell_shares = draw_cell_shares(config.cell_shares, scheme, config.n, config.seed)
    fractions = _fractions(config, scheme, asked) if shares is None else shares
    strata = next((asked[name] for name in ("tps", "tissue", "cells") if asked[name] is not None), None)
    n, identity = config.n, digest(config)
    seeds = _seeds(config.seed, n)
    sample_ids = _sample_ids(identity, seeds)
    columns: dict[str, Any] = {
        "sample_id": sample_ids,
        "index": np.arange(n),
        "split": _assign_splits(config, n, strata),
        "source": pa.repeat("synthetic", n),
        "group_id": sample_ids,  # every synthetic tile is a slide of its own, with its stain and light
        "height": np.full(n, config.size[0]),
        "width": np.full(n, config.size[1]),
        "mpp": np.full(n, config.mpp),
        "label_scheme": pa.repeat(scheme.name, n),
        "seed": seeds,
        "request_tps": asked["tps"],
        "request_tissue": asked["tissue"],
        "request_cells": None if asked["cells"] is None else np.floor(asked["cells"] + 0.5).astype(np.int64),
    }
    ends = np.arange(n + 1, dtype=np.int32) * len(scheme)
    for name, values in {"request_fractions": fractions, "request_cell_fractions": cell_shares}.items():
        if values is not None:
            columns[name] = pa.ListArray.from_arrays(ends, pa.array(values.ravel(), from_pandas=True))  # NaN is null
    table = conform(pa.table({name: values for name, values in columns.items() if values is not None}), "plan")
    validate(table, "plan")
    return table


def _seeds(seed: int, n: int) -> npt.NDArray[np.uint64]:
    return np.fromiter((row_seed(seed, index) for index in range(n)), np.uint64, n)


def _sample_ids(identity: str, seeds: npt.NDArray[np.uint64]) -> pa.ChunkedArray:
    starts = range(0, len(seeds), _VALUES_AT_ONCE)
    parts = (enumerate(seeds[start : start + _VALUES_AT_ONCE].tolist(), start) for start in starts)
    ids = [pa.array([sample_name(identity, index, seed) for index, seed in part]) for part in parts]
    return pa.chunked_array([pa.concat_arrays(ids)])


def request_of(row: dict[str, Any], scheme: LabelScheme) -> Request:
    """Return the request in a manifest row."""
    fractions, of_cells = row["request_fractions"], row.get("request_cell_fractions")
    return Request(
        height=row["height"],
        width=row["width"],
        mpp=row["mpp"],
        scheme=scheme,
        tps=row["request_tps"],
        tissue=row["request_tissue"],
        cells=row["request_cells"],
        fractions=None if fractions is None else tuple(fractions),
        cell_fractions=None if of_cells is None else tuple(of_cells),
    )


@dataclass(frozen=True)
class Draft:
    """A plan as it is in its file, perhaps edited or made with another tool.

    Attributes:
        path: of the file. table: columns of `manifests.SCHEMA`, null where the file has none, unchecked.
        scheme: the label scheme that all rows name; None where they name none.
    """

    path: Path
    table: pa.Table
    scheme: LabelScheme | None

    def has(self, name: str) -> bool:
        """Whether the file has a value in that column."""
        return bool(self.table[name].null_count < len(self.table))


def read_draft(path: Path) -> Draft:
    """Read a Parquet file with columns of `manifests.SCHEMA`.

    Raises:
        UserError: for a file that is damaged, empty, or of several label schemes.
    """
    table, schema = read_columns(path)
    if not table.num_rows:
        raise UserError(f"{path}: expected at least one row, got none.")
    check_seeds(path, table, (schema.metadata or {}).get(ORIGIN))
    draft = Draft(path, table, None)
    if not draft.has("label_scheme"):
        return draft
    name = _one_value(draft, "label_scheme")
    info = find_info(path, schema) if METADATA_KEY in (schema.metadata or {}) else read_info(path.parent / INFO)
    known = {scheme.name: scheme for scheme in (info.label_schemes if info else ())}
    return replace(draft, scheme=known[name] if name in known else get_scheme(name))


def complete(draft: Draft, config: PlanConfig, scheme: LabelScheme) -> pa.Table:
    """Fill in and check the rows of a draft.

    One request column is enough; whole columns that are missing (or all null) are filled in as `plan` would, from
    `config`. Rows are numbered in the order of the file, so rows may be removed, sorted or copied from several plans.

    Args:
        draft: from `read_draft`.
        config: supplies size, mpp, split and seed where the file has none.
        scheme: the label scheme where the file names none.

    Raises:
        UserError: naming the row and the column that does not fit.
    """
    table = _fill(draft, config, scheme)
    validate(table, str(draft.path))
    table = conform(table.select([*_PLANNED, *REQUESTS]), str(draft.path))  # without achieved values of other tiles
    height, width, mpp = (_one_value(replace(draft, table=table), name) for name in ("height", "width", "mpp"))
    parse(PlanConfig, {"size": (height, width), "mpp": mpp}, str(draft.path))
    return table


def _one_value(draft: Draft, name: str) -> Any:
    """Return the value that a column has in all rows."""
    values = draft.table[name].unique().to_pylist()
    if len(values) > 1:
        raise UserError(f"{draft.path}: {name}: expected one value, got {values[:3]}. Make a data set for each.")
    return values[0]


def _fill(draft: Draft, config: PlanConfig, scheme: LabelScheme) -> pa.Table:
    """Give the columns of a plan that are missing altogether the values that `plan` would give."""
    if not any(draft.has(name) for name in REQUESTS):
        raise UserError(f"{draft.path}: expected at least one of the columns {', '.join(REQUESTS)}, got none.")
    table, n = draft.table, len(draft.table)
    identity = digest([config.model_dump(mode="json"), requests_digest(table)])
    seeds = _seeds(config.seed, n)
    defaults: dict[str, Callable[[], Any]] = {
        "index": lambda: range(n),
        "seed": lambda: seeds,
        "sample_id": lambda: _sample_ids(identity, seeds),
        "source": lambda: ["synthetic"] * n,
        "split": lambda: _assign_splits(config, n, _strata(table)),
        "height": lambda: [config.size[0]] * n,
        "width": lambda: [config.size[1]] * n,
        "mpp": lambda: [config.mpp] * n,
        "label_scheme": lambda: [scheme.name] * n,
    }
    for name, values in defaults.items():
        if name in ("index", "source") or not draft.has(name):
            table = with_column(table, name, values())
        elif table[name].null_count:
            row = pc.index(pc.is_null(table[name]), True).as_py()
            raise UserError(f"{draft.path}: row {row}: {name}: expected a value in every row or in none, got nothing.")
    return table if draft.has("group_id") else with_column(table, "group_id", table["sample_id"])


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """Rows with other values in one column; plain values become those of the column's type in `SCHEMA`."""
    field = SCHEMA.field(name)
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)
    return table.set_column(table.schema.get_field_index(name), field, array)


def _strata(table: pa.Table) -> Values | None:
    """The first request that every row has, for splits that see all of it."""
    for name in ("request_tps", "request_tissue", "request_cells"):
        if not table[name].null_count:
            return np.asarray(table[name].to_numpy(), np.float64)
    return None


def requests_digest(table: pa.Table) -> str:
    """Digest every value of a plan, column by column: sha256, the same wherever the plan was read from."""
    named = {name: table[name] for name in table.column_names if table[name].null_count < len(table)}
    return digest({name: _digest_of(column) for name, column in named.items()})


def _digest_of(column: pa.ChunkedArray) -> str:
    """`digest` of the text of a column as a list, some values at a time."""
    found, comma = hashlib.sha256(b'"['), ""
    for start in range(0, len(column), _VALUES_AT_ONCE):
        text = comma + repr(column.slice(start, _VALUES_AT_ONCE).to_pylist())[1:-1]
        found.update(json.dumps(text)[1:-1].encode())
        comma = ", "
    found.update(b']"')
    return found.hexdigest()


def _draw(config: PlanConfig, quantity: Quantity) -> Values | None:
    """Draw one quantity, stratified; None where it is not requested."""
    text = getattr(config, quantity)
    if text is None:
        return None
    debias_n = config.n if config.debias and is_like(text) else None
    return _stratified(config, parse_distribution(text, quantity, debias_n=debias_n), quantity)


def _stratified(config: PlanConfig, distribution: Distribution, quantity: Quantity) -> Values:
    """`config.n` draws with the random stream of that quantity."""
    return stratified(distribution, config.n, generator(config.seed, Stream.DRAW, _QUANTITIES.index(quantity)))


def _check_scheme(config: PlanConfig, scheme: LabelScheme) -> None:
    """Refuse quantities that the scheme has no classes for."""
    needs = {
        "tps": ("tumour_positive", "positive and negative tumour classes"),
        "tumour": ("tumour_positive", "tumour classes"),
        "inflammation": ("inflammation", "an inflammation class"),
        "tissue": ("air", "an air class"),
    }
    for name, (role, what) in needs.items():
        if getattr(config, name) is not None and not scheme.ids(role):
            raise UserError(f"--{name}: expected a scheme with {what}, got {scheme.name}. Leave --{name} out.")
    _refuse_decided(config, scheme)
    if config.debias and not any(is_like(getattr(config, name) or "") for name in _QUANTITIES):
        raise UserError("--debias: expected --tps, --tissue or --cells like:DATASET beside it, got none.")


def _refuse_decided(config: PlanConfig, scheme: LabelScheme) -> None:
    """Refuse quantities that shares of classes decide."""
    decided = decided_by_shares(config.shares, scheme)
    for name in sorted(decided):
        if getattr(config, name) is not None:
            classes = ", ".join(config.shares)
            raise UserError(f"--{name}: expected none beside --share of {classes}, which decides it. Leave one out.")


def _fractions(config: PlanConfig, scheme: LabelScheme, asked: dict[Quantity, Values | None]) -> Values | None:
    """Class shares of all pixels, float64 [n, C], from tissue and the shares of tumour and inflammation in it.

    Without a requested TPS the tumour is divided by one drawn from 0 to 1, as a mask generator would.
    """
    positive, negative, inflamed, air = (
        scheme.ids(role) for role in ("tumour_positive", "tumour_negative", "inflammation", "air")
    )
    if asked["tumour"] is None and asked["inflammation"] is None:
        return None

    def share_of(quantity: Quantity, default: float) -> Values:
        drawn = asked[quantity]
        return np.full(config.n, default) if drawn is None else drawn

    tissue, tps = share_of("tissue", 1.0), asked["tps"]
    if tps is None:
        tps = _stratified(config, parse_distribution("0-1", "tps"), "tps")
    tumour, inflammation = share_of("tumour", 0.0), share_of("inflammation", 0.0)
    over = np.flatnonzero(tumour + inflammation > 1 + 1e-9)
    if over.size:
        row = over[0]
        raise UserError(
            f"--tumour, --inflammation: expected shares of the tissue that sum to at most 1, got {tumour[row]:.3g} + "
            f"{inflammation[row]:.3g} in row {row}. Narrow one of them."
        )
    shares = np.zeros((config.n, len(scheme)))
    rest = [label.id for label in scheme.classes if label.id not in {*positive, *negative, *inflamed, *air}]
    for ids, share in (
        (positive, tissue * tumour * tps),
        (negative, tissue * tumour * (1 - tps)),
        (inflamed, tissue * inflammation),
        (air, 1 - tissue),
        (rest[:1], np.maximum(tissue * (1 - tumour - inflammation), 0.0)),
    ):
        for label in ids:
            shares[:, label] = share / len(ids)
    return np.clip(shares, 0.0, 1.0)


def _assign_splits(config: PlanConfig, n: int, strata: Values | None) -> list[str]:
    """Assign splits in the configured shares, so that each has the whole distribution of requests."""
    order = np.arange(n) if strata is None else np.argsort(strata, kind="stable")
    return spread_splits(config.split, order)


def spread_splits(split: Sequence[float], order: npt.NDArray[np.intp]) -> list[str]:
    """Assign each of n rows, in an order of them, to the split that is furthest behind its share.

    Args:
        split: shares of train, val, test. order: a permutation of 0..n-1.
    """
    shares = np.array(split)
    given = np.zeros(len(SPLITS))
    splits = [""] * len(order)
    for position, index in enumerate(order, start=1):
        chosen = int(np.argmax(shares * position - given))
        given[chosen] += 1
        splits[index] = SPLITS[chosen]
    return splits
