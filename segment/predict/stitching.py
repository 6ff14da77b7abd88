"""Nuclei of an image of any size, read block by block from blended maps, none cut or counted twice at a seam.

The image is worked through in stripes of columns, each from top to bottom, so that memory depends on neither side.
A block is read with a margin around it. A nucleus belongs to the first block that holds its centroid, or has it within
a few pixels; a later block that finds half of a nucleus taken lets it be, and otherwise takes what is free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from manifests.labels import LabelScheme
from manifests.tile import Tile
from segment.network.head import has_instances
from segment.network.inference import Maps
from segment.network.instances import InstanceConfig, read_tile
from segment.predict.windows import Axis, Band, blended_bands

STRIPE_PX = 8192
"""Widest stripe; the maps of one row of windows in it are held at a time."""
BLOCK_PX = 4096
"""Widest block whose nuclei are read at once."""
MARGIN_UM = 32.0
"""Surroundings with which a block is read. Objects that reach further than this beyond their block may be parted."""
_SLACK_PX = 8
"""How far two readings of one nucleus may put its centroid apart: ties on its outline can fall either way."""


@dataclass(frozen=True)
class Box:
    """Rows from `top` to before `bottom`, columns from `left` to before `right`."""

    top: int
    bottom: int
    left: int
    right: int

    def grown(self, by: int) -> Box:
        """The box with `by` pixels more on every side."""
        return Box(self.top - by, self.bottom + by, self.left - by, self.right + by)

    def clipped(self, to: Box) -> Box:
        """The part inside another box."""
        return Box(
            max(self.top, to.top), min(self.bottom, to.bottom), max(self.left, to.left), min(self.right, to.right)
        )

    def within(self, other: Box) -> tuple[slice, slice]:
        """Index of this box in an array that covers `other`."""
        return (
            slice(self.top - other.top, self.bottom - other.top),
            slice(self.left - other.left, self.right - other.left),
        )

    def meets(self, other: Box) -> bool:
        """Whether the boxes share a pixel."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )

    def holds(self, y: int, x: int) -> bool:
        """Whether a pixel lies inside."""
        return self.top <= y < self.bottom and self.left <= x < self.right


@dataclass(frozen=True)
class Nucleus:
    """One nucleus where it lies in the image.

    Attributes:
        label: its class. probability: mean over its pixels of the probability of its class.
        box: smallest box around it. mask: bool, of the box's size; one 4-connected piece.
    """

    label: int
    probability: float
    box: Box
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """What was read of one block of the image.

    Attributes:
        box: the block. ground: uint8 [H, W], the classes outside nuclei; under a nucleus the most probable other one.
        confidence: float32 [H, W], the probability of the class in `ground`.
        nuclei: those that belong to the block; they may reach beyond it.
    """

    box: Box
    ground: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    nuclei: list[Nucleus]


@dataclass(frozen=True)
class Canvas:
    """An image as the network sees it.

    Attributes:
        height, width: in pixels. rows, columns: the windows that cover it.
        predict: maps of the window that starts at (y, x).
    """

    height: int
    width: int
    rows: Axis
    columns: Axis
    predict: Callable[[int, int], Maps]


@dataclass
class _Taken:
    """Nuclei that blocks still to come may see again."""

    here: list[Nucleus] = field(default_factory=list)
    beyond_stripe: list[Nucleus] = field(default_factory=list)

    def mask(self, box: Box) -> npt.NDArray[np.bool_]:
        """Which pixels of a box are taken."""
        taken = np.zeros((box.bottom - box.top, box.right - box.left), np.bool_)
        for nucleus in self.here:
            if nucleus.box.meets(box):
                shared = nucleus.box.clipped(box)
                taken[shared.within(box)] |= nucleus.mask[shared.within(nucleus.box)]
        return taken

    def add(self, block: Block, margin: int, stripe_end: int) -> None:
        """Keep the nuclei of a block that reach into what others are read with."""
        for nucleus in block.nuclei:
            if nucleus.box.bottom > block.box.bottom - margin or nucleus.box.right > block.box.right - margin:
                self.here.append(nucleus)
            if nucleus.box.right > stripe_end - margin:
                self.beyond_stripe.append(nucleus)

    def forget_above(self, row: int) -> None:
        """Drop what lies above all blocks to come in this stripe."""
        self.here = [nucleus for nucleus in self.here if nucleus.box.bottom > row]

    def next_stripe(self) -> None:
        """Go on with what reaches into the next stripe."""
        self.here, self.beyond_stripe = self.beyond_stripe, []


