"""Writes the results of `factory inspect` (contact sheet and page), and galleries of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.console import progress
from factory.core.datasets import check_out, open_finished, shape_of
from factory.inspect.blocks import cuts_block, dataset_block, images_block
from factory.inspect.layout import Block
from factory.inspect.page import MAX_PICTURES, render_page
from factory.inspect.selection import Sort, choose, default_sort
from factory.inspect.sheet import render_sheet
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.object_store import ObjectPath
from manifests.store import STORE

SHEET, PAGE = "sheet.png", "index.html"

MOST_IN_GALLERY = 120
"""With more images than this on one sheet, they are too small to be told apart."""


@dataclass(frozen=True)
class Inspection:
    """The files of an inspection, the column that the tiles are spread over, and the number of tiles on the sheet."""

    sheet: Path
    page: Path
    sort: Sort
    tiles: int
    size_bytes: int


def default_out(root: Path) -> Path:
    """Returns ``data/inspect/synth`` for ``data/synth``: outside the data set, whose SHA256SUMS lists every file.

    For a data set in an object store it is ``inspect/synth`` in the working folder.
    """
    root = root.resolve()
    return (Path() if isinstance(root, ObjectPath) else root.parent) / "inspect" / root.name


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
    """Writes the contact sheet and the page of a data set.

    Args:
        root: folder of the data set. out: default `default_out`; an earlier inspection there is replaced.
        n: tiles on the sheet, and as many from `beside`.
        sort: column to spread them over; default the first of tps, tissue and cells that the tiles have.
        beside: another data set or a folder of images, shown below on the sheet.
        seed: of the order of equal values, and of the places that tiles are cut from. dry_run: write nothing.
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
    """Writes a few tiles of a new data set to one PNG beside it, ``data/synth-sheet.png`` for ``data/synth``.

    Returns the PNG; None if its folder cannot be written to.
    """
    dataset = open_finished(root)
    root = root.resolve()
    sort = default_sort(dataset)
    content = render_sheet([dataset_block(dataset, choose(dataset, n, sort, seed=0), sort)], lambda: None)
    path = root.with_name(f"{root.name}-sheet.png")
    try:
        write_atomic(path, content)
    except OSError:
        return None  # the data set is complete without it
    return path


def _beside_block(beside: Path, dataset: Dataset, n: int, sort: Sort, seed: int) -> Block:
    if not beside.is_dir():
        raise UserError(f"--beside {beside}: expected a data set or a folder of images, got no folder.")
    if (beside / STORE).exists():
        other = open_finished(beside)
        own_sort = sort if sort == "random" else default_sort(other)
        return dataset_block(other, choose(other, n, own_sort, seed), own_sort, dataset)
    return cuts_block(beside, min(n, len(dataset)), shape_of(dataset), seed)


def write_gallery(
    dataset: Dataset, places: Sequence[int], path: Path, note: str, on_tile: Callable[[], None] = lambda: None
) -> None:
    """Writes a PNG of at most `MOST_IN_GALLERY` images and their names, without labels, for a person to choose from."""
    content = render_sheet([images_block(dataset, places, note)], on_tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
