"""`factory ingest`: real images and their labels into a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from factory.core.command_line import unpacked
from factory.core.options import RUNNING, Overwrite
from factory.ingest.options import Request

if TYPE_CHECKING:
    from factory.ingest.writing import Plan


@unpacked
def ingest(
    request: Request,
    overwrite: Overwrite = False,
    workers: Annotated[
        int | None, RUNNING("Threads; their number never changes a byte. [default: one per core]")
    ] = None,
    dry_run: Annotated[
        bool, RUNNING("Check everything, show the tiles and the room they need, and write nothing but the sheet.")
    ] = False,
    sheet: Annotated[
        Path | None, RUNNING("PNG that a dry run draws: images with outlines of labels. [default: a temporary file]")
    ] = None,
) -> None:
    """Ingest real images: check them and their labels, cut tiles, and write a data set with groups and splits.

    The same command continues an interrupted run.

    Examples:
      factory ingest slides/ --mpp 0.5 --size 512 --group-pattern '(p[0-9]+)'
      factory ingest theirs/ --mpp 0.25 --synthetic --generator 'NuDiff 1.0' --trained-on monuseg/TCGA-18-5592
      factory ingest annotated/ --mpp 0.25 --instances 'labels/{stem}.tif' --out data/nuclei --dry-run
    """
    import time

    from factory.core.console import say, working
    from factory.core.devices import parse_workers
    from factory.core.wording import file_size, plural
    from factory.ingest.contact_sheet import check_sheet, write_sheet
    from factory.ingest.report import bytes_on_disk, class_table
    from factory.ingest.writing import InputError, rehearse
    from factory.ingest.writing import ingest as run_ingest
    from manifests.errors import UserError

    if sheet is not None and not dry_run:
        raise UserError("--sheet: expected --dry-run with it, got none.")
    check_sheet(sheet)
    threads, out, started = parse_workers(workers), request.out, time.monotonic()
    try:
        ended = run_ingest(request, workers=threads, overwrite=overwrite, dry_run=dry_run)
    except InputError as error:
        if len(error.problems) > 1:
            say(*error.kinds)
        raise
    plan, table = ended.plan, ended.table
    if plan is None or table is None:  # there already, or a dry run
        if plan is not None:
            _say_plan(plan)
            read_s = time.monotonic() - started
            with working("timing two tiles"):
                needs = rehearse(plan, workers=threads, overwrite=overwrite, read_s=read_s)
            say(needs, f"Images with outlines of their labels: {write_sheet(plan, sheet)}")
        elif table is not None:
            say(f"{out}: {plural(table.num_rows, 'tile')}, all there already: nothing to do.")
        return
    _say_plan(plan)
    seconds, tiles = time.monotonic() - started, table.num_rows
    say(
        class_table(table, plan.job.config.label_scheme),
        f"{out}: {plural(tiles, 'tile')}, {file_size(bytes_on_disk(out))}, {seconds:.1f} s "
        f"({tiles / seconds:.0f} tiles/s)",
        f"Is it worth training on? segment compare --real data/real --synth {out}"
        if request.synthetic
        else f"Make more like it: factory make --like {out}. Train on it: segment train --mix real --real {out}",
    )


def _say_plan(plan: "Plan") -> None:
    from factory.core.console import say
    from factory.ingest.report import agreement_table, plan_lines, plan_table

    say(plan_table(plan), *plan_lines(plan))
    if plan.agreement is not None:
        say(agreement_table(plan.agreement))
