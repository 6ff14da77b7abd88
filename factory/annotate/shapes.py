"""What an annotation tool reads and writes: shapes, their rasterisation to a mask, and JSON that people may edit."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from factory.annotate import TOOLS
from factory.core.registry import resolve
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme

Ring = npt.NDArray[np.float64]
"""A closed outline, (x, y) [V, 2] in pixels from the upper left corner of the image."""

Mask = npt.NDArray[np.uint8]
_FIXED = 256
_MAX_FILE_BYTES = 256 << 20
_SLACK = 0.02


@dataclass(frozen=True)
class Shape:
    """An annotation: the name of its class, and polygons, each an outline followed by its holes."""

    label: str
    polygons: tuple[tuple[Ring, ...], ...]


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
    ids = {name: number for number, name in enumerate(scheme.names)}
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


def rasterise(rings: Sequence[Ring], size: tuple[int, int]) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """Rasterise a polygon: pixels whose centres are inside by the even-odd rule over all rings, and their place.

    As in `geometry.scan`, a centre on a left or upper edge is inside and one on a right or lower edge is not, so that
    neighbours share no pixel. Every edge flips the pixel where it cuts a row; a running exclusive or along the row then
    tells inside from outside. What lies beyond the image is cut off.
    """
    height, width = size
    fixed = [np.round((ring - 0.5) * _FIXED).astype(np.int64) for ring in rings]
    corners = np.concatenate(fixed)
    left, top = np.clip(corners.min(0) // _FIXED, 0, [width, height]).tolist()
    right, bottom = np.clip(corners.max(0) // _FIXED + 1, 0, [width, height]).tolist()
    flips = np.zeros((max(bottom - top, 0), max(right - left, 0) + 1), np.uint8)
    for ring in fixed:
        x0, y0 = ring.T
        x1, y1 = np.roll(ring, -1, axis=0).T
        down = y0 <= y1
        x0, x1 = np.where(down, x0, x1), np.where(down, x1, x0)
        y0, y1 = np.where(down, y0, y1), np.where(down, y1, y0)
        first, last = np.clip(-(-y0 // _FIXED), top, bottom), np.clip(-(-y1 // _FIXED), top, bottom)
        rows = last - first
        edge = np.repeat(np.arange(len(ring)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
        crossing = x0[edge] + (row * _FIXED - y0[edge]) * (x1 - x0)[edge] // np.maximum(y1 - y0, 1)[edge]
        column = np.clip(-(-crossing // _FIXED), left, max(right, left)) - left
        np.bitwise_xor.at(flips, (row - top, column), 1)
    inside = np.bitwise_xor.accumulate(flips, axis=1)[:, :-1].astype(np.bool_)
    return (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])), inside


def rings_of(mask: npt.NDArray[np.bool_], corner: Ring) -> tuple[tuple[Ring, ...], ...]:
    """The polygon of a mask bool [h, w] whose upper left pixel is the one that holds `corner`: a ring for each run."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (y, x0), (_, x1) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    ends = np.stack([x0, y, x1, y, x1, y + 1, x0, y + 1], 1).reshape(-1, 4, 2) + np.floor(corner)
    return (tuple(ends),) if len(ends) else ()


def ring_of(points: Any, size: tuple[int, int], where: str, *, least: int = 3) -> Ring:
    """A ring of (x, y) pairs as JSON has them; they may lie outside of the image as far as a tool's brush reaches."""
    try:
        ring = np.array([[float(pair[0]), float(pair[1])] for pair in points], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{where}: expected a list of points (x, y), got {str(points)[:60]}.") from error
    if len(ring) < least or not np.isfinite(ring).all():
        wanted = "two" if least == 2 else "three"
        raise UserError(f"{where}: expected {wanted} points or more, all of them numbers, got {str(points)[:60]}.")
    height, width = size
    reach = np.array([width, height]) * _SLACK
    outside = ((ring < -reach) | (ring > np.array([width, height]) + reach)).any(1)
    if outside.any():
        x, y = ring[outside][0]
        raise UserError(
            f"{where}: expected points within the image of {height}x{width}, got ({x:g}, {y:g}). "
            "Were these drawn on an image of another size?"
        )
    return ring


def check_class(label: str, scheme: LabelScheme, where: str) -> None:
    """Refuse a class that a scheme does not have, with the nearest one."""
    if label not in scheme.names:
        near = difflib.get_close_matches(label, scheme.names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{where}: expected a class of {scheme.name} ({', '.join(scheme.names)}), got {label!r}.{hint}")


def read_json(path: Path) -> Any:
    """The content of a JSON file; a link or a file above 256 MiB is refused."""
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: expected a JSON file, got {'a link' if path.is_symlink() else 'none'}.")
    if (found := path.stat().st_size) > _MAX_FILE_BYTES:
        raise UserError(f"{path}: expected at most {_MAX_FILE_BYTES:,} bytes, got {found:,}. Export it without images.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: expected JSON, got {str(error).splitlines()[0]}. Export it again.") from error
