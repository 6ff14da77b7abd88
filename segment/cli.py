"""The command `segment`. Each command lives in `segment.commands`; heavy imports wait until one runs."""

import os

import typer

from factory.core.console import run
from segment.commands.audit import audit
from segment.commands.compare import compare
from segment.commands.evaluate import evaluate
from segment.commands.predict import predict
from segment.commands.score import score
from segment.commands.train import train

app = typer.Typer(
    help="Train and judge segmentation networks on real tiles, synthetic tiles, or both.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (train, evaluate, compare, audit, score, predict):
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    # Threads that spin long at OpenMP's barriers keep the core that another process or the batch thread needs. On two
    # cores a step took 0.42 s alone either way; beside a second training 5-12 s with libgomp's own count and 1.3-2.3 s
    # with this one. Read when torch is loaded, so it is set here; a user's own value stands.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    run(app, go_on="run the same command again to go on, segment train with --resume")


if __name__ == "__main__":
    main()
