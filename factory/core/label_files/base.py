"""What a format of label files must offer, what its files say of an image, and their faults."""

from __future__ import annotations

import contextlib
import functools
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from factory.core.images.files import UnreadableError
from factory.core.label_files import FORMATS
from factory.core.label_files.shapes import Shape
from factory.core.registry import resolve
from manifests.limits import parse_json

T = TypeVar("T")

MAX_TEXT_BYTES = 1 << 30
"""Size of a label file in text, after decompression."""

IGNORED = ("ignore", "ignore*")
"""Names, in lower case, of areas that count for nothing; the second is QuPath's."""

_MAX_VALUES = 100_000_000
_MAX_EXPANSION = 200
"""Decompressed bytes for each byte of a gzipped file."""

_MAX_SHOWN = 20
"""Faults that are listed of one file."""


@dataclass(frozen=True)
class Outlines:
    """Objects with outlines, in the order in which they are drawn. `notes`: what was left out, a line each."""

    shapes: tuple[Shape, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellMap:
    """Objects as pixels: int [H, W], ids as in the file, 0 = none; `classes`: id -> name of its class, None unnamed."""

    instance: npt.NDArray[Any]
    classes: Mapping[int, str | None]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegionMap:
    """Classes as pixels: int [H, W] that indexes `names`."""

    index: npt.NDArray[Any]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


Found = Outlines | CellMap | RegionMap
"""What a label file says of one image."""


class LabelFormat(Protocol):
    """A format of label files. Its methods are of the class, which is never built.

    Attributes:
        suffixes: ends of its files' names, in lower case, the longest first. scheme: default scheme of their labels.
    """

    suffixes: tuple[str, ...]
    scheme: str = "nuclei"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file with one of the suffixes is of this format, by a look at its content."""
        ...

    @classmethod
    def stems(cls, path: Path) -> Sequence[str]:
        """Names, without suffix, of the images that a file labels: its own name, unless it lists several."""
        return [stem_of(path, cls.suffixes)]

    @classmethod
    def size(cls, path: Path) -> tuple[int, int] | None:
        """Height and width, for a file that holds a map of one image; None for others."""
        return None

    @classmethod
    def stack(cls, path: Path) -> Path | None:
        """The stack of images, in the order of `stems`, that a stack of labels belongs to; None for other files."""
        return None

    @classmethod
    def beside(cls, path: Path) -> Sequence[Path]:
        """Other files that are read with this one."""
        return ()

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Found:
        """The labels of an image.

        Args:
            path: the label file. stem: of the image. size: height and width of the image.
            nuclei: whether nuclei are wanted; otherwise regions. For files that hold both.

        Raises:
            UnreadableError: for a file that is not of this format; `FaultsError` for faults of its objects.
        """
        ...


def resolve_format(name: str) -> type[LabelFormat]:
    """The format of a name; an unknown one is refused with the nearest known."""
    found: type[LabelFormat] = resolve(FORMATS, name, "--labels")
    return found


def stem_of(path: Path, suffixes: Sequence[str]) -> str:
    """The file's name without the first of the suffixes that it ends with."""
    end = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(end)]


class FaultsError(UnreadableError):
    """Faults of a label file: `problems`, a line each, without the file's name."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - _MAX_SHOWN
        self.problems = [*problems[:_MAX_SHOWN], *([f"{more} more faults in this file"] if more > 0 else [])]
        super().__init__("; ".join(self.problems))


class Faults:
    """Gathers the faults of a file's objects, so that all are reported together."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    @contextlib.contextmanager
    def of(self, where: str) -> Iterator[None]:
        """Gather a fault that is found inside, under the name of the object."""
        try:
            yield
        except UnreadableError as error:
            self._problems.append(f"{where}: {error}")

    def check(self) -> None:
        """Raise a `FaultsError` if there were any."""
        if self._problems:
            raise FaultsError(self._problems)


