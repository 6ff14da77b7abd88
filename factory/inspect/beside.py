"""Real tiles to hold synthetic ones against: from a data set, or cut out of a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from manifests.errors import UserError

_BACKGROUND_GREY = 235
_LEAST_TISSUE = 0.3
_TRIES = 12


@dataclass(frozen=True)
class Cut:
    """A piece of an image: its name for the caption and uint8 [H, W, 3], at most as large as the tile asked for."""

    name: str
    image: npt.NDArray[np.uint8]


def cut_images(folder: Path, n: int, shape: tuple[int, int], seed: int) -> list[Cut]:
    """Cut `n` tiles out of the images of a folder, in turn over the images, pixel for pixel and never scaled.

    A place is drawn up to 12 times until at least 30 % of the cut is darker than grey 235 (the papers' threshold of air
    in IHC). An image smaller than the tile is taken whole.

    Args:
        folder: where the images lie; folders in it are not entered.
        n: how many.
        shape: height and width of a tile in pixels.
        seed: root of the places.

    Raises:
        UserError: when there is no image, or one cannot be read.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(
            f"--beside {folder}: expected a data set or images ({', '.join(IMAGE_SUFFIXES)}), got none of these."
        )
    if n < len(paths):  # spread over the folder, which often is in order of patients
        paths = [paths[place] for place in np.linspace(0, len(paths) - 1, n).round().astype(int)]
    rng = np.random.default_rng(seed)
    cuts: list[Cut] = []
    for position, path in enumerate(paths):
        image = read_rgb(path)
        share = n // len(paths) + (position < n % len(paths))
        cuts += [Cut(path.stem, _cut(image, shape, rng)) for _ in range(share)]
    return cuts


def _cut(image: npt.NDArray[np.uint8], shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    height, width = min(shape[0], image.shape[0]), min(shape[1], image.shape[1])
    piece = image[:height, :width]
    for _ in range(_TRIES):
        y, x = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        piece = image[y : y + height, x : x + width]
        if (piece.mean(axis=2) < _BACKGROUND_GREY).mean() >= _LEAST_TISSUE:
            break
    return piece.copy()
