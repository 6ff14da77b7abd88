"""`factory plan`: a distribution in, a manifest of requests out."""

from pathlib import Path
from typing import Annotated

from factory.core.command_line import unpacked
from factory.core.options import OUTPUT, DryRun
from factory.make.request import Assignments, ConfigFile, Masks, PlanRequest


@unpacked
def plan(
    request: PlanRequest,
    masks: Masks = None,
    out: Annotated[Path, OUTPUT("The manifest to write.")] = Path("plan.parquet"),
    overwrite: Annotated[bool, OUTPUT("Replace the manifest if it exists.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    dry_run: DryRun = False,
) -> None:
    """Plan a data set: write a Parquet manifest of requests, one row per tile.

    Look at it, edit it, and give it to factory make --manifest.

    Examples:
      factory plan --tps 0.01-0.5 --n 500
      factory plan --scheme ihc --tps beta:2,5 --cells 40-80 --out ihc.parquet
    """
    import time

    from factory.core.config import digest
    from factory.core.console import say, working
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.make.pipeline import refuse_impossible
    from factory.make.recipes.masks_and_renderer import MasksAndRenderer
    from factory.make.report import request_table
    from factory.make.resolve import plan_values, resolve_make
    from factory.plan.origin import plan_metadata
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
    resolved, scheme = resolve_make(plan_values(request), {"masks": masks}, config, assignments or [])
    if resolved.plan.n > ROWS_PER_FILE:
        raise UserError(
            f"--n: expected at most {ROWS_PER_FILE:,} in one file, got {resolved.plan.n:,}. "
            "Make several with other --seed, or give --n to factory make."
        )
    started = time.monotonic()
    with working("planning"):
        table = draw_plan(resolved.plan)
        maker = MasksAndRenderer.from_document(resolved.model_dump(mode="json"), scheme=scheme).maker()
        refuse_impossible(table, scheme, [maker.masks, maker.renderer])
    say(request_table(table))
    if dry_run:
        say(dry_run_text(table.nbytes, out, time.monotonic() - started))
        return
    asked = resolved.plan
    origin = plan_metadata(digest(asked), asked.seed, asked.n)
    write_manifest(out, table, DatasetInfo(True, "factory plan", (scheme,)), origin)
    say(f"{plural(table.num_rows, 'request')} in {out}. Make them: factory make --manifest {out}")
