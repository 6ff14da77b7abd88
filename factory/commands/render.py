"""`factory render`: masks that are there in, the same masks with other images out."""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.command_line import unpacked
from factory.core.options import DryRun, Overwrite, Workers
from factory.make.request import RenderRequest


@unpacked
def render(
    masks: Annotated[
        Path, typer.Argument(metavar="DATA", help="Data set whose masks are drawn on, real or synthetic.")
    ] = Path("data/real"),
    *,
    request: RenderRequest,
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Draw new images on the masks of a data set, to compare with its own images.

    The same command continues an interrupted run.

    Examples:
      factory render data/real --split test
      factory render data/real --renderer pix2pixhd --set renderer.weights=runs/train/pix2pixhd
    """
    import time

    from factory.core.console import counting, say, working
    from factory.core.datasets import real_pixel_lines
    from factory.core.devices import parse_workers
    from factory.make import report
    from factory.make.pipeline import make, rehearse
    from factory.make.prepare import prepare_render

    prepared, out = prepare_render(masks, request), request.out
    layout, recipe = prepared.spec.layout, prepared.recipe
    say(
        f"{layout.n} tiles of {layout.height}x{layout.width}: masks of {masks} ({recipe.split}), "
        f"renderer {recipe.renderer.name}, scheme {recipe.scheme.name} -> {out}",
        *(f"note: {note}" for note in prepared.notes),
    )
    if dry_run:
        with working("timing two tiles"):
            needs = rehearse(prepared, workers=parse_workers(workers), overwrite=overwrite)
        say(needs)
        return
    started = time.monotonic()
    with counting("drawing tiles") as calls:
        table, made = make(prepared, workers=parse_workers(workers), overwrite=overwrite, **calls)
    seconds = time.monotonic() - started
    say(report.class_table(table, recipe.scheme), report.closing_line(out, len(table), made, seconds))
    say(*real_pixel_lines(table, prepared.spec.info))
    say(f"Look: factory inspect {out} --beside {masks}. Compare: factory score {out} --real {masks} --on images")
