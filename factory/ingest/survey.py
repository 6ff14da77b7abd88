"""The first pass: decode every image and its labels once, keep the tiles that are worth it, collect what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.core.console import progress
from factory.ingest.agreement import ImageAgreement, agree
from factory.ingest.canvas import Canvas, air_threshold, open_canvas, read_flat
from factory.ingest.config import IngestConfig
from factory.ingest.frames import Frame, Look, look_at
from factory.ingest.pairing import Source, SourceError
from factory.ingest.points import Points
from factory.ingest.threads import worker_threads
from factory.ingest.tiling import tile_origins
from manifests.labels import IGNORE

_SLIDE_PART_TILES = 64


@dataclass(frozen=True)
class Surveyed:
    """One image after the first pass.

    Attributes:
        source: the image and its files.
        frame: its geometry.
        origins: top left corners (y, x) of the tiles that are kept, at the tiles' resolution.
        dropped: tiles with too much background or without a labelled pixel.
        points: of the image, at the tiles' resolution.
        agreement: of region labels with the marked cells; None where no region labels are made.
        doubts: what is probably wrong with its labels, a line each.
    """

    source: Source
    frame: Frame
    origins: tuple[tuple[int, int], ...]
    dropped: int
    points: Points | None = None
    agreement: ImageAgreement | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """Some tiles of one image, all of them for a flat one: what a thread looks at in one go."""

    source: Source
    look: Look
    origins: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Seen:
    tiles: int = 0
    kept: tuple[tuple[int, int], ...] = ()
    points: Points | None = None
    agreement: ImageAgreement | None = None
    doubts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def survey(
    sources: Sequence[Source], config: IngestConfig, workers: int
) -> tuple[list[Surveyed], tuple[int, int], list[str]]:
    """Read everything once.

    Args:
        sources: the images.
        config: how they are read.
        workers: threads.

    Returns:
        The usable images in their order, the tile's (height, width), and everything that is wrong, a line each.
    """
    problems: list[str] = []
    looks = {source.uri: look_at(source, config) for source in sources}
    for source in sources:
        problems += looks[source.uri].problems
        if air_threshold(source, config) is None:
            problems.append(f"{source.uri}: expected a stain for every image, got none. Add a pattern to --stain")
    size, found = _tile_size([look.frame for look in looks.values() if look.frame is not None], config)
    problems += found
    parts = [part for source in sources for part in _parts(source, looks[source.uri], size, config.overlap_px)]
    seen: dict[str, list[_Seen]] = {source.uri: [] for source in sources}
    total = sum(len(part.origins) for part in parts)
    with progress("reading", total) as bar, worker_threads(workers) as pool:
        for part, outcome in zip(parts, pool.map(lambda part: _look_closer(part, config, size), parts), strict=True):
            seen[part.source.uri].append(outcome)
            bar.advance(len(part.origins))
    for source in sources:
        problems += dict.fromkeys(problem for outcome in seen[source.uri] for problem in outcome.problems)
    images = [_joined(source, look.frame, seen[source.uri]) for source in sources if (look := looks[source.uri]).frame]
    return images, size, problems


def _tile_size(frames: list[Frame], config: IngestConfig) -> tuple[tuple[int, int], list[str]]:
    if config.size is not None or not frames:
        return config.size or (1, 1), []
    sizes = Counter((frame.height, frame.width) for frame in frames).most_common()
    if len(sizes) == 1:
        return sizes[0][0], []
    listed = ", ".join(f"{height}x{width} ({count})" for (height, width), count in sizes[:4])
    more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
    return sizes[0][0], [f"images: expected one size, or --size HxW to tile them, got {listed}{more}"]


def _parts(source: Source, look: Look, size: tuple[int, int], overlap_px: int) -> list[_Part]:
    """A flat image in one part, because it is decoded as a whole; a slide in parts of many tiles."""
    if look.frame is None or look.broken:
        return [_Part(source, look)]
    origins = tile_origins(look.frame.height, look.frame.width, size, overlap_px)
    step = len(origins) if look.frame.level is None else _SLIDE_PART_TILES
    return [_Part(source, look, tuple(origins[start : start + step])) for start in range(0, len(origins), step)]


def _look_closer(part: _Part, config: IngestConfig, size: tuple[int, int]) -> _Seen:
    """Decode a part: the tiles to keep, or what its pixels show to be wrong."""
    source, frame = part.source, part.look.frame
    kept: list[tuple[int, int]] = []
    try:
        if frame is None or part.look.broken:
            # Not to be used, but what else is wrong with it is said in the same go.
            read_flat(source, config, skip=part.look.broken)
            return _Seen()
        with open_canvas(source, frame, config) as canvas:
            for y, x in part.origins:
                region = canvas.read(y, x, min(size[0], frame.height), min(size[1], frame.width))
                padding_px = size[0] * size[1] - region.semantic.size
                share = (int(np.count_nonzero(region.background)) + padding_px) / (size[0] * size[1])
                if share <= config.max_background and bool(np.any(region.semantic != IGNORE)):
                    kept.append((y, x))
            agreement = _agreement(canvas, frame, kept, size, config)
            return _Seen(len(part.origins), tuple(kept), canvas.points, agreement, canvas.doubts)
    except SourceError as error:
        return _Seen(problems=tuple(error.problems))


def _agreement(
    canvas: Canvas, frame: Frame, kept: list[tuple[int, int]], size: tuple[int, int], config: IngestConfig
) -> ImageAgreement | None:
    """Of a flat image, which is one part, and of the tiles that are kept of it."""
    if canvas.marked is None:
        return None
    scheme, marked = config.label_scheme, canvas.marked
    tiles = []
    for y, x in kept:
        region = canvas.read(y, x, min(size[0], frame.height), min(size[1], frame.width))
        height, width = region.semantic.shape
        tiles.append(agree(region.semantic, marked.where(marked.inside(x, y, width, height)).moved(1, x, y), scheme))
    whole = canvas.read(0, 0, frame.height, frame.width)
    return ImageAgreement(agree(whole.semantic, marked, scheme), tuple(tiles))


def _joined(source: Source, frame: Frame, seen: list[_Seen]) -> Surveyed:
    kept = tuple(origin for outcome in seen for origin in outcome.kept)
    dropped = sum(outcome.tiles for outcome in seen) - len(kept)
    return Surveyed(source, frame, kept, dropped, seen[0].points, seen[0].agreement, seen[0].doubts)
