"""Image and labels at the tiles' resolution: a flat image decoded as a whole, or a slide read region by region."""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.images.files import UnreadableError
from factory.core.images.slides import SlideReader
from factory.core.images.stacks import image_pixels
from factory.core.label_files.base import FaultsError
from factory.core.label_files.windows import Windows
from factory.ingest.config import IngestConfig
from factory.ingest.geometry import ImageGeometry
from factory.ingest.label_files import slide_labels
from factory.ingest.labels import Labels, air, assemble, read_labels
from factory.ingest.pairing import IMAGE, LABELS, Source, SourceError
from factory.ingest.points import Points
from factory.ingest.region_labels import label_regions
from factory.learn.cells_by_colour import with_cells

_MAX_READ_PX = 2**24
"""Pixels of a slide that are read in one go when they are to be shrunk."""


@dataclass(frozen=True)
class Region:
    """A part of an image: uint8 [H, W, 3], uint8 [H, W], int32 [H, W], and bool [H, W] of air and unlabelled pixels."""

    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    background: npt.NDArray[np.bool_]


class ImageBuffer(Protocol):
    """An opened image that tiles are cut from.

    Attributes:
        points: of the image, at the tiles' resolution. marked: those that region labels were made of, if they were.
        doubts: probable faults of its labels, a line each.
    """

    points: Points | None
    marked: Points | None
    doubts: tuple[str, ...]

    def read(self, y: int, x: int, height: int, width: int) -> Region:
        """The pixels of a rectangle that lies inside."""
        ...


def with_painted_cells(region: Region, mpp: float, config: IngestConfig) -> Region:
    """The region with cells painted by colour where a configuration asks for them, else as it is."""
    rule = config.cells_by_colour
    if rule is None:
        return region
    schemes = config.region_scheme, config.label_scheme
    return replace(region, semantic=with_cells(region.semantic, region.image, mpp, *schemes, rule=rule))


@contextlib.contextmanager
def open_image(source: Source, geometry: ImageGeometry, config: IngestConfig) -> Iterator[ImageBuffer]:
    """Open an image for tiling: a flat one is decoded here, once; a slide is read region by region.

    Raises:
        SourceError: with all faults of the image and its labels.
    """
    known = air_threshold(source, config)
    threshold = 255 if known is None else known  # nothing is air: `tiling` reports such an image
    if geometry.level is None:
        yield _FlatImage(source, geometry, config, threshold)
        return
    try:
        with SlideReader(source.image) as reader:
            labels = None
            if LABELS in source.files:
                labels = slide_labels(source, config, reader.header, geometry.scale)
            yield _Slide(reader, geometry.level, geometry, config, threshold, labels)
    except FaultsError as error:
        raise SourceError([f"{source.uris[LABELS]}: {problem}" for problem in error.problems]) from error
    except UnreadableError as error:
        raise SourceError([f"{source.uri}: {error}"]) from error


def air_threshold(source: Source, config: IngestConfig) -> int | None:
    """Grey level above which a pixel of this image is air; None when no pattern of --stain fits its name."""
    return next((grey for pattern, grey in config.air if fnmatch.fnmatchcase(source.image.name, pattern)), None)


