"""Random crops of a tile: one geometric transform of image, classes and distances, and changes of colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import ndtri

from factory.core.config import Config
from segment.data.pasting import PasteConfig
from segment.data.stains import MacenkoConfig, mix_densities

_ELASTIC_GRID = 3

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""RGB optical density of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001, as scikit-image gives them)."""
_STAINS = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
_UNMIXED = np.linalg.inv(_STAINS)


class AugmentConfig(Config):
    """Strength of augmentation; `none` gives plain random crops.

    Attributes:
        dihedral: quarter turns and mirror images, exact to the pixel.
        warp_probability: of a rotation, scaling and elastic deformation in addition.
        rotate_degrees: largest angle in either direction. scale: largest magnification is 1 + scale, smallest its
            inverse.
        elastic_px: standard deviation, in pixels, of the displacements of a 3x3 grid over the crop (Ronneberger 2015).
        stain_gain: spread of the strength of haematoxylin, eosin and DAB, independently; white stays white.
        density_gain: spread of the optical density per colour channel; white stays white.
        brightness: spread of the illumination.
        blur_probability, blur_px: of blur, and its largest Gaussian sigma in pixels.
        noise_probability, noise: of noise, and its largest sigma as a share of white.
        paste: nuclei of other places pasted into the crop; none by default.
        macenko: stains of other images; none by default.
    """

    added: ClassVar = frozenset({"paste", "macenko"})
    dihedral: bool = True
    warp_probability: float = Field(default=0.3, ge=0, le=1)
    rotate_degrees: float = Field(default=25.0, ge=0, le=180)
    scale: float = Field(default=0.15, ge=0, lt=1)
    elastic_px: float = Field(default=3.0, ge=0, le=100)
    stain_gain: float = Field(default=0.15, ge=0, lt=1)
    density_gain: float = Field(default=0.1, ge=0, lt=1)
    brightness: float = Field(default=0.05, ge=0, lt=1)
    blur_probability: float = Field(default=0.1, ge=0, le=1)
    blur_px: float = Field(default=1.0, ge=0, le=20)
    noise_probability: float = Field(default=0.1, ge=0, le=1)
    noise: float = Field(default=0.03, ge=0, lt=1)
    paste: PasteConfig = PasteConfig()
    macenko: MacenkoConfig = MacenkoConfig()

    @classmethod
    def none(cls) -> AugmentConfig:
        """Plain random crops without changes."""
        return cls(
            dihedral=False,
            warp_probability=0,
            stain_gain=0,
            density_gain=0,
            brightness=0,
            blur_probability=0,
            noise_probability=0,
        )


@dataclass(frozen=True)
class CropTransform:
    """Map from crop to tile pixels, in y, x: tile = centre + matrix @ (crop - centre of the crop) + bend.

    Attributes:
        centre: float [2], middle of the crop in the tile. matrix: float [2, 2]. crop: height and width in pixels.
        bend: float32 [2, 3, 3], displacements in pixels along y and x on a grid over the crop, None for none.
    """

    centre: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    crop: tuple[int, int]
    bend: npt.NDArray[np.float32] | None = None

    @property
    def extent(self) -> npt.NDArray[np.float64]:
        """Height and width, in whole pixels of the tile, of the upright box around the crop without its bend."""
        extent: npt.NDArray[np.float64] = np.ceil(np.abs(self.matrix) @ np.array(self.crop) - 1e-9)
        return extent

    @property
    def is_exact(self) -> bool:
        """Whether every pixel of the crop is a pixel of the tile: one of the eight symmetries without a bend."""
        return self.bend is None and sorted(np.abs(self.matrix).ravel().tolist()) == [0, 0, 1, 1]


