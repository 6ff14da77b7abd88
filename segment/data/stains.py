"""Stains of an H&E image after Macenko et al. 2009, and its colours as another image's stains would give them.

Optical density is -ln(I / 255). The plane of the stained pixels is found by singular value decomposition; the stains
are the directions at the 1st and 99th percentile of the angle in it. Haematoxylin absorbs more red than blue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from factory.core.config import Config

STAINED_OD = 0.26
"""Shortest decadic optical density vector of a stained pixel: 0.15 in each channel, as in Macenko et al. 2009."""

LOG = np.log(np.maximum(np.arange(256), 1 / 3) / 255).astype(np.float32)
"""Minus the optical density of every grey level; black counts as a third of a level, which is rounded back to 0."""

_EXTREME_PERCENTILE = 1.0
"""Percentile of the angle of the first stain vector, and 100 minus that of the second (Macenko et al. 2009)."""
_FULL_PERCENTILE = 99.0
"""Percentile of a stain's density that counts as its full strength (Macenko et al. 2009)."""
_SAMPLED_PIXELS = 20_000
_LEAST_TISSUE = 0.05
_LEAST_ANGLE = math.radians(5)
_LARGEST_RATIO = 3.0


class MacenkoConfig(Config):
    """Random stain references as an augmentation (Macenko et al. 2009; Tellez et al. 2019 compare such).

    Attributes:
        probability: of a crop to get the stains of another image: of a random real training tile, and in half of the
            cases of one of `references` if there are any. Jitter of colours follows.
        references: an image, a folder of them or a data set (its training tiles); their labels are not used.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    references: str | None = None

    @model_validator(mode="after")
    def _is_used(self) -> MacenkoConfig:
        if self.references is not None and not self.probability:
            raise ValueError("expected a probability above 0 with references, got 0")
        return self


class Stains(Config):
    """The two stains of an image.

    Attributes:
        haematoxylin, eosin: directions in optical density (red, green, blue), each of length 1.
        strength: 99th percentile of the density of each, natural logarithm.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strength: tuple[float, float]

    @property
    def basis(self) -> npt.NDArray[np.float64]:
        """Both directions, and the unit vector at right angles to them: [3, 3], a row each."""
        pair = np.array([self.haematoxylin, self.eosin])
        across = np.cross(*pair)
        return np.vstack([pair, across / np.linalg.norm(across)])


def stain_directions(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64] | None:
    """Directions of two stains: optical densities [N, 3] of stained pixels -> [2, 3], haematoxylin first, of length 1.

    None where the pixels show no two stains: fewer than two pixels, or a degree or less between them.
    """
    if len(pixels) < 2:
        return None
    _, _, directions = np.linalg.svd(pixels.T @ pixels)
    plane = directions[:2] * np.where(directions[:2].sum(axis=1, keepdims=True) < 0, -1, 1)  # [2, 3]
    angle = np.arctan2(pixels @ plane[1], pixels @ plane[0])
    extremes = np.percentile(angle, [_EXTREME_PERCENTILE, 100 - _EXTREME_PERCENTILE])
    if extremes[1] - extremes[0] < np.radians(1):
        return None
    vectors = np.maximum(np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane, 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = vectors[np.argsort(vectors[:, 2] - vectors[:, 0], kind="stable")]
    return found


def estimate_stains(images: Iterable[npt.NDArray[np.uint8]]) -> Stains | None:
    """Stains of the parts of one image together, uint8 [H, W, 3] each.

    None where less than a twentieth of the pixels is stained, or the stains are less than 5 degrees apart.
    """
    sampled = [-LOG[_sample(image)] for image in images]
    pixels = np.concatenate(sampled) if sampled else np.empty((0, 3), np.float32)
    stained = pixels[np.linalg.norm(pixels, axis=1) > STAINED_OD * math.log(10)]
    if len(stained) < max(_LEAST_TISSUE * len(pixels), 2):
        return None
    vectors = stain_directions(stained)
    if vectors is None or math.acos(min(float(vectors[0] @ vectors[1]), 1.0)) < _LEAST_ANGLE:
        return None
    strength = np.percentile(stained @ np.linalg.pinv(vectors), _FULL_PERCENTILE, axis=0)
    if (strength <= 0).any():
        return None
    haematoxylin, eosin = (tuple(vector) for vector in vectors.tolist())
    return Stains(haematoxylin=haematoxylin, eosin=eosin, strength=tuple(strength.tolist()))


def _sample(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """At most about `_SAMPLED_PIXELS` pixels on a grid: uint8 [N, 3]."""
    step = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / _SAMPLED_PIXELS))
    return image[:: max(step, 1), :: max(step, 1)].reshape(-1, 3)


def transfer(source: Stains, target: Stains) -> npt.NDArray[np.float64]:
    """Matrix [3, 3] from an optical density (a column) in the source's stains to the same in those of the target.

    Each stain gets the target's direction and strength, at most three times more or less of it. What lies across both,
    such as pigment, keeps its amount; Macenko et al. 2009 drop it.
    """
    ratio = np.clip(np.divide(target.strength, source.strength), 1 / _LARGEST_RATIO, _LARGEST_RATIO)
    matrix: npt.NDArray[np.float64] = target.basis.T @ np.diag([*ratio, 1.0]) @ np.linalg.inv(source.basis.T)
    return matrix


def mix_densities(
    image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], light: float = 1.0
) -> npt.NDArray[np.uint8]:
    """Mix the optical densities of the channels: v' = 255 light exp(-(A od)_c), uint8 [h, w, 3] -> the same.

    Args:
        image: its colours. matrix: A, [3, 3]. light: factor of the illumination.
    """
    import cv2

    affine = np.column_stack([matrix, np.full(3, np.log(255 * light))]).astype(np.float32)
    # -od -> log v' in one affine map, all in OpenCV: a third of the time of a loop compiled by numba.
    levels = cv2.transform(cv2.LUT(image, LOG), affine)
    mixed: npt.NDArray[np.uint8] = cv2.convertScaleAbs(cv2.exp(levels, levels))
    return mixed


def restain(image: npt.NDArray[np.uint8], source: Stains, target: Stains) -> npt.NDArray[np.uint8]:
    """An image, uint8 [H, W, 3], with other stains than its own (`transfer`)."""
    return mix_densities(image, transfer(source, target))


def median_stains(found: Sequence[Stains]) -> Stains:
    """The median of every number over images; directions are made unit vectors again."""
    pair = np.median([[stains.haematoxylin, stains.eosin] for stains in found], axis=0)
    pair /= np.linalg.norm(pair, axis=1, keepdims=True)
    strength = np.median([stains.strength for stains in found], axis=0)
    return Stains(haematoxylin=tuple(pair[0]), eosin=tuple(pair[1]), strength=tuple(strength))
