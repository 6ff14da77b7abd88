"""Prediction of images, one after the other, into files or a data set."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.encoding import png
from factory.core.folder import lock_folder
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.tile import Tile
from segment.data.overlay import draw_labels
from segment.network.inference import Maps
from segment.network.weights import Weights
from segment.predict.dataset import write_set
from segment.predict.geojson import write_geojson
from segment.predict.jobs import Job, Settings
from segment.predict.rasters import assemble, ids_for_png, write_png, write_tiff
from segment.predict.records import check_folder, is_done, prepare_folder, write_record
from segment.predict.scaling import Pixels, read_scaled
from segment.predict.stitching import Block, Canvas, read_blocks

OUTLINES = ((0, 200, 80), (230, 40, 40), (0, 120, 255), (255, 190, 0))
"""Colours of outlines, one per nucleus class in turn: colours of schemes are too close to the stains."""

_GLASS = 200
"""Lowest value of a window of a slide that is empty glass, and does not go through the network."""

_STAIN_WINDOWS, _TRIED_WINDOWS = 16, 512
"""Windows that show an image's stains, of those that are read to find them: a slide is mostly glass."""

_BYTES_PER_PX = {"png": 0.1, "tiff": 0.2, "geojson": 0.3}
_PREVIEW_BYTES_PER_PX = 2
"""Of label maps, outlines and overlays of tissue full of nuclei, about."""

OnWindow = Callable[[int], None]
"""Called with the number of windows that were predicted."""


def check_target(out: Path, jobs: Sequence[Job], config: dict[str, Any], *, overwrite: bool) -> list[Job]:
    """Jobs that are not finished in a folder of files; refuses a folder with other files."""
    check_folder(out, config, overwrite=overwrite)
    return [job for job in jobs if overwrite or not is_done(out, job.image, job.files)]


def room_of(jobs: Sequence[Job]) -> int:
    """Bytes of the files of jobs, about."""
    pixels = [(job, job.scaling.own_height * job.scaling.own_width) for job in jobs]
    return int(
        sum(
            count * (_BYTES_PER_PX[job.format] + (_PREVIEW_BYTES_PER_PX if job.files[-1].startswith("preview/") else 0))
            for job, count in pixels
        )
    )


def with_stains(jobs: list[Job], weights: Weights) -> list[Job]:
    """The jobs with the stains of their images, for weights with a stain reference; None for too little tissue."""
    if weights.stain_reference is None:
        return jobs
    return [replace(job, stains=weights.stains_of(_tissue(job))) for job in jobs]


def _tissue(job: Job) -> Iterator[npt.NDArray[np.uint8]]:
    """A flat image; of a slide at most `_STAIN_WINDOWS` windows that are no empty glass, anywhere in it."""
    starts = [(y, x) for y in job.rows.starts for x in job.columns.starts]
    order = np.random.default_rng(0).permutation(len(starts))[:_TRIED_WINDOWS].tolist()  # always the same
    with job.image.open() as pixels:
        if job.image.kind != "slide":
            yield read_scaled(pixels, job.scaling, 0, 0, job.scaling.height, job.scaling.width)
            return
        places = (starts[number] for number in order)
        windows = (read_scaled(pixels, job.scaling, y, x, job.rows.size, job.columns.size) for y, x in places)
        yield from itertools.islice((window for window in windows if window.min() < _GLASS), _STAIN_WINDOWS)


def estimate_seconds(jobs: Sequence[Job], weights: Weights, settings: Settings) -> float:
    """Seconds in the network, from the first window of the first image, which is predicted twice."""
    if not jobs:
        return 0.0
    job, seconds = jobs[0], 0.0
    with job.image.open() as pixels:
        window = read_scaled(pixels, job.scaling, 0, 0, job.rows.size, job.columns.size)
    for _ in range(2):
        started = time.perf_counter()
        weights.predict(window, settings.precision, job.stains)
        seconds = time.perf_counter() - started
    each = seconds / (job.rows.size * job.columns.size)
    return each * sum(job.windows * job.rows.size * job.columns.size for job in jobs)


def write_files(
    out: Path,
    jobs: Sequence[Job],
    weights: Weights,
    settings: Settings,
    config: dict[str, Any],
    *,
    overwrite: bool,
    on_window: OnWindow,
) -> int:
    """Predict the unfinished images into files, with a record of each; returns the number of objects found."""
    out.mkdir(parents=True, exist_ok=True)
    mark = {key: config[key] for key in ("command", "weights", "scheme", "use")}
    found = 0
    with lock_folder(out):
        check_folder(out, config, overwrite=overwrite)
        prepare_folder(out, config, overwrite=overwrite)
        for folder in sorted({(out / name).parent for job in jobs for name in job.files}):
            folder.mkdir(exist_ok=True)
        for job in jobs:
            objects = _write(out, job, weights, settings, mark, on_window)
            write_record(out, job.image, job.files, {"objects": objects, "format": job.format})
            found += objects
    return found