def draw_transform(
    rng: np.random.Generator,
    tile: tuple[int, int],
    crop: tuple[int, int],
    config: AugmentConfig,
    around: tuple[int, int] | None = None,
) -> CropTransform:
    """Draw a transform for a crop of `crop` pixels in a tile of `tile` pixels, inside the tile if possible.

    A rotated or shrunk crop that is larger than the tile is filled by reflection.

    Args:
        rng: of this crop. tile, crop: height and width. config: strength of augmentation.
        around: pixel (y, x) in the middle half of the crop, or as close to it as the border of the tile allows. At the
            border, a warped crop may miss it.

    Raises:
        ValueError: when an upright crop does not fit.
    """
    if crop[0] > tile[0] or crop[1] > tile[1]:
        raise ValueError(f"crop {crop} does not fit in a tile of {tile}")
    matrix, bend = np.eye(2), None
    if config.dihedral:
        matrix = _draw_symmetry(rng, lies_down=crop[1] > tile[0] or crop[0] > tile[1])
    if rng.random() < config.warp_probability:
        angle = math.radians(rng.uniform(-config.rotate_degrees, config.rotate_degrees))
        zoom = (1 + config.scale) ** rng.uniform(-1, 1)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = matrix @ turn / zoom
        if config.elastic_px:
            bend = rng.standard_normal((2, _ELASTIC_GRID, _ELASTIC_GRID), np.float32) * np.float32(config.elastic_px)
    # Whole pixels, so that a crop without a warp needs no interpolation.
    extent = CropTransform(np.zeros(2), matrix, crop).extent
    room = np.maximum(np.array(tile) - extent, 0)
    if around is None:
        corner = np.floor(rng.random(2) * (room + 1))
    else:
        middle = np.array(around) + (rng.random(2) - 0.5) / 2 * extent
        corner = np.clip(np.rint(middle - (extent - 1) / 2), 0, room)
    corner = np.where(extent > tile, (np.array(tile) - extent) / 2, corner)
    return CropTransform(corner + (extent - 1) / 2, matrix, crop, bend)


def _draw_symmetry(rng: np.random.Generator, *, lies_down: bool) -> npt.NDArray[np.float64]:
    """One of the eight symmetries of a square; with `lies_down` one of the four that do not swap the axes."""
    turns = 2 * int(rng.integers(2)) if lies_down else int(rng.integers(4))
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    mirror = 1.0 - 2.0 * rng.integers(2)
    return np.array([[cos, -sin * mirror], [sin, cos * mirror]])


def take(
    transform: CropTransform, image: npt.NDArray[np.uint8], labels: Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[Any]]]:
    """Cut a crop out of a tile: the image with bilinear interpolation, label maps by nearest pixel.

    Args:
        transform: of the crop.
        image: uint8 [H, W, 3].
        labels: maps [H, W] of uint8, uint16, int32 or float32.

    Returns:
        uint8 [h, w, 3] and the label maps [h, w] with their dtypes; they may share memory with the tile.
    """
    if transform.is_exact:
        return _symmetry(transform, image), [_symmetry(transform, label) for label in labels]
    import cv2

    y, x = _positions(transform)
    # Only the part of the tile that the crop reads: less to copy, and OpenCV's coordinates end at 32767.
    rows, columns = _span(y, image.shape[0]), _span(x, image.shape[1])
    y -= rows.start
    x -= columns.start

    def warp(pixels: npt.NDArray[Any], interpolation: int) -> npt.NDArray[Any]:
        warped: npt.NDArray[Any] = cv2.remap(pixels, x, y, interpolation, None, cv2.BORDER_REFLECT_101)
        return warped

    # OpenCV interpolates four channels in half the time of three.
    padded = cv2.cvtColor(image[rows, columns], cv2.COLOR_RGB2RGBA)
    taken = cv2.cvtColor(warp(padded, cv2.INTER_LINEAR), cv2.COLOR_RGBA2RGB)
    return taken, [warp(label[rows, columns], cv2.INTER_NEAREST) for label in labels]


