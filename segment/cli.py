"""The program `segment`. Each command lives in `segment.commands`; heavy imports wait until one runs."""

from factory.core.command_line import application, program_options
from factory.core.console import run
from segment.commands.audit import audit
from segment.commands.compare import compare
from segment.commands.evaluate import evaluate
from segment.commands.predict import predict
from segment.commands.score import score
from segment.commands.train import train

app = application(
    "segment",
    "Train segmentation networks on real tiles, synthetic tiles, or both, and measure what they are worth.",
    {
        "Train and apply": [train, predict],
        "Measure": [evaluate, compare, audit, score],
    },
    resumable=[compare, audit, predict],
)
app.callback()(program_options)


def main() -> None:
    """Run the console script."""
    run(lambda: app(standalone_mode=False, prog_name="segment"))


if __name__ == "__main__":
    main()
