"""labelme's JSON (Wada 2016): one file for each image, shapes as lists of points in pixels."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import Faults, LabelFormat, Outlines, check_size, read_json
from factory.core.label_files.shapes import Shape, ring_of, rings_of

_CIRCLE_CORNERS = 256


class Labelme(LabelFormat):
    """labelme, and what imitates it (X-AnyLabeling and others)."""

    suffixes = (".json",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its list of shapes beside the name of the image."""
        document = read_json(path)
        return isinstance(document, dict) and "shapes" in document and "imagePath" in document

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Outlines:
        """Shapes in their order; those of one label and one ``group_id`` are parts of one object."""
        document = read_json(path)
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            raise UnreadableError("expected labelme's JSON with shapes, got other JSON. Save it in labelme again")
        found = document.get("imageHeight"), document.get("imageWidth")
        if found != (None, None):
            check_size(found, size)
        image = str(document.get("imagePath")).replace("\\", "/").rpartition("/")[2]
        if Path(image).stem != stem:
            raise UnreadableError(f"expected annotations of {stem}, got those of {image}. Rename the file")
        faults = Faults()
        objects: dict[Any, Shape] = {}
        for number, entry in enumerate(document["shapes"], 1):
            with faults.of(f"shape {number}"):
                shape = _shape(entry, size)
                group = entry.get("group_id")
                key = number if group is None else (shape.label, str(group))
                objects[key] = Shape(shape.label, (objects[key].polygons if key in objects else ()) + shape.polygons)
        faults.check()
        return Outlines(tuple(objects.values()))


def _shape(shape: Any, size: tuple[int, int]) -> Shape:
    label, points, kind = (
        (shape.get(key) for key in ("label", "points", "shape_type")) if isinstance(shape, dict) else (None,) * 3
    )
    if not isinstance(label, str) or not isinstance(points, list):
        raise UnreadableError(f"expected a label and points, got {str(shape)[:60]}. Save it in labelme again")
    if kind not in ("polygon", "rectangle", "circle", "mask", None):
        raise UnreadableError(
            f"expected a polygon, rectangle, circle or mask, got a {kind}. Delete it, or draw it as a polygon"
        )
    if kind in ("circle", "mask") and len(points) != 2:
        raise UnreadableError(f"expected a {kind} of two points, got {len(points)}. Draw it again")
    corners = ring_of(points, size, least=2 if len(points) == 2 and kind in ("circle", "mask", "rectangle") else 3)
    if kind == "mask":
        return Shape(label, rings_of(_mask(shape.get("mask"), size), corners[0]))
    if kind == "circle":  # it may reach beyond the image
        centre, edge = corners
        turns = 2 * np.pi * np.arange(_CIRCLE_CORNERS) / _CIRCLE_CORNERS
        corners = centre + np.hypot(*(edge - centre)) * np.stack([np.cos(turns), np.sin(turns)], 1)
    elif len(corners) == 2:
        (x0, y0), (x1, y1) = corners
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return Shape(label, ((corners,),))


def _mask(content: Any, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels of a shape of type mask, bool [h, w], from its PNG in base64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True)), formats=("PNG",)) as image:
            if image.height > size[0] + 1 or image.width > size[1] + 1:
                raise UnreadableError(
                    f"expected a mask within the image of {size[0]}x{size[1]}, "
                    f"got {image.height}x{image.width}. Was it drawn on an image of another size?"
                )
            return np.asarray(image.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"expected a mask as PNG in base64, got {str(content)[:30]}. Draw it again") from error
