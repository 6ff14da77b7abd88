"""The ground of a page: its tissue with the nuclei filled, and what each block of it is like."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK
from factory.core.compiled import compiled

Image = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_RIM_UM = 0.6
"""Nuclei are filled with a rim of this width around them, as their edges are blurred."""
_NEIGHBOURHOOD_UM = 16.0
"""Width of the square in which the nuclei around a block are counted."""
_FIBRES_UM = 3.0
"""Standard deviation of the window in which the direction of fibres is measured."""
_CANDIDATES = 160
_FEATHER_PX = 3
_LARGEST_SHIFT = 20
"""Grey levels by which a piece is made lighter or darker at most."""


def unlabelled_nuclei(image: Image, nuclei: Mask, mpp: float) -> Mask:
    """Find dark bodies the size of nuclei that nobody labelled: bool [H, W].

    Annotations miss nuclei (a fifth in MoNuSeg). In the ground of a tile these would be nuclei without a label. A pixel
    is dark where its red channel, which haematoxylin and DAB absorb and eosin hardly, is nearer to that of labelled
    nuclei than to that of what lies between them.

    Args:
        image: uint8 [H, W, 3]. nuclei: bool [H, W], labelled ones. mpp: micrometres per pixel.
    """
    if nuclei.mean() < 0.005 or nuclei.mean() > 0.95:
        return np.zeros_like(nuclei)
    red = cv2.GaussianBlur(image[..., 0], (0, 0), max(0.4 / mpp, 0.5))
    inside, outside = float(np.median(red[nuclei])), float(np.median(red[~nuclei]))
    if inside > outside - 15:
        return np.zeros_like(nuclei)
    dark = ((red < (inside + outside) / 2) & ~_widened(nuclei, mpp)).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(0.75 / mpp) + 1,) * 2)
    dark = cv2.morphologyEx(dark, cv2.MORPH_OPEN, kernel)
    _, components, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=4)
    kept = stats[:, cv2.CC_STAT_AREA] * mpp * mpp >= 8.0
    kept[0] = False
    found: Mask = kept[components]
    return found


def fill_nuclei(image: Image, nuclei: Ids, others: Mask, mpp: float, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Fill nuclei by tissue from elsewhere on the page.

    Each is covered, with a rim, by the piece without nuclei whose surroundings fit its own best; so what fills it has
    the grain of the tissue and not the smear of a diffusion.

    Args:
        image: uint8 [H, W, 3]. nuclei: int32 [H, W], 1..N. others: bool [H, W], unlabelled bodies to fill as well.
        mpp: micrometres per pixel. rng: draws the candidates.

    Returns:
        The ground, uint8 [H, W, 3], and bool [H, W], what was filled.
    """
    filled = _widened((nuclei > 0) | others, mpp)
    if not filled.any():
        return image.copy(), filled
    start = cv2.inpaint(image, filled.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    _, bodies = cv2.connectedComponents(others.astype(np.uint8), connectivity=4)
    joined = np.where(nuclei > 0, nuclei, np.where(bodies > 0, bodies + nuclei.max(initial=0), 0))
    ids: Ids = np.unique(joined, return_inverse=True)[1].reshape(joined.shape).astype(np.int32)
    box = _boxes(ids, int(ids.max()))
    margin = max(2, round(_RIM_UM / mpp)) + 2
    sides = np.minimum((box[:, 2:] - box[:, :2]).max(1) + 2 * margin, min(image.shape[:2]))
    integral = cv2.integral(filled.astype(np.uint8))
    ground = start.copy()
    depth = np.minimum(cv2.distanceTransform(filled.astype(np.uint8), cv2.DIST_L1, 3), _FEATHER_PX).astype(np.int64)
    draws = rng.random((len(box), _CANDIDATES, 2), np.float32)
    _cover(ground, start, depth, integral, ids, box, sides.astype(np.int64), margin, draws)
    return ground, filled


def describe_blocks(ground: Image, nuclei: Mask, unknown: Mask, mpp: float) -> Image:
    """Describe the blocks of a page: uint8 [H / BLOCK, W / BLOCK, 4], see `factory.bank.bank.Bank`.

    Args:
        ground: uint8 [H, W, 3]. nuclei: bool [H, W]. unknown: bool [H, W], filled or unlabelled. mpp: of the page.
    """
    width, height = ground.shape[1] // BLOCK, ground.shape[0] // BLOCK
    cosine, sine = fibre_directions(ground, mpp)
    planes = (
        unknown.astype(np.uint8) * np.uint8(255),
        neighbourhood(nuclei, mpp),
        np.rint(127 * cosine + 128).astype(np.uint8),
        np.rint(127 * sine + 128).astype(np.uint8),
    )
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in planes], axis=-1)


