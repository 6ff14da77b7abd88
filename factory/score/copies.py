"""Search for fakes that copy a place in the training tiles: held-out tiles set the limit, planted copies test it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from factory.core.statistics import Floats
from factory.score.settings import Settings, generator
from factory.score.similarity import SYMMETRIES, UPRIGHT, Match, closest, edges_of, is_blank, prepare, turned
from factory.score.tiles import TileSet, reduction

Pixels = npt.NDArray[np.uint8]

_PAST = 1 / 8  # largest shift of a planted copy, as a share of each side
_NOISE = 0.05  # share of wrong pixels in a planted noisy copy
_TRIES = 8  # draws for each crop with edges

FEW_REALS = 100
"""With fewer real tiles than this, their 99 % quantile is little more than their maximum."""


@dataclass(frozen=True)
class Pair:
    """A fake and the training tile nearest to it.

    Attributes:
        fake, training: sample ids. fake_place, training_place: places in the sets.
        similarity, symmetry, position: see `Match`. flagged: whether it is above the limit.
    """

    fake: str
    training: str
    fake_place: int
    training_place: int
    similarity: float
    symmetry: str
    position: tuple[int, int]
    flagged: bool


@dataclass(frozen=True)
class CopyFigures:
    """Results of the search for copies.

    Attributes:
        training_tiles: number of whole tiles searched. limit: similarity above which a tile counts as a copy.
        reals: number of held-out real tiles with edges, which set the limit.
        quantile: share of held-out real tiles below the limit. real_share: share of them above it.
        fakes: number of fakes with edges. blank_fakes: without edges. share: of `fakes`, above the limit.
        real_median, fake_median: similarity to the nearest training tile; equal if fakes are as new as real tiles.
        recall: share of all planted copies that were found. recall_by_kind: kind -> recall. planted: copies of each
            kind.
        feature_ratio: median distance from a fake to the nearest training tile in feature space, over that of a
            held-out real tile; far below 1 for fakes that stay close to training tiles. None without features.
        pairs: every fake with edges, the most similar first.
    """

    training_tiles: int
    limit: float
    reals: int
    quantile: float
    real_share: float
    fakes: int
    blank_fakes: int
    share: float
    real_median: float
    fake_median: float
    recall: float
    recall_by_kind: dict[str, float]
    planted: int
    feature_ratio: float | None
    pairs: tuple[Pair, ...]

    @property
    def flagged(self) -> tuple[Pair, ...]:
        """Pairs above the limit."""
        return tuple(pair for pair in self.pairs if pair.flagged)


def find_copies(
    fakes: TileSet,
    reals: TileSet,
    training: TileSet,
    settings: Settings,
    features: tuple[Floats, Floats, Floats] | None = None,
    on_tile: Callable[[], None] = lambda: None,
) -> CopyFigures:
    """Searches the whole training tiles for every fake.

    The limit is a quantile of the similarity of held-out real tiles to their best place in the training tiles. Real
    tiles of other patients cannot be copies, so their similarity is chance. Then known copies are planted and searched
    for in the same way: crops at any place, flipped and turned, as a generator sees them in training.

    Args:
        fakes, reals: of one size and scheme. training: of the same scheme, at least as large; shares no group with the
            reals. features: of fakes, reals and training crops of their size, float64 [n, d], for `feature_ratio`.
        on_tile: called after each tile; `searches` returns how often.
    """
    searched = prepare(training, fakes.shape, settings.copy_px)
    real_matches = closest(reals, searched, on_tile)
    fake_matches = closest(fakes, searched, on_tile)

    real_values, fake_values = (_similarities(matches) for matches in (real_matches, fake_matches))
    limit = float(np.quantile(real_values, settings.copy_quantile)) if len(real_values) else 1.0
    recalls, count = {}, 0
    crops = _crops(training, fakes.shape, settings)
    for kind, plant in PLANTED.items() if len(crops) else ():
        rng = generator(settings.seed, "planted", list(PLANTED).index(kind) + 1)
        copies = np.stack([plant(crop, _random_crop(training, fakes.shape, rng), rng) for crop in crops])
        matches = closest(fakes.take([0] * len(copies)).with_pixels(copies), searched, on_tile)
        recalls[kind], count = float(np.mean([match.similarity > limit for match in matches])), len(copies)
    return CopyFigures(
        training_tiles=len(training),
        limit=limit,
        reals=len(real_values),
        quantile=settings.copy_quantile,
        real_share=_share_above(real_values, limit),
        fakes=len(fake_values),
        blank_fakes=len(fakes) - len(fake_values),
        share=_share_above(fake_values, limit),
        real_median=_median(real_values),
        fake_median=_median(fake_values),
        recall=float(np.mean(list(recalls.values()))) if recalls else nan,
        recall_by_kind=recalls,
        planted=count,
        feature_ratio=_feature_ratio(*features) if features is not None else None,
        pairs=_pairs(fakes, training, fake_matches, limit),
    )


def searches(fakes: int, reals: int, planted: int) -> int:
    """Returns the largest number of tiles that `find_copies` searches for."""
    return fakes + reals + len(PLANTED) * planted


def _pairs(fakes: TileSet, training: TileSet, matches: list[Match], limit: float) -> tuple[Pair, ...]:
    found = []
    for place, match in enumerate(matches):
        if match.place >= 0:
            names, where = (fakes.ids[place], training.ids[match.place]), (match.symmetry, match.position)
            flagged = match.similarity > limit
            found.append(Pair(*names, place, match.place, match.similarity, *where, flagged))
    return tuple(sorted(found, key=lambda pair: -pair.similarity))


def _similarities(matches: list[Match]) -> Floats:
    return np.array([match.similarity for match in matches if match.place >= 0], np.float64)


def _feature_ratio(fakes: Floats, reals: Floats, training: Floats) -> float:
    near = [np.median(cdist(side, training).min(1)) for side in (fakes, reals)]
    return float(near[0] / near[1]) if near[1] > 0 else nan


def _share_above(values: Floats, limit: float) -> float:
    return float((values > limit).mean()) if len(values) else nan


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else nan


def _crops(training: TileSet, shape: tuple[int, int], settings: Settings) -> list[Pixels]:
    """Draws random crops of the training tiles that have edges, in random symmetries."""
    crops, factor, rng = [], reduction(shape, settings.copy_px), generator(settings.seed, "planted")
    for _ in range(_TRIES * settings.planted):
        crop = _random_crop(training, shape, rng)
        if not is_blank(edges_of(crop[None], training.scheme, factor))[0]:
            crops.append(crop)
        if len(crops) == settings.planted:
            break
    return crops


def _random_crop(training: TileSet, shape: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Draws a crop at any place in one of the eight symmetries; on its side only if the training tiles have room."""
    height, width = training.shape
    on_side = shape[1] <= height and shape[0] <= width and rng.random() < 0.5
    h, w = (shape[1], shape[0]) if on_side else shape
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop: Pixels = training.pixels[int(rng.integers(len(training))), y : y + h, x : x + w]
    return turned(crop, list(SYMMETRIES)[int(rng.integers(UPRIGHT)) + (UPRIGHT if on_side else 0)])


