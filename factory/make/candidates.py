"""A pool of tiles that were drawn and labelled, to choose from: what each is made of, not the tiles themselves.

Tile i of a pool is that of the seed `row_seed(seed, i)`. A pool is a small Parquet file, kept as it grows, so that a
kill costs what is being drawn and a larger pool begins with a smaller one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.pool import run_tasks
from factory.core.seeds import row_seed
from factory.joint.hdgan import Hdgan, HdganConfig
from manifests.files import write_atomic
from manifests.measure import measure

CHUNK = 32
"""Tiles of a task, or fewer where there are workers for more tasks; what a kill costs at most, for each worker."""

_FINGERPRINT = b"pool_fingerprint"
_SHARE, _COUNT = pa.float64(), pa.int64()
POOL_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("member", _COUNT, nullable=False),
        pa.field("seed", pa.uint64(), nullable=False),
        *(pa.field(name, _SHARE) for name in ("tps_area", "tps_cells", "tissue_fraction")),
        pa.field("class_fractions", pa.list_(pa.float64())),
        pa.field("cells", _COUNT),
        *(pa.field(name, _SHARE) for name in ("uncertainty", "top_uncertainty", "ignored")),
    ]
)
"""Columns of a pool: place and seed, then composition as in a manifest, then the labeller's doubt."""

_ready: tuple[HdganConfig, str, Hdgan] | None = None


def joint_of(config: HdganConfig, device: str) -> Hdgan:
    """This process's generator and labeller; building them loads weights."""
    global _ready
    if _ready is None or _ready[:2] != (config, device):
        _ready = config, device, Hdgan(config, device)
    return _ready[2]


@dataclass(frozen=True)
class MeasureChunk:
    """The task of one chunk: seeds in, rows of the pool out."""

    config: HdganConfig
    device: str

    def __call__(
        self, chunk: int, members: Sequence[tuple[int, int]], tick: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Draw, label and measure tiles, given by place and seed."""
        del chunk
        rows, joint = [], joint_of(self.config, self.device)
        for member, seed in members:
            drawn = joint.draw(seed)
            doubt = {name: getattr(drawn, name) for name in ("uncertainty", "top_uncertainty", "ignored")}
            found = {"member": member, "seed": seed, **asdict(measure(drawn.tile)), **doubt}
            rows.append({name: found[name] for name in POOL_SCHEMA.names})
            tick()
        return rows


def fill_pool(
    path: Path,
    task: MeasureChunk,
    seed: int,
    size: int,
    fingerprint: str,
    *,
    workers: int,
    scheduler: str | None = None,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> pa.Table:
    """Draw what is missing of a pool; returns its first `size` tiles, in order.

    Args:
        path: of the file; one with another fingerprint, or damaged, is begun anew. task: what measures.
        seed: of the pool. fingerprint: of what decides what its tiles are. workers, scheduler, on_start, on_tiles: as
            for `write_missing`.
    """
    there = read_pool(path, fingerprint)
    known = set() if there is None else set(there["member"].to_pylist())
    missing = [member for member in range(size) if member not in known]
    size_of_task = max(1, min(CHUNK, -(-len(missing) // max(workers, 1))))
    chunks = [missing[at : at + size_of_task] for at in range(0, len(missing), size_of_task)]
    table, made = POOL_SCHEMA.empty_table() if there is None else there, 0
    on_start(size - len(missing), size)

    def members_of(chunk: int) -> list[tuple[int, int]]:
        return [(member, row_seed(seed, member)) for member in chunks[chunk]]

    for _, rows in run_tasks(
        task, range(len(chunks)), members_of, workers=workers, scheduler=scheduler, on_ticks=on_tiles
    ):
        made += len(rows)
        if scheduler:  # whose workers tell nothing until a task is done
            on_tiles(made)
        table = pa.concat_tables([table, pa.Table.from_pylist(rows, POOL_SCHEMA)]).sort_by("member")
        _write_pool(path, table, fingerprint)
    return table.slice(0, size)


def read_pool(path: Path, fingerprint: str) -> pa.Table | None:
    """A pool that is there; None where there is none, or one that is damaged or another's."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    known = (table.schema.metadata or {}).get(_FINGERPRINT)
    same = known == fingerprint.encode() and table.schema.remove_metadata().equals(POOL_SCHEMA)
    return pa.table(table.columns, schema=POOL_SCHEMA) if same else None


def _write_pool(path: Path, table: pa.Table, fingerprint: str) -> None:
    buffer = io.BytesIO()
    # One piece, so that the file is the same however often the work was stopped.
    marked = table.combine_chunks().replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
    pq.write_table(marked, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())
