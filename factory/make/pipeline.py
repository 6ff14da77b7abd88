"""Rows of a plan -> a data set: the only place that joins masks, conditions, renderers and the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from factory.core.config import Config
from factory.core.registry import resolve
from factory.core.runs import RunSpec, library_versions, write_shard
from factory.core.shards import write_missing
from factory.make.fit_to_real import Fitted, fit_parts
from factory.make.real_images import Reference
from factory.make.recipe import Realiser as Realiser
from factory.make.recipe import Recipe, Sample
from factory.make.recipe import has_weights as has_weights
from factory.make.recipe import recipe_of as recipe_of
from factory.masks import MASKS
from factory.plan.rows import REQUESTS, Draft, PlanConfig, complete, plan, request_of, requests_digest
from factory.renderers import RENDERERS
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.ledger import ShardRecord
from manifests.schema import DatasetInfo
from manifests.store import Layout

_CHECKED_AT_ONCE = 4096
BYTE_MAKERS = ("numpy", "numba", "opencv-python-headless", "scipy", "pyarrow", "zarr")
"""Libraries whose versions are kept with the tiles."""


class MakeConfig(Config):
    """Everything that `factory make` can be told and that changes a byte of its output.

    Attributes:
        plan: what is asked.
        masks, renderer: ``name`` and, optionally, values of that part's own Config.
        shard: tiles in a shard file. attempts: draws of a mask before its row is given up.
        shift_bound: draw again when a generator with an own opinion had to be shifted further (in its own units).
        batch: tiles drawn and rendered together; part of the result for networks, so it is never taken from workers.
    """

    plan: PlanConfig = PlanConfig()
    masks: dict[str, Any] = Field(default_factory=lambda: {"name": "ihc"})
    renderer: dict[str, Any] = Field(default_factory=lambda: {"name": "stain"})
    shard: int = Field(default=64, ge=1, le=65_536)
    attempts: int = Field(default=8, ge=1, le=1000)
    shift_bound: float | None = Field(default=None, gt=0)
    batch: int = Field(default=1, ge=1, le=1024)


@dataclass(frozen=True)
class MakeShard:
    """The task of one shard: rows in, a published record out."""

    spec: RunSpec
    recipe: Any

    def __call__(self, shard: int, rows: Sequence[dict[str, Any]], tick: Callable[[], None]) -> ShardRecord:
        """Make the tiles of a shard and publish it."""

        def counted() -> Iterator[Sample]:
            for sample in _realiser(self.recipe).realise(rows):
                yield sample
                tick()

        return write_shard(self.spec, shard, counted())


_ready: tuple[Any, Any] | None = None


def _realiser(recipe: Any) -> Any:
    """This process's realiser; building one may load weights."""
    global _ready
    if _ready is None or _ready[0] != recipe:
        _ready = recipe, recipe.realiser()
    return _ready[1]


@dataclass(frozen=True)
class Order:
    """A resolved order: what will be written and how, nothing written yet; and what was fitted, in lines.

    The recipe is a `Recipe`, or another that has its `scheme`, `title`, `changed`, `realiser` and `notes`.
    """

    spec: RunSpec
    recipe: Any
    rows: pa.Table
    fits: tuple[str, ...] = ()

    def rows_of(self, shard: int) -> list[dict[str, Any]]:
        """The requested rows of a shard."""
        positions = self.spec.layout.rows(shard)
        rows: list[dict[str, Any]] = self.rows.slice(positions.start, len(positions)).to_pylist()
        return rows


def prepare(
    config: MakeConfig, scheme: LabelScheme, out: Path, *, manifest: Draft | None, like: Reference | None, device: str
) -> Order:
    """Resolve an order and refuse what cannot be met, before anything is written.

    Args:
        config: what is asked.
        scheme: the label scheme, as `order.resolve_config` found it.
        out: the data set's folder.
        manifest: a plan to follow instead of drawing one.
        like: real tiles to fit the renderer and the masks to, where these fit themselves.
        device: where networks run.

    Raises:
        UserError: when a part, a key or a request does not fit.
    """
    recipe = recipe_of(config.model_dump(mode="json"), scheme, device)
    rows = complete(manifest, config.plan, scheme) if manifest else plan(config.plan)
    fitted = None
    if like is not None:
        request = request_of(rows.slice(0, 1).to_pylist()[0], scheme)
        parts = (recipe.masks, recipe.mask_config), (recipe.renderer, recipe.render_config)
        fitted = fit_parts(*parts, like, request, frozenset(config.masks) - {"name"})
        recipe = replace(recipe, mask_config=fitted.mask_config, render_config=fitted.render_config)
    refuse_impossible(rows, recipe)
    layout = Layout(len(rows), rows["height"][0].as_py(), rows["width"][0].as_py(), config.shard)
    # The digest tells when a file that the plan was read from (a histogram, another data set) has changed since.
    asked = {} if manifest else config.plan.model_dump(mode="json")
    asked["requests_sha256"] = requests_digest(rows)
    document = {"plan": asked, "scheme": scheme.to_dict(), **recipe.document, "shard": config.shard}
    sources, licences = _provenance(recipe, fitted)
    title = f"{recipe.masks} + {recipe.renderer}"
    info = synthetic_info(title, (scheme,), trained=bool(recipe.trained), sources=sources, licences=licences)
    return Order(RunSpec(out, document, layout, info), recipe, rows, fitted.notes if fitted else ())


