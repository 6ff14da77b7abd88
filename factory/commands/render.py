"""`factory render`: masks that are there in, the same masks with other images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.commands import options
from factory.commands.score import Split


def render(
    masks: Annotated[
        Path, typer.Argument(metavar="DATA", help="Data set whose masks are drawn on, real or synthetic.")
    ] = Path("data/real"),
    split: Annotated[Split | None, typer.Option(help="Which of its tiles. [default: test]")] = None,
    renderer: Annotated[str | None, typer.Option(help="Renderer. [default: stain]")] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Fit the renderer to a data set (its train split), a folder or an image. [default: no fit]"),
    ] = None,
    seed: options.Seed = None,
    out: Annotated[Path, typer.Option(help="The new data set's folder.")] = Path("data/rendered"),
    device: options.Device = "auto",
    workers: options.Workers = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML over the scheme's renderer. [default: none]")
    ] = None,
    assignments: options.Assignments = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set of another configuration in --out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be made, stop.")] = False,
) -> None:
    """Draw new images on the masks of a data set, to hold against its own. Stopped? The same command goes on."""
    import time

    from factory.core.console import console, counting
    from factory.make import report
    from factory.make.options import prepare_render
    from factory.make.pipeline import make
    from factory.make.resolve import parse_workers

    prepared = prepare_render(
        masks,
        out,
        split=split.value if split else None,
        renderer=renderer,
        like=like,
        seed=seed,
        device=device,
        config=config,
        assignments=assignments,
    )
    terminal = console()
    layout, recipe = prepared.spec.layout, prepared.recipe
    terminal.print(
        f"{layout.n} tiles of {layout.height}x{layout.width}: masks of {masks} ({recipe.split}), "
        f"renderer {recipe.renderer.name}, scheme {recipe.scheme.name} -> {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for note in prepared.notes:
        terminal.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        terminal.print("dry run: nothing was written.")
        return
    started = time.monotonic()
    with counting("drawing tiles") as calls:
        table, made = make(prepared, workers=parse_workers(workers), overwrite=overwrite, **calls)
    seconds = time.monotonic() - started
    terminal.print(report.class_table(table, recipe.scheme))
    terminal.print(report.closing_line(out, len(table), made, seconds), highlight=False)
