"""`factory inspect`: look at a data set."""

from pathlib import Path
from typing import Annotated, Literal

from factory.core.options import DATASET, OUTPUT, TILES, DryRun

SortBy = Literal["tps", "tissue", "cells", "random"]
"""Columns that the tiles can be spread over."""


def inspect(
    dataset: Annotated[Path, DATASET] = Path("data/synth"),
    n: Annotated[int, TILES("Tiles on the contact sheet.", "--n")] = 24,
    sort: Annotated[
        SortBy | None,
        TILES("Spread the tiles over this column. [default: the first of tps, tissue, cells that they have]"),
    ] = None,
    seed: Annotated[int, TILES("Seed of the order of equal values and the places of cuts.", min=0)] = 0,
    beside: Annotated[
        Path | None,
        TILES(
            "Show below: another data set at the same um per pixel, or a folder of images, pixel for pixel. "
            "[default: none]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        OUTPUT("Folder to write to, outside every data set. [default: inspect/NAME beside it; of a URL, here]"),
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
    import time

    from factory.core.console import say
    from factory.core.datasets import open_finished
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.inspect.report import default_out, inspect_dataset

    found, started = plural(len(open_finished(dataset)), "tile"), time.monotonic()
    below = f", {beside} below" if beside else ""
    say(f"{dataset}, {found}: contact sheet of {n} at most{below}, and a page of all -> {out or default_out(dataset)}")
    done = inspect_dataset(dataset, out, n=n, sort=sort, beside=beside, seed=seed, dry_run=dry_run)
    if dry_run:
        say(dry_run_text(done.size_bytes, done.page.parent, time.monotonic() - started))
        return
    say(
        f"contact sheet  {done.sheet}  ({plural(done.tiles, 'tile')}, {done.sort})",
        f"page           {done.page}  (open it in a browser)",
    )
