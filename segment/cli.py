"""The command `segment`. Each command lives in `segment.commands`; heavy imports wait until one runs."""

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
    run(app, go_on="run the same command again to go on, segment train with --resume")


if __name__ == "__main__":
    main()
