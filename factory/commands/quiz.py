"""`factory quiz`: can a reader tell synthetic tiles from real ones?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factory.quiz.scoring import Scores


class Split(StrEnum):
    """Which tiles of a data set."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


def quiz(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SYNTH",
            help="Data sets of synthetic tiles, all splits; with --score the readers' files. [default: data/synth]",
        ),
    ] = None,
    real: Annotated[
        list[Path] | None, typer.Option(help="Data set of real tiles. Repeatable. [default: data/real]")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Tiles, half of them real: an even number. [default: 40]")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH that is shown of a tile. [default: the largest that all have]")
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Which of the real tiles. [default: test]")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which tiles, what part of them, in what order. [default: 0]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. [default: runs/quiz; with --score the key's folder]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier quiz in --out.")] = False,
    score: Annotated[
        bool, typer.Option("--score", help="Instead: score answers: factory quiz --score ANSWERS... --key key.json")
    ] = False,
    key: Annotated[
        Path | None, typer.Option(help="The quiz's key, with --score. [default: runs/quiz/key.json]")
    ] = None,
) -> None:
    """Make a page that asks of real and synthetic tiles which they are, or score the answers of its readers.

    Writes quiz.html, one file that loads nothing, and key.json. With --score: scores.md and scores.json.
    """
    from factory.quiz.making import DEFAULT_OUT, KEY
    from manifests.errors import UserError

    making = {"--real": real, "--n": n, "--size": size, "--split": split, "--seed": seed, "--overwrite": overwrite}
    if score:
        misplaced = [name for name, value in making.items() if value not in (None, False)]
        if misplaced:
            raise UserError(f"{misplaced[0]}: expected it when a quiz is made, got it with --score. Leave it out.")
        if not inputs:
            raise UserError(
                "--score: expected files of answers, got none. Name them: factory quiz --score a.json b.json"
            )
        _score(inputs, key or DEFAULT_OUT / KEY, out)
        return
    if key is not None:
        raise UserError("--key: expected it with --score, got it without. Add --score, or leave it out.")
    _make(
        inputs or [Path("data/synth")],
        real or [Path("data/real")],
        out or DEFAULT_OUT,
        n=40 if n is None else n,
        size=size,
        split=(split or Split.test).value,
        seed=seed or 0,
        overwrite=overwrite,
    )


def _make(
    synthetic: list[Path],
    real: list[Path],
    out: Path,
    *,
    n: int,
    size: str | None,
    split: str,
    seed: int,
    overwrite: bool,
) -> None:
    from factory.core.console import console
    from factory.make.resolve import parse_size
    from factory.quiz.making import make_quiz

    shown = parse_size(size) if size else None
    made = make_quiz(synthetic, real, out, n=n, size=shown, split=split, seed=seed, overwrite=overwrite)
    counts = ", ".join(f"{count} {truth} of {name}" for (truth, name), count in made.tiles.items())
    lines = [
        f"{n} tiles of {made.shape[0]}x{made.shape[1]}: {counts}",
        *(f"note  {note}" for note in made.notes),
        f"page  {made.page}  ({made.page_bytes / 1e6:.1f} MB, {made.encoding.upper()}; open it in a browser)",
        f"key   {made.key}  (says what is real: keep it from the readers)",
        f"The page contains real images under their licence ({'; '.join(made.licences) or 'not stated'}): pass it on "
        "only as that allows.",
        f"Then: factory quiz --score answers-*.json --key {made.key}",
    ]
    screen = console()
    for line in lines:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)


def _score(answers: list[Path], key: Path, out: Path | None) -> None:
    from factory.core.console import console
    from factory.quiz.key import read_key
    from factory.quiz.report import verdict, write_scores
    from factory.quiz.scoring import read_readers, score

    opened = read_key(key)
    scores = score(opened, read_readers(answers, opened))
    screen = console()
    for table in _tables(scores):
        screen.print(table)
    for reader, counted in zip(scores.readers, scores.tables, strict=True):
        screen.print(verdict(reader, counted.accuracy), markup=False, highlight=False, soft_wrap=True)
    for path in write_scores(out or key.parent, scores):
        screen.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _tables(scores: Scores) -> list[object]:
    from rich.markup import escape
    from rich.table import Table

    from factory.quiz import report

    contents = [
        ("Readers", report.READER_HEADINGS, report.reader_rows(scores)),
        ("Confusion", report.MATRIX_HEADINGS, report.matrix_rows(scores)),
        ("Called what they are", report.part_headings(scores), report.part_rows(scores)),
        ("Agreement", report.AGREEMENT_HEADINGS, report.agreement_rows(scores)),
    ]
    tables: list[object] = []
    for title, headings, rows in contents:
        if not rows:
            continue
        table = Table(title=title, title_style="bold")
        for heading in headings:
            table.add_column(escape(heading))
        for row in rows:
            table.add_row(*map(escape, row))
        tables.append(table)
    return tables