def _symmetry(transform: CropTransform, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An exact crop: a window of the tile, transposed and mirrored by its matrix."""
    import cv2

    top, left = (transform.centre - (transform.extent - 1) / 2).astype(int).tolist()
    height, width = transform.extent.astype(int).tolist()
    window = pixels[top : top + height, left : left + width]
    (a, b), (c, d) = transform.matrix
    if b:  # the tile's rows run along the crop's columns
        window, a, d = cv2.transpose(window), c, b
    if a > 0 and d > 0:
        return window
    mirrored: npt.NDArray[Any] = cv2.flip(window, -1 if a < 0 and d < 0 else 0 if a < 0 else 1)
    return mirrored


def _positions(transform: CropTransform) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Row and column in the tile of every pixel of the crop: float32 [h, w] each."""
    import cv2

    h, w = transform.crop
    rows, columns = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    (a, b), (c, d) = transform.matrix
    y = (transform.centre[0] + a * rows).astype(np.float32)[:, None] + (b * columns).astype(np.float32)
    x = (transform.centre[1] + c * rows).astype(np.float32)[:, None] + (d * columns).astype(np.float32)
    if transform.bend is not None:
        y += cv2.resize(transform.bend[0], (w, h), interpolation=cv2.INTER_CUBIC)
        x += cv2.resize(transform.bend[1], (w, h), interpolation=cv2.INTER_CUBIC)
    return y, x


def _span(positions: npt.NDArray[np.float32], size: int) -> slice:
    """Pixels along an axis that a crop reads, including reflections at the tile's border."""
    first, last = math.floor(float(positions.min())), math.ceil(float(positions.max()))
    if first < 0:
        last = max(last, -first)
    if last > size - 1:
        first = min(first, 2 * (size - 1) - last)
    return slice(max(first, 0), min(last + 1, size))


def change_appearance(
    image: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    config: AugmentConfig,
    restained: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.uint8]:
    """Change colours, then focus and noise of some crops: uint8 [h, w, 3] -> the same.

    With `AugmentConfig.none` the image itself is returned, not a copy. `restained` is a `stains.transfer` to other
    stains, which comes first.
    """
    if config.stain_gain or config.density_gain or config.brightness or restained is not None:
        image = recolour(image, rng, config, restained)
    if rng.random() < config.blur_probability:
        image = _blur(image, rng.uniform(0, config.blur_px))
    if rng.random() < config.noise_probability:
        image = _add_noise(image, rng, rng.uniform(0, config.noise))
    return image


def recolour(
    image: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    config: AugmentConfig,
    restained: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.uint8]:
    """Vary the strength of each stain, of each channel, and the illumination: uint8 [h, w, 3] -> the same.

    Optical densities are unmixed into haematoxylin, eosin and DAB, each is multiplied by its own factor, and they are
    mixed again (Tellez 2018, without the additive term, so that unstained glass does not change). Then the density of
    each channel and the illumination are multiplied: v' = 255 light exp(-gain_c (A od)_c).
    """
    stains = 1 + config.stain_gain * rng.uniform(-1, 1, 3)
    gains = 1 + config.density_gain * rng.uniform(-1, 1, 3)
    light = 1 + config.brightness * rng.uniform(-1, 1)
    mixing = gains[:, None] * (_UNMIXED @ np.diag(stains) @ _STAINS).T  # od is a column here
    return mix_densities(image, mixing if restained is None else mixing @ restained, light)


def _blur(image: npt.NDArray[np.uint8], sigma: float) -> npt.NDArray[np.uint8]:
    import cv2

    if sigma < 0.1:  # changes less than a grey level
        return image
    blurred: npt.NDArray[np.uint8] = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _add_noise(image: npt.NDArray[np.uint8], rng: np.random.Generator, sigma: float) -> npt.NDArray[np.uint8]:
    """Add Gaussian noise with a sigma as share of white. Random bytes choose among 256 quantiles: 16 times faster."""
    import cv2

    table = np.clip(np.rint(255 * sigma * _quantiles()), -127, 127).astype(np.int8)
    draws = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    noisy: npt.NDArray[np.uint8] = cv2.add(image, cv2.LUT(draws, table), dtype=cv2.CV_8U)
    return noisy


@lru_cache(maxsize=1)
def _quantiles() -> npt.NDArray[Any]:
    """Medians of 256 equally likely parts of the normal distribution."""
    return np.asarray(ndtri((np.arange(256) + 0.5) / 256))
