"""What an annotation tool reads and writes: shapes, their rasterisation to a mask, and JSON that people may edit."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from factory.annotate import TOOLS
from factory.core.images.files import UnreadableError
from factory.core.label_files import base
from factory.core.label_files.base import FaultsError
from factory.core.label_files.shapes import Shape, rasterise
from factory.core.registry import resolve
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme

Mask = npt.NDArray[np.uint8]


class AnnotationTool(Protocol):
    """The file format of an annotation tool. Its methods are static, as the class is never built.

    Attributes:
        suffix: of its annotation files.
    """

    suffix: str

    @staticmethod
    def skeleton(name: str, size: tuple[int, int], mark: Mapping[str, Any]) -> dict[str, Any]:
        """A file without annotations for an image by its name without suffix; `mark` describes it, and comes back."""
        ...

    @staticmethod
    def beside(scheme: LabelScheme) -> dict[str, str]:
        """Files that list the classes for the tool: name -> content."""
        ...

    @staticmethod
    def read(path: Path, size: tuple[int, int], nuclei: Collection[str] = ()) -> list[Shape]:
        """The shapes of a file, in the order in which they are painted.

        Args:
            path: the file. size: height and width of its image. nuclei: names of the classes of nuclei, for tools whose
                cells have an outline of their nucleus as well.

        Raises:
            UserError: for a file that the tool does not write, or shapes that are not areas with a class.
        """
        ...


def resolve_tool(name: str, where: str = "tool") -> type[AnnotationTool]:
    """The tool of a name; an unknown one is refused with the nearest known."""
    found: type[AnnotationTool] = resolve(TOOLS, name, where)
    return found


@dataclass(frozen=True)
class Painted:
    """Labels of shapes.

    Attributes:
        semantic: uint8 [H, W]. instance: int32 [H, W], the number of the shape, from 1, where it is a nucleus, else 0.
        disputed_px: pixels in shapes of several classes, or in several nuclei. unlabelled_px: pixels in no shape.
        lost: nuclei without a pixel, because later shapes cover them or they are too small.
    """

    semantic: Mask
    instance: npt.NDArray[np.int32]
    disputed_px: int
    unlabelled_px: int
    lost: int


def paint(shapes: Sequence[Shape], scheme: LabelScheme, size: tuple[int, int], fill: int = IGNORE) -> Painted:
    """Paint shapes; where they overlap the later one counts, and what none covers is `fill`."""
    semantic, instance = np.full(size, IGNORE, np.uint8), np.zeros(size, np.int32)
    disputed = np.zeros(size, np.bool_)
    ids: dict[str | None, int] = {name: number for number, name in enumerate(scheme.names)}
    nuclei = [number for number, shape in enumerate(shapes, 1) if ids[shape.label] in scheme.ids("nucleus")]
    for number, shape in enumerate(shapes, 1):
        label = ids[shape.label]
        own = number if label in scheme.ids("nucleus") else 0
        for rings in shape.polygons:
            part, inside = rasterise(rings, size)
            there, cells = semantic[part], instance[part]
            disputed[part] |= inside & (there != IGNORE) & ((there != label) | (cells != own))
            there[inside], cells[inside] = label, own
    unlabelled = semantic == IGNORE
    semantic[unlabelled] = fill
    lost = len(nuclei) - int(np.count_nonzero(np.isin(nuclei, instance)))
    return Painted(semantic, instance, int(np.count_nonzero(disputed)), int(np.count_nonzero(unlabelled)), lost)


def check_class(label: str | None, scheme: LabelScheme, where: str) -> None:
    """Refuse a class that a scheme does not have, with the nearest one."""
    if label is None:
        raise UserError(f"{where}: expected an annotation with a class, got one without. Set its class, or delete it.")
    if label not in scheme.names:
        near = difflib.get_close_matches(label, scheme.names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{where}: expected a class of {scheme.name} ({', '.join(scheme.names)}), got {label!r}.{hint}")


def read_json(path: Path) -> Any:
    """The content of a JSON file; a link is refused."""
    with refused(path):
        return base.read_json(path)


@contextlib.contextmanager
def refused(path: Path) -> Iterator[None]:
    """Turn a fault of an annotation file into a message that names it; a link is refused."""
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: expected a JSON file, got {'a link' if path.is_symlink() else 'none'}.")
    try:
        yield
    except FaultsError as error:
        raise UserError(f"{path}: {error.problems[0]}.") from error
    except UnreadableError as error:
        raise UserError(f"{path}: {error}.") from error