def neighbourhood(nuclei: Mask, mpp: float) -> Image:
    """Share of nuclei in the square around each pixel: uint8 [H, W], 255 = all."""
    side = 2 * round(_NEIGHBOURHOOD_UM / mpp / 2) + 1
    levels = nuclei.astype(np.uint8) * np.uint8(255)
    blurred: Image = cv2.blur(levels, (side, side), borderType=cv2.BORDER_REFLECT)
    return blurred


def fibre_directions(image: Image, mpp: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosine and sine of twice the direction of fibres, times their coherence: float32 [H, W] in -1..1 each.

    The structure tensor of the grey levels (Bigun and Granlund 1987); fibres run across the gradient.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), max(0.3 / mpp, 0.7)).astype(np.float32)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    sigma = _FIBRES_UM / mpp
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), sigma) for product in (dx * dx, dy * dy, dx * dy))
    energy = xx + yy + np.float32(1)
    return (yy - xx) / energy, -2 * xy / energy


def _widened(mask: Mask, mpp: float) -> Mask:
    side = 2 * max(1, round(_RIM_UM / mpp)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    wide: Mask = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return wide


@compiled()
def _boxes(ids, count):  # type: ignore[no-untyped-def]
    height, width = ids.shape
    box = np.empty((count, 4), np.int64)
    box[:, 0], box[:, 1], box[:, 2], box[:, 3] = height, width, 0, 0
    for y in range(height):
        for x in range(width):
            k = ids[y, x] - 1
            if k >= 0:
                box[k, 0] = min(box[k, 0], y)
                box[k, 1] = min(box[k, 1], x)
                box[k, 2] = max(box[k, 2], y + 1)
                box[k, 3] = max(box[k, 3], x + 1)
    return box


@compiled()
def _cover(ground, start, depth, integral, ids, box, sides, margin, draws):  # type: ignore[no-untyped-def]
    """Cover each object by the candidate that fits its rim, and roughly what a diffusion would fill it with."""
    height, width = ids.shape
    for k in range(len(box)):
        side = sides[k]
        y0 = min(max((box[k, 0] + box[k, 2] - side) // 2, 0), height - side)
        x0 = min(max((box[k, 1] + box[k, 3] - side) // 2, 0), width - side)
        best, best_y, best_x = np.int64(1) << 60, np.int64(-1), np.int64(-1)  # literals would compile `_lay` twice
        for c in range(draws.shape[1]):
            y1 = int(draws[k, c, 0] * (height - side))
            x1 = int(draws[k, c, 1] * (width - side))
            holes = (
                integral[y1 + side, x1 + side] - integral[y1, x1 + side] - integral[y1 + side, x1] + integral[y1, x1]
            )
            cost = np.int64(holes) * 1500
            for i in range(0, side, 2):
                if cost >= best:
                    break
                for j in range(0, side, 2):
                    weight = 2 if depth[y0 + i, x0 + j] else 4
                    for channel in range(3):
                        d = np.int64(start[y0 + i, x0 + j, channel]) - np.int64(start[y1 + i, x1 + j, channel])
                        cost += weight * d * d
            if cost < best:
                best, best_y, best_x = cost, y1, x1  # type: ignore[assignment]
        _lay(ground, start, depth, ids, k + 1, y0, x0, best_y, best_x, side, margin)


@compiled()
def _lay(ground, start, depth, ids, number, y0, x0, y1, x1, side, margin):  # type: ignore[no-untyped-def]
    """Copy a piece over one object and its rim, shifted to the mean colour of its surroundings."""
    shift, count = np.zeros(3, np.int64), 0
    for i in range(side):
        for j in range(side):
            if depth[y0 + i, x0 + j] == 0:
                count += 1
                for channel in range(3):
                    shift[channel] += np.int64(start[y0 + i, x0 + j, channel]) - np.int64(
                        start[y1 + i, x1 + j, channel]
                    )
    for channel in range(3):
        shift[channel] = min(max(shift[channel] // count, -_LARGEST_SHIFT), _LARGEST_SHIFT) if count > side else 0
    height, width = ids.shape
    for i in range(side):
        for j in range(side):
            y, x = y0 + i, x0 + j
            alpha = depth[y, x]
            if alpha == 0:
                continue
            near = ids[y, x] == number
            for v in range(max(0, y - margin + 2), min(height, y + margin - 1)):
                for u in range(max(0, x - margin + 2), min(width, x + margin - 1)):
                    near = near or ids[v, u] == number
            if near:
                for channel in range(3):
                    copied = min(max(start[y1 + i, x1 + j, channel] + shift[channel], 0), 255)
                    mixed = alpha * copied + (_FEATHER_PX - alpha) * start[y, x, channel]
                    ground[y, x, channel] = mixed // _FEATHER_PX
