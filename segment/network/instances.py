"""Nuclei from network output: watershed from maxima of the predicted distance, or connected components without it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.compiled import compiled
from factory.core.config import Config
from manifests.labels import LabelScheme
from manifests.tile import Tile
from segment.network.convexity import join_convex
from segment.network.head import has_instances
from segment.network.inference import Maps

_LEVELS = 250
"""Integer levels of a distance of 0..1, which make the watershed exact and fast."""
_HOLE_PX = 64
"""Largest hole in a nucleus; larger gaps are tissue between nuclei, such as the lumen of a gland."""


class InstanceConfig(Config):
    """Settings of the separation of nuclei; chosen on validation and stored with the weights.

    Attributes:
        foreground: least summed probability of the nucleus classes of a pixel in a nucleus.
        h: least depth of the valley between two maxima of the distance (0..1) that separates two nuclei.
        smooth_um: standard deviation of the Gaussian smoothing of the distance.
        min_area_um2: least area; smaller objects are removed as debris.
        solidity: touching pieces are joined if their union covers this share of its convex hull (`join_convex`);
            1 joins none.
    """

    added: ClassVar = frozenset({"solidity"})
    foreground: float = Field(default=0.5, gt=0, lt=1)
    h: float = Field(default=0.1, gt=0, lt=1)
    smooth_um: float = Field(default=0.5, ge=0)
    min_area_um2: float = Field(default=3.0, ge=0)
    solidity: float = Field(default=1.0, gt=0.5, le=1)


def read_tile(maps: Maps, scheme: LabelScheme, mpp: float, config: InstanceConfig) -> Tile:
    """Classes and nuclei of one image, consistent with each other.

    For a scheme without nuclei the mask is the most probable class, and there are no instances. Otherwise every nucleus
    has one class, with the highest sum of probabilities over its pixels, and pixels outside nuclei have the most
    probable other class.

    Args:
        maps: of the network. scheme: of its classes. mpp: micrometres per pixel. config: of the separation.
    """
    semantic = maps.probabilities.argmax(0).astype(np.uint8)
    if not has_instances(scheme):
        return Tile(semantic, np.zeros(semantic.shape, np.int32), mpp, scheme)
    if maps.distance is None:
        return Tile(semantic, components(semantic, scheme, mpp, config), mpp, scheme)
    nucleus = list(scheme.ids("nucleus"))
    instance = separate(maps.probabilities[nucleus].sum(0), maps.distance, mpp, config)
    return Tile(_classify(maps.probabilities, instance, scheme), instance, mpp, scheme)


def separate(
    probability: npt.NDArray[np.float32], distance: npt.NDArray[np.float32], mpp: float, config: InstanceConfig
) -> npt.NDArray[np.int32]:
    """Separate touching nuclei by a watershed of the distance from its maxima of depth `h`.

    Foreground without such a maximum is no nucleus. Small holes are filled.

    Args:
        probability: float32 [H, W], of nuclei. distance: float32 [H, W], 0..1, high in the middle of nuclei.
        mpp: micrometres per pixel. config: thresholds.

    Returns:
        int32 [H, W], ids 1..n, 0 = background.
    """
    import cv2
    from skimage.segmentation import watershed

    foreground = _fill_holes(probability > config.foreground)
    if not foreground.any():
        return np.zeros(probability.shape, np.int32)
    sigma = config.smooth_um / mpp
    smooth = cv2.GaussianBlur(distance, (0, 0), sigma) if sigma > 0.1 else distance
    levels = np.where(foreground, np.rint(smooth * _LEVELS), 0).astype(np.uint8)
    markers = deep_maxima(levels, max(round(config.h * _LEVELS), 1))
    instance = watershed(-levels.astype(np.int16), markers, mask=foreground).astype(np.int32)
    if config.solidity < 1:
        instance = join_convex(instance, distance, config.solidity)
    return _drop_small(instance, mpp, config)


def components(
    semantic: npt.NDArray[np.uint8], scheme: LabelScheme, mpp: float, config: InstanceConfig
) -> npt.NDArray[np.int32]:
    """Connected components of the nucleus classes taken together: int32 [H, W], ids 1..n, 0 = background.

    With 4-connectivity, nuclei that touch at a corner are two. Nuclei that touch along an edge are one: a network
    without distances cannot separate them.

    Args:
        semantic: uint8 [H, W], predicted classes. scheme: of the prediction.
        mpp: micrometres per pixel. config: of the smallest object.
    """
    import cv2

    nucleus = np.isin(semantic, scheme.ids("nucleus")).astype(np.uint8)
    _, labels = cv2.connectedComponents(nucleus, connectivity=4, ltype=cv2.CV_32S)
    return _drop_small(labels, mpp, config)


def _fill_holes(foreground: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Fill enclosed background of at most `_HOLE_PX` pixels."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats((~foreground).astype(np.uint8), connectivity=4)
    height, width = foreground.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    inner = (left > 0) & (top > 0) & (right < width) & (bottom < height) & (stats[:, cv2.CC_STAT_AREA] <= _HOLE_PX)
    inner[0] = False  # the foreground itself
    filled: npt.NDArray[np.bool_] = foreground | inner[labels]
    return filled


def _drop_small(labels: npt.NDArray[np.int32], mpp: float, config: InstanceConfig) -> npt.NDArray[np.int32]:
    """Remove objects below the smallest area and renumber the others from 1."""
    area = np.bincount(labels.ravel())
    large = area * mpp**2 >= config.min_area_um2
    large &= area > 0
    large[0] = False
    renumbered = np.where(large, np.cumsum(large), 0).astype(np.int32)
    kept: npt.NDArray[np.int32] = renumbered[labels]
    return kept


def _classify(
    probabilities: npt.NDArray[np.float32], instance: npt.NDArray[np.int32], scheme: LabelScheme
) -> npt.NDArray[np.uint8]:
    """One class per nucleus by summed probabilities, the most probable other class elsewhere: uint8 [H, W]."""
    nucleus = list(scheme.ids("nucleus"))
    other = [label.id for label in scheme.classes if label.id not in nucleus]
    n = int(instance.max()) + 1
    if len(nucleus) == 1:
        of_nucleus = np.full(n, nucleus[0], np.uint8)
    else:
        ids = instance.ravel()
        votes = np.stack([np.bincount(ids, probabilities[c].ravel(), n) for c in nucleus])
        of_nucleus = np.array(nucleus, np.uint8)[votes.argmax(0)]
    if not other:
        return of_nucleus[instance]
    outside = np.array(other, np.uint8)[probabilities[other].argmax(0)]
    return np.where(instance > 0, of_nucleus[instance], outside).astype(np.uint8)


@compiled()
def deep_maxima(levels: npt.NDArray[np.uint8], h: int) -> npt.NDArray[np.int32]:
    """One pixel in every maximum from which each path to a higher one descends by `h` or more.

    These are the extended maxima of Soille 2003, section 6.3.4 (for integers, the regional maxima of the reconstruction
    from levels - (h - 1)). A union-find joins pixels from the highest level down; where two regions meet, the dynamics
    of the lower maximum is known (Grimaud 1992). Level 0 is background. Of two equal maxima without a valley of h
    between them one is found, while skimage.morphology.h_maxima marks both.

    Args:
        levels: uint8 [H, W]. h: 1..255.

    Returns:
        int32 [H, W]: ids 1..n, each on one pixel, 0 elsewhere.
    """
    height, width = levels.shape
    flat = levels.ravel()
    order = _descending(flat)
    parent = np.full(flat.size, -1, np.int64)  # the root of a region is its highest pixel, its own parent
    markers, found = np.zeros((height, width), np.int32), 0
    for pixel in order:
        parent[pixel] = pixel
        y, x = pixel // width, pixel % width
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if parent[v * width + u] < 0:
                    continue
                here, there = _root(parent, pixel), _root(parent, v * width + u)
                if here == there:
                    continue
                if flat[here] > flat[there]:
                    here, there = there, here
                if np.int64(flat[here]) - np.int64(flat[pixel]) >= h:
                    found += 1
                    markers[here // width, here % width] = found
                parent[here] = there
    for pixel in order:  # regions that met no higher one descend to the background
        if parent[pixel] == pixel and flat[pixel] >= h:
            found += 1
            markers[pixel // width, pixel % width] = found
    return markers


@compiled()
def _descending(flat: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Positions of the values above 0, in stable descending order."""
    start = np.zeros(257, np.int64)
    for value in flat:
        start[255 - value + 1] += 1
    start = np.cumsum(start)
    order = np.empty(start[255], np.int64)
    for position in range(flat.size):
        value = flat[position]
        if value:
            order[start[255 - value]] = position
            start[255 - value] += 1
    return order


@compiled()
def _root(parent: npt.NDArray[np.int64], pixel: int) -> int:
    """Root of a pixel's region, with path halving."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel
