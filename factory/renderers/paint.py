"""The fused pass over a tile's pixels: anatomy to dye densities to light, without an intermediate image.

`outline` decides where cells end and how dark their borders are; `paint` gives every pixel its densities of
haematoxylin, eosin, DAB and red cells, and turns them into light by Beer-Lambert. Both are numba kernels: their
arguments are arrays and a `Brush`, the scalars of one tile.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from factory.renderers.cells import AIR, EPITHELIAL, IMMUNE, MIXED, POSITIVE, STROMA, TUMOUR
from factory.renderers.noise_tables import sample

LIGHT_STEPS_PER_OD = 512
LIGHT = np.exp(-np.arange(8 * LIGHT_STEPS_PER_OD) / LIGHT_STEPS_PER_OD).astype(np.float32)
"""Transmittance at optical densities of 0 to 8 in steps of 1/512."""


class Scene(NamedTuple):
    """What lies where in a tile, each [H, W]; `Fields` has across, along and patch."""

    kind: npt.NDArray[np.uint8]
    nucleus: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]  # nearest cell
    distance: npt.NDArray[np.float32]  # to the outline of its nucleus, px
    border: npt.NDArray[np.float32]  # as `outline` leaves it, spread over the thickness of a membrane
    epithelium: npt.NDArray[np.uint8]  # 255 in epithelium, with a soft edge
    red: npt.NDArray[np.uint8]  # 255 in red cells
    across: npt.NDArray[np.float32]
    along: npt.NDArray[np.float32]
    patch: npt.NDArray[np.float32]
    fold: npt.NDArray[np.float32]  # extra thickness


class Brush(NamedTuple):
    """Scalars of one tile; densities as in `Look`, lengths in micrometres."""

    mpp: float
    tissue: float
    eosin: float
    haze: float
    dab: float
    red: float
    blush: float
    texture: float
    retraction: float
    fibre_um: float
    lumen: float  # stroma is hollow where `patch` is below
    nuclear_dab: float  # 1 where DAB stains nuclei
    membrane_dab: float  # 1 where it stains membranes; both 0 in H&E
    start_y: float  # where this tile reads the noise tables, table pixels
    start_x: float
    vignette: float
    light_y: float  # centre of the illumination, 0..1
    light_x: float


@numba.njit(cache=True, nogil=True, fastmath=True)
def outline(kind, owner, nucleus, distance, cells, smooth, brush, border, epithelium):  # type: ignore[no-untyped-def]
    """Resolve MIXED pixels of `kind` into epithelium and stroma, and mark the borders of epithelial cells in `border`.

    Border pixels get the DAB density of their cell's membrane where the tissue is positive (0 along the gaps of an
    incomplete ring), 1 in other epithelium; all other pixels get 0. `epithelium` becomes 255 in it, 0 elsewhere.
    """
    height, width = kind.shape
    pitch = np.float32(brush.mpp * 36 / 7)  # gaps of some 7 um
    for y in range(height):
        for x in range(width):
            if kind[y, x] == MIXED:
                cell = owner[y, x]
                around = cell > 0 and cells[cell].form == EPITHELIAL
                near = around and (nucleus[y, x] > 0 or distance[y, x] < cells[cell].width)
                stained = near and brush.membrane_dab > 0 and cells[cell].dab > 0
                kind[y, x] = POSITIVE if stained else TUMOUR if near else STROMA
            epithelium[y, x] = 255 if kind[y, x] == TUMOUR or kind[y, x] == POSITIVE else 0
    for y in range(height):
        for x in range(width):
            here = kind[y, x]
            border[y, x] = 0
            if epithelium[y, x] == 0:
                continue
            cell = owner[y, x]
            positive = here == POSITIVE and brush.membrane_dab > 0
            alone = True
            for step in range(4):
                v = y + (step == 0) - (step == 1)
                u = x + (step == 2) - (step == 3)
                if 0 <= v < height and 0 <= u < width and (owner[v, u] != cell or (positive and kind[v, u] != here)):
                    alone = False
            if alone:
                continue
            if not positive:
                border[y, x] = 1
            else:
                gaps = sample(smooth, y * pitch - brush.start_x, x * pitch + brush.start_y)
                level = (1 - 2 * cells[cell].ring) * np.float32(1.3)
                closed = min(max((gaps - level) * np.float32(1.2) + np.float32(0.5), np.float32(0.06)), np.float32(1))
                border[y, x] = max(cells[cell].dab, np.float32(0.4 * brush.dab)) * closed


@numba.njit(cache=True, nogil=True, fastmath=True)
def paint(light, scene, cells, grain, smooth, dyes, background, transmittance, brush):  # type: ignore[no-untyped-def]
    """Fill `light`, uint8 [H, W, 3]; `dyes` float32 [4, 3] and `background` float32 [3] are in its channel order."""
    kind, nucleus, patch = scene.kind, scene.nucleus, scene.patch
    height, width = kind.shape
    top = len(transmittance) - 1
    for y in range(height):
        for x in range(width):
            h = np.float32(0)
            e = np.float32(0)
            d = np.float32(0)
            r = np.float32(0)
            here = kind[y, x]
            if nucleus[y, x] > 0:
                h, e, d = _nucleus(y, x, here, cells[nucleus[y, x]], scene.distance[y, x], grain, brush)
            elif here != AIR:
                share = scene.epithelium[y, x] / np.float32(255)
                if share > 0:
                    h, e, d = _cytoplasm(y, x, here, cells[scene.owner[y, x]], scene.border[y, x], grain, brush)
                if share < 1:
                    sh, se, sd = _stroma(here, scene.across[y, x], scene.along[y, x], grain, smooth, brush)
                    filled = 1 - share
                    hollow = brush.lumen - patch[y, x]
                    if hollow > 0 and scene.distance[y, x] * brush.mpp > 1:
                        filled *= 1 - np.float32(0.97) * min(hollow * 8, np.float32(1))
                    h = share * h + filled * sh
                    e = share * e + filled * se
                    d = share * d + filled * sd
                covered = scene.red[y, x] / np.float32(255)
                h *= 1 - covered
                e *= 1 - covered
                r = covered * brush.red
            thickness = (1 + np.float32(0.07) * patch[y, x]) * (1 + scene.fold[y, x])
            ry = (y + np.float32(0.5)) / height - brush.light_y
            rx = (x + np.float32(0.5)) / width - brush.light_x
            lamp = 1 - brush.vignette * 2 * (ry * ry + rx * rx)
            for c in range(3):
                od = (h * dyes[0, c] + e * dyes[1, c] + d * dyes[2, c] + r * dyes[3, c]) * thickness
                index = min(int(max(od, np.float32(0)) * LIGHT_STEPS_PER_OD), top)
                light[y, x, c] = np.uint8(background[c] * lamp * transmittance[index] + np.float32(0.5))


@numba.njit(inline="always")
def _nucleus(y, x, here, cell, depth_px, grain, brush):  # type: ignore[no-untyped-def]
    """Chromatin: clumps, a rim, a paler middle, a nucleolus; DAB over it in a positive cell."""
    depth_um = depth_px * brush.mpp
    rim = math.exp(-(depth_um * depth_um) * np.float32(3.5))
    inside = min(depth_px / cell.radius * np.float32(1.6), np.float32(1))
    pitch = brush.mpp / np.float32(0.19)
    clumps = sample(grain, y * pitch + cell.grain_y, x * pitch + cell.grain_x)
    clumps += np.float32(0.2) * (clumps * clumps - 1)
    tone = 1 - cell.pallor * inside + cell.rim * rim + cell.chromatin * clumps
    if cell.nucleolus_radius > 0:
        dy, dx = y - cell.nucleolus_y, x - cell.nucleolus_x
        bulge = 1 - (dy * dy + dx * dx) / (cell.nucleolus_radius * cell.nucleolus_radius)
        if bulge > 0:
            tone += np.float32(0.65) * min(2 * bulge, np.float32(1))
    tone = min(max(tone, np.float32(0.42)), np.float32(2.2))
    # a nucleus out of focus fades in from its outline, a sharp one within a pixel
    tone *= np.float32(0.55) + np.float32(0.45) * min(
        (depth_px + np.float32(0.4)) / (cell.softness + np.float32(0.8)), np.float32(1)
    )
    h = cell.density * tone
    e = np.float32(0.55) * brush.eosin
    d = np.float32(0.5) * brush.haze
    if brush.nuclear_dab > 0:
        if cell.dab > 0:
            coarse = 1 + np.float32(1.7) * min(cell.chromatin, np.float32(0.25)) * clumps
            d += np.float32(1.25) * cell.dab * tone * min(max(coarse, np.float32(0.45)), np.float32(1.8))
            h *= max(np.float32(0.2), np.float32(0.6) - np.float32(0.2) * cell.dab)
    elif here == POSITIVE and brush.membrane_dab > 0:
        d += np.float32(0.4) * brush.blush * cell.dab
    return h, e, d


@numba.njit(inline="always")
def _cytoplasm(y, x, here, cell, edge, grain, brush):  # type: ignore[no-untyped-def]
    """Granular cytoplasm, with a membrane or cleft at its border."""
    pitch = brush.mpp / np.float32(0.26)
    grit = sample(grain, y * pitch + cell.grain_x, x * pitch + cell.grain_y)
    tone = cell.cytoplasm * (1 + np.float32(0.16) * brush.texture * grit)
    h = brush.tissue * tone
    e = brush.eosin * tone
    d = brush.haze * tone
    if here == POSITIVE and brush.membrane_dab > 0:
        blush = max(cell.dab, np.float32(0.45) * brush.dab) * brush.blush
        d += edge * (1 + np.float32(0.3) * grit) + blush * (1 + np.float32(0.35) * grit)
    else:
        edge = min(edge, np.float32(1))
        cleft = max(brush.retraction - np.float32(0.55), np.float32(0)) * 2
        fade = 1 + np.float32(0.3) * edge if cleft == 0 else 1 - cleft * edge
        h *= fade
        e *= fade
    return h, e, d


@numba.njit(inline="always")
def _stroma(here, across_um, along_um, grain, smooth, brush):  # type: ignore[no-untyped-def]
    """Wavy collagen: single fibres, bundles of them, and clefts between; looser among lymphocytes."""
    # collagen is crimped: a wave along the fibre that drifts in phase
    crimp = np.float32(0.9) * math.sin(along_um * np.float32(0.42) + across_um * np.float32(0.07))
    across_um += crimp
    pitch = 6 / brush.fibre_um
    fibre = sample(grain, along_um * pitch * np.float32(0.16) + brush.start_y, across_um * pitch + brush.start_x)
    bundle = sample(smooth, along_um * np.float32(0.6) - brush.start_x, across_um * np.float32(2.6) + brush.start_y)
    gap = sample(smooth, along_um * np.float32(0.9) + brush.start_x, across_um * np.float32(4.6) - brush.start_y)
    tone = 1 + brush.texture * (np.float32(0.15) * fibre + np.float32(0.13) * bundle)
    opened = gap + np.float32(0.3) * fibre - np.float32(2.1) + brush.retraction
    if here == IMMUNE:
        tone *= np.float32(0.75)
        opened += np.float32(0.5)
    tone *= 1 - np.float32(0.88) * min(max(opened * np.float32(1.4), np.float32(0)), np.float32(1))
    tone = max(tone, np.float32(0.05))
    return np.float32(0.6) * brush.tissue * tone, brush.eosin * tone, np.float32(0.8) * brush.haze * tone
