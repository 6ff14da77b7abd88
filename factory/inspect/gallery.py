"""A gallery: images of a data set and their names on one PNG, without labels, for a person to choose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from factory.inspect.layout import Block, View
from factory.inspect.sheet import render_sheet
from manifests.dataset import Dataset
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER

MOST = 120
"""More images than this are no longer told apart on one sheet."""


def write_gallery(
    dataset: Dataset, places: Sequence[int], path: Path, note: str, on_tile: Callable[[], None] = lambda: None
) -> None:
    """Write a PNG of the images at `places`, in that order.

    Args:
        dataset: the images. places: positions of rows, at most `MOST`. path: of the PNG; its folder is made.
        note: a line below the title. on_tile: called for every image once it is drawn.
    """

    def view(place: int) -> View:
        row = dataset.row(places[place])
        return View(dataset.store.read(row["index"], "image"), None, (row["sample_id"],))

    layout = dataset.store.layout
    block = Block(
        title=dataset.root.resolve().name,
        note=note,
        warning=f"synthetic, {DISCLAIMER}" if dataset.info.is_synthetic else "",
        panels=("image",),
        schemes=(),
        count=len(places),
        shape=(layout.height, layout.width),
        lines=1,
        view=view,
    )
    content = render_sheet([block], on_tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
