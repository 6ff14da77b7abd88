"""Options that several commands of `segment` share."""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.options import CONFIGURATION, INPUT, Device, DryRun, Overwrite, Precision, Resume
from factory.core.shipped import shipped_configs

__all__ = ["Device", "DryRun", "Overwrite", "Precision", "Resume"]

SCHEMES = ", ".join(shipped_configs("plan"))
"""Names of the label schemes of `manifests.SCHEMES`; a test compares them."""

Real = Annotated[Path, typer.Option(help="Data set of real tiles.", rich_help_panel=INPUT)]
Synth = Annotated[
    Path, typer.Option(help="Data set of synthetic tiles, or accepted.parquet of its audit.", rich_help_panel=INPUT)
]
Weights = Annotated[
    Path, typer.Option(help="best.safetensors of a run, the run's folder, or starter.", rich_help_panel=INPUT)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the configuration: --set train.batch=4. Repeatable.",
        rich_help_panel=CONFIGURATION,
    ),
]
