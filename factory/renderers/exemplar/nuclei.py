"""Real nuclei set into drawn outlines, with what surrounds them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import RAYS, Bank
from factory.bank.shapes import Shapes
from factory.core.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_NEAREST = 12
"""Nuclei of most similar size and elongation that one is drawn from."""
_RIM_UM = 1.25
"""Width of the real surroundings that come along with a nucleus."""
_COLUMNS = 12


@dataclass(frozen=True)
class Choice:
    """Which nucleus of a bank is set into each outline.

    Attributes:
        row: int64 [N], of `factory.bank.bank.Nuclei`. turned: bool [N], by half a turn. mirrored: bool [N].
    """

    row: npt.NDArray[np.int64]
    turned: npt.NDArray[np.bool_]
    mirrored: npt.NDArray[np.bool_]


def choose_nuclei(bank: Bank, allowed: npt.NDArray[np.int64], shapes: Shapes, rng: np.random.Generator) -> Choice:
    """Choose, for each outline, among the nuclei most like it; one that was used is used again last.

    Args:
        bank: of tissue. allowed: int64 [M], rows of its nuclei. shapes: of the N outlines. rng: of the tile.
    """
    nuclei = bank.nuclei
    pool = _describe(nuclei.area[allowed], nuclei.axes[allowed])
    wanted = _describe(shapes.area, shapes.axes)
    near = min(_NEAREST, len(allowed))
    row = np.empty(len(wanted), np.int64)
    used = np.zeros(len(allowed), np.int64)
    draws = rng.random(len(wanted))
    for k, each in enumerate(wanted):
        distance = ((pool - each) ** 2).sum(1)
        found = np.argpartition(distance, near - 1)[:near]
        found = found[np.lexsort((found, distance[found]))]
        found = found[used[found] == used[found].min()]
        chosen = found[int(draws[k] * len(found))]
        used[chosen] += 1
        row[k] = allowed[chosen]
    turned, mirrored = rng.random((2, len(wanted))) < 0.5
    return Choice(row, turned, mirrored)


def _describe(area: Floats, axes: Floats) -> Floats:
    """Logarithms of size and of elongation, which counts double."""
    return np.stack([np.log(area), 1.4 * np.log(axes[:, 0] / axes[:, 1])], axis=1).astype(np.float32)


def set_nuclei(
    canvas: Bytes,
    origin: npt.NDArray[np.int64],
    ids: Ids,
    shapes: Shapes,
    bank: Bank,
    choice: Choice,
    factors: Floats,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Draw nuclei into their outlines, in place.

    Each is mapped so that its own outline falls onto the drawn one, along rays from the centroid. So no pixel outside
    of an outline shows the inside of a nucleus, and none inside shows the outside of one. Around it its real rim fades
    into the ground.

    Args:
        canvas: uint8 [H, W, 3], the ground. origin: int64 [H, W], changed to the pixels of the bank that nuclei come
            from. ids: int32 [H, W], outlines 1..N. shapes: of these. bank, choice: the nuclei.
        factors: float32 [N, 3], of the transmitted light of each nucleus, 1 = as it is. mpp: of the tile. rng: of it.
    """
    rim = rng.uniform(0.5, 1.0, len(shapes.area)) * _RIM_UM / mpp
    strength = rng.uniform(0.35, 1.0, len(shapes.area))
    nuclei, pages = bank.nuclei, bank.pages
    table = np.empty((len(shapes.area), _COLUMNS), np.float64)
    for k, row in enumerate(choice.row):
        page = pages[nuclei.page[row]]
        turn = nuclei.angle[row] + (math.pi if choice.turned[k] else 0.0)
        table[k] = (
            *shapes.centre[k], shapes.angle[k], page[0], page[1], page[2], *nuclei.centre[row], turn,
            -1.0 if choice.mirrored[k] else 1.0, rim[k], strength[k],
        )  # fmt: skip
    radii = nuclei.radii[choice.row]
    mirrored = choice.mirrored
    radii[mirrored] = np.roll(radii[mirrored, ::-1], 1, axis=1)
    radii[choice.turned] = np.roll(radii[choice.turned], RAYS // 2, axis=1)
    order = rng.permutation(len(shapes.area))
    _set(
        canvas, origin, ids, order, shapes.box, table, shapes.radii, radii, nuclei.number[choice.row].astype(np.int64),
        factors, bank.image, bank.nucleus,
    )  # fmt: skip


@compiled()
def _radius(radii, direction):  # type: ignore[no-untyped-def]
    """Radius of an outline in a direction, between two rays."""
    place = direction * (RAYS / (2 * math.pi))
    first = math.floor(place)
    part = place - first
    a, b = int(first) % RAYS, (int(first) + 1) % RAYS
    return radii[a] * (1 - part) + radii[b] * part


@compiled()
def _set(  # type: ignore[no-untyped-def]
    canvas, origin, ids, order, box, table, drawn_radii, own_radii, numbers, factors, image, nucleus
):
    height, width = ids.shape
    for k in order:
        cy, cx, angle, first, page_height, page_width, sy, sx, own_angle, mirror, rim, strength = table[k]
        margin = int(rim) + 2
        for y in range(max(0, box[k, 0] - margin), min(height, box[k, 2] + margin)):
            for x in range(max(0, box[k, 1] - margin), min(width, box[k, 3] + margin)):
                inside = ids[y, x] == k + 1
                if not inside and ids[y, x] != 0:
                    continue
                dy, dx = y - cy, x - cx
                reach = math.sqrt(dy * dy + dx * dx)
                direction = math.atan2(dy, dx) - angle
                drawn, own = _radius(drawn_radii[k], direction), _radius(own_radii[k], direction)
                beyond = reach - drawn
                if not inside and beyond > rim:
                    continue
                distance = min(reach / drawn, 1.0) * own if inside else own + max(beyond, 0.0)
                bearing = own_angle + mirror * direction
                v, u = sy + distance * math.sin(bearing), sx + distance * math.cos(bearing)
                if inside:
                    for step in range(24):  # a concave outline: go back towards the centroid until inside
                        at = _pixel(v, u, first, page_height, page_width)
                        if at >= 0 and nucleus[at] == numbers[k]:
                            break
                        distance = max(distance - 0.35, 0.0) if step < 12 else distance * 0.8
                        v, u = sy + distance * math.sin(bearing), sx + distance * math.cos(bearing)
                else:
                    for _ in range(3):  # the pixels that an outline cuts belong to the nucleus
                        at = _pixel(v, u, first, page_height, page_width)
                        if at < 0 or nucleus[at] != numbers[k]:
                            break
                        distance += 0.5
                        v, u = sy + distance * math.sin(bearing), sx + distance * math.cos(bearing)
                at = _pixel(v, u, first, page_height, page_width)
                if at < 0:
                    continue
                if inside:
                    weight = 1.0
                    origin[y, x] = at
                elif nucleus[at] != 0:
                    continue
                else:
                    weight = min(1.0, strength * 2.0 * (1.0 - max(beyond, 0.0) / rim))
                    if weight > 0.5:
                        origin[y, x] = at
                _mix(canvas, y, x, image, v, u, first, page_height, page_width, weight, factors[k])


@compiled()
def _pixel(v, u, first, height, width):  # type: ignore[no-untyped-def]
    """Pixel of the bank nearest to a place on a page, -1 outside of it."""
    i, j = int(math.floor(v + 0.5)), int(math.floor(u + 0.5))
    if i < 0 or j < 0 or i >= height or j >= width:
        return np.int64(-1)
    return np.int64(first) + i * np.int64(width) + j


@compiled()
def _mix(canvas, y, x, pixels, v, u, first, height, width, weight, factors):  # type: ignore[no-untyped-def]
    """Mix a bilinear sample into a pixel."""
    i = min(max(int(math.floor(v)), 0), int(height) - 2)
    j = min(max(int(math.floor(u)), 0), int(width) - 2)
    a, b = min(max(v - i, 0.0), 1.0), min(max(u - j, 0.0), 1.0)
    p = np.int64(first) + i * np.int64(width) + j
    q = p + np.int64(width)
    for channel in range(3):
        top = pixels[p, channel] * (1 - b) + pixels[p + 1, channel] * b
        bottom = pixels[q, channel] * (1 - b) + pixels[q + 1, channel] * b
        value = ((top * (1 - a) + bottom * a) + 1.0) * factors[channel] - 1.0
        value = value * weight + canvas[y, x, channel] * (1.0 - weight)
        canvas[y, x, channel] = np.uint8(min(max(math.floor(value + 0.5), 0.0), 255.0))


def soften_outlines(image: Bytes, outlined: Ids, sigma: float) -> None:
    """Blur the pixels on both sides of outlines, in place, as a microscope blurs an edge.

    Args:
        image: uint8 [H, W, 3]. outlined: int32 [H, W], ids. sigma: of the blur, in pixels.
    """
    values = outlined.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(values, kernel) != cv2.erode(values, kernel)
    image[edge] = cv2.GaussianBlur(image, (0, 0), sigma)[edge]


def decoy_outlines(ids: Ids, shapes: Shapes, share: float, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Places of nucleus-shaped pieces of ground: ``(nucleus, row, column)`` of the piece's top left corner.

    A piece keeps clear of every nucleus, so that a cut edge alone does not tell a network where a nucleus is.

    Args:
        ids: int32 [H, W], outlines 1..N. shapes: of these. share: decoys for each nucleus. rng: of the tile.
    """
    height, width = ids.shape
    taken = cv2.integral((ids > 0).astype(np.uint8))
    found = []
    for k, v, u in rng.random((round(share * len(shapes.area)), 3)):
        nucleus = int(k * len(shapes.area))
        y0, x0, y1, x1 = shapes.box[nucleus]
        h, w = y1 - y0, x1 - x0
        y, x = int(v * (height - h + 1)), int(u * (width - w + 1))
        if taken[y + h, x + w] - taken[y, x + w] - taken[y + h, x] + taken[y, x] == 0:
            found.append((nucleus, y, x))
    return found
