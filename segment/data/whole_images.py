"""Whole images, assembled from the tiles that they were cut into.

Scores of tiles differ from scores of images: a nucleus cut by a tile's edge counts twice, and small tiles have more
weight. So reports are of whole images; `segment evaluate --tiles` scores tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.runs import read_run
from manifests.dataset import Dataset, Sample
from manifests.errors import UserError
from manifests.labels import IGNORE
from manifests.tile import Tile

_AIR = 255
"""Grey level of pixels without a tile: `factory ingest` drops tiles of air, which is white."""


@dataclass(frozen=True)
class WholeImage:
    """An image to be scored.

    Attributes:
        name: the image's `source_uri`; the `sample_id` of a row that is not cut from a flat image.
        image: uint8 [H, W, 3]. tile: its labels, of the same size.
        sample_ids: its rows, in the manifest's order. group: patient or slide, None where unknown.
    """

    name: str
    image: npt.NDArray[np.uint8]
    tile: Tile
    sample_ids: tuple[str, ...]
    group: str | None


@dataclass(frozen=True)
class ImageTiles:
    """Rows of one whole image.

    Attributes:
        name, group: as in `WholeImage`. positions: of its rows in the data set.
        is_cut: whether they are tiles of a flat image, with their positions in it.
    """

    name: str
    group: str | None
    positions: tuple[int, ...]
    is_cut: bool


def group_tiles(dataset: Dataset) -> list[ImageTiles]:
    """Group rows by whole image, in the order of their first rows.

    Rows belong together when they were cut from one flat image (`source_uri`). A synthetic tile is an image of its own,
    and so is a tile of a slide (`source_level`), because a slide is too large for a network.

    Raises:
        UserError: when tiles of an image were resampled, so that their positions are not exact to the pixel, or have
            different resolutions or schemes.
    """
    columns = ("sample_id", "group_id", "source_uri", "source_level", "source_x", "source_y", "mpp", "label_scheme")
    rows = dataset.table.select(list(columns)).to_pylist()
    found: dict[tuple[bool, str], list[int]] = {}
    for position, row in enumerate(rows):
        is_cut = row["source_uri"] is not None and row["source_x"] is not None and row["source_level"] is None
        found.setdefault((is_cut, row["source_uri"] if is_cut else row["sample_id"]), []).append(position)
    several = [(name, positions) for (_, name), positions in found.items() if len(positions) > 1]
    if several and read_run(dataset.root)["config"].get("resample_mpp") is not None:
        raise UserError(
            f"{dataset.root}: expected tiles at the resolution of their images, got resampled ones, whose place in "
            "the whole is not kept. Ingest whole images (without --size), or score tiles (--tiles)."
        )
    for name, positions in several:
        if len({(rows[p]["mpp"], rows[p]["label_scheme"]) for p in positions}) > 1:
            raise UserError(
                f"{dataset.root}: {name}: expected tiles of one resolution and scheme, got several. Ingest it again."
            )
    return [
        ImageTiles(name, rows[positions[0]]["group_id"], tuple(positions), is_cut)
        for (is_cut, name), positions in found.items()
    ]


def whole_images(dataset: Dataset) -> Iterator[WholeImage]:
    """Every whole image of a data set, one in memory at a time; see `group_tiles` for what belongs together.

    Pixels without a tile are white and labelled 255 (ignore). Rows and columns of 255 at the lower and right side of an
    image are cut off, because `factory ingest` pads there by mirroring.

    Raises:
        UserError: as `group_tiles`, and when two tiles differ in a common pixel.
    """
    for parts in group_tiles(dataset):
        samples = [dataset[position] for position in parts.positions]
        yield _joined(dataset, parts, samples) if parts.is_cut else _alone(samples[0])


def tile_images(dataset: Dataset) -> Iterator[WholeImage]:
    """Every row as an image of its own, named by its `sample_id`, for scores of tiles."""
    return (_alone(sample) for sample in dataset)


def _alone(sample: Sample) -> WholeImage:
    name = sample.row["sample_id"]
    return WholeImage(name, sample.image, sample.tile, (name,), sample.row["group_id"])


def _joined(dataset: Dataset, parts: ImageTiles, samples: list[Sample]) -> WholeImage:
    tile = samples[0].tile
    corners = [(sample.row["source_y"] or 0, sample.row["source_x"] or 0) for sample in samples]
    top, left = min(y for y, _ in corners), min(x for _, x in corners)
    height, width = (max(at) + side for at, side in zip(zip(*corners, strict=True), tile.shape, strict=True))
    shape = (height - top, width - left)
    image, semantic = np.full((*shape, 3), _AIR, np.uint8), np.full(shape, IGNORE, np.uint8)
    instance, owner = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    for number, (sample, (y, x)) in enumerate(zip(samples, corners, strict=True)):
        part = np.s_[y - top : y - top + tile.shape[0], x - left : x - left + tile.shape[1]]
        for whole, own in ((image, sample.image), (semantic, sample.tile.semantic), (instance, sample.tile.instance)):
            differs = (whole[part] != own).reshape(*tile.shape, -1).any(axis=2) & (owner[part] >= 0)
            if differs.any():
                other = samples[int(owner[part][differs][0])].row["sample_id"]
                raise UserError(
                    f"{dataset.root}: {parts.name}: expected overlapping tiles that agree, got other pixels in "
                    f"{sample.row['sample_id']} than in {other}. Run factory verify, or score tiles (--tiles)."
                )
            whole[part] = own
        owner[part] = number
    rows, columns = _labelled_extent(semantic)
    labels = Tile(semantic[:rows, :columns], instance[:rows, :columns], tile.mpp, tile.scheme)
    ids = tuple(sample.row["sample_id"] for sample in samples)
    return WholeImage(parts.name, image[:rows, :columns], labels, ids, parts.group)


def _labelled_extent(semantic: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    """Rows and columns up to the last one with a labelled pixel; all if nothing is labelled."""
    known = semantic != IGNORE
    if not known.any():
        return semantic.shape
    return int(np.flatnonzero(known.any(axis=1))[-1]) + 1, int(np.flatnonzero(known.any(axis=0))[-1]) + 1
