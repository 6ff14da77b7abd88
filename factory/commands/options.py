"""Options that several commands share: what a data set is asked to be."""

from pathlib import Path
from typing import Annotated

import typer

_FORMS = "0.3, 0.01-0.5, beta:2,5, around:0.01,0.5, histogram.csv or like:DATASET; 'none' drops the scheme's default"

Tps = Annotated[str | None, typer.Option(help=f"Tumour proportion score: {_FORMS}. Default of the scheme.")]
Tissue = Annotated[str | None, typer.Option(help="Tissue share of the tile, same forms. Default of the scheme.")]
Cells = Annotated[
    str | None, typer.Option(help="Cells in a tile, counts in the same forms: 200-400. Default: by density.")
]
Tumour = Annotated[str | None, typer.Option(help="Tumour share of the tissue, same forms. Default of the scheme.")]
Inflammation = Annotated[str | None, typer.Option(help="Inflammation share of the tissue. Default of the scheme.")]
Debias = Annotated[bool, typer.Option("--debias", help="With --tps like:DATASET: make both together flat.")]
Number = Annotated[int | None, typer.Option("--n", help="Number of tiles. [default: 100]")]
Size = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH in pixels, multiples of 32. Default of the scheme.")]
Mpp = Annotated[float | None, typer.Option(help="Micrometres per pixel; cell sizes follow. Default of the scheme.")]
Split = Annotated[str | None, typer.Option(help="Shares of train,val,test. [default: 0.8,0.1,0.1]")]
Seed = Annotated[int | None, typer.Option(help="Root of every random draw. [default: 0]")]
Scheme = Annotated[
    str | None,
    typer.Option(help="pdl1, pdl1_cells, ihc, nuclei, tissue or a scheme's YAML. [default: pdl1]"),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML with differences from the scheme's defaults.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE over the config, e.g. --set renderer.scanner.jpeg_quality=[80,95]. Repeatable."),
]
Workers = Annotated[int | None, typer.Option(help="Processes; never changes a byte. [default: one per core]")]
