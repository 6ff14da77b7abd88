"""Assigns every pixel to a cell and measures its distance to the nucleus, in one pair of sweeps."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.noise_tables import MASK

_SPACING_UM = 11.0
_CLEARANCE_UM = 5.0
_UNEVEN = np.float32(0.22)
_FAR = np.float32(1e6)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
# Weights of a step to a side and to a corner that keep the 3x3 chamfer distance nearest to the Euclidean one
# (Borgefors 1986).
_SIDE = np.float32(0.955)
_CORNER = np.float32(1.369)


def centres_without_nucleus(
    number: npt.NDArray[np.int32], confluent: npt.NDArray[np.bool_], mpp: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw centres of cells that the section cut beside their nucleus: float64 [k, 2] of y and x in whole pixels.

    Such cells fill the room between nuclei of confluent tissue, so that a sheet of epithelium has no holes.

    Args:
        number: int32 [H, W], nuclei. confluent: bool [H, W], where cells touch each other. mpp: micrometres per pixel.
        rng: the tile's generator.
    """
    height, width = number.shape
    step = max(_SPACING_UM / mpp, 2.0)
    rows, columns = np.arange(step / 2, height, step), np.arange(step / 2, width, step)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    centres = np.floor(centres + rng.uniform(-0.4, 0.4, centres.shape) * step)
    centres = np.clip(centres, 0, (height - 1, width - 1))
    # one coarse pixel per micrometre is enough to see whether a nucleus is near
    coarse = (max(1, round(height * mpp)), max(1, round(width * mpp)))
    near = cv2.resize((number > 0).astype(np.uint8) * np.uint8(255), coarse[::-1], interpolation=cv2.INTER_AREA)
    reach = 2 * round(_CLEARANCE_UM) + 1
    near = cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    y, x = centres.astype(np.intp).T
    free = confluent[y, x] & (near[y * coarse[0] // height, x * coarse[1] // width] < 64)
    return np.asarray(centres[free], np.float64)


def spread_territories(
    nucleus: npt.NDArray[np.int32],
    owner: npt.NDArray[np.int32],
    crowded: npt.NDArray[np.bool_],
    reach_px: float,
    ground: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Give every pixel its nearest nucleus, in place, and measure the distance to that nucleus's outline.

    Args:
        nucleus: int32 [H, W], 0 = none, 1..n.
        owner: int32 [H, W], changed: on entry 0, or the number of a cell without a nucleus at its centre; on return the
            nearest cell within the crowded area (0 where none can be reached).
        crowded: bool [H, W], where cells share the room; elsewhere only the insides of nuclei are measured.
        reach_px: how far such a centre lies inside its cell. ground: a noise table that makes borders uneven.

    Returns:
        float32 [H, W] in pixels: the depth below the outline inside nuclei, the distance to it outside, which is
        huge where no cell reaches.
    """
    height, width = nucleus.shape
    # with a frame of one pixel the sweeps need no checks at the border of the image
    framed = np.zeros((height + 2, width + 2), np.int32)
    framed[1:-1, 1:-1] = nucleus
    near = np.zeros_like(framed)
    near[1:-1, 1:-1] = owner
    distance = np.full(framed.shape, _FAR, np.float32)
    _start(framed, near, distance, np.float32(-reach_px))
    shared = np.zeros(framed.shape, np.bool_)
    shared[1:-1, 1:-1] = crowded
    _sweep(framed, near, distance, shared, ground)
    # the second sweep is the first one on the image turned by half
    _sweep(framed[::-1, ::-1], near[::-1, ::-1], distance[::-1, ::-1], shared[::-1, ::-1], ground)
    owner[:] = near[1:-1, 1:-1]
    return np.ascontiguousarray(distance[1:-1, 1:-1])


@compiled(fastmath=True)
def _start(nucleus, near, distance, centre):  # type: ignore[no-untyped-def]
    """Set the outlines of nuclei and the centres without one; the border of the image is no outline."""
    height, width = nucleus.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            here = nucleus[y, x]
            if here == 0:
                if near[y, x] > 0:
                    distance[y, x] = centre
                continue
            near[y, x] = here
            edge = (
                (y > 1 and nucleus[y - 1, x] != here)
                or (x > 1 and nucleus[y, x - 1] != here)
                or (y < height - 2 and nucleus[y + 1, x] != here)
                or (x < width - 2 and nucleus[y, x + 1] != here)
            )
            if edge:
                distance[y, x] = _HALF


@compiled(fastmath=True)
def _sweep(nucleus, near, distance, shared, ground):  # type: ignore[no-untyped-def]
    """Carry distances and owners down and to the right."""
    height, width = nucleus.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            here = nucleus[y, x]
            best = distance[y, x]
            if here > 0:
                if best > _HALF:
                    for v, u, step in (
                        (y, x - 1, _SIDE),
                        (y - 1, x - 1, _CORNER),
                        (y - 1, x, _SIDE),
                        (y - 1, x + 1, _CORNER),
                    ):
                        if nucleus[v, u] == here:
                            best = min(best, distance[v, u] + step)
                    distance[y, x] = best
                continue
            if not shared[y, x]:
                continue
            rough = _ONE + _UNEVEN * ground[y & MASK, x & MASK]
            mine = near[y, x]
            for v, u, step in ((y, x - 1, _SIDE), (y - 1, x - 1, _CORNER), (y - 1, x, _SIDE), (y - 1, x + 1, _CORNER)):
                reached = step - _HALF if nucleus[v, u] > 0 else distance[v, u] + step * rough
                if reached < best:
                    best = reached
                    mine = near[v, u]
            distance[y, x] = best
            near[y, x] = mine
