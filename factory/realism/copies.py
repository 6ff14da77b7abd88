"""Which fakes are copies of training tiles, by a limit that held-out real tiles set and planted copies test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from factory.realism.similarity import SYMMETRIES, Match, closest, edges_of, is_blank
from factory.realism.tiles import TileSet, generator

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_SHIFT = 1 / 8  # largest shift of a planted copy, of each side
_NOISE = 0.01  # pixels that a planted noisy copy has wrong


@dataclass(frozen=True)
class Pair:
    """A fake and the training tile nearest to it.

    Attributes:
        fake, training: sample ids. fake_place, training_place: their places in the sets.
        similarity, symmetry, shift: as in `Match`. flagged: above the limit.
    """

    fake: str
    training: str
    fake_place: int
    training_place: int
    similarity: float
    symmetry: str
    shift: tuple[float, float]
    flagged: bool


@dataclass(frozen=True)
class CopyFigures:
    """The search for copies.

    Attributes:
        training_tiles: searched. limit: similarity above which a tile counts as a copy.
        quantile: of held-out real tiles below the limit. real_share: of held-out real tiles above it.
        fakes: with edges, so that they could be copies. blank_fakes: without. share: of the former above the limit.
        real_median, fake_median: similarity to the nearest training tile; equal where fakes are as new as real tiles.
        recall: of all planted copies. recall_by_kind: kind -> recall. planted: copies of each kind.
        feature_ratio: median distance from a fake to the nearest training tile in feature space, over that of a
            held-out real tile; far below 1 for fakes that hug the training tiles. None without features.
        pairs: every fake with edges, the most similar first.
    """

    training_tiles: int
    limit: float
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
        """The pairs above the limit."""
        return tuple(pair for pair in self.pairs if pair.flagged)


@dataclass(frozen=True)
class FeatureSets:
    """Features of the same tiles: float64 [n, d] each."""

    fakes: Floats
    reals: Floats
    training: Floats


def find_copies(
    fakes: TileSet,
    reals: TileSet,
    training: TileSet,
    *,
    longest_px: int,
    quantile: float,
    planted: int,
    seed: int,
    features: FeatureSets | None = None,
    on_tile: Callable[[], None] = lambda: None,
) -> CopyFigures:
    """Search every fake among the training tiles.

    The limit is the `quantile` of the similarity that held-out real tiles have to their nearest training tile: real
    tiles of other patients cannot be copies, so what they reach is chance. Then known copies of training tiles are
    planted and searched in the same way.

    Args:
        fakes, reals, training: of one size and scheme; no real tile is of a training group.
        longest_px: longer side of the pictures compared. quantile: see above. planted: copies of each kind.
        seed: of the planted copies. features: of the same tiles. on_tile: called after each tile searched;
            `searches` says how often.
    """
    edges = edges_of(training, longest_px)
    real_matches = closest(edges_of(reals, longest_px), edges, on_tile)
    fake_matches = closest(edges_of(fakes, longest_px), edges, on_tile)
    real_values, fake_values = (_similarities(matches) for matches in (real_matches, fake_matches))
    limit = float(np.quantile(real_values, quantile)) if len(real_values) else 1.0
    recalls, count = _recalls(training, edges, limit, longest_px, planted, seed, on_tile)
    pairs = _pairs(fakes, training, fake_matches, limit)
    return CopyFigures(
        training_tiles=len(training),
        limit=limit,
        quantile=quantile,
        real_share=float((real_values > limit).mean()) if len(real_values) else float("nan"),
        fakes=len(fake_values),
        blank_fakes=len(fakes) - len(fake_values),
        share=float((fake_values > limit).mean()) if len(fake_values) else float("nan"),
        real_median=float(np.median(real_values)) if len(real_values) else float("nan"),
        fake_median=float(np.median(fake_values)) if len(fake_values) else float("nan"),
        recall=float(np.mean(list(recalls.values()))) if recalls else float("nan"),
        recall_by_kind=recalls,
        planted=count,
        feature_ratio=_feature_ratio(features) if features is not None else None,
        pairs=pairs,
    )


def searches(fakes: int, reals: int, training: int, planted: int) -> int:
    """Tiles that `find_copies` searches for, at most."""
    return fakes + reals + len(PLANTED) * min(planted, training)


def _pairs(fakes: TileSet, training: TileSet, matches: list[Match], limit: float) -> tuple[Pair, ...]:
    found = [
        Pair(
            fakes.ids[place],
            training.ids[match.place],
            place,
            match.place,
            match.similarity,
            match.symmetry,
            match.shift,
            match.similarity > limit,
        )
        for place, match in enumerate(matches)
        if match.place >= 0
    ]
    return tuple(sorted(found, key=lambda pair: -pair.similarity))


def _similarities(matches: list[Match]) -> Floats:
    return np.array([match.similarity for match in matches if match.place >= 0], np.float64)


def _feature_ratio(features: FeatureSets) -> float:
    near = [np.median(cdist(side, features.training).min(1)) for side in (features.fakes, features.reals)]
    return float(near[0] / near[1]) if near[1] > 0 else float("nan")


def _recalls(
    training: TileSet,
    edges: npt.NDArray[np.float32],
    limit: float,
    longest_px: int,
    planted: int,
    seed: int,
    on_tile: Callable[[], None],
) -> tuple[dict[str, float], int]:
    """Share of planted copies above the limit, by kind, and how many of each there were.

    Which training tile they match is not asked: tiles that overlap hold the same tissue, and either is its source.
    """
    rng = generator(seed, "planted")
    sources = rng.permutation(np.flatnonzero(~is_blank(edges)))[:planted]
    recalls = {}
    for kind, plant in PLANTED.items():
        if not len(sources):
            break
        copies = np.stack(
            [plant(training.pixels[source], _other(training.pixels, source, rng), rng) for source in sources]
        )
        matches = closest(edges_of(training.take(sources).with_pixels(copies), longest_px), edges, on_tile)
        recalls[kind] = float(np.mean([match.similarity > limit for match in matches]))
    return recalls, len(sources)


def _other(pixels: Pixels, source: int, rng: np.random.Generator) -> Pixels:
    """Another tile, to fill with what a shifted crop does not know."""
    other: Pixels = pixels[(source + rng.integers(1, max(2, len(pixels)))) % len(pixels)]
    return other


def _exact(tile: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    del other, rng
    return tile


def _flipped(tile: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """One of the tile's symmetries but the first; the colours of images move along."""
    del other
    names = list(SYMMETRIES)[1 : 8 if tile.shape[0] == tile.shape[1] else 4]
    turn = SYMMETRIES[names[rng.integers(len(names))]]
    moved = np.moveaxis(tile, 2, 0) if tile.ndim == 3 else tile
    turned = np.ascontiguousarray(turn(moved))
    return np.moveaxis(turned, 0, 2) if tile.ndim == 3 else turned


