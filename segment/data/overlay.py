"""Labels drawn over their image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manifests.labels import LabelScheme


def draw_labels(
    image: npt.NDArray[np.uint8],
    semantic: npt.NDArray[np.uint8],
    instance: npt.NDArray[np.int32],
    scheme: LabelScheme,
    colours: Sequence[tuple[int, int, int]],
) -> npt.NDArray[np.uint8]:
    """Outlines of nuclei, one of `colours` per class in turn; for a scheme without nuclei, classes in its own colours.

    Args:
        image: uint8 [H, W, 3]. semantic, instance: labels [H, W]. scheme: of the labels. colours: of outlines, RGB.
    """
    nuclei = scheme.ids("nucleus")
    if not nuclei:
        return (image // 2 + scheme.palette[semantic] // 2).astype(np.uint8)
    from skimage.segmentation import find_boundaries

    of_class = np.full((256, 3), colours[0], np.uint8)
    for position, label in enumerate(nuclei):
        of_class[label] = colours[position % len(colours)]
    edge = find_boundaries(instance, mode="inner")
    drawn = image.copy()
    drawn[edge] = of_class[semantic[edge]]
    return drawn
