"""Tiles of real images: where they lie, which of them are kept, and how a region is filled up to the tile's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.console import progress
from factory.core.pool import worker_threads
from factory.ingest.config import IngestConfig
from factory.ingest.geometry import Headers, ImageGeometry, check_headers
from factory.ingest.image_buffer import ImageBuffer, air_threshold, open_image, read_flat
from factory.ingest.pairing import Source, SourceError
from factory.ingest.points import Points
from factory.ingest.region_labels import ImageAgreement, agree
from manifests.labels import IGNORE

_SLIDE_PART_TILES = 64

Origins = tuple[tuple[int, int], ...]
"""Top left corners (y, x) of tiles, in pixels at the tiles' resolution."""


@dataclass(frozen=True)
class TiledImage:
    """An image, or a part of a slide, and the tiles that are cut from it.

    Attributes:
        origins: of the tiles that are kept. dropped: number of those with too much background or no labelled pixel.
        points: of the image, at the tiles' resolution.
        agreement: of region labels with the marked cells; None where no region labels are made.
        doubts: probable faults of it or its labels, a line each.
    """

    source: Source
    geometry: ImageGeometry
    origins: Origins
    dropped: int
    points: Points | None = None
    agreement: ImageAgreement | None = None
    doubts: tuple[str, ...] = ()


def select_tiles(
    sources: Sequence[Source], config: IngestConfig, workers: int
) -> tuple[list[TiledImage], tuple[int, int], list[str]]:
    """Decode every image and its labels once, collect all faults, and choose the tiles.

    Returns:
        The usable images in their order, the tile's (height, width), and all faults, a line each.
    """
    problems: list[str] = []
    headers = {source.uri: check_headers(source, config) for source in sources}
    for source in sources:
        problems += headers[source.uri].problems
        if air_threshold(source, config) is None:
            problems.append(f"{source.uri}: expected a stain for every image, got none. Add a pattern to --stain")
    size, found = _tile_size([known.geometry for known in headers.values() if known.geometry is not None], config)
    problems += found
    parts = [
        (source, origins)
        for source in sources
        for origins in _parts(headers[source.uri], size, config.overlap_px)
    ]  # fmt: skip
    images: dict[str, TiledImage] = {}
    with progress("reading", sum(len(origins) for _, origins in parts)) as bar, worker_threads(workers) as pool:
        checked = pool.map(lambda part: _check_part(part[0], part[1], headers[part[0].uri], config, size), parts)
        for (source, origins), (part, found) in zip(parts, checked, strict=True):
            problems += [problem for problem in found if problem not in problems]
            if part is not None:
                images[source.uri] = _joined(images.get(source.uri), part)
            bar.advance(len(origins))
    return list(images.values()), size, problems


def _tile_size(images: list[ImageGeometry], config: IngestConfig) -> tuple[tuple[int, int], list[str]]:
    if config.size is not None or not images:
        return config.size or (1, 1), []
    sizes = Counter((image.height, image.width) for image in images).most_common()
    if len(sizes) == 1:
        return sizes[0][0], []
    listed = ", ".join(f"{height}x{width} ({count})" for (height, width), count in sizes[:4])
    more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
    return sizes[0][0], [f"images: expected one size, or --size HxW to tile them, got {listed}{more}"]


def _parts(headers: Headers, size: tuple[int, int], overlap_px: int) -> list[Origins]:
    """Tiles that are checked in one task: all of a flat image, which is decoded as a whole, some of a slide."""
    image = headers.geometry
    if image is None or headers.broken:
        return [()]
    origins = tile_origins(image.height, image.width, size, overlap_px)
    step = len(origins) if image.level is None else _SLIDE_PART_TILES
    return [tuple(origins[start : start + step]) for start in range(0, len(origins), step)]


def _check_part(
    source: Source, origins: Origins, headers: Headers, config: IngestConfig, size: tuple[int, int]
) -> tuple[TiledImage | None, list[str]]:
    """Decode an image, or a part of a slide: its tiles, or None and the faults that its pixels show."""
    geometry = headers.geometry
    kept: list[tuple[int, int]] = []
    try:
        if geometry is None or headers.broken:
            read_flat(source, config, skip=headers.broken)  # an unusable image: reports the faults of its other files
            return None, []
        with open_image(source, geometry, config) as image:
            for y, x in origins:
                region = image.read(y, x, *geometry.clipped(size))
                padding_px = size[0] * size[1] - region.semantic.size
                share = (int(np.count_nonzero(region.background)) + padding_px) / (size[0] * size[1])
                if share <= config.max_background and bool(np.any(region.semantic != IGNORE)):
                    kept.append((y, x))
            agreement = _agreement(image, geometry, kept, size, config)
            dropped = len(origins) - len(kept)
            doubts = (*headers.doubts, *image.doubts)
            return TiledImage(source, geometry, tuple(kept), dropped, image.points, agreement, doubts), []
    except SourceError as error:
        return None, error.problems


def _agreement(
    image: ImageBuffer, geometry: ImageGeometry, kept: list[tuple[int, int]], size: tuple[int, int],
    config: IngestConfig,
) -> ImageAgreement | None:  # fmt: skip
    """Agreement of region labels with marked cells, over a flat image and over its kept tiles."""
    if image.marked is None:
        return None
    scheme, marked = config.label_scheme, image.marked
    tiles = []
    for y, x in kept:
        semantic = image.read(y, x, *geometry.clipped(size)).semantic
        inside = marked.inside(x, y, semantic.shape[1], semantic.shape[0])
        tiles.append(agree(semantic, marked.where(inside).moved(1, x, y), scheme))
    whole = image.read(0, 0, geometry.height, geometry.width)
    return ImageAgreement(agree(whole.semantic, marked, scheme), tuple(tiles))


def _joined(first: TiledImage | None, part: TiledImage) -> TiledImage:
    if first is None:
        return part
    return replace(first, origins=first.origins + part.origins, dropped=first.dropped + part.dropped)


def tile_origins(height: int, width: int, size: tuple[int, int], overlap_px: int) -> list[tuple[int, int]]:
    """Top left corners (y, x) of the tiles that cover an image, row by row.

    The last tile of a row or column is shifted inward, so that it ends at the edge. An image smaller than the tile
    gets one, which `pad` fills up.
    """
    rows, columns = _starts(height, size[0], overlap_px), _starts(width, size[1], overlap_px)
    return [(y, x) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap_px: int) -> list[int]:
    if length <= tile:
        return [0]
    last = length - tile
    return [*range(0, last, tile - overlap_px), last]


def pad(
    image: npt.NDArray[np.uint8],
    semantic: npt.NDArray[np.uint8],
    instance: npt.NDArray[np.int32],
    size: tuple[int, int],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Fill a region up to the tile's size on its right and lower side.

    The image is mirrored, which keeps its statistics; labels there are `IGNORE` and instances 0, so nothing is learned
    or measured from the mirrored pixels.
    """
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not below and not right:
        return image, semantic, instance
    margin: tuple[Any, Any] = ((0, below), (0, right))
    return (
        np.pad(image, (*margin, (0, 0)), mode="symmetric"),
        np.pad(semantic, margin, constant_values=IGNORE),
        np.pad(instance, margin),
    )
