"""Network output -> instance ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from factory.core.config import Config
from manifests.labels import LabelScheme


class InstanceConfig(Config):
    """How objects are read off a semantic prediction; smaller ones are dropped as debris."""

    min_area_um2: float = 3.0


def has_instances(scheme: LabelScheme) -> bool:
    """Whether a mask of this scheme shows single nuclei."""
    return bool(scheme.ids("nucleus"))


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
    _, labels, stats, _ = cv2.connectedComponentsWithStats(nucleus, connectivity=4, ltype=cv2.CV_32S)
    large = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= config.min_area_um2
    large[0] = False
    renumbered = np.where(large, np.cumsum(large), 0).astype(np.int32)
    instance: npt.NDArray[np.int32] = renumbered[labels]
    return instance
