"""Contact sheet of a dry run: tiles with the outlines of their labels, so that a shift or a wrong class is seen."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from factory.core.page import encode_image
from factory.ingest.image_buffer import Region, open_image, with_painted_cells
from factory.ingest.writing import Plan
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.labels import IGNORE, LabelScheme

_COLOURS = np.array(
    [[255, 230, 0], [0, 255, 255], [0, 255, 60], [255, 60, 0], [255, 0, 255], [255, 255, 255], [0, 90, 255]], np.uint8
)
"""Colours of outlines by class, in turn: unlike those of any stain. Unlabelled pixels (255) are outlined in grey."""

_TILES, _COLUMNS, _SIDE_PX, _TITLE_PX, _TRIED = 12, 4, 320, 16, 8


def check_sheet(path: Path | None) -> None:
    """Refuse a path that a sheet cannot be written to."""
    if path is not None and (path.suffix.lower() != ".png" or not path.parent.is_dir()):
        raise UserError(f"--sheet: expected a PNG file in a folder that exists, got {path}.")


def write_sheet(plan: Plan, path: Path | None) -> Path:
    """Draw up to twelve images, of each the tile with most outlines of a few; `path` None takes a temporary file."""
    images = [number for number, image in enumerate(plan.images) if image.origins]
    chosen = [images[place] for place in np.unique(np.linspace(0, len(images) - 1, _TILES).astype(int))]
    cells = [_cell(plan, number) for number in chosen]
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    blank = np.full_like(cells[0], 255)
    columns = min(_COLUMNS, len(cells))
    legend = _legend(plan.job.config.label_scheme, columns * _SIDE_PX)
    sheet = np.vstack([*(np.hstack([*row, *[blank] * (columns - len(row))]) for row in rows), legend])
    if path is None:
        with tempfile.NamedTemporaryFile(prefix="factory-ingest-", suffix=".png", delete=False) as file:
            path = Path(file.name)
    write_atomic(path, encode_image(sheet, "png"))
    return path


def _cell(plan: Plan, number: int) -> npt.NDArray[np.uint8]:
    """A tile of an image, or the middle of it, with its outlines and the image's name; uint8 [336, 320, 3]."""
    image, size = plan.images[number], (plan.spec.layout.height, plan.spec.layout.width)
    tried = np.unique(np.linspace(0, len(image.origins) - 1, _TRIED).astype(int)).tolist()
    best: tuple[int, npt.NDArray[np.uint8]] | None = None
    with open_image(image.source, image.geometry, plan.job.config) as opened:
        for place in tried:
            y, x = image.origins[place]
            region = opened.read(y, x, *image.geometry.clipped(size))
            edges, drawn = _outlined(with_painted_cells(region, image.geometry.mpp, plan.job.config))
            if best is None or edges > best[0]:
                best = edges, drawn
    assert best is not None  # an image that is chosen has a tile
    cell = Image.new("RGB", (_SIDE_PX, _SIDE_PX + _TITLE_PX), "white")
    ImageDraw.Draw(cell).text((2, 2), image.source.stem[-50:], fill="black")
    cell.paste(Image.fromarray(best[1]), (0, _TITLE_PX))
    return np.asarray(cell)


def _legend(scheme: LabelScheme, width: int) -> npt.NDArray[np.uint8]:
    """The names of the classes in the colours of their outlines, on black; uint8 [16, width, 3]."""
    legend = Image.new("RGB", (width, _TITLE_PX))
    x, pen = 2.0, ImageDraw.Draw(legend)
    for label in scheme.classes:
        pen.text((x, 2), label.name, fill=tuple(_palette()[label.id].tolist()))
        x += pen.textlength(label.name + "   ")
    return np.asarray(legend)


def _palette() -> npt.NDArray[np.uint8]:
    palette = _COLOURS[(np.arange(256) - 1) % len(_COLOURS)]  # class 0 is mostly the background, and has the last
    palette[IGNORE] = 128
    return palette


def _outlined(region: Region) -> tuple[int, npt.NDArray[np.uint8]]:
    """Number of outline pixels, and the image with outlines in the colours of the classes.

    A small region is enlarged by a whole factor; of a large one the middle is shown.
    """
    height, width = region.semantic.shape
    top, left = max(0, (height - _SIDE_PX) // 2), max(0, (width - _SIDE_PX) // 2)
    shown = np.s_[top : top + _SIDE_PX, left : left + _SIDE_PX]
    times = max(1, _SIDE_PX // max(height, width))

    def enlarged(array: npt.NDArray[Any]) -> Any:
        return array[shown].repeat(times, 0).repeat(times, 1)

    pixels, semantic, instance = enlarged(region.image), enlarged(region.semantic), enlarged(region.instance)
    labels = (semantic.astype(np.int64) << 32) + instance
    edge = np.zeros(labels.shape, np.bool_)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = labels[here] != labels[there]
        edge[here] |= differs & ((instance[here] > 0) | (instance[there] == 0))
        edge[there] |= differs & (instance[there] > 0)
    drawn = np.where(edge[..., None], _palette()[semantic], pixels)
    return int(np.count_nonzero(edge)), drawn