@dataclass(frozen=True)
class _Held:
    """Blended maps of the rows that blocks still to come need, in the columns of a stripe and its margins."""

    box: Box
    maps: Maps

    def cut(self, box: Box) -> Maps:
        """The maps of a box."""
        part = (slice(None), *box.within(self.box))
        distance = None if self.maps.distance is None else self.maps.distance[part[1:]]
        return Maps(self.maps.probabilities[part], distance)

    def with_band(self, band: Band, height: int) -> _Held:
        """These rows and those of the next band, without what pads the image below row `height`."""
        bottom = min(band.top + band.maps.probabilities.shape[1], height)
        added = bottom - self.box.bottom
        distance = self.maps.distance
        if distance is not None and band.maps.distance is not None:
            distance = np.concatenate([distance, band.maps.distance[:added]])
        probabilities = np.concatenate([self.maps.probabilities, band.maps.probabilities[:, :added]], axis=1)
        return _Held(Box(self.box.top, bottom, self.box.left, self.box.right), Maps(probabilities, distance))

    def from_row(self, row: int) -> _Held:
        """What lies below a row."""
        box = Box(max(row, self.box.top), self.box.bottom, self.box.left, self.box.right)
        return _Held(box, self.cut(box))


def read_blocks(canvas: Canvas, scheme: LabelScheme, mpp: float, config: InstanceConfig) -> Iterator[Block]:
    """Every block of an image, stripe by stripe and from top to bottom.

    Args:
        canvas: the image and the network. scheme: of the network's classes. mpp: micrometres per pixel of the canvas.
        config: how nuclei are read.
    """
    margin, image = _margin(scheme, mpp), Box(0, canvas.height, 0, canvas.width)
    taken = _Taken()
    for left, right in parts(canvas.width, STRIPE_PX):
        span = (max(left - margin, 0), min(right + margin, canvas.width))
        for held, top, bottom in _readable(canvas, span, margin):
            for first, end in parts(right - left, BLOCK_PX):
                core = Box(top, bottom, left + first, left + end)
                region = core.grown(margin).clipped(held.box)
                tile = read_tile(held.cut(region), scheme, mpp, config)
                block = _settle(core, region, image, tile, held.cut(region), taken.mask(region))
                taken.add(block, margin, right)
                yield block
            taken.forget_above(bottom - margin)
        taken.next_stripe()


def count_windows(rows: Axis, columns: Axis, width: int, mpp: float, scheme: LabelScheme) -> int:
    """How many windows `read_blocks` predicts; those between two stripes count twice."""
    margin = _margin(scheme, mpp)
    spans = [(max(left - margin, 0), min(right + margin, width)) for left, right in parts(width, STRIPE_PX)]
    return len(rows.starts) * sum(len(columns.touching(*span)) for span in spans)


def _margin(scheme: LabelScheme, mpp: float) -> int:
    """Pixels around a block that it is read with: none where pixels are read one by one."""
    return math.ceil(MARGIN_UM / mpp) if has_instances(scheme) else 0


