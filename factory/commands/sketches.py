"""`factory sketches`: what kinds of masks there are to draw, and how drawings are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factory.commands.options import SCHEMES, DryRun, Overwrite
from factory.core.options import OUTPUT

if TYPE_CHECKING:
    from factory.sketches.check import CheckReport
    from factory.sketches.report import SketchReport
    from manifests.labels import LabelScheme


White = Literal["air", "tissue"]
"""Meanings of white in a drawing of two classes."""

_KINDS, _CHECK = "Kinds", "Drawings (with --check)"


def sketches(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of finished data sets whose masks the drawings should resemble."),
    ] = None,
    k: Annotated[
        str, typer.Option("--k", help="Number of kinds, or auto: 4 to 12 by silhouette.", rich_help_panel=_KINDS)
    ] = "auto",
    scheme: Annotated[
        str | None,
        typer.Option(
            help=f"Label scheme: {SCHEMES}, or a YAML file. [default: the richest that all share; with --check tissue]",
            rich_help_panel=_KINDS,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**32 - 1, help="Seed of k-means and of the augmentations shown.", rich_help_panel=_KINDS
        ),
    ] = 0,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Read a PNG drawing, or a folder of them, instead, and show how each is understood. [default: none]",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    white: Annotated[
        White, typer.Option(help="Meaning of white in drawings of two classes.", rich_help_panel=_CHECK)
    ] = "air",
    size: Annotated[
        str, typer.Option(help="HEIGHTxWIDTH of the tiles to make, or one side of a square.", rich_help_panel=_CHECK)
    ] = "512x1024",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to. [default: runs/sketches; with --check runs/sketches-check]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Show which kinds of coarse masks a data set contains, or check drawings of such masks.

    Writes a sheet with one row per kind (sheet.png), the kind of every training mask (kinds.csv) and the most typical
    mask of each kind to trace over (templates/). With --check it reads drawings and shows how it understood each, with
    some augmentations.

    Examples:
      factory sketches data/real --k 6
      factory sketches --check drawings/ --scheme pdl1
    """
    from factory.core.config import parse_size
    from factory.plan.rows import load_scheme
    from manifests.errors import UserError

    if (check is None) == (not data):
        raise UserError("factory sketches: expected data sets, or --check FOLDER with drawings, and not both.")
    named = load_scheme(scheme) if scheme else None
    if check is not None:
        from factory.sketches.check import check_sketches

        chosen, folder = named or load_scheme("tissue"), out or Path("runs/sketches-check")
        shape = parse_size(size)
        checked = check_sketches(
            check, chosen, folder, size=shape, white=white, seed=seed, overwrite=overwrite, dry_run=dry_run
        )
        _print_check(checked, chosen)
        if dry_run:
            _say_dry_run(folder)
        return
    from factory.sketches.report import report_kinds

    folder = out or Path("runs/sketches")
    found = report_kinds(
        data or [], folder, k=_parse_k(k), scheme=named, seed=seed, overwrite=overwrite, dry_run=dry_run
    )
    if dry_run:
        _say_dry_run(folder)
        return
    _print_kinds(found)


def _say_dry_run(folder: Path) -> None:
    from factory.core.console import console
    from factory.core.wording import dry_run as dry_run_text

    console().print(dry_run_text(None, folder), markup=False, highlight=False, soft_wrap=True)


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


def _print_kinds(found: "SketchReport") -> None:
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


def _print_check(checked: "CheckReport", scheme: "LabelScheme") -> None:
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
