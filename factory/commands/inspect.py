"""`factory inspect`: look at a data set."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.commands.options import TILES, DryRun
from factory.core.options import OUTPUT

SortBy = Literal["tps", "tissue", "cells", "random"]
"""Columns that the tiles can be spread over."""


def inspect(
    dataset: Annotated[Path, typer.Argument(help="Folder of a finished data set.")] = Path("data/synth"),
    n: Annotated[int, typer.Option("--n", help="Tiles on the contact sheet.", rich_help_panel=TILES)] = 24,
    sort: Annotated[
        SortBy | None,
        typer.Option(
            help="Spread the tiles over this column. [default: the first of tps, tissue, cells that they have]",
            rich_help_panel=TILES,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of the order of equal values and the places of cuts.", rich_help_panel=TILES),
    ] = 0,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Show below: another data set at the same um per pixel, or a folder of images, pixel for pixel. "
            "[default: none]",
            rich_help_panel=TILES,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to, outside every data set. [default: inspect/NAME beside the data set]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Draw a contact sheet of tiles (sheet.png) and write a page with distributions and filters (index.html).

    The sheet shows each tile's image, mask and cells with its requested and achieved TPS. The page is one file that
    loads nothing. Neither is written into the data set, whose checksums list every file in it.

    Examples:
      factory inspect data/synth
      factory inspect data/synth --beside data/real --sort cells --n 48
    """
    from factory.core.console import console
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.inspect.report import inspect_dataset

    done = inspect_dataset(dataset, out, n=n, sort=sort, beside=beside, seed=seed, dry_run=dry_run)
    screen = console()
    if dry_run:
        screen.print(dry_run_text(done.size_bytes, done.page.parent), markup=False, highlight=False, soft_wrap=True)
        return
    screen.print(
        f"contact sheet  {done.sheet}  ({plural(done.tiles, 'tile')}, {done.sort})", highlight=False, soft_wrap=True
    )
    screen.print(f"page           {done.page}  (open it in a browser)", highlight=False, soft_wrap=True)
