"""JSON as labelme reads and writes it: one file for each image, shapes as lists of points in pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from factory.annotate.shapes import AnnotationTool, refused
from factory.core.label_files import labelme
from factory.core.label_files.shapes import Shape
from manifests.labels import LabelScheme

_VERSION = "5.0.0"


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
    def read(path: Path, size: tuple[int, int], nuclei: Collection[str] = ()) -> list[Shape]:
        """The shapes of a file that labelme wrote for this image."""
        with refused(path):
            return list(labelme.Labelme.read(path, path.stem, size, nuclei=False).shapes)
