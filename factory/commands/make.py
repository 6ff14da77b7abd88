"""`factory make`: a distribution or a plan in, a finished data set out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from factory.commands import options


def make(
    tps: options.Tps = None,
    tissue: options.Tissue = None,
    cells: options.Cells = None,
    tumour: options.Tumour = None,
    inflammation: options.Inflammation = None,
    debias: options.Debias = False,
    n: options.Number = None,
    size: options.Size = None,
    mpp: options.Mpp = None,
    split: options.Split = None,
    seed: options.Seed = None,
    scheme: options.Scheme = None,
    out: Annotated[Path, typer.Option(help="The data set's folder.")] = Path("data/synth"),
    manifest: Annotated[
        Path | None, typer.Option(help="Follow this plan instead of drawing one. [default: none]")
    ] = None,
    masks: options.Masks = None,
    renderer: Annotated[str | None, typer.Option(help="Renderer. [default: stain]")] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Fit the renderer, and nuclei to instances, to a data set (its train split), a folder or an image. "
            "[default: no fit]"
        ),
    ] = None,
    joint: Annotated[
        str | None, typer.Option(help="hdgan: image and labels of one generator, tiles chosen. [default: none]")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="--joint: run of factory train hdgan. [default: starter]")] = None,
    pool: Annotated[
        int | None, typer.Option(help="--joint: tiles drawn to choose from. [default: 4 for each asked]")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(help="--joint: CLASS=SHARE of all pixels, forms as --tps. Repeatable. [default: none]"),
    ] = None,
    max_uncertainty: Annotated[
        float | None, typer.Option(help="--joint: leave out tiles with more doubt, in nats. [default: none]")
    ] = None,
    max_pixel_uncertainty: Annotated[
        float | None, typer.Option(help="--joint: pixels with more doubt become 255, ignore. [default: none]")
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a dask.distributed scheduler, tcp://host:8786. [default: local processes]"),
    ] = None,
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set of another configuration in --out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be made, stop.")] = False,
) -> None:
    """Make labelled tiles whose composition is what was asked, exactly. Stopped? The same command goes on."""
    import time

    from factory.core.console import console, counting
    from factory.inspect.report import write_contact_sheet
    from factory.make import report, resolve
    from factory.make.options import prepare_make
    from factory.make.pipeline import make as make_tiles

    plan = resolve.plan_flags(
        tps=tps,
        tissue=tissue,
        cells=cells,
        tumour=tumour,
        inflammation=inflammation,
        debias=debias,
        n=n,
        size=size,
        mpp=mpp,
        split=split,
        seed=seed,
        scheme=scheme,
    )
    prepared = prepare_make(
        out,
        plan=plan,
        manifest=manifest,
        masks=masks,
        renderer=renderer,
        like=like,
        joint=joint,
        weights=weights,
        pool=pool,
        share=share,
        max_uncertainty=max_uncertainty,
        max_pixel_uncertainty=max_pixel_uncertainty,
        device=device,
        config=config,
        assignments=assignments,
    )
    terminal = console()
    terminal.print(report.run_text(prepared), highlight=False)
    for note in prepared.notes:
        terminal.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        terminal.print(report.request_table(prepared.rows))
        terminal.print("dry run: nothing was written.")
        return
    started = time.monotonic()
    how: dict[str, Any] = {
        "workers": resolve.parse_workers(workers),
        "scheduler": scheduler,
        "overwrite": overwrite,
    }
    if prepared.choose:
        with counting("drawing a pool") as calls:
            prepared = prepared.choose(prepared, **how, **calls)
        for note in prepared.notes:
            terminal.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    with counting("making tiles") as calls:
        table, made = make_tiles(prepared, **how, **calls)
    seconds = time.monotonic() - started
    closing = report.choice_table(table, prepared) if joint else report.closing_table(table, prepared.recipe.scheme)
    if closing.row_count or not joint:
        terminal.print(closing)
    terminal.print(report.class_table(table, prepared.recipe.scheme))
    terminal.print(report.closing_line(out, len(table), made, seconds), highlight=False)
    if made and (sheet := write_contact_sheet(out)):
        terminal.print(f"contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)
