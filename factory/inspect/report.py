"""Inspect a data set: what `factory inspect` writes, and what it is made of."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.console import progress
from factory.core.runs import is_finished
from factory.inspect.beside import Cut, cut_images
from factory.inspect.captions import caption
from factory.inspect.choice import Sort, choose, default_sort
from factory.inspect.layout import Block, Panel, View
from factory.inspect.page import MAX_PICTURES, render_page
from factory.inspect.sheet import render_sheet
from manifests.dataset import Dataset, Sample, open_dataset
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER
from manifests.store import STORE
from manifests.tile import Tile

SHEET, PAGE = "sheet.png", "index.html"


@dataclass(frozen=True)
class Inspection:
    """What was written.

    Attributes:
        sheet: the contact sheet. page: the HTML page.
        sort: the column that the tiles were spread over.
        tiles: tiles on the sheet, those beside included. size_bytes: of both files.
    """

    sheet: Path
    page: Path
    sort: Sort
    tiles: int
    size_bytes: int


def default_out(root: Path) -> Path:
    """Beside the data set and never in it, because its SHA256SUMS lists every file: ``data/inspect/synth``."""
    root = root.resolve()
    return root.parent / "inspect" / root.name


def inspect_dataset(
    root: Path,
    out: Path | None = None,
    *,
    n: int = 24,
    sort: Sort | None = None,
    beside: Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Inspection:
    """Write the contact sheet and the page of a data set.

    Args:
        root: the data set's folder.
        out: where to write; default `default_out`. An earlier inspection there is replaced.
        n: tiles on the sheet, and as many from `beside`.
        sort: column to spread them over; default the first of tps, tissue and cells that the tiles have.
        beside: another data set or a folder of images, shown below on the sheet.
        seed: order of equal values, and the places that tiles are cut from. dry_run: write nothing.

    Raises:
        UserError: when the data set or `beside` cannot be shown, or `out` lies in a data set. Nothing is written then.
    """
    dataset = open_finished(root)
    out = check_out(default_out(root) if out is None else out)
    sort = sort or default_sort(dataset)
    blocks = [dataset_block(dataset, choose(dataset, n, sort, seed), sort)]
    if beside is not None:
        blocks.append(_beside_block(beside, dataset, n, sort, seed))
    tiles = sum(block.count for block in blocks)
    with progress("contact sheet", tiles) as bar:
        sheet = render_sheet(blocks, bar.advance)
    with progress("page", min(MAX_PICTURES, len(dataset))) as bar:
        page = render_page(dataset, sort, seed, bar.advance)
    content = page.encode()
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / SHEET, sheet)
        write_atomic(out / PAGE, content)
    return Inspection(out / SHEET, out / PAGE, sort, tiles, len(sheet) + len(content))


def write_contact_sheet(root: Path, n: int = 8) -> Path | None:
    """Write a few tiles of a new data set to one PNG beside it, ``data/synth-sheet.png`` for ``data/synth``.

    Args:
        root: the data set's folder, finished. n: tiles at most, spread over the first of tps, tissue and cells.

    Returns:
        The PNG; None where the folder that holds the data set cannot be written to.
    """
    dataset = open_finished(root)
    root = root.resolve()
    sort = default_sort(dataset)
    content = render_sheet([dataset_block(dataset, choose(dataset, n, sort, seed=0), sort)], lambda: None)
    path = root.with_name(f"{root.name}-sheet.png")
    try:
        write_atomic(path, content)
    except OSError:
        return None  # the data set is whole without it
    return path


def open_finished(root: Path) -> Dataset:
    """Open a data set that its run has finished.

    Raises:
        UserError: when it is not finished, with what to do.
    """
    dataset = open_dataset(root)
    if not is_finished(root):
        raise UserError(f"{root}: expected a finished data set, got one without SHA256SUMS. Run its command again.")
    return dataset


def check_out(out: Path) -> Path:
    """The folder to write to.

    Raises:
        UserError: when it is a file, or lies in a data set, whose checksums would no longer hold.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: expected a folder, got a file. Choose another --out.")
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / STORE).is_dir():
            raise UserError(
                f"--out {out}: expected a folder outside every data set, got one in {folder}. Choose another --out."
            )
    return out


