"""Stains of real tissue: their vectors from the pixels, their densities, and pixels made of densities again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.dyes import DAB, EOSIN, HAEMATOXYLIN_HE, HAEMATOXYLIN_IHC, optical_density
from factory.renderers.stain.fit import air_colour, brown_black_blue, extreme_directions, immunostain_vectors

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Stain = Literal["he", "ihc"]

AIR_OD = 0.12
"""Optical density (length of the RGB vector, natural logarithm) up to which a pixel is air."""
_SAMPLED_PIXELS = 60_000
_BLACK = 2.0
_PINK = 1.12
"""Absorption of green light relative to red from which tissue is H&E: violet haematoxylin alone has up to 1."""
_STAINED_OD = 0.2
"""Optical density from which a pixel of H&E counts as stained."""
_DAB_ENOUGH = 40
"""Brown pixels among those sampled from which the tissue's own DAB is used."""


class Stains(NamedTuple):
    """Light and dyes of a slide.

    Attributes:
        background: float64 [3], RGB of air, grey levels.
        haematoxylin, second: float64 [3], RGB optical densities of unit length; the second dye is DAB, or eosin in H&E.
    """

    background: Vector
    haematoxylin: Vector
    second: Vector

    def vectors(self) -> Vector:
        """Both dyes and what neither explains (their normalised cross product): float64 [3, 3]."""
        rest = np.cross(self.haematoxylin, self.second)
        return np.stack([self.haematoxylin, self.second, rest / np.linalg.norm(rest)])


def stain_of(images: Sequence[Image]) -> Stain:
    """Tell H&E from an immunostain: eosin and haematoxylin absorb green most, haematoxylin red, and DAB blue."""
    pixels = np.concatenate([optical_density(image[::4, ::4], air_colour(image)).reshape(-1, 3) for image in images])
    red, green, blue = pixels[np.linalg.norm(pixels, axis=1) > AIR_OD].sum(0)
    return "he" if green > _PINK * max(red, blue) else "ihc"


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


def estimate_he_stains(images: Sequence[Image]) -> Stains:
    """Estimate light, haematoxylin and eosin from H&E images of one slide, uint8 [H, W, 3]; see `he_vectors`."""
    step = max(1, round((sum(image.size // 3 for image in images) / _SAMPLED_PIXELS) ** 0.5))
    background = np.mean([air_colour(image) for image in images], axis=0)
    od = np.concatenate([optical_density(image[::step, ::step], background).reshape(-1, 3) for image in images])
    haematoxylin, eosin = he_vectors(od[np.linalg.norm(od, axis=1) > _STAINED_OD])
    return Stains(background, haematoxylin, eosin)


def he_vectors(od: FloatMap) -> tuple[Vector, Vector]:
    """Haematoxylin and eosin of stained pixels [N, 3]; constants of `stain.dyes` where they cannot be told apart."""
    usual = np.asarray(HAEMATOXYLIN_HE, np.float64), np.asarray(EOSIN, np.float64)
    if len(od) < 500:
        return usual
    first, second = (np.asarray(vector, np.float64) for vector in extreme_directions(od))
    haematoxylin, eosin = (first, second) if first[0] > second[0] else (second, first)
    told_apart = haematoxylin @ eosin < 0.97 and haematoxylin @ usual[0] > 0.92 and eosin @ usual[1] > 0.92
    return (haematoxylin, eosin) if told_apart else usual


def separate(image: Image, stains: Stains) -> FloatMap:
    """Separate uint8 [H, W, 3] into densities of haematoxylin, the second dye and the rest: float32 [3, H, W].

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
    """Pixels uint8 [N, 3] of densities float32 [3, N] of haematoxylin, the second dye and the rest (Beer-Lambert)."""
    od = densities.T @ stains.vectors().astype(np.float32)
    light = (stains.background + 1.0).astype(np.float32) * np.exp(-od) - 1
    pixels: Image = np.rint(np.clip(light, 0, 255)).astype(np.uint8)
    return pixels
