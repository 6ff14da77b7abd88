"""`factory sample`: images from a trained generator, their latents kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.commands import options
from factory.core.options import OUTPUT
from factory.joint import NoiseInput

_IMAGES = "Images"

if TYPE_CHECKING:
    from manifests.dataset import Dataset


def sample(
    weights: Annotated[
        str,
        typer.Option(
            help="Run folder of factory train stylegan2 or factory convert, its weights file, or starter.",
            rich_help_panel=_IMAGES,
        ),
    ] = "starter",
    n: Annotated[int, typer.Option("--n", help="Number of images.", rich_help_panel=_IMAGES)] = 100,
    psi: Annotated[
        float,
        typer.Option(help="Truncation: 1 for full variety, less for more typical images.", rich_help_panel=_IMAGES),
    ] = 0.7,
    noise: Annotated[
        NoiseInput,
        typer.Option(
            help="Noise inputs: drawn for each image, or the constant noise of the weights.", rich_help_panel=_IMAGES
        ),
    ] = "drawn",
    seed: Annotated[
        int | None, typer.Option(help="Seed of latents and noise. [default: 0]", rich_help_panel=_IMAGES)
    ] = None,
    out: Annotated[Path, typer.Option(help="The new data set's folder.", rich_help_panel=OUTPUT)] = Path(
        "data/sampled"
    ),
    diverse: Annotated[
        int | None,
        typer.Option(
            help="Also choose this many images that differ most: OUT-diverse.parquet. [default: none]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
) -> None:
    """Draw images from a trained generator, without labels: every pixel is 255 (ignore).

    A contact sheet is written beside the data set (OUT-gallery.png). Label some of the images with factory annotate.
    The same command continues an interrupted run.

    Examples:
      factory sample --n 500 --diverse 20
      factory sample --weights runs/train/stylegan2 --psi 1 --out data/varied
    """
    import time

    from factory.core.console import console, counting
    from factory.core.devices import parse_workers
    from factory.core.runs import check_run
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.make.options import prepare_sample
    from factory.make.pipeline import make
    from manifests.dataset import open_dataset
    from manifests.errors import UserError

    if diverse is not None and not 1 <= diverse <= n:
        raise UserError(f"--diverse: expected 1 to {n} images, as many as --n, got {diverse}.")
    drawing = {"weights": weights, "psi": psi, "noise": noise, "precision": precision}
    prepared = prepare_sample(out, n=n, seed=seed, device=device, **drawing)
    terminal, layout = console(), prepared.spec.layout

    def say(line: str) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    say(f"{plural(layout.n, 'image')} of {layout.height}x{layout.width} from {weights}, truncation {psi:g} -> {out}")
    if dry_run:
        say(dry_run_text(check_run(prepared.spec, overwrite=overwrite), out))
        return
    started = time.monotonic()
    with counting("drawing images", unit="images") as calls:
        _, made = make(prepared, workers=parse_workers(workers), overwrite=overwrite, **calls)
    seconds = time.monotonic() - started
    say(f"{out}: {plural(layout.n, 'image')}; {made} drawn in {seconds:.1f} s, {made / seconds:.1f} images/s")
    for line in _beside(open_dataset(out), diverse):
        say(line)
    say(f"Label some: factory annotate export {out} --diverse 20 --out to-label")


def _beside(dataset: "Dataset", diverse: int | None) -> list[str]:
    """Write what stands beside the data set, and never in it, as its SHA256SUMS lists every file."""
    from factory.inspect.report import MOST_IN_GALLERY, write_gallery
    from factory.make.recipes import samples as sampling
    from manifests.table import write_manifest

    root, lines = dataset.root.resolve(), []
    places, note = list(range(len(dataset))), f"the first {min(MOST_IN_GALLERY, len(dataset))} of {len(dataset)} images"
    if diverse is not None:
        places, note = (
            sampling.choose_diverse(dataset, diverse),
            f"{diverse} of {len(dataset)} images, chosen to differ",
        )
        table = root.with_name(f"{root.name}-diverse.parquet")
        write_manifest(table, dataset.table.take(places), dataset.info)
        lines.append(f"chosen  {table}")
    sheet = root.with_name(f"{root.name}-gallery.png")
    write_gallery(dataset, places[:MOST_IN_GALLERY], sheet, note)
    return [*lines, f"sheet   {sheet}"]
