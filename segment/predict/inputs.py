"""Images that a user names: flat files, folders of them, data sets and whole slides, found without decoding."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from factory.core.images.files import IMAGE_SUFFIXES, UnreadableError, read_rgb
from factory.core.images.listing import PICTURES, files_below, listed, what_lies_there
from factory.core.images.picture import read_picture_header
from factory.core.images.resolution import disagreement
from factory.core.images.slides import SLIDES, SlideHeader, SlideReader
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.schema import DatasetInfo
from manifests.store import STORE
from segment.predict.scaling import Pixels

Kind = Literal["flat", "slide", "tile"]
_ENDS_BYTES = 1 << 20


@dataclass(frozen=True)
class InputImage:
    """An image to be segmented.

    Attributes:
        name: stem of its outputs: that of the file, or the `sample_id` of a tile. where: its path, for messages.
        kind: a flat file, a slide, or a tile of a data set.
        sizes: (height, width) of its levels, finest first. mpp: of the finest; None if unknown.
        identity: digest that changes with the content. open: opens its pixels.
        row: of a data set's manifest. info: of that data set.
        origin: (x, y) in pixels of the finest level of the corner from which outlines are counted.
        doubts: what may be a fault, a line each.
    """

    name: str
    where: str
    kind: Kind
    sizes: tuple[tuple[int, int], ...]
    mpp: float | None
    identity: str
    open: Callable[[], AbstractContextManager[Pixels]]
    row: dict[str, Any] | None = None
    info: DatasetInfo | None = None
    origin: tuple[int, int] = (0, 0)
    doubts: tuple[str, ...] = ()


def find_images(paths: Sequence[Path], mpp: float | None) -> list[InputImage]:
    """Find every image from headers alone.

    Args:
        paths: image files, slides, folders of both (not nested), and data sets.
        mpp: given by the user. It replaces the tag of a flat file, which may come from any program, and is used for
            slides without a resolution.

    Raises:
        UserError: for a path that is none of these, an image that is not 8-bit RGB, or two images of one name.
    """
    found = [image for path in paths for image in _found(path, mpp)]
    first: dict[str, InputImage] = {}
    for image in found:
        other = first.setdefault(image.name, image)
        if other is not image:
            raise UserError(
                f"{image.where}: expected names of their own, got {image.name!r} as of {other.where}. "
                "Both would be written to one file: rename one, or use an --out for each."
            )
    return found


def _found(path: Path, mpp: float | None) -> Iterator[InputImage]:
    if (path / STORE).is_dir():
        yield from _tiles(open_dataset(path))
        return
    if not path.is_dir():
        yield _file(path, mpp)
        return
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in (*IMAGE_SUFFIXES, *SLIDES) and file.is_file() and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{path}: expected images in the folder, got {what_lies_there(path)}.")
    names = {file.name for file in files}
    rest = [uri for uri in files_below(path, 1) if Path(uri).suffix.lower() in PICTURES and uri not in names]
    for number, file in enumerate(files):
        image = _file(file, mpp)
        if rest and number == 0:
            image = replace(image, doubts=(*image.doubts, f"{path}: not read are {listed(rest)}"))
        yield image


def _file(path: Path, mpp: float | None) -> InputImage:
    try:
        if not path.exists():
            raise UnreadableError("expected an image, a folder, a data set or a slide, got no such file")
        if path.suffix.lower() not in (*IMAGE_SUFFIXES, *SLIDES):
            known = ", ".join((*IMAGE_SUFFIXES, *SLIDES))
            raise UnreadableError(f"expected a file of {known}, got {path.suffix or 'no suffix'}")
        header = read_picture_header(path)
    except UnreadableError as error:
        raise UserError(f"{path}: {str(error).removesuffix('.')}.") from error
    is_slide = isinstance(header, SlideHeader)
    used = (header.mpp or mpp) if is_slide else (mpp or header.mpp)
    doubt = disagreement(header.stated, mpp, used) if used is not None else None
    return InputImage(
        name=path.stem,
        where=str(path),
        kind="slide" if is_slide else "flat",
        sizes=header.sizes if isinstance(header, SlideHeader) else ((header.height, header.width),),
        mpp=used,
        identity=_ends_sha256(path),
        open=functools.partial(_opened_slide, path) if is_slide else functools.partial(_opened_array, read_rgb, path),
        origin=header.origin if isinstance(header, SlideHeader) else (0, 0),
        doubts=(f"{path}: {doubt}",) if doubt else (),
    )


def _tiles(dataset: Dataset) -> Iterator[InputImage]:
    info = dataset.info
    for row in dataset.table.to_pylist():
        yield InputImage(
            row["sample_id"],
            f"{dataset.root}: {row['sample_id']}",
            "tile",
            ((row["height"], row["width"]),),
            row["mpp"],
            str(row["image_sha256"]),
            functools.partial(_opened_array, dataset.store.read, row["index"], "image"),
            row,
            info,
        )


@dataclass(frozen=True)
class _Array:
    image: npt.NDArray[np.uint8]

    def read(self, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        del level
        return self.image[y : y + height, x : x + width]


@dataclass(frozen=True)
class _Slide:
    reader: SlideReader
    downsamples: tuple[float, ...]
    path: Path

    def read(self, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        scale = self.downsamples[level]
        try:
            return self.reader.read(level, round(x * scale), round(y * scale), width, height)
        except UnreadableError as error:
            raise UserError(f"{self.path}: {error}. Get the file again.") from error


@contextlib.contextmanager
def _opened_array(read: Callable[..., npt.NDArray[np.uint8]], *arguments: object) -> Iterator[Pixels]:
    yield _Array(read(*arguments))


@contextlib.contextmanager
def _opened_slide(path: Path) -> Iterator[Pixels]:
    with SlideReader(path) as reader:
        yield _Slide(reader, reader.header.downsamples, path)


def _ends_sha256(path: Path) -> str:
    """sha256 of a file's length, first and last MiB: distinguishes files, and is fast for slides of gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        digest.update(stream.read(_ENDS_BYTES))
        stream.seek(max(size - _ENDS_BYTES, 0))
        digest.update(stream.read(_ENDS_BYTES))
    return digest.hexdigest()
