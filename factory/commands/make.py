"""`factory make`: a distribution or a plan in, a finished data set out."""

from typing import Annotated, Any

from factory.core.command_line import unpacked
from factory.core.options import RUNNING, DryRun, Overwrite, Workers
from factory.make.request import MakeRequest


@unpacked
def make(
    request: MakeRequest,
    overwrite: Overwrite = False,
    workers: Workers = None,
    scheduler: Annotated[
        str | None,
        RUNNING("Address of a dask.distributed scheduler, tcp://host:8786. [default: local processes]"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make labelled tiles with exactly the requested composition.

    The same command continues an interrupted run.

    Examples:
      factory make --tps 0.01-0.5 --n 200
      factory make --scheme nuclei --cells 20-60 --size 256 --out data/nuclei
      factory make --like data/real --tps like:data/real --n 1000 --dry-run
    """
    import time
    from dataclasses import replace

    from factory.core.console import counting, say, working
    from factory.core.datasets import real_pixel_lines
    from factory.core.devices import parse_workers
    from factory.inspect.report import write_contact_sheet
    from factory.make import report
    from factory.make.pipeline import make as make_tiles
    from factory.make.pipeline import rehearse
    from factory.make.prepare import prepare_make

    with working("planning"):
        prepared = prepare_make(request)
    assigned = any(word.startswith("plan.scheme=") for word in request.assignments or [])
    named = bool(request.scheme or request.manifest or request.config or assigned)
    say(report.run_text(prepared, by_weights=not named), *(f"note: {note}" for note in prepared.notes))
    how: dict[str, Any] = {"workers": parse_workers(workers), "overwrite": overwrite}
    if dry_run:
        say(report.request_table(prepared.rows))
        with working("timing two tiles"):
            needs = rehearse(prepared, **how)
        say(needs)
        return
    started = time.monotonic()
    how["scheduler"] = scheduler
    if prepared.choose:
        with counting("drawing a pool") as calls:
            prepared = prepared.choose(prepared, **how, **calls)
        say(*(f"note: {note}" for note in prepared.notes))
    with counting("making tiles") as calls:
        table, made = make_tiles(prepared, **how, **calls)
    seconds = time.monotonic() - started
    prepared = replace(prepared, rows=prepared.rows.schema.empty_table())  # memory for the reports
    scheme = prepared.recipe.scheme
    closing = (
        report.choice_table(table, prepared)
        if request.joint
        else report.closing_table(table, scheme, report.named_classes(prepared))
    )
    if closing.row_count:
        say(closing)
    say(report.class_table(table, scheme), report.closing_line(request.out, len(table), made, seconds))
    say(*real_pixel_lines(table, prepared.spec.info))
    if made and (sheet := write_contact_sheet(request.out)):
        say(f"contact sheet: {sheet}")
    say(f"Look: factory inspect {request.out}. Train on it: segment train --mix synth --synth {request.out}")
