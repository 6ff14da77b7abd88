"""Shards that are still missing from a run folder: made by a task, on this machine or a cluster, in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from factory.core.runs import RunSpec, open_run
from manifests.ledger import ShardRecord


def write_missing(
    spec: RunSpec,
    task: Callable[[int, Any, Callable[[], None]], ShardRecord],
    payload_of: Callable[[int], Any],
    *,
    workers: int,
    scheduler: str | None = None,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> tuple[pa.Table, int]:
    """Write what is missing of a data set.

    Args:
        spec: what is written, and where.
        task: writes and publishes a shard, given its number, its payload and what to call after each tile; picklable.
        payload_of: what the task needs to know of a shard.
        workers: processes of this machine.
        scheduler: address of a dask scheduler to use instead.
        overwrite: remove another data set from the folder first.
        on_start: called with the tiles that are there and the tiles in all.
        on_tiles: called with the number of tiles made so far.

    Returns:
        The manifest's rows, and how many tiles were made now.
    """
    from factory.core.pool import run_tasks

    with open_run(spec, overwrite=overwrite) as run:
        todo = run.todo
        missing = sum(len(spec.layout.rows(shard)) for shard in todo)
        on_start(spec.layout.n - missing, spec.layout.n)
        made = 0
        for shard, record in run_tasks(task, todo, payload_of, workers=workers, scheduler=scheduler, on_ticks=on_tiles):
            run.add(record)
            made += len(spec.layout.rows(shard))
            if scheduler:  # whose workers tell nothing until a shard is done
                on_tiles(made)
        return run.finish(), missing
