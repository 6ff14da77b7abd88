"""Labels of a file -> class and instance maps: one rule each for classes, overlaps, holes and touching objects.

Classes: `ClassTable`. Overlaps: the later object counts. Holes: what was drawn before shows. Touching objects: an id
each, the one that the file states, else by their order. Only nuclei have ids; regions have a class alone.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.label_files.base import IGNORED, CellMap, Found, Outlines, RegionMap
from factory.core.label_files.shapes import Shape, rasterise
from manifests.labels import IGNORE, LabelScheme

UNCLASSIFIED, ANY = "unclassified", "*"
"""Names in a class map that stand for an object without a class, and for every name that is not listed."""


@dataclass(frozen=True)
class ClassTable:
    """Names of classes in a file -> classes of a scheme.

    Attributes:
        scheme: of the labels. given: name, `UNCLASSIFIED` or `ANY` -> class id or 255, as the user says.
    """

    scheme: LabelScheme
    given: Mapping[str, int]

    def find(self, name: str | None) -> int | None:
        """The class of a name: as given, else the scheme's class of that name or colour; None where there is none.

        Case does not matter. An object without a class is of the scheme's only kind of nucleus. "Ignore" is 255.
        """
        given = {key.lower(): label for key, label in self.given.items()}
        own = {key: label.id for label in self.scheme.classes for key in (label.name.lower(), _hex(label.colour))}
        own |= dict.fromkeys(IGNORED, IGNORE)
        nuclei = self.scheme.ids("nucleus")
        if len(nuclei) == 1:
            own[UNCLASSIFIED] = nuclei[0]
        key = UNCLASSIFIED if name is None else name.lower()
        label = given.get(key, own.get(key, given.get(ANY, -1)))
        return None if label < 0 else label

    def problems(self, counts: Mapping[str | None, int]) -> list[str]:
        """A line for each name without a class in the scheme, of the numbers of objects (or pixels) by name."""
        problems = []
        for name, count in sorted(counts.items(), key=lambda entry: -entry[1]):
            if self.find(name) is not None:
                continue
            names = self.scheme.names
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            example = f"'{UNCLASSIFIED if name is None else name}={near[0] if near else names[-1]}'"
            got = "no class" if name is None else repr(name)
            problems.append(
                f"expected classes of {self.scheme.name} ({', '.join(names)}), got {got} ({count} times). "
                f"Map it, e.g. --class-map {example}, or all others with '*=CLASS'"
            )
        return problems


@dataclass(frozen=True)
class Drawn:
    """Labels as pixels: uint8 [H, W] of class ids and 255, int32 [H, W] of ids (0 where no nucleus is), and doubts."""

    semantic: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    doubts: tuple[str, ...] = ()


def class_problems(found: Found, table: ClassTable) -> list[str]:
    """Faults of the names of classes that a file has, a line each."""
    return table.problems(_names_in(found))


def draw(found: Found, table: ClassTable, size: tuple[int, int], fill: int) -> Drawn:
    """Draw the labels of an image of `size`; pixels without any become `fill`. Names must be checked before."""
    if isinstance(found, Outlines):
        labels = _labels(found.shapes, table)
        ids = ids_of(found.shapes, labels, table.scheme)
        drawn = draw_shapes(found.shapes, labels, ids, size, fill)
        shown = len(np.unique(drawn.instance[drawn.instance > 0]))
        lost = sum(label in table.scheme.ids("nucleus") for label in labels) - shown
        doubts = [f"{lost} objects have no pixel: too small, or covered by later ones"] if lost else []
        return Drawn(drawn.semantic, drawn.instance, (*found.notes, *doubts))
    if isinstance(found, CellMap):
        return _draw_cells(found, table, fill)
    return _draw_regions(found, table)


def ids_of(shapes: Sequence[Shape], labels: Sequence[int], scheme: LabelScheme) -> list[int]:
    """Ids of nuclei: those that the file states where all have one of their own, else by their order; 0 of others."""
    nuclei = [number for number, label in enumerate(labels) if label in scheme.ids("nucleus")]
    stated = [shapes[number].number for number in nuclei]
    known = {number for number in stated if number is not None and 0 < number < 2**31}
    ids = [0] * len(shapes)
    for place, own in zip(nuclei, stated, strict=True):
        ids[place] = own if own is not None and len(known) == len(nuclei) else place + 1
    return ids


def draw_shapes(
    shapes: Sequence[Shape],
    labels: Sequence[int],
    ids: Sequence[int],
    size: tuple[int, int],
    fill: int,
) -> Drawn:
    """Draw shapes in their order, each with its class id and its instance id (0: none)."""
    semantic, instance = np.full(size, fill, np.uint8), np.zeros(size, np.int32)
    for shape, label, own in zip(shapes, labels, ids, strict=True):
        for rings in shape.polygons:
            part, inside = rasterise(rings, size)
            semantic[part][inside] = label
            instance[part][inside] = own
    return Drawn(semantic, instance)


def _draw_cells(found: CellMap, table: ClassTable, fill: int) -> Drawn:
    present, places = np.unique(found.instance, return_inverse=True)
    labels = [fill if number == 0 else _label(table, found.classes.get(number)) for number in present.tolist()]
    nuclei = table.scheme.ids("nucleus")
    ids = np.where(np.isin(labels, nuclei), present, 0).astype(np.int32)
    shape = found.instance.shape
    return Drawn(np.array(labels, np.uint8)[places].reshape(shape), ids[places].reshape(shape), found.notes)


def _draw_regions(found: RegionMap, table: ClassTable) -> Drawn:
    """Classes of pixels; with a scheme of nuclei, each connected part of a class of nuclei is one."""
    import cv2

    labels = np.array([table.find(name) or 0 for name in found.names], np.uint8)
    semantic: npt.NDArray[np.uint8] = labels[found.index]
    instance = np.zeros(semantic.shape, np.int32)
    doubts = list(found.notes)
    for label in table.scheme.ids("nucleus"):
        count, parts = cv2.connectedComponents((semantic == label).astype(np.uint8), connectivity=4)
        instance = np.where(parts > 0, parts + int(instance.max()), instance)
        if count > 1 and not doubts:
            doubts.append("objects are the connected parts of a colour: those that touch became one")
    return Drawn(semantic, instance.astype(np.int32), tuple(doubts))


def _names_in(found: Found) -> Counter[str | None]:
    if isinstance(found, Outlines):
        return Counter(shape.label for shape in found.shapes)
    if isinstance(found, CellMap):
        return Counter(found.classes.get(number) for number in np.unique(found.instance).tolist() if number)
    counts = np.bincount(np.ravel(found.index), minlength=len(found.names)).tolist()
    return Counter({name: count for name, count in zip(found.names, counts, strict=True) if count})


def _labels(shapes: Sequence[Shape], table: ClassTable) -> list[int]:
    known: dict[str | None, int] = {name: _label(table, name) for name in {shape.label for shape in shapes}}
    return [known[shape.label] for shape in shapes]


def _label(table: ClassTable, name: str | None) -> int:
    label = table.find(name)
    assert label is not None  # `class_problems` comes first
    return label


def _hex(colour: Sequence[int]) -> str:
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"


def colour_name(colour: Sequence[Any]) -> str:
    """``#rrggbb`` of a colour, the name of its class in a class map."""
    return _hex([int(value) for value in colour[:3]])
