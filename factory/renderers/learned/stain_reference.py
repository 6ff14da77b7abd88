"""Stain references of slides: the mean colour of every class in every slide, an input of renderers.

One mask fits images of many stains; without a reference a network learns their mean. pix2pixHD (Wang et al. 2018, 3.4)
gives its generator features of each region that an encoder learned, and draws them from the training set in use. Mean
colours of each class over a whole slide are the simplest such features: they need no encoder and do not reveal how
much of a class a single tile contains. On cards and in configs a reference is called ``look``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.learn.crops import Tiles

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StainReferences:
    """Stain references of slides.

    Attributes:
        names: data set and group of each.
        colours: float32 [slides, classes, 3], RGB in -1..1; the mean of the others where a slide lacks a class.
    """

    names: tuple[str, ...]
    colours: Floats


def measure_stain_references(tiles: Tiles, every: int = 4) -> StainReferences:
    """Measure the stain references of all slides of the tiles, on every `every`-th pixel along both axes."""
    names = tuple(sorted({tiles.group(position) for position in range(len(tiles))}))
    sums = np.zeros((len(names), len(tiles.scheme), 3), np.float64)
    counts = np.zeros((len(names), len(tiles.scheme)), np.int64)
    for position in range(len(tiles)):
        place = names.index(tiles.group(position))
        labels = tiles.read(position)[::every, ::every].ravel()
        image = tiles.read_image(position)[::every, ::every].reshape(-1, 3)
        counts[place] += np.bincount(labels, minlength=len(tiles.scheme))
        for channel in range(3):
            sums[place, :, channel] += np.bincount(labels, image[:, channel], minlength=len(tiles.scheme))
    with np.errstate(invalid="ignore"):
        means = sums / counts[..., None]
    overall = sums.sum(0) / np.maximum(counts.sum(0), 1)[:, None]
    colours = np.where(np.isnan(means), overall, means) / 127.5 - 1.0
    return StainReferences(names, colours.astype(np.float32))
