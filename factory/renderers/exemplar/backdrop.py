"""A real window of the slide as the backdrop of a tile: what the layout leaves open is laid like it.

A layout says where nuclei or regions are, and nothing of fibres, lumina and the bands between them. Patches chosen for
the layout and their neighbours alone give all of that at random: fibres in every direction, torn holes. So a window of
a page that is like the layout is drawn, turned, and patches are chosen for its colours and fibres too.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, Bank

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

_WINDOWS = 64
"""Windows that are compared with a layout."""


def draw_backdrop(
    bank: Bank, slide: int, wanted: list[Bytes], there: list[Bytes], weights: list[int], rng: np.random.Generator
) -> tuple[Longs, int]:
    """Draw the window of a slide that is most like a layout.

    Args:
        bank: of tissue. slide: number of the slide. wanted: uint8 [h, w] each, what the blocks of the layout ask for.
        there: uint8 [B] each, what those of the bank have. weights: of these. rng: of the tile.

    Returns:
        int64 [h, w], block of the bank at each block of the layout (mirrored where pages are smaller), and how the
        window is turned (as patches are, see `quilting`).
    """
    rows, columns = wanted[0].shape
    pages = bank.pages[bank.pages[:, 3] == slide]
    best, best_cost, best_turn = np.zeros((0, 0), np.int64), np.inf, 0
    for draw in rng.random((_WINDOWS, 4)):
        _, height, width, _, first = pages[int(draw[0] * len(pages))].tolist()
        turn, size = int(draw[1] * 8), (height // BLOCK, width // BLOCK)
        h, w = (min(a, b) for a, b in zip(size, (columns, rows) if turn & 4 else (rows, columns), strict=True))
        y, x = int(draw[2] * (size[0] - h + 1)), int(draw[3] * (size[1] - w + 1))
        blocks = first + (y + np.arange(h))[:, None] * size[1] + x + np.arange(w)
        blocks = blocks[::-1] if turn & 1 else blocks
        blocks = blocks[:, ::-1] if turn & 2 else blocks
        blocks = blocks.T if turn & 4 else blocks
        blocks = np.pad(blocks, ((0, rows - blocks.shape[0]), (0, columns - blocks.shape[1])), mode="symmetric")
        cost = 0.0
        for each, own, weight in zip(wanted, there, weights, strict=True):
            cost += weight * float(np.square(own[blocks].astype(np.float32) - each).mean())
        if cost < best_cost:
            best, best_cost, best_turn = blocks, cost, turn
    return best, best_turn


def fibres_of(bank: Bank, blocks: Longs, turn: int) -> tuple[Bytes, Bytes]:
    """Cosine and sine of the fibres of a window as it is turned, uint8 [h, w] each, 128 = none."""
    cosine, sine = bank.blocks[:, 2][blocks].astype(np.int64), bank.blocks[:, 3][blocks].astype(np.int64)
    if turn & 4:
        cosine = 256 - cosine
    if bool(turn & 1) != bool(turn & 2):
        sine = 256 - sine
    return np.minimum(cosine, 255).astype(np.uint8), np.minimum(sine, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def colours_of_blocks(bank: Bank, filled: bool) -> Bytes:
    """Mean colour of each block, uint8 [B, 3], of the ground (`filled`) or of the tissue as it is."""
    found = []
    for number in range(len(bank.pages)):
        pixels, (height, width) = bank.page(number)
        page = (bank.ground if filled else bank.image)[pixels].reshape(height, width, 3)
        found.append(cv2.resize(page, (width // BLOCK, height // BLOCK), interpolation=cv2.INTER_AREA).reshape(-1, 3))
    return np.concatenate(found)
