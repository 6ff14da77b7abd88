"""Patches of a slide that may be copied with their labels, and what each of them holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, Bank
from factory.renderers.exemplar.quilting import Places
from manifests.labels import IGNORE

_MUCH = 0.3
"""Share of a class from which a patch counts as holding much of it."""
_MOST_FILLED, _ENOUGH = 0.35, 300
"""Largest filled share of a patch of the ground, where a slide has enough patches with less."""
_NONE = np.zeros((2, 1), np.int64)
"""Single pixels of each kind: never taken, as every pixel comes along as it is."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of one slide without ignored pixels.

    Attributes:
        places: as `factory.renderers.exemplar.quilting.quilt` takes them.
        shares: float32 [n, classes], share of each class in each patch.
    """

    places: Places
    shares: npt.NDArray[np.float32]


@lru_cache(maxsize=64)
def patches_of(bank: Bank, slide: int, patch: int) -> Patches:
    """List the patches of a slide, of a side in pixels, that hold no ignored pixel, on whole blocks."""
    classes = len(bank.scheme)
    rows, shares, filled = [], [], []
    for first, height, width, owner, first_block in bank.pages.tolist():
        down, across = height // BLOCK, width // BLOCK
        if owner != slide or min(height, width) < patch:
            continue
        page = bank.semantic[first : first + height * width].reshape(height, width)
        planes = np.stack([_sums(page == label, patch) for label in [*range(classes), IGNORE]], axis=-1)
        blocks = bank.blocks[first_block : first_block + down * across, 0].reshape(down, across)
        unknown = _sums(np.repeat(np.repeat(blocks, BLOCK, 0), BLOCK, 1), patch).ravel() / 255.0
        y, x = np.mgrid[0 : height - patch + 1 : BLOCK, 0 : width - patch + 1 : BLOCK].reshape(2, -1)
        columns = (np.full_like(y, first), np.full_like(y, width), y, x, np.full_like(y, first_block))
        kept = planes[..., -1].ravel() == 0
        rows.append(np.stack([*columns, np.full_like(y, across)], axis=1)[kept])
        shares.append((planes[..., :-1].reshape(-1, classes) / patch**2)[kept])
        filled.append((unknown / patch**2)[kept])
    if not rows or not sum(map(len, rows)):
        return Patches(
            Places(np.zeros((0, 6), np.int64), np.zeros(0, np.int64), _NONE, ()), np.zeros((0, classes), np.float32)
        )
    share, unknown = np.concatenate(shares), np.concatenate(filled)
    keep = np.ones(len(unknown), np.bool_)
    if bank.has_nuclei and bank.scheme.ids("nucleus"):  # patches are of the ground
        keep = unknown <= max(_MOST_FILLED, np.sort(unknown)[min(_ENOUGH, len(unknown) - 1)])
    share = share[keep]
    table = np.ascontiguousarray(np.concatenate(rows)[keep].astype(np.int64))
    holding = tuple(np.flatnonzero(column > _MUCH) for column in share.T)
    return Patches(Places(table, np.ones(len(table), np.int64), _NONE, holding), share.astype(np.float32))


def _sums(plane: npt.NDArray[np.generic], patch: int) -> npt.NDArray[np.float64]:
    """Sums over all patches of a page: float64 [rows, columns]."""
    total = cv2.integral(plane.astype(np.uint8)).astype(np.float64)
    sums = total[patch:, patch:] - total[:-patch, patch:] - total[patch:, :-patch] + total[:-patch, :-patch]
    return np.asarray(sums[::BLOCK, ::BLOCK])