def _shifted(tile: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Moved by up to an eighth of each side; what comes in is the tile mirrored."""
    del other
    top, left = (int(np.ceil(side * _SHIFT)) for side in tile.shape[:2])
    margins = ((top, top), (left, left), (0, 0))[: tile.ndim]
    wide = np.pad(tile, margins, mode="reflect")
    y, x = rng.integers(0, 2 * top + 1), rng.integers(0, 2 * left + 1)
    moved: Pixels = wide[y : y + tile.shape[0], x : x + tile.shape[1]]
    return moved


def _noisy(tile: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """One pixel in a hundred from another tile or of another class."""
    wrong = rng.random(tile.shape[:2]) < _NOISE
    noisy = tile.copy()
    noisy[wrong] = rng.permutation(other.reshape(-1, *tile.shape[2:]))[: np.count_nonzero(wrong)]
    return noisy


def _redrawn(tile: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Its boundary drawn anew: a median over about a hundredth of the longer side."""
    del other, rng
    blurred: Pixels = cv2.medianBlur(np.ascontiguousarray(tile), 2 * max(1, max(tile.shape[:2]) // 200) + 1)
    return blurred


def _recropped(tile: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Another crop of the same place: moved by up to an eighth, what comes in is from another tile."""
    height, width = tile.shape[:2]
    y, x = (int(rng.integers(-int(side * _SHIFT), int(side * _SHIFT) + 1)) for side in (height, width))
    moved = other.copy()
    into = slice(max(0, y), min(height, height + y)), slice(max(0, x), min(width, width + x))
    out_of = slice(max(0, -y), min(height, height - y)), slice(max(0, -x), min(width, width - x))
    moved[into] = tile[out_of]
    return moved


PLANTED: dict[str, Callable[[Pixels, Pixels, np.random.Generator], Pixels]] = {
    "exact": _exact,
    "flipped": _flipped,
    "shifted": _shifted,
    "noisy": _noisy,
    "redrawn": _redrawn,
    "recropped": _recropped,
}
"""Kinds of planted copies."""
