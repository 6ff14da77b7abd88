"""`segment compare`: train on real, augmented, synthetic and mixed tiles, and report whether synthetic tiles help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.core.options import CONFIGURATION, INPUT, OUTPUT, Device, DryRun, Heading
from factory.core.shipped import shipped_configs
from segment.commands import options

_TRAININGS = Heading("Trainings")


def compare(
    real: options.Real = Path("data/real"),
    synth: Annotated[
        Path,
        INPUT(
            "Data set of synthetic tiles, or accepted.parquet of its audit; or a pattern with one set for each cell, "
            "'data/synth-{fraction}-{seed}'."
        ),
    ] = Path("data/synth"),
    also_test: Annotated[
        list[Path] | None,
        INPUT(
            "Data set of real tiles from elsewhere: every training is scored on its test split too, with a report "
            "in OUT/NAME. Repeatable. [default: none]"
        ),
    ] = None,
    published: Annotated[
        Path | None,
        INPUT(
            "CSV of name,metric,value,source: figures from the literature, shown in a column of their own. "
            "[default: none]"
        ),
    ] = None,
    arms: Annotated[
        str | None,
        _TRAININGS(
            "Training sets: R (real), R* (real, augmented), P* (with nuclei pasted), S (synthetic), S* (both, "
            "augmented), S>R (synthetic, then real), W* and W>R (the same, synthetic tiles weighted). In quotes. "
            "[default: R,R*,S,S*]"
        ),
    ] = None,
    fractions: Annotated[
        str | None, _TRAININGS("Shares of the real training patients, nested. [default: 0.1,0.25,1.0]")
    ] = None,
    seeds: Annotated[int | None, _TRAININGS("Trainings per arm and fraction. [default: 5]")] = None,
    steps: Annotated[int | None, _TRAININGS("Optimiser steps of every training. [default: 1000]")] = None,
    synth_share: Annotated[
        str | None,
        _TRAININGS(
            "Share of synthetic tiles among those that S* sees; FIRST..LAST for one that changes. [default: 0.5]"
        ),
    ] = None,
    final: Annotated[
        bool | None,
        _TRAININGS("Train on train and val together and keep the last weights: nothing is selected."),
    ] = None,
    config: Annotated[
        str | None,
        CONFIGURATION(
            "YAML with what differs from the defaults: a file, or a shipped name: "
            f"{', '.join(shipped_configs('compare'))}. [default: none]"
        ),
    ] = None,
    assignments: options.Assignments = None,
    out: Annotated[Path, OUTPUT("Folder of the comparison.")] = Path("runs/compare"),
    reuse: Annotated[
        list[Path] | None,
        OUTPUT(
            "Folder of another comparison, e.g. with other synthetic tiles or other arms: identical trainings and "
            "their scores are reused. Give the same --also-test. Repeatable. [default: none]"
        ),
    ] = None,
    patients_of_cells: Annotated[
        Path | None,
        OUTPUT(
            "Write a CSV of the patients that each fraction and seed trains on, and stop: for synthetic sets that know "
            "these alone. [default: none]"
        ),
    ] = None,
    keep_weights: Annotated[bool, OUTPUT("Keep the weights of finished trainings in OUT/cells.")] = False,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train on R, R*, S and S* at fractions of the real patients over seeds, and report the differences.

    Every training has the same network, steps and initial weights per seed; the test split is scored in whole images.
    The report (Parquet, JSON, Markdown, HTML, plot) has paired bootstrap intervals and effect sizes. Where a fraction
    has twice the patients of another, it also compares S* with that many more real patients. The same command
    continues an interrupted run.

    Examples:
      segment compare --real data/real --synth data/synth --dry-run
      segment compare --arms 'R*,P*,S>R' --fractions 1.0 --seeds 3 --steps 500
      segment compare --fractions 0.25,1.0 --patients-of-cells cells.csv
      segment compare --fractions 0.25,1.0 --synth 'data/few-{fraction}-{seed}'
    """
    from factory.core.config import option_names, resolve_config
    from factory.core.console import progress, say, working
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
    given = {key: value for key, value in flags.items() if value is not None}
    named = option_names({**given, "train": None}) | option_names({"steps": steps}, "train.")

    from segment.compare import comparison as comparisons
    from segment.compare import report
    from segment.compare.config import CompareConfig
    from segment.compare.sets import write_patients

    where = config or "segment compare"
    settings = resolve_config(CompareConfig, "compare", config, assignments or [], given, where, named)
    if patients_of_cells is not None:
        rows = comparisons.training_patients(settings, real)
        write_patients(patients_of_cells, rows)
        say(f"wrote {patients_of_cells}: {len(rows)} patients of {len({row[:2] for row in rows})} cells")
        return
    comparison = comparisons.prepare(
        settings, real, synth, out, device=device, reuse=reuse or [], external=also_test or []
    )
    settings, setting = comparison.config, comparisons.setting(comparison, device)
    say(*report.describe(settings, setting))
    if reuse:
        folders = ", ".join(map(str, reuse))
        say(f"{len(comparisons.reused(comparison))} of {len(comparison.trainings)} trainings taken over from {folders}")
    if dry_run:
        comparisons.check_target(comparison)
        with working("timing two steps"):
            need, seconds = comparisons.estimate(comparison, device, keep_weights=keep_weights)
        say(dry_run_text(need, out, seconds))
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
        say(*([f"{name}:"] if name else []), *report.describe_result(found, settings, where))
        say(*(f"wrote {path}" for path in report.write_report(found, settings, where, folder)))
    if scores.failed:
        raise typer.Exit(1)
    say(
        f"Read {out / report.HTML}. Train on both kinds of tiles: "
        f"segment train --mix real+synth --real {real} --synth {synth}"
    )


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
