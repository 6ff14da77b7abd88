"""Command line options that both programs share, and the headings that options stand under in the help."""

from typing import Annotated

import typer

from factory.core import choices

INPUT = "Input"
OUTPUT = "Output"
CONFIGURATION = "Configuration"
RUNNING = "Running"

Device = Annotated[
    str, typer.Option(help="Where networks run: auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUNNING)
]
Precision = Annotated[
    choices.Precision,
    typer.Option(
        help="Arithmetic of networks. auto: bf16 where the machine computes it in hardware, else fp32; "
        "results then differ a little.",
        rich_help_panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, show what would be made and the room it needs, and write nothing.",
        rich_help_panel=RUNNING,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the last checkpoint in the folder.", rich_help_panel=OUTPUT)
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what another run of this command left in the folder.", rich_help_panel=OUTPUT
    ),
]
