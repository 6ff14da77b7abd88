"""The program `factory`. Each command lives in `factory.commands`; heavy imports wait until one runs."""

from factory.commands.annotate import annotate
from factory.commands.convert import convert
from factory.commands.doctor import doctor
from factory.commands.export import export
from factory.commands.ingest import ingest
from factory.commands.inspect import inspect
from factory.commands.make import make
from factory.commands.plan import plan
from factory.commands.quiz import quiz
from factory.commands.render import render
from factory.commands.replay import replay
from factory.commands.sample import sample
from factory.commands.scheme import scheme
from factory.commands.score import score
from factory.commands.sketches import sketches
from factory.commands.train import train
from factory.commands.verify import verify
from factory.core.command_line import application, program_options
from factory.core.console import run

app = application(
    "factory",
    "Make synthetic pathology tiles with exactly the composition you request: labelled, measured and marked.",
    {
        "Make data sets": [make, plan, ingest, render, sample, annotate],
        "Train generators": [train, convert, sketches],
        "Use elsewhere": [export],
        "Look and measure": [inspect, score, quiz, verify, replay, scheme, doctor],
    },
    resumable=[make, ingest, render, sample, export],
)
app.callback()(program_options)


def main() -> None:
    """Run the console script."""
    run(lambda: app(standalone_mode=False, prog_name="factory"))


if __name__ == "__main__":
    main()
