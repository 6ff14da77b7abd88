"""`factory sketches`: what kinds of masks there are to draw, and how drawings are read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factory.masks.coarse.drawings import White
    from factory.sketches.check import CheckReport
    from factory.sketches.report import SketchReport
    from manifests.labels import LabelScheme


class WhiteIs(StrEnum):
    """What the white of a drawing in two classes stands for."""

    air = "air"
    tissue = "tissue"


def sketches(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders of finished data sets whose masks the drawings are to be like.")
    ] = None,
    k: Annotated[str, typer.Option("--k", help="Number of kinds, or auto: 4 to 12 by silhouette.")] = "auto",
    check: Annotated[
        Path | None, typer.Option(help="Instead: a folder of PNG drawings, or one, to say how each is read.")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="Label scheme by name or YAML. [default: the richest that all share; with --check tissue]"),
    ] = None,
    white: Annotated[
        WhiteIs, typer.Option(help="What white stands for in drawings of two classes, with --check.")
    ] = WhiteIs.air,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the tiles to make, with --check.")] = "512x1024",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. [default: runs/sketches; with --check runs/sketches-check]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of k-means, and of the augmentations shown.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left in --out.")] = False,
) -> None:
    """Show what kinds of coarse maps a data set holds, or check drawings of them.

    Writes a sheet with one row per kind (sheet.png), the kind of every training mask (kinds.csv) and the most typical
    map of each kind to trace over (templates/). With --check it reads a folder of drawings and shows what it made of
    each, and of some augmentations.
    """
    from factory.make.resolve import parse_size
    from factory.plan.rows import load_scheme
    from manifests.errors import UserError

    if (check is None) == (not data):
        raise UserError("factory sketches: expected data sets, or --check FOLDER with drawings, and not both.")
    named = load_scheme(scheme) if scheme else None
    if check is not None:
        from factory.sketches.check import check_sketches

        chosen, folder = named or load_scheme("tissue"), out or Path("runs/sketches-check")
        paper: White = "air" if white is WhiteIs.air else "tissue"
        shape = parse_size(size)
        checked = check_sketches(check, chosen, folder, size=shape, white=paper, seed=seed, overwrite=overwrite)
        _print_check(checked, chosen)
        return
    from factory.sketches.report import report_kinds

    folder = out or Path("runs/sketches")
    found = report_kinds(data or [], folder, k=_parse_k(k), scheme=named, seed=seed, overwrite=overwrite)
    _print_kinds(found)


def _parse_k(text: str) -> int | None:
    """``auto`` is None.

    Raises:
        UserError: for what is neither that nor a number.
    """
    if text == "auto":
        return None
    if not text.isdecimal():
        from manifests.errors import UserError

        raise UserError(f"--k: expected auto or a number of kinds, got {text!r}.")
    return int(text)


def _print_kinds(found: SketchReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    from factory.core.console import console

    scheme = found.scheme
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "masks", "share", *scheme.names, "parts", "holes", "draw about"):
        table.add_column(heading, justify="right")
    table.add_column("trace over", overflow="fold")
    for number, kind in enumerate(found.kinds, start=1):
        shares = [f"{100 * share:.0f} %" for share in (kind.share, *kind.fractions)]
        counts = [str(value) for value in (kind.parts, kind.holes, kind.to_draw)]
        table.add_row(str(number), str(kind.masks), *shares, *counts, escape(str(kind.template)))
    screen = console()
    screen.print(table)
    tried = ", ".join(f"{k}: {value:.2f}" for k, value in sorted(found.silhouette.items()))
    screen.print(f"silhouette by number of kinds  {tried}  (1 apart, 0 no gaps between them)", highlight=False)
    screen.print(f"sheet  {found.sheet}", highlight=False, soft_wrap=True)
    screen.print(f"kinds  {found.table}", highlight=False, soft_wrap=True)
    screen.print("Draw on white, tissue dark or in its colour, then: factory sketches --check FOLDER", highlight=False)


def _print_check(checked: CheckReport, scheme: LabelScheme) -> None:
    """The table of drawings.

    Raises:
        UserError: when some of them cannot be read.
    """
    from rich.markup import escape
    from rich.table import Table

    from factory.core.console import console
    from manifests.errors import UserError

    table = Table(box=None, pad_edge=False)
    table.add_column("drawing", overflow="fold")
    for name in scheme.names:
        table.add_column(name, justify="right")
    table.add_column("notes", overflow="fold")
    for reading in checked.readings:
        shares = [f"{100 * share:.0f} %" for share in reading.fractions] or ["-"] * len(scheme)
        said = "; ".join(reading.sketch.notes) if reading.sketch else f"NOT READ: {reading.problem}"
        table.add_row(escape(reading.name), *shares, escape(said))
    screen = console()
    screen.print(table)
    if checked.sheet:
        screen.print(f"sheet  {checked.sheet}", highlight=False, soft_wrap=True)
    if checked.unread:
        raise UserError(
            f"{checked.unread} of {len(checked.readings)} drawings cannot be read: the table says why. "
            "Mend them or take them out."
        )
