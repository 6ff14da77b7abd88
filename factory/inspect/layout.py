"""Layout of a contact sheet: the largest size at which all tiles fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.tile import Tile

MAX_SIDE_PX = 3900
MARGIN_PX, GAP_PX, PANEL_GAP_PX, BLOCK_GAP_PX = 40, 28, 6, 40
_SHOWN_PX = 320
_MAX_SCALE = 4.0
_MIN_PANEL_PX = 72
_WIDE = 1.5
_ASPECT = 1.25
_LINE = 1.35
_CAPTION_EM = 20
"""Width of the longest usual caption, "TPS 12.0 % asked, 12.0 % area, 11.9 % cells", in units of the text size."""

Panel = Literal["image", "mask", "cells"]


@dataclass(frozen=True)
class View:
    """One tile to draw: image uint8 [H, W, 3], its labels if any, and the lines of its caption."""

    image: npt.NDArray[np.uint8]
    tile: Tile | None
    caption: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """Tiles under one heading.

    Attributes:
        title: the heading. note: a line below it.
        warning: shown in colour beside the heading, e.g. "synthetic, not for diagnosis".
        panels: the pictures of every tile. schemes: label schemes in the legend.
        count: number of tiles. shape: height and width of the largest tile in pixels.
        lines: the largest number of caption lines.
        view: returns the tile at a place 0..count-1; called again for every size that is tried, to save memory.
        zoom: scale relative to the first block: the ratio of their micrometres per pixel.
    """

    title: str
    note: str
    warning: str
    panels: tuple[Panel, ...]
    schemes: tuple[LabelScheme, ...]
    count: int
    shape: tuple[int, int]
    lines: int
    view: Callable[[int], View]
    zoom: float = 1.0

    @property
    def stacked(self) -> bool:
        """Whether panels lie one below the other: those of wide tiles, so that a card stays nearly square."""
        return self.shape[1] >= _WIDE * self.shape[0]


@dataclass(frozen=True)
class Grid:
    """The cards (tiles with panels and caption) of a block, in pixels of the sheet.

    Attributes:
        scale: pixels of the sheet per pixel of a tile.
        panel: height and width of a panel. step: from one panel to the next, down and right.
        card: height and width of a card. columns, rows: number of cards. head: height of the heading.
    """

    scale: float
    panel: tuple[int, int]
    step: tuple[int, int]
    card: tuple[int, int]
    columns: int
    rows: int
    head: int

    @property
    def height(self) -> int:
        """Height of the block with the space after it."""
        return self.head + self.rows * (self.card[0] + GAP_PX) + BLOCK_GAP_PX


@dataclass(frozen=True)
class Layout:
    """A sheet: text size and width in pixels, and a grid for every block."""

    text: int
    width: int
    grids: tuple[Grid, ...]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return 2 * MARGIN_PX - GAP_PX - BLOCK_GAP_PX + sum(grid.height for grid in self.grids)

    @property
    def line(self) -> int:
        """Height of a caption line in pixels."""
        return round(_LINE * self.text)


def arrange(blocks: list[Block], area_px: int) -> Layout:
    """Finds the largest tiles whose sheet has at most `area_px` pixels and no side above 3900.

    Of the numbers of columns that fit, the one whose sheet is nearest to 5:4 with few empty places is used.

    Raises:
        UserError: when the tiles are too many to be told apart.
    """
    longest = max(blocks[0].shape)
    scale = min(_MAX_SCALE, max(1.0, _SHOWN_PX / longest))
    while scale * longest >= min(_MIN_PANEL_PX, longest):
        every_width = (_layout(blocks, scale, columns) for columns in range(1, blocks[0].count + 1))
        narrow = takewhile(lambda layout: layout.width <= MAX_SIDE_PX, every_width)
        fitting = [one for one in narrow if one.height <= MAX_SIDE_PX and one.width * one.height <= area_px]
        if fitting:
            return min(fitting, key=lambda one: _shape_penalty(one, blocks[0].count))
        scale *= 0.97
    tiles = sum(block.count for block in blocks)
    raise UserError(f"--n: expected a number of tiles that one sheet can show, got {tiles} in all. Use a smaller --n.")


def _shape_penalty(layout: Layout, count: int) -> float:
    grid = layout.grids[0]
    empty = 1 - count / (grid.rows * grid.columns)
    return abs(math.log(layout.width / layout.height / _ASPECT)) + empty


def _layout(blocks: list[Block], scale: float, columns: int) -> Layout:
    """Lays out all blocks at one scale, in micrometres, so that nuclei have the same size in each."""
    scales = [scale * block.zoom for block in blocks]
    text = int(min(24, max(12, _across(blocks[0], scale) / 22)))
    cards = [max(_across(block, own), _CAPTION_EM * text) for block, own in zip(blocks, scales, strict=True)]
    width = max(columns * (cards[0] + GAP_PX) - GAP_PX, max(cards), 40 * text) + 2 * MARGIN_PX
    grids = []
    for block, own, card in zip(blocks, scales, cards, strict=True):
        fit = max(1, (width - 2 * MARGIN_PX + GAP_PX) // (card + GAP_PX))
        grids.append(_grid(block, own, card, columns if block is blocks[0] else min(fit, block.count), text))
    return Layout(text, width, tuple(grids))


def _grid(block: Block, scale: float, card_width: int, columns: int, text: int) -> Grid:
    panel = _panel(block, scale)
    step = (panel[0] + PANEL_GAP_PX, 0) if block.stacked else (0, panel[1] + PANEL_GAP_PX)
    pictures = panel[0] + (len(block.panels) - 1) * step[0]
    card_height = pictures + text // 2 + block.lines * round(_LINE * text)
    head = round(text * (7.6 if block.schemes else 5.2))
    return Grid(scale, panel, step, (card_height, card_width), columns, -(-block.count // columns), head)


def _panel(block: Block, scale: float) -> tuple[int, int]:
    return max(1, round(block.shape[0] * scale)), max(1, round(block.shape[1] * scale))


def _across(block: Block, scale: float) -> int:
    """Returns the width of all panels of a tile."""
    return (1 if block.stacked else len(block.panels)) * (_panel(block, scale)[1] + PANEL_GAP_PX) - PANEL_GAP_PX
