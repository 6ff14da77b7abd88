"""Stains of real tissue: their vectors from the pixels, their densities, and pixels made of densities again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.dyes import DAB, HAEMATOXYLIN_IHC, optical_density
from factory.renderers.stain.fit import air_colour, brown_black_blue, immunostain_vectors

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

AIR_OD = 0.12
"""Optical density (length of the RGB vector, natural logarithm) up to which a pixel is air."""
_SAMPLED_PIXELS = 60_000
_BLACK = 2.0
_DARK_RED = 1.2
"""Optical density of red light above which the green light is asked."""
_DAB_ENOUGH = 40
"""Brown pixels among those sampled from which the tissue's own DAB is used."""


class Stains(NamedTuple):
    """Light and dyes of a slide.

    Attributes:
        background: float64 [3], RGB of air, grey levels.
        haematoxylin, dab: float64 [3], RGB optical densities of unit length.
    """

    background: Vector
    haematoxylin: Vector
    dab: Vector

    def vectors(self) -> Vector:
        """Haematoxylin, DAB and what neither explains (their normalised cross product): float64 [3, 3]."""
        rest = np.cross(self.haematoxylin, self.dab)
        return np.stack([self.haematoxylin, self.dab, rest / np.linalg.norm(rest)])


def estimate_stains(images: Sequence[Image]) -> Stains:
    """Estimate light, haematoxylin and DAB from immunostained images of one slide, uint8 [H, W, 3].

    Vectors follow Macenko et al. 2009 with brown and blue pixels weighing the same, as in `stain.fit`. A dye that the
    images do not show keeps the constant in `stain.dyes`.
    """
    pixels = max(1, sum(image.shape[0] * image.shape[1] for image in images))
    step = max(1, round((pixels / _SAMPLED_PIXELS) ** 0.5))
    # a little blur: the colour of a pixel under JPEG and noise is that of its neighbours as well
    sampled = [np.ascontiguousarray(cv2.GaussianBlur(image, (3, 3), 0.7)[::step, ::step]) for image in images]
    background = np.mean([air_colour(image) for image in sampled], axis=0)
    od = np.concatenate([optical_density(image, background).reshape(-1, 3) for image in sampled])
    length = np.linalg.norm(od, axis=1)
    brown, _, blue = brown_black_blue(od, length)
    brown &= length < _BLACK
    haematoxylin, dab = immunostain_vectors(
        od[brown], od[blue], np.asarray(HAEMATOXYLIN_IHC, np.float64), np.asarray(DAB, np.float64)
    )
    return Stains(background, haematoxylin.astype(np.float64), dab.astype(np.float64))


def separate(image: Image, stains: Stains) -> FloatMap:
    """Separate uint8 [H, W, 3] into densities of haematoxylin, DAB and the rest: float32 [3, H, W].

    Densities may be negative. They come back as the same pixels by `compose`.
    """
    inverse = np.linalg.inv(stains.vectors()).astype(np.float32)
    table = optical_density_table(stains.background)
    separated = np.empty((3, *image.shape[:2]), np.float32)
    _separate(image, table, inverse, separated)
    return separated


def optical_density_table(background: Vector) -> FloatMap:
    """Optical density of every grey level per channel, float32 [256, 3]; negative above the background."""
    levels = np.arange(256, dtype=np.float64)[:, None]
    return np.log((np.asarray(background)[None] + 1.0) / (levels + 1.0)).astype(np.float32)


@compiled()
def _separate(image, table, inverse, separated):  # type: ignore[no-untyped-def]
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red, green, blue = table[image[y, x, 0], 0], table[image[y, x, 1], 1], table[image[y, x, 2], 2]
            for s in range(3):
                separated[s, y, x] = red * inverse[0, s] + green * inverse[1, s] + blue * inverse[2, s]


def compose(densities: FloatMap, stains: Stains) -> Image:
    """Pixels uint8 [N, 3] of densities float32 [3, N] of haematoxylin, DAB and the rest (Beer-Lambert)."""
    od = densities.T @ stains.vectors().astype(np.float32)
    light = (stains.background + 1.0).astype(np.float32) * np.exp(-od) - 1
    pixels: Image = np.rint(np.clip(light, 0, 255)).astype(np.uint8)
    return pixels


def air_of(image: Image, background: Vector) -> Mask:
    """Find the pixels without tissue: bool [H, W]."""
    smooth = cv2.GaussianBlur(image, (5, 5), 1.0)
    found: Mask = np.linalg.norm(optical_density(smooth, background), axis=-1) < AIR_OD
    return found


def recolour(image: Image, source: Stains, target: Stains) -> Image:
    """Show the densities of one slide, uint8 [H, W, 3], in the light and the dyes of another.

    Where haematoxylin lets no red light through, the sensor does not say how much there is; green light does.
    """
    od = optical_density_table(source.background)[:, 1]
    densest = np.maximum(od * (source.haematoxylin[0] / source.haematoxylin[1]), _DARK_RED)
    least_red = np.clip((source.background[0] + 1) * np.exp(-densest) - 1, 0, 255).astype(np.uint8)
    seen = image.copy()
    seen[..., 0] = np.maximum(seen[..., 0], least_red[seen[..., 1]])
    return compose(separate(seen, source).reshape(3, -1), target).reshape(image.shape)
