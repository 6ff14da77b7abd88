"""The command `factory`. Each command lives in `factory.commands`; heavy imports wait until one runs."""

import typer

from factory.commands.annotate import annotate
from factory.commands.convert import convert
from factory.commands.doctor import doctor
from factory.commands.ingest import ingest
from factory.commands.inspect import inspect
from factory.commands.make import make
from factory.commands.plan import plan
from factory.commands.quiz import quiz
from factory.commands.render import render
from factory.commands.replay import replay
from factory.commands.sample import sample
from factory.commands.score import score
from factory.commands.sketches import sketches
from factory.commands.train import train
from factory.commands.verify import verify
from factory.core.console import run

app = typer.Typer(
    help="Synthetic pathology tiles with exactly the composition you ask for, labelled, measured and marked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    plan,
    make,
    render,
    train,
    convert,
    sample,
    ingest,
    inspect,
    score,
    verify,
    replay,
    sketches,
    quiz,
    doctor,
):
    app.command()(command)
app.add_typer(annotate, name="annotate")


def main() -> None:
    """Entry point of the console script."""
    run(app, go_on="run the same command again to go on, factory train with --resume")


if __name__ == "__main__":
    main()
