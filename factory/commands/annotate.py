"""`factory annotate`: images of a generator to a person's tool, and labels back."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from factory.commands import options
from factory.core.command_line import application


class Tool(StrEnum):
    """Whose files are written and read."""

    qupath = "qupath"
    labelme = "labelme"


def _say(line: str) -> None:
    from factory.core.console import console

    console().print(line, markup=False, highlight=False, soft_wrap=True)


def export(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set of factory sample.")],
    out: Annotated[Path, typer.Option(help="New folder for images and annotation files.")],
    tool: Annotated[Tool, typer.Option(help="qupath (GeoJSON) or labelme (JSON).")] = Tool.qupath,
    scheme: Annotated[
        str | None, typer.Option(help="Label scheme or its YAML: the classes to draw. [default: the data set's]")
    ] = None,
    diverse: Annotated[
        int | None, typer.Option(help="Only so many images, those that differ most. [default: all]")
    ] = None,
    chosen: Annotated[
        Path | None, typer.Option(help="Only the images of a manifest, as sample --diverse writes one. [default: all]")
    ] = None,
) -> None:
    """Write images as PNG with an empty annotation file each, and the classes as the tool reads them."""
    from factory.annotate.folder import export as write_folder
    from factory.core.console import progress
    from factory.plan.rows import load_scheme

    named = load_scheme(scheme) if scheme else None
    with progress("writing images", 0, unit="images") as bar:
        count = write_folder(data, out, tool.value, named, diverse=diverse, chosen=chosen, on_image=bar.to)
    _say(f"{out}: {count} images for {tool.value}; back with factory annotate import {out} --data {data}")


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of factory annotate export, annotated.")],
    data: Annotated[Path, typer.Option(help="Data set that was exported.")],
    scheme: Annotated[str, typer.Option(help="Label scheme or its YAML.")],
    out: Annotated[Path, typer.Option(help="The new data set's folder.")] = Path("data/annotated"),
    fill: Annotated[str | None, typer.Option(help="Class of pixels in no shape. [default: 255, ignore]")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out images that are not annotated.")] = False,
    split: options.Split = None,
    seed: options.Seed = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set of another configuration in --out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be made, stop.")] = False,
) -> None:
    """Read a person's annotations into a data set of the same images: masks, seeds and latents together."""
    from factory.annotate import reading
    from factory.core.config import parse
    from factory.core.console import progress
    from factory.make.pipeline import make
    from factory.make.resolve import parse_split
    from factory.plan.rows import load_scheme

    values = {"fill": fill, "split": parse_split(split or "0.8,0.1,0.1"), "seed": seed or 0}
    config = parse(reading.ImportConfig, values, "factory annotate import")
    prepared = reading.prepare(folder, data, load_scheme(scheme), out, config, partial=partial)
    for note in prepared.notes:
        _say(f"note: {note}")
    if dry_run:
        _say(f"{len(prepared.rows)} annotated images; dry run: nothing was written.")
        return
    with progress("painting masks", len(prepared.rows), unit="images") as bar:
        table, made = make(prepared, workers=1, overwrite=overwrite, on_start=bar.resume_at, on_tiles=bar.to)
    _say(f"{out}: {table.num_rows} annotated images, {made} written now; scheme {prepared.recipe.scheme.name}")


annotate = application(
    "annotate",
    "Take a generator's images to a person's annotation tool (export), and the labels back (import).",
    {"Commands": [export, import_]},
    resumable=[import_],
)
