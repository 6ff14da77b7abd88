"""Whole real tiles whose layout stays as it is, on which the marker is painted that is asked.

A tile is a window of a page with tumour in it. The tissue's own marker is taken away, and another one painted on as
much of the tumour as is asked; every other label stays. So any tissue with annotated tumour gives every TPS. Where
cells are annotated, as many of them are positive as is asked, the neighbours of a positive one sooner than others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import Bank
from factory.core.seeds import Stream, generator
from factory.geometry.nuclear_maps import renumbered
from factory.joint.exemplar.regions import instances_of
from factory.plan.request import Request
from factory.renderers.exemplar.exemplar import paint_on_tissue
from factory.renderers.exemplar.layout import TUMOUR
from factory.renderers.exemplar.marker import positive_field
from manifests.labels import IGNORE, LabelClass, LabelScheme
from manifests.tile import Tile

_LEAST_TUMOUR = 0.05
"""Share of a window that is tumour, at least."""

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RealTile:
    """A window of a page with another marker.

    Attributes:
        image: uint8 [H, W, 3]. origin: int64 [H, W], the pixel of the bank that each pixel is. tile: its labels.
        slide: whose it is.
    """

    image: Bytes
    origin: Longs
    tile: Tile
    slide: str


def real_tile(bank: Bank, look: int | None, request: Request, seed: int) -> RealTile:
    """Draw a window of a page, and paint the marker that is asked on its tumour.

    Args:
        bank: of tissue. look: number of the slide, None for any. request: one that `refusal` has nothing against.
        seed: of the row.
    """
    if request.tps is None:
        raise ValueError("request: expected a TPS, got none")
    origin, slide = _draw_window(bank, look, (request.height, request.width), generator(seed, Stream.SAMPLE))
    own = bank.semantic[origin]
    tumour = np.isin(own, tumour_of(bank.scheme))
    rng = generator(seed, Stream.RENDER)
    instance = instances_of(bank, origin)
    nuclei: npt.NDArray[np.int32] | None
    if request.scheme.tps_basis == "cells":
        tumour &= instance > 0
        positive = np.isin(instance, _positive_cells(np.where(tumour, instance, 0), request.tps, rng, request.mpp))
        nuclei = renumbered(instance)
    else:
        positive = positive_field(tumour, request.tps, rng, request.mpp)
        nuclei = renumbered(bank.nucleus[origin]) if bank.has_nuclei else None
    semantic = _labels(own, positive, tumour, bank.scheme, request.scheme)
    image = paint_on_tissue(bank, bank.image[origin], positive, nuclei, request.scheme, request.mpp, rng)
    return RealTile(image, origin, Tile(semantic, instance, request.mpp, request.scheme), bank.slides[slide])


def _positive_cells(
    instance: npt.NDArray[np.int32], tps: float, rng: np.random.Generator, mpp: float
) -> npt.NDArray[np.int32]:
    """Ids of the cells, int32 [H, W], that are positive: as many as `positive_field` makes of one pixel of each."""
    ids, first = np.unique(instance, return_index=True)
    one = np.zeros(instance.shape, np.bool_)
    one.ravel()[first[ids > 0]] = True
    return np.asarray(instance[positive_field(one, tps, rng, mpp)])


def refusal(bank: Bank, look: int | None, request: Request) -> str | None:
    """Return why whole tiles of a bank can never give what is asked, or None."""
    for name, value in (("tissue", request.tissue), ("cells", request.cells), ("share", request.fractions)):
        if value is not None:
            return (
                f"{name}: --ground real keeps the layout of real tiles and is asked for a TPS alone, leave --{name} out"
            )
    if request.tps is None:
        return "tps: expected one with --ground real, which paints the marker that is asked, got none. Add --tps"
    held = ", ".join(bank.card.fields["classes"])
    kinds = [_kind(scheme) for scheme in (bank.scheme, request.scheme)]
    if kinds not in (["regions", "regions"], ["cells", "cells"]):
        return (
            f"ground: expected regions, or cells, of tumour in bank and --scheme for --ground real, got {kinds[0]} "
            f"in the bank ({bank.scheme.name}) and {kinds[1]} in --scheme ({request.scheme.name})"
        )
    if not set(tumour_of(bank.scheme)) & set(_held(bank)):
        return f"ground: the bank holds no tumour to paint a marker on ({held})"
    if not all(request.scheme.ids(role) for role in sorted(TUMOUR)):
        return f"ground: expected a scheme with positive and negative tumour, got {request.scheme.name}"
    table = _stand_ins(bank.scheme, request.scheme)
    for label in _held(bank):
        if table[label] == IGNORE:
            theirs, own = request.scheme, bank.scheme.names[label]
            return f"ground: no class of {theirs.name} ({', '.join(theirs.names)}) stands in for the bank's {own}"
    return _refusal_of_size(bank, look, (request.height, request.width))


def _refusal_of_size(bank: Bank, look: int | None, size: tuple[int, int]) -> str | None:
    large = (bank.pages[:, 1] >= size[0]) & (bank.pages[:, 2] >= size[1])
    if not large.any():
        height, width = bank.pages[np.argmax(bank.pages[:, 1] * bank.pages[:, 2]), 1:3].tolist()
        return (
            f"size: the bank holds no image of {size[0]}x{size[1]} pixels, the largest of {len(large)} has "
            f"{height}x{width}. Ask for less with --size"
        )
    if not _pages(bank, look, size).any():
        return (
            f"size: of {int(large.sum())} images of {size[0]}x{size[1]} pixels or more none has a window with "
            f"{100 * _LEAST_TUMOUR:g} % tumour and every pixel labelled. Ask for less with --size"
        )
    return None


def _kind(scheme: LabelScheme) -> str:
    """What a scheme tells apart, in words."""
    if scheme.tps_basis == "cells":
        return "cells"
    shows_cells = any("nucleus" in each.roles or each.name == "cell" for each in scheme.classes)
    return "regions with nuclei or cells" if shows_cells else "regions"


def tumour_of(scheme: LabelScheme) -> list[int]:
    """Ids of the classes of tumour, positive or negative."""
    return sorted({label for role in TUMOUR for label in scheme.ids(role)})


def _held(bank: Bank) -> list[int]:
    """Ids of the classes that occur in a bank."""
    return [bank.scheme.names.index(name) for name in bank.card.fields["classes"]]


def _labels(
    own: Bytes, positive: npt.NDArray[np.bool_], tumour: npt.NDArray[np.bool_], bank: LabelScheme, scheme: LabelScheme
) -> Bytes:
    """Labels of a window in a scheme, its tumour relabelled; a class that says so already stays: uint8 [H, W]."""
    semantic = _stand_ins(bank, scheme)[own]
    for role, where in (("tumour_positive", positive), ("tumour_negative", tumour & ~positive)):
        named = scheme.ids(role)
        semantic[where & ~np.isin(semantic, named)] = named[0]
    return semantic


@lru_cache(maxsize=16)
def _stand_ins(bank: LabelScheme, scheme: LabelScheme) -> Bytes:
    """Class of a scheme for each class of a bank, by name and else by role: uint8 [256], `IGNORE` where there is none.

    Any tumour stands in for any, as it is relabelled. Tissue without a role is that of the other scheme.
    """
    table = np.full(256, IGNORE, np.uint8)
    for each in bank.classes:
        named = [other.id for other in scheme.classes if other.name == each.name]
        alike = [other.id for other in scheme.classes if _role(other) & _role(each)]
        plain = [other.id for other in scheme.classes if not _role(other)]
        found = named or alike or ([] if _role(each) & {"air", *TUMOUR} else plain)
        if found:
            table[each.id] = found[0]
    return table


def _role(label: LabelClass) -> set[str]:
    roles = set(label.roles) - {"nuclear_marker", ""}
    return TUMOUR if roles & TUMOUR else roles


def _draw_window(bank: Bank, look: int | None, size: tuple[int, int], rng: np.random.Generator) -> tuple[Longs, int]:
    """Draw a slide, one of its pages and a window there: int64 [H, W], pixels of the bank, and the slide."""
    pages = np.flatnonzero(_pages(bank, look, size))
    slides = np.unique(bank.pages[pages, 3])
    slide = int(slides[int(rng.integers(len(slides)))])
    of_slide = pages[bank.pages[pages, 3] == slide]
    page = int(of_slide[int(rng.integers(len(of_slide)))])
    places = np.flatnonzero(_windows(bank, page, size))
    first, _, width = (int(value) for value in bank.pages[page, :3])
    y, x = divmod(int(places[int(rng.integers(len(places)))]), width - size[1] + 1)
    rows = first + (y + np.arange(size[0], dtype=np.int64))[:, None] * width
    return rows + x + np.arange(size[1], dtype=np.int64), slide


@lru_cache(maxsize=8)
def _pages(bank: Bank, look: int | None, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whether each page has a window of a size that can be drawn: bool [pages]."""
    asked = np.ones(len(bank.pages), np.bool_) if look is None else bank.pages[:, 3] == look
    return np.array([bool(asked[page]) and bool(_windows(bank, page, size).any()) for page in range(len(asked))])


def _windows(bank: Bank, page: int, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whether the window from each pixel of a page on has enough tumour, and no ignored pixel: bool [rows, columns]."""
    pixels, shape = bank.page(page)
    height, width = size
    if height > shape[0] or width > shape[1]:
        return np.zeros((0, 0), np.bool_)
    semantic = bank.semantic[pixels].reshape(shape)

    def count(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        total = cv2.integral(chosen.astype(np.uint8))
        inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
        return np.asarray(inside)

    tumour = count(np.isin(semantic, tumour_of(bank.scheme)))
    return np.asarray((tumour >= _LEAST_TUMOUR * height * width) & (count(semantic == IGNORE) == 0))
