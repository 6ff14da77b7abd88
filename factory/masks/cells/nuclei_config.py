"""Configuration of `Nuclei`: kinds, sizes, crowding, touching, and layouts of real tiles to follow."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from factory.core.config import Config
from factory.geometry.outlines import OutlineConfig


class Layout(Config):
    """Arrangement of the nuclei of one real tile. None takes the value that the config has for all tiles.

    Attributes:
        density_per_mm2: nuclei per area.
        bias: factor on the radii of all its nuclei.
        touching: share of them that touch another.
    """

    density_per_mm2: float | None = Field(default=None, ge=0)
    bias: float | None = Field(default=None, gt=0, lt=10)
    touching: float | None = Field(default=None, ge=0, le=1)


class NucleusType(Config):
    """Nuclei of one type: their outlines, and their share of the cells of a tile, as a weight, where none is asked."""

    outline: OutlineConfig
    weight: float = Field(ge=0)


class NucleusTypes(Config):
    """Nuclei of the types of PanNuke. Weights are its counts (Gamper et al. 2020, in thousands); sizes are by eye."""

    neoplastic: NucleusType = NucleusType(
        outline=OutlineConfig(
            radius_um=(2.5, 4.1), elongation=(1.0, 1.5), irregularity=(0.6, 2.6), spikiness=(0.03, 0.12)
        ),
        weight=77.4,
    )
    inflammatory: NucleusType = NucleusType(
        outline=OutlineConfig(
            radius_um=(1.8, 2.2), elongation=(1.0, 1.12), irregularity=(0.3, 0.7), spikiness=(0.01, 0.05)
        ),
        weight=32.3,
    )
    connective: NucleusType = NucleusType(
        outline=OutlineConfig(
            radius_um=(1.7, 2.4), elongation=(2.4, 4.8), irregularity=(0.3, 0.7), spikiness=(0.02, 0.08)
        ),
        weight=50.6,
    )
    dead: NucleusType = NucleusType(
        outline=OutlineConfig(
            radius_um=(1.2, 1.8), elongation=(1.0, 1.5), irregularity=(0.6, 2.0), spikiness=(0.06, 0.16)
        ),
        weight=2.9,
    )
    epithelial: NucleusType = NucleusType(
        outline=OutlineConfig(
            radius_um=(2.3, 2.9), elongation=(1.1, 1.6), irregularity=(0.2, 0.6), spikiness=(0.01, 0.04)
        ),
        weight=26.6,
    )


class NucleiConfig(Config):
    """Configuration of `Nuclei`. Lengths are in micrometres, so that they follow mpp.

    Attributes:
        tumour, lymphocyte, spindle: the outlines of each kind.
        shares: of the nuclei that are of each kind, in that order.
        bias: mean factor on the radii of a tile without crowding. bias_spread: its standard deviation over tiles.
        warp: largest stretch that all nuclei of a tile share.
        crowding: smallest and largest d; without a requested count, 30 d + 20 nuclei per 256x256 px at 0.25 um.
        count_spread: standard deviation of that count.
        overlap: largest share of a nucleus behind others.
        touching: share of nuclei that touch another, by the eight neighbours of their pixels. The mean over tiles comes
            within .02 of it up to 20 nuclei in 256x256 px at 0.25 um and within .07 of it beyond. For lack of space at
            least some touch: .08 of 40 nuclei, .24 of 80, .31 of 120.
        room: distance round a nucleus that is kept free where there is space, in radii; not where it is to touch.
        layouts: where there are any, each tile follows one of them, in place of `crowding`, `count_spread`,
            `bias`, `bias_spread` and `touching`; with a requested number of cells, one of the quarter that is closest
            to it in density. `factory make --like` sets them.
        clusters: 0 = nuclei lie anywhere, 1 = only where the cluster field is high. cluster_um: size of clusters.
        positive_um: size of the patches in which cells are positive. positive_noise: share of the rank that is the
            cell's own, 0-1.
        types: nuclei of schemes whose classes are types of nuclei; the kinds and `shares` above are then not used.
        zone_um: size of the areas of tumour, glands and stroma, in which these types lie.
    """

    added: ClassVar[frozenset[str]] = frozenset({"types", "zone_um"})

    tumour: OutlineConfig = OutlineConfig(
        radius_um=(2.125, 3.25), elongation=(1.0, 1.3), irregularity=(0.6, 2.6), spikiness=(0.02, 0.10)
    )
    lymphocyte: OutlineConfig = OutlineConfig(
        radius_um=(1.9, 2.5), elongation=(1.0, 1.15), irregularity=(0.3, 0.7), spikiness=(0.01, 0.06)
    )
    spindle: OutlineConfig = OutlineConfig(
        radius_um=(1.8, 2.6), elongation=(2.2, 4.5), irregularity=(0.3, 0.7), spikiness=(0.02, 0.08)
    )
    shares: tuple[float, float, float] = (0.72, 0.18, 0.10)
    bias: float = Field(default=1.2, gt=0.2, lt=4)
    bias_spread: float = Field(default=0.32, ge=0, lt=1)
    warp: float = Field(default=1.3, ge=1, le=3)
    crowding: tuple[float, float] = (0.0, 3.0)
    count_spread: float = Field(default=40.0, ge=0)
    overlap: float = Field(default=0.15, ge=0, lt=0.5)
    touching: float = Field(default=0.3, ge=0, le=1)
    room: float = Field(default=1.1, ge=0, le=4)
    layouts: tuple[Layout, ...] = ()
    clusters: float = Field(default=0.5, ge=0, le=1)
    cluster_um: float = Field(default=28.0, gt=2, lt=1000)
    positive_um: float = Field(default=40.0, gt=2, lt=1000)
    positive_noise: float = Field(default=0.35, ge=0, le=1)
    types: NucleusTypes = NucleusTypes()
    zone_um: float = Field(default=60.0, gt=2, lt=2000)

    @field_validator("shares")
    @classmethod
    def _is_mixture(cls, values: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(values) < 0 or not sum(values) > 0:
            raise ValueError("expected three shares from 0, not all 0")
        return values

    @field_validator("crowding")
    @classmethod
    def _is_range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= values[0] <= values[1]:
            raise ValueError("expected smallest and largest from 0")
        return values
