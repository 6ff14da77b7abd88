"""Jobs of `segment predict`: scaling, windows and files of every image, checked before a pixel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.folder import library_versions
from factory.core.images.files import MAX_IMAGE_PX
from factory.core.precision import Precision
from factory.core.weights import read_card
from factory.core.wording import grouped, plural
from manifests.errors import UserError
from segment.data.stains import Stains
from segment.network.head import has_instances
from segment.network.networks import DIVISOR
from segment.network.weights import Weights
from segment.predict import Format
from segment.predict.inputs import InputImage
from segment.predict.records import COMMAND
from segment.predict.scaling import Scaling, choose_scaling
from segment.predict.stitching import count_windows
from segment.predict.windows import Axis

ONE_PASS_PX = 1536**2
"""Largest image that goes through the network whole, unless --tile is given."""
TILE_PX = 1024
OVERLAP_PX = 128
_SHOWN = 3


@dataclass(frozen=True)
class Settings:
    """Settings of a prediction.

    Attributes:
        format: of the outputs; None for PNG, and GeoJSON of slides.
        tile, overlap: of windows in network pixels; with a tile of None, small images go through whole.
        preview: whether an overlay is written too. precision: of the network's arithmetic.
    """

    format: Format | None = None
    tile: int | None = None
    overlap: int = OVERLAP_PX
    preview: bool = False
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Job:
    """The prediction of one image.

    Attributes:
        image: the image. scaling: to the network's pixels. rows, columns: windows.
        format: of its output. files: names of all its outputs, relative to the output folder, labels first.
        windows: number that go through the network.
        stains: of the image, where the weights have a stain reference (`writing.with_stains`).
    """

    image: InputImage
    scaling: Scaling
    rows: Axis
    columns: Axis
    format: Format
    files: tuple[str, ...]
    windows: int
    stains: Stains | None = None


def check_windows(tile: int | None, overlap: int) -> None:
    """Refuse windows that do not fit the network."""
    for option, value, least in (("--tile", tile, DIVISOR), ("--overlap", overlap, 0)):
        if value is not None and (value % DIVISOR or value < least):
            padded = max(value + -value % DIVISOR, least)
            raise UserError(f"{option}: expected a multiple of {DIVISOR}, got {value}. Use {padded}.")
    size = tile or TILE_PX
    if 2 * overlap > size:
        most = size // 2 // DIVISOR * DIVISOR
        raise UserError(f"--overlap: expected at most half of the tile, {size} pixels, got {overlap}. Use {most}.")


def plan_jobs(images: Sequence[InputImage], weights: Weights, settings: Settings) -> list[Job]:
    """Plan scaling, windows and files of every image."""
    known = [float(value) for value in weights.card.get("mpp", [])]
    return [_plan(image, known, weights, settings) for image in images]


def _plan(image: InputImage, known: Sequence[float], weights: Weights, settings: Settings) -> Job:
    scaling = choose_scaling(image.sizes, image.mpp, known, image.where)
    kind = settings.format or ("geojson" if image.kind == "slide" else "png")
    pixels = max(scaling.height * scaling.width, scaling.own_height * scaling.own_width)
    if pixels > MAX_IMAGE_PX and (image.kind == "flat" or kind != "geojson" or settings.preview):
        what = "--preview" if kind == "geojson" else f"--format {kind}"
        advice = "leave it out" if kind == "geojson" else "use --format geojson"
        if image.kind == "flat":
            what, advice = "a flat image", "save it as a tiled slide file"
        raise UserError(
            f"{image.where}: expected at most {MAX_IMAGE_PX:,} pixels for {what}, got {pixels:,}. "
            f"{advice.capitalize()}."
        )
    if kind == "dataset" and image.kind == "slide":
        raise UserError(
            f"{image.where}: expected images or data sets for --format dataset, got a slide. Cut it with "
            "factory ingest --size HxW and name that data set, or use --format geojson."
        )
    if kind == "dataset" and settings.preview:
        raise UserError("--preview: expected without --format dataset, got both. Look at it with factory inspect.")
    rows, columns = _windows(scaling, settings)
    count = count_windows(rows, columns, scaling.width, scaling.mpp, weights.scheme)
    return Job(image, scaling, rows, columns, kind, _files(image, kind, weights, settings), count)


def _windows(scaling: Scaling, settings: Settings) -> tuple[Axis, Axis]:
    sides = [side + -side % DIVISOR for side in (scaling.height, scaling.width)]
    if settings.tile is None and math.prod(sides) <= ONE_PASS_PX:
        rows, columns = (Axis.along(side, side, 0) for side in sides)
    else:
        rows, columns = (Axis.along(side, settings.tile or TILE_PX, settings.overlap) for side in sides)
    return rows, columns


def _files(image: InputImage, kind: Format, weights: Weights, settings: Settings) -> tuple[str, ...]:
    if kind == "dataset":
        return ()
    suffix = {"png": ".png", "tiff": ".tif", "geojson": ".geojson"}[kind]
    files = [f"{image.name}{suffix}"]
    if kind != "geojson" and len(weights.scheme.ids("nucleus")) > 1:
        files.append(f"classes/{image.name}{suffix}")
    if settings.preview:
        files.append(f"preview/{image.name}.png")
    return tuple(files)


def describe_config(weights: Weights, settings: Settings, mpp: float | None) -> dict[str, Any]:
    """Content of run.yaml: everything that can change an output, JSON-ready."""
    return {
        "command": COMMAND,
        "weights": {"file": weights.path.name, "sha256": read_card(weights.path).sha256},
        "scheme": weights.scheme.name,
        "instances": weights.instances.model_dump(mode="json") if has_instances(weights.scheme) else None,
        "inference": weights.inference.model_dump(mode="json", exclude_defaults=True) or None,
        "format": settings.format or "png, geojson of slides",
        "tile": settings.tile or f"whole up to {ONE_PASS_PX} pixels, else {TILE_PX}",
        "overlap": settings.overlap,
        "mpp": mpp,
        "precision": settings.precision,
        "versions": library_versions("torch", "numpy", "scikit-image", "opencv-python-headless"),
        "use": "not for diagnosis",
    }


def describe_jobs(jobs: Sequence[Job], weights: Weights) -> list[str]:
    """Lines for the user: number of images and windows, and how images are resampled."""
    windows = plural(sum(job.windows for job in jobs), "window")
    lines = [f"{plural(len(jobs), 'image')}, {windows}, scheme {weights.scheme.name}"]
    lines += [f"{line}." for line in grouped((doubt for job in jobs for doubt in job.image.doubts), _SHOWN)]
    unknown = [job for job in jobs if job.image.mpp is None]
    if unknown:
        known = weights.card.get("mpp", [])
        assumed = f"taken to be the weights' {known[0]:g} um per pixel" if known else "taken as they are"
        lines.append(
            f"{plural(len(unknown), 'image')} without a resolution: {assumed}. Give it with --mpp if that is wrong."
        )
    changed: dict[str, int] = {}
    for job in jobs:
        scaling = job.scaling
        if (scaling.height, scaling.width) != (scaling.own_height, scaling.own_width):
            how = (
                f"resampled from level {scaling.level}" if scaling.is_resampled else f"read from level {scaling.level}"
            )
            text = f"at {scaling.own_mpp:.3g} um per pixel: {how} to {scaling.mpp:.3g} for the network"
            changed[text] = changed.get(text, 0) + 1
    lines += [
        f"{plural(count, 'image')} {text}; labels go back to the image's own pixels" for text, count in changed.items()
    ]
    return lines
