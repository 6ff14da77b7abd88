"""Images through a network to files, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.runs import lock_folder
from manifests.errors import UserError
from manifests.tile import Tile
from segment.network.inference import Maps, predict_maps
from segment.network.weights import Weights
from segment.predict.frames import Pixels, read_frame
from segment.predict.geojson import write_geojson
from segment.predict.rasters import assemble, draw_overlay, ids_for_png, write_picture, write_png, write_tiff
from segment.predict.records import check_folder, is_done, prepare_folder, write_record
from segment.predict.request import Job, Settings, output_folders
from segment.predict.sets import write_set
from segment.predict.stitching import Block, Canvas, read_blocks

_GLASS = 200
"""A window of a slide without a darker value in any channel shows no stain, and is not put through the network."""

OnWindow = Callable[[int], None]
"""Called with the number of windows that are done."""


def check_target(out: Path, jobs: Sequence[Job], config: dict[str, Any], *, overwrite: bool) -> list[Job]:
    """The jobs that are still to be done in a folder of files.

    Raises:
        UserError: when the folder holds something else, or outputs of other images of the same names.
    """
    check_folder(out, config, overwrite=overwrite)
    return [job for job in jobs if overwrite or not is_done(out, job.picture, job.files)]


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
    """Predict images into files of a folder, with a record of each; returns how many objects were found.

    Args:
        out: the folder. jobs: what is still to be done. weights: of the network. settings: how.
        config: what is kept as run.yaml. overwrite: remove what was written here before.
        on_window: progress.
    """
    out.mkdir(parents=True, exist_ok=True)
    mark = {key: config[key] for key in ("command", "weights", "scheme", "use")}
    found = 0
    with lock_folder(out):
        check_folder(out, config, overwrite=overwrite)
        prepare_folder(out, config, overwrite=overwrite)
        for folder in output_folders(out, jobs):
            folder.mkdir(exist_ok=True)
        for job in jobs:
            objects = _write(out, job, weights, settings, mark, on_window)
            write_record(out, job.picture, job.files, {"objects": objects, "format": job.format})
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
    """Predict images into a data set; arguments as in `write_files`, `jobs` being all of them."""

    def labelled(job: Job) -> tuple[npt.NDArray[np.uint8], Tile]:
        with job.picture.open() as pixels:
            tile = assemble(_blocks(job, pixels, weights, settings, on_window), job.frame, weights.scheme)
            return _own_image(job, pixels), tile

    write_set(out, jobs, weights, config, labelled, precision=settings.precision, overwrite=overwrite)


def _write(out: Path, job: Job, weights: Weights, settings: Settings, mark: dict[str, Any], on_window: OnWindow) -> int:
    """Write the files of one image; returns how many nuclei or regions they hold."""
    with job.picture.open() as pixels:
        blocks = _blocks(job, pixels, weights, settings, on_window)
        path = out / job.files[0]
        if job.format == "geojson" and not settings.preview:
            return write_geojson(path, blocks, job.frame, weights.scheme, mark)
        if job.format == "geojson":
            kept = list(blocks)  # of an image that fits into memory, as the plan has checked
            count = write_geojson(path, kept, job.frame, weights.scheme, mark)
            tile = assemble(kept, job.frame, weights.scheme)
        else:
            tile = assemble(blocks, job.frame, weights.scheme)
            count = _write_labels(out, job, tile, mark)
        if settings.preview:
            write_picture(out / job.files[-1], draw_overlay(_own_image(job, pixels), tile))
        return count


def _write_labels(out: Path, job: Job, tile: Tile, mark: dict[str, Any]) -> int:
    """Write the label maps of one image: ids (and classes where nuclei have several), or classes alone."""
    write = write_png if job.format == "png" else write_tiff
    if not tile.scheme.ids("nucleus"):
        write(out / job.files[0], tile.semantic, mark)
        return len(np.unique(tile.semantic))
    if job.format == "png":
        write(out / job.files[0], ids_for_png(tile.instance, job.picture.where), mark)
    else:
        write(out / job.files[0], tile.instance.astype(np.uint32), mark)
    if len(tile.scheme.ids("nucleus")) > 1:
        write(out / job.files[1], tile.semantic, mark)
    return int(tile.instance.max())


def _own_image(job: Job, pixels: Pixels) -> npt.NDArray[np.uint8]:
    return pixels.read(0, 0, 0, job.frame.own_height, job.frame.own_width)


def _blocks(job: Job, pixels: Pixels, weights: Weights, settings: Settings, on_window: OnWindow) -> Iterator[Block]:
    """The image through the network, block by block."""
    glass = _class_of_glass(weights) if job.picture.kind == "slide" else None

    def predict(y: int, x: int) -> Maps:
        window = read_frame(pixels, job.frame, y, x, job.rows.size, job.columns.size)
        if glass is not None and window.min() >= _GLASS:
            maps = _certain(glass, weights, window.shape[:2])
        else:
            maps = predict_maps(weights.network, weights.head, window, weights.device, settings.precision)
        if not np.isfinite(maps.probabilities).all():
            raise UserError(
                f"{weights.path}: expected probabilities, got values that are not finite at {y},{x} of "
                f"{job.picture.where}. Use --precision fp32, or other weights."
            )
        on_window(1)
        return maps

    canvas = Canvas(job.frame.height, job.frame.width, job.rows, job.columns, predict)
    return read_blocks(canvas, weights.scheme, job.frame.mpp, weights.instances)


def _class_of_glass(weights: Weights) -> int | None:
    """The class of empty glass: air, or what is no nucleus; None where a scheme has neither."""
    scheme = weights.scheme
    nuclei = scheme.ids("nucleus")
    other = [label.id for label in scheme.classes if label.id not in nuclei]
    return next(iter((*scheme.ids("air"), *(other if nuclei else []))), None)


def _certain(label: int, weights: Weights, shape: tuple[int, ...]) -> Maps:
    """Maps of a window that is one class throughout."""
    probabilities = np.zeros((weights.head.classes, *shape), np.float32)
    probabilities[label] = 1
    return Maps(probabilities, np.zeros(shape, np.float32) if weights.head.distance else None)
