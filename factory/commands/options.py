"""Options that several commands share: what a data set is asked to be.

The defaults named here are those of ``configs/plan/<scheme>.yaml``; a test compares them.
"""

from pathlib import Path
from typing import Annotated

import typer

_FORMS = "0.3, 0.01-0.5, beta:2,5, around:0.01,0.5, histogram.csv, like:DATASET; 'none' asks nothing."

Tps = Annotated[
    str | None, typer.Option(help=f"Tumour proportion score: {_FORMS} [default: 0-1; none for nuclei, tissue]")
]
Tissue = Annotated[
    str | None, typer.Option(help="Tissue share of the tile, same forms. [default: pdl1 0.8-1, tissue 0.2-0.9]")
]
Cells = Annotated[
    str | None, typer.Option(help="Cells in a tile, same forms as counts: 300, 200-400. [default: by density]")
]
Tumour = Annotated[str | None, typer.Option(help="Tumour share of the tissue, same forms. [default: pdl1 0.35-0.75]")]
Inflammation = Annotated[
    str | None, typer.Option(help="Inflammation share of the tissue, same forms. [default: pdl1 0.03-0.15]")
]
Debias = Annotated[bool, typer.Option("--debias", help="With like:DATASET: make both together flat. [default: no]")]
Number = Annotated[int | None, typer.Option("--n", help="Number of tiles. [default: 100]")]
Size = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH in pixels, multiples of 32. [default: 512x1024; ihc, nuclei 256x256]"),
]
Mpp = Annotated[
    float | None,
    typer.Option(help="Micrometres per pixel; cell sizes and noise follow. [default: 0.5; ihc, nuclei 0.25]"),
]
Split = Annotated[str | None, typer.Option(help="Shares of train,val,test. [default: 0.8,0.1,0.1]")]
Seed = Annotated[int | None, typer.Option(help="Root of every random draw. [default: 0]")]
Scheme = Annotated[
    str | None,
    typer.Option(help="pdl1, pdl1_cells, ihc, nuclei, tissue or a scheme's YAML. [default: pdl1]"),
]
Masks = Annotated[
    str | None,
    typer.Option(
        help="Mask generator; depas and priorpath draw learnt tissue. "
        "[default: ihc for pdl1 and pdl1_cells, nuclei for ihc and nuclei, or polygons]"
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML over the scheme's defaults. [default: none]")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE over the config: --set renderer.scanner.jpeg_quality=[80,95]. Repeatable."),
]
Workers = Annotated[int | None, typer.Option(help="Processes; never changes a byte. [default: one per core]")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto; for generators with networks.")]
