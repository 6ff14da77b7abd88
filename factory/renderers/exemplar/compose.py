"""Composes one tile from a bank: ground, nuclei, decoys, colour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, Bank
from factory.bank.shapes import Shapes, measure_shapes
from factory.bank.stain_separation import estimate_stains, separate
from factory.geometry.nuclear_maps import renumbered
from factory.renderers.exemplar.layout import Classes, guides_of, shares_of_group
from factory.renderers.exemplar.nuclei import Choice, choose_nuclei, decoy_outlines, set_nuclei, soften_outlines
from factory.renderers.exemplar.quilting import Grid, Places, quilt

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

_MOST_UNKNOWN = 0.35
"""Largest share of filled or unknown pixels of a patch, where a slide has enough patches with fewer."""
_MOST_BROWN, _BROWN_OD, _MEASURED = 0.5, 0.2, 6
"""Largest share of brown pixels of a patch, likewise; DAB of a brown pixel; pages that stains are measured on."""
_ENOUGH = 300
_MUCH = 0.3
"""Share of a class from which a patch counts as holding much of it."""
SMALL = Grid(72, 24)
"""Patches of filled ground, which is without nuclei in small pieces alone."""
_SMALLEST = Grid(48, 16)
_ALL_AIR = 2
"""Of `Places.whole`."""
_USUAL_LEVELS = 12
"""Sum of red, green and blue by which single pixels of one surface differ from the usual one at most."""
_EDGE_PX = (0.5, 0.9)
"""Standard deviations of the blur of outlines."""
_FEWEST_OWN = 20
"""Nuclei of a class below which a slide borrows from all others."""
_FEWEST_SIZES, _SIZE_SPREAD = 5, 0.25
"""Whole nuclei of a layout below which sizes say nothing; log areas that a slide may be off."""


@dataclass(frozen=True)
class Settings:
    """Settings of a composition.

    Attributes:
        slide: number of the slide; None draws one for each tile. mix: share of tiles whose ground is another slide's.
        decoys: nucleus-shaped pieces of ground for each nucleus. vary: standard deviation of the optical density of a
            nucleus around its own. instances: whether the layout has instances to draw.
        grid: of the patches of a ground whose nuclei stay.
        unmarked: whether the marker of the tissue is taken away, so that ground without it is better.
        label_of: class id of the layout -> class ids of the bank's nuclei that are drawn for it.
    """

    slide: int | None
    mix: float
    decoys: float
    vary: float
    instances: bool
    label_of: tuple[tuple[int, ...], ...]
    grid: Grid = SMALL
    unmarked: bool = False


@dataclass(frozen=True)
class Composed:
    """A tile and where it is from.

    Attributes:
        image: uint8 [H, W, 3]. origin: int64 [H, W], the pixel of the bank that each pixel was taken from.
        slides: numbers of the slides of ground and nuclei.
    """

    image: Bytes
    origin: Longs
    slides: tuple[int, int]


def compose(
    bank: Bank,
    semantic: Bytes,
    instance: Ids,
    classes: Classes,
    settings: Settings,
    mpp: float,
    rng: np.random.Generator,
) -> Composed:
    """Compose the tile of a layout.

    Args:
        bank: of tissue. semantic: uint8 [H, W]; its instances: int32 [H, W], 0 = background. classes: matched.
        settings: of the renderer. mpp: of the tile. rng: of the tile.
    """
    ids = renumbered(instance)
    with_nuclei = bank.has_nuclei and bool(settings.instances)
    shapes = measure_shapes(ids) if with_nuclei else None
    fitness = _fitness(bank, classes, semantic)
    if shapes is not None:
        fitness = fitness * _fitness_of_sizes(bank, shapes)
    nuclei_slide, ground_slide = _draw_slides(bank, fitness, settings, rng)
    grid = _grid_for(bank, ground_slide, shapes is not None, classes, semantic, settings)
    places = places_of(bank, ground_slide, shapes is not None, classes, grid.patch, unmarked=settings.unmarked)
    phase = tuple(int(k) * BLOCK for k in rng.integers(0, grid.step // BLOCK, 2))
    guides = guides_of(semantic, ids, shapes, classes, bank, mpp, grid, (phase[0], phase[1]), ground_slide, rng)
    kind_of = _air_of(classes)
    layout = np.zeros(semantic.shape, np.uint8)
    if classes.air is not None:
        layout[:] = classes.of_layout[semantic] == classes.air
        layout[ids > 0] = 0  # a nucleus in the air is drawn on tissue
    pixels = bank.ground if shapes is not None else bank.image
    image, origin = quilt(pixels, bank.semantic, kind_of, places, guides, layout, grid, (phase[0], phase[1]), rng)
    edge_px = float(rng.uniform(*_EDGE_PX))
    if shapes is None and classes.air is not None:
        soften_outlines(image, layout.astype(np.int32), edge_px)
    if ground_slide != nuclei_slide:
        _match_colour(image, bank.colour[ground_slide, 0], bank.colour[nuclei_slide, 0])
    if shapes is not None and len(shapes.area):
        _add_decoys(image, origin, ids, shapes, layout, settings.decoys, rng)
        _add_nuclei(image, origin, ids, semantic, shapes, bank, nuclei_slide, mpp, settings, rng)
        soften_outlines(image, ids, edge_px)
    return Composed(image, origin, (ground_slide, nuclei_slide))


def _grid_for(bank: Bank, slide: int, filled: bool, classes: Classes, semantic: Bytes, settings: Settings) -> Grid:
    """The grid of patches; a smaller one where a layout has air and the slide's open space is narrower than a patch."""
    usual = SMALL if filled else settings.grid
    if classes.air is None or not (classes.of_layout[semantic] == classes.air).any():
        return usual
    smaller = [grid for grid in (usual, SMALL, _SMALLEST) if grid.patch <= usual.patch]
    able = (grid for grid in smaller if (places_of(bank, slide, filled, classes, grid.patch).whole == _ALL_AIR).any())
    return next(able, smaller[-1])


