"""Requested distribution -> rows of a manifest: what every tile is to be, before any is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from factory.composition import Request
from factory.core.config import Config, digest, parse, read_yaml
from factory.core.seeds import Stream, generator, row_seed
from factory.distributions import Quantity, Values, parse_distribution, stratified
from manifests.errors import UserError
from manifests.labels import LabelScheme, get_scheme
from manifests.schema import METADATA_KEY, SCHEMA, SPLITS, info_of
from manifests.store import MAX_TILE_PX
from manifests.table import read_rows, rows_to_table

SIZE_STEP_PX = 32
MAX_TILES = 100_000_000
_QUANTITIES: tuple[Quantity, ...] = ("tps", "tissue", "cells", "tumour", "inflammation")
_REQUESTS = ["request_tps", "request_tissue", "request_cells", "request_fractions"]


class PlanConfig(Config):
    """What is asked of a data set.

    Attributes:
        scheme: a label scheme by name, or a YAML file with one.
        n: number of tiles. size: height and width in pixels, multiples of 32. mpp: micrometres per pixel.
        tps, tissue, cells: requested distributions (see `factory.distributions`); None leaves it to the generator.
        tumour, inflammation: shares of the tissue, as distributions; for schemes that have those classes.
        debias: with ``tps: like:...``, ask for what makes both together flat.
        split: shares of train, val, test. seed: root of every random draw.
    """

    scheme: str = "pdl1"
    n: int = Field(default=100, gt=0, le=MAX_TILES)
    size: tuple[int, int] = (512, 1024)
    mpp: float = Field(default=0.5, gt=0, le=20)
    tps: str | None = None
    tissue: str | None = None
    cells: str | None = None
    tumour: str | None = None
    inflammation: str | None = None
    debias: bool = False
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("tps", "tissue", "cells", "tumour", "inflammation", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("size")
    @classmethod
    def _whole_steps(cls, size: tuple[int, int]) -> tuple[int, int]:
        for length in size:
            if length < SIZE_STEP_PX or length % SIZE_STEP_PX:
                below = max(SIZE_STEP_PX, length // SIZE_STEP_PX * SIZE_STEP_PX)
                raise ValueError(f"expected multiples of {SIZE_STEP_PX} (use {below} or {below + SIZE_STEP_PX})")
        if size[0] * size[1] > MAX_TILE_PX:
            raise ValueError(f"expected at most {MAX_TILE_PX} pixels")
        return size

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(split) < 0 or abs(sum(split) - 1) > 1e-6:
            raise ValueError("expected three shares of train, val and test that sum to 1")
        return split


def load_scheme(name: str) -> LabelScheme:
    """A shipped label scheme by name, or one from a YAML file."""
    if name.endswith((".yaml", ".yml")):
        return LabelScheme.from_dict(read_yaml(Path(name)))
    return get_scheme(name)


def plan(config: PlanConfig) -> pa.Table:
    """Draw the requests of a data set.

    Returns:
        A manifest with null in the achieved columns; rows in random order of their requests.

    Raises:
        UserError: when the scheme has no such quantity or a distribution is malformed.
    """
    scheme = load_scheme(config.scheme)
    _check_scheme(config, scheme)
    asked = {quantity: _draw(config, quantity) for quantity in _QUANTITIES}
    cells = None if asked["cells"] is None else np.floor(asked["cells"] + 0.5).astype(np.int64)
    fractions = _fractions(config, scheme, asked)
    strata = next((asked[name] for name in ("tps", "tissue", "cells") if asked[name] is not None), None)
    splits = _assign_splits(config, config.n, strata)
    identity = digest(config)
    rows = []
    for index in range(config.n):
        seed = row_seed(config.seed, index)
        sample_id = sample_name(identity, index, seed)
        rows.append(
            {
                "sample_id": sample_id,
                "index": index,
                "split": splits[index],
                "source": "synthetic",
                "group_id": sample_id,  # every synthetic tile is a slide of its own: its stain, its light
                "height": config.size[0],
                "width": config.size[1],
                "mpp": config.mpp,
                "label_scheme": scheme.name,
                "seed": seed,
                "request_tps": _item(asked["tps"], index),
                "request_tissue": _item(asked["tissue"], index),
                "request_cells": None if cells is None else int(cells[index]),
                "request_fractions": None if fractions is None else fractions[index].tolist(),
            }
        )
    return rows_to_table(rows)


def sample_name(identity: str, index: int, seed: int) -> str:
    """The sample id of a row: a hash of config, index and seed."""
    return "t-" + hashlib.sha256(f"{identity}:{index}:{seed}".encode()).hexdigest()[:16]


def request_of(row: dict[str, Any], scheme: LabelScheme) -> Request:
    """What a manifest row asks of its tile."""
    fractions = row["request_fractions"]
    return Request(
        height=row["height"],
        width=row["width"],
        mpp=row["mpp"],
        scheme=scheme,
        tps=row["request_tps"],
        tissue=row["request_tissue"],
        cells=row["request_cells"],
        fractions=None if fractions is None else tuple(fractions),
    )


def read_plan(path: Path, config: PlanConfig) -> tuple[pa.Table, LabelScheme]:
    """Read a plan that a person may have edited, or made with another tool.

    One request column is enough; whole columns that are missing (or all null) are filled in as `plan` would, from
    `config`. Rows are numbered in the order of the file, so rows may be removed, sorted or copied from several plans.

    Args:
        path: a Parquet file with columns of `manifests.SCHEMA`.
        config: supplies scheme, size, mpp, split and seed where the file has none.

    Returns:
        The rows, and the label scheme that they share.

    Raises:
        UserError: naming the row and the column that does not fit.
    """
    table, schema = read_rows(path, lambda table: _fill(table, config))
    if not table.num_rows:
        raise UserError(f"{path}: expected at least one row, got none.")
    for name in ("height", "width", "mpp", "label_scheme"):
        values = table[name].unique().to_pylist()
        if len(values) > 1:
            raise UserError(f"{path}: {name}: expected one value, got {values[:3]}. Make a data set for each.")
    first = table.slice(0, 1).to_pylist()[0]
    parse(PlanConfig, {"size": (first["height"], first["width"]), "mpp": first["mpp"]}, str(path))
    own = info_of(schema, str(path)).label_schemes if METADATA_KEY in (schema.metadata or {}) else ()
    known = {scheme.name: scheme for scheme in (load_scheme(config.scheme), *own)}
    name = first["label_scheme"]
    return table, known[name] if name in known else get_scheme(name)


def _fill(table: pa.Table, config: PlanConfig) -> pa.Table:
    """Give the columns of a plan that are missing altogether the values that `plan` would give."""
    if all(table[name].null_count == len(table) for name in _REQUESTS):
        raise UserError(f"--manifest: expected at least one of the columns {', '.join(_REQUESTS)}, got none.")
    n = table.num_rows
    identity = digest([config.model_dump(mode="json"), str(table.select(_REQUESTS).to_pylist())])
    seeds = [row_seed(config.seed, index) for index in range(n)]
    defaults: dict[str, Callable[[], list[Any]]] = {
        "index": lambda: list(range(n)),
        "seed": lambda: seeds,
        "sample_id": lambda: [sample_name(identity, index, seed) for index, seed in enumerate(seeds)],
        "source": lambda: ["synthetic"] * n,
        "split": lambda: _assign_splits(config, n, None),
        "height": lambda: [config.size[0]] * n,
        "width": lambda: [config.size[1]] * n,
        "mpp": lambda: [config.mpp] * n,
        "label_scheme": lambda: [load_scheme(config.scheme).name] * n,
    }
    for name, values in defaults.items():
        if name == "index" or table[name].null_count == n:
            position = table.schema.get_field_index(name)
            table = table.set_column(position, SCHEMA.field(name), pa.array(values(), SCHEMA.field(name).type))
        elif table[name].null_count:
            row = pc.index(pc.is_null(table[name]), True).as_py()
            raise UserError(f"--manifest: row {row}: {name}: expected a value in every row or in none, got nothing.")
    if table["group_id"].null_count == n:
        table = table.set_column(table.schema.get_field_index("group_id"), "group_id", table["sample_id"])
    return table


def _draw(config: PlanConfig, quantity: Quantity) -> Values | None:
    """Stratified draws of one quantity, None where nothing is asked."""
    text = getattr(config, quantity)
    if text is None:
        return None
    debias_n = config.n if config.debias and quantity == "tps" else None
    distribution = parse_distribution(text, quantity, debias_n=debias_n)
    return stratified(distribution, config.n, generator(config.seed, Stream.DRAW, _QUANTITIES.index(quantity)))


def _check_scheme(config: PlanConfig, scheme: LabelScheme) -> None:
    """Refuse what the scheme cannot express."""
    needs = {
        "tps": ("tumour_positive", "positive and negative tumour classes"),
        "tumour": ("tumour_positive", "tumour classes"),
        "inflammation": ("inflammation", "an inflammation class"),
        "tissue": ("air", "an air class"),
    }
    for name, (role, what) in needs.items():
        if getattr(config, name) is not None and not scheme.ids(role):
            raise UserError(f"--{name}: expected a scheme with {what}, got {scheme.name}. Leave --{name} out.")
    if config.debias and config.tps is None:
        raise UserError("--debias: expected --tps like:DATASET beside it, got no --tps.")


def _fractions(config: PlanConfig, scheme: LabelScheme, asked: dict[Quantity, Values | None]) -> Values | None:
    """Class shares of all pixels, float64 [n, C], from tissue and the shares of tumour and inflammation in it.

    Raises:
        UserError: when tumour and inflammation together exceed the tissue, naming the first row.
    """
    positive, negative, inflamed, air = (
        scheme.ids(role) for role in ("tumour_positive", "tumour_negative", "inflammation", "air")
    )
    if asked["tumour"] is None and asked["inflammation"] is None:
        return None

    def share_of(quantity: Quantity, default: float) -> Values:
        drawn = asked[quantity]
        return np.full(config.n, default) if drawn is None else drawn

    tissue, tps = share_of("tissue", 1.0), share_of("tps", 0.5)
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
    """Splits in the asked shares, spread evenly over the requests: each split sees the whole distribution.

    In the order of the requests, every row goes to the split that is furthest behind its share.
    """
    order = np.arange(n) if strata is None else np.argsort(strata, kind="stable")
    shares = np.array(config.split)
    given = np.zeros(len(SPLITS))
    splits = [""] * n
    for position, index in enumerate(order, start=1):
        chosen = int(np.argmax(shares * position - given))
        given[chosen] += 1
        splits[index] = SPLITS[chosen]
    return splits


def _item(values: Values | None, index: int) -> float | None:
    return None if values is None else float(values[index])