def once_per_file(function: Callable[[Path], T]) -> Callable[[Path], T]:
    """Keep what a function made of the last two files: a file of many images is read for each of them."""
    kept = functools.lru_cache(maxsize=2)(lambda path, mtime_ns, size: function(path))

    @functools.wraps(function)
    def call(path: Path) -> T:
        try:
            state = path.stat()
        except OSError as error:
            raise UnreadableError(f"expected a file that can be read, got {error.strerror}") from error
        return kept(path, state.st_mtime_ns, state.st_size)

    return call


@once_per_file
def read_json(path: Path) -> Any:
    """The content of a JSON file, which may be gzipped (``.gz``)."""
    try:
        return parse_json(read_bounded(path), _MAX_VALUES)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"expected JSON, got {str(error).splitlines()[0]}. Export it again") from error


def read_bounded(path: Path) -> bytes:
    """The bytes of a file, decompressed where its name ends in ``.gz``; more than `MAX_TEXT_BYTES` are refused."""
    try:
        is_packed = path.suffix.lower() == ".gz"
        most = min(MAX_TEXT_BYTES, max(path.stat().st_size, 1 << 16) * _MAX_EXPANSION) if is_packed else MAX_TEXT_BYTES
        with gzip.open(path) if is_packed else path.open("rb") as stream:
            content = stream.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"expected a file that can be read, got {str(error)[:80]}. Export it again") from error
    if len(content) > most:
        raise UnreadableError(f"expected at most {most:,} bytes, got more. Split it, or export it without images")
    return content


def check_size(found: Sequence[Any], size: tuple[int, int]) -> None:
    """Refuse labels whose size, height and width, is not that of the image."""
    if tuple(found) != tuple(size):
        raise UnreadableError(
            f"expected annotations of an image of {size[0]}x{size[1]}, got {found[0]}x{found[1]}. "
            "Pair it with its own image, or export it at the image's size"
        )


def as_ids(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Instance ids of any numeric type as int64 [H, W]; anything but whole numbers from 0 to 2^31-1 is refused."""
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise UnreadableError(f"expected instance ids [H, W], got {array.dtype} of shape {array.shape}")
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64)
    if array.dtype.kind == "f" and not np.array_equal(whole, array):
        raise UnreadableError("expected whole numbers as instance ids, got fractions. Export ids")
    low, high = (int(whole.min()), int(whole.max())) if whole.size else (0, 0)
    if low < 0 or high > 2**31 - 1:
        raise UnreadableError(f"expected instance ids from 0 to {2**31 - 1}, got {low}..{high}. Number them anew")
    return whole


def classes_by_majority(
    instance: npt.NDArray[Any], classes: npt.NDArray[Any], names: Mapping[int, str]
) -> tuple[dict[int, str | None], tuple[str, ...]]:
    """The class of each object, that of most of its pixels, and notes on objects of several classes.

    Args:
        instance, classes: int [H, W] of one shape. names: value in `classes` -> name; 0 is none, unless named.
    """
    inside = instance > 0
    pairs, counts = np.unique(np.stack([instance[inside], classes[inside]]), axis=1, return_counts=True)
    best: dict[int, tuple[int, int]] = {}
    mixed = set()
    for number, value, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        if number in best:
            mixed.add(number)
        best[number] = max(best.get(number, (0, 0)), (count, value))
    found = {number: names.get(value) if value or 0 in names else None for number, (_, value) in best.items()}
    notes = (f"{len(mixed)} objects have pixels of several classes: most pixels count",) if mixed else ()
    return found, notes


def read_xml(path: Path, root: str) -> Any:
    """The outermost element of an XML file; entities and another element than `root` are refused."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        element = fromstring(read_bounded(path))
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise UnreadableError(f"expected XML, got {str(error).splitlines()[0][:80]}. Export it again") from error
    if element.tag != root:
        raise UnreadableError(f"expected XML of <{root}>, got <{element.tag}>")
    return element


def starts_with_root(path: Path, root: str) -> bool:
    """Whether the first element of an XML file is `root`, by a look at its start."""
    with path.open("rb") as stream:
        start = stream.read(1 << 14)
    for encoding in ("utf-8-sig", "utf-16"):
        found = re.search(r"<([A-Za-z_][\w.-]*)", start.decode(encoding, errors="ignore"))
        if found is not None:
            return found[1] == root
    return False
