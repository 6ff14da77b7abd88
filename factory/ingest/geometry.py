"""Size and resolution of images, as stored and as their tiles have them; read from headers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from factory.core.images.files import Header, UnreadableError, check_rgb
from factory.core.images.label_pixels import read_label_header
from factory.core.images.picture import read_picture_header
from factory.core.images.resolution import disagreement
from factory.core.images.slides import SLIDES, SlideHeader
from factory.core.images.stacks import image_header
from factory.core.resolutions import SAME_MPP
from factory.ingest.config import IngestConfig
from factory.ingest.pairing import IMAGE, LABELS, Source

_MAX_ENLARGEMENT = 2.0


@dataclass(frozen=True)
class ImageGeometry:
    """Size of an image at the tiles' resolution, and the way back to its stored pixels.

    Attributes:
        height, width: in pixels at the tiles' resolution.
        mpp: micrometres per pixel of the tiles; NaN where neither file nor option states it, which is a fault.
        scale: pixels of level 0 per pixel of the tiles.
        level: that is read of a slide; None for a flat image. level_scale: pixels of level 0 per pixel of that level.
    """

    height: int
    width: int
    mpp: float
    scale: float = 1.0
    level: int | None = None
    level_scale: float = 1.0

    def clipped(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a tile, at most the image's."""
        return min(size[0], self.height), min(size[1], self.width)


@dataclass(frozen=True)
class Headers:
    """Content of the headers of an image and its partners.

    Attributes:
        geometry: None when the image cannot be used. problems: faults, a line each, with the file's name.
        broken: kinds of files that are not worth decoding. doubts: what may be a fault, a line each.
    """

    geometry: ImageGeometry | None
    problems: tuple[str, ...] = ()
    broken: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()


def check_headers(source: Source, config: IngestConfig) -> Headers:
    """Read the headers of an image and its partners; nothing is decoded."""
    try:
        picture = None
        if not source.uris.keys() - {IMAGE, LABELS} and source.part is None:
            picture = read_picture_header(source.image)
        if isinstance(picture, SlideHeader):
            geometry = _slide_geometry(picture, config)
            return Headers(geometry, _unknown_mpp(source, geometry), doubts=_doubts(source, picture, config))
        if source.image.suffix.lower() in SLIDES:
            raise UnreadableError("expected a flat image for labels, got a slide. Cut the labelled regions out")
        header = image_header(source.image, source.part)
    except UnreadableError as error:
        return Headers(None, (f"{source.uri}: {error}",), frozenset({IMAGE}))
    problems = _partner_problems(source, header)
    try:
        check_rgb(header)
        flat = _flat_geometry(header, config)
    except UnreadableError as error:
        problems[IMAGE] = f"{source.uri}: {error}"
        return Headers(None, tuple(problems.values()), frozenset(problems))
    faults = (*_unknown_mpp(source, flat), *problems.values())
    return Headers(flat, faults, frozenset(problems), _doubts(source, header, config))


def _partner_problems(source: Source, image: Header) -> dict[str, str]:
    """Faults that the headers of an image's partners show, by kind."""
    problems = {}
    for kind in sorted(source.files.keys() - {IMAGE, LABELS, "points"}):
        try:
            _check_partner(source.files[kind], image)
        except UnreadableError as error:
            problems[kind] = f"{source.uris[kind]}: {error}"
    return problems


def _check_partner(path: Path, image: Header) -> None:
    header = read_label_header(path)
    if (header.height, header.width) != (image.height, image.width):
        raise UnreadableError(
            f"expected {image.height}x{image.width} pixels as its image, got {header.height}x{header.width}. "
            "Pair it with its own image, or cut both to one size"
        )


def _flat_geometry(header: Header, config: IngestConfig) -> ImageGeometry:
    # The resolution tag of a flat file is often of the last program that wrote it, so --mpp takes precedence.
    mpp = config.mpp or header.mpp
    if mpp is None:
        return ImageGeometry(header.height, header.width, math.nan)
    if config.resample_mpp is None or _close(mpp, config.resample_mpp):
        return ImageGeometry(header.height, header.width, mpp)
    scale = _checked_scale(mpp, config.resample_mpp)
    height, width = max(1, round(header.height / scale)), max(1, round(header.width / scale))
    return ImageGeometry(height, width, config.resample_mpp, scale)


def _slide_geometry(header: SlideHeader, config: IngestConfig) -> ImageGeometry:
    """Level 0, or the coarsest level that is fine enough. A slide's own resolution takes precedence over --mpp."""
    if config.size is None:
        raise UnreadableError("expected --size HxW for a slide, got none. Say for example --size 512x512")
    mpp = header.mpp or config.mpp
    if mpp is None:
        return ImageGeometry(*header.sizes[0], math.nan, level=0)
    level, target = 0, config.resample_mpp or mpp
    for number, downsample in enumerate(header.downsamples):
        if mpp * downsample <= target or _close(mpp * downsample, target):
            level = number
    level_scale = header.downsamples[level]
    height, width = header.sizes[level]
    if _close(mpp * level_scale, target):
        return ImageGeometry(height, width, mpp * level_scale, level_scale, level, level_scale)
    scale = _checked_scale(mpp, target)
    height, width = header.sizes[0]
    return ImageGeometry(max(1, int(height / scale)), max(1, int(width / scale)), target, scale, level, level_scale)


def _doubts(source: Source, header: Header | SlideHeader, config: IngestConfig) -> tuple[str, ...]:
    """Sources of the resolution that disagree, and an orientation tag beside labels, a line each."""
    doubts = []
    used = (header.mpp or config.mpp) if isinstance(header, SlideHeader) else (config.mpp or header.mpp)
    if used is not None and (doubt := disagreement(header.stated, config.mpp, used)):
        doubts.append(f"{source.uri}: {doubt}")
    if isinstance(header, Header) and header.orientation != 1 and len(source.files) > 1:
        doubts.append(
            f"{source.uri}: turned as viewers show it (orientation {header.orientation}); its labels must be drawn so"
        )
    return tuple(doubts)


def _unknown_mpp(source: Source, geometry: ImageGeometry) -> tuple[str, ...]:
    if not math.isnan(geometry.mpp):
        return ()
    return (f"{source.uri}: expected a resolution, got none in the file. Say it with --mpp, e.g. --mpp 0.25",)


def _close(mpp: float, target: float) -> bool:
    return abs(mpp / target - 1) <= SAME_MPP


def _checked_scale(mpp: float, target: float) -> float:
    scale = target / mpp
    if scale < 1 / _MAX_ENLARGEMENT:
        raise UnreadableError(
            f"expected --resample-mpp of at least {mpp / _MAX_ENLARGEMENT:g}, got {target:g}: "
            f"the image has {mpp:g} um per pixel"
        )
    return scale
