"""How tiles use a bank: the largest piece that a tile took from one place, and how often places and slides are used.

Copies are the method of tiles made from a bank, so a search for copies says nothing of them. What says something is how
much of a tile lies together in the bank too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.bank.bank import Bank
from factory.core.compiled import compiled

PLACE_PX = 48
"""Side of the places of a page, in pixels; those at its lower and right border take in the rest."""
_USED = 0.25
"""Share of the pixels of a place from which a tile counts as using it."""
_TURNS = np.array(
    [
        [1, 0, 0, 1], [1, 0, 0, -1], [-1, 0, 0, 1], [-1, 0, 0, -1],
        [0, 1, 1, 0], [0, 1, -1, 0], [0, -1, 1, 0], [0, -1, -1, 0],
    ],
    np.int64,
)  # fmt: skip
"""The eight turns and mirrors: rows on the page for a step down and across the tile, then columns for the same."""

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """The largest piece of a tile that lies together in the bank too.

    Its pixels are connected by their sides, and one turn or mirror moves all of them onto their pixels of one page.

    Attributes:
        tile: its id. pixels: of the piece. share: of the tile. slide: that it is from. page: number of the image in
            the bank. box: where it lies there: first row and column, last row and column.
    """

    tile: str
    pixels: int
    share: float
    slide: str
    page: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Place:
    """A place of a bank and how many tiles show at least a quarter of its pixels.

    Attributes:
        slide: that it is from. page: number of the image in the bank. row, column: of its first pixel there.
        tiles: number of tiles.
    """

    slide: str
    page: int
    row: int
    column: int
    tiles: int


@dataclass(frozen=True)
class Usage:
    """How tiles use a bank.

    Attributes:
        pieces: the largest piece of each tile, the largest first. slides: share of all pixels of the tiles by slide,
            the most used first; slides that are not used have 0. place: used by most tiles.
        places: of the bank. places_used: by a tile or more.
    """

    pieces: tuple[Piece, ...]
    slides: Mapping[str, float]
    place: Place
    places: int
    places_used: int

    @property
    def largest(self) -> Piece:
        """The largest piece of all tiles."""
        return self.pieces[0]

    @property
    def median_px(self) -> float:
        """Median over tiles of the size of the largest piece, in pixels."""
        return float(np.median([piece.pixels for piece in self.pieces]))

    @property
    def median_share(self) -> float:
        """Median over tiles of the share that the largest piece takes."""
        return float(np.median([piece.share for piece in self.pieces]))

    @property
    def equal_to_real(self) -> tuple[str, ...]:
        """Ids of the tiles that are one crop of a real image, whatever happened to their colours."""
        return tuple(piece.tile for piece in self.pieces if piece.share == 1)


def measure_usage(bank: Bank, origins: Iterable[tuple[str, Longs]]) -> Usage:
    """Measure how tiles use a bank.

    Args:
        bank: that they were made from. origins: id of each tile, and the pixel of the bank that each of its pixels was
            taken from, int64 [H, W].

    Raises:
        ValueError: without tiles.
    """
    grid = _PlacesOfPages(bank)
    pixels_of_page = np.zeros(len(bank.pages), np.int64)
    tiles_of_place = np.zeros(grid.count, np.int64)
    pieces = []
    for tile, origin in origins:
        page, row, column = _on_pages(bank, origin)
        pieces.append(_piece(bank, tile, page, row, column))
        pixels_of_page += np.bincount(page.ravel(), minlength=len(bank.pages))
        tiles_of_place += grid.used(np.unique(origin))
    if not pieces:
        raise ValueError("origins: expected a tile or more, got none")
    of_slide = np.bincount(bank.pages[:, 3], pixels_of_page, len(bank.slides)) / pixels_of_page.sum()
    most_used = np.argsort(-of_slide, kind="stable")
    return Usage(
        tuple(sorted(pieces, key=lambda piece: (-piece.share, piece.tile))),
        {bank.slides[slide]: float(of_slide[slide]) for slide in most_used},
        grid.place(int(tiles_of_place.argmax()), int(tiles_of_place.max())),
        grid.count,
        int((tiles_of_place > 0).sum()),
    )


def _on_pages(bank: Bank, origin: Longs) -> tuple[Longs, Longs, Longs]:
    """Page, row and column of pixels of the bank."""
    page = np.searchsorted(bank.pages[:, 0], origin, side="right") - 1
    row, column = np.divmod(origin - bank.pages[page, 0], bank.pages[page, 2])
    return page, row, column


def _piece(bank: Bank, tile: str, page: Longs, row: Longs, column: Longs) -> Piece:
    size, owner, *box = (int(value) for value in _largest_piece(page, row, column, _TURNS))
    return Piece(
        tile, size, size / page.size, bank.slides[bank.pages[owner, 3]], owner, (box[0], box[1], box[2], box[3])
    )


class _PlacesOfPages:
    """Places of all pages, numbered page by page."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._down, self._across = np.maximum(bank.pages[:, 1:3] // PLACE_PX, 1).T
        self._first = np.concatenate([[0], np.cumsum(self._down * self._across)])
        self.count = int(self._first[-1])
        self._size = self._of(np.arange(len(bank.semantic)))

    def _of(self, pixels: Longs) -> Longs:
        """Number of pixels in each place."""
        page, row, column = _on_pages(self._bank, pixels)
        y, x = np.minimum(row // PLACE_PX, self._down[page] - 1), np.minimum(column // PLACE_PX, self._across[page] - 1)
        return np.bincount(self._first[page] + y * self._across[page] + x, minlength=self.count)

    def used(self, pixels: Longs) -> npt.NDArray[np.bool_]:
        """Whether pixels, each named once, are enough of each place."""
        return self._of(pixels) >= _USED * self._size

    def place(self, number: int, tiles: int) -> Place:
        """A place by its number."""
        page = int(np.searchsorted(self._first, number, side="right")) - 1
        y, x = divmod(number - int(self._first[page]), int(self._across[page]))
        return Place(self._bank.slides[self._bank.pages[page, 3]], page, y * PLACE_PX, x * PLACE_PX, tiles)


@compiled()
def _largest_piece(page: Longs, row: Longs, column: Longs, turns: Longs) -> npt.NDArray[np.int64]:
    """Size of the largest piece under any turn, its page and its box there: int64 [6]."""
    height, width = page.shape
    seen = np.zeros((height, width), np.int8)
    stack = np.empty((height * width, 2), np.int32)
    best = np.zeros(6, np.int64)
    box = np.empty(4, np.int64)
    for turn in range(len(turns)):
        for start in range(height * width):
            y, x = start // width, start % width
            if seen[y, x] == turn + 1:
                continue
            seen[y, x] = turn + 1
            stack[0, 0], stack[0, 1] = y, x  # not as a row: numba takes long to compile that
            waiting, size = 1, 0
            box[0], box[1], box[2], box[3] = row[y, x], column[y, x], row[y, x], column[y, x]
            while waiting:
                waiting -= 1
                v, u = stack[waiting, 0], stack[waiting, 1]
                size += 1
                box[0], box[1] = min(box[0], row[v, u]), min(box[1], column[v, u])
                box[2], box[3] = max(box[2], row[v, u]), max(box[3], column[v, u])
                for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    t, s = v + dv, u + du
                    if not (0 <= t < height and 0 <= s < width) or seen[t, s] == turn + 1 or page[t, s] != page[v, u]:
                        continue
                    down = turns[turn, 0] * dv + turns[turn, 1] * du
                    across = turns[turn, 2] * dv + turns[turn, 3] * du
                    if row[t, s] - row[v, u] == down and column[t, s] - column[v, u] == across:
                        seen[t, s] = turn + 1
                        stack[waiting, 0], stack[waiting, 1] = t, s
                        waiting += 1
            if size > best[0]:
                best[0], best[1] = size, page[y, x]
                best[2], best[3], best[4], best[5] = box[0], box[1], box[2], box[3]
    return best
