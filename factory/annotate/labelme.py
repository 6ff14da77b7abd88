"""JSON as labelme reads and writes it: one file for each image, shapes as lists of points in pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from factory.annotate.shapes import AnnotationTool, Shape, read_json, ring_of, rings_of
from manifests.errors import UserError
from manifests.labels import LabelScheme

_VERSION = "5.0.0"
_CIRCLE_CORNERS = 256


class Labelme(AnnotationTool):
    """labelme (Wada 2016)."""

    suffix = ".json"

    @staticmethod
    def skeleton(name: str, size: tuple[int, int], mark: Mapping[str, Any]) -> dict[str, Any]:
        """A file without annotations."""
        return {
            "version": _VERSION,
            "flags": {},
            "shapes": [],
            "imagePath": f"{name}.png",
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
            "pathology_tiles": dict(mark),
        }

    @staticmethod
    def beside(scheme: LabelScheme) -> dict[str, str]:
        """The list for ``labelme --labels classes.txt``."""
        return {"classes.txt": "".join(f"{name}\n" for name in scheme.names)}

    @staticmethod
    def read(path: Path, size: tuple[int, int]) -> list[Shape]:
        """The shapes of a file that labelme wrote for this image."""
        document = read_json(path)
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            raise UserError(f"{path}: expected labelme's JSON with shapes, got other JSON. Save it in labelme again.")
        found = (document.get("imageHeight"), document.get("imageWidth"))
        if found != size:
            raise UserError(
                f"{path}: expected annotations of an image of {size[0]}x{size[1]}, got {found[0]}x{found[1]}. "
                "Annotate the exported image."
            )
        image = str(document.get("imagePath")).replace("\\", "/").rpartition("/")[2]
        if image != f"{path.stem}.png":
            raise UserError(f"{path}: expected annotations of {path.stem}.png, got those of {image}. Rename the file.")
        return [_shape(shape, size, f"{path}: shape {n}") for n, shape in enumerate(document["shapes"], 1)]


def _shape(shape: Any, size: tuple[int, int], where: str) -> Shape:
    label, points, kind = (
        (shape.get(key) for key in ("label", "points", "shape_type")) if isinstance(shape, dict) else (None,) * 3
    )
    if not isinstance(label, str) or not isinstance(points, list):
        raise UserError(f"{where}: expected a label and points, got {str(shape)[:60]}. Save it in labelme again.")
    if kind not in ("polygon", "rectangle", "circle", "mask", None):
        raise UserError(
            f"{where}: expected a polygon, rectangle, circle or mask, got a {kind}. Delete it, or draw it as a polygon."
        )
    if kind in ("circle", "mask") and len(points) != 2:
        raise UserError(f"{where}: expected a {kind} of two points, got {len(points)}. Draw it again.")
    corners = ring_of(
        points, size, where, least=2 if len(points) == 2 and kind in ("circle", "mask", "rectangle") else 3
    )
    if kind == "mask":
        return Shape(label, rings_of(_mask(shape.get("mask"), size, where), corners[0]))
    if kind == "circle":  # it may reach beyond the image
        centre, edge = corners
        turns = 2 * np.pi * np.arange(_CIRCLE_CORNERS) / _CIRCLE_CORNERS
        corners = centre + np.hypot(*(edge - centre)) * np.stack([np.cos(turns), np.sin(turns)], 1)
    elif len(corners) == 2:
        (x0, y0), (x1, y1) = corners
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return Shape(label, ((corners,),))


def _mask(content: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
    """The pixels of a shape of type mask, bool [h, w], from its PNG in base64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True)), formats=("PNG",)) as image:
            if image.height > size[0] + 1 or image.width > size[1] + 1:
                raise UserError(
                    f"{where}: expected a mask within the image of {size[0]}x{size[1]}, "
                    f"got {image.height}x{image.width}. Was it drawn on an image of another size?"
                )
            return np.asarray(image.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}: expected a mask as PNG in base64, got {str(content)[:30]}. Draw it again."
        ) from error
