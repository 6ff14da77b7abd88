"""Blocks of a contact sheet: tiles of a data set with their captions, and tiles cut out of a folder of images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.datasets import real_pixel_lines, shape_of
from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from factory.inspect.layout import Block, View
from factory.inspect.selection import Sort
from manifests.dataset import Dataset, Sample
from manifests.errors import UserError
from manifests.schema import DISCLAIMER
from manifests.tile import Tile

Image = npt.NDArray[np.uint8]

CUT_TRIES = 12
"""Number of random places that are tried for a cut with tissue."""

_AIR_GREY = 235  # grey from which a pixel counts as air, the papers' threshold in immunohistochemistry
_LEAST_TISSUE = 0.3


def has_tissue(image: Image) -> bool:
    """Returns whether at least 30 % of an image uint8 [H, W, 3] is darker than grey 235."""
    return bool((image.mean(axis=2) < _AIR_GREY).mean() >= _LEAST_TISSUE)


def dataset_block(dataset: Dataset, places: list[int], sort: Sort, first: Dataset | None = None) -> Block:
    """Makes a block of the tiles at some positions with their labels; `sort` is the column that they are spread over.

    It is drawn at the scale of `first`, the data set of the block above, with only the middle of larger tiles.
    """
    rows = [dataset.row(place) for place in places]
    whole = shape_of(dataset)
    zoom = _mpp(dataset) / _mpp(first) if first else 1.0
    room = [max(1, round(side / zoom)) for side in (shape_of(first) if first else whole)]
    shape = (min(whole[0], room[0]), min(whole[1], room[1]))
    cut = "" if shape == whole else f", the middle {shape[0]} x {shape[1]} of each shown"
    spread = "at random" if sort == "random" else f"spread over {sort}"
    resolution = " / ".join(f"{mpp:g}" for mpp in sorted({row["mpp"] for row in rows})[:4])
    has_cells = any(row["cells"] is None or row["cells"] > 0 for row in rows)

    def view(place: int) -> View:
        sample = dataset[places[place]]
        middle = (whole[0] - shape[0]) // 2, (whole[1] - shape[1]) // 2
        return View(*piece_of(sample, middle, shape), caption(sample.row))

    return Block(
        title=dataset.root.resolve().name,
        note=" · ".join(
            [
                f"{len(rows)} of {len(dataset)} tiles, {spread}",
                f"{whole[0]} x {whole[1]} px, {resolution} um/px{cut}",
                *real_pixel_lines(dataset.table, dataset.info),
            ]
        ),
        warning=warning_of(dataset),
        panels=("image", "mask", "cells") if has_cells else ("image", "mask"),
        schemes=tuple(dataset.schemes),
        count=len(rows),
        shape=shape,
        lines=max(len(caption(row)) for row in rows),
        view=view,
        zoom=zoom,
    )


def images_block(dataset: Dataset, places: Sequence[int], note: str) -> Block:
    """Makes a block of the images of some rows, without labels."""

    def view(place: int) -> View:
        row = dataset.row(places[place])
        return View(dataset.store.read(row["index"], "image"), None, (row["sample_id"],))

    title, shape = dataset.root.resolve().name, shape_of(dataset)
    return Block(title, note, warning_of(dataset), ("image",), (), len(places), shape, lines=1, view=view)


def warning_of(dataset: Dataset) -> str:
    """Returns a mark for synthetic data, empty for real ones."""
    real = ", with real pixels" if dataset.info.real_pixels else ""
    return f"synthetic{real}, {DISCLAIMER}" if dataset.info.is_synthetic else ""


def cuts_block(folder: Path, n: int, shape: tuple[int, int], seed: int) -> Block:
    """Makes a block of tiles from `cut_images`."""
    cuts = cut_images(folder, n, shape, seed)
    note = f"{len(cuts)} tiles cut out of the images as they are, not scaled"
    return Block(folder.resolve().name, note, "", ("image",), (), len(cuts), shape, lines=1, view=cuts.__getitem__)


def _mpp(dataset: Dataset) -> float:
    """Returns the most frequent resolution of the tiles, in micrometres per pixel."""
    return float(statistics.mode(dataset.table["mpp"].to_pylist()))


def piece_of(sample: Sample, place: tuple[int, int], shape: tuple[int, int]) -> tuple[Image, Tile]:
    """Cuts a piece out of a tile, from row and column `place` on: its image and its labels."""
    tile = sample.tile
    part = tuple(slice(start, start + side) for start, side in zip(place, shape, strict=True))
    return sample.image[part], Tile(tile.semantic[part], tile.instance[part], tile.mpp, tile.scheme)


def cut_images(folder: Path, n: int, shape: tuple[int, int], seed: int) -> list[View]:
    """Cuts `n` tiles out of the images of a folder (not of its subfolders), in turn over the images, without scaling.

    Up to 12 places are drawn until a cut has tissue (see `has_tissue`). An image smaller than the tile is taken whole.
    The caption is the image's name.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(
            f"--beside {folder}: expected a data set or images ({', '.join(IMAGE_SUFFIXES)}), got none of these."
        )
    if n < len(paths):  # spread over the folder, which is often sorted by patient
        paths = [paths[place] for place in np.linspace(0, len(paths) - 1, n).round().astype(int)]
    rng = np.random.default_rng(seed)
    cuts: list[View] = []
    for position, path in enumerate(paths):
        image = read_rgb(path)
        share = n // len(paths) + (position < n % len(paths))
        cuts += [View(_cut(image, shape, rng), None, (path.stem,)) for _ in range(share)]
    return cuts


def _cut(image: Image, shape: tuple[int, int], rng: np.random.Generator) -> Image:
    height, width = min(shape[0], image.shape[0]), min(shape[1], image.shape[1])
    piece = image[:height, :width]
    for _ in range(CUT_TRIES):
        y, x = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        piece = image[y : y + height, x : x + width]
        if has_tissue(piece):
            break
    return piece.copy()


def percent(share: float) -> str:
    """Formats a share: ``0.12 -> "12.0 %"``."""
    return f"{100 * share:.1f} %"


def caption(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns the lines under a tile: id, requested and achieved TPS, tissue and cells, without empty values."""
    split = f" · {row['split']}" if row["split"] else ""
    content = [_tissue(row), _cells(row)]
    if row["request_tissue"] is None and row["request_cells"] is None:
        content = [" · ".join(filter(None, content))]
    return tuple(line for line in (f"{row['sample_id']}{split}", _tps(row), *content) if line)


def _tps(row: dict[str, Any]) -> str:
    parts = [
        f"{percent(row[name])} {word}"
        for name, word in (("request_tps", "asked"), ("tps_area", "area"), ("tps_cells", "cells"))
        if row[name] is not None
    ]
    if row["tps_area"] is None and row["tps_cells"] is None and row["has_tumour"] is False:
        parts.append("no tumour")
    return "TPS " + ", ".join(parts) if parts else ""


def _tissue(row: dict[str, Any]) -> str:
    achieved, asked = row["tissue_fraction"], row["request_tissue"]
    if achieved is None:
        return ""
    area = percent(achieved)
    return f"tissue {area}" if asked is None else f"tissue {percent(asked)} asked, {area} area"


def _cells(row: dict[str, Any]) -> str:
    achieved, asked = row["cells"], row["request_cells"]
    if achieved is None or (asked is None and row["label_origin"] == "weak"):
        return ""  # weak labels have no cells, whatever the image shows
    return f"{achieved} cells" if asked is None else f"cells {asked} asked, {achieved} drawn"
