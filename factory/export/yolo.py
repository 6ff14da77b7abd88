"""Ultralytics' YOLO segmentation: a line of text for each object, its outline in shares of width and height.

A line has one outline. An object with holes or of several parts becomes one: its rings are joined at their nearest
points by a bridge that is walked to and fro. Filled as Ultralytics does it (``cv2.fillPoly``), holes stay holes; of the
bridge between two parts, a line of one pixel remains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from factory.core.encoding import png
from factory.export.base import Export, Files, Format, Part, Record
from factory.export.objects import add, objects_of
from factory.export.origin import summary
from manifests.dataset import Sample
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelClass

Points = npt.NDArray[np.float64]
"""(x, y) [n, 2] in pixels."""

_IN_A_PIXEL = np.array([[-0.25, -0.25], [0.25, -0.25], [0.25, 0.25], [-0.25, 0.25]])


class Yolo(Format):
    """Folders ``images/SPLIT`` and ``labels/SPLIT``, and ``data.yaml``."""

    @staticmethod
    def check(export: Export) -> None:
        """Ultralytics reads no ``data.yaml`` without train and val."""
        if not {"train", "val"} <= export.tiles.keys():
            raise UserError(
                f"--format yolo: expected tiles of train and val, both of which Ultralytics wants, got "
                f"{', '.join(export.tiles)}. Use --split all, or --format coco."
            )

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """An image and a text for each tile; the text is empty where there is no object."""
        lost: dict[str, int] = {}
        for sample in samples:
            name = sample.row["sample_id"]
            lines, more = _regions(sample, export) if export.holds_regions else _cells(sample, export)
            add(lost, more)
            add(lost, {"px that are ignored (255)": int(np.count_nonzero(sample.tile.semantic == IGNORE))})
            files.put(f"images/{part.split}/{name}.png", png(sample.image, export.comment(sample.row)))
            files.put_text(f"labels/{part.split}/{name}.txt", "".join(f"{line}\n" for line in lines))
        return {"lost": lost}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """``data.yaml``, which names the folders and classes."""
        del records
        folders = {split: f"images/{split}" for split in export.tiles}
        names = {number: label.name for number, label in enumerate(_classes(export))}
        document = {**folders, "names": names, "origin": dict(export.mark)}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        files.put_text("data.yaml", f"# {summary(export.mark)}\n{text}")


def _classes(export: Export) -> tuple[LabelClass, ...]:
    return export.scheme.classes if export.holds_regions else export.cell_classes


def _cells(sample: Sample, export: Export) -> tuple[list[str], dict[str, int]]:
    cells, lost = objects_of(export, sample)
    places = {label.id: number for number, label in enumerate(_classes(export))}
    lines = []
    for number, label, (left, top, right, bottom) in zip(
        *(values.tolist() for values in (cells.ids, cells.classes, cells.boxes)), strict=True
    ):
        mask = sample.tile.instance[top:bottom, left:right] == number
        outline = joined([ring for piece in contours(mask) for ring in piece])
        lines.append(_line(places[label], outline + np.array([left, top]), export.size))
    return lines, lost


def _regions(sample: Sample, export: Export) -> tuple[list[str], dict[str, int]]:
    """A line for each 8-connected piece of a class."""
    lines = [
        _line(label.id, joined(piece), export.size)
        for label in export.scheme.classes
        for piece in contours(sample.tile.semantic == label.id)
    ]
    return lines, {"cells: the regions take their place": sample.row["cells"] or 0}


def contours(mask: npt.NDArray[np.bool_]) -> list[list[Points]]:
    """The 8-connected pieces of a mask: the outline of each through centres of pixels, then those of its holes."""
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    pieces: dict[int, list[Points]] = {}
    for number, (contour, (*_, parent)) in enumerate(zip(found, tree[0] if found else (), strict=True)):
        ring = contour[:, 0].astype(np.float64)
        if len(ring) == 1:  # an outline of three points or more, within the pixel
            ring = ring + _IN_A_PIXEL
        elif len(ring) == 2:
            ring = ring[[0, 1, 1]]
        pieces.setdefault(number if parent < 0 else parent, []).append(ring)
    return list(pieces.values())


def joined(rings: list[Points]) -> Points:
    """One outline of several rings, each joined at the pair of points that are nearest."""
    whole = rings[0]
    for ring in rings[1:]:
        distances = ((whole[:, None] - ring) ** 2).sum(2)
        at, start = np.unravel_index(int(distances.argmin()), distances.shape)
        loop = np.concatenate([ring[start:], ring[: start + 1]])
        whole = np.concatenate([whole[: at + 1], loop, whole[at:]])
    return whole


def _line(label: int, outline: Points, size: tuple[int, int]) -> str:
    shares = (outline + 0.5) / (size[1], size[0])  # centres of pixels, from the corner of the image
    return f"{label}" + " %.6g" * shares.size % tuple(shares.ravel().tolist())  # a third of the time of f-strings
