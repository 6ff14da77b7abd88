"""`factory quiz`: can a reader tell synthetic tiles from real ones?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.core.choices import Split
from factory.core.options import OUTPUT, TILES, Device, DryRun, Heading, Overwrite

_SCORING, _AUTOMATIC = Heading("Scoring (with --score)"), Heading("Automatic readers (with --automatic)")


def quiz(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SYNTH",
            help="Data sets of synthetic tiles, all splits; with --score the readers' files. [default: data/synth]",
        ),
    ] = None,
    real: Annotated[list[Path] | None, TILES("Data set of real tiles. Repeatable. [default: data/real]")] = None,
    split: Annotated[Split | None, TILES("Which of the real tiles. [default: test]")] = None,
    n: Annotated[
        int | None,
        TILES("Tiles, half of them real: an even number. [default: 40; with --automatic as many as there are]", "--n"),
    ] = None,
    size: Annotated[
        str | None,
        TILES("HEIGHTxWIDTH that is shown of a tile, or one side of a square. [default: the largest that all have]"),
    ] = None,
    seed: Annotated[
        int | None, TILES("Seed of the choice of tiles, the cuts and the order. [default: 0]", min=0)
    ] = None,
    score: Annotated[bool, _SCORING("Score answers instead of making a quiz.")] = False,
    key: Annotated[Path | None, _SCORING("The quiz's key. [default: runs/quiz/key.json]")] = None,
    automatic: Annotated[bool, _AUTOMATIC("Let classifiers answer instead of making a quiz.")] = False,
    features: Annotated[
        str | None,
        _AUTOMATIC("Whose layers are read: random-vgg16, resnet50 or timm:NAME. [default: random-vgg16]"),
    ] = None,
    feature_weights: Annotated[
        Path | None, _AUTOMATIC("safetensors file of them. [default: none, or its download]")
    ] = None,
    out: Annotated[
        Path | None,
        OUTPUT("Folder to write to. [default: runs/quiz, runs/automatic; with --score the key's folder]"),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Make a page that asks readers which tiles are real and which synthetic, or score their answers.

    Writes quiz.html, one file that loads nothing, and key.json. With --score: scores.md and scores.json. With
    --automatic classifiers answer, each taught by other patients and tiles: automatic.md and automatic.json.

    Examples:
      factory quiz data/synth --real data/real --n 60
      factory quiz --score answers-anna.json answers-ben.json --key runs/quiz/key.json
      factory quiz data/synth --real data/real --automatic
    """
    import time

    from factory.core.config import parse_size
    from factory.core.console import say
    from factory.core.wording import dry_run as dry_run_text
    from factory.quiz.quiz import DEFAULT_OUT, KEY, make_quiz
    from manifests.errors import UserError

    making = {"--real": real, "--n": n, "--size": size, "--split": split, "--seed": seed, "--overwrite": overwrite}
    making |= {"--dry-run": dry_run, "--automatic": automatic}
    if not automatic:
        classifying = {"--features": features, "--feature-weights": feature_weights, "--device": device}
        _refuse(classifying, "with --automatic", "without. Add --automatic, or leave it out.")
    if score:
        _refuse(making, "when a quiz is made", "with --score. Leave it out.")
        if not inputs:
            raise UserError(
                "--score: expected files of answers, got none. Name them: factory quiz --score a.json b.json"
            )
        _score(inputs, key or DEFAULT_OUT / KEY, out)
        return
    _refuse({"--key": key}, "with --score", "without. Add --score, or leave it out.")
    synthetic, real, split = inputs or [Path("data/synth")], real or [Path("data/real")], split or "test"
    shown = parse_size(size) if size else None
    if automatic:
        values = {"features": features or "random-vgg16", "seed": seed or 0, "device": device}
        values["feature_weights"] = None if feature_weights is None else str(feature_weights)
        sets = {"synthetic": synthetic, "real": real, "size": shown, "split": split}
        _answer(out or Path("runs/automatic"), sets, n, values, overwrite=overwrite, dry_run=dry_run)
        return
    n, out = 40 if n is None else n, out or DEFAULT_OUT
    started = time.monotonic()
    say(f"quiz of {n} tiles of {', '.join(map(str, [*synthetic, *real]))} ({split} of the real ones) -> {out}")
    made = make_quiz(
        synthetic, real, out, n=n, size=shown, split=split, seed=seed or 0, overwrite=overwrite, dry_run=dry_run
    )
    counts = ", ".join(f"{count} {truth} of {name}" for (truth, name), count in made.tiles.items())
    say(f"{n} tiles of {made.shape[0]}x{made.shape[1]}: {counts}", *(f"note  {note}" for note in made.notes))
    if dry_run:
        say(dry_run_text(made.page_bytes, out, time.monotonic() - started))
        return
    say(
        f"page  {made.page}  ({made.page_bytes / 1e6:.1f} MB, {made.encoding.upper()}; open it in a browser)",
        f"key   {made.key}  (says what is real: keep it from the readers)",
        f"The page contains real images under their licence ({'; '.join(made.licences) or 'not stated'}): pass it on "
        "only as that allows.",
        f"Then: factory quiz --score answers-*.json --key {made.key}",
    )


def _refuse(options: Mapping[str, object], expected: str, got: str) -> None:
    """Refuses the first option that is given."""
    from manifests.errors import UserError

    for name, value in options.items():
        if value not in (None, False, "auto"):
            raise UserError(f"{name}: expected it {expected}, got it {got}")


def _answer(
    out: Path, sets: dict[str, Any], n: int | None, values: dict[str, Any], *, overwrite: bool, dry_run: bool
) -> None:
    from factory.core.console import say
    from factory.core.document import to_table
    from factory.quiz import automatic_report as report
    from factory.quiz.automatic import AutomaticConfig, answer_quiz, check_config, check_count, most_tiles
    from factory.quiz.sources import open_inputs

    report.check_free(out, overwrite=overwrite)
    config = check_config(AutomaticConfig.model_validate(values))
    inputs = open_inputs(**sets, n=2 if n is None else n)
    count = check_count(most_tiles(inputs) if n is None else n)
    say(f"automatic readers of {count} tiles -> {out}")
    if dry_run:
        say("dry run: nothing was written.")
        return
    scores = answer_quiz(inputs, config, count, sets["split"])
    say(to_table(report.grid(scores.answers), "left"), *(f"note  {note}" for note in scores.notes))
    say(report.verdict(scores.answers), *(f"wrote {path}" for path in report.write_automatic(out, scores)))


def _score(answers: list[Path], key: Path, out: Path | None) -> None:
    from factory.core.console import say
    from factory.core.document import to_table
    from factory.quiz.key import read_key
    from factory.quiz.report import grids, verdict, write_scores
    from factory.quiz.scoring import read_readers, score

    opened = read_key(key)
    scores = score(opened, read_readers(answers, opened))
    say(*(to_table(grid, "left") for grid in grids(scores)))
    say(*(verdict(reader, counted.accuracy) for reader, counted in zip(scores.readers, scores.tables, strict=True)))
    say(*(f"wrote {path}" for path in write_scores(out or key.parent, scores)))
