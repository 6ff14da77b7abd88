"""`factory annotate`: images of a generator to a person's tool, and labels back."""

from pathlib import Path
from typing import Annotated

import typer

from factory.annotate import TOOLS
from factory.commands import options
from factory.core.command_line import application
from factory.core.options import INPUT, OUTPUT


def _say(line: str) -> None:
    from factory.core.console import console

    console().print(line, markup=False, highlight=False, soft_wrap=True)


def export(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set of factory sample.")],
    out: Annotated[Path, typer.Option(help="New folder for images and annotation files.", rich_help_panel=OUTPUT)],
    tool: Annotated[str, typer.Option(help=f"Annotation tool: {', '.join(TOOLS)}.", rich_help_panel=OUTPUT)] = "qupath",
    scheme: Annotated[
        str | None,
        typer.Option(
            help=f"Classes to draw, a label scheme: {options.SCHEMES}, or a YAML file. [default: the data set's]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    diverse: Annotated[
        int | None,
        typer.Option(help="Only this many images, those that differ most. [default: all]", rich_help_panel=INPUT),
    ] = None,
    chosen: Annotated[
        Path | None,
        typer.Option(
            help="Only the images of a manifest, as factory sample --diverse writes one. [default: all]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Write images as PNG, an empty annotation file for each, and the classes in the tool's format.

    Examples:
      factory annotate export data/sampled --diverse 20 --out to-label
      factory annotate export data/sampled --tool labelme --scheme nuclei --out to-label
    """
    from factory.annotate.folder import export as write_folder
    from factory.core.console import progress
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.plan.rows import load_scheme

    named = load_scheme(scheme) if scheme else None
    with progress("writing images", 0, unit="images") as bar:
        count = write_folder(data, out, tool, named, diverse=diverse, chosen=chosen, on_image=bar.to, dry_run=dry_run)
    if dry_run:
        _say(f"{plural(count, 'image')} for {tool}; {dry_run_text(None, out)}")
        return
    _say(f"{out}: {plural(count, 'image')} for {tool}; back with factory annotate import {out} --data {data}")


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of factory annotate export, annotated.")],
    data: Annotated[Path, typer.Option(help="Data set that was exported.", rich_help_panel=INPUT)],
    scheme: Annotated[
        str, typer.Option(help=f"Label scheme: {options.SCHEMES}, or a YAML file.", rich_help_panel=INPUT)
    ],
    fill: Annotated[
        str | None,
        typer.Option(help="Class of pixels outside every shape. [default: 255, ignore]", rich_help_panel=INPUT),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out images that are not annotated.", rich_help_panel=INPUT)
    ] = False,
    out: Annotated[Path, typer.Option(help="The new data set's folder.", rich_help_panel=OUTPUT)] = Path(
        "data/annotated"
    ),
    split: options.SplitShares = None,
    seed: options.Seed = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
) -> None:
    """Read annotations into a data set of the same images, with their seeds and latents.

    The same command continues an interrupted run.

    Examples:
      factory annotate import to-label --data data/sampled --scheme nuclei
      factory annotate import to-label --data data/sampled --scheme nuclei --fill background --partial
    """
    from factory.annotate import reading
    from factory.core.config import parse
    from factory.core.console import progress
    from factory.core.runs import check_run
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.make.pipeline import make
    from factory.make.resolve import parse_split
    from factory.plan.rows import load_scheme

    values = {"fill": fill, "split": parse_split(split or "0.8,0.1,0.1"), "seed": seed or 0}
    config = parse(reading.ImportConfig, values, "factory annotate import")
    prepared = reading.prepare(folder, data, load_scheme(scheme), out, config, partial=partial)
    for note in prepared.notes:
        _say(f"note: {note}")
    if dry_run:
        need = check_run(prepared.spec, overwrite=overwrite)
        _say(f"{plural(len(prepared.rows), 'annotated image')}; {dry_run_text(need, out)}")
        return
    with progress("painting masks", len(prepared.rows), unit="images") as bar:
        table, made = make(prepared, workers=1, overwrite=overwrite, on_start=bar.resume_at, on_tiles=bar.to)
    name = prepared.recipe.scheme.name
    _say(f"{out}: {plural(table.num_rows, 'annotated image')}, {made} written now; scheme {name}")
    _say(f"Train on it: segment train --mix synth --synth {out}; factory train hdgan --data {out} --generator RUN")


annotate = application(
    "annotate",
    "Take a generator's images to a person's annotation tool (export), and the labels back (import).",
    {"Commands": [export, import_]},
    resumable=[import_],
)
