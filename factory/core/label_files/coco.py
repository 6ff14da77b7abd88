"""COCO's instance annotations (Lin et al. 2014): one JSON for many images, polygons or run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import Faults, LabelFormat, Outlines, check_size, once_per_file, read_json
from factory.core.label_files.shapes import Ring, Shape, ring_of, rings_of

_CROWD = "ignore"


class Coco(LabelFormat):
    """COCO JSON. Several polygons of an object are its parts (their union); crowds are ignored (255)."""

    suffixes = (".json",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its lists of images and annotations."""
        document = read_json(path)
        return isinstance(document, dict) and "images" in document and "annotations" in document

    @classmethod
    def stems(cls, path: Path) -> Sequence[str]:
        """Stems of the listed images, whatever folder they stand in."""
        return list(_images(path))

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Outlines:
        """The annotations of an image, in their order."""
        image = _images(path)[stem]
        if "height" in image or "width" in image:
            check_size((image.get("height"), image.get("width")), size)
        names = _categories(read_json(path))
        faults, shapes = Faults(), []
        for number, annotation in _annotations(path).get(image.get("id"), ()):
            with faults.of(f"annotation {annotation.get('id', number)}"):
                category = annotation.get("category_id")
                if category not in names:
                    raise UnreadableError(f"expected a category of the file's, got {category!r}. Add it")
                label = _CROWD if annotation.get("iscrowd") else names[category]
                own = annotation.get("instance_id")
                polygons = _polygons(annotation.get("segmentation"), size)
                shapes.append(Shape(label, polygons, own if isinstance(own, int) else None))
        faults.check()
        return Outlines(tuple(shapes))


@once_per_file
def _images(path: Path) -> Mapping[str, Any]:
    """Entries of images by stem."""
    found: dict[str, Any] = {}
    for entry in _list(read_json(path), "images"):
        name = str(entry.get("file_name")).replace("\\", "/")
        stem = PurePosixPath(name).stem
        if stem in found:
            raise UnreadableError(f"expected names of images that differ without folder and suffix, got {stem} twice")
        found[stem] = entry
    return found


@once_per_file
def _annotations(path: Path) -> Mapping[Any, list[tuple[int, Any]]]:
    """Annotations with their numbers by the id of their image; one of an image that is not listed is refused."""
    document = read_json(path)
    found: dict[Any, list[tuple[int, Any]]] = {entry.get("id"): [] for entry in _list(document, "images")}
    for number, annotation in enumerate(_list(document, "annotations"), 1):
        image = annotation.get("image_id")
        if image not in found:
            raise UnreadableError(f"annotation {number}: expected an image that is listed, got image_id {image!r}")
        found[image].append((number, annotation))
    return found


def _categories(document: Any) -> dict[Any, str]:
    return {entry.get("id"): str(entry.get("name")) for entry in _list(document, "categories")}


def _list(document: Any, key: str) -> list[dict[str, Any]]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UnreadableError(f"expected COCO's {key}, got {str(found)[:60]}. Export it again")
    return found


def _polygons(segmentation: Any, size: tuple[int, int]) -> tuple[tuple[Ring, ...], ...]:
    if isinstance(segmentation, dict):
        return rings_of(_decoded(segmentation, size), np.zeros(2))
    if not isinstance(segmentation, list) or not segmentation:
        raise UnreadableError("expected a segmentation, got none: a box is no outline. Leave the annotation out")
    return tuple((ring_of(_pairs(numbers), size),) for numbers in segmentation)


def _pairs(numbers: Any) -> Any:
    if not isinstance(numbers, list) or len(numbers) % 2:
        raise UnreadableError(f"expected x, y, x, y, ... of a polygon, got {str(numbers)[:60]}")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _decoded(runs: Mapping[str, Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask bool [H, W] of run lengths, as numbers or as COCO's text."""
    if list(runs.get("size") or ()) != list(size):
        raise UnreadableError(f"expected run lengths of {list(size)}, got {runs.get('size')}")
    counts = runs.get("counts")
    try:
        lengths = _lengths(counts) if isinstance(counts, str) else [int(count) for count in counts or ()]
        if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
            raise UnreadableError(f"expected run lengths of {size[0] * size[1]} pixels, got {sum(lengths)}")
    except (TypeError, ValueError, IndexError) as error:
        raise UnreadableError(f"expected run lengths as COCO writes them, got {str(counts)[:40]}") from error
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(size, order="F")


def _lengths(text: str) -> list[int]:
    """Run lengths of COCO's text: 5 bits a character, the least first; from the fourth on, differences to two before.

    As `rleFrString` of pycocotools, which warns of numpy 2 when it is called.
    """
    lengths: list[int] = []
    number, shift = 0, 0
    for code in text.encode("ascii"):
        bits = code - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number, shift = 0, 0
    return lengths
