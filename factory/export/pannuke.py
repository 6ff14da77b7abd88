"""PanNuke's stacks (Gamper et al. 2020): images, masks with a channel for each class of nuclei, and types, as NPY."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from factory.core.cells import Cells
from factory.export.base import Export, Files, Format, Part, Record
from factory.export.objects import add, objects_of
from factory.export.origin import summary
from manifests.dataset import Sample
from manifests.errors import UserError
from manifests.labels import IGNORE

_TISSUE = "not stated"
"""Type of every tile: a manifest has no column for the organ."""


class PanNuke(Format):
    """A folder for each split, as PanNuke has one for each fold: images.npy, masks.npy and types.npy."""

    bytes_per_px = 15.0

    @staticmethod
    def check(export: Export) -> None:
        """Regions have no place: every pixel is a nucleus or background."""
        if not export.scheme.ids("nucleus"):
            raise UserError(
                f"--format pannuke: expected a scheme of nuclei, got {export.scheme.name}, whose regions have no place "
                "in it. Use --format png, coco or hf."
            )

    @staticmethod
    def begin(export: Export, files: Files) -> None:
        """Make the stacks, which every part fills where its tiles belong."""
        channels = len(export.cell_classes) + 1
        for split, count in export.tiles.items():
            files.make_stack(f"{split}/images.npy", (count, *export.size, 3), "u1")
            files.make_stack(f"{split}/masks.npy", (count, *export.size, channels), "<i4")

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """The part's share of the stacks."""
        images, masks = (files.open_stack(f"{part.split}/{name}.npy") for name in ("images", "masks"))
        lost: dict[str, int] = {}
        for position, sample in enumerate(samples, part.first):
            cells, more = objects_of(export, sample)
            add(lost, more)
            images[position] = sample.image
            masks[position] = _mask(export, sample, cells)
        for stack in (images, masks):
            stack.flush()
        return {"lost": lost, "names": [row["sample_id"] for row in part.rows]}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """Types, and a text that says what this is: NPY has no place for it."""
        for split, count in export.tiles.items():
            files.make_stack(f"{split}/types.npy", (count,), f"<U{len(_TISSUE)}")
            files.open_stack(f"{split}/types.npy")[:] = _TISSUE
        names = [name for record in records.values() for name in record["names"]]
        channels = [f"{number} {label.name}" for number, label in enumerate(export.cell_classes)]
        height, width = export.size
        files.put_text(
            "README.txt",
            f"{summary(export.mark)}\n\nTiles of {height}x{width}, {export.mpp:g} um per pixel, in PanNuke's layout.\n"
            f"Channels of masks.npy: instance ids of {', '.join(channels)}; {len(channels)} is 1 on background.\n"
            f"Pixels that are 0 in every channel are not labelled.\n\nTiles, in the order of the stacks:\n"
            + "".join(f"{name}\n" for name in names),
        )


def _mask(export: Export, sample: Sample, cells: Cells) -> npt.NDArray[np.int32]:
    """Instance ids in the channel of their class, and background, int32 [H, W, C + 1]."""
    tile, channels = sample.tile, [label.id for label in export.cell_classes]
    mask = np.zeros((*tile.shape, len(channels) + 1), np.int32)
    mask[..., -1] = (tile.instance == 0) & (tile.semantic != IGNORE)
    rows, columns = np.nonzero(tile.instance)
    values = tile.instance[rows, columns]
    mask[rows, columns, np.searchsorted(channels, cells.classes)[np.searchsorted(cells.ids, values)]] = values
    return mask