def write_dataset(
    out: Path,
    jobs: Sequence[Job],
    weights: Weights,
    settings: Settings,
    config: dict[str, Any],
    *,
    overwrite: bool,
    on_window: OnWindow,
) -> None:
    """Predict images into a data set; arguments as in `write_files`, but `jobs` are all jobs."""

    def labelled(job: Job) -> tuple[npt.NDArray[np.uint8], Tile]:
        with job.image.open() as pixels:
            tile = assemble(_blocks(job, pixels, weights, settings, on_window), job.scaling, weights.scheme)
            return _own_image(job, pixels), tile

    write_set(out, jobs, weights, config, labelled, precision=settings.precision, overwrite=overwrite)


def _write(out: Path, job: Job, weights: Weights, settings: Settings, mark: dict[str, Any], on_window: OnWindow) -> int:
    """Write the files of one image; returns the number of nuclei or regions."""
    with job.image.open() as pixels:
        blocks = _blocks(job, pixels, weights, settings, on_window)
        path = out / job.files[0]
        if job.format == "geojson" and not settings.preview:
            return write_geojson(path, blocks, job.scaling, weights.scheme, mark, job.image.origin)
        if job.format == "geojson":
            kept = list(blocks)  # the plan has checked that the image fits into memory
            count = write_geojson(path, kept, job.scaling, weights.scheme, mark, job.image.origin)
            tile = assemble(kept, job.scaling, weights.scheme)
        else:
            tile = assemble(blocks, job.scaling, weights.scheme)
            count = _write_labels(out, job, tile, mark)
        if settings.preview:
            image = _own_image(job, pixels)
            overlay = draw_labels(image, tile.semantic, tile.instance, tile.scheme, OUTLINES)
            write_atomic(out / job.files[-1], png(overlay))
        return count


def _write_labels(out: Path, job: Job, tile: Tile, mark: dict[str, Any]) -> int:
    """Write the label maps of one image: ids (and classes where nuclei have several), or classes alone."""
    write = write_png if job.format == "png" else write_tiff
    if not tile.scheme.ids("nucleus"):
        write(out / job.files[0], tile.semantic, mark)
        return len(np.unique(tile.semantic))
    if job.format == "png":
        write(out / job.files[0], ids_for_png(tile.instance, job.image.where), mark)
    else:
        write(out / job.files[0], tile.instance.astype(np.uint32), mark)
    if len(tile.scheme.ids("nucleus")) > 1:
        write(out / job.files[1], tile.semantic, mark)
    return int(tile.instance.max())


def _own_image(job: Job, pixels: Pixels) -> npt.NDArray[np.uint8]:
    return pixels.read(0, 0, 0, job.scaling.own_height, job.scaling.own_width)


def _blocks(job: Job, pixels: Pixels, weights: Weights, settings: Settings, on_window: OnWindow) -> Iterator[Block]:
    """Predict an image block by block."""
    glass = _class_of_glass(weights) if job.image.kind == "slide" else None

    def predict(y: int, x: int) -> Maps:
        window = read_scaled(pixels, job.scaling, y, x, job.rows.size, job.columns.size)
        if glass is not None and window.min() >= _GLASS:
            maps = _certain(glass, weights, window.shape[:2])
        else:
            maps = weights.predict(window, settings.precision, job.stains)
        if not np.isfinite(maps.probabilities).all():
            raise UserError(
                f"{weights.path}: expected probabilities, got values that are not finite at {y},{x} of "
                f"{job.image.where}. Use --precision fp32, or other weights."
            )
        on_window(1)
        return maps

    canvas = Canvas(job.scaling.height, job.scaling.width, job.rows, job.columns, predict)
    return read_blocks(canvas, weights.scheme, job.scaling.mpp, weights.instances)


def _class_of_glass(weights: Weights) -> int | None:
    """Class of empty glass: air, or a class that is no nucleus; None where a scheme has neither."""
    scheme = weights.scheme
    nuclei = scheme.ids("nucleus")
    other = [label.id for label in scheme.classes if label.id not in nuclei]
    return next(iter((*scheme.ids("air"), *(other if nuclei else []))), None)


def _certain(label: int, weights: Weights, shape: tuple[int, ...]) -> Maps:
    """Maps of a window of one class."""
    probabilities = np.zeros((weights.head.classes, *shape), np.float32)
    probabilities[label] = 1
    return Maps(probabilities, np.zeros(shape, np.float32) if weights.head.distance else None)
