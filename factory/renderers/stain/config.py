"""Configuration of `Stain`: dyes, preparation, anatomy and scanner. Ranges are (low, high), drawn for each tile.

Where the defaults come from: the dyes, `IhcPreparation`, `background`, `tint`, `hue_spread`, and blur, grain and JPEG
quality of `Scanner` start from `bench/stain_constants.py` on images that may be tuned on (no validation or test image);
percentiles and weights were chosen by eye, and some ranges are of an earlier run of it. `HePreparation` says its own.
`Anatomy`, `focus`, `fold`, `vignette`, `half_chroma`, `sharpen`, the drawing coefficients in `cells` and `light` and
how often things occur are assumptions of the authors, made while looking at real images, not all of them training ones.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from factory.core.config import Config
from factory.renderers.stain.dyes import DAB, EOSIN, HAEMATOXYLIN_HE, HAEMATOXYLIN_IHC, Vector
from manifests.labels import REGION_LOOKS


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= interval[0] <= interval[1]:
        raise ValueError("expected a range (low, high) with 0 <= low <= high")
    return interval


def _above_0(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] <= 0:
        raise ValueError("expected a range above 0")
    return interval


def _within(interval: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    if not (low <= interval[0] and interval[1] <= high):
        raise ValueError(f"expected a range within {low} to {high}")
    return interval


def _levels(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    if not all(128 <= level <= 255 for level in colour):
        raise ValueError("expected three grey levels from 128 to 255: air is bright")
    return colour


def _look(name: str) -> str:
    if name not in REGION_LOOKS:
        raise ValueError(f"expected {', '.join(REGION_LOOKS)}, got {name}")
    return name


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
UnitRange = Annotated[Range, AfterValidator(lambda r: _within(r, 0, 1))]
Above0 = Annotated[Range, AfterValidator(_above_0)]
Share = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(ge=0, le=10)]
Background = Annotated[tuple[float, float, float], AfterValidator(_levels)]
Mode = Literal["auto", "he", "membrane_dab", "nuclear_dab"]


class Preparation(Config):
    """How a slide was stained. Densities are natural-log optical densities along the dye's unit vector.

    DAB is measured on immunostains of nuclei and of membranes alike, its blush on membranes.
    """

    haematoxylin: Vector
    eosin: Vector = EOSIN
    dab: Vector = DAB
    nucleus: Range
    """Haematoxylin of an average nucleus."""
    nucleus_spread: Range
    """Log standard deviation of that from nucleus to nucleus."""
    tissue: Range
    """Haematoxylin of cytoplasm; stroma has about two thirds of it."""
    most_tissue: Share
    """Largest haematoxylin of cytoplasm relative to that of a nucleus."""
    eosin_density: Range = (0.0, 0.0)
    """Eosin of cytoplasm and stroma."""
    haze: Range = (0.0, 0.0)
    """Unspecific DAB in all tissue."""
    dab_density: Range = (1.1, 2.6)
    """DAB of a moderately stained (2+) membrane or nucleus; 1+ has 0.45 and 3+ 1.9 times this."""
    blush: UnitRange = (0.18, 0.28)
    """DAB of the cytoplasm of membrane-positive cells, relative to their membrane."""
    chromatin: Range
    """Relative contrast of chromatin."""
    texture: Range
    """Contrast of fibres and granular cytoplasm, 1 = average."""
    retraction: UnitRange
    """Clefts between fibres and around cells: 0 none, 1 wide and bright."""


class HePreparation(Preparation):
    """Haematoxylin and eosin.

    Set by hand so that the mean colour of 48 tiles, RGB (171, 118, 160), comes near that of MoNuSeg's twelve training
    images, (175, 113, 153). The output of `bench/stain_constants.py` on 55 images gave paler, more violet tiles, RGB
    (170, 136, 178); `nucleus_spread`, `chromatin` and `texture` are from there.
    """

    haematoxylin: Vector = HAEMATOXYLIN_HE
    nucleus: Range = (1.0, 2.0)
    nucleus_spread: Range = (0.21, 0.27)
    tissue: Range = (0.03, 0.14)
    most_tissue: Share = 0.14
    eosin_density: Range = (0.3, 1.0)
    chromatin: Range = (0.26, 0.39)
    texture: Range = (0.9, 1.8)
    retraction: UnitRange = (0.05, 0.8)


class IhcPreparation(Preparation):
    """DAB with haematoxylin as the counterstain: 31 images of Ki-67 (22 cases), DeepLIIF and three cores (SP142).

    Rounded from `bench/stain_constants.py`.
    """

    haematoxylin: Vector = HAEMATOXYLIN_IHC
    nucleus: Range = (0.69, 0.98)
    nucleus_spread: Range = (0.3, 0.35)
    tissue: Range = (0.09, 0.3)
    most_tissue: Share = 0.31
    haze: Range = (0.03, 0.07)
    chromatin: Range = (0.14, 0.23)
    texture: Range = (0.7, 1.1)
    retraction: UnitRange = (0.22, 0.51)


class Anatomy(Config):
    """Structures drawn around the labelled objects: sizes in micrometres, and shares."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"marker_fade_um", "lining", "lymphocyte_spread", "fibres_along_nuclei"}
    )

    cytoplasm_um: Range = (3.0, 11.0)
    """Width of cytoplasm around an epithelial nucleus where the scheme does not say where the tumour is."""
    membrane_um: Above0 = (0.7, 1.2)
    intensity_shares: tuple[Share, Share, Share] = (0.35, 0.4, 0.25)
    """Shares of 1+, 2+ and 3+ among positive cells, averaged over tiles."""
    complete: UnitRange = (0.45, 1.0)
    """How much of its outline a positive cell's ring covers, averaged over a tile."""
    lumen: Annotated[Range, AfterValidator(lambda r: _within(r, 0, 0.9))] = (0.0005, 0.12)
    """Share of stroma that is hollow, where the scheme has no class for air."""
    fibre_um: Above0 = (0.9, 1.6)
    """Width of a collagen fibre."""
    red_cells_per_mm2: Range = (0.0, 350.0)
    """Red cells in stroma and vessels; they come in groups. Immunostains show a tenth of them."""
    red_cell_um: Above0 = (5.5, 7.0)
    """Diameter of a red cell."""
    unlabelled_positive: Share = 0.12
    """Share of DAB-positive cells in an immunostain whose scheme has no positive class."""
    marker_fade_um: Annotated[float, Field(gt=0, le=20)] = 1.3
    """Standard deviation of the Gaussian by which membranous DAB of positive tumour fades towards its border."""
    lining: Annotated[Range, AfterValidator(lambda r: _within(r, 0, 4))] = (0.0, 0.0)
    """Extra density of tissue beside air, relative: the lining of holes and edges."""
    lymphocyte_spread: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Further log standard deviation of the density of lymphocytes; some are out of focus, too."""
    fibres_along_nuclei: bool = False
    """Whether fibres run as the elongated labelled nuclei lie, on average over the tile."""


class Scanner(Config):
    """Optics, sensor and file format. Noise is in grey levels."""

    blur_um: Range = (0.22, 0.35)
    """Standard deviation of the point spread of the optics, micrometres."""
    sharpen: Range = (0.0, 0.6)
    """Weight of the unsharp mask that scanners apply."""
    grain: Range = (0.8, 3.0)
    """Standard deviation of the sensor's noise at full brightness."""
    vignette: Annotated[Range, AfterValidator(lambda r: _within(r, 0, 0.5))] = (0.0, 0.03)
    """Loss of light at the corners."""
    jpeg_quality: Annotated[Range, AfterValidator(lambda r: _within(r, 1, 100))] = (70, 96)
    half_chroma: Share = 0.5
    """Probability that JPEG stores colour at half resolution."""
    focus: Share = 0.06
    """Probability of a focus gradient across the tile."""
    fold: Share = 0.03
    """Probability of a tissue fold."""