def dataset_block(dataset: Dataset, places: list[int], sort: Sort, first: Dataset | None = None) -> Block:
    """Tiles of a data set; those beside a first one at its scale, and of larger ones only the middle."""
    rows = [dataset.row(place) for place in places]
    whole = _shape(dataset)
    zoom = _mpp(dataset) / _mpp(first) if first else 1.0
    room = [max(1, round(side / zoom)) for side in (_shape(first) if first else whole)]
    shape = (min(whole[0], room[0]), min(whole[1], room[1]))
    cut = "" if shape == whole else f", the middle {shape[0]} x {shape[1]} of each shown"
    mpps = sorted({row["mpp"] for row in rows})
    spread = "at random" if sort == "random" else f"spread over {sort}"
    resolution = " / ".join(f"{mpp:g}" for mpp in mpps[:4])

    def view(place: int) -> View:
        sample = dataset[places[place]]
        return View(*middle(sample, shape), caption(sample.row))

    return Block(
        title=dataset.root.resolve().name,
        note=f"{len(rows)} of {len(dataset)} tiles, {spread} · {whole[0]} x {whole[1]} px, {resolution} um/px{cut}",
        warning=f"synthetic, {DISCLAIMER}" if dataset.info.is_synthetic else "",
        panels=_panels(rows),
        schemes=tuple(dataset.schemes),
        count=len(rows),
        shape=shape,
        lines=max(len(caption(row)) for row in rows),
        view=view,
        zoom=zoom,
    )


def _shape(dataset: Dataset) -> tuple[int, int]:
    return dataset.store.layout.height, dataset.store.layout.width


def _mpp(dataset: Dataset) -> float:
    """Micrometres per pixel that most tiles have."""
    return float(statistics.mode(dataset.table["mpp"].to_pylist()))


def middle(sample: Sample, shape: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], Tile]:
    """The middle of a tile, at most `shape` pixels: its image and its labels."""
    tile = sample.tile
    part = tuple(
        slice(max(0, (own - side) // 2), max(0, (own - side) // 2) + side)
        for own, side in zip(tile.shape, shape, strict=True)
    )
    return sample.image[part], Tile(tile.semantic[part], tile.instance[part], tile.mpp, tile.scheme)


def _panels(rows: list[dict[str, Any]]) -> tuple[Panel, ...]:
    """Image and mask; cells too unless the rows say that there are none."""
    has_cells = any(row["cells"] is None or row["cells"] > 0 for row in rows)
    return ("image", "mask", "cells") if has_cells else ("image", "mask")


def _beside_block(beside: Path, dataset: Dataset, n: int, sort: Sort, seed: int) -> Block:
    if not beside.is_dir():
        raise UserError(f"--beside {beside}: expected a data set or a folder of images, got no folder.")
    if (beside / STORE).exists():
        other = open_finished(beside)
        own_sort = sort if sort == "random" else default_sort(other)
        return dataset_block(other, choose(other, n, own_sort, seed), own_sort, dataset)
    shape = _shape(dataset)
    cuts = cut_images(beside, min(n, len(dataset)), shape, seed)
    return _images_block(beside, cuts, shape)


def _images_block(folder: Path, cuts: list[Cut], shape: tuple[int, int]) -> Block:
    return Block(
        title=folder.resolve().name,
        note=f"{len(cuts)} tiles cut out of the images as they are, not scaled",
        warning="",
        panels=("image",),
        schemes=(),
        count=len(cuts),
        shape=shape,
        lines=1,
        view=lambda place: View(cuts[place].image, None, (cuts[place].name,)),
    )
