"""Options of `factory plan`, `make` and `render` as one object each; the commands show every field in their help.

None stands for an option that was not typed. The defaults named here are those of ``configs/plan/<scheme>.yaml``; a
test compares them. Nothing heavy is imported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factory.core.choices import Ground, Split
from factory.core.options import CONFIGURATION, OUTPUT, SCHEMES, TILES, Device, Heading
from factory.joint import EXEMPLAR, RECIPES
from factory.masks import MASKS
from factory.renderers import RENDERERS

_COMPOSITION = Heading("Composition")
_PARTS = Heading("Masks and images")
_JOINT = Heading("Joint generator (with --joint)")
_FORMS = "0.3, 0.01-0.5, beta:2,5, around:0.01,0.5, histogram.csv, like:DATASET; none requests nothing."

Seed = Annotated[int | None, TILES("Seed of every random draw. [default: 0]")]
SplitShares = Annotated[str | None, TILES("Shares of train,val,test. [default: 0.8,0.1,0.1]")]
Masks = Annotated[
    str | None,
    _PARTS(
        f"Mask generator: {', '.join(MASKS)}. "
        "[default: ihc for pdl1 and pdl1_cells, nuclei for nuclei, nuclei_types and ihc, else polygons]"
    ),
]
Renderer = Annotated[str | None, _PARTS(f"Renderer: {', '.join(RENDERERS)}. [default: stain]")]
ConfigFile = Annotated[
    Path | None,
    CONFIGURATION("YAML with what differs from the scheme's defaults. [default: none]", "--config"),
]
Assignments = Annotated[
    list[str] | None,
    CONFIGURATION(
        "Change one value of the configuration: --set renderer.scanner.jpeg_quality=[80,95]. Repeatable.",
        "--set",
        metavar="KEY=VALUE",
    ),
]


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Options that say what is asked: composition, number and form of the tiles."""

    tps: Annotated[
        str | None, _COMPOSITION(f"Tumour proportion score, 0 to 1: {_FORMS} [default: 0-1; none for nuclei, tissue]")
    ] = None
    tissue: Annotated[
        str | None, _COMPOSITION("Tissue share of the tile, same forms. [default: pdl1 0.8-1, tissue 0.2-0.9]")
    ] = None
    cells: Annotated[
        str | None, _COMPOSITION("Cells in a tile, same forms with counts: 300, 200-400. [default: by density]")
    ] = None
    tumour: Annotated[str | None, _COMPOSITION("Tumour share of the tissue, same forms. [default: pdl1 0.35-0.75]")] = (
        None
    )
    inflammation: Annotated[
        str | None, _COMPOSITION("Inflammation share of the tissue, same forms. [default: pdl1 0.03-0.15]")
    ] = None
    share: Annotated[
        list[str] | None,
        _COMPOSITION("Share of all pixels of a class, same forms. Repeatable. [default: none]", metavar="CLASS=SHARE"),
    ] = None
    cell_share: Annotated[
        list[str] | None,
        _COMPOSITION(
            "Share of the cells of a type, same forms, for nuclei_types. Repeatable. [default: none]",
            metavar="CLASS=SHARE",
        ),
    ] = None
    debias: Annotated[
        bool, _COMPOSITION("With like:DATASET: request what makes that data set and this one together uniform.")
    ] = False
    n: Annotated[int | None, TILES("Number of tiles. [default: 100]", "--n")] = None
    size: Annotated[
        str | None,
        TILES(
            "HEIGHTxWIDTH in pixels, or one side of a square; multiples of 32. [default: 512x1024; ihc, nuclei 256x256]"
        ),
    ] = None
    mpp: Annotated[
        float | None,
        TILES("Micrometres per pixel; cell sizes and noise follow. [default: 0.5; ihc, nuclei 0.25]"),
    ] = None
    split: SplitShares = None
    seed: Seed = None
    scheme: Annotated[str | None, TILES(f"Label scheme: {SCHEMES}, or a YAML file. [default: pdl1]")] = None


@dataclass(frozen=True, kw_only=True)
class MakeRequest(PlanRequest):
    """Options of `factory make` that decide what is made, and where."""

    manifest: Annotated[Path | None, TILES("Follow this plan instead of drawing one. [default: none]")] = None
    masks: Masks = None
    renderer: Renderer = None
    like: Annotated[
        Path | None,
        _PARTS(
            "Fit the renderer, and nuclei to instances, to a data set (its train split), a folder or an image. "
            "[default: no fit]"
        ),
    ] = None
    joint: Annotated[
        str | None,
        _JOINT(
            f"{', '.join(RECIPES)}: image and labels at once, of one generator or copied out of real tissue. "
            "[default: none]"
        ),
    ] = None
    weights: Annotated[str | None, _JOINT("Run folder of factory train NAME. [default: starter]")] = None
    ground: Annotated[
        Ground | None,
        _JOINT(
            "exemplar: quilted of pieces of real tissue, or real, whole real tiles on which the marker of --tps is "
            "painted (--joint exemplar then goes without saying). [default: quilted]"
        ),
    ] = None
    pool: Annotated[int | None, _JOINT("Tiles to draw and choose from. [default: 4 for each requested]")] = None
    max_uncertainty: Annotated[
        float | None, _JOINT("Leave out tiles with a larger mean uncertainty, in nats. [default: none]")
    ] = None
    max_pixel_uncertainty: Annotated[
        float | None, _JOINT("Label pixels with a larger uncertainty 255 (ignore). [default: none]")
    ] = None
    out: Annotated[Path, OUTPUT("The data set's folder.")] = Path("data/synth")
    config: ConfigFile = None
    assignments: Assignments = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.ground == "real" and self.joint is None:
            object.__setattr__(self, "joint", EXEMPLAR)


@dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """Options of `factory render` that decide what is drawn, and where."""

    split: Annotated[Split | None, TILES("Which of its tiles. [default: test]")] = None
    seed: Seed = None
    renderer: Renderer = None
    like: Annotated[
        Path | None,
        _PARTS("Fit the renderer to a data set (its train split), a folder or an image. [default: no fit]"),
    ] = None
    out: Annotated[Path, OUTPUT("The new data set's folder.")] = Path("data/rendered")
    config: ConfigFile = None
    assignments: Assignments = None
    device: Device = "auto"
