"""Names of the files of a data set: a closed list. Whatever else lies in its folder is a stranger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from manifests.store import ARRAYS, STORE, shard_path

LEDGER = "ledger"
MANIFEST = "manifest.parquet"
INFO = "manifest.json"
"""The metadata of all rows once more, as other programs that write Parquet leave it out."""
PARTS = "manifest"
RUN = "run.yaml"
POINTS = "points.parquet"
"""Points without outlines, beside the manifest, written by `ingest` for point lists."""

REGIONS = "regions.json"
"""Agreement of region labels with the points that they were made of, written by `ingest --regions`."""

POOL = "pool.parquet"
"""Candidates from which `factory make --joint` chose its tiles."""

FILES = (INFO, MANIFEST, POINTS, POOL, REGIONS, RUN)
"""Files beside store and ledger; each may be missing."""

_STORE_FILES = (f"{STORE}/zarr.json", *(f"{STORE}/{spec.name}/zarr.json" for spec in ARRAYS))
_OF_SHARD = re.compile(
    "|".join(
        [
            rf"{LEDGER}/(\d{{6}}|[1-9]\d{{6,11}})\.json",
            *(
                re.escape(shard_path(spec.name, 0, spec.channels)).replace("/0/", r"/(0|[1-9]\d{0,11})/", 1)
                for spec in ARRAYS
            ),
        ]
    ),
    re.ASCII,
)
_PART = re.compile(rf"{PARTS}/part-\d{{6}}\.parquet", re.ASCII)


def record_name(shard: int) -> str:
    """Name of a shard's record, relative to the data set."""
    return f"{LEDGER}/{shard:06d}.json"


def shard_of(name: str) -> int | None:
    """The shard that a file belongs to; None where it belongs to none."""
    match = _OF_SHARD.fullmatch(name)
    return int(next(number for number in match.groups() if number)) if match else None


def is_own(name: str) -> bool:
    """Whether a file of that name, relative to the data set, can be one of its own."""
    return name in FILES or name in _STORE_FILES or _PART.fullmatch(name) is not None or shard_of(name) is not None


def own_names(root: Path, shards: int) -> Iterator[str]:
    """Names of the files of a finished data set with so many shards; of those that may be missing, the ones there."""
    yield from (name for name in FILES if (root / name).exists())
    for number in range(10**6):
        if not (root / (name := f"{PARTS}/part-{number:06d}.parquet")).exists():
            break
        yield name
    yield from _STORE_FILES
    for shard in range(shards):
        yield record_name(shard)
        yield from (shard_path(spec.name, shard, spec.channels) for spec in ARRAYS)