def parts(length: int, most: int) -> list[tuple[int, int]]:
    """Split 0..length into the fewest parts of nearly equal length, none longer than `most`."""
    count = -(-length // most)
    edges = [length * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


def _readable(canvas: Canvas, span: tuple[int, int], margin: int) -> Iterator[tuple[_Held, int, int]]:
    """Maps held, and the rows (top, bottom) that can be read from them with their margins, until all rows are."""
    held, top = None, 0
    for band in blended_bands(canvas.predict, canvas.rows, canvas.columns, span):
        nothing = Maps(band.maps.probabilities[:, :0], None if band.maps.distance is None else band.maps.distance[:0])
        held = (held or _Held(Box(0, 0, *span), nothing)).with_band(band, canvas.height)
        bottom = canvas.height if held.box.bottom == canvas.height else held.box.bottom - margin
        if bottom > top:
            yield held, top, bottom
            held, top = held.from_row(bottom - margin), bottom


def _settle(core: Box, region: Box, image: Box, tile: Tile, maps: Maps, taken: npt.NDArray[np.bool_]) -> Block:
    """What was read of a region, cut down to the classes of its core and the nuclei that belong to it.

    Args:
        core: the block. region: the block with its margins. image: all of the image.
        tile: of the region, from `maps`. taken: bool [H, W] of the region, what earlier blocks have.
    """
    inner = core.within(region)
    ground = _ground(tile, maps)[inner]
    confidence = np.take_along_axis(maps.probabilities[(slice(None), *inner)], ground[None].astype(np.intp), 0)[0]
    nuclei = _own_nuclei(core, region, image, tile, maps, taken) if has_instances(tile.scheme) else []
    return Block(core, ground, confidence, list(nuclei))


def _ground(tile: Tile, maps: Maps) -> npt.NDArray[np.uint8]:
    """Classes outside nuclei; under a nucleus the most probable of the others, where the scheme has others."""
    nucleus = tile.scheme.ids("nucleus")
    other = np.array([label.id for label in tile.scheme.classes if label.id not in nucleus], np.uint8)
    if not nucleus or not other.size:
        return tile.semantic
    return np.where(tile.instance > 0, other[maps.probabilities[other].argmax(0)], tile.semantic)


def _own_nuclei(
    core: Box, region: Box, image: Box, tile: Tile, maps: Maps, taken: npt.NDArray[np.bool_]
) -> Iterator[Nucleus]:
    """The nuclei of a region that belong to its core; arguments as in `_settle`."""
    from scipy.ndimage import find_objects

    for number, (rows, columns) in enumerate(find_objects(tile.instance), 1):
        place = rows, columns
        mask = tile.instance[place] == number
        box = Box(
            rows.start + region.top, rows.stop + region.top, columns.start + region.left, columns.stop + region.left
        )
        y, x = (int(index.sum()) // index.size for index in mask.nonzero())
        # The centroid of what the region's edge cuts off is not the nucleus's: it gets no benefit of the doubt.
        reach = core if _is_cut(box, region, image) else core.grown(_SLACK_PX)
        if not reach.holds(y + box.top, x + box.left):
            continue
        free = mask & ~taken[place]
        if 2 * np.count_nonzero(free) <= np.count_nonzero(mask):
            continue
        label = int(np.bincount(tile.semantic[place][mask]).argmax())
        probability = float(maps.probabilities[label][place][mask].mean())
        if not (free == mask).all():
            box, free = _largest_piece(box, free)
        yield Nucleus(label, probability, box, free)


def _is_cut(box: Box, region: Box, image: Box) -> bool:
    """Whether an object touches an edge of its region that is not the image's own."""
    return (
        (box.top == region.top > image.top)
        or (box.left == region.left > image.left)
        or (box.bottom == region.bottom < image.bottom)
        or (box.right == region.right < image.right)
    )


def _largest_piece(box: Box, free: npt.NDArray[np.bool_]) -> tuple[Box, npt.NDArray[np.bool_]]:
    """The largest 4-connected piece of what neighbours have left of a nucleus, and the box around it."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(free.astype(np.uint8), connectivity=4)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    left, top, width, height, _ = (int(value) for value in stats[largest])
    piece = Box(box.top + top, box.top + top + height, box.left + left, box.left + left + width)
    return piece, pieces[top : top + height, left : left + width] == largest