def read_flat(source: Source, config: IngestConfig, skip: Collection[str] = ()) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Decode a flat image and its labels as stored, without the kinds in `skip`.

    Raises:
        SourceError: with all faults.
    """
    problems: list[str] = []
    image: npt.NDArray[np.uint8] = np.zeros((1, 1, 3), np.uint8)
    size: tuple[int, int] | None = None
    if IMAGE not in skip:
        try:
            image = image_pixels(source.image, source.part)
            size = image.shape[0], image.shape[1]
        except UnreadableError as error:
            problems.append(f"{source.uri}: {error}")
    labels, found = read_labels(source, config, size, skip)
    if problems + found:
        raise SourceError(problems + found)
    return image, labels


class _FlatImage:
    marked: Points | None = None

    def __init__(self, source: Source, geometry: ImageGeometry, config: IngestConfig, threshold: int) -> None:
        image, labels = read_flat(source, config)
        self.doubts = labels.doubts
        self.points = labels.points.moved(1 / geometry.scale, 0, 0) if labels.points is not None else None
        if geometry.scale != 1:
            image, labels = _resampled(image, labels, geometry)
        is_air = air(image, threshold)
        self._image = image
        if config.smooth_um is None:
            self._semantic, self._instance = assemble(labels, is_air, config.label_scheme)
        else:
            assert labels.roi is not None  # `request` refuses --regions without ROI or points
            assert self.points is not None
            self._semantic, self.marked = label_regions(source, labels.roi, self.points, is_air, geometry.mpp, config)
            self._instance = np.zeros(self._semantic.shape, np.int32)
        self._background = background(self._semantic, is_air, config)

    def read(self, y: int, x: int, height: int, width: int) -> Region:
        part = np.s_[y : y + height, x : x + width]
        return Region(self._image[part], self._semantic[part], self._instance[part], self._background[part])


class _Slide:
    points: Points | None = None
    marked: Points | None = None
    doubts: tuple[str, ...] = ()

    def __init__(
        self,
        reader: SlideReader,
        level: int,
        geometry: ImageGeometry,
        config: IngestConfig,
        threshold: int,
        labels: Windows | None = None,
    ) -> None:
        self._reader, self._level, self._geometry = reader, level, geometry
        self._config, self._threshold, self._labels = config, threshold, labels
        self.doubts = labels.doubts if labels is not None else ()

    def read(self, y: int, x: int, height: int, width: int) -> Region:
        image = self._image(y, x, height, width)
        is_air = air(image, self._threshold)
        if self._labels is None:
            semantic, instance = assemble(Labels(None, None, None, None), is_air, self._config.label_scheme)
        else:
            drawn = self._labels.draw(y, x, height, width)
            semantic, instance = drawn.semantic, drawn.instance
        return Region(image, semantic, instance, background(semantic, is_air, self._config))

    def _image(self, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        geometry = self._geometry
        factor = geometry.scale / geometry.level_scale
        if height * width * factor**2 > _MAX_READ_PX and max(height, width) > 1:
            # A coarse tile of a slide without coarse levels: in parts, so that memory does not grow with the factor.
            if height >= width:
                half = height // 2
                return np.vstack([self._image(y, x, half, width), self._image(y + half, x, height - half, width)])
            half = width // 2
            return np.hstack([self._image(y, x, height, half), self._image(y, x + half, height, width - half)])
        left, top = round(x * geometry.scale), round(y * geometry.scale)
        if math.isclose(factor, 1.0):
            return self._reader.read(self._level, left, top, width, height)
        image = self._reader.read(self._level, left, top, max(1, round(width * factor)), max(1, round(height * factor)))
        interpolation = cv2.INTER_AREA if factor > 1 else cv2.INTER_CUBIC
        resized: npt.NDArray[np.uint8] = cv2.resize(image, (width, height), interpolation=interpolation)
        return resized


def background(
    semantic: npt.NDArray[np.uint8], is_air: npt.NDArray[np.bool_], config: IngestConfig
) -> npt.NDArray[np.bool_]:
    """Air and unlabelled pixels: by the mask where the scheme has air, else by grey level."""
    scheme = config.label_scheme
    of_mask = (semantic >= len(scheme)) | np.isin(semantic, scheme.ids("air"))
    return of_mask if scheme.ids("air") else of_mask | is_air


def _resampled(
    image: npt.NDArray[np.uint8], labels: Labels, geometry: ImageGeometry
) -> tuple[npt.NDArray[np.uint8], Labels]:
    size = (geometry.width, geometry.height)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if geometry.scale > 1 else cv2.INTER_CUBIC)
    semantic, instance, roi = (_nearest(array, size) for array in (labels.semantic, labels.instance, labels.roi))
    return image, Labels(semantic, instance, roi, labels.points)


def _nearest(array: npt.NDArray[Any] | None, size: tuple[int, int]) -> Any:
    """Labels at another size, by the nearest pixel centre, which adds no new value."""
    if array is None:
        return None
    rows = ((np.arange(size[1]) + 0.5) * array.shape[0] / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * array.shape[1] / size[0]).astype(np.intp)
    return array[rows[:, None], columns]
