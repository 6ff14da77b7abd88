"""Candidate tiles of the joint recipe: drawn, labelled and measured, so that each row can get the one that fits best.

The pool of candidates is a Parquet file with the measured composition of each tile, not its pixels. Tile i of a pool
has the seed `row_seed(seed, i)`. The file is written again after every chunk, so a run that is stopped loses only the
chunks in work, and a larger pool begins with a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.config import digest
from factory.core.encoding import parquet_bytes
from factory.core.pool import run_tasks
from factory.core.runs import POOL, How, ignore, open_folder
from factory.core.seeds import row_seed
from factory.core.stopping import noting
from factory.joint import DRAWING, HDGAN, SHARES
from factory.make.pipeline import Prepared, cluster_for, with_absolute_paths
from factory.plan.assignment import Picked, Target, column, pick, targets_of
from factory.plan.rows import with_column
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.measure import measure

if TYPE_CHECKING:
    from factory.core.cluster import Cluster
    from factory.make.recipes.joint import JointRecipe

CHUNK = 32
"""Tiles of a task at most; fewer where that would leave workers without one."""

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
"""Columns of a pool: number and seed, composition as in a manifest, and the uncertainty of the labels."""


def choose(prepared: Prepared[JointRecipe], **how: Unpack[How]) -> Prepared[JointRecipe]:
    """Draw the missing candidates, and give every row the seed of the tile that meets it best.

    Where nothing is asked, the run is returned as it is, and no candidate is drawn.

    Returns:
        The run with the chosen seeds, and notes on the choice alone.

    Raises:
        UserError: where the best tile is farther from a request than the tolerance, with what the pool offers. The
            pool stays for another request.
    """
    spec, recipe, wanted = prepared.spec, prepared.recipe, prepared.rows
    config, seed = recipe.config, spec.config["plan"]["seed"]
    if config.pool is None:
        return prepared
    task = MeasureChunk(with_absolute_paths(recipe) if how.get("scheduler") else recipe)
    known = KnownCandidate(task, row_seed(seed, 0))
    with (
        cluster_for(recipe, known, spec.info, **how) as cluster,
        open_folder(spec, overwrite=how.get("overwrite", False)),
    ):
        fingerprint = _fingerprint(spec.config)
        path, size = spec.out / POOL, config.pool
        with noting(lambda: f"{path} keeps {len(read_pool(path, fingerprint) or ())} of {size} candidates."):
            pool = fill_pool(path, task, seed, size, fingerprint, cluster, **how)
    members, notes = np.arange(len(pool)), []
    if config.max_uncertainty is not None:
        members = members[column(pool, "top_uncertainty") <= config.max_uncertainty]
        bound, dropped = f"{config.max_uncertainty:g}", len(pool) - len(members)
        notes.append(f"{dropped} of {len(pool)} tiles are more uncertain than {bound} and left out")
        if len(members) < len(wanted):
            raise UserError(
                f"--max-uncertainty: expected {len(wanted)} tiles within {bound}, got "
                f"{len(members)} of a pool of {len(pool)}. Raise it, or --pool."
            )
    targets = targets_of(wanted, pool, recipe.scheme, spec.config[SHARES])
    picked = pick(targets, len(wanted), members)
    _refuse_far(picked, targets, members, config.tolerance)
    notes.append(f"{len(wanted)} tiles chosen from a pool of {len(pool)}")
    seeds = pool["seed"].take(pa.array(picked.tiles)).combine_chunks()
    return replace(prepared, rows=with_column(wanted, "seed", seeds), notes=tuple(notes), choose=None)


@dataclass(frozen=True)
class MeasureChunk:
    """The task of one chunk: seeds in, measured tiles as rows of the pool out."""

    recipe: JointRecipe

    def __call__(
        self, chunk: int, members: Sequence[tuple[int, int]], tick: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Draw, label and measure tiles, given by number and seed."""
        del chunk
        rows, part = [], self.recipe.part
        for member, seed in members:
            drawn = part.draw(seed)
            uncertainty = {name: getattr(drawn, name) for name in ("uncertainty", "top_uncertainty", "ignored")}
            found = {"member": member, "seed": seed, **asdict(measure(drawn.tile)), **uncertainty}
            rows.append({name: found[name] for name in POOL_SCHEMA.names})
            tick()
        return rows


