"""Command line options that both programs share, and the headings that options stand under in the help."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from factory.core import choices
from factory.core.shipped import shipped_configs

SCHEMES = ", ".join(shipped_configs("plan"))
"""Names of the label schemes of `manifests.SCHEMES`, each of which has a plan; a test compares them."""


@dataclass(frozen=True)
class Heading:
    """A heading of the help; a call declares an option under it, as in ``OUTPUT("Folder of the data set.")``."""

    title: str

    def __call__(self, help: str, *names: str, **settings: Any) -> Any:
        """Declare an option.

        Args:
            help: its text. names: where it is not named as the parameter. settings: of `typer.Option`.
        """
        return typer.Option(*names, help=help, rich_help_panel=self.title, **settings)


DATASET = typer.Argument(help="Folder of a finished data set, or its URL in an object store.")
INPUT = Heading("Input")
TILES = Heading("Tiles")
OUTPUT = Heading("Output")
CONFIGURATION = Heading("Configuration")
RUNNING = Heading("Running")

Device = Annotated[str, RUNNING("Where networks run: auto, cpu, cuda, cuda:N or mps.")]
_ARITHMETIC = "Arithmetic of networks. auto: bf16 where the machine computes it in hardware, else fp32"
Precision = Annotated[choices.Precision, RUNNING(f"{_ARITHMETIC}; results then differ a little.")]
TrainingPrecision = Annotated[choices.Precision | None, RUNNING(f"{_ARITHMETIC}. [default: auto]")]
Workers = Annotated[int | None, RUNNING("Processes; their number never changes a byte. [default: one per core]")]
DryRun = Annotated[bool, RUNNING("Check everything, show what would be made and the room it needs, and write nothing.")]
Resume = Annotated[bool, OUTPUT("Continue from the last checkpoint in the folder.")]
Overwrite = Annotated[bool, OUTPUT("Replace what another run of this command left in the folder.")]
