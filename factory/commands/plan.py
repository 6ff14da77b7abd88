"""`factory plan`: a distribution in, a manifest of requests out."""

from pathlib import Path
from typing import Annotated

import typer

from factory.commands import options
from factory.core.options import OUTPUT


def plan(
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
    masks: options.Masks = None,
    out: Annotated[Path, typer.Option(help="The manifest to write.", rich_help_panel=OUTPUT)] = Path("plan.parquet"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the manifest if it exists.", rich_help_panel=OUTPUT)
    ] = False,
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    dry_run: options.DryRun = False,
) -> None:
    """Plan a data set: write a Parquet manifest of requests, one row per tile.

    Look at it, edit it, and give it to factory make --manifest.

    Examples:
      factory plan --tps 0.01-0.5 --n 500
      factory plan --scheme ihc --tps beta:2,5 --cells 40-80 --out ihc.parquet
    """
    from factory.core.console import console, working
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.make import resolve as order
    from factory.make.recipes.masks_and_renderer import MasksAndRenderer
    from factory.make.report import request_table
    from factory.plan.rows import plan as draw_plan
    from manifests.errors import UserError
    from manifests.schema import DatasetInfo
    from manifests.table import ROWS_PER_FILE, write_manifest

    if out.is_dir():
        raise UserError(f"{out}: expected a file for the plan, got a folder. Write --out {out}/plan.parquet.")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: expected a new file, got one that is there. Use another --out, or --overwrite.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: expected a folder that is there, got {out.parent}. Create it first.")
    flags = order.plan_flags(
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
    resolved, label_scheme = order.resolve_make(flags, {"masks": masks}, config, assignments or [])
    if resolved.plan.n > ROWS_PER_FILE:
        raise UserError(
            f"--n: expected at most {ROWS_PER_FILE:,} in one file, got {resolved.plan.n:,}. "
            "Make several with other --seed, or give --n to factory make."
        )
    with working("planning"):
        table = draw_plan(resolved.plan)
        MasksAndRenderer.from_document(resolved.model_dump(mode="json"), scheme=label_scheme).refuse(table)
    console().print(request_table(table))
    if dry_run:
        console().print(dry_run_text(table.nbytes, out), markup=False, highlight=False)
        return
    write_manifest(out, table, DatasetInfo(True, "factory plan", (label_scheme,)))
    console().print(
        f"{plural(table.num_rows, 'request')} in {out}. Make them: factory make --manifest {out}", highlight=False
    )
