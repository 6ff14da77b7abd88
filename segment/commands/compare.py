"""`segment compare`: train on real, augmented, synthetic and mixed tiles, and report whether synthetic tiles help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.core.options import CONFIGURATION, INPUT, OUTPUT
from factory.core.shipped import shipped_configs
from segment.commands import options

_TRAININGS = "Trainings"


def compare(
    real: options.Real = Path("data/real"),
    synth: options.Synth = Path("data/synth"),
    also_test: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="Data set of real tiles from elsewhere: every training is scored on its test split too, with a report "
            "in OUT/NAME. Repeatable. [default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            help="CSV of name,metric,value,source: figures from the literature, shown in a column of their own. "
            "[default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Training sets: R (real), R* (real, augmented), S (synthetic), S* (both, augmented). "
            "[default: R,R*,S,S*]",
            rich_help_panel=_TRAININGS,
        ),
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(
            help="Shares of the real training patients, nested. [default: 0.1,0.25,1.0]", rich_help_panel=_TRAININGS
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings per arm and fraction. [default: 5]", rich_help_panel=_TRAININGS)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps of every training. [default: 1000]", rich_help_panel=_TRAININGS)
    ] = None,
    synth_share: Annotated[
        float | None,
        typer.Option(
            help="Share of synthetic tiles among those that S* sees. [default: 0.5]", rich_help_panel=_TRAININGS
        ),
    ] = None,
    final: Annotated[
        bool | None,
        typer.Option(
            "--final",
            help="Train on train and val together and keep the last weights: nothing is selected.",
            rich_help_panel=_TRAININGS,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help=f"YAML with what differs from the defaults: a file, or a shipped name: "
            f"{', '.join(shipped_configs('compare'))}. [default: none]",
            rich_help_panel=CONFIGURATION,
        ),
    ] = None,
    assignments: options.Assignments = None,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.", rich_help_panel=OUTPUT)] = Path("runs/compare"),
    reuse: Annotated[
        Path | None,
        typer.Option(
            help="Folder of another comparison, e.g. with other synthetic tiles: identical trainings and their scores "
            "are reused. Give the same --also-test. [default: none]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights", help="Keep the weights of finished trainings in OUT/cells.", rich_help_panel=OUTPUT
        ),
    ] = False,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
) -> None:
    """Train on R, R*, S and S* at fractions of the real patients over seeds, and report the differences.

    Every training has the same network, steps and initial weights per seed; the test split is scored in whole images.
    The report (Parquet, JSON, Markdown, HTML, plot) has paired bootstrap intervals and effect sizes. Where a fraction
    has twice the patients of another, it also compares S* with that many more real patients. The same command
    continues an interrupted run.

    Examples:
      segment compare --real data/real --synth data/synth --dry-run
      segment compare --arms R,S* --fractions 0.25,1.0 --seeds 3 --steps 500
    """
    from factory.core.console import console, progress
    from factory.core.devices import resolve_device
    from factory.core.wording import dry_run as dry_run_text

    device = resolve_device(device)
    flags = {
        "arms": None if arms is None else _words(arms),
        "fractions": None if fractions is None else _words(fractions),
        "seeds": seeds,
        "synth_share": synth_share,
        "final": final,
        "train": None if steps is None else {"steps": steps},
        "published": None if published is None else _read_published(published),
    }

    from segment.commands.settings import resolve
    from segment.compare import comparison as comparisons
    from segment.compare import report
    from segment.compare.config import CompareConfig

    given = {key: value for key, value in flags.items() if value is not None}
    settings = resolve(CompareConfig, config, assignments or [], given, command="segment compare", shipped="compare")
    comparison = comparisons.prepare(settings, real, synth, out, device=device, reuse=reuse, external=also_test or [])
    settings, setting = comparison.config, comparisons.setting(comparison, device)
    terminal = console()

    def say(line: object) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    for line in report.describe(settings, setting):
        say(line)
    if reuse is not None:
        say(f"{len(comparisons.reused(comparison))} of {len(comparison.trainings)} trainings taken over from {reuse}")
    if dry_run:
        say(dry_run_text(None, out))
        return

    def results(scores: Any) -> Iterator[tuple[str, Any, Any, Path]]:
        """Test set by test set, the comparison's own first: its name, scores, setting and the report's folder."""
        yield comparisons.OWN_TEST, scores, setting, out
        for name, further in comparisons.external_scores(comparison, scores).items():
            yield name, further, comparisons.setting(comparison, device, name), out / name

    def on_training(record: Any, scores: Any) -> None:
        say(report.describe_record(record, scores, settings))
        if record.training in comparison.last_of_seeds:  # so that a comparison that is stopped has its reports
            for _, found, where, folder in results(scores):
                report.write_report(found, settings, where, folder)

    with progress("training", len(comparison.trainings) * settings.train.steps, unit="steps") as bar:
        scores = comparisons.run(
            comparison,
            device=device,
            keep_weights=keep_weights,
            on_start=bar.resume_at,
            on_step=bar.to,
            on_training=on_training,
        )
    for name, found, where, folder in results(scores):
        for line in ([f"{name}:"] if name else []) + report.describe_result(found, settings, where):
            say(line)
        for path in report.write_report(found, settings, where, folder):
            say(f"wrote {path}")
    if scores.failed:
        raise typer.Exit(1)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _read_published(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as the config has them; their values are checked with it."""
    import csv

    from manifests.errors import UserError

    wanted = ["name", "metric", "value", "source"]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames != wanted:
                raise UserError(
                    f"{path}: expected the columns {','.join(wanted)}, got {','.join(reader.fieldnames or [])}."
                )
            return [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file, got: {error}.") from error