def _noisy(crop: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Replaces one pixel in twenty by another class, in images by a pixel of another crop."""
    wrong = rng.random(crop.shape[:2]) < _NOISE
    count = np.count_nonzero(wrong)
    noisy = crop.copy()
    if crop.ndim == 3:
        noisy[wrong] = rng.permutation(other.reshape(-1, 3))[:count]
        return noisy
    classes = np.union1d(crop, other)
    moved = np.searchsorted(classes, crop[wrong]) + rng.integers(1, max(2, len(classes)), count)
    noisy[wrong] = classes[moved % len(classes)]
    return noisy


def _moved(crop: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Moves the crop by up to an eighth of each side; another crop fills the gap."""
    height, width = crop.shape[:2]
    y, x = (int(rng.integers(-int(side * _PAST), int(side * _PAST) + 1)) for side in (height, width))
    moved = other.copy()
    into = slice(max(0, y), min(height, height + y)), slice(max(0, x), min(width, width + x))
    out_of = slice(max(0, -y), min(height, height - y)), slice(max(0, -x), min(width, width - x))
    moved[into] = crop[out_of]
    return moved


_SQUARE = np.ones((3, 3), np.uint8)

PLANTED: dict[str, Callable[[Pixels, Pixels, np.random.Generator], Pixels]] = {
    "exact": lambda crop, other, rng: crop,
    "noisy": _noisy,
    # Higher classes, or brighter colours, lose or gain a pixel all round.
    "eroded": lambda crop, other, rng: cv2.erode(crop, _SQUARE),
    "dilated": lambda crop, other, rng: cv2.dilate(crop, _SQUARE),
    # Boundaries are smoothed by a median over about a hundredth of the longer side.
    "redrawn": lambda crop, other, rng: cv2.medianBlur(crop, 2 * max(1, max(crop.shape[:2]) // 200) + 1),
    "moved": _moved,
}
"""Kinds of planted copies: functions of a random crop in a random symmetry, another crop, and a generator."""
