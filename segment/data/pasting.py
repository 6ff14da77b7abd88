"""Nuclei pasted into a crop: the augmentation that synthetic tiles have to beat.

After Ghiasi et al. 2021, "Simple Copy-Paste", and Lin et al. 2022, "InsMix", which pastes nuclei. A pasted nucleus cuts
off what it covers of others, and the distances of what is left are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from factory.core.config import Config
from manifests.labels import IGNORE
from segment.data.targets import distance_target

_MARGIN = 3
"""Pixels around a nucleus that come along, so that its edge can be blended."""


class PasteConfig(Config):
    """Pasting of nuclei.

    Attributes:
        probability: of a crop to get any. most: largest number of nuclei in a crop; every number is equally likely.
        same_tile: share of the crops whose nuclei come from the tile itself; others take one other training tile.
        edge_px: sigma of the blending at the edge of a nucleus, in pixels.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    most: int = Field(default=30, ge=1, le=1000)
    same_tile: float = Field(default=0.5, ge=0, le=1)
    edge_px: float = Field(default=0.7, gt=0, le=10)


@dataclass(frozen=True)
class LabelledCrop:
    """A crop or a tile with instances: image uint8 [h, w, 3], classes uint8, distances uint8, ids int32, all [h, w]."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    distances: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]

    def each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> LabelledCrop:
        """The same with every array changed."""
        return LabelledCrop(change(self.image), change(self.labels), change(self.distances), change(self.instance))


Box = tuple[int, tuple[slice, slice]]
"""Id of a nucleus, and the rows and columns that it lies in."""


def whole_nuclei(instance: npt.NDArray[np.int32]) -> list[Box]:
    """Nuclei that the border of a tile does not cut: int32 [H, W] -> their boxes."""
    height, width = instance.shape
    return [
        (number, (box[0], box[1]))
        for number, box in enumerate(ndimage.find_objects(instance), 1)
        if box is not None and box[0].start and box[1].start and box[0].stop < height and box[1].stop < width
    ]


@dataclass(frozen=True)
class Donor:
    """A tile, and its nuclei that can be pasted (`whole_nuclei`)."""

    tile: LabelledCrop
    boxes: Sequence[Box]

    def draw(self, rng: np.random.Generator) -> tuple[LabelledCrop, npt.NDArray[np.bool_]]:
        """A nucleus with what lies around it, turned by quarters or mirrored; and where it is."""
        number, (rows, columns) = self.boxes[int(rng.integers(len(self.boxes)))]
        window = tuple(slice(max(side.start - _MARGIN, 0), side.stop + _MARGIN) for side in (rows, columns))
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

        def turned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            part = np.rot90(array[window], turns)
            return part[:, ::-1] if mirrored else part

        patch = self.tile.each(turned)
        return patch, patch.instance == number


def paste_nuclei(
    crop: LabelledCrop, donor: Donor, is_nucleus: npt.NDArray[np.bool_], rng: np.random.Generator, config: PasteConfig
) -> LabelledCrop:
    """Paste nuclei of a donor anywhere into a crop.

    Args:
        crop: is not changed. donor: where they come from. is_nucleus: bool [256], classes of nuclei.
        rng: of this crop. config: how many, and how.
    """
    if not donor.boxes:
        return crop
    pasted = crop.each(np.array)
    height, width = pasted.labels.shape
    next_id, covered = int(pasted.instance.max(initial=0)) + 1, set[int]()
    for number in range(int(rng.integers(1, config.most + 1))):
        patch, inside = donor.draw(rng)
        top = int(rng.integers(height)) - inside.shape[0] // 2
        left = int(rng.integers(width)) - inside.shape[1] // 2
        into = np.s_[max(top, 0) : top + inside.shape[0], max(left, 0) : left + inside.shape[1]]
        size = pasted.labels[into].shape
        begin = (max(-top, 0), max(-left, 0))
        part = np.s_[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
        own = inside[part]
        if (patch.labels[part][own] == IGNORE).any():
            continue
        covered.update(np.unique(pasted.instance[into][own]).tolist())
        alpha = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), config.edge_px)[part][..., None]
        pasted.image[into] = np.rint(alpha * patch.image[part] + (1 - alpha) * pasted.image[into]).astype(np.uint8)
        for target, source in ((pasted.labels, patch.labels), (pasted.distances, patch.distances)):
            target[into][own] = source[part][own]
        pasted.instance[into][own] = next_id + number
    left_over = np.isin(pasted.instance, sorted(covered - {0}))
    if left_over.any():
        rest = np.where(left_over, pasted.instance, 0)
        pasted.distances[left_over] = distance_target(rest, is_nucleus[pasted.labels] & left_over)[left_over]
    return pasted
