"""Paints cells and air into the region masks of real images, by colour.

This is the condition "polygons + air + cells" of "Noise in the correct frequency" (Daniel et al. 2023). Such masks give
the position of every nucleus, which drawn polygons do not. A renderer trained on them is an upper bound for renderers
that see polygons alone.
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
"""Grey level up to which a pixel belongs to a cell; see `dark_cells`."""

MIN_CELL_UM2 = 10.0
"""Smallest area of a cell. Smaller components are specks and rims of nuclei."""

Mask = npt.NDArray[np.bool_]


def dark_cells(image: npt.NDArray[np.uint8]) -> Mask:
    """Find nuclei of both dyes by a grey level of at most `CELL_GREY`: bool [H, W].

    The paper thresholds the grey level and gives no number. 200 fits marked cells best: see
    docs/results/cells-by-colour.md. The result is not a segmentation: neighbouring nuclei touch, and pale ones are
    missed.

    Args:
        image: uint8 [H, W, 3].
    """
    return grey(image) <= CELL_GREY


def brown_cells(image: npt.NDArray[np.uint8]) -> Mask:
    """Find brown nuclei by the rule of DEPAS (green and blue below 200, red above both): bool [H, W].

    The rule finds neither blue nor black nuclei (docs/results/cells-by-colour.md).

    Args:
        image: uint8 [H, W, 3].
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    found: Mask = (green < 200) & (blue < 200) & (red > green) & (red > blue)
    return found


CELL_RULES: dict[str, Callable[[npt.NDArray[np.uint8]], Mask]] = {"grey": dark_cells, "depas": brown_cells}
"""Rules for the pixels of cells, by name."""


def grey(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert an image to grey, 0.299 R + 0.587 G + 0.114 B, rounded: uint8 [H, W] of uint8 [H, W, 3]."""
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

    Cells are painted in every region, tumour or not. Ignored pixels and the mask's own air stay. Air of the image is
    every pixel above `AIR_GREY`, as in the papers, which adds the gaps between cells.

    Args:
        labels: uint8 [H, W], a mask of `scheme`.
        image: uint8 [H, W, 3], the image of the mask.
        mpp: micrometres per pixel.
        scheme: label scheme of regions, e.g. ki67.
        target_scheme: the same classes and "cell", e.g. ki67_cells.
        rule: name in `CELL_RULES`.

    Returns:
        uint8 [H, W], a mask of `target_scheme`.

    Raises:
        ValueError: when the schemes do not fit each other, the shapes differ, or the rule is unknown.
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
    """Remove components (8-connected) smaller than `min_px`."""
    _, component, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_large = figures[:, cv2.CC_STAT_AREA] >= min_px
    is_large[0] = False
    kept: Mask = is_large[component]
    return kept
