"""`factory replay`: make one tile again from its row."""

from pathlib import Path
from typing import Annotated

import typer


def replay(
    sample_id: Annotated[str, typer.Argument(help="The tile's sample_id in the manifest.")],
    dataset: Annotated[Path, typer.Option("--data", help="The data set's folder.")] = Path("data/synth"),
    masks_of: Annotated[
        Path | None,
        typer.Option(help="Data set whose masks it was drawn on, for tiles of factory render. [default: none]"),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write the image made again to this file.")] = None,
) -> None:
    """Make one tile again from its manifest row and run.yaml, and compare every byte with the store."""
    from factory.core.console import console
    from factory.make.replay import replay as make_again
    from manifests.errors import FaultError

    result = make_again(dataset, sample_id, masks_of)
    if png:
        result.write_png(png)
    terminal = console()
    terminal.print(result.summary, highlight=False)
    if not result.holds:
        raise FaultError(f"{sample_id}: expected the bytes in {dataset}, got others. {result.advice}")
