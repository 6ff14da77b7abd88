"""DAB over real tissue: which cell a pixel belongs to, and the density of a membranous or nuclear marker on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.stain_separation import FloatMap, Mask
from factory.core.compiled import compiled
from factory.geometry.fields import noise
from factory.renderers.stain.noise_tables import MASK, grain, sample, smooth
from factory.renderers.stain.territories import centres_without_nucleus, spread_territories

F = np.float32
_FULL_WIDTH = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""
_CELL_REACH_UM = 3.5
"""Distance from its centre at which a cell without a nucleus competes for pixels: radius of an average nucleus."""
_TERRITORY_UM = 7.5
"""Largest distance of a cell's border from its nucleus."""
_WOBBLE_UM, _WAVE_UM = 2.2, 3.5
"""Largest amplitude and length of the bends of a membrane."""
_TILTED_UM = 1.3
"""Standard deviation of the blur of a membrane that lies aslant in the section."""
_USUAL_NUCLEUS = 0.7
"""Haematoxylin of a nucleus; denser ones bind more DAB."""
_CYTOPLASM_UM = 0.9
"""Standard deviation of the blur of DAB in the cytoplasm: cells overlap in the depth of the section."""


class Staining(NamedTuple):
    """A marker on one tile. Densities are natural-logarithm optical densities.

    Attributes:
        strength: DAB of an average positive membrane, or nucleus.
        spread: log standard deviation of that from cell to cell.
        cytoplasm: DAB of the cytoplasm relative to the membrane.
        complete: how much of its outline a membrane covers, 0 to 1.
        granular: contrast of the grains.
        membrane_um: thickness.
        start_y, start_x: where the noise tables are read, table pixels.
    """

    strength: np.float32
    spread: np.float32
    cytoplasm: np.float32
    complete: np.float32
    granular: np.float32
    membrane_um: np.float32
    start_y: np.float32
    start_x: np.float32


@dataclass(frozen=True)
class Cells:
    """Cells of a tile: `owner` int32 [H, W], the cell of a pixel or 0, and how many there are."""

    owner: npt.NDArray[np.int32]
    count: int


def divide_into_cells(
    nuclei: npt.NDArray[np.int32], confluent: Mask, tissue: Mask, mpp: float, rng: np.random.Generator
) -> Cells:
    """Divide tissue among its nuclei 1..n, and among cells cut beside their nucleus where `confluent` tissue has room.

    Borders are as uneven as in `stain.territories`, and bend.
    """
    centres = centres_without_nucleus(nuclei, confluent & tissue, mpp, rng)
    owner = np.zeros_like(nuclei)
    nucleated = int(nuclei.max(initial=0))
    owner[tuple(centres.astype(np.intp).T)] = np.arange(len(centres)) + nucleated + 1
    distance = spread_territories(nuclei, owner, tissue, _CELL_REACH_UM / mpp, grain())
    owner[(distance > _TERRITORY_UM / mpp) & (nuclei == 0)] = 0
    bent = np.empty_like(owner)
    height, width = owner.shape
    down, right = (noise(rng, height, width, _WAVE_UM / mpp) for _ in range(2))
    _bend(owner, nuclei, down, right, F(_WOBBLE_UM / mpp), bent)
    return Cells(bent, nucleated + len(centres))


@compiled()
def _bend(owner, nuclei, down, right, amplitude, bent):  # type: ignore[no-untyped-def]
    """Read owners from a little beside, but never from under a nucleus."""
    height, width = owner.shape
    half = F(0.5)
    for y in range(height):
        for x in range(width):
            bent[y, x] = owner[y, x]
            if nuclei[y, x] > 0:
                continue
            v = min(max(int(math.floor(F(y) + amplitude * down[y, x] + half)), 0), height - 1)
            u = min(max(int(math.floor(F(x) + amplitude * right[y, x] + half)), 0), width - 1)
            if nuclei[v, u] == 0:
                bent[y, x] = owner[v, u]


def positive_cells(owner: npt.NDArray[np.int32], count: int, positive: Mask) -> Mask:
    """Find the cells that lie mostly in the positive region: bool [count + 1], never cell 0."""
    area = np.bincount(owner.ravel(), minlength=count + 1)
    inside = np.bincount(owner[positive], minlength=count + 1)
    found: Mask = (2 * inside > area) & (inside > 0)
    found[0] = False
    return found


def membrane_density(
    cells: Cells,
    nuclei: npt.NDArray[np.int32],
    level: FloatMap,
    staining: Staining,
    mpp: float,
) -> FloatMap:
    """DAB of membranes and cytoplasm, float32 [H, W].

    Args:
        cells: of the tile.
        nuclei: int32 [H, W].
        level: float32 [n + 1], relative density of each cell, 0 = negative.
        staining: of the tile.
        mpp: micrometres per pixel.
    """
    border, body = np.zeros((2, *nuclei.shape), np.float32)
    _outline(cells.owner, nuclei, level, smooth(), staining, F(mpp), border, body)
    # borders are two pixels wide; spreading them to the thickness of a membrane must not make them paler
    sigma = max(float(staining.membrane_um) / mpp / _FULL_WIDTH, 0.45)
    sharp = cv2.GaussianBlur(border, (0, 0), sigma) * F(1 / math.erf(1 / (sigma * math.sqrt(2))))
    tilted = cv2.GaussianBlur(border, (0, 0), _TILTED_UM / mpp) * F(1.6 * _TILTED_UM * _FULL_WIDTH / 2 / 2.2)
    body = cv2.GaussianBlur(body, (0, 0), _CYTOPLASM_UM / mpp)
    _mix(sharp, tilted, body, grain(), smooth(), staining, F(mpp))
    return sharp


