"""`factory sample`: images from a trained generator, their latents kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from factory.core.options import OUTPUT, Device, DryRun, Heading, Overwrite, Precision, Workers
from factory.joint import NoiseInput

if TYPE_CHECKING:
    from manifests.dataset import Dataset

_IMAGES = Heading("Images")


def sample(
    weights: Annotated[
        str, _IMAGES("Run folder of factory train stylegan2 or factory convert, its weights file, or starter.")
    ] = "starter",
    n: Annotated[int, _IMAGES("Number of images.", "--n")] = 100,
    psi: Annotated[float, _IMAGES("Truncation: 1 for full variety, less for more typical images.")] = 0.7,
    noise: Annotated[
        NoiseInput, _IMAGES("Noise inputs: drawn for each image, or the constant noise of the weights.")
    ] = "drawn",
    seed: Annotated[int | None, _IMAGES("Seed of latents and noise. [default: 0]")] = None,
    out: Annotated[Path, OUTPUT("The new data set's folder.")] = Path("data/sampled"),
    diverse: Annotated[
        int | None, OUTPUT("Also choose this many images that differ most: OUT-diverse.parquet. [default: none]")
    ] = None,
    overwrite: Overwrite = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Draw images from a trained generator, without labels: every pixel is 255 (ignore).

    A contact sheet is written beside the data set (OUT-gallery.png). Label some of the images with factory annotate.
    The same command continues an interrupted run.

    Examples:
      factory sample --n 500 --diverse 20
      factory sample --weights runs/train/stylegan2 --psi 1 --out data/varied
    """
    import time

    from factory.core.console import counting, say, working
    from factory.core.devices import parse_workers
    from factory.core.wording import plural
    from factory.make.pipeline import make, rehearse
    from factory.make.prepare import prepare_sample
    from manifests.dataset import open_dataset
    from manifests.errors import UserError

    if diverse is not None and not 1 <= diverse <= n:
        raise UserError(f"--diverse: expected 1 to {n} images, as many as --n, got {diverse}.")
    drawing = {"weights": weights, "psi": psi, "noise": noise, "precision": precision}
    prepared = prepare_sample(out, n=n, seed=seed, device=device, **drawing)
    layout = prepared.spec.layout
    say(f"{plural(layout.n, 'image')} of {layout.height}x{layout.width} from {weights}, truncation {psi:g} -> {out}")
    if dry_run:
        with working("timing two images"):
            needs = rehearse(prepared, workers=parse_workers(workers), overwrite=overwrite)
        say(needs)
        return
    started = time.monotonic()
    with counting("drawing images", unit="images") as calls:
        _, made = make(prepared, workers=parse_workers(workers), overwrite=overwrite, **calls)
    seconds = time.monotonic() - started
    say(
        f"{out}: {plural(layout.n, 'image')}; {made} drawn in {seconds:.1f} s, {made / seconds:.1f} images/s",
        *_write_beside(open_dataset(out), diverse),
        f"Label some: factory annotate export {out} --diverse 20 --out to-label",
    )


def _write_beside(dataset: "Dataset", diverse: int | None) -> list[str]:
    """Write what stands beside the data set, and never in it, as its SHA256SUMS lists every file."""
    from factory.inspect.report import MOST_IN_GALLERY, write_gallery
    from factory.make.recipes.samples import choose_diverse
    from manifests.table import write_manifest

    root, lines, n = dataset.root.resolve(), [], len(dataset)
    if diverse is None:
        places, note = list(range(n)), f"the first {min(MOST_IN_GALLERY, n)} of {n} images"
    else:
        places, note = choose_diverse(dataset, diverse), f"{diverse} of {n} images, chosen to differ"
        table = root.with_name(f"{root.name}-diverse.parquet")
        write_manifest(table, dataset.table.take(places), dataset.info)
        lines.append(f"chosen  {table}")
    sheet = root.with_name(f"{root.name}-gallery.png")
    write_gallery(dataset, places[:MOST_IN_GALLERY], sheet, note)
    return [*lines, f"sheet   {sheet}"]
