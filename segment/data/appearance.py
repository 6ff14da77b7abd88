"""How a view may look different with the same labels: stains, illumination, focus and noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from segment.data.augmentation import AugmentConfig

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""RGB optical density of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001, as scikit-image gives them)."""
_STAINS = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
_UNMIXED = np.linalg.inv(_STAINS)

_LOG = np.log(np.maximum(np.arange(256), 1 / 3) / 255).astype(np.float32)
"""-OD of every grey level; black counts as a third of a level, which rounds to 0 again."""


def change_appearance(
    image: npt.NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig
) -> npt.NDArray[np.uint8]:
    """Recolour a view, then put some out of focus and make some noisy: uint8 [h, w, 3] -> the same.

    With `AugmentConfig.none` the image comes back as it is, not copied.
    """
    if config.stain_gain or config.density_gain or config.brightness:
        image = recolour(image, rng, config)
    if rng.random() < config.blur_probability:
        image = _blur(image, rng.uniform(0, config.blur_px))
    if rng.random() < config.noise_probability:
        image = _add_noise(image, rng, rng.uniform(0, config.noise))
    return image


def recolour(image: npt.NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig) -> npt.NDArray[np.uint8]:
    """Vary the strength of each stain, of each channel, and the illumination: uint8 [h, w, 3] -> the same.

    Optical densities are unmixed into haematoxylin, eosin and DAB, each is multiplied by a factor of its own, and they
    are mixed again (Tellez 2018, without the additive term: unstained glass stays as it is). Then the density of each
    channel is multiplied, and the light dimmed or raised: v' = 255 light exp(-gain_c (A od)_c).
    """
    import cv2

    stains = 1 + config.stain_gain * rng.uniform(-1, 1, 3)
    gains = 1 + config.density_gain * rng.uniform(-1, 1, 3)
    light = 1 + config.brightness * rng.uniform(-1, 1)
    mixing = gains[:, None] * (_UNMIXED @ np.diag(stains) @ _STAINS).T  # od is a column here
    matrix = np.column_stack([mixing, np.full(3, np.log(255 * light))]).astype(np.float32)
    # -od -> log v' in one affine map, all in OpenCV: a third of the time of a loop that numba compiles.
    levels = cv2.transform(cv2.LUT(image, _LOG), matrix)
    recoloured: npt.NDArray[np.uint8] = cv2.convertScaleAbs(cv2.exp(levels, levels))
    return recoloured


def _blur(image: npt.NDArray[np.uint8], sigma: float) -> npt.NDArray[np.uint8]:
    import cv2

    if sigma < 0.1:  # less than a grey level
        return image
    blurred: npt.NDArray[np.uint8] = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _add_noise(image: npt.NDArray[np.uint8], rng: np.random.Generator, sigma: float) -> npt.NDArray[np.uint8]:
    """Add Gaussian noise of `sigma` of white; its 256 quantiles, drawn by random bytes, are 16 times faster."""
    import cv2

    table = np.clip(np.rint(255 * sigma * _quantiles()), -127, 127).astype(np.int8)
    draws = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    noisy: npt.NDArray[np.uint8] = cv2.add(image, cv2.LUT(draws, table), dtype=cv2.CV_8U)
    return noisy


@lru_cache(maxsize=1)
def _quantiles() -> npt.NDArray[Any]:
    """The middles of 256 equally likely parts of the normal distribution."""
    return np.asarray(ndtri((np.arange(256) + 0.5) / 256))