@dataclass(frozen=True)
class KnownCandidate:
    """The tile of one seed, measured as a task would."""

    task: MeasureChunk
    seed: int

    def __call__(self) -> dict[str, str]:
        """Digest of its row in the pool."""
        return {"row": digest(self.task(0, [(0, self.seed)], lambda: None)[0])}


def fill_pool(
    path: Path,
    task: MeasureChunk,
    seed: int,
    size: int,
    fingerprint: str,
    cluster: Cluster | None = None,
    **how: Unpack[How],
) -> pa.Table:
    """Draw the missing tiles of a pool; returns its first `size` tiles, in order.

    Args:
        path: of the file; a damaged one, or one with another fingerprint, is replaced. task: draws and measures.
        seed: of the pool. fingerprint: see `_fingerprint`. cluster: to draw on instead. how: see `How`.
    """
    workers, on_tiles = how["workers"], how.get("on_tiles", ignore)
    there = read_pool(path, fingerprint)
    known = set() if there is None else set(there["member"].to_pylist())
    missing = [member for member in range(size) if member not in known]
    size_of_task = max(1, min(CHUNK, -(-len(missing) // max(workers, 1))))
    chunks = [missing[at : at + size_of_task] for at in range(0, len(missing), size_of_task)]
    table, made = POOL_SCHEMA.empty_table() if there is None else there, 0
    how.get("on_start", ignore)(size - len(missing), size)

    def members_of(chunk: int) -> list[tuple[int, int]]:
        return [(member, row_seed(seed, member)) for member in chunks[chunk]]

    for _, rows in run_tasks(task, range(len(chunks)), members_of, workers=workers, cluster=cluster, on_ticks=on_tiles):
        made += len(rows)
        if cluster is not None:  # whose workers tell nothing until a task is done
            on_tiles(made)
        table = pa.concat_tables([table, pa.Table.from_pylist(rows, POOL_SCHEMA)]).sort_by("member")
        _write_pool(path, table, fingerprint)
    return table.slice(0, size)


def read_pool(path: Path, fingerprint: str) -> pa.Table | None:
    """A stored pool; None where there is none, or one that is damaged or of another fingerprint."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    known = (table.schema.metadata or {}).get(_FINGERPRINT)
    same = known == fingerprint.encode() and table.schema.remove_metadata().equals(POOL_SCHEMA)
    return pa.table(table.columns, schema=POOL_SCHEMA) if same else None


def _write_pool(path: Path, table: pa.Table, fingerprint: str) -> None:
    # One piece, so that the file is the same however often the work was stopped.
    marked = table.combine_chunks().replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
    write_atomic(path, parquet_bytes(marked))


def _refuse_far(picked: Picked, targets: Sequence[Target], members: npt.NDArray[np.int64], tolerance: float) -> None:
    """Refuse a choice in which a tile is farther from its request than the tolerance, with what the pool offers."""
    far = np.flatnonzero(picked.misfit > tolerance)
    if not far.size:
        return
    row = int(far[np.argmax(picked.misfit[far])])
    target = targets[picked.worst[row]]
    offered = target.offered[members]
    known = offered[np.isfinite(offered)]
    low, high = (f"{end:.3g}" for end in (np.nanmin(target.asked), np.nanmax(target.asked)))
    offers = "none of it" if not known.size else (
        f"{known.min():.3g} to {known.max():.3g}, nine tenths within {np.quantile(known, 0.05):.3g} to "
        f"{np.quantile(known, 0.95):.3g}" + (f", in {known.size} of them" if known.size < len(members) else "")
    )  # fmt: skip
    # A tile that has none of what is asked is too far whatever the tolerance.
    enough = "" if np.isinf(picked.misfit).any() else (
        f", or accept this with --set joint.tolerance={math.ceil(100 * picked.misfit.max()) / 100:g}"
    )  # fmt: skip
    raise UserError(
        f"{target.name}: expected tiles within {tolerance:g} of what is asked "
        f"({low if low == high else f'{low} to {high}'}), got {far.size} of {len(picked.misfit)} that are farther: a "
        f"pool of {len(members)} offers {offers}. Ask for less, raise --pool{enough}."
    )


def _fingerprint(config: Mapping[str, Any]) -> str:
    """Digest of all that decides the tiles of a pool: not their number, the choice, or the place of the weights."""
    others = ("weights", "pool", "tolerance", "max_uncertainty")
    parts = [{key: value for key, value in config[part].items() if key not in others} for part in (HDGAN, DRAWING)]
    return digest([*parts, config["plan"]["seed"]])
