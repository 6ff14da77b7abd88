"""Takes DAB out of real immunostained tissue, and eosin out of H&E: what is left is a haematoxylin counterstain."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.stain_separation import (
    AIR_OD,
    FloatMap,
    Image,
    Mask,
    Stains,
    compose,
    estimate_stains,
    he_vectors,
    separate,
)
from factory.bank.tissue_nuclei import nuclear_pixels
from factory.renderers.stain.config import IhcPreparation
from factory.renderers.stain.dyes import (
    DAB,
    HAEMATOXYLIN_IHC,
    densities,
    optical_density,
    vary_vector,
)
from factory.renderers.stain.fit import air_colour
from factory.renderers.stain.noise_tables import MASK, grain

MarkerKind = Literal["membrane", "nucleus"]

_BROWN, _SURELY_BROWN = 0.12, 0.4
"""DAB above the haze from which it is taken out smoothly, and with all of its texture."""
_NUCLEAR, _SURELY_NUCLEAR = 0.3, 0.7
"""DAB above the haze from which a pixel belongs to a stained nucleus."""
_USUAL_NUCLEUS = 0.75
"""Haematoxylin of a nucleus where the image shows no blue one."""
_STAINED_OD = 0.2
"""Optical density from which a pixel of H&E counts as stained."""
_PALEST_NUCLEUS = 0.7
"""Least haematoxylin that is taken for that of nuclei in H&E: what stands out of bare stroma may be fibres."""
_MEASURED = 0.73
"""Haematoxylin measured in rendered nuclei relative to what `stain.config` says of them (`stain.fit`)."""
_FLAT = 2.0
"""Density of both dyes from which the sensor saw no texture."""


def remove_marker(
    image: Image, where: Mask, mpp: float, *, kind: MarkerKind = "nucleus", stains: Stains | None = None
) -> Image:
    """Take DAB out of immunostained tissue; pixels outside `where` and air stay as they are.

    Nuclear DAB hides the haematoxylin under it. A brown nucleus is therefore given the haematoxylin of the blue nuclei
    of the image, and keeps its own outline and texture. Under membranous DAB the haematoxylin that can be measured
    stays, and dark membranes are filled in from beside them.

    Args:
        image: uint8 [H, W, 3], RGB.
        where: bool [H, W], where to take it out.
        mpp: micrometres per pixel.
        kind: what the marker stains.
        stains: of the slide; estimated from the image where it is None.

    Returns:
        uint8 [H, W, 3].
    """
    stains = estimate_stains([image]) if stains is None else stains
    haematoxylin, dab, rest = separated = separate(image, stains)
    total = haematoxylin + dab
    tissue = _blur(total, 0.4 / mpp) > AIR_OD
    haze = _haze(dab, tissue)
    excess = _blur(dab, 0.4 / mpp) - haze
    surely = _rise(excess, _BROWN, _SURELY_BROWN)
    own = dab - haze
    # at an outline the blurred density is above that of the pixel
    removed = (1 - surely) * np.minimum(np.maximum(excess, 0), np.maximum(own, 0) + np.float32(0.05)) + surely * own
    if kind == "nucleus":
        share, drawn = _blue_nuclei(separated, total, excess, tissue, mpp)
    else:
        share, drawn = _beside(separated, excess, mpp)
    drawn[1] += haze
    changed = where & tissue & ((removed > 0.02) | (share > 0.02))
    kept = np.stack([haematoxylin, dab - removed, rest * (1 - np.float32(0.7) * surely)])
    result = image.copy()
    result[changed] = compose((kept + share * (drawn - kept))[:, changed], stains)
    return result


def _haze(dab: FloatMap, tissue: Mask) -> np.float32:
    """DAB of tissue without the marker."""
    values = dab[::2, ::2][tissue[::2, ::2]]
    values = values[values < _SURELY_BROWN / 2]
    return np.float32(np.clip(np.median(values), -0.05, 0.08)) if len(values) else np.float32(0)


def _blue_nuclei(
    separated: FloatMap, total: FloatMap, excess: FloatMap, tissue: Mask, mpp: float
) -> tuple[FloatMap, FloatMap]:
    """How much of a pixel belongs to a brown nucleus, 0..1, and the densities [3, H, W] that it has as a blue one."""
    share = _blur(_rise(excess, _NUCLEAR, _SURELY_NUCLEAR), 0.3 / mpp)
    count, blob = cv2.connectedComponents((share > 0.5).astype(np.uint8), connectivity=4)
    blue = tissue & (excess < _BROWN) & (share < 0.1)
    level, colour = _nuclear_colour(separated, blue, mpp)
    if count == 1:
        return share, separated.copy()
    blob = cv2.dilate(blob.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    area = np.maximum(np.bincount(blob.ravel(), minlength=count), 1)
    # where a nucleus is nearly black, the differences between its pixels are noise
    flat = _rise(_blur(total, 0.4 / mpp), _FLAT - 1, _FLAT + 0.5)
    tone = _blur(total, 0.15 / mpp) * (1 - flat) + flat * _blur(total, 0.7 / mpp)
    # the contrast within brown nuclei is above that of blue ones
    tone = np.maximum(tone, 0) ** np.float32(0.7)
    mean = np.bincount(blob.ravel(), tone.ravel(), minlength=count) / area
    # darker brown nuclei become slightly darker blue ones
    usual = max(float(np.median(mean[1:])), 0.1)
    factor = (1.05 * (mean / usual) ** 0.3 / np.maximum(mean, 0.1)).astype(np.float32)
    factor[0] = 1 / usual
    texture = np.tile(grain(), tuple(-(-length // (MASK + 1)) for length in total.shape))
    texture = texture[: total.shape[0], : total.shape[1]]
    drawn = level * tone * factor[blob] * (1 + np.float32(0.07) * flat * texture)
    return share, drawn * colour[:, None, None]


def _nuclear_colour(separated: FloatMap, blue: Mask, mpp: float) -> tuple[FloatMap, FloatMap]:
    """Haematoxylin of blue nuclei around every pixel, float32 [H, W], and their densities [3] relative to it."""
    haematoxylin = separated[0]
    nuclear = blue & nuclear_pixels(haematoxylin, mpp) & (haematoxylin > 0.15)
    if nuclear.sum() < 200:
        return np.full_like(haematoxylin, _USUAL_NUCLEUS), np.array([1, 0, 0], np.float32)
    middle = np.median(separated[:, nuclear], axis=1)
    dark = np.median(separated[:, nuclear & (haematoxylin > middle[0])], axis=1)
    # the level of the neighbourhood, or that of the image where there are no blue nuclei near
    sigma, weight = 20 / mpp, nuclear.astype(np.float32)
    near = _wide_blur(weight, sigma) + np.float32(0.01)
    level = (_wide_blur(haematoxylin * weight, sigma) + np.float32(0.01 * middle[0])) / near
    return level, np.asarray(dark / dark[0], np.float32)


def _beside(separated: FloatMap, excess: FloatMap, mpp: float) -> tuple[FloatMap, FloatMap]:
    """How much of a pixel is dark with membranous DAB, 0..1, and the densities [3, H, W] beside it."""
    share = _rise(excess, 1.3, 2.3)
    trusted = np.reciprocal(1 + np.maximum(excess, 0) ** np.float32(4))
    sigma = 0.8 / mpp
    drawn = np.zeros_like(separated)
    drawn[0] = _blur(separated[0] * trusted, sigma) / (_blur(trusted, sigma) + np.float32(1e-4))
    return share, drawn


def _rise(values: FloatMap, low: float, high: float) -> FloatMap:
    """0 up to `low`, 1 from `high`, linear between."""
    return np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)


def _blur(values: npt.NDArray[np.float32], sigma_px: float) -> FloatMap:
    blurred: FloatMap = cv2.GaussianBlur(values, (0, 0), max(sigma_px, 0.3), borderType=cv2.BORDER_REFLECT)
    return blurred


def _wide_blur(values: FloatMap, sigma_px: float) -> FloatMap:
    """A blur over many pixels, at a quarter of the resolution."""
    height, width = values.shape
    small = cv2.resize(values, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(_blur(small, sigma_px / 4), (width, height), interpolation=cv2.INTER_LINEAR))


def he_to_counterstain(image: Image, rng: np.random.Generator, mpp: float = 0.5) -> Image:
    """Turn H&E tissue into a haematoxylin counterstain: eosin taken out, haematoxylin as blue and pale as there.

    Args:
        image: uint8 [H, W, 3], RGB.
        rng: the tile's generator; draws the colour and the strength of the counterstain.
        mpp: micrometres per pixel.

    Returns:
        uint8 [H, W, 3].
    """
    background = air_colour(image)
    od = optical_density(image, background)
    length = np.linalg.norm(od, axis=-1)
    haematoxylin, eosin = he_vectors(od[length > _STAINED_OD])
    h, e = np.moveaxis(densities(od, np.stack([haematoxylin, eosin])), -1, 0)
    nuclear = nuclear_pixels(np.maximum(h, 0), mpp) & (length > _STAINED_OD)
    level = float(np.percentile(h[nuclear], 60)) if nuclear.sum() > 200 else float(h.max(initial=0))
    target = _MEASURED * rng.uniform(*IhcPreparation().nucleus)
    # cytoplasm takes up less of a counterstain than of haematoxylin in H&E
    relative = np.maximum(h, 0) / np.float32(max(level, _PALEST_NUCLEUS))
    pale = relative ** np.float32(1.3) * np.float32(target)
    counterstain = pale + np.float32(0.06) * np.clip(e, 0, 1)
    od = counterstain[..., None] * vary_vector(HAEMATOXYLIN_IHC, 0.06, rng).astype(np.float32)
    od += np.clip(e, 0, 1)[..., None] * (np.float32(0.03) * np.asarray(DAB, np.float32))
    light = (background + 1).astype(np.float32) * np.exp(-od) - 1
    result: Image = np.where(length[..., None] > 0.04, np.rint(np.clip(light, 0, 255)), image).astype(np.uint8)
    return result
