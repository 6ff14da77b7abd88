"""What is to be predicted and how, checked before a pixel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.images.files import MAX_IMAGE_PX
from factory.core.precision import Precision
from factory.core.runs import library_versions
from factory.core.weights import read_card
from manifests.errors import UserError
from segment.network.head import has_instances
from segment.network.networks import DIVISOR
from segment.network.weights import Weights
from segment.predict import Format
from segment.predict.frames import Frame, choose_frame
from segment.predict.records import COMMAND
from segment.predict.sources import Picture
from segment.predict.stitching import count_windows
from segment.predict.windows import Axis

ONE_PASS_PX = 1536**2
"""Images up to this size go through the network whole, unless a window is asked for."""
TILE_PX = 1024
OVERLAP_PX = 128


@dataclass(frozen=True)
class Settings:
    """How images are predicted.

    Attributes:
        format: of the outputs; None writes PNG, and GeoJSON of slides.
        tile, overlap: of windows in network pixels; a tile of None takes small images whole.
        preview: whether an overlay is written beside. precision: of the network's arithmetic.
    """

    format: Format | None = None
    tile: int | None = None
    overlap: int = OVERLAP_PX
    preview: bool = False
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Job:
    """One image and how it is gone through.

    Attributes:
        picture: the image. frame: as the network sees it. rows, columns: windows.
        format: of its output. files: names of all that is written of it, relative to the output folder; the first one
            holds the labels. windows: how many go through the network.
    """

    picture: Picture
    frame: Frame
    rows: Axis
    columns: Axis
    format: Format
    files: tuple[str, ...]
    windows: int


def check_windows(tile: int | None, overlap: int) -> None:
    """Whether windows fit the network.

    Raises:
        UserError: naming the next size that does.
    """
    for option, value, least in (("--tile", tile, DIVISOR), ("--overlap", overlap, 0)):
        if value is not None and (value % DIVISOR or value < least):
            padded = max(value + -value % DIVISOR, least)
            raise UserError(f"{option}: expected a multiple of {DIVISOR}, got {value}. Use {padded}.")
    size = tile or TILE_PX
    if 2 * overlap > size:
        most = size // 2 // DIVISOR * DIVISOR
        raise UserError(f"--overlap: expected at most half of the tile, {size} pixels, got {overlap}. Use {most}.")


def plan_jobs(pictures: Sequence[Picture], weights: Weights, settings: Settings) -> list[Job]:
    """Frame, windows and files of every image.

    Raises:
        UserError: for an image that does not fit the weights or the format, before any is predicted.
    """
    known = [float(value) for value in weights.card.get("mpp", [])]
    return [_plan(picture, known, weights, settings) for picture in pictures]


def _plan(picture: Picture, known: Sequence[float], weights: Weights, settings: Settings) -> Job:
    frame = choose_frame(picture.sizes, picture.mpp, known, picture.where)
    kind = settings.format or ("geojson" if picture.kind == "slide" else "png")
    pixels = max(frame.height * frame.width, frame.own_height * frame.own_width)
    if pixels > MAX_IMAGE_PX and (picture.kind == "flat" or kind != "geojson" or settings.preview):
        what = "--preview" if kind == "geojson" else f"--format {kind}"
        advice = "leave it out" if kind == "geojson" else "use --format geojson"
        if picture.kind == "flat":
            what, advice = "a flat image", "save it as a tiled slide file"
        raise UserError(
            f"{picture.where}: expected at most {MAX_IMAGE_PX:,} pixels for {what}, got {pixels:,}. "
            f"{advice.capitalize()}."
        )
    if kind == "dataset" and picture.kind == "slide":
        raise UserError(
            f"{picture.where}: expected images or data sets for --format dataset, got a slide. Cut it with "
            "factory ingest --size HxW and name that data set, or use --format geojson."
        )
    if kind == "dataset" and settings.preview:
        raise UserError("--preview: expected without --format dataset, got both. Look at it with factory inspect.")
    rows, columns = _windows(frame, settings)
    count = count_windows(rows, columns, frame.width, frame.mpp, weights.scheme)
    return Job(picture, frame, rows, columns, kind, _files(picture, kind, weights, settings), count)


def _windows(frame: Frame, settings: Settings) -> tuple[Axis, Axis]:
    sides = [side + -side % DIVISOR for side in (frame.height, frame.width)]
    if settings.tile is None and math.prod(sides) <= ONE_PASS_PX:
        rows, columns = (Axis.along(side, side, 0) for side in sides)
    else:
        rows, columns = (Axis.along(side, settings.tile or TILE_PX, settings.overlap) for side in sides)
    return rows, columns


def _files(picture: Picture, kind: Format, weights: Weights, settings: Settings) -> tuple[str, ...]:
    if kind == "dataset":
        return ()
    suffix = {"png": ".png", "tiff": ".tif", "geojson": ".geojson"}[kind]
    files = [f"{picture.name}{suffix}"]
    if kind != "geojson" and len(weights.scheme.ids("nucleus")) > 1:
        files.append(f"classes/{picture.name}{suffix}")
    if settings.preview:
        files.append(f"preview/{picture.name}.png")
    return tuple(files)


def describe_config(weights: Weights, settings: Settings, mpp: float | None) -> dict[str, Any]:
    """Everything that can change an output, JSON-ready: the content of run.yaml."""
    return {
        "command": COMMAND,
        "weights": {"file": weights.path.name, "sha256": read_card(weights.path).sha256},
        "scheme": weights.scheme.name,
        "instances": weights.instances.model_dump(mode="json") if has_instances(weights.scheme) else None,
        "format": settings.format or "png, geojson of slides",
        "tile": settings.tile or f"whole up to {ONE_PASS_PX} pixels, else {TILE_PX}",
        "overlap": settings.overlap,
        "mpp": mpp,
        "precision": settings.precision,
        "versions": library_versions("torch", "numpy", "scikit-image", "opencv-python-headless"),
        "use": "not for diagnosis",
    }


def describe_jobs(jobs: Sequence[Job], weights: Weights) -> list[str]:
    """A line on what is done, and one for each way in which images are taken other than as they are."""
    lines = [f"{len(jobs)} images, {sum(job.windows for job in jobs)} windows, scheme {weights.scheme.name}"]
    silent = [job for job in jobs if job.picture.mpp is None]
    if silent:
        known = weights.card.get("mpp", [])
        taken = f"taken to be the weights' {known[0]:g} um per pixel" if known else "taken as they are"
        lines.append(f"{len(silent)} images state no resolution: {taken}. Say it with --mpp if that is wrong.")
    changed: dict[str, int] = {}
    for job in jobs:
        frame = job.frame
        if (frame.height, frame.width) != (frame.own_height, frame.own_width):
            how = f"resampled from level {frame.level}" if frame.is_resampled else f"read from level {frame.level}"
            text = f"at {frame.own_mpp:.3g} um per pixel: {how} to {frame.mpp:.3g} for the network"
            changed[text] = changed.get(text, 0) + 1
    lines += [f"{count} images {text}; labels go back to the image's own pixels" for text, count in changed.items()]
    return lines


def output_folders(out: Path, jobs: Sequence[Job]) -> list[Path]:
    """The folders that the outputs lie in."""
    return sorted({(out / name).parent for job in jobs for name in job.files})
