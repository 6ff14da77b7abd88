"""Targets of a network in addition to classes: distance of every pixel to the edge of its nucleus."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

DISTANCE_SCALE = 254
"""Value of a distance map in the middle of a nucleus."""
DISTANCE_UNKNOWN = 255
"""Value of a distance map where the nucleus of a pixel is unknown; losses leave it out."""


def distance_target(instance: npt.NDArray[np.int32], nucleus: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Distance of every pixel to the edge of its nucleus, as a share of that nucleus' largest (after Naylor 2019).

    The distance is 1 + the exact Euclidean distance to the nearest edge pixel, where an edge pixel has a neighbour
    (of eight) with another id. So touching nuclei are separated, and no pixel of a nucleus is 0. The border of the
    image is no edge: a nucleus cut by it keeps high values there. Difference from Naylor's DIST, which is in pixels:
    as a share, small and large nuclei have the same weight.

    Args:
        instance: int32 [H, W], 0 = no nucleus; ids may have gaps.
        nucleus: bool [H, W], pixels of a nucleus class, or unlabelled.

    Returns:
        uint8 [H, W]: round(254 d) with d in (0, 1] on nuclei; 0 on background; 255 where `nucleus` has no id.
    """
    ids = np.ascontiguousarray(instance)
    if ids.size and int(ids.max()) > ids.size:  # sparse ids of foreign maps would make the table too large
        ids = np.unique(np.append(ids, 0), return_inverse=True)[1][:-1].reshape(instance.shape).astype(np.int32)
    inside = _inside(ids)
    if inside.all():  # a single id: there is no edge
        depth = np.ones(ids.shape, np.float32)
    else:
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + np.float32(1)
    target: npt.NDArray[np.uint8] = _share_of_largest(ids, nucleus, depth)
    return target


def _inside(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """1 where all eight neighbours of a pixel have its id, 0 on edges."""
    inside = np.ones(ids.shape, bool)
    up, down, left, right, every = slice(None, -1), slice(1, None), slice(None, -1), slice(1, None), slice(None)
    for one, other in (
        ((every, left), (every, right)),
        ((up, every), (down, every)),
        ((up, left), (down, right)),
        ((up, right), (down, left)),
    ):
        same = ids[one] == ids[other]
        inside[one] &= same
        inside[other] &= same
    return inside.view(np.uint8)


@compiled()
def _share_of_largest(
    ids: npt.NDArray[np.int32], nucleus: npt.NDArray[np.bool_], depth: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Depth over the largest depth of the same id, in steps of 1 / DISTANCE_SCALE."""
    height, width = ids.shape
    largest = np.zeros(ids.max() + 1 if ids.size else 1, np.float32)
    for y in range(height):
        for x in range(width):
            largest[ids[y, x]] = max(largest[ids[y, x]], depth[y, x])
    target = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            if ids[y, x]:
                target[y, x] = np.uint8(np.rint(DISTANCE_SCALE * (depth[y, x] / largest[ids[y, x]])))
            elif nucleus[y, x]:
                target[y, x] = DISTANCE_UNKNOWN
    return target
