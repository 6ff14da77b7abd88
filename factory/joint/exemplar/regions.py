"""Tiles of regions: patches that fit a drawn layout, whose labels come along with their pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, Bank
from factory.core.compiled import compiled
from factory.joint.exemplar.exchange import Copy, exchange
from factory.joint.exemplar.patches import patches_of
from factory.joint.exemplar.targets import Targets
from factory.renderers.exemplar.layout import Classes, guides_of
from factory.renderers.exemplar.quilting import Grid, quilt
from manifests.labels import IGNORE

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

_TURNS = 6
"""How often patches are exchanged and slivers cleared in turn."""
_SLIVER_UM2 = 4.0
"""Area below which a piece of a nucleus is a sliver: half of the smallest nucleus."""


def copy_regions(
    bank: Bank, slide: int, layout: Bytes, grid: Grid, targets: Targets, mpp: float, rng: np.random.Generator
) -> Copy | None:
    """Quilt a tile like a layout out of one slide, and exchange patches until it is as asked.

    Args:
        bank: of tissue. slide: number of the slide. layout: uint8 [H, W], a drawn mask. grid: of patches.
        targets: to meet. mpp: of the tile. rng: of the tile.

    Returns:
        The tile; None where the targets are not met.
    """
    patches = patches_of(bank, slide, grid.patch)
    own = np.arange(256, dtype=np.uint8)
    classes = Classes(own, own, len(bank.scheme), None, ())
    down, across = (int(k) * BLOCK for k in rng.integers(0, grid.step // BLOCK, 2))
    guides = guides_of(
        layout, np.zeros(layout.shape, np.int32), None, classes, bank, mpp, grid, (down, across), slide, rng
    )
    nothing = np.zeros(layout.shape, np.uint8)
    image, origin = quilt(
        bank.image, bank.semantic, np.zeros(256, np.uint8), patches.places, guides, nothing, grid, (down, across), rng,
        bank.nucleus if bank.has_nuclei else None,
    )  # fmt: skip
    copy = Copy(image, bank.semantic[origin], origin)
    for _ in range(_TURNS):
        if not exchange(copy, layout, bank, patches, grid.patch, targets, rng):
            return None
        if not _clear_slivers(copy, bank, mpp):
            return copy
    return copy if exchange(copy, layout, bank, patches, grid.patch, targets, rng) else None


def instances_of(bank: Bank, origin: Longs) -> npt.NDArray[np.int32]:
    """Number the pieces of labelled nuclei that were copied: int32 [H, W], 0 = none.

    Two neighbours belong together where they are of one nucleus and were neighbours there too.

    Args:
        bank: of tissue. origin: int64 [H, W], pixels of the bank.
    """
    if not _labelled(bank).any():
        return np.zeros(origin.shape, np.int32)
    return np.asarray(_pieces(*_places(bank, origin)))


@lru_cache(maxsize=4)
def _labelled(bank: Bank) -> npt.NDArray[np.bool_]:
    """Whether the nuclei of each page are labelled ones, and not found: bool [pages]."""
    found = bank.card.fields.get("nuclei_found", [])
    none = bank.ground is bank.image
    return np.array([not none and page not in found for page in range(len(bank.pages))])


def _places(bank: Bank, origin: Longs) -> tuple[Longs, Longs, Longs, Longs]:
    """Labelled nucleus (0 = none), page, row and column of pixels of a bank, int64 [H, W] each."""
    page = np.searchsorted(bank.pages[:, 0], origin, side="right") - 1
    row, column = np.divmod(origin - bank.pages[page, 0], bank.pages[page, 2])
    return np.where(_labelled(bank)[page], bank.nucleus[origin], 0).astype(np.int64), page, row, column


def _clear_slivers(copy: Copy, bank: Bank, mpp: float) -> bool:
    """Move cuts that leave a sliver of a nucleus, in place; whether any was moved.

    The patch beside a sliver goes on where the sliver was, image and labels.
    """
    if not _labelled(bank).any():
        return False
    number, page, row, column = _places(bank, copy.origin)
    pieces = _pieces(number, page, row, column)
    small = np.bincount(pieces.ravel()) * mpp * mpp < _SLIVER_UM2
    small[0] = False
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):  # the border of a tile cuts what it cuts
        small[edge] = False
    changed = _extend(
        copy.image, copy.semantic, copy.origin, small[pieces], page, row, column, bank.pages, bank.image,
        bank.semantic, bank.nucleus,
    )  # fmt: skip
    return bool(changed)


@compiled()
def _extend(  # type: ignore[no-untyped-def]
    image, semantic, origin, slivers, page, row, column, pages, pixels, labels, nucleus
):
    """Continue the patches beside slivers into them, the colours that differ least first; the pixels that changed."""
    height, width = slivers.shape
    total, changed = 0, 1
    while changed > 0:
        changed = 0
        for y in range(height):
            for x in range(width):
                if not slivers[y, x]:
                    continue
                best, best_p, best_v, best_u = np.int64(1) << 62, np.int64(-1), np.int64(0), np.int64(0)
                best_page = np.int64(0)
                for step in range(4):
                    dy, dx = (step == 1) - (step == 0), (step == 3) - (step == 2)
                    y2, x2 = y + 2 * dy, x + 2 * dx
                    if y2 < 0 or x2 < 0 or y2 >= height or x2 >= width or slivers[y + dy, x + dx]:
                        continue
                    k = page[y + dy, x + dx]
                    v, u = row[y + dy, x + dx], column[y + dy, x + dx]
                    if page[y2, x2] != k or abs(v - row[y2, x2]) + abs(u - column[y2, x2]) != 1:
                        continue
                    v, u = 2 * v - row[y2, x2], 2 * u - column[y2, x2]
                    if v < 0 or u < 0 or v >= pages[k, 1] or u >= pages[k, 2]:
                        continue
                    p = pages[k, 0] + v * pages[k, 2] + u
                    if labels[p] == IGNORE or (nucleus[p] != 0 and nucleus[p] != nucleus[origin[y + dy, x + dx]]):
                        continue
                    cost = np.int64(0)
                    for channel in range(3):
                        d = np.int64(image[y, x, channel]) - np.int64(pixels[p, channel])
                        cost += d * d
                    if cost < best:
                        best, best_p, best_v, best_u, best_page = cost, p, v, u, k
                if best_p < 0:
                    continue
                changed += 1
                slivers[y, x] = False
                origin[y, x], semantic[y, x] = best_p, labels[best_p]
                page[y, x], row[y, x], column[y, x] = best_page, best_v, best_u
                for channel in range(3):
                    image[y, x, channel] = pixels[best_p, channel]
        total += changed
    return total


@compiled()
def _pieces(number, page, row, column):  # type: ignore[no-untyped-def]
    height, width = number.shape
    found = np.zeros((height, width), np.int32)
    stack = np.empty((height * width, 2), np.int32)
    count = 0
    for y0 in range(height):
        for x0 in range(width):
            if number[y0, x0] == 0 or found[y0, x0] > 0:
                continue
            count += 1
            found[y0, x0] = count
            stack[0, 0], stack[0, 1] = y0, x0
            size = 1
            while size > 0:
                size -= 1
                y, x = stack[size, 0], stack[size, 1]
                for step in range(4):
                    v, u = y + (step == 1) - (step == 0), x + (step == 3) - (step == 2)
                    if v < 0 or u < 0 or v >= height or u >= width or found[v, u] > 0:
                        continue
                    if number[v, u] != number[y, x] or page[v, u] != page[y, x]:
                        continue
                    if abs(row[v, u] - row[y, x]) + abs(column[v, u] - column[y, x]) > 2:
                        continue
                    found[v, u] = count
                    stack[size, 0], stack[size, 1] = v, u
                    size += 1
    return found
