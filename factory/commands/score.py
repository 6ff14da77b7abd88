"""`factory score`: are fakes like real tiles, as varied, and none of them copied?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Compared(StrEnum):
    """What of the tiles is compared."""

    masks = "masks"
    images = "images"


class Split(StrEnum):
    """Which tiles of a data set."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


def score(
    fake: Annotated[Path, typer.Argument(help="Data set of the fakes, all splits of it.")] = Path("data/synth"),
    real: Annotated[
        list[Path] | None, typer.Option(help="Data set of real tiles. Repeatable. [default: data/real]")
    ] = None,
    on: Annotated[Compared, typer.Option(help="Compare masks or images.")] = Compared.masks,
    split: Annotated[Split, typer.Option(help="Which of the real tiles.")] = Split.test,
    n: Annotated[
        int | None, typer.Option("--n", min=16, help="Tiles of either kind, at most. [default: as many as both have]")
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data set that the generator was trained on: search its whole tiles for copies. Repeatable. "
            "[default: none]"
        ),
    ] = None,
    train_split: Annotated[Split, typer.Option(help="Which of its tiles were trained on.")] = Split.train,
    control: Annotated[
        list[Path] | None,
        typer.Option(help="Another data set for the table of controls: another organ. Repeatable. [default: none]"),
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="random-vgg16, random-vgg16-pooled, random-vgg16-r64, inception, resnet50 or timm:NAME."),
    ] = "random-vgg16",
    feature_weights: Annotated[
        Path | None, typer.Option(help="safetensors file for the feature extractor. [default: none, or its download]")
    ] = None,
    paired: Annotated[
        bool,
        typer.Option("--paired", help="Images: also SSIM, FSIM, GMSD of each fake and the real tile of its mask."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [default: runs/score/NAME]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto; for the feature extractor.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier score in --out.")] = False,
) -> None:
    """Score fakes against held-out real tiles: distances with floor and ceiling, coverage, mask statistics, copies.

    Writes score.json, score.md, score.png, modes.png; with --train nearest.png, with --paired pairs.png and .parquet.
    """
    from factory.core.console import console
    from factory.score.paired import find_pairs
    from factory.score.report import headline, pairs_headline
    from factory.score.scoring import check_out, check_settings, default_out, write_score
    from factory.score.scoring import score as compare
    from factory.score.settings import Settings
    from factory.score.sources import open_inputs
    from manifests.errors import UserError

    if paired and on is not Compared.images:
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
        on=on.value,
        split=split.value,
        training=train or [],
        training_split=train_split.value,
        controls=control or [],
        paired=paired,
    )
    done = compare(inputs, settings, n, find_pairs(inputs) if paired else None)
    terminal = console()
    for note in (*done.notes, done.comparison.halves_note):
        terminal.print(note, markup=False, highlight=False, soft_wrap=True)
    rows = headline(done.comparison)
    if done.paired is not None:
        rows = [*pairs_headline(done.paired), *rows]
    terminal.print(_table(rows, fake.resolve().name))
    for path in write_score(folder, done, inputs, overwrite=overwrite):
        terminal.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _table(rows: list[tuple[str, str, str]], name: str) -> object:
    from rich.table import Table

    table = Table(title=f"Score of {name}", title_style="bold")
    for column in ("figure", "value", "beside it"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    return table
