"""Prepared runs, and the one task that makes the tiles of a shard: recipes on one side, the store on the other."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack

import pyarrow as pa

from factory.core.config import Config, digest
from factory.core.folder import library_versions
from factory.core.runs import How, RunSpec, write_missing, write_shard
from factory.core.runs import rehearse as rehearse_run
from factory.make.recipes.base import BuildsMaker, Maker, Provenance, Recipe, Row, Sample, maker_of
from factory.plan.request import Request
from factory.plan.rows import REQUESTS, request_of
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.ledger import ShardRecord
from manifests.schema import DatasetInfo
from manifests.store import ARRAYS, Layout

if TYPE_CHECKING:
    from factory.core.cluster import Cluster, Known

_CHECKED_AT_ONCE = 4096
BYTE_MAKERS = ("numpy", "numba", "opencv-python-headless", "scipy", "pyarrow", "zarr")
"""Libraries whose versions are kept with the tiles."""

RecipeT = TypeVar("RecipeT", bound=BuildsMaker[Maker], covariant=True)
AnyRecipe = TypeVar("AnyRecipe", bound=BuildsMaker[Maker])


class Choice(Protocol):
    """Draws candidate tiles and chooses among them."""

    def __call__(self, prepared: Prepared[Any], **how: Unpack[How]) -> Prepared[Any]:
        """The run with the seeds of the tiles that were chosen."""
        ...


@dataclass(frozen=True)
class Prepared(Generic[RecipeT]):
    """A run that is resolved and checked, with nothing written yet.

    Attributes:
        spec: what will be written, and where. recipe: how. rows: the manifest so far, one row for each tile.
        notes: what the user should know, one line each.
        choose: what has to run before `make`, where tiles are chosen among candidates. candidates: their number.
    """

    spec: RunSpec
    recipe: RecipeT
    rows: pa.Table
    notes: tuple[str, ...] = ()
    choose: Choice | None = None
    candidates: int = 0

    def rows_of(self, shard: int) -> list[Row]:
        """The rows of a shard."""
        positions = self.spec.layout.rows(shard)
        rows: list[Row] = self.rows.slice(positions.start, len(positions)).to_pylist()
        return rows


@dataclass(frozen=True)
class MakeShard:
    """The task of one shard: rows in, a published ledger record out."""

    spec: RunSpec
    recipe: BuildsMaker[Maker]

    def __call__(self, shard: int, rows: Sequence[Row], tick: Callable[[], None]) -> ShardRecord:
        """Make the tiles of a shard and publish it."""

        def ticking() -> Iterator[Sample]:
            for sample in maker_of(self.recipe).make(rows):
                yield sample
                tick()

        return write_shard(self.spec, shard, ticking())


@dataclass(frozen=True)
class KnownTile:
    """The first tile of a run, made and written as `task` would, in a folder that is removed."""

    task: MakeShard
    row: Row

    def __call__(self) -> dict[str, str]:
        """Digests of its files, and of its row, by name."""
        spec = self.task.spec
        with tempfile.TemporaryDirectory() as folder:
            trial = replace(spec, out=Path(folder), layout=replace(spec.layout, n=1, shard=1))
            record = replace(self.task, spec=trial)(0, [self.row], lambda: None)
        files = {spec.name: file.sha256 for spec, file in zip(ARRAYS, record.files, strict=True)}
        return {**files, "row": digest(record.rows[0])}


def prepare_run(
    recipe: AnyRecipe,
    rows: pa.Table,
    out: Path,
    config: Mapping[str, Any],
    info: DatasetInfo,
    *,
    notes: Sequence[str] = (),
    beside: frozenset[str] = frozenset(),
) -> Prepared[AnyRecipe]:
    """A run of a recipe over rows of one size.

    Args:
        recipe: how tiles are made. rows: what is asked of each. out: the data set's folder.
        config: for run.yaml, with ``shard``, the tiles of a shard. info: what is true of all tiles.
        notes: for the user. beside: files that may be in `out` before.
    """
    layout = Layout(len(rows), rows["height"][0].as_py(), rows["width"][0].as_py(), config["shard"])
    return Prepared(RunSpec(out, dict(config), layout, info, beside), recipe, rows, tuple(notes))


def synthetic_info(recipe: Recipe, provenance: Provenance, *, real_pixels: bool = False) -> DatasetInfo:
    """The metadata of tiles that a recipe makes.

    Args:
        recipe: how tiles are made. provenance: data that its parts were trained on or fitted to.
        real_pixels: whether tiles hold real pixels.
    """
    versions = library_versions(*BYTE_MAKERS, *(("torch",) if recipe.trained else ()))
    return DatasetInfo(
        is_synthetic=True,
        generator=f"pathology-tile-factory {versions['pathology-tile-factory']}: {recipe.title}",
        label_schemes=(recipe.scheme,),
        versions=versions,
        training_sources=provenance.sources,
        licences=provenance.licences,
        real_pixels=real_pixels,
    )


def make(prepared: Prepared[BuildsMaker[Maker]], **how: Unpack[How]) -> tuple[pa.Table, int]:
    """Write what is missing of a prepared run.

    Returns:
        The manifest's rows, and how many tiles were made now.
    """
    spec, recipe = prepared.spec, prepared.recipe
    if how.get("scheduler"):
        spec, recipe = replace(spec, out=spec.out.absolute()), with_absolute_paths(recipe)
    task = MakeShard(spec, recipe)
    known = KnownTile(task, prepared.rows.slice(0, 1).to_pylist()[0])
    with cluster_for(recipe, known, spec.info, **how) as cluster:
        return write_missing(prepared.spec, task, prepared.rows_of, cluster, **how)


def cluster_for(
    recipe: object, known: Known, info: DatasetInfo, **how: Unpack[How]
) -> AbstractContextManager[Cluster | None]:
    """The cluster of `how`, with workers that draw as this process does; None where no scheduler is named.

    Args:
        recipe: whose device decides whether workers need a GPU. known: see `open_cluster`. info: of all tiles.
    """
    from factory.core.cluster import GPU, open_cluster

    needs = None if getattr(recipe, "device", "cpu") == "cpu" else GPU
    note = how.get("on_note", logging.getLogger("factory").warning)
    return open_cluster(how.get("scheduler"), known, info.versions, note=note, needs=needs)


def with_absolute_paths(value: AnyRecipe) -> AnyRecipe:
    """A recipe whose relative paths are absolute: a worker of a cluster has its own working folder."""
    located: AnyRecipe = _located(value)
    return located


def _located(value: Any) -> Any:
    if isinstance(value, Path | Config):
        return value.absolute() if isinstance(value, Path) else value.with_absolute_paths()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _located(getattr(value, each.name)) for each in fields(value)})
    return value


def rehearse(prepared: Prepared[BuildsMaker[Maker]], *, workers: int, overwrite: bool = False) -> str:
    """Check a prepared run, and tell the room and the time that it needs; see `factory.core.runs.rehearse`."""

    def samples(count: int) -> Iterator[Sample]:
        return maker_of(prepared.recipe).make(prepared.rows_of(0)[:count])

    candidates = prepared.candidates
    return rehearse_run(prepared.spec, samples, workers=workers, overwrite=overwrite, candidates=candidates)


class Refuses(Protocol):
    """A part that knows which requests it can never meet."""

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be met, or None."""
        ...


def refuse_impossible(rows: pa.Table, scheme: LabelScheme, parts: Iterable[Refuses]) -> None:
    """Ask parts about every row of a plan. Raises a UserError with the first refusal and its row."""
    parts, position = tuple(parts), 0
    for batch in rows.select(["height", "width", "mpp", *REQUESTS]).to_batches(max_chunksize=_CHECKED_AT_ONCE):
        for row in batch.to_pylist():
            request = request_of(row, scheme)
            for part in parts:
                if reason := part.refusal(request):
                    raise UserError(f"plan: row {position}: {reason}.")
            position += 1
