"""`factory sketches`: what kinds of masks there are to draw, and how drawings are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factory.core.options import OUTPUT, SCHEMES, DryRun, Heading, Overwrite

if TYPE_CHECKING:
    from factory.sketches.check import CheckReport
    from factory.sketches.report import SketchReport
    from manifests.labels import LabelScheme


White = Literal["air", "tissue"]
"""Meanings of white in a drawing of two classes."""

_KINDS, _CHECK = Heading("Kinds"), Heading("Drawings (with --check)")


def sketches(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of finished data sets whose masks the drawings should resemble."),
    ] = None,
    k: Annotated[str, _KINDS("Number of kinds, or auto: 4 to 12 by silhouette.", "--k")] = "auto",
    scheme: Annotated[
        str | None,
        _KINDS(f"Label scheme: {SCHEMES}, or a YAML file. [default: the richest that all share; with --check tissue]"),
    ] = None,
    seed: Annotated[int, _KINDS("Seed of k-means and of the augmentations shown.", min=0, max=2**32 - 1)] = 0,
    check: Annotated[
        Path | None,
        _CHECK(
            "Read a drawing (PNG, or JSON of labelme), or a folder of them, instead, and show how each is understood. "
            "[default: none]"
        ),
    ] = None,
    white: Annotated[White, _CHECK("Meaning of white in drawings of two classes.")] = "air",
    size: Annotated[str, _CHECK("HEIGHTxWIDTH of the tiles to make, or one side of a square.")] = "512x1024",
    out: Annotated[
        Path | None, OUTPUT("Folder to write to. [default: runs/sketches; with --check runs/sketches-check]")
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
    import time

    from factory.core.config import parse_size
    from factory.core.console import say
    from factory.core.wording import dry_run as dry_run_text
    from factory.plan.rows import load_scheme
    from manifests.errors import UserError

    if (check is None) == (not data):
        raise UserError("factory sketches: expected data sets, or --check FOLDER with drawings, and not both.")
    named, started = load_scheme(scheme) if scheme else None, time.monotonic()
    how = {"overwrite": overwrite, "dry_run": dry_run}
    if check is not None:
        from factory.sketches.check import check_sketches

        chosen, folder = named or load_scheme("tissue"), out or Path("runs/sketches-check")
        say(f"drawings are read as scheme {chosen.name}: a sheet shows how each is understood -> {folder}")
        checked = check_sketches(check, chosen, folder, size=parse_size(size), white=white, seed=seed, **how)
        _print_check(checked, chosen)
        need = checked.size_bytes
    else:
        from factory.sketches.report import report_kinds

        folder = out or Path("runs/sketches")
        say(f"kinds of masks in {', '.join(map(str, data or []))}: a sheet, a table and templates -> {folder}")
        found = report_kinds(data or [], folder, k=_parse_k(k), scheme=named, seed=seed, **how)
        need = found.size_bytes
        if not dry_run:
            _print_kinds(found)
    if dry_run:
        say(dry_run_text(need, folder, time.monotonic() - started))


def _parse_k(text: str) -> int | None:
    """``auto`` is None. Raises a UserError for what is neither that nor a number."""
    if text == "auto":
        return None
    if not text.isdecimal():
        from manifests.errors import UserError

        raise UserError(f"--k: expected auto or a number of kinds, got {text!r}.")
    return int(text)


def _print_kinds(found: "SketchReport") -> None:
    from rich.markup import escape
    from rich.table import Table

    from factory.core.console import say

    scheme = found.scheme
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "masks", "share", *scheme.names, "parts", "holes", "draw about"):
        table.add_column(heading, justify="right")
    table.add_column("trace over", overflow="fold")
    for number, kind in enumerate(found.kinds, start=1):
        shares = [f"{100 * share:.0f} %" for share in (kind.share, *kind.fractions)]
        counts = [str(value) for value in (kind.parts, kind.holes, kind.to_draw)]
        table.add_row(str(number), str(kind.masks), *shares, *counts, escape(str(kind.template)))
    tried = ", ".join(f"{k}: {value:.2f}" for k, value in sorted(found.silhouette.items()))
    say(
        table,
        f"silhouette by number of kinds  {tried}  (1 apart, 0 no gaps between them)",
        f"sheet  {found.sheet}",
        f"kinds  {found.table}",
        "Draw on white, tissue dark or in its colour, then: factory sketches --check FOLDER",
    )


def _print_check(checked: "CheckReport", scheme: "LabelScheme") -> None:
    """The table of drawings. Raises a UserError when some of them cannot be read."""
    from rich.markup import escape
    from rich.table import Table

    from factory.core.console import say
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
    say(table, *([f"sheet  {checked.sheet}"] if checked.sheet else []))
    if checked.unread:
        raise UserError(
            f"{checked.unread} of {len(checked.readings)} drawings cannot be read: the table says why. "
            "Mend them or take them out."
        )
