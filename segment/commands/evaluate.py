"""`segment evaluate`: score weights on a split of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from factory.core.choices import Split
from factory.core.options import INPUT, OUTPUT, Device, DryRun, Precision
from segment.commands import options


def evaluate(
    weights: options.Weights,
    mix: Annotated[str | None, INPUT("Data sets to score on: real, synth or real+synth. [default: as trained]")] = None,
    real: options.Real = Path("data/real"),
    synth: options.Synth = Path("data/synth"),
    split: Annotated[Split, INPUT("Which of their tiles.")] = "test",
    tiles: Annotated[bool, INPUT("Score tile by tile; without it, tiles of one image are put together first.")] = False,
    out: Annotated[
        Path | None,
        OUTPUT("Folder for the report. [default: beside the weights; starter: runs/segment/starter]"),
    ] = None,
    tta: options.TestTimeAugmentation = None,
    stain_reference: options.StainReference = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Score weights per whole image and pooled, by source; JSON and Markdown are written beside the weights.

    mIoU, wIoU, wPrecision, wRecall, Dice, tObjective; TPS error where the scheme has tumour; DQ, SQ, PQ, AJI and
    AJI+ where it has nuclei. Refuses to score patients or slides that the weights were trained on.

    Examples:
      segment evaluate --weights runs/segment/unetplusplus-real+synth
      segment evaluate --weights starter --mix real --real data/nuclei --split all
    """
    from factory.core.console import progress, say
    from factory.core.devices import resolve_device
    from manifests.errors import UserError

    device = resolve_device(device)

    from factory.core.document import to_table
    from factory.core.precision import resolve_precision
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from segment.data.mixing import parse_mix
    from segment.data.sources import open_sources, projections
    from segment.data.whole_images import group_tiles, tile_images, whole_images
    from segment.evaluate import report
    from segment.evaluate.evaluate import check_test_leaks
    from segment.evaluate.evaluate import evaluate as score
    from segment.network.weights import STARTER, load_weights

    arithmetic = resolve_precision(precision, device)
    loaded = load_weights(weights, device, tta, stain_reference)
    sources = open_sources(parse_mix(mix or loaded.card["mix"]), real, synth)
    parts = [(source, source.dataset if split == "all" else source.split(split)) for source in sources]
    parts = [(source, dataset) for source, dataset in parts if len(dataset)]
    if not parts:
        folders = ", ".join(str(source.dataset.root) for source in sources)
        raise UserError(f"{folders}: expected tiles with split {split}, got none. Choose another --split.")
    for _, dataset in parts:
        projections(dataset, loaded.scheme)  # another scheme is refused before the first image is scored
    if split in ("test", "all"):
        check_test_leaks(loaded, weights, parts, split)

    total = sum(len(dataset) if tiles else len(group_tiles(dataset)) for _, dataset in parts)
    unit = "tile" if tiles else "whole image"
    folder = out or (Path("runs/segment/starter") if loaded.path == STARTER else loaded.path.parent)
    if dry_run:
        say(f"{plural(total, unit)} to score; {dry_run_text(total * _BYTES_PER_IMAGE, folder)}")
        return
    with progress("scoring", total, unit=f"{unit}s") as bar:
        images = tile_images if tiles else whole_images
        scores = score(loaded, parts, images=images, precision=arithmetic, on_image=bar.advance)
    header = {
        "weights": str(weights),
        "step": loaded.card["step"],
        "split": split,
        "scheme": loaded.scheme.name,
        "unit": unit,
        "precision": arithmetic,
        "inference": loaded.inference.model_dump(mode="json"),
    }
    document = report.evaluation_document(scores, header, loaded.scheme)
    say(*map(to_table, report.evaluation_grids(document)))
    say(
        *(f"wrote {path}" for path in report.write_evaluation(document, folder)),
        f"Label images with these weights: segment predict IMAGES --weights {weights} --out predicted",
    )


_BYTES_PER_IMAGE = 3000
"""Of an image's figures in JSON and Markdown, about."""