def _air_of(classes: Classes) -> Bytes:
    """Class id of the bank -> 1 for air, else 0: uint8 [256]."""
    if classes.air is None:
        return np.zeros(256, np.uint8)
    return np.asarray(classes.of_bank == classes.air, np.uint8)


@lru_cache(maxsize=64)
def _shares_of_slides(bank: Bank, classes: Classes) -> npt.NDArray[np.float64]:
    """Share of each group of classes on each slide, float64 [slides, groups]; of air in blocks of nothing else alone.

    Bright pixels within tissue pass for air, and make no open space.
    """
    owner = np.repeat(bank.pages[:, 3], bank.pages[:, 1] * bank.pages[:, 2] // BLOCK**2)
    planes = [shares_of_group(bank, classes, group) for group in range(classes.groups)]
    if classes.air is not None:
        planes[classes.air] = np.where(planes[classes.air] == 255, 255, 0)
    return np.array([[plane[owner == slide].mean() / 255 for plane in planes] for slide in range(len(bank.slides))])


def _fitness(bank: Bank, classes: Classes, semantic: Bytes) -> npt.NDArray[np.float64]:
    """How far each slide can give what a layout asks: 1 where it has a third of every class's share, float64 [slides].

    A slide with a trace of a class would repeat the same few patches.
    """
    held = _shares_of_slides(bank, classes)
    asked = np.bincount(classes.of_layout[semantic].ravel(), minlength=classes.groups) / semantic.size
    fit = np.minimum(held / np.maximum(asked / 3, 1e-6), 1)[:, asked > 0.002].min(1)
    return fit if fit.max() > 0 else np.ones(len(held))


def _fitness_of_sizes(bank: Bank, shapes: Shapes) -> npt.NDArray[np.float64]:
    """How far the nuclei of each slide are as large as a layout's, 0 to 1: float64 [slides].

    Nuclei that are shrunk or blown up by far look as if another objective had taken them.
    """
    drawn = shapes.area[~shapes.cut]
    if len(drawn) < _FEWEST_SIZES:
        return np.ones(len(bank.slides))
    off = ((_sizes_of_slides(bank) - float(np.log(drawn).mean())) / _SIZE_SPREAD) ** 2
    return np.asarray(np.exp(-0.5 * (off - off.min())))


@lru_cache(maxsize=4)
def _sizes_of_slides(bank: Bank) -> npt.NDArray[np.float64]:
    """Mean logarithm of the area of the nuclei of each slide, float64 [slides]; of all where a slide has few."""
    slide, size = bank.pages[bank.nuclei.page, 3], np.log(bank.nuclei.area.astype(np.float64))
    count = np.bincount(slide, minlength=len(bank.slides))
    total = np.bincount(slide, size, minlength=len(bank.slides))
    return np.where(count < _FEWEST_OWN, size.mean(), total / np.maximum(count, 1))


def _draw_slides(
    bank: Bank, fitness: npt.NDArray[np.float64], settings: Settings, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw the slide of the nuclei and that of the ground, the fitter the likelier."""
    bounds = np.cumsum(fitness**2)
    own, other = (int((draw * bounds[-1] >= bounds).sum()) for draw in rng.random(2))
    mixed = rng.random() < settings.mix
    own = own if settings.slide is None else settings.slide
    return own, other if mixed else own


@lru_cache(maxsize=64)
def places_of(bank: Bank, slide: int, filled: bool, classes: Classes, patch: int, *, unmarked: bool = False) -> Places:
    """List the places of a slide that patches are taken from.

    Args:
        bank: of tissue. slide: its number. filled: whether patches are of the filled ground, which is better the fewer
            of its pixels are filled. classes: matched. patch: side of a patch.
        unmarked: whether patches that are mostly brown are left out, where a slide has enough others.
    """
    rows, means = [], []
    cells = patch // BLOCK
    planes = [shares_of_group(bank, classes, group) for group in range(classes.groups)]
    air = _air_of(classes)[: bank.shares.shape[1]].astype(bool)
    brown = _brown_blocks(bank, slide) if unmarked else np.zeros_like(bank.blocks[:, 0])
    planes = [bank.blocks[:, 0], brown, bank.shares[:, air].sum(1, dtype=np.int64), *planes]
    for first, height, width, owner, first_block in bank.pages.tolist():
        if owner != slide:
            continue
        down, across = height // BLOCK, width // BLOCK
        blocks = slice(first_block, first_block + down * across)
        if down < cells or across < cells:
            continue
        y, x = np.mgrid[0 : down - cells + 1, 0 : across - cells + 1].reshape(2, -1)
        count = len(y)
        columns = [np.full(count, first), np.full(count, width), y * BLOCK, x * BLOCK]
        rows.append(np.stack([*columns, np.full(count, first_block), np.full(count, across)], axis=1))
        found = []
        for plane in planes:
            summed = cv2.integral(plane[blocks].reshape(down, across).astype(np.float64))
            total = (
                summed[cells:, cells:] - summed[:-cells, cells:] - summed[cells:, :-cells] + summed[:-cells, :-cells]
            )
            found.append(total.ravel() / (255 * cells * cells))
        means.append(np.stack(found))
    table, (share, marked, airy, *groups) = np.concatenate(rows).astype(np.int64), np.concatenate(means, axis=1)
    if filled:
        order = np.sort(share)
        kept = share <= max(_MOST_UNKNOWN, order[min(_ENOUGH, len(order) - 1)])
    else:
        kept = share < 1
    order = np.sort(marked[kept])
    kept &= marked <= max(_MOST_BROWN, order[min(_ENOUGH, len(order) - 1)])
    whole = np.where(airy < 0.002, 1, np.where(airy > 0.998, 2, 0))[kept]
    holding = tuple(np.flatnonzero(group[kept] > _MUCH) for group in groups) if len(groups) > 1 else ()
    loose = np.stack([_loose_pixels(bank, slide, classes, kind) for kind in range(2)])
    return Places(np.ascontiguousarray(table[kept]), np.ascontiguousarray(whole.astype(np.int64)), loose, holding)


def _brown_blocks(bank: Bank, slide: int) -> Bytes:
    """Share of pixels with DAB in each block of a slide, uint8 [B], 255 = all; 0 on other slides."""
    share = np.zeros(len(bank.blocks), np.uint8)
    numbers = np.flatnonzero(bank.pages[:, 3] == slide)
    stains = estimate_stains([bank.picture(int(number)) for number in numbers[:_MEASURED]])
    for number in numbers:
        brown = (separate(bank.picture(int(number)), stains)[1] > _BROWN_OD).astype(np.uint8) * np.uint8(255)
        height, width, first = (int(value) for value in bank.pages[number, [1, 2, 4]])
        size = (width // BLOCK, height // BLOCK)
        share[first : first + size[0] * size[1]] = cv2.resize(brown, size, interpolation=cv2.INTER_AREA).ravel()
    return share


def _loose_pixels(bank: Bank, slide: int, classes: Classes, kind: int) -> Longs:
    """Pixels of air (kind 1) or of anything else (0) of a slide's usual brightness, of the bank's where it has none.

    Of blocks of one kind alone where there are any: the brightest pixels of tissue pass for air.
    """
    right = _air_of(classes) == kind
    whole = bank.shares[:, right[: bank.shares.shape[1]]].sum(1, dtype=np.int64) >= 255
    middles, pages = [], bank.pages[bank.pages[:, 3] == slide]
    for first, height, width, _, first_block in pages.tolist():
        y, x = np.divmod(np.flatnonzero(whole[first_block:][: height * width // BLOCK**2]), width // BLOCK)
        middles.append(first + (y * width + x) * BLOCK + (width + 1) * (BLOCK // 2))
    every = [np.arange(p[0], p[0] + p[1] * p[2]) for p in pages]
    for pixels in (np.concatenate(middles), np.concatenate(every), np.arange(len(bank.semantic))):
        found = pixels[right[bank.semantic[pixels]]]
        if len(found):
            level = bank.image[found].sum(1, dtype=np.int64)
            found = found[np.abs(level - np.sort(level)[len(level) // 2]) <= _USUAL_LEVELS]
            return np.asarray(found[np.linspace(0, len(found) - 1, 256).astype(np.int64)], np.int64)
    return np.zeros(256, np.int64)


def _match_colour(image: Bytes, own: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    """Give the ground the mean and the spread of another slide's optical density, in place."""
    levels = np.arange(256)
    density = -np.log((levels + 1) / 256)
    for channel in range(3):
        spread = float(np.clip(wanted[1, channel] / max(own[1, channel], 1e-3), 0.6, 1.6))
        matched = (density - own[0, channel]) * spread + wanted[0, channel]
        # a pixel without dye stays without
        matched = np.minimum(density / max(float(own[0, channel]), 1e-3), 1) * np.maximum(matched, 0)
        table = np.clip(np.rint(256 * np.exp(-matched) - 1), 0, 255).astype(np.uint8)
        image[..., channel] = table[image[..., channel]]


def _add_decoys(
    image: Bytes, origin: Longs, ids: Ids, shapes: Shapes, layout: Bytes, share: float, rng: np.random.Generator
) -> None:
    """Lay nucleus-shaped pieces of the ground elsewhere on it, in place."""
    height, width = ids.shape
    for nucleus, y, x in decoy_outlines(ids, shapes, share, rng):
        y0, x0, y1, x1 = shapes.box[nucleus]
        h, w = y1 - y0, x1 - x0
        v, u = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        here, there = np.s_[y : y + h, x : x + w], np.s_[v : v + h, u : u + w]
        if layout[here].any() or layout[there].any() or ids[there].any():
            continue
        mask = (ids[y0:y1, x0:x1] == nucleus + 1).astype(np.float32)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None]
        image[here] = np.rint(image[here] * (1 - soft) + image[there] * soft).astype(np.uint8)
        origin[here][mask > 0] = origin[there][mask > 0]


def _add_nuclei(
    image: Bytes,
    origin: Longs,
    ids: Ids,
    semantic: Bytes,
    shapes: Shapes,
    bank: Bank,
    slide: int,
    mpp: float,
    settings: Settings,
    rng: np.random.Generator,
) -> None:
    """Choose nuclei of the right class and set them into their outlines, in place."""
    first = np.zeros(len(shapes.area), np.int64)
    flat = ids.ravel()
    found = np.flatnonzero(flat)
    first[flat[found[::-1]] - 1] = found[::-1]
    labels = semantic.ravel()[first]
    slide_of = bank.pages[bank.nuclei.page, 3]
    choice_row = np.zeros(len(labels), np.int64)
    turned, mirrored = np.zeros((2, len(labels)), np.bool_)
    factors = np.ones((len(labels), 3), np.float32)
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        fits = np.isin(bank.nuclei.label, settings.label_of[label])
        own = np.flatnonzero(fits & (slide_of == slide))
        allowed = own if len(own) >= _FEWEST_OWN else np.flatnonzero(fits)
        part = Shapes(*(getattr(shapes, name)[chosen] for name in Shapes.__dataclass_fields__))
        choice = choose_nuclei(bank, allowed, part, rng)
        choice_row[chosen], turned[chosen], mirrored[chosen] = choice.row, choice.turned, choice.mirrored
        # of the ground: the mean of nuclei depends on how many of them are positive
        shift = bank.colour[slide, 0, 0] - bank.colour[slide_of[choice.row], 0, 0]
        deviates = np.clip(rng.normal(0, 1, (len(chosen), 1)), -2, 2) * settings.vary
        factors[chosen] = np.exp(-(shift + deviates)).astype(np.float32)
    set_nuclei(image, origin, ids, shapes, bank, Choice(choice_row, turned, mirrored), factors, mpp, rng)
