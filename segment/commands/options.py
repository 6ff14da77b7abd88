"""Options that several commands of `segment` share."""

from pathlib import Path
from typing import Annotated

import typer

Real = Annotated[Path, typer.Option(help="Data set of real tiles.")]
Synth = Annotated[Path, typer.Option(help="Data set of synthetic tiles, or accepted.parquet of its audit.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
