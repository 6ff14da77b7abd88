"""`factory inspect`: look at a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SortBy(StrEnum):
    """Columns that the tiles can be spread over."""

    tps = "tps"
    tissue = "tissue"
    cells = "cells"
    random = "random"


def inspect(
    dataset: Annotated[Path, typer.Argument(help="Folder of a finished data set.")] = Path("data/synth"),
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to, outside every data set. Default: inspect/NAME beside the data set."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Tiles on the contact sheet. Default 24.", show_default=False)] = 24,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Another data set to show below at the same um per pixel, or a folder of images, pixel for pixel. "
            "Default: none."
        ),
    ] = None,
    sort: Annotated[
        SortBy | None,
        typer.Option(
            help="Spread the tiles over this column. Default: the first of tps, tissue, cells that they have."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Order of equal values and places of cuts. Default 0.", show_default=False)
    ] = 0,
) -> None:
    """Draw a contact sheet (sheet.png) and write a page with distributions, filters and tiles (index.html).

    The sheet shows each tile's image, mask and cells with its requested and achieved TPS. The page is one file that
    loads nothing. Neither is ever written into the data set, whose checksums list every file in it.
    """
    from factory.core.console import console
    from factory.inspect.report import inspect_dataset

    done = inspect_dataset(dataset, out, n=n, sort=sort.value if sort else None, beside=beside, seed=seed)
    screen = console()
    screen.print(f"contact sheet  {done.sheet}  ({done.tiles} tiles, {done.sort})", highlight=False, soft_wrap=True)
    screen.print(f"page           {done.page}  (open it in a browser)", highlight=False, soft_wrap=True)