@compiled()
def _outline(owner, nuclei, level, table, staining, mpp, border, body):  # type: ignore[no-untyped-def]
    """Mark the borders of positive cells, with gaps, and fill their bodies; over a nucleus lies less of them."""
    height, width = owner.shape
    pitch = mpp * F(36 / 7)  # gaps of some 7 um
    for y in range(height):
        for x in range(width):
            cell = owner[y, x]
            if level[cell] <= F(0):
                continue
            body[y, x] = level[cell] * (F(0.25) if nuclei[y, x] > 0 else F(1))
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width and owner[v, u] != cell:
                    gaps = sample(table, F(y) * pitch - staining.start_x, F(x) * pitch + staining.start_y)
                    # cells of one nest differ in how complete their membrane is
                    own = staining.complete + F(0.3) * (F((cell * 40503) & 255) * F(1 / 255) - F(0.5))
                    closed = (gaps - (F(1) - F(2) * own) * F(1.3)) * F(0.7) + F(0.5)
                    border[y, x] = level[cell] * min(max(closed, F(0.05)), F(1.4))
                    break


@compiled()
def _mix(sharp, tilted, body, fine, coarse, staining, mpp):  # type: ignore[no-untyped-def]
    """Mix sharp and slanting membranes with cytoplasm into `sharp`, and break all of it up into grains."""
    height, width = sharp.shape
    wide, narrow = mpp * F(36 / 12), mpp * F(1 / 0.11)
    for y in range(height):
        for x in range(width):
            if tilted[y, x] <= F(0.003) and body[y, x] <= F(0.003):
                sharp[y, x] = F(0)
                continue
            slant = coarse[int(F(y) * wide + staining.start_y) & MASK, int(F(x) * wide) & MASK]
            slant = min(max(F(0.35) + F(0.3) * slant, F(0.05)), F(0.9))
            clump = sample(fine, F(y) * mpp * F(1 / 0.3) + staining.start_x, F(x) * mpp * F(1 / 0.3))
            speck = fine[int(F(x) * narrow) & MASK, int(F(y) * narrow + staining.start_y) & MASK]
            grains = max(F(1) + staining.granular * (F(0.75) * clump + F(0.55) * speck), F(0.1))
            membrane = (F(1) - slant) * sharp[y, x] + slant * tilted[y, x]
            cloud = max(F(1) + F(0.4) * slant + F(0.8) * staining.granular * (F(0.6) * clump + F(0.3) * speck), F(0.1))
            sharp[y, x] = staining.strength * (membrane * grains + staining.cytoplasm * body[y, x] * cloud)


def nuclear_density(
    nuclei: npt.NDArray[np.int32], haematoxylin: FloatMap, level: FloatMap, staining: Staining, mpp: float
) -> FloatMap:
    """DAB of positive nuclei, float32 [H, W]; its texture is that of the nucleus.

    Args:
        nuclei: int32 [H, W].
        haematoxylin: float32 [H, W].
        level: float32 [n + 1], relative density of each nucleus, 0 = negative.
        staining: of the tile.
        mpp: micrometres per pixel.
    """
    area = np.maximum(np.bincount(nuclei.ravel(), minlength=len(level)), 1)
    mean = np.bincount(nuclei.ravel(), haematoxylin.ravel(), minlength=len(level)) / area
    scale = (1 / np.maximum(mean, 0.1)).astype(np.float32)[nuclei]
    # a positive nucleus is never paler than it was
    level = level * np.clip(mean * (1 / _USUAL_NUCLEUS), 1, 3).astype(np.float32)
    tone = np.clip(cv2.GaussianBlur(haematoxylin, (0, 0), 0.25 / mpp) * scale, 0.35, 1.9) ** F(1.2)
    density = cv2.GaussianBlur(level[nuclei] * tone, (0, 0), max(0.3 / mpp, 0.4))
    _mottle(density, grain(), staining, F(mpp))
    return density


@compiled()
def _mottle(density, fine, staining, mpp):  # type: ignore[no-untyped-def]
    height, width = density.shape
    for y in range(height):
        for x in range(width):
            if density[y, x] > F(0):
                clump = sample(fine, F(y) * mpp * F(1 / 0.2) + staining.start_x, F(x) * mpp * F(1 / 0.2))
                grains = max(F(1) + F(0.5) * staining.granular * clump, F(0.2))
                density[y, x] *= staining.strength * grains
