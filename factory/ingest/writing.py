"""`ingest`, the whole way from options to a data set; tiles in whole shards, points beside the manifest."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factory.core import runs
from factory.core.config import canonical, digest
from factory.core.console import progress
from factory.core.encoding import json_bytes
from factory.core.folder import RUN, library_versions
from factory.core.pool import worker_threads
from factory.core.runs import POINTS, REGIONS, Run, RunSpec
from factory.core.wording import grouped
from factory.ingest.config import IngestConfig
from factory.ingest.grouping import draw_splits
from factory.ingest.image_buffer import open_image, with_painted_cells
from factory.ingest.pairing import SourceError
from factory.ingest.points import Points, encode_points
from factory.ingest.region_labels import agreement_document
from factory.ingest.request import Job, Request, resolve
from factory.ingest.tiling import TiledImage, pad, select_tiles
from manifests.errors import FaultError, UserError
from manifests.files import write_atomic
from manifests.schema import DatasetInfo
from manifests.store import Layout
from manifests.table import read_dataset_manifest
from manifests.tile import Tile

_LIBRARIES = (
    "numpy", "pillow", "opencv-python-headless", "tifffile", "imagecodecs", "openslide-python", "openslide-bin",
)  # fmt: skip


_MAX_KINDS = 40
"""Kinds of faults that are listed."""


class InputError(UserError):
    """Everything wrong with the input: `problems` by file, and `kinds`, each with the first files that have it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        self.kinds = _shortened(problems, names=3)
        more = len(self.kinds) - _MAX_KINDS
        if more > 0:
            self.kinds = [*self.kinds[:_MAX_KINDS], f"and {more} other kinds"]
        if len(problems) == 1:
            super().__init__(problems[0])
            return
        kinds = _shortened(problems, names=1)
        rest = f"; and {len(kinds) - 3} other kinds" if len(kinds) > 3 else ""
        super().__init__(
            f"{len(problems)} problems, all listed above; nothing was written: {'; '.join(kinds[:3])}{rest}"
        )


def _shortened(problems: Sequence[str], names: int) -> list[str]:
    """Problems of one text as one, with at most 200 characters of it."""
    parts = (problem.partition(": ") for problem in problems)
    return grouped((f"{where}: {what[:200]}" for where, _, what in parts), names)


@dataclass(frozen=True)
class PlannedTile:
    """A tile to be written: number of its image, place at the tiles' resolution, and id."""

    image: int
    y: int
    x: int
    sample_id: str


@dataclass(frozen=True)
class Plan:
    """Tiles to be written, in the order of the store; `splits`: group id -> split."""

    spec: RunSpec
    job: Job
    images: tuple[TiledImage, ...]
    tiles: tuple[PlannedTile, ...]
    splits: Mapping[str, str]

    @property
    def in_use(self) -> frozenset[str]:
        """Splits that get a tile."""
        groups = {self.job.groups[self.images[tile.image].source.uri] for tile in self.tiles}
        return frozenset(self.splits[group] for group in groups)

    @property
    def agreement(self) -> dict[str, Any] | None:
        """Agreement of region labels with marked cells, over images with tiles; None without region labels."""
        config = self.job.config
        if config.smooth_um is None:
            return None
        used = {
            image.source.uri: image.agreement for image in self.images if image.origins and image.agreement is not None
        }
        splits = {uri: self.splits[self.job.groups[uri]] for uri in used}
        return agreement_document(used, splits, config.label_scheme, config.smooth_um)

    @property
    def dropped(self) -> int:
        """Tiles left out for their background."""
        return sum(image.dropped for image in self.images)


@dataclass(frozen=True)
class Ingested:
    """The plan, None when the whole data set was there before; the manifest's rows, None after a dry run."""

    plan: Plan | None
    table: pa.Table | None


def ingest(request: Request, *, workers: int, overwrite: bool = False, dry_run: bool = False) -> Ingested:
    """Bring real images into a data set with so many threads; `dry_run` stops before anything is written.

    Raises:
        InputError: with all faults; nothing was written.
        UserError: for options that cannot be right, or a folder that holds something else.
        FaultError: when the disk is too small, or the files changed between the passes.
    """
    job = resolve(request)
    if not job.problems:
        done = _already_there(request.out, job.config, overwrite=overwrite)
        if done is not None:
            return Ingested(None, done)
    plan = make_plan(request.out, job, workers)
    if dry_run:
        return Ingested(plan, None)
    with runs.open_run(plan.spec, overwrite=overwrite) as run:
        _write_shards(run, plan, workers)
        if "points" in job.config.patterns:
            write_atomic(request.out / POINTS, encode_points(_points_of(plan)))
        if plan.agreement is not None:
            write_atomic(request.out / REGIONS, json_bytes(plan.agreement, indent=1))
        return Ingested(plan, run.finish())


def rehearse(plan: Plan, *, workers: int, overwrite: bool, read_s: float) -> str:
    """Check that the tiles can be written, and tell the room and the time that this needs.

    Args:
        plan: the tiles. workers, overwrite: as for `ingest`. read_s: seconds that it took to read the files once.
    """
    return runs.rehearse(
        plan.spec, lambda count: _samples(plan, range(count)), workers=workers, overwrite=overwrite, before_s=read_s
    )


