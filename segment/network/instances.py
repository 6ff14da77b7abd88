"""Network output -> nuclei: watershed from the maxima of a predicted distance, or connected components without one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config
from manifests.labels import LabelScheme
from manifests.tile import Tile
from segment.network.head import has_instances
from segment.network.inference import Maps
from segment.network.maxima import deep_maxima

_LEVELS = 250
"""Steps in which a distance of 0..1 is read: integers make the watershed's flooding exact and quick."""
_HOLE_PX = 64
"""Larger gaps are tissue between nuclei, such as a gland's lumen, and no hole in a nucleus."""


class InstanceConfig(Config):
    """How nuclei are read off a prediction; chosen on validation and kept with the weights.

    Attributes:
        foreground: a pixel belongs to a nucleus when the nucleus classes together are more probable than this.
        h: how deep the valley between two maxima of the distance (0..1) must be to part two nuclei.
        smooth_um: standard deviation of the Gaussian that the distance is smoothed with.
        min_area_um2: smaller objects are dropped as debris.
    """

    foreground: float = Field(default=0.5, gt=0, lt=1)
    h: float = Field(default=0.1, gt=0, lt=1)
    smooth_um: float = Field(default=0.5, ge=0)
    min_area_um2: float = Field(default=3.0, ge=0)


def read_tile(maps: Maps, scheme: LabelScheme, mpp: float, config: InstanceConfig) -> Tile:
    """Classes and nuclei of one image, consistent with each other.

    Without nuclei in the scheme the mask is the most probable class and there are no instances. With them every nucleus
    is of one class, the one whose probabilities sum highest over its pixels, and the pixels outside nuclei take the
    most probable of the other classes.

    Args:
        maps: what the network says. scheme: of its classes. mpp: micrometres per pixel. config: how to read nuclei.
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
    """Part touching nuclei by a watershed of the distance from those of its maxima that stand out by `h`.

    A part of the foreground without a maximum that stands out is no nucleus. Small holes are filled.

    Args:
        probability: float32 [H, W], of being in a nucleus. distance: float32 [H, W], 0..1, high in its middle.
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
    instance = watershed(-levels.astype(np.int16), markers, mask=foreground)
    return _drop_small(instance.astype(np.int32), mpp, config)


def components(
    semantic: npt.NDArray[np.uint8], scheme: LabelScheme, mpp: float, config: InstanceConfig
) -> npt.NDArray[np.int32]:
    """Connected components of the nucleus classes taken together: int32 [H, W], ids 1..n, 0 = background.

    Pixels connect through their sides (4-connectivity), so nuclei that touch at a corner stay two; nuclei that touch
    along an edge come out as one, which is what a semantic network can say.

    Args:
        semantic: uint8 [H, W], predicted classes.
        scheme: of the prediction.
        mpp: micrometres per pixel.
        config: the smallest object that counts.
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
    """One class per nucleus by its summed probabilities, the most probable other class elsewhere: uint8 [H, W]."""
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
