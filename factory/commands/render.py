"""`factory render`: masks that are there in, the same masks with other images out."""

from pathlib import Path
from typing import Annotated

import typer

from factory.commands import options
from factory.core.choices import Split
from factory.core.options import OUTPUT


def render(
    masks: Annotated[
        Path, typer.Argument(metavar="DATA", help="Data set whose masks are drawn on, real or synthetic.")
    ] = Path("data/real"),
    split: Annotated[
        Split | None, typer.Option(help="Which of its tiles. [default: test]", rich_help_panel=options.TILES)
    ] = None,
    seed: options.Seed = None,
    renderer: options.Renderer = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Fit the renderer to a data set (its train split), a folder or an image. [default: no fit]",
            rich_help_panel=options.PARTS,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The new data set's folder.", rich_help_panel=OUTPUT)] = Path(
        "data/rendered"
    ),
    overwrite: options.Overwrite = False,
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
) -> None:
    """Draw new images on the masks of a data set, to compare with its own images.

    The same command continues an interrupted run.

    Examples:
      factory render data/real --split test
      factory render data/real --renderer pix2pixhd --set renderer.weights=runs/train/pix2pixhd
    """
    import time

    from factory.core.console import console, counting
    from factory.core.devices import parse_workers
    from factory.core.runs import check_run
    from factory.core.wording import dry_run as dry_run_text
    from factory.make import report
    from factory.make.options import prepare_render
    from factory.make.pipeline import make

    prepared = prepare_render(
        masks,
        out,
        split=split,
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
        terminal.print(dry_run_text(check_run(prepared.spec, overwrite=overwrite), out), markup=False, soft_wrap=True)
        return
    started = time.monotonic()
    with counting("drawing tiles") as calls:
        table, made = make(prepared, workers=parse_workers(workers), overwrite=overwrite, **calls)
    seconds = time.monotonic() - started
    terminal.print(report.class_table(table, recipe.scheme))
    terminal.print(report.closing_line(out, len(table), made, seconds), highlight=False)
    terminal.print(
        f"Look: factory inspect {out} --beside {masks}. Compare: factory score {out} --real {masks} --on images",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
