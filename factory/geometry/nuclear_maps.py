"""Maps of nuclei: depth of each pixel in its nucleus, skeletons, and contours (Enhanced Sharp-GAN, 2.2 and 2.3).

The paper draws nuclei from a skeleton map, the pixel-wise sum of a distance map (erosions counted from the contour,
normalised) and of topological skeletons, so that touching nuclei stay separate. Ids count: a pixel beside another
nucleus is contour, like one beside background.

The border of a tile is no contour, because a nucleus continues beyond it: with contours there a renderer would learn
to close nuclei at the border of every crop. A nucleus may therefore be deepest at the border. To close it, pad with
background: ``distance_map(np.pad(instance, 1))[1:-1, 1:-1]``. Skeletons are those of the visible part.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

Metric = Literal["chessboard", "cityblock"]
Instances = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint64]

_ALL, _BUT_LAST, _BUT_FIRST = slice(None), slice(None, -1), slice(1, None)
_STRAIGHT = (((_ALL, _BUT_LAST), (_ALL, _BUT_FIRST)), ((_BUT_LAST, _ALL), (_BUT_FIRST, _ALL)))
_DIAGONAL = (
    ((_BUT_LAST, _BUT_LAST), (_BUT_FIRST, _BUT_FIRST)),
    ((_BUT_LAST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST)),
)
"""Pairs of neighbours: east and south, southeast and southwest."""


def renumbered(instance: npt.NDArray[np.integer]) -> Instances:
    """Renumber nuclei as 1, 2, ... without gaps, in the order of their ids: int32 [H, W]."""
    if int(instance.max(initial=0)) > instance.size:  # sparse ids of foreign maps: do not let them size the table
        ids, labels = np.unique(instance, return_inverse=True)
        return (labels.reshape(instance.shape) + int(ids[0] != 0)).astype(np.int32)
    present = np.bincount(instance.ravel()) > 0
    present[0] = False
    table: Instances = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return table[instance]


def touching(labels: Instances) -> npt.NDArray[np.bool_]:
    """Find the nuclei that touch another one, by eight neighbours: bool [n] of labels int32 [H, W], 1..n."""
    found = np.zeros(int(labels.max(initial=0)) + 1, np.bool_)
    for one, other in (*_STRAIGHT, *_DIAGONAL):
        first, second = labels[one], labels[other]
        meet = (first != second) & (first > 0) & (second > 0)
        found[first[meet]] = True
        found[second[meet]] = True
    return found[1:]


def distance_map(instance: Instances, metric: Metric = "chessboard") -> npt.NDArray[np.float32]:
    """Number of the erosion that removes each pixel, as a share of those that remove its whole nucleus (2.2).

    The first erosion, by a 3x3 square (``chessboard``) or a cross (``cityblock``), removes the contour, the last the
    deepest pixels. The pixels of an id are one nucleus, whether or not they lie in one piece.

    Args:
        instance: int32 [H, W], 0 = background; ids may have gaps.
        metric: the distance.

    Returns:
        float32 [H, W]: 0 on background, in (0, 1] on nuclei, 1 where they are deepest. A tile of one nucleus, without
        any contour, is 1 all over.

    Raises:
        ValueError: for other arrays or metrics.
    """
    instance, lowest, highest = _checked(instance)
    contour = contour_of(instance, metric)
    if lowest == highest:
        return np.full(instance.shape, highest > 0, np.float32)
    labels = renumbered(instance) if highest > instance.size else instance
    # The nearest contour is of the pixel's own nucleus: another one's lies beyond it.
    kind = cv2.DIST_C if metric == "chessboard" else cv2.DIST_L1
    counts: npt.NDArray[np.float32] = cv2.distanceTransform((~contour).view(np.uint8), kind, cv2.DIST_MASK_3)
    _divide(labels.ravel(), counts.ravel(), np.zeros(int(labels.max()) + 1, np.float32))
    return counts


def skeleton_of(instance: Instances) -> npt.NDArray[np.bool_]:
    """Draw the topological skeleton of each nucleus, lines connected as the nucleus is: bool [H, W] (2.2).

    Thinning by Guo and Hall 1989 (algorithm A1) of all nuclei at once. The paper's skeleton, the points with several
    nearest points on the contour, is the medial axis; on pixels that depends on how ties are broken, and grows a
    branch into every corner of an outline. Thinning in parallel breaks no ties: a nucleus has the same skeleton
    wherever it lies and whatever lies beside it. That of Zhang and Suen 1984 wears slanted nuclei down and loses
    squares of 2x2; here every piece of a nucleus keeps one pixel at least.
    """
    instance = _checked(instance)[0]
    height, width = instance.shape
    alive = _packed(instance > 0, height, width)
    joined = [_packed(instance[one] == instance[other], height, width) for one, other in (*_STRAIGHT, *_DIAGONAL)]
    _thin(alive, *joined, _words(width))
    octets = alive[:-2].view(np.uint8).reshape(height + 2, -1)[1:-1, 8:]
    return np.unpackbits(octets, axis=1, count=width, bitorder="little").view(np.bool_)


def skeleton_map(instance: Instances, metric: Metric = "chessboard") -> npt.NDArray[np.float32]:
    """Draw the distance map, and 1 more on the skeletons (2.2): float32 [H, W] in 0 to 2."""
    relief = distance_map(instance, metric)
    relief += skeleton_of(instance)
    return relief


def contour_of(instance: Instances, metric: Metric = "chessboard") -> npt.NDArray[np.bool_]:
    """Find contours, the pixels of nuclei that the first erosion removes (2.3): bool [H, W].

    ``chessboard`` compares eight neighbours; ``cityblock`` four, which gives thinner lines.
    """
    instance = _checked(instance)[0]
    _check_metric(metric)
    contour = np.zeros(instance.shape, np.bool_)
    for one, other in _STRAIGHT + (_DIAGONAL if metric == "chessboard" else ()):
        differ = instance[one] != instance[other]
        contour[one] |= differ
        contour[other] |= differ
    contour &= instance > 0
    return contour


def _checked(instance: Instances) -> tuple[Instances, int, int]:
    """The map in C order, its lowest and its highest id; 0 and 0 where there is no pixel."""
    if instance.dtype != np.int32 or instance.ndim != 2:
        raise ValueError(f"instance: expected int32 [H, W], got {instance.dtype} {instance.shape}")
    lowest, highest = (int(instance.min()), int(instance.max())) if instance.size else (0, 0)
    if lowest < 0:
        raise ValueError(f"instance: expected ids from 0, got {lowest}")
    return np.ascontiguousarray(instance), lowest, highest


def _check_metric(metric: str) -> None:
    if metric not in ("chessboard", "cityblock"):
        raise ValueError(f"metric: expected chessboard or cityblock, got {metric}")


@compiled()
def _divide(ids: Instances, counts: npt.NDArray[np.float32], largest: npt.NDArray[np.float32]) -> None:
    """Add 1 to the counts and divide by the largest of their id, in place; 0 on background. All are flat."""
    one = np.float32(1)
    for place in range(ids.size):
        largest[ids[place]] = max(largest[ids[place]], counts[place] + one)
    for place in range(ids.size):
        counts[place] = (counts[place] + one) / largest[ids[place]] if ids[place] else np.float32(0)


def _words(width: int) -> int:
    """Words of 64 pixels in a row of `_packed`, the empty one included."""
    return -(-width // 64) + 1


def _packed(plane: npt.NDArray[np.bool_], height: int, width: int) -> Bits:
    """Pack a plane in bits, 64 pixels a word, the first lowest: uint64 [(height + 2) * _words(width) + 2]."""
    # An empty word before each row, an empty row above and below, and two words at the end: `_thin` has no borders.
    octets = np.zeros((height + 2) * _words(width) * 8 + 16, np.uint8)
    rows = octets[:-16].reshape(height + 2, -1)
    rows[1 : len(plane) + 1, 8 : 8 + -(-plane.shape[1] // 8)] = np.packbits(plane, axis=1, bitorder="little")
    return octets.view(np.uint64)


@compiled()
def _thin(alive: Bits, east: Bits, south: Bits, southeast: Bits, southwest: Bits, words: int) -> None:
    """Thin planes of `_packed` with so many `words` a row in place, until a round of both passes removes nothing."""
    # `alive`: pixels of nuclei. `east`, `south`, `southeast`: whether a pixel has the id of the next one there.
    # `southwest`: whether the pixel to its east has the id of the pixel to its south.
    size = alive.size - 2 * words - 2
    north_alive, row_alive, south_alive = alive, alive[words:], alive[2 * words :]
    row_east, row_south, row_southeast, row_southwest = (
        east[words:],
        south[words:],
        southeast[words:],
        southwest[words:],
    )
    gone = np.zeros(size, np.uint64)
    went = np.uint64(1)
    while went:
        went = np.uint64(0)
        for turn in range(2):
            # Word i + 1 of a view is the one that is thinned; i and i + 2 lie to its west and east.
            for i in range(size):
                here, north, below = row_alive[i + 1], north_alive[i + 1], south_alive[i + 1]
                p2 = north & south[i + 1]
                p3 = _westward(north, north_alive[i + 2]) & southwest[i + 1]
                p4 = _westward(here, row_alive[i + 2]) & row_east[i + 1]
                p5 = _westward(below, south_alive[i + 2]) & row_southeast[i + 1]
                p6 = below & row_south[i + 1]
                p7 = _eastward(below & row_southwest[i + 1], south_alive[i] & row_southwest[i])
                p8 = _eastward(here & row_east[i + 1], row_alive[i] & row_east[i])
                p9 = _eastward(north & southeast[i + 1], north_alive[i] & southeast[i])
                gone[i] = here & _removable(p2, p3, p4, p5, p6, p7, p8, p9, turn)
            for i in range(size):
                row_alive[i + 1] &= ~gone[i]
                went |= gone[i]


@compiled()
def _westward(word: np.uint64, east: np.uint64) -> np.uint64:
    """Every pixel moved one to the west, where it meets the pixel that it is the eastern neighbour of."""
    return word >> np.uint64(1) | east << np.uint64(63)


@compiled()
def _eastward(word: np.uint64, west: np.uint64) -> np.uint64:
    """Every pixel moved one to the east."""
    return word << np.uint64(1) | west >> np.uint64(63)


@compiled()
def _removable(p2, p3, p4, p5, p6, p7, p8, p9, turn):  # type: ignore[no-untyped-def]
    """Which pixels go in a pass: Guo and Hall 1989, A1, with neighbours named as there, clockwise from the north."""
    # (a) C(P) = 1: as one walks round the pixel, there is one run of neighbours.
    c1, c2, c3, c4 = ~p2 & (p3 | p4), ~p4 & (p5 | p6), ~p6 & (p7 | p8), ~p8 & (p9 | p2)
    one_run = (c1 ^ c2 ^ c3 ^ c4) & ~(c1 & c2 | c3 & c4)
    # (b) 2 <= min(N1, N2) <= 3: neighbours in pairs, counted in both ways.
    a1, a2, a3, a4 = p9 | p2, p3 | p4, p5 | p6, p7 | p8
    b1, b2, b3, b4 = p2 | p3, p4 | p5, p6 | p7, p8 | p9
    two = (a1 & a2 | a3 & a4 | (a1 | a2) & (a3 | a4)) & (b1 & b2 | b3 & b4 | (b1 | b2) & (b3 | b4))
    four = a1 & a2 & a3 & a4 & b1 & b2 & b3 & b4
    # (c) The first pass takes from the north and east, the second from the south and west.
    spared = (p2 | p3 | ~p5) & p4 if turn == 0 else (p6 | p7 | ~p9) & p8
    return one_run & two & ~four & ~spared
