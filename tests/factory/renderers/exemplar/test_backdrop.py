"""Which slide and which real window a tile is laid like: like the layout in size of nuclei, open space and density."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factory.bank.bank import Bank, open_bank
from factory.bank.ground import fibre_directions
from factory.bank.shapes import Shapes
from factory.renderers.exemplar.backdrop import colours_of_blocks, draw_backdrop, fibres_of
from factory.renderers.exemplar.compose import _fitness_of_sizes, _shares_of_slides
from factory.renderers.exemplar.layout import match_classes
from manifests.labels import get_scheme
from tests.annotated_photograph import bank_of_photograph


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """The photograph with its nuclei."""
    return open_bank(bank_of_photograph(tmp_path_factory.mktemp("bank"), "nuclei"))


@pytest.mark.parametrize("shape", [(16, 16), (40, 24)])
def test_the_window_is_of_the_slide_and_more_like_the_layout_than_others(bank: Bank, shape: tuple[int, int]) -> None:
    slide, density = 1, bank.blocks[:, 1]
    wanted = np.zeros(shape, np.uint8)
    wanted[:, :8] = 255
    far = []
    for seed in range(8):
        blocks, _ = draw_backdrop(bank, slide, [wanted], [density], [1], np.random.default_rng(seed))
        assert blocks.shape == shape
        first, height, width = (int(bank.pages[slide, k]) for k in (4, 1, 2))
        assert first <= blocks.min()
        assert blocks.max() < first + height * width // 64
        far.append(
            [density[each].astype(float)[:, :8].mean() - density[each].mean() for each in (blocks, blocks[:, ::-1])]
        )
    assert np.mean(far, 0)[0] > np.mean(far, 0)[1]


@pytest.mark.parametrize("turn", range(8))
def test_fibres_turn_with_their_window(bank: Bank, turn: int) -> None:
    stripes = (127 * np.sin(np.arange(64) / 2 + np.arange(64)[:, None] / 5) + 128).astype(np.uint8)
    image = np.repeat(stripes[..., None], 3, axis=2)

    def planes(shown: np.ndarray) -> list[float]:
        return [float(128 + 127 * plane[16:48, 16:48].mean()) for plane in fibre_directions(shown, 0.5)]

    cosine, sine = planes(image)
    known = replace(bank, blocks=np.array([[0, 0, round(cosine), round(sine)]], np.uint8))
    turned = image[:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1]
    turned = np.ascontiguousarray(turned.transpose(1, 0, 2) if turn & 4 else turned)
    found = [float(plane[0, 0]) for plane in fibres_of(known, np.zeros((1, 1), np.int64), turn)]
    assert found == pytest.approx(planes(turned), abs=3)


def test_colours_are_those_of_the_blocks(bank: Bank) -> None:
    pixels, (height, width) = bank.page(1)
    page = bank.image[pixels].reshape(height, width, 3)
    first = int(bank.pages[1, 4]) + 2 * (width // 8) + 3
    assert colours_of_blocks(bank, False)[first] == pytest.approx(page[16:24, 24:32].mean((0, 1)), abs=1)


def test_slides_with_nuclei_as_large_as_the_layouts_are_likelier(bank: Bank) -> None:
    page = np.repeat(np.arange(3, dtype=np.int32), 30)
    area = np.where(page == 2, 400.0, 100.0).astype(np.float32)
    scaled = replace(bank, nuclei=replace(bank.nuclei, page=page, area=area))

    def fitness(size: float, count: int = 9) -> np.ndarray:
        drawn = np.full(count, size, np.float32)
        return _fitness_of_sizes(scaled, Shapes(drawn, *[drawn] * 5, np.zeros(count, np.bool_)))  # type: ignore[arg-type]

    assert fitness(390)[2] == 1
    assert fitness(390)[:2].max() < 0.01
    assert fitness(100)[2] < 0.01
    assert (fitness(390, 2) == 1).all()


def test_bright_pixels_within_tissue_are_no_open_space(bank: Bank) -> None:
    tissue = get_scheme("tissue")
    shares = np.tile(np.array([[120, 135]], np.uint8), (len(bank.blocks), 1))
    shares[bank.pages[1, 4] : bank.pages[2, 4]] = (255, 0)
    classes = match_classes(tissue, tissue, frozenset(tissue.names), painted=False)
    held = _shares_of_slides(replace(bank, shares=shares, scheme=tissue), classes)
    assert held[:, classes.air].tolist() == [0, 1, 0]
