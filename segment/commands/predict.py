"""`segment predict`: label maps of images, data sets and whole slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.commands.options import Device


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images (PNG, JPEG, TIFF), folders of them, data sets and whole slides (SVS, NDPI, MRXS, tiled TIFF)."
        ),
    ],
    weights: Annotated[Path, typer.Option(help="best.safetensors of a run, the run's folder, or starter.")],
    out: Annotated[Path, typer.Option(help="Folder for the outputs.")],
    output_format: Annotated[
        str | None,
        typer.Option("--format", help="png, tiff, geojson (for QuPath) or dataset. [default: png; geojson for slides]"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of the network's windows, a multiple of 32. "
            "[default: images up to 1536x1536 pixels whole, else 1024]"
        ),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring windows share, a multiple of 32.")] = 128,
    mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of flat images, and of slides that say none. [default: as they say]"),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write OUT/preview/NAME.png: outlines over the image.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or auto: bf16 where the machine computes it. Probabilities move a little.")
    ] = "fp32",
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another call has written to the folder.")
    ] = False,
) -> None:
    """Segment images of any size: instance ids as PNG or TIFF, GeoJSON, or a data set.

    OUT/NAME.png holds ids 1..n in 16 bits, or classes in 8 bits where the weights know no nuclei; OUT/classes the
    classes where they know several kinds. Run it again to go on: finished images are skipped.
    """
    from factory.core.console import console, progress
    from factory.core.devices import resolve_device
    from manifests.errors import UserError

    if mpp is not None and not 0.01 <= mpp <= 100:
        raise UserError(f"--mpp: expected micrometres per pixel from 0.01 to 100, got {mpp:g}.")

    from factory.core.precision import parse_precision, resolve_precision
    from segment.network.weights import load_weights
    from segment.predict import request, writing
    from segment.predict.sources import find_pictures

    request.check_windows(tile, overlap)
    device = resolve_device(device)
    settings = request.Settings(
        request.parse_format(output_format),
        tile,
        overlap,
        preview,
        resolve_precision(parse_precision(precision), device),
    )
    pictures = find_pictures(images, mpp)
    loaded = load_weights(weights, device)
    jobs = request.plan_jobs(pictures, loaded, settings)
    config = request.describe_config(loaded, settings, mpp)
    is_set = settings.format == "dataset"
    todo = jobs if is_set else writing.check_target(out, jobs, config, overwrite=overwrite)

    terminal = console()

    def say(line: str) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    for line in request.describe_jobs(jobs, loaded):
        say(line)
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} images are done, {len(todo)} to go")
    with progress("predicting", sum(job.windows for job in todo), unit="windows") as bar:
        write = writing.write_dataset if is_set else writing.write_files
        write(out, todo, loaded, settings, config, overwrite=overwrite, on_window=bar.advance)
    say(f"wrote {out}")
