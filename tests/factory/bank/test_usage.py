"""How tiles use a bank: planted pieces in every turn, an oracle without flood filling, places and slides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from factory.bank.bank import Bank, open_bank
from factory.bank.usage import PLACE_PX, measure_usage
from tests.annotated_photograph import bank_of_photograph


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return open_bank(bank_of_photograph(tmp_path_factory.mktemp("bank"), "tissue"))


def of_page(bank: Bank, page: int) -> np.ndarray:
    """Numbers of the pixels of a page, int64 [H, W]."""
    pixels, shape = bank.page(page)
    return np.arange(pixels.start, pixels.stop).reshape(shape)


def scattered(bank: Bank, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A tile of pixels from anywhere."""
    return np.random.default_rng(seed).integers(0, len(bank.semantic), shape)


TURNED = [lambda a, k=k, m=m: np.rot90(a, k)[:, ::m] for k in range(4) for m in (1, -1)]


@pytest.mark.parametrize("turn", range(8))
def test_a_planted_piece_is_found_in_every_turn(bank: Bank, turn: int) -> None:
    origin = scattered(bank, (64, 96))
    origin[10:40, 20:70] = TURNED[turn](
        of_page(bank, 1)[100:150, 30:60] if turn // 2 % 2 else of_page(bank, 1)[100:130, 30:80]
    )
    (piece,) = measure_usage(bank, [("a", origin)]).pieces
    rows, columns = (50, 30) if turn // 2 % 2 else (30, 50)
    assert piece.pixels == 30 * 50
    assert piece.share == 30 * 50 / (64 * 96)
    assert piece.slide == bank.slides[bank.pages[1, 3]]
    assert (piece.page, piece.box) == (1, (100, 30, 100 + rows - 1, 30 + columns - 1))


def test_pieces_that_touch_but_lie_apart_in_the_bank_are_two(bank: Bank) -> None:
    origin = scattered(bank, (64, 64))
    page = of_page(bank, 0)
    origin[:, :20] = page[:64, :20]
    origin[:, 20:50] = page[:64, 21:51]  # a column further
    assert measure_usage(bank, [("a", origin)]).largest.pixels == 64 * 30
    origin[:, 20:50] = page[:64, 20:50]
    assert measure_usage(bank, [("a", origin)]).largest.pixels == 64 * 50


def test_the_end_of_a_row_does_not_continue_on_the_next_one_or_on_the_next_page(bank: Bank) -> None:
    numbers = np.arange(3 * 256 * 256).reshape(-1, 256)
    across = np.roll(numbers[:40], -128, axis=1)[:, 64:192]  # right half of a row, then the left half of the next
    assert measure_usage(bank, [("a", across)]).largest.pixels == 40 * 64
    between = numbers[226:286, :64]  # the last rows of a page, then the first ones of the next
    assert measure_usage(bank, [("b", between)]).largest.pixels == 30 * 64


def oracle(bank: Bank, origin: np.ndarray) -> int:
    """Size of the largest piece: connected components of equal shifts, for each turn."""
    page = np.searchsorted(bank.pages[:, 0], origin, side="right") - 1
    row, column = np.divmod(origin - bank.pages[page, 0], bank.pages[page, 2])
    y, x = np.indices(origin.shape)
    best = 0
    for down, across in ((y, x), (y, -x), (-y, x), (-y, -x), (x, y), (x, -y), (-x, y), (-x, -y)):
        shifts = np.stack([page, row - down, column - across], -1)
        for shift in np.unique(shifts.reshape(-1, 3), axis=0):
            components, count = label((shifts == shift).all(-1))
            if count:
                best = max(best, int(np.bincount(components.ravel())[1:].max()))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_piece_is_that_of_the_oracle(bank: Bank, seed: int) -> None:
    rng = np.random.default_rng(seed)
    origin = np.zeros((20, 24), np.int64)
    for _ in range(30):  # patches of many turns, over each other
        h, w, v, u = (int(rng.integers(low, high)) for low, high in ((3, 12), (3, 12), (0, 200), (0, 200)))
        patch = TURNED[int(rng.integers(8))](of_page(bank, int(rng.integers(3)))[v : v + h, u : u + w])
        y, x = int(rng.integers(20)), int(rng.integers(24))
        part = origin[y : y + patch.shape[0], x : x + patch.shape[1]]
        part[:] = patch[: part.shape[0], : part.shape[1]]
    assert measure_usage(bank, [("a", origin)]).largest.pixels == oracle(bank, origin)


def test_median_maximum_and_whole_crops_over_tiles(bank: Bank) -> None:
    whole = of_page(bank, 2)[8:72, 16:112]
    part = scattered(bank, (64, 96))
    part[:32] = of_page(bank, 0)[:32, :96]
    usage = measure_usage(bank, [("part", part), ("whole", whole), ("none", np.zeros((64, 96), np.int64))])
    assert [piece.tile for piece in usage.pieces] == ["whole", "part", "none"]
    assert (usage.largest.share, usage.median_share, usage.median_px) == (1, 0.5, 32 * 96)
    assert usage.equal_to_real == ("whole",)
    assert measure_usage(bank, [("part", part)]).equal_to_real == ()


def test_shares_of_slides_and_the_most_used_place(bank: Bank) -> None:
    page = of_page(bank, 1)
    place = page[PLACE_PX : 2 * PLACE_PX, :PLACE_PX]
    tiles = [(f"t{n}", np.array(place)) for n in range(3)]
    few = of_page(bank, 0)[:PLACE_PX, :PLACE_PX].copy()
    few[:12] = place[:12]  # a quarter of the place, just enough
    fewer = of_page(bank, 0)[:PLACE_PX, :PLACE_PX].copy()
    fewer[:11] = place[:11]
    fewer[11] = place[10]  # the same pixels twice count once
    usage = measure_usage(bank, [*tiles, ("few", few), ("fewer", fewer)])
    assert usage.slides == pytest.approx({bank.slides[1]: 0.7, bank.slides[0]: 0.3, bank.slides[2]: 0})
    assert list(usage.slides) == [bank.slides[1], bank.slides[0], bank.slides[2]]
    assert (usage.place.slide, usage.place.page, usage.place.row, usage.place.column) == (
        bank.slides[1],
        1,
        PLACE_PX,
        0,
    )
    assert usage.place.tiles == 4
    assert (usage.places, usage.places_used) == (75, 2)


def test_no_tile_is_refused(bank: Bank) -> None:
    with pytest.raises(ValueError, match="expected a tile or more"):
        measure_usage(bank, [])
