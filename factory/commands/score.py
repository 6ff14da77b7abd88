"""`factory score`: are fakes like real tiles, as varied, and none of them copied?"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.commands import options
from factory.core.choices import Split
from factory.core.options import INPUT, OUTPUT

Compared = Literal["masks", "images"]
"""Parts of the tiles that can be compared."""

_MEASURES = "Measures"


def score(
    fake: Annotated[Path, typer.Argument(help="Data set of synthetic tiles, all splits of it.")] = Path("data/synth"),
    real: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>", help="Data set of real tiles. Repeatable. [default: data/real]", rich_help_panel=INPUT
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which of the real tiles.", rich_help_panel=INPUT)] = "test",
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=16, help="Tiles of each side, at most. [default: as many as both have]", rich_help_panel=INPUT
        ),
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="Data set that the generator was trained on: search its tiles for copies. Repeatable. [default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    train_split: Annotated[
        Split, typer.Option(help="Which tiles of --train the generator was trained on.", rich_help_panel=INPUT)
    ] = "train",
    control: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="Another data set for the table of controls, e.g. another organ. Repeatable. [default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    on: Annotated[Compared, typer.Option(help="What is compared.", rich_help_panel=_MEASURES)] = "masks",
    features: Annotated[
        str,
        typer.Option(
            help="Feature extractor: random-vgg16, random-vgg16-pooled, random-vgg16-r64, inception, resnet50 or "
            "timm:NAME.",
            rich_help_panel=_MEASURES,
        ),
    ] = "random-vgg16",
    feature_weights: Annotated[
        Path | None,
        typer.Option(
            help="safetensors file for the feature extractor. [default: none, or its download]",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    paired: Annotated[
        bool,
        typer.Option(
            "--paired",
            help="With --on images: also SSIM, FSIM and GMSD of each synthetic tile and the real tile of its mask.",
            rich_help_panel=_MEASURES,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.", rich_help_panel=_MEASURES)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. [default: runs/score/NAME]", rich_help_panel=OUTPUT)
    ] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
) -> None:
    """Score synthetic tiles against held-out real ones: distances, coverage, mask statistics, copies.

    Every distance stands between a floor (real against real) and a ceiling. Writes score.json, score.md, score.png and
    modes.png; with --train nearest.png; with --paired pairs.png and pairs.parquet.

    Examples:
      factory score data/synth --real data/real
      factory score data/synth --on images --train data/real --out runs/score/images
    """
    from factory.core.console import console
    from factory.core.document import Grid, to_table
    from factory.core.wording import dry_run as dry_run_text
    from factory.score.paired import find_pairs
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
    settings = check_settings(
        Settings(
            features=features,
            feature_weights=str(feature_weights) if feature_weights else None,
            seed=seed,
            device=device,
        )
    )
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
        console().print(dry_run_text(None, folder), markup=False, highlight=False, soft_wrap=True)
        return
    done = compare(inputs, settings, n, find_pairs(inputs) if paired else None)
    terminal = console()
    for note in (*done.notes, done.comparison.halves_note):
        terminal.print(note, markup=False, highlight=False, soft_wrap=True)
    rows = [*(pairs_headline(done.paired) if done.paired else ()), *headline(done.comparison)]
    terminal.print(to_table(Grid(HEADINGS, rows, f"Score of {fake.resolve().name}"), "left"))
    for path in write_score(folder, done, inputs, overwrite=overwrite):
        terminal.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
