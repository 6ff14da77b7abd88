"""Coarse maps of fine masks: opening, then closing, with square kernels (PriorPath, section 2.3).

The paper's masks are binary. Masks of more classes are put in an order, air first, and the same two filters run on
the ranks: a flat opening or closing of ranks is that of every set {rank >= r} at once (threshold decomposition; Serra
1982), so for two classes it *is* the paper's, every pixel keeps exactly one class, and no class appears where it was
not near.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from manifests.labels import IGNORE, LabelScheme

LabelMap = npt.NDArray[np.uint8]

OPENING_PX, CLOSING_PX = 5, 10
"""The paper's kernels, in pixels of a mask at 0.5 micrometres per pixel."""

_ROLE_ORDER = ("air", "", "inflammation", "tumour_negative", "tumour_positive", "nucleus")


def class_order(scheme: LabelScheme) -> tuple[int, ...]:
    """Class ids from what gives way to what is kept: air, other, inflammation, tumour - and +, cells.

    Closing fills gaps of up to 9 pixels with what comes later in this order, opening clears it where it is under 5
    pixels wide.
    """

    def rank(label: int) -> tuple[int, int]:
        roles = scheme.classes[label].roles or ("",)
        last = len(_ROLE_ORDER) if scheme.classes[label].name == "cell" else 0
        return max(last, *(_ROLE_ORDER.index(role) for role in roles)), label

    return tuple(sorted(range(len(scheme)), key=rank))


def coarsen(
    labels: LabelMap,
    classes: int,
    *,
    opening_px: int = OPENING_PX,
    closing_px: int = CLOSING_PX,
    order: Sequence[int] | None = None,
) -> LabelMap:
    """The coarse map of a fine mask.

    Kernels are square and cover pixels ``-(k // 2) .. k - 1 - k // 2`` around their anchor, cv2's default. The paper
    does not state the anchor of its even kernel. Used for both steps of a closing, as ``cv2.morphologyEx`` does, it
    moves the mask by one pixel down and right; here the second step takes the mirrored kernel, so that nothing moves
    and the closing only adds. The image's border is neutral: what lies outside neither erodes nor dilates, so a mask
    that reaches the border stays there.

    Args:
        labels: uint8 [H, W], ids below `classes` or `IGNORE`, which counts as the first class of `order`.
        classes: number of classes.
        opening_px, closing_px: sides of the kernels; 1 leaves that step out.
        order: class ids from what gives way to what is kept, see `class_order`; default by id, right for `tissue`.

    Returns:
        uint8 [H, W], ids below `classes`.

    Raises:
        ValueError: for labels outside the classes, or an order that is not one of them all.
    """
    ids = np.arange(classes) if order is None else np.asarray(order)
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"labels: expected uint8 [H, W], got {labels.dtype} {labels.shape}")
    if sorted(ids.tolist()) != list(range(classes)):
        raise ValueError(f"order: expected every id below {classes} once, got {ids.tolist()}")
    rank = np.full(256, classes, np.uint8)
    rank[ids] = np.arange(classes)
    rank[IGNORE] = 0
    ranks = rank[labels]
    if ranks.size and int(ranks.max()) == classes:
        raise ValueError(f"labels: expected ids below {classes} or {IGNORE}, got {int(labels[ranks == classes][0])}")
    opened = _dilate(_erode(ranks, opening_px), opening_px, mirrored=True)
    closed = _erode(_dilate(opened, closing_px), closing_px, mirrored=True)
    coarse: LabelMap = ids.astype(np.uint8)[closed]
    return coarse


def _erode(ranks: LabelMap, side: int, *, mirrored: bool = False) -> LabelMap:
    eroded: LabelMap = cv2.erode(ranks, *_kernel(side, mirrored=mirrored))
    return eroded


def _dilate(ranks: LabelMap, side: int, *, mirrored: bool = False) -> LabelMap:
    dilated: LabelMap = cv2.dilate(ranks, *_kernel(side, mirrored=mirrored))
    return dilated


def _kernel(side: int, *, mirrored: bool) -> tuple[LabelMap, None, tuple[int, int]]:
    """Kernel, no output array, and anchor, in cv2's order; cv2's default border is the neutral one."""
    anchor = side - 1 - side // 2 if mirrored else side // 2
    return np.ones((side, side), np.uint8), None, (anchor, anchor)
