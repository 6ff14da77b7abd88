"""`factory score`: are fakes like real tiles, as varied, and none of them copied?"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.core.choices import Split
from factory.core.options import INPUT, OUTPUT, Device, DryRun, Heading, Overwrite

Compared = Literal["masks", "images"]
"""Parts of the tiles that can be compared."""

_MEASURES = Heading("Measures")


def score(
    fake: Annotated[Path, typer.Argument(help="Data set of synthetic tiles, all splits of it.")] = Path("data/synth"),
    real: Annotated[list[Path] | None, INPUT("Data set of real tiles. Repeatable. [default: data/real]")] = None,
    split: Annotated[Split, INPUT("Which of the real tiles.")] = "test",
    n: Annotated[
        int | None, INPUT("Tiles of each side, at most. [default: as many as both have]", "--n", min=16)
    ] = None,
    train: Annotated[
        list[Path] | None,
        INPUT("Data set that the generator was trained on: search its tiles for copies. Repeatable. [default: none]"),
    ] = None,
    train_split: Annotated[Split, INPUT("Which tiles of --train the generator was trained on.")] = "train",
    control: Annotated[
        list[Path] | None,
        INPUT("Another data set for the table of controls, e.g. another organ. Repeatable. [default: none]"),
    ] = None,
    on: Annotated[Compared, _MEASURES("What is compared.")] = "masks",
    features: Annotated[
        str,
        _MEASURES(
            "Feature extractor: random-vgg16, random-vgg16-pooled, random-vgg16-r64, inception, resnet50 or timm:NAME."
        ),
    ] = "random-vgg16",
    feature_weights: Annotated[
        Path | None, _MEASURES("safetensors file for the feature extractor. [default: none, or its download]")
    ] = None,
    paired: Annotated[
        bool,
        _MEASURES("With --on images: also SSIM, FSIM and GMSD of each synthetic tile and the real tile of its mask."),
    ] = False,
    seed: Annotated[int, _MEASURES("Seed of every draw.", min=0)] = 0,
    out: Annotated[Path | None, OUTPUT("Folder to write to. [default: runs/score/NAME]")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Score synthetic tiles against held-out real ones: distances, coverage, mask statistics, copies.

    Every distance stands between a floor (real against real) and a ceiling. Writes score.json, score.md, score.png and
    modes.png; with --train nearest.png; with --paired pairs.png and pairs.parquet.

    Examples:
      factory score data/synth --real data/real
      factory score data/synth --on images --train data/real --out runs/score/images
    """
    from factory.core.console import say
    from factory.core.document import Grid, to_table
    from factory.core.wording import dry_run as dry_run_text
    from factory.score.paired import find_pairs
    from factory.score.real_pixels import real_pixel_rows
    from factory.score.report import HEADINGS, headline, pairs_headline
    from factory.score.scoring import check_out, check_settings, default_out, write_score
    from factory.score.scoring import score as compare
    from factory.score.settings import Settings
    from factory.score.sources import open_inputs
    from manifests.errors import UserError

    if paired and on != "images":
        raise UserError("--paired: expected --on images beside it, got masks, which are the same. Add --on images.")
    folder = default_out(fake) if out is None else out
    check_out(folder, overwrite=overwrite)
    weights = str(feature_weights) if feature_weights else None
    settings = check_settings(Settings(features=features, feature_weights=weights, seed=seed, device=device))
    inputs = open_inputs(
        fake,
        real or [Path("data/real")],
        on=on,
        split=split,
        training=train or [],
        training_split=train_split,
        controls=control or [],
        paired=paired,
    )
    if dry_run:
        sheets = 2 + bool(train) + paired
        say(dry_run_text(sheets * _SHEET_BYTES, folder))
        return
    done = compare(inputs, settings, n, find_pairs(inputs) if paired else None)
    rows = [*(pairs_headline(done.paired) if done.paired else ()), *headline(done.comparison)]
    rows += real_pixel_rows(done.real_pixels) if done.real_pixels else []
    table = to_table(Grid(HEADINGS, rows, f"Score of {fake.resolve().name}"), "left")
    say(*done.notes, done.comparison.halves_note, table)
    say(*(f"wrote {path}" for path in write_score(folder, done, inputs, overwrite=overwrite)))


_SHEET_BYTES = 1_000_000
"""Of a sheet of tiles or plots, about; the other files are smaller."""
