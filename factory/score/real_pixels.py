"""Tiles made of real pixels: whose, and how large the pieces are that they took from one place.

Copies are how such tiles are made, so these figures stand in place of the search for copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from factory.bank.usage import Usage, measure_usage
from factory.core.console import progress
from factory.core.datasets import RealPixelsOf, real_pixels_of
from factory.core.document import Block, Grid, Heading
from factory.core.wording import plural
from factory.make.origins import Composer, composer_of
from manifests.dataset import Dataset
from manifests.errors import UserError

_MOST_LISTED = 20


@dataclass(frozen=True)
class RealPixelFigures:
    """Real pixels in synthetic tiles.

    Attributes:
        inside: whose pixels they are. tiles: number of tiles composed again; 0 where they could not be.
        different: tiles whose image, composed again, is not the stored one. usage: of the bank, over these tiles; None
            where they could not be composed. missing: why they could not.
    """

    inside: RealPixelsOf
    tiles: int
    different: int
    usage: Usage | None
    missing: str | None = None


def measure_real_pixels(dataset: Dataset, ids: Sequence[str]) -> RealPixelFigures | None:
    """Compose fakes again and measure how they use their bank; None for fakes without real pixels.

    Args:
        dataset: of the fakes. ids: of the tiles that are compared.
    """
    inside = real_pixels_of(dataset.table, dataset.info)
    if inside is None:
        return None
    try:
        composer = composer_of(dataset.root)
    except UserError as error:
        return RealPixelFigures(inside, 0, 0, None, str(error))
    different: list[str] = []
    with progress("composing again", len(ids)) as bar:

        def origins() -> Iterator[tuple[str, Any]]:
            for tile, origin, is_equal in _composed_again(composer, dataset, ids):
                if not is_equal:
                    different.append(tile)
                bar.advance()
                yield tile, origin

        usage = measure_usage(composer.bank, origins())
    return RealPixelFigures(inside, len(ids), len(different), usage)


def _composed_again(composer: Composer, dataset: Dataset, ids: Sequence[str]) -> Iterator[tuple[str, Any, bool]]:
    """Id of each tile, its pixels of the bank, and whether its image is the stored one."""
    for tile in sorted(ids):
        sample = dataset[dataset.find(tile)]
        image, origin = composer.compose(sample)
        yield tile, origin, bool(np.array_equal(image, sample.image))


def real_pixel_rows(figures: RealPixelFigures) -> list[tuple[str, str, str]]:
    """Returns the main figures: name, value, and what to read beside it."""
    rows = [("real pixels", "yes", figures.inside.text)]
    usage = figures.usage
    if usage is None:
        return [*rows, ("largest piece", "-", f"not measured: {figures.missing}")]
    largest, place = usage.largest, usage.place
    slide, share = next(iter(usage.slides.items()))
    used = sum(of_slide > 0 for of_slide in usage.slides.values())
    places = f"of {figures.tiles}; {usage.places_used} of {usage.places} places are used"
    return [
        *rows,
        ("equal to a real crop", plural(len(usage.equal_to_real), "tile"), f"of {figures.tiles}"),
        ("largest piece", f"{largest.share:.1%}", f"{largest.pixels} px from one place, of {largest.tile}"),
        ("... median", f"{usage.median_share:.1%}", f"{usage.median_px:g} px"),
        ("slides used", f"{used} of {len(usage.slides)}", f"{slide} gives {share:.1%} of all pixels"),
        ("most used place", plural(place.tiles, "tile"), places),
    ]


def real_pixel_blocks(figures: RealPixelFigures) -> list[Block]:
    """Returns the section of the report."""
    blocks: list[Block] = [Heading("Real pixels"), f"{figures.inside.text[0].upper()}{figures.inside.text[1:]}."]
    usage = figures.usage
    if usage is None:
        return [*blocks, f"Not measured how they are used: {figures.missing}"]
    if figures.different:
        blocks.append(
            f"{figures.different} of {plural(figures.tiles, 'tile')}, composed again, differ from those stored, so "
            "their pieces may too: other versions of this package or of its libraries made them (see factory replay)."
        )
    place, whole = usage.place, usage.equal_to_real
    equal = f"{len(whole)} tiles equal a real crop: {', '.join(whole[:_MOST_LISTED])}" if whole else "No tile does"
    pieces = [
        (piece.tile, str(piece.pixels), f"{piece.share:.1%}", piece.slide, str(piece.page), _box(piece.box))
        for piece in usage.pieces[:_MOST_LISTED]
    ]
    return [
        *blocks,
        "A piece is a connected part of a tile whose pixels lie together in the bank too, under a turn by a multiple "
        "of 90 degrees or a mirror, whatever was done to its colours. A nucleus that was stretched to a drawn outline "
        "counts as small pieces. A tile that is one piece would equal a crop of a real image. "
        f"{equal}. The largest piece of all takes {usage.largest.share:.1%} of its tile; the median over "
        f"{plural(figures.tiles, 'tile')} is {usage.median_share:.1%} ({usage.median_px:g} px).",
        Grid(("tile", "pixels", "share", "slide", "image", "rows; columns"), pieces, aligned=False),
        Grid(
            ("slide", "share of all pixels"),
            [(slide, f"{share:.2%}") for slide, share in list(usage.slides.items())[:_MOST_LISTED]],
            aligned=False,
        ),
        f"{usage.places_used} of {usage.places} places of 48 x 48 px are used by a tile or more: it shows at least a "
        f"quarter of their pixels. The most used, row {place.row}, column {place.column} of image {place.page} of "
        f"{place.slide}, is in {place.tiles} of {plural(figures.tiles, 'tile')}.",
    ]


def _box(box: tuple[int, int, int, int]) -> str:
    return f"{box[0]} to {box[2]}; {box[1]} to {box[3]}"


def real_pixel_document(figures: RealPixelFigures) -> dict[str, Any]:
    """Returns the figures as plain values for JSON, with the largest piece of every tile."""
    document: dict[str, Any] = {
        "groups": list(figures.inside.groups),
        "licences": list(figures.inside.licences),
        "tiles": figures.tiles,
        "different": figures.different,
        "missing": figures.missing,
        "usage": None,
    }
    if (usage := figures.usage) is not None:
        document["usage"] = {
            "largest_share": usage.largest.share,
            "largest_px": usage.largest.pixels,
            "largest_tile": usage.largest.tile,
            "median_share": usage.median_share,
            "median_px": usage.median_px,
            "equal_to_real": list(usage.equal_to_real),
            "slides": dict(usage.slides),
            "most_used_place": asdict(usage.place),
            "places": usage.places,
            "places_used": usage.places_used,
            "pieces": [asdict(piece) for piece in usage.pieces],
        }
    return document
