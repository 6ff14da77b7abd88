"""The first pass: decode every image and its labels once, keep the tiles that are worth it, collect what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from factory.ingest.canvas import air_threshold, open_canvas, read_flat
from factory.ingest.config import IngestConfig
from factory.ingest.frames import Frame, Look, look_at
from factory.ingest.header import SourceError
from factory.ingest.pairing import Source
from factory.ingest.points import Points
from factory.ingest.threads import worker_threads
from factory.ingest.tiling import tile_origins
from manifests.labels import IGNORE


@dataclass(frozen=True)
class Surveyed:
    """One image after the first pass.

    Attributes:
        source: the image and its files.
        frame: its geometry.
        origins: top left corners (y, x) of the tiles that are kept, at the tiles' resolution.
        dropped: tiles with too much background or without a labelled pixel.
        points: of the image, at the tiles' resolution.
    """

    source: Source
    frame: Frame
    origins: tuple[tuple[int, int], ...]
    dropped: int
    points: Points | None = None


def survey(
    sources: Sequence[Source], config: IngestConfig, workers: int, on_done: Callable[[], None] = lambda: None
) -> tuple[list[Surveyed], tuple[int, int], list[str]]:
    """Read everything once.

    Args:
        sources: the images.
        config: how they are read.
        workers: threads.
        on_done: called once for every image.

    Returns:
        The images in their order, the tile's (height, width), and everything that is wrong, a line each.
    """
    problems: list[str] = []
    looks = [look_at(source, config) for source in sources]
    for source, look in zip(sources, looks, strict=True):
        problems += look.problems
        if air_threshold(source, config) < 0:
            problems.append(f"{source.uri}: expected a stain for every image, got none. Add a pattern to --stain")
    size, found = _tile_size([look.frame for look in looks if look.frame is not None], config)
    problems += found
    surveyed: list[Surveyed] = []

    def work(pair: tuple[Source, Look]) -> Surveyed | list[str]:
        return _survey_one(*pair, config, size)

    with worker_threads(workers) as pool:
        for outcome in pool.map(work, zip(sources, looks, strict=True)):
            if isinstance(outcome, Surveyed):
                surveyed.append(outcome)
            else:
                problems += outcome
            on_done()
    return surveyed, size, problems


def _tile_size(frames: list[Frame], config: IngestConfig) -> tuple[tuple[int, int], list[str]]:
    if config.size is not None or not frames:
        return config.size or (1, 1), []
    sizes = Counter((frame.height, frame.width) for frame in frames).most_common()
    if len(sizes) == 1:
        return sizes[0][0], []
    listed = ", ".join(f"{height}x{width} ({count})" for (height, width), count in sizes[:4])
    more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
    return sizes[0][0], [f"images: expected one size, or --size HxW to tile them, got {listed}{more}"]


def _survey_one(source: Source, look: Look, config: IngestConfig, size: tuple[int, int]) -> Surveyed | list[str]:
    """The image's tiles, or what its pixels show to be wrong."""
    frame = look.frame
    try:
        if frame is None or look.broken:
            # Not to be used, but what else is wrong with it is said in the same go.
            read_flat(source, config, skip=look.broken)
            return []
        kept: list[tuple[int, int]] = []
        origins = tile_origins(frame.height, frame.width, size, config.overlap_px)
        with open_canvas(source, frame, config) as canvas:
            for y, x in origins:
                region = canvas.read(y, x, min(size[0], frame.height), min(size[1], frame.width))
                padding = size[0] * size[1] - region.semantic.size
                share = (int(np.count_nonzero(region.background)) + padding) / (size[0] * size[1])
                if share <= config.max_background and bool(np.any(region.semantic != IGNORE)):
                    kept.append((y, x))
            points = canvas.points
    except SourceError as error:
        return error.problems
    return Surveyed(source, frame, tuple(kept), len(origins) - len(kept), points)
