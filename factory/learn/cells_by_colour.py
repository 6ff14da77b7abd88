"""Cells and air painted into region masks by colour: the condition "polygons + air + cells" of the noise paper.

Real images only: the mask then says of every nucleus where it lies, which no drawn polygon does, so a renderer that
learns from such masks shows how good one can be that is told about cells.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from manifests.labels import LabelScheme

AIR_GREY = 235
"""Grey level above which a pixel of immunohistochemistry is air (DEPAS, Larey et al. 2023, section on data)."""

CELL_GREY = 200
"""Grey level up to which a pixel is cell; see `dark_cells`."""

MIN_CELL_UM2 = 10.0
"""Smallest area of a cell: what is smaller are specks and the rims of nuclei."""

Mask = npt.NDArray[np.bool_]


def dark_cells(image: npt.NDArray[np.uint8]) -> Mask:
    """Nuclei of either dye, by grey level up to `CELL_GREY`: bool [H, W].

    The noise-frequency paper thresholds the grey level and states no number. Of the levels 130, 135, ..., 215, 200
    fits best on cases 01-18 of the Ki-67 set, by components of at least 10 um2 in the tumour against marked cells, one
    to one: F1 is .510 (.494 at 190, .440 at 210). Then 75 % of the marked cells lie on a cell (91 % of the positive,
    73 % of the negative), and 34 % of the tumour's area is cell. It is no segmentation: neighbours touch, pale nuclei
    are missed.

    Args:
        image: uint8 [H, W, 3].
    """
    return grey(image) <= CELL_GREY


def brown_cells(image: npt.NDArray[np.uint8]) -> Mask:
    """Brown nuclei by the rule of DEPAS (green and blue below 200, red above both): bool [H, W].

    It is made for a brown stain and finds no blue nucleus: on the same cases 46 % of the positive cells, none of the
    negative ones and 6 % of all lie on a cell, which is 3 % of the tumour's area. Black ones are not brown either.

    Args:
        image: uint8 [H, W, 3].
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    found: Mask = (green < 200) & (blue < 200) & (red > green) & (red > blue)
    return found


CELL_RULES: dict[str, Callable[[npt.NDArray[np.uint8]], Mask]] = {"grey": dark_cells, "depas": brown_cells}
"""What makes a pixel a cell, by name."""


def grey(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """0.299 R + 0.587 G + 0.114 B, rounded: uint8 [H, W] of uint8 [H, W, 3]."""
    levels: npt.NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return levels


def with_cells(
    labels: npt.NDArray[np.uint8],
    image: npt.NDArray[np.uint8],
    mpp: float,
    scheme: LabelScheme,
    target_scheme: LabelScheme,
    *,
    rule: str = "grey",
) -> npt.NDArray[np.uint8]:
    """Paint the class `cell` where the image shows a nucleus, and air where it shows air, into a mask of regions.

    A cell is painted in any region, tumour or not; `ignore` stays, and so does the air of the mask. Air of the image
    is every pixel above `AIR_GREY`, as in the papers; region masks of `factory ingest` leave out gaps between cells.

    Args:
        labels: uint8 [H, W], a mask of `scheme`.
        image: uint8 [H, W, 3], what it labels.
        mpp: micrometres per pixel.
        scheme: of regions, e.g. ki67.
        target_scheme: the same classes and one named "cell", e.g. ki67_cells.
        rule: name in `CELL_RULES`.

    Returns:
        uint8 [H, W], a mask of `target_scheme`.

    Raises:
        ValueError: when the schemes do not go together, the shapes differ, or the rule is unknown.
    """
    if target_scheme.names != (*scheme.names, "cell"):
        raise ValueError(
            f"target_scheme: expected {', '.join(scheme.names)} and cell, got {', '.join(target_scheme.names)}"
        )
    if image.shape != (*labels.shape, 3):
        raise ValueError(f"image: expected {(*labels.shape, 3)} as its mask, got {image.shape}")
    if rule not in CELL_RULES:
        raise ValueError(f"rule: expected one of {', '.join(CELL_RULES)}, got {rule!r}")
    (air,) = scheme.ids("air")
    painted = labels.copy()
    is_region = (labels < len(scheme)) & (labels != air)
    painted[is_region & (grey(image) > AIR_GREY)] = air
    cells = CELL_RULES[rule](image) & is_region
    painted[_without_specks(cells, MIN_CELL_UM2 / mpp**2)] = target_scheme.names.index("cell")
    return painted


def _without_specks(mask: Mask, min_px: float) -> Mask:
    """A mask without its components (of 8 neighbours) below a size."""
    _, component, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_large = figures[:, cv2.CC_STAT_AREA] >= min_px
    is_large[0] = False
    kept: Mask = is_large[component]
    return kept