def make_plan(out: Path, job: Job, workers: int) -> Plan:
    """Read all files once, choose the tiles and assign them to splits."""
    sources, config = job.pairing.sources, job.config
    images, size, problems = select_tiles(sources, config, workers)
    if job.problems or problems:
        raise InputError([*job.problems, *problems])
    tiles = tuple(
        PlannedTile(number, y, x, _sample_id(config, image, y, x))
        for number, image in enumerate(images)
        for y, x in image.origins
    )
    if not tiles:
        raise UserError(
            f"{job.pairing.root}: expected at least one tile with {1 - config.max_background:.0%} tissue or more, "
            f"got none of {sum(image.dropped for image in images)}. See --max-background and --stain."
        )
    splits = job.splits
    if splits is None:
        assert config.split is not None
        counts: Counter[str] = Counter()
        for image in images:
            counts[job.groups[image.source.uri]] += len(image.origins)
        splits = draw_splits(dict(+counts), config.split, config.seed)
    spec = RunSpec(out, config.model_dump(mode="json"), Layout(len(tiles), *size, config.shard), dataset_info(config))
    return Plan(spec, job, tuple(images), tiles, splits)


def dataset_info(config: IngestConfig) -> DatasetInfo:
    """Metadata of an ingested data set, which hold for all rows."""
    return DatasetInfo(
        is_synthetic=config.generator is not None,
        real_pixels=config.generator is None,
        generator=config.generator or "ingest",
        label_schemes=(config.label_scheme,),
        versions=library_versions(*_LIBRARIES),
        training_sources=config.trained_on or (config.name,),
        licences=(config.licence,),
    )


def _already_there(out: Path, config: IngestConfig, *, overwrite: bool) -> pa.Table | None:
    """The rows of a finished data set of this very configuration; None where there is work to do.

    A data set of another configuration is refused before any image is read.
    """
    if not (out / RUN).is_file():
        return None
    document, wanted = runs.read_run(out), config.model_dump(mode="json")
    different = [key for key in wanted if canonical(wanted[key]) != canonical(document["config"].get(key))]
    if different:
        if overwrite:
            return None
        what = "other files or other content of them" if different == ["files_sha256"] else f"another {different[0]}"
        raise UserError(
            f"{out}: expected the configuration that it was made with, got {what}. "
            "Use another --out, or --overwrite to start anew."
        )
    info = dataset_info(config)
    if canonical(document["info"]) != canonical(runs.info_document(info)) or not runs.is_finished(out):
        return None
    is_complete = not Run(RunSpec(out, wanted, Layout(**document["layout"]), info)).todo
    beside = [POINTS] * ("points" in config.patterns) + [REGIONS] * (config.smooth_um is not None)
    has_all = is_complete and all((out / name).is_file() for name in beside)
    return read_dataset_manifest(out, columns=runs.REPORTED)[0] if has_all else None


def _sample_id(config: IngestConfig, image: TiledImage, y: int, x: int) -> str:
    """Readable and unique: the stem, the place, and a digest of configuration, file name and place."""
    slug = re.sub(r"[^a-z0-9]+", "-", image.source.stem.lower()).strip("-")[:40].rstrip("-")
    tail = digest([config.identity, image.source.uri, x, y])[:12]
    return "-".join(part for part in (slug, f"x{x}", f"y{y}", tail) if part)


def _write_shards(run: Run, plan: Plan, workers: int) -> None:
    layout = run.spec.layout
    done = sum(len(layout.rows(shard)) for shard in run.done)
    with progress("writing", layout.n, done=done) as bar, worker_threads(workers) as pool:
        tasks = [
            pool.submit(runs.write_shard, run.spec, shard, _samples(plan, layout.rows(shard))) for shard in run.todo
        ]
        for task in as_completed(tasks):
            record = task.result()
            run.add(record)
            bar.advance(len(record.rows))


def _samples(plan: Plan, rows: range) -> Iterator[tuple[npt.NDArray[np.uint8], Tile, dict[str, Any]]]:
    """Images, labels and rows of consecutive tiles; one source image is open at a time."""
    config = plan.job.config
    size = (plan.spec.layout.height, plan.spec.layout.width)
    for number, tiles in itertools.groupby((plan.tiles[row] for row in rows), key=lambda tile: tile.image):
        image = plan.images[number]
        geometry = image.geometry
        try:
            with open_image(image.source, geometry, config) as opened:
                for tile in tiles:
                    region = opened.read(tile.y, tile.x, *geometry.clipped(size))
                    region = with_painted_cells(region, geometry.mpp, config)
                    pixels, semantic, instance = pad(region.image, region.semantic, region.instance, size)
                    labels = Tile(semantic, instance, geometry.mpp, config.label_scheme)
                    yield pixels, labels, _row(plan, image, tile)
        except SourceError as error:
            raise FaultError(f"{error}: the file changed while it was read. Run the same command again.") from error


def _row(plan: Plan, image: TiledImage, tile: PlannedTile) -> dict[str, Any]:
    group = plan.job.groups[image.source.uri]
    config, layout, geometry = plan.job.config, plan.spec.layout, image.geometry
    return {
        "sample_id": tile.sample_id,
        "split": plan.splits[group],
        "source": "real" if config.generator is None else "synthetic",
        "group_id": group,
        "height": layout.height,
        "width": layout.width,
        "mpp": geometry.mpp,
        "label_scheme": config.label_scheme.name,
        "label_origin": config.label_origin,
        "source_uri": image.source.uri,
        "source_x": round(tile.x * geometry.scale),
        "source_y": round(tile.y * geometry.scale),
        "source_level": geometry.level,
        "licence": config.licence,
        "real_pixels": config.generator is None,
    }


def _points_of(plan: Plan) -> Iterator[tuple[str, Points]]:
    """(sample_id, points in the tile's own pixels) of every tile; a point in two tiles is there twice."""
    layout = plan.spec.layout
    for tile in plan.tiles:
        points = plan.images[tile.image].points
        if points is not None:
            inside = points.inside(tile.x, tile.y, layout.width, layout.height)
            yield tile.sample_id, points.where(inside).moved(1, tile.x, tile.y)
