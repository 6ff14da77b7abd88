"""Whole slides, through OpenSlide: read region by region, never as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import openslide
from PIL import Image

from factory.core.images.files import UnreadableError
from factory.core.images.resolution import Stated, plausible_mpp

SLIDES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".svslide")


@dataclass(frozen=True)
class SlideHeader:
    """Levels of a slide.

    Attributes:
        sizes: (height, width) of every level, finest first.
        downsamples: pixels of level 0 per pixel of the level.
        stated: plausible resolutions of level 0 that the slide states.
        origin: (x, y) in pixels of level 0 of the corner from which QuPath counts: that of the slide's bounds, if any.
    """

    sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    stated: Stated = ()
    origin: tuple[int, int] = (0, 0)

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of level 0 where the slide states them."""
        return self.stated[0][1] if self.stated else None


def content_files(path: Path) -> list[Path]:
    """The files that hold a slide: itself, and for MRXS those in the folder of its name."""
    companion = path.with_suffix("")
    if path.suffix.lower() != ".mrxs" or not companion.is_dir():
        return [path]
    return [path, *sorted(file for file in companion.iterdir() if file.is_file())]


def read_slide_header(path: Path) -> SlideHeader:
    """Levels and resolution of a slide. Raises an UnreadableError when OpenSlide cannot read it."""
    with SlideReader(path) as reader:
        return reader.header


class SlideReader:
    """An open slide. Threads do not share one: each task opens its own."""

    def __init__(self, path: Path) -> None:
        try:
            self._slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise UnreadableError(f"expected a slide that OpenSlide reads, got: {str(error)[:120]}") from error

    @property
    def header(self) -> SlideHeader:
        """Levels, resolution and origin."""
        slide = self._slide
        both = [slide.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
        try:
            mpp = plausible_mpp(float(both[0] or "nan"), float(both[1] or "nan"))
        except ValueError:
            mpp = None
        sizes = tuple((height, width) for width, height in slide.level_dimensions)
        bounds = (slide.properties.get(f"openslide.bounds-{axis}", "0") for axis in "xy")
        left, top = (int(value) if value.isdecimal() else 0 for value in bounds)
        stated = () if mpp is None else (("the slide", mpp),)
        return SlideHeader(sizes, tuple(float(value) for value in slide.level_downsamples), stated, (left, top))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """A region as uint8 [height, width, 3]; where the slide has no pixels it is white.

        Args:
            level: the level to read.
            x: left edge in pixels of level 0.
            y: top edge in pixels of level 0.
            width: in pixels of the level.
            height: in pixels of the level.

        Raises:
            UnreadableError: for damaged pixels. The reader is of no use after that.
        """
        try:
            region = self._slide.read_region((x, y), level, (width, height))
        except openslide.OpenSlideError as error:
            raise UnreadableError(f"expected readable pixels at {x},{y} of level {level}, got: {error}") from error
        white = Image.new("RGB", region.size, (255, 255, 255))
        white.paste(region, mask=region.getchannel("A"))
        return np.asarray(white)

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slide.close()
