"""`factory annotate`: images of a generator to a person's tool, and labels back."""

from pathlib import Path
from typing import Annotated

import typer

from factory.annotate import TOOLS
from factory.core.command_line import application
from factory.core.options import INPUT, OUTPUT, SCHEMES, DryRun, Overwrite
from factory.make.request import Seed, SplitShares


def export(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set of factory sample.")],
    out: Annotated[Path, OUTPUT("New folder for images and annotation files.")],
    tool: Annotated[str, OUTPUT(f"Annotation tool: {', '.join(TOOLS)}.")] = "qupath",
    scheme: Annotated[
        str | None,
        OUTPUT(f"Classes to draw, a label scheme: {SCHEMES}, or a YAML file. [default: the data set's]"),
    ] = None,
    diverse: Annotated[int | None, INPUT("Only this many images, those that differ most. [default: all]")] = None,
    chosen: Annotated[
        Path | None, INPUT("Only the images of a manifest, as factory sample --diverse writes one. [default: all]")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Write images as PNG, an empty annotation file for each, and the classes in the tool's format.

    Examples:
      factory annotate export data/sampled --diverse 20 --out to-label
      factory annotate export data/sampled --tool labelme --scheme nuclei --out to-label
    """
    from factory.annotate.folder import export as write_folder
    from factory.core.console import progress, say
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.plan.rows import load_scheme
    from manifests.dataset import open_dataset

    named = load_scheme(scheme) if scheme else None
    with progress("writing images", 0, unit="images") as bar:
        count = write_folder(data, out, tool, named, diverse=diverse, chosen=chosen, on_image=bar.to, dry_run=dry_run)
    what = f"{plural(count, 'image')} for {tool}"
    if dry_run:
        layout = open_dataset(data).store.layout
        say(f"{what}; {dry_run_text(count * layout.height * layout.width * _PNG_BYTES_PER_PX, out)}")
        return
    say(f"{out}: {what}; back with factory annotate import {out} --data {data}")


_PNG_BYTES_PER_PX = 2
"""Of stained tissue, about."""


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of factory annotate export, annotated.")],
    data: Annotated[Path, INPUT("Data set that was exported.")],
    scheme: Annotated[str, INPUT(f"Label scheme: {SCHEMES}, or a YAML file.")],
    fill: Annotated[str | None, INPUT("Class of pixels outside every shape. [default: 255, ignore]")] = None,
    partial: Annotated[bool, INPUT("Leave out images that are not annotated.")] = False,
    out: Annotated[Path, OUTPUT("The new data set's folder.")] = Path("data/annotated"),
    split: SplitShares = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Read annotations into a data set of the same images, with their seeds and latents.

    The same command continues an interrupted run.

    Examples:
      factory annotate import to-label --data data/sampled --scheme nuclei
      factory annotate import to-label --data data/sampled --scheme nuclei --fill background --partial
    """
    from factory.annotate import reading
    from factory.core.config import option_names, parse
    from factory.core.console import progress, say
    from factory.core.wording import plural
    from factory.make.pipeline import make, rehearse
    from factory.make.resolve import parse_split
    from factory.plan.rows import load_scheme

    values = {"fill": fill, "split": parse_split(split or "0.8,0.1,0.1"), "seed": seed or 0}
    config = parse(reading.ImportConfig, values, "factory annotate import", option_names(values))
    prepared = reading.prepare(folder, data, load_scheme(scheme), out, config, partial=partial)
    say(*(f"note: {note}" for note in prepared.notes))
    count = plural(len(prepared.rows), "annotated image")
    if dry_run:
        say(f"{count}; {rehearse(prepared, workers=1, overwrite=overwrite)}")
        return
    with progress("painting masks", len(prepared.rows), unit="images") as bar:
        _, made = make(prepared, workers=1, overwrite=overwrite, on_start=bar.resume_at, on_tiles=bar.to)
    say(
        f"{out}: {count}, {made} written now; scheme {prepared.recipe.scheme.name}",
        f"Train on it: segment train --mix synth --synth {out}; factory train hdgan --data {out} --generator RUN",
    )


annotate = application(
    "annotate",
    "Take a generator's images to a person's annotation tool (export), and the labels back (import).",
    {"Commands": [export, import_]},
    resumable=[import_],
)
