"""`factory make`: a distribution or a plan in, a finished data set out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from factory.commands import options
from factory.core.options import OUTPUT, RUNNING
from factory.joint import FITTED

_JOINT = "Joint generator (with --joint)"


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
    split: options.SplitShares = None,
    seed: options.Seed = None,
    scheme: options.Scheme = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Follow this plan instead of drawing one. [default: none]", rich_help_panel=options.TILES),
    ] = None,
    masks: options.Masks = None,
    renderer: options.Renderer = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Fit the renderer, and nuclei to instances, to a data set (its train split), a folder or an image. "
            "[default: no fit]",
            rich_help_panel=options.PARTS,
        ),
    ] = None,
    joint: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(FITTED)}: one generator draws image and labels, and tiles that fit are chosen. "
            "[default: none]",
            rich_help_panel=_JOINT,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Run folder of factory train hdgan. [default: starter]", rich_help_panel=_JOINT),
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(help="Tiles to draw and choose from. [default: 4 for each requested]", rich_help_panel=_JOINT),
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=SHARE",
            help="Share of all pixels of a class, forms as --tps. Repeatable. [default: none]",
            rich_help_panel=_JOINT,
        ),
    ] = None,
    max_uncertainty: Annotated[
        float | None,
        typer.Option(
            help="Leave out tiles with a larger mean uncertainty, in nats. [default: none]", rich_help_panel=_JOINT
        ),
    ] = None,
    max_pixel_uncertainty: Annotated[
        float | None,
        typer.Option(
            help="Label pixels with a larger uncertainty 255 (ignore). [default: none]", rich_help_panel=_JOINT
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The data set's folder.", rich_help_panel=OUTPUT)] = Path("data/synth"),
    overwrite: options.Overwrite = False,
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a dask.distributed scheduler, tcp://host:8786. [default: local processes]",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Make labelled tiles with exactly the requested composition.

    The same command continues an interrupted run.

    Examples:
      factory make --tps 0.01-0.5 --n 200
      factory make --scheme nuclei --cells 20-60 --size 256 --out data/nuclei
      factory make --like data/real --tps like:data/real --n 1000 --dry-run
    """
    import time

    from factory.core.console import console, counting, working
    from factory.core.devices import parse_workers
    from factory.core.runs import check_run
    from factory.core.wording import dry_run as dry_run_text
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
    with working("planning"):
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
    named = scheme or manifest or config or any(word.startswith("plan.scheme=") for word in assignments or [])
    terminal.print(report.run_text(prepared, by_weights=not named), markup=False, highlight=False)
    for note in prepared.notes:
        terminal.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        terminal.print(report.request_table(prepared.rows))
        terminal.print(dry_run_text(check_run(prepared.spec, overwrite=overwrite), out), markup=False, soft_wrap=True)
        return
    started = time.monotonic()
    how: dict[str, Any] = {
        "workers": parse_workers(workers),
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
    terminal.print(
        f"Look: factory inspect {out}. Train on it: segment train --mix synth --synth {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
