"""`factory export`: a data set in the format of another tool."""

from pathlib import Path
from typing import Annotated, Literal

from factory.core.options import DATASET, OUTPUT, TILES, DryRun, Overwrite, Workers
from factory.export import FORMATS

Split = Literal["all", "train", "val", "test"]
"""Rows to export."""


def export(
    dataset: Annotated[Path, DATASET],
    format: Annotated[str, OUTPUT(f"Format: {', '.join(FORMATS)}.")],
    out: Annotated[Path, OUTPUT("New folder for the files, outside every data set.")],
    split: Annotated[Split, TILES("Split to export; tiles without one count as train.")] = "all",
    n: Annotated[int | None, TILES("At most this many tiles, drawn with a fixed seed. [default: all]", "--n")] = None,
    where: Annotated[
        str | None, TILES("Condition on columns of the manifest: 'TPS>0.1 and cells>=20'. [default: none]")
    ] = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Export a data set in the format of another tool, each file marked with its origin.

    The folder appears when all of it is written. The same command continues an interrupted export.

    Examples:
      factory export data/synth --format coco --out data/synth-coco
      factory export data/synth --format png --out data/some --split train --where 'TPS>0.1' --n 100 --dry-run
    """
    import time

    from factory.core.console import counting, say
    from factory.core.datasets import real_pixel_lines
    from factory.core.devices import parse_workers
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.export import exporting

    job, processes = exporting.prepare(dataset, format, out, split=split, n=n, where=where), parse_workers(workers)
    splits = ", ".join(f"{name} {count:,}" for name, count in job.export.tiles.items())
    tiles = plural(len(job.dataset), "tile")
    if exporting.is_there(job, overwrite=overwrite):
        say(f"{out}: {tiles} ({splits}), all there already: nothing to do.")
        return
    if dry_run:
        need, seconds = exporting.rehearse(job, processes)
        say(f"{tiles} ({splits}) as {format}; {dry_run_text(need, out, seconds, exporting.useful(job, processes))}")
        return
    started = time.monotonic()
    with counting("exporting") as calls:
        lost = exporting.carry_out(job, workers=processes, on_start=calls["on_start"], on_tiles=calls["on_tiles"])
    say(*(f"note: not in {format}: {count:,} {what}" for what, count in lost.items()))
    say(f"{out}: {tiles} ({splits}) as {format}, {time.monotonic() - started:.1f} s")
    say(*real_pixel_lines(job.dataset.table, job.dataset.info))
