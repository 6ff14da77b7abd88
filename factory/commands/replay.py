"""`factory replay`: make one tile again from its row."""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.options import INPUT, OUTPUT


def replay(
    sample_id: Annotated[str, typer.Argument(help="The tile's sample_id in the manifest.")],
    dataset: Annotated[Path, INPUT("The data set's folder.", "--data")] = Path("data/synth"),
    masks_of: Annotated[
        Path | None,
        INPUT("For tiles of factory render: the data set whose masks they were drawn on. [default: none]"),
    ] = None,
    png: Annotated[
        Path | None, OUTPUT("Also write the image that was made again to this file. [default: none]")
    ] = None,
) -> None:
    """Make one tile again from its manifest row and run.yaml, and compare every byte with the store.

    Examples:
      factory replay t-5f3a9c0e7b21d864
      factory replay t-5f3a9c0e7b21d864 --data data/nuclei --png tile.png
    """
    from factory.core.console import say
    from factory.make.replay import replay as make_again
    from manifests.errors import FaultError

    result = make_again(dataset, sample_id, masks_of)
    if png:
        result.write_png(png)
    say(result.summary)
    if not result.holds:
        raise FaultError(f"{sample_id}: expected the bytes in {dataset}, got others. {result.advice}")