class Slide(Config):
    """Stain of one real image, found by `Stain.fit_images`. Units as in `Preparation` and `Scanner`."""

    haematoxylin: Vector
    eosin: Vector
    dab: Vector
    background: Background
    nucleus: Density
    nucleus_spread: Density
    tissue: Density
    eosin_density: Density
    haze: Density
    dab_density: Density
    blush: Share
    chromatin: Density
    texture: Density
    retraction: Share
    blur_px: Annotated[float, Field(ge=0, le=10)]
    grain: Annotated[float, Field(ge=0, le=50)]
    jpeg_quality: Annotated[float, Field(ge=1, le=100)]


class StainConfig(Config):
    """Configuration of `Stain`."""

    added: ClassVar[frozenset[str]] = frozenset({"appearances"})

    stain: Mode = "auto"
    """auto: nuclear DAB where a positive class is a nucleus or its marker nuclear, membranous DAB where it is another
    region, otherwise H&E."""
    he: HePreparation = HePreparation()
    ihc: IhcPreparation = IhcPreparation()
    anatomy: Anatomy = Anatomy()
    scanner: Scanner = Scanner()
    background: tuple[Background, Background] = ((229, 229, 229), (252, 252, 252))
    """RGB of air, darkest and brightest; one level between them is drawn."""
    tint: Annotated[float, Field(ge=0, le=20)] = 1.9
    """Standard deviation of the background between warm and cool, grey levels."""
    hue_spread: Annotated[float, Field(ge=0, le=0.2)] = 0.05
    """Standard deviation of each component of a stain vector from slide to slide, cut off at 1.5 of them. It is that of
    DAB, whose estimate is the least mixed with another dye."""
    slides: tuple[Slide, ...] = ()
    """Stain of real images. Where there are any, each tile takes one, varied a little, instead of the ranges."""
    appearances: dict[str, Annotated[str, AfterValidator(_look)]] = Field(default_factory=dict)
    """Class -> what its regions look like, before what the scheme says. `factory make` fills in the classes of a scheme
    of one's own that have neither a role nor an appearance, so that they differ."""
    slide_spread: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    """Log standard deviation of a fitted density from tile to tile."""
