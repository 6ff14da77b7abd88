"""Nuclei of an image of any size, block by block from blended maps; none is cut or counted twice at an edge.

The image is processed in stripes of columns, each from top to bottom, so that memory is independent of its size. A
block is read with a margin around it. A nucleus belongs to the first block that contains its centroid, with a tolerance
of a few pixels. A later block skips a nucleus of which half is assigned already, and otherwise takes its free pixels.
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
"""Widest stripe; the maps of one row of windows in it are in memory at a time."""
BLOCK_PX = 4096
"""Widest block whose nuclei are read at once."""
MARGIN_UM = 32.0
"""Margin around a block. Objects that reach further beyond their block may be split."""
_SLACK_PX = 8
"""Tolerance for the centroid of a nucleus in two blocks: ties on its outline may be decided differently."""


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
        """Index of this box in an array of `other`."""
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
        """Whether a pixel is inside."""
        return self.top <= y < self.bottom and self.left <= x < self.right


@dataclass(frozen=True)
class Nucleus:
    """One nucleus and its place in the image.

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
    """Labels of one block of the image.

    Attributes:
        box: the block. background: uint8 [H, W], classes outside nuclei; under a nucleus the most probable other class.
        confidence: float32 [H, W], probability of the class in `background`.
        nuclei: of the block; they may reach beyond it.
    """

    box: Box
    background: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    nuclei: list[Nucleus]


@dataclass(frozen=True)
class Canvas:
    """An image at the network's resolution, with its windows.

    Attributes:
        height, width: in pixels. rows, columns: the windows that cover it.
        predict: gives the maps of the window that starts at (y, x).
    """

    height: int
    width: int
    rows: Axis
    columns: Axis
    predict: Callable[[int, int], Maps]


@dataclass
class _AssignedNuclei:
    """Nuclei of earlier blocks that later blocks may read again."""

    here: list[Nucleus] = field(default_factory=list)
    beyond_stripe: list[Nucleus] = field(default_factory=list)

    def mask(self, box: Box) -> npt.NDArray[np.bool_]:
        """Pixels of a box that belong to these nuclei: bool [H, W]."""
        taken = np.zeros((box.bottom - box.top, box.right - box.left), np.bool_)
        for nucleus in self.here:
            if nucleus.box.meets(box):
                shared = nucleus.box.clipped(box)
                taken[shared.within(box)] |= nucleus.mask[shared.within(nucleus.box)]
        return taken

    def add(self, block: Block, margin: int, stripe_end: int) -> None:
        """Keep the nuclei of a block that reach into the margins of later ones."""
        for nucleus in block.nuclei:
            if nucleus.box.bottom > block.box.bottom - margin or nucleus.box.right > block.box.right - margin:
                self.here.append(nucleus)
            if nucleus.box.right > stripe_end - margin:
                self.beyond_stripe.append(nucleus)

    def forget_above(self, row: int) -> None:
        """Drop nuclei above all later blocks of this stripe."""
        self.here = [nucleus for nucleus in self.here if nucleus.box.bottom > row]

    def next_stripe(self) -> None:
        """Continue with the nuclei that reach into the next stripe."""
        self.here, self.beyond_stripe = self.beyond_stripe, []


@dataclass(frozen=True)
class _BufferedMaps:
    """Blended maps of the rows that later blocks need, in the columns of a stripe and its margins."""

    box: Box
    maps: Maps

    def cut(self, box: Box) -> Maps:
        """The maps of a box."""
        part = (slice(None), *box.within(self.box))
        distance = None if self.maps.distance is None else self.maps.distance[part[1:]]
        return Maps(self.maps.probabilities[part], distance)

    def with_band(self, band: Band, height: int) -> _BufferedMaps:
        """These rows and those of the next band, without padding below row `height`."""
        bottom = min(band.top + band.maps.probabilities.shape[1], height)
        added = bottom - self.box.bottom
        distance = self.maps.distance
        if distance is not None and band.maps.distance is not None:
            distance = np.concatenate([distance, band.maps.distance[:added]])
        probabilities = np.concatenate([self.maps.probabilities, band.maps.probabilities[:, :added]], axis=1)
        return _BufferedMaps(Box(self.box.top, bottom, self.box.left, self.box.right), Maps(probabilities, distance))

    def from_row(self, row: int) -> _BufferedMaps:
        """The maps from a row on."""
        box = Box(max(row, self.box.top), self.box.bottom, self.box.left, self.box.right)
        return _BufferedMaps(box, self.cut(box))


