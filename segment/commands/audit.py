"""`segment audit`: do the images of a data set show what its masks and its manifest claim?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.core.choices import Split
from factory.core.options import INPUT, OUTPUT, Device, DryRun, Heading, Overwrite

_LIMITS = Heading("Limits")


def audit(
    dataset: Annotated[Path, typer.Argument(help="Folder of the data set to audit, usually synthetic.")],
    weights: Annotated[
        str, INPUT("Segmenter trained on real tiles only: best.safetensors, a run's folder, or starter.")
    ],
    split: Annotated[Split, INPUT("Which of its tiles.")] = "all",
    real: Annotated[
        list[Path] | None,
        INPUT(
            "Real tiles: their test split gives the audit's own error, and 20 or more val tiles the limit of "
            "agreement. Repeatable. [default: none, the error is unknown]"
        ),
    ] = None,
    stain_from: Annotated[
        Path | None,
        INPUT(
            "Real IHC tiles whose train and val splits give stain vectors and threshold. "
            "[default: the first --real with positive and negative cells]"
        ),
    ] = None,
    bound: Annotated[float, _LIMITS("Largest allowed difference of requested and audited TPS, 0 to 1.")] = 0.1,
    min_agreement: Annotated[
        float | None,
        _LIMITS(
            "Flag tiles whose AJI (mIoU, for weights that know no nuclei) is below this. "
            "[default: 5th percentile on 20 or more real val tiles, else test tiles, else no limit]"
        ),
    ] = None,
    out: Annotated[Path | None, OUTPUT("Folder of the audit. [default: runs/audit/NAME]")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Check whether images show what masks and manifest say, with a segmenter and, for IHC, a count of stained nuclei.

    Writes audit.parquet by sample_id, accepted.parquet (a manifest without the flagged rows), audit.md, audit.json and
    audit.png. Labels never change. The same command continues an interrupted run.

    Examples:
      segment audit data/synth --weights starter
      segment audit data/synth --weights runs/segment/real-only --real data/real --bound 0.05
    """
    from manifests.errors import UserError

    for name, share in (("--bound", bound), ("--min-agreement", min_agreement)):
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"{name}: expected a number from 0 to 1, got {share:g}.")

    from factory.core.console import progress, say
    from factory.core.devices import resolve_device

    device = resolve_device(device)

    from factory.core.document import to_table
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from segment.audit import folder, report
    from segment.audit.auditor import Auditor, choose_tps_method
    from segment.audit.request import prepare
    from segment.data.sources import ACCEPTED
    from segment.network.weights import load_weights

    job = prepare(load_weights(weights, device), dataset, real=real or (), stain_from=stain_from, split=split, out=out)
    if dry_run:
        folder.check_target(job, overwrite=overwrite)
        total = sum(len(tiles.dataset) for tiles in job.tile_sets)
        need = _SHEET_BYTES + total * _BYTES_PER_TILE
        say(f"{plural(total, 'tile')} to audit; {dry_run_text(need, job.out)}")
        return
    with folder.opened(job, overwrite=overwrite):
        with progress("calibrating", len(job.stain_from or ())) as bar:
            stain = folder.read_calibration(job, bar.advance)
        tps_method = choose_tps_method(job.weights.scheme, stain, job.audited.dataset.schemes)
        auditor = Auditor(job.weights, stain, tps_method)
        total = sum(len(tiles.dataset) for tiles in job.tile_sets)
        with progress("auditing", total, done=folder.tiles_done(job)) as bar:
            on_real = [folder.audit_tiles(job, auditor, tiles, bar.advance) for tiles in job.real]
            on_val = [folder.audit_tiles(job, auditor, tiles, bar.advance) for tiles in job.real_val]
            findings = folder.audit_tiles(job, auditor, job.audited, bar.advance)
        outcome = report.conclude(
            job, findings, on_real, on_val, stain, tps_method=tps_method, bound=bound, least_agreement=min_agreement
        )

    if not job.real:
        say("The audit's own error is unknown: no --real was given.")
    say(
        *map(to_table, report.grids(outcome.document)),
        *report.lines(outcome.document),
        *(f"wrote  {path}" for path in outcome.paths),
    )
    if job.audited.dataset.info.is_synthetic:
        say(f"Train on the accepted tiles: segment train --mix real+synth --synth {job.out / ACCEPTED}")


_SHEET_BYTES, _BYTES_PER_TILE = 500_000, 1000
"""Of the plot, and of a tile's findings and manifest rows, about."""
