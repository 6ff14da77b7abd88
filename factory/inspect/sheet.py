"""The contact sheet: blocks of tiles, each with its image, mask and cells, on one PNG."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from factory.core.page import encode_image
from factory.inspect.layout import GAP_PX, MARGIN_PX, Block, Grid, Layout, View, arrange
from factory.inspect.views import (
    compose,
    contour_layer,
    contour_palette,
    filled_classes,
    mask_layer,
    shrink_image,
    shrink_labels,
)
from manifests.labels import LabelScheme

MAX_BYTES = 10_000_000
_FIRST_AREA_PX = 8_000_000
"""First area of the search for a size: with noisy tiles, the PNG of such a sheet has about 10 MB."""
_INK, _GREY, _FAINT, _PAPER = (28, 32, 38), (96, 103, 112), (214, 218, 224), (255, 255, 255)
_WARNING = (166, 61, 16)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def render_sheet(blocks: list[Block], on_tile: Callable[[], None] = lambda: None) -> bytes:
    """Draws the blocks from top to bottom as PNG: both sides at most 3900 pixels, at most 10 MB.

    Raises:
        UserError: when the tiles are too many to be told apart.
    """
    area_px = _FIRST_AREA_PX
    while True:
        layout = arrange(blocks, area_px)
        content = encode_image(_draw(blocks, layout, on_tile), "png")
        if len(content) <= MAX_BYTES:
            return content
        area_px = int(layout.width * layout.height * MAX_BYTES / len(content) * 0.95)
        on_tile = uncounted


def uncounted() -> None:
    """Ignores the tiles of a second drawing, which are not counted again."""


def _draw(blocks: list[Block], layout: Layout, on_tile: Callable[[], None]) -> Image.Image:
    sheet = Image.new("RGB", (layout.width, layout.height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = MARGIN_PX
    for block, grid in zip(blocks, layout.grids, strict=True):
        if block is not blocks[0]:
            line = top - layout.text
            pen.line((MARGIN_PX, line, layout.width - MARGIN_PX, line), fill=_FAINT, width=2)
        _draw_heading(pen, block, layout, top)
        for place in range(block.count):
            row, column = divmod(place, grid.columns)
            x = MARGIN_PX + column * (grid.card[1] + GAP_PX)
            y = top + grid.head + row * (grid.card[0] + GAP_PX)
            view = block.view(place)
            _draw_panels(sheet, view, block, grid, (x, y))
            _draw_caption(pen, view, grid, layout, (x, y + grid.card[0] - block.lines * layout.line))
            on_tile()
        top += grid.height
    return sheet


def _draw_heading(pen: ImageDraw.ImageDraw, block: Block, layout: Layout, top: int) -> None:
    text, right = layout.text, layout.width - MARGIN_PX
    title, body = _font(round(text * 1.9)), _font(text)
    pen.text((MARGIN_PX, top), _fitted(block.title, title, right - MARGIN_PX), fill=_INK, font=title)
    x = MARGIN_PX + title.getlength(_plain(block.title)) + text
    width = body.getlength(block.warning) + 1.2 * text
    if block.warning:
        # If a long title leaves no room, the warning covers it: the warning must always show.
        x = min(x, right - width)
        box = (x, top + text * 0.25, x + width, top + text * 2.05)
        pen.rounded_rectangle(box, radius=text * 0.4, fill=_PAPER, outline=_WARNING, width=max(1, text // 8))
        pen.text((x + text * 0.6, top + text * 1.15), block.warning, fill=_WARNING, font=body, anchor="lm")
    y = top + round(text * 2.6)
    way = "top to bottom" if block.stacked else "left to right"
    order = f" · {way}: {', '.join(block.panels)}" if len(block.panels) > 1 else ""
    pen.text((MARGIN_PX, y), _fitted(block.note + order, body, right - MARGIN_PX), fill=_GREY, font=body)
    x, y = MARGIN_PX, y + round(text * 2.1)
    for scheme in block.schemes:
        x = _draw_legend(pen, scheme, (x, y), text, right, rings="cells" in block.panels) + 2 * text


def _draw_legend(
    pen: ImageDraw.ImageDraw, scheme: LabelScheme, at: tuple[int, int], text: int, right: int, *, rings: bool
) -> int:
    """Draws swatches of the classes, with the colour of their cell contours as a ring; returns the end of the line."""
    font, contours, filled = _font(text), contour_palette(scheme), filled_classes(scheme)
    x, y = at
    pen.text((x, y), _plain(scheme.name), fill=_GREY, font=font)
    x += round(font.getlength(_plain(scheme.name))) + text
    side = round(text * 1.2)
    for label in scheme.classes:
        width = round(text * 2.7 + font.getlength(_plain(label.name)))
        if x + width > right:
            break
        box = (x, y, x + side, y + side)
        pen.rectangle(box, fill=label.colour, outline=_FAINT)
        if rings and filled[label.id]:
            red, green, blue = contours[label.id].tolist()
            pen.rectangle(box, outline=(red, green, blue), width=max(2, text // 5))
        pen.text((x + round(text * 1.7), y), _plain(label.name), fill=_INK, font=font)
        x += width
    return x


def _draw_panels(sheet: Image.Image, view: View, block: Block, grid: Grid, at: tuple[int, int]) -> None:
    """Draws image, mask over the image and contours on the image; a smaller tile leaves the rest of its place empty."""
    height, width = (max(1, round(side * grid.scale)) for side in view.image.shape[:2])
    shape = (height, width)
    pen = ImageDraw.Draw(sheet)
    image, tile = shrink_image(view.image, shape), view.tile
    for place, panel in enumerate(block.panels):
        picture = image
        if panel == "mask" and tile is not None:
            semantic = shrink_labels(tile.semantic, shape).astype(np.uint8)
            picture = compose(image, mask_layer(semantic, tile.scheme))
        elif panel == "cells" and tile is not None:
            picture = compose(image, contour_layer(tile, shape))
        x, y = at[0] + place * grid.step[1], at[1] + place * grid.step[0]
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=_FAINT)


def _draw_caption(pen: ImageDraw.ImageDraw, view: View, grid: Grid, layout: Layout, at: tuple[int, int]) -> None:
    font = _font(layout.text)
    for place, line in enumerate(view.caption):
        ink = _GREY if place else _INK
        pen.text((at[0], at[1] + place * layout.line), _fitted(line, font, grid.card[1]), fill=ink, font=font)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)  # Pillow's own font, so that a sheet needs no system font


def _plain(text: str) -> str:
    """Replaces letters that Pillow's own font lacks by question marks."""
    return "".join(letter if letter.isascii() or letter in "·…" else "?" for letter in text)


def _fitted(text: str, font: Font, width: float) -> str:
    """Shortens text in its middle until it is at most `width` wide."""
    text = _plain(text)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(_shortened(text, keep)) > width:
        keep -= 1
    return _shortened(text, keep)


def _shortened(text: str, keep: int) -> str:
    return text[: keep - keep // 2] + "…" + text[len(text) - keep // 2 :]
