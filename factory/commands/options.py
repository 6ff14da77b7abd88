"""Options that several commands of `factory` share: the requested composition, tiles, parts and configuration.

The defaults named here are those of ``configs/plan/<scheme>.yaml``; a test compares them.
"""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.options import CONFIGURATION, RUNNING, Device, DryRun, Overwrite, Precision, Resume
from factory.core.shipped import shipped_configs
from factory.masks import MASKS
from factory.renderers import RENDERERS

__all__ = ["Device", "DryRun", "Overwrite", "Precision", "Resume"]

COMPOSITION = "Composition"
TILES = "Tiles"
PARTS = "Masks and images"

SCHEMES = ", ".join(shipped_configs("plan"))
"""Names of the label schemes of `manifests.SCHEMES`, each of which has a plan; a test compares them."""

_FORMS = "0.3, 0.01-0.5, beta:2,5, around:0.01,0.5, histogram.csv, like:DATASET; none requests nothing."

Tps = Annotated[
    str | None,
    typer.Option(
        help=f"Tumour proportion score, 0 to 1: {_FORMS} [default: 0-1; none for nuclei, tissue]",
        rich_help_panel=COMPOSITION,
    ),
]
Tissue = Annotated[
    str | None,
    typer.Option(
        help="Tissue share of the tile, same forms. [default: pdl1 0.8-1, tissue 0.2-0.9]",
        rich_help_panel=COMPOSITION,
    ),
]
Cells = Annotated[
    str | None,
    typer.Option(
        help="Cells in a tile, same forms with counts: 300, 200-400. [default: by density]",
        rich_help_panel=COMPOSITION,
    ),
]
Tumour = Annotated[
    str | None,
    typer.Option(help="Tumour share of the tissue, same forms. [default: pdl1 0.35-0.75]", rich_help_panel=COMPOSITION),
]
Inflammation = Annotated[
    str | None,
    typer.Option(
        help="Inflammation share of the tissue, same forms. [default: pdl1 0.03-0.15]", rich_help_panel=COMPOSITION
    ),
]
Debias = Annotated[
    bool,
    typer.Option(
        "--debias",
        help="With like:DATASET: request what makes that data set and this one together uniform.",
        rich_help_panel=COMPOSITION,
    ),
]
Number = Annotated[int | None, typer.Option("--n", help="Number of tiles. [default: 100]", rich_help_panel=TILES)]
Size = Annotated[
    str | None,
    typer.Option(
        help="HEIGHTxWIDTH in pixels, or one side of a square; multiples of 32. "
        "[default: 512x1024; ihc, nuclei 256x256]",
        rich_help_panel=TILES,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        help="Micrometres per pixel; cell sizes and noise follow. [default: 0.5; ihc, nuclei 0.25]",
        rich_help_panel=TILES,
    ),
]
SplitShares = Annotated[
    str | None, typer.Option(help="Shares of train,val,test. [default: 0.8,0.1,0.1]", rich_help_panel=TILES)
]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw. [default: 0]", rich_help_panel=TILES)]
Scheme = Annotated[
    str | None,
    typer.Option(help=f"Label scheme: {SCHEMES}, or a YAML file. [default: pdl1]", rich_help_panel=TILES),
]
Masks = Annotated[
    str | None,
    typer.Option(
        help=f"Mask generator: {', '.join(MASKS)}. "
        "[default: ihc for pdl1 and pdl1_cells, nuclei for ihc and nuclei, else polygons]",
        rich_help_panel=PARTS,
    ),
]
Renderer = Annotated[
    str | None,
    typer.Option(help=f"Renderer: {', '.join(RENDERERS)}. [default: stain]", rich_help_panel=PARTS),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML with what differs from the scheme's defaults. [default: none]",
        rich_help_panel=CONFIGURATION,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the configuration: --set renderer.scanner.jpeg_quality=[80,95]. Repeatable.",
        rich_help_panel=CONFIGURATION,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes; their number never changes a byte. [default: one per core]", rich_help_panel=RUNNING),
]
