"""Sample ids of a plan and the seeds that they are made of: a row with another seed is another tile, and is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa

from factory.core.seeds import row_seed
from manifests.errors import UserError
from manifests.limits import parse_json
from manifests.table import ROWS_PER_FILE

ORIGIN = b"pathology_plan"
"""Key of a plan's file metadata with what its sample ids are made of."""

_FLOAT_EXACT = 2**53
_LEAST_SEEDS = 4


def sample_name(identity: str, index: int, seed: int) -> str:
    """Return the sample id of a row: a hash of config, index and seed."""
    return "t-" + hashlib.sha256(f"{identity}:{index}:{seed}".encode()).hexdigest()[:16]


def check_seeds(path: Path, table: pa.Table, origin: bytes | None) -> None:
    """Refuse seeds that are not those of their sample ids; `origin`: the value of `ORIGIN` in the file's metadata."""
    _refuse_rounded_seeds(path, table)
    if origin is not None:
        _refuse_other_seeds(path, table, origin)


def plan_metadata(identity: str, seed: int, n: int) -> dict[bytes, bytes]:
    """File metadata of a plan of `n` rows, by which `check_seeds` knows which seed goes with which sample id."""
    return {ORIGIN: json.dumps({"identity": identity, "seed": seed, "n": n}).encode()}


def _refuse_other_seeds(path: Path, table: pa.Table, origin: bytes) -> None:
    """Refuse a row of a plan whose seed is not the one that its sample id was made of."""
    try:
        made_of = parse_json(origin)
        identity, start, n = str(made_of["identity"]), int(made_of["seed"]), int(made_of["n"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: expected the metadata of a plan, got {error!r} in it. Plan again.") from error
    seeds = [row_seed(start, index) for index in range(min(n, ROWS_PER_FILE))]
    known = {sample_name(identity, index, seed): seed for index, seed in enumerate(seeds)}
    for row, (name, seed) in enumerate(zip(table["sample_id"].to_pylist(), table["seed"].to_pylist(), strict=True)):
        if seed is not None and known.get(name, seed) != seed:
            raise UserError(
                f"{path}: row {row}: seed: expected {known[name]}, which goes with sample_id {name}, got {seed}. "
                "Take both from the original plan, or leave out sample_id."
            )


def _refuse_rounded_seeds(path: Path, table: pa.Table) -> None:
    """Refuse seeds that went through a float column and back: under their sample ids they would draw other tiles.

    Of the seeds of a plan, random numbers of 64 bits, about one in a thousand survives that unchanged.
    """
    seeds = {seed for seed in table["seed"].to_pylist() if seed is not None and seed > _FLOAT_EXACT}
    if len(seeds) >= _LEAST_SEEDS and all(int(float(seed)) == seed for seed in seeds):
        raise UserError(
            f"{path}: seed: expected the seeds that go with the sample ids, got numbers that a float column has "
            f"rounded, such as {max(seeds)}. Take the column from the original plan, or leave out seed and sample_id."
        )