def synthetic_info(
    title: str, schemes: Sequence[LabelScheme], *, trained: bool, sources: Sequence[str], licences: Sequence[str]
) -> DatasetInfo:
    """What is true of all tiles that this package draws.

    Args:
        title: what drew them. schemes: of their labels. trained: whether a network of torch had a part.
        sources, licences: of what was learnt from.
    """
    versions = library_versions(*BYTE_MAKERS, *(("torch",) if trained else ()))
    return DatasetInfo(
        is_synthetic=True,
        generator=f"pathology-tile-factory {versions['pathology-tile-factory']}: {title}",
        label_schemes=tuple(schemes),
        versions=versions,
        training_sources=tuple(sources),
        licences=tuple(licences),
    )


def make(
    order: Order,
    *,
    workers: int,
    scheduler: str | None = None,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> tuple[pa.Table, int]:
    """Write what is missing of an order from `prepare`: its rows, and how many tiles were made; see `write_missing`."""
    task = MakeShard(
        replace(order.spec, out=order.spec.out.absolute()), order.recipe
    )  # a dask worker has its own folder
    return write_missing(
        order.spec,
        task,
        order.rows_of,
        workers=workers,
        scheduler=scheduler,
        overwrite=overwrite,
        on_start=on_start,
        on_tiles=on_tiles,
    )


def _provenance(recipe: Recipe, fitted: Fitted | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources and licences behind the tiles fitted to and the weights drawn with."""
    sources, licences = (set(fitted.sources), set(fitted.licences)) if fitted else (set[str](), set[str]())
    for part, config in recipe.trained:
        learnt, under = part.provenance(config)
        sources, licences = sources | set(learnt), licences | set(under)
    return tuple(sorted(sources)), tuple(sorted(licences))


def notes_of(order: Order) -> tuple[str, ...]:
    """What a person should know of fits, of how networks read their inputs, and of densities that do not fit."""
    first = request_of(order.rows.slice(0, 1).to_pylist()[0], order.recipe.scheme)
    return (*order.fits, *order.recipe.notes(first))


def resolve_part_device(config: MakeConfig, name: str) -> str:
    """The device for an order: asked of torch only where a part has networks.

    Raises:
        UserError: for a device that this machine does not have.
    """
    parts = (
        resolve(MASKS, str(config.masks.get("name")), "--masks"),
        resolve(RENDERERS, str(config.renderer.get("name")), "--renderer"),
    )
    return device_for(parts, name)


def device_for(parts: Sequence[Any], name: str) -> str:
    """The device for mask generators and renderers; torch is asked only where one of them has networks.

    Raises:
        UserError: for a device that this machine does not have.
    """
    if name in ("auto", "cpu") and not any(getattr(part, "uses_torch", False) for part in parts):
        return "cpu"
    from factory.core.devices import resolve_device

    return resolve_device(name)


def refuse_impossible(rows: pa.Table, recipe: Recipe) -> None:
    """Ask the mask generator, and a renderer with weights, about every row.

    Raises:
        UserError: with the first refusal and its row.
    """
    parts = [resolve(MASKS, recipe.masks, "--masks")(recipe.mask_config, recipe.device)]
    render_class = resolve(RENDERERS, recipe.renderer, "--renderer")
    if has_weights(render_class):
        parts.append(render_class(recipe.render_config, recipe.device))
    asked = rows.select(["height", "width", "mpp", *REQUESTS])
    position = 0
    for batch in asked.to_batches(max_chunksize=_CHECKED_AT_ONCE):
        for row in batch.to_pylist():
            request = request_of(row, recipe.scheme)
            for part in parts:
                if reason := part.refusal(request):
                    raise UserError(f"plan: row {position}: {reason}.")
            position += 1
