"""What an annotation tool reads and writes: shapes, their rasterisation to a mask, and JSON that people may edit."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
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
    def read(path: Path, size: tuple[int, int]) -> list[Shape]:
        """The shapes of a file, in the order in which they are painted.

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
    """A mask uint8 [H, W], the number of pixels in shapes of several classes, and the number of pixels in none."""

    semantic: Mask
    disputed_px: int
    unlabelled_px: int


def paint(shapes: Sequence[Shape], scheme: LabelScheme, size: tuple[int, int], fill: int = IGNORE) -> Painted:
    """Paint shapes into a mask; where they overlap the later one counts, and what none covers is `fill`."""
    semantic = np.full(size, IGNORE, np.uint8)
    disputed = np.zeros(size, np.bool_)
    ids: dict[str | None, int] = {name: number for number, name in enumerate(scheme.names)}
    for shape in shapes:
        label = ids[shape.label]
        for rings in shape.polygons:
            part, inside = rasterise(rings, size)
            there = semantic[part]
            disputed[part] |= inside & (there != IGNORE) & (there != label)
            there[inside] = label
    unlabelled = semantic == IGNORE
    semantic[unlabelled] = fill
    return Painted(semantic, int(np.count_nonzero(disputed)), int(np.count_nonzero(unlabelled)))


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
