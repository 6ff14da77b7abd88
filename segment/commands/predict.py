"""`segment predict`: label maps of images, data sets and whole slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.core.options import INPUT, OUTPUT, RUNNING, Device, DryRun, Overwrite, Precision
from segment.commands import options
from segment.predict import FORMATS, Format


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images (PNG, JPEG, TIFF), folders of them, data sets and whole slides (SVS, NDPI, MRXS, tiled TIFF)."
        ),
    ],
    weights: options.Weights,
    out: Annotated[Path, OUTPUT("Folder for the outputs.")],
    output_format: Annotated[
        Format | None,
        OUTPUT(f"{', '.join(FORMATS)}; geojson is for QuPath. [default: png; geojson for slides]", "--format"),
    ] = None,
    preview: Annotated[bool, OUTPUT("Also write OUT/preview/NAME.png: outlines over the image.")] = False,
    overwrite: Overwrite = False,
    mpp: Annotated[
        float | None,
        INPUT("Micrometres per pixel of flat images, and of slides that do not state it. [default: as they state]"),
    ] = None,
    tile: Annotated[
        int | None,
        RUNNING(
            "Side of the network's windows, a multiple of 32. [default: images up to 1536x1536 pixels whole, else 1024]"
        ),
    ] = None,
    overlap: Annotated[int, RUNNING("Pixels that neighbouring windows share, a multiple of 32.")] = 128,
    tta: options.TestTimeAugmentation = None,
    stain_reference: options.StainReference = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Segment images of any size: instance ids as PNG or TIFF, GeoJSON, or a data set.

    OUT/NAME.png holds ids 1..n in 16 bits, or classes in 8 bits where the weights know no nuclei; OUT/classes the
    classes where they know several kinds. The same command continues an interrupted run: finished images are skipped.

    Examples:
      segment predict images/ --weights starter --mpp 0.25 --out predicted
      segment predict slide.svs --weights runs/segment/unetplusplus-real --format geojson --out predicted
    """
    from factory.core.console import progress, say, working
    from factory.core.devices import resolve_device
    from manifests.errors import UserError

    if mpp is not None and not 0.01 <= mpp <= 100:
        raise UserError(f"--mpp: expected micrometres per pixel from 0.01 to 100, got {mpp:g}.")

    from factory.core.images.listing import listed
    from factory.core.precision import resolve_precision
    from factory.core.runs import check_run
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from segment.network.weights import load_weights
    from segment.predict import jobs as planning
    from segment.predict import writing
    from segment.predict.dataset import run_of
    from segment.predict.inputs import find_images

    planning.check_windows(tile, overlap)
    device = resolve_device(device)
    settings = planning.Settings(output_format, tile, overlap, preview, resolve_precision(precision, device))
    inputs = find_images(images, mpp)
    loaded = load_weights(weights, device, tta, stain_reference)
    jobs = planning.plan_jobs(inputs, loaded, settings)
    config = planning.describe_config(loaded, settings, mpp)
    is_set = settings.format == "dataset"
    todo = jobs if is_set else writing.check_target(out, jobs, config, overwrite=overwrite)
    say(*planning.describe_jobs(jobs, loaded))
    if len(todo) < len(jobs):
        say(f"{plural(len(jobs) - len(todo), 'image')} done, {len(todo)} to go")
    todo = writing.with_stains(todo, loaded)
    if loaded.stain_reference and (pale := [job.image.where for job in todo if job.stains is None]):
        say(f"note: {listed(pale)}: too little tissue to tell the stains, so they are left as they are")
    if dry_run:
        room = check_run(run_of(out, jobs, loaded, config), overwrite=overwrite) if is_set else writing.room_of(todo)
        with working("timing a window"):
            seconds = writing.estimate_seconds(todo, loaded, settings) if room else 0
        say(dry_run_text(room, out, seconds))
        return
    with progress("predicting", sum(job.windows for job in todo), unit="windows") as bar:
        write = writing.write_dataset if is_set else writing.write_files
        write(out, todo, loaded, settings, config, overwrite=overwrite, on_window=bar.advance)
    look = f"Look: factory inspect {out}"
    say(f"wrote {out}", look if is_set else f"Score against your labels: segment score --truth LABELS --pred {out}")
