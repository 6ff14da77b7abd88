"""Features of coarse maps for clustering: the layout of their large parts, up to mirror images, and statistics."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from factory.masks.coarse.morphology import LabelMap, class_order
from manifests.labels import LabelScheme

Features = npt.NDArray[np.float64]

_GRID = (16, 32)
_WAVES = 6
_COARSE_SHARES = (1 / 16, 1 / 6)
STATISTICS = ("area", "perimeter", "parts", "holes", "direction", "thick", "thicker", "open", "more open")
"""Names of the statistics of a set of pixels; see `statistics`."""


@dataclass(frozen=True)
class Parts:
    """Parts of a set of pixels: their number, and that of the holes in it."""

    parts: int
    holes: int


def features(coarse: LabelMap, scheme: LabelScheme) -> Features:
    """Features of a coarse map, the same for its mirror images: float64 [F].

    One block for every set {rank in `class_order` >= r}, r = 1.., for two classes just the second: `layout`, then
    `statistics`.
    """
    rank = np.zeros(256, np.uint8)
    rank[list(class_order(scheme))] = np.arange(len(scheme))
    ranks = rank[coarse]
    blocks = []
    for threshold in range(1, len(scheme)):
        inside = (ranks >= threshold).astype(np.uint8)
        blocks += [layout(inside), statistics(inside)]
    return np.concatenate(blocks)


def weights(scheme: LabelScheme) -> Features:
    """Weights of standardised features, float64 [F]: layout and statistics count the same, whatever their lengths."""
    waves, numbers = _WAVES * _WAVES - 1, len(STATISTICS)
    block = np.concatenate([np.full(waves, waves**-0.5), np.full(numbers, numbers**-0.5)])
    return np.tile(block, len(scheme) - 1)


def layout(inside: LabelMap) -> Features:
    """Layout of a set: magnitudes of the 6 x 6 lowest frequencies of its share on a grid, no mean; float64 [35].

    A wave of the cosine transform is even or odd about the middle, so a mirror image only changes its sign.

    Args:
        inside: uint8 [H, W], 0 or 1.
    """
    shares = cv2.resize(inside.astype(np.float32), _GRID[::-1], interpolation=cv2.INTER_AREA)
    waves: Features = np.abs(cv2.dct(shares))[:_WAVES, :_WAVES].ravel().astype(np.float64)
    return waves[1:]


def statistics(inside: LabelMap) -> Features:
    """Numbers in the order of `STATISTICS`, float64 [9].

    Share of the pixels; logarithms of the perimeter (per pixel) and of the numbers of parts and holes; share of the
    perimeter that runs across minus that which runs down; shares of the set, and of what is left, that squares of a
    16th and a sixth of the shorter side fit into.

    Args:
        inside: uint8 [H, W], 0 or 1.
    """
    across = int(np.count_nonzero(inside[1:] != inside[:-1]))
    down = int(np.count_nonzero(inside[:, 1:] != inside[:, :-1]))
    counted = count_parts(inside)
    outside = 1 - inside
    wide = [_share_wider(side, share) for side in (inside, outside) for share in _COARSE_SHARES]
    edges = max(across + down, 1)
    return np.array(
        [
            inside.mean(),
            np.log((across + down + 1) / inside.size),
            np.log1p(counted.parts),
            np.log1p(counted.holes),
            (across - down) / edges,
            *wide,
        ]
    )


def count_parts(inside: LabelMap) -> Parts:
    """Parts that touch by sides or corners, and holes: parts of the rest, by sides, that reach no border."""
    parts = cv2.connectedComponents(inside, connectivity=8)[0] - 1
    number, outside = cv2.connectedComponents(1 - inside, connectivity=4)
    border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    return Parts(parts, int(number - 1 - np.count_nonzero(np.unique(border))))


def _share_wider(inside: LabelMap, share: float) -> float:
    """Share of a set that squares fit into, of a side of `share` of the map's shorter side; 0 for an empty set."""
    area = np.count_nonzero(inside)
    side = max(1, int(min(inside.shape) * share)) // 2 * 2 + 1  # odd: symmetric, so that mirror images agree
    opened = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return float(np.count_nonzero(opened) / area) if area else 0.0
