"""The request for one tile."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.labels import LabelScheme


@dataclass(frozen=True)
class Request:
    """The requested composition of one tile. None leaves a quantity to the mask generator.

    Attributes:
        height, width: pixels. mpp: micrometres per pixel. scheme: of the mask.
        tps: positive / all tumour, by area or by cells as `scheme.tps_basis` says (regions with nuclei meet both).
        tissue: 1 - air share of all pixels.
        cells: number of instances.
        fractions: shares of all pixels in scheme order; None for a class that is left to the mask generator. `tissue`
            and `tps` take precedence over what they imply.
        cell_fractions: shares of the cells in scheme order, likewise.
    """

    height: int
    width: int
    mpp: float
    scheme: LabelScheme
    tps: float | None = None
    tissue: float | None = None
    cells: int | None = None
    fractions: tuple[float | None, ...] | None = None
    cell_fractions: tuple[float | None, ...] | None = None