def read_blocks(canvas: Canvas, scheme: LabelScheme, mpp: float, config: InstanceConfig) -> Iterator[Block]:
    """Read every block of an image, stripe by stripe and from top to bottom."""
    margin, image = _margin(scheme, mpp), Box(0, canvas.height, 0, canvas.width)
    taken = _AssignedNuclei()
    for left, right in split_evenly(canvas.width, STRIPE_PX):
        span = (max(left - margin, 0), min(right + margin, canvas.width))
        for buffer, top, bottom in _readable(canvas, span, margin):
            for first, end in split_evenly(right - left, BLOCK_PX):
                core = Box(top, bottom, left + first, left + end)
                region = core.grown(margin).clipped(buffer.box)
                tile = read_tile(buffer.cut(region), scheme, mpp, config)
                block = _read_block(core, region, image, tile, buffer.cut(region), taken.mask(region))
                taken.add(block, margin, right)
                yield block
            taken.forget_above(bottom - margin)
        taken.next_stripe()


def count_windows(rows: Axis, columns: Axis, width: int, mpp: float, scheme: LabelScheme) -> int:
    """Number of windows that `read_blocks` predicts; windows across two stripes count twice."""
    margin = _margin(scheme, mpp)
    spans = [(max(left - margin, 0), min(right + margin, width)) for left, right in split_evenly(width, STRIPE_PX)]
    return len(rows.starts) * sum(len(columns.touching(*span)) for span in spans)


def _margin(scheme: LabelScheme, mpp: float) -> int:
    """Margin around a block in pixels; none for schemes without nuclei."""
    return math.ceil(MARGIN_UM / mpp) if has_instances(scheme) else 0


def split_evenly(length: int, most: int) -> list[tuple[int, int]]:
    """Split 0..length into the fewest parts of nearly equal length, of at most `most`."""
    count = -(-length // most)
    edges = [length * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


def _readable(canvas: Canvas, span: tuple[int, int], margin: int) -> Iterator[tuple[_BufferedMaps, int, int]]:
    """Buffered maps, and rows (top, bottom) that can be read from them with margins, until all rows are read."""
    buffer, top = None, 0
    for band in blended_bands(canvas.predict, canvas.rows, canvas.columns, span):
        nothing = Maps(band.maps.probabilities[:, :0], None if band.maps.distance is None else band.maps.distance[:0])
        buffer = (buffer or _BufferedMaps(Box(0, 0, *span), nothing)).with_band(band, canvas.height)
        bottom = canvas.height if buffer.box.bottom == canvas.height else buffer.box.bottom - margin
        if bottom > top:
            yield buffer, top, bottom
            buffer, top = buffer.from_row(bottom - margin), bottom


def _read_block(core: Box, region: Box, image: Box, tile: Tile, maps: Maps, taken: npt.NDArray[np.bool_]) -> Block:
    """Labels of a block: classes of its pixels, and the nuclei that belong to it."""
    inner = core.within(region)
    background = _background(tile, maps)[inner]
    confidence = np.take_along_axis(maps.probabilities[(slice(None), *inner)], background[None].astype(np.intp), 0)[0]
    nuclei = _own_nuclei(core, region, image, tile, maps, taken) if has_instances(tile.scheme) else []
    return Block(core, background, confidence, list(nuclei))


def _background(tile: Tile, maps: Maps) -> npt.NDArray[np.uint8]:
    """Classes outside nuclei; under a nucleus the most probable other class, if the scheme has one."""
    nucleus = tile.scheme.ids("nucleus")
    other = np.array([label.id for label in tile.scheme.classes if label.id not in nucleus], np.uint8)
    if not nucleus or not other.size:
        return tile.semantic
    return np.where(tile.instance > 0, other[maps.probabilities[other].argmax(0)], tile.semantic)


def _own_nuclei(
    core: Box, region: Box, image: Box, tile: Tile, maps: Maps, taken: npt.NDArray[np.bool_]
) -> Iterator[Nucleus]:
    """Nuclei of a region that belong to its core; arguments as in `_read_block`."""
    from scipy.ndimage import find_objects

    for number, (rows, columns) in enumerate(find_objects(tile.instance), 1):
        place = rows, columns
        mask = tile.instance[place] == number
        box = Box(
            rows.start + region.top, rows.stop + region.top, columns.start + region.left, columns.stop + region.left
        )
        y, x = (int(index.sum()) // index.size for index in mask.nonzero())
        # The centroid of a nucleus cut by the region's edge is not its true one: no tolerance there.
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
    """Whether an object touches an edge of its region that is not an edge of the image."""
    return (
        (box.top == region.top > image.top)
        or (box.left == region.left > image.left)
        or (box.bottom == region.bottom < image.bottom)
        or (box.right == region.right < image.right)
    )


def _largest_piece(box: Box, free: npt.NDArray[np.bool_]) -> tuple[Box, npt.NDArray[np.bool_]]:
    """The largest 4-connected piece of the free pixels of a nucleus, and its box."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(free.astype(np.uint8), connectivity=4)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    left, top, width, height, _ = (int(value) for value in stats[largest])
    piece = Box(box.top + top, box.top + top + height, box.left + left, box.left + left + width)
    return piece, pieces[top : top + height, left : left + width] == largest
