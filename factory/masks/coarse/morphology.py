"""Coarse maps of fine masks: opening, then closing, with square kernels (PriorPath, section 2.3).

The paper's masks are binary. Masks of more classes are put in an order, air first, and the same two filters run on
the ranks: a flat opening or closing of ranks is that of every set {rank >= r} at once (threshold decomposition; Serra
1982). For two classes this equals the paper's; every pixel keeps exactly one class.
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
    """Return the class ids in the order in which later ones cover earlier ones.

    Air, other, inflammation, tumour - and +, cells. Closing fills gaps of up to 9 pixels with later classes, opening
    removes them where they are under 5 pixels wide. Roles that say how a class is stained (`nuclear_marker`) have no
    place of their own.
    """

    def rank(label: int) -> tuple[int, int]:
        if scheme.classes[label].name == "cell":
            return len(_ROLE_ORDER), label
        placed = [_ROLE_ORDER.index(role) for role in scheme.classes[label].roles if role in _ROLE_ORDER]
        return max(placed, default=_ROLE_ORDER.index("")), label

    return tuple(sorted(range(len(scheme)), key=rank))


def coarsen(
    labels: LabelMap,
    classes: int,
    *,
    opening_px: int = OPENING_PX,
    closing_px: int = CLOSING_PX,
    order: Sequence[int] | None = None,
) -> LabelMap:
    """Make the coarse map of a fine mask: uint8 [H, W], ids below `classes`.

    Kernels are square, with cv2's default anchor. The paper does not state the anchor of its even kernel. Used for both
    steps of a closing, as ``cv2.morphologyEx`` does, it moves the mask by one pixel down and right; here the second
    step takes the mirrored kernel, so that the closing only adds. Beyond the border nothing erodes or dilates.

    Args:
        labels: uint8 [H, W], ids below `classes` or `IGNORE`, which counts as the first class of `order`.
        classes: their number. opening_px, closing_px: sides of the kernels; 1 leaves that step out.
        order: class ids, see `class_order`; default by id, right for `tissue`.

    Raises:
        ValueError: for labels outside the classes, or an order without all of them.
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
    for side, first, second in ((opening_px, cv2.erode, cv2.dilate), (closing_px, cv2.dilate, cv2.erode)):
        kernel, anchor, mirrored = np.ones((side, side), np.uint8), side // 2, side - 1 - side // 2
        ranks = second(first(ranks, kernel, anchor=(anchor, anchor)), kernel, anchor=(mirrored, mirrored))
    coarse: LabelMap = ids.astype(np.uint8)[ranks]
    return coarse
