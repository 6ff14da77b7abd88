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

F = np.float32
"""Every number in a kernel is a float32: one literal in double precision would drag its whole expression along."""
_HALVINGS = 10


class Scene(NamedTuple):
    """What lies where in a tile, each [H, W]; `Fields` has across, along and patch."""

    kind: npt.NDArray[np.uint8]
    nucleus: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]  # nearest cell
    distance: npt.NDArray[np.float32]  # to the outline of its nucleus, px
    border: npt.NDArray[np.float32]  # as `outline` leaves it, spread over the thickness of a membrane
    epithelium: npt.NDArray[np.uint8]  # 255 in epithelium, with a soft edge
    inner: npt.NDArray[np.uint8]  # 255 well inside positive tumour, 128 where it meets negative tumour
    red: npt.NDArray[np.uint8]  # 255 in red cells
    across: npt.NDArray[np.float32]
    along: npt.NDArray[np.float32]
    patch: npt.NDArray[np.float32]
    fold: npt.NDArray[np.float32]  # extra thickness


class Brush(NamedTuple):
    """Scalars of one tile; densities as in `Look`, lengths in micrometres."""

    mpp: np.float32
    tissue: np.float32
    eosin: np.float32
    haze: np.float32
    dab: np.float32
    red: np.float32
    blush: np.float32
    texture: np.float32
    retraction: np.float32
    fibre_um: np.float32
    lumen: np.float32  # stroma is hollow where `patch` is below
    nuclear_dab: np.float32  # 1 where DAB stains nuclei
    membrane_dab: np.float32  # 1 where it stains membranes; both 0 in H&E
    start_y: np.float32  # where this tile reads the noise tables, table pixels
    start_x: np.float32
    vignette: np.float32
    light_y: np.float32  # centre of the illumination, 0..1
    light_x: np.float32


@numba.njit(cache=True, nogil=True, fastmath=True)
def outline(kind, owner, nucleus, distance, cells, smooth, brush, border, epithelium, inner):  # type: ignore[no-untyped-def]
    """Resolve MIXED pixels of `kind` into epithelium and stroma, and mark the borders of epithelial cells in `border`.

    Border pixels get the DAB density of their cell's membrane where the tissue is positive (next to none along the
    gaps of an incomplete ring), 1 in other epithelium; all other pixels get 0. Where positive tumour meets negative
    tumour there is a border only if two cells meet there. `epithelium` becomes 255 in it, 0 elsewhere; `inner` becomes
    255 in all but negative tumour.
    """
    height, width = kind.shape
    pitch = brush.mpp * F(36 / 7)  # gaps of some 7 um
    for y in range(height):
        for x in range(width):
            if kind[y, x] == MIXED:
                cell = owner[y, x]
                around = cell > 0 and cells[cell].form == EPITHELIAL
                near = around and (nucleus[y, x] > 0 or distance[y, x] < cells[cell].width)
                stained = near and brush.membrane_dab > 0 and cells[cell].dab > 0
                kind[y, x] = POSITIVE if stained else TUMOUR if near else STROMA
            epithelium[y, x] = 255 if kind[y, x] == TUMOUR or kind[y, x] == POSITIVE else 0
            inner[y, x] = 0 if kind[y, x] == TUMOUR else 255
    for y in range(height):
        for x in range(width):
            border[y, x] = 0
            if epithelium[y, x] == 0:
                continue
            cell = owner[y, x]
            positive = kind[y, x] == POSITIVE and brush.membrane_dab > 0
            alone = not (
                (y > 0 and (owner[y - 1, x] != cell or (positive and epithelium[y - 1, x] == 0)))
                or (x > 0 and (owner[y, x - 1] != cell or (positive and epithelium[y, x - 1] == 0)))
                or (y < height - 1 and (owner[y + 1, x] != cell or (positive and epithelium[y + 1, x] == 0)))
                or (x < width - 1 and (owner[y, x + 1] != cell or (positive and epithelium[y, x + 1] == 0)))
            )
            if alone:
                continue
            if not positive:
                border[y, x] = 1
            else:
                gaps = sample(smooth, F(y) * pitch - brush.start_x, F(x) * pitch + brush.start_y)
                level = (F(1) - F(2) * cells[cell].ring) * F(1.3)
                closed = min(max((gaps - level) * F(1.2) + F(0.5), F(0.06)), F(1))
                border[y, x] = max(cells[cell].dab, F(0.4) * brush.dab) * closed


@numba.njit(cache=True, nogil=True, fastmath=True)
def paint(light, scene, cells, grain, smooth, dyes, background, brush):  # type: ignore[no-untyped-def]
    """Fill `light`, uint8 [3, H, W]; `dyes` float32 [4, 3] and `background` float32 [3] are in its channel order."""
    height, width = scene.kind.shape
    layers = np.zeros((4, width), np.float32)
    for y in range(height):
        _lay_row(y, layers, scene, cells, grain, smooth, brush)
        _shine_row(y, light, layers, scene.patch[y], scene.fold[y], dyes, background, brush)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _lay_row(y, layers, scene, cells, grain, smooth, brush):  # type: ignore[no-untyped-def]
    """Densities of the four dyes in one row of pixels: float32 [4, W]."""
    for x in range(layers.shape[1]):
        h = e = d = r = F(0)
        here = scene.kind[y, x]
        number = scene.nucleus[y, x]
        if number > 0:
            inner = F(scene.inner[y, x]) * F(1 / 255)
            h, e, d = _nucleus(y, x, here, cells[number], scene.distance[y, x], inner, grain, brush)
        elif here != AIR:
            share = F(scene.epithelium[y, x]) * F(1 / 255)
            if share > 0:
                inner = F(scene.inner[y, x]) * F(1 / 255)
                edge = scene.border[y, x]
                h, e, d = _cytoplasm(y, x, here, cells[scene.owner[y, x]], edge, inner, grain, smooth, brush)
            if share < 1:
                sh, se, sd = _stroma(here, scene.across[y, x], scene.along[y, x], grain, smooth, brush)
                filled = F(1) - share
                hollow = brush.lumen - scene.patch[y, x]
                if hollow > 0 and scene.distance[y, x] * brush.mpp > 1:
                    filled *= F(1) - F(0.97) * min(hollow * F(8), F(1))
                h = share * h + filled * sh
                e = share * e + filled * se
                d = share * d + filled * sd
            if scene.red[y, x] > 0:
                covered = F(scene.red[y, x]) * F(1 / 255)
                bare = max(F(1) - F(1.6) * covered, F(0))
                h *= bare
                e *= bare
                r = covered * brush.red
        layers[0, x], layers[1, x], layers[2, x], layers[3, x] = h, e, d, r


@numba.njit(cache=True, nogil=True, fastmath=True)
def _shine_row(y, light, layers, patch, fold, dyes, background, brush):  # type: ignore[no-untyped-def]
    """Light through one row of pixels. Without branches or tables, so that it runs on vectors of pixels."""
    height, width = light.shape[1:]
    ry = (F(y) + F(0.5)) / F(height) - brush.light_y
    step = F(1) / F(width)
    for c in range(3):
        of_h, of_e, of_d, of_r, bright = dyes[0, c], dyes[1, c], dyes[2, c], dyes[3, c], background[c]
        row = light[c, y]
        for x in range(width):
            od = layers[0, x] * of_h + layers[1, x] * of_e + layers[2, x] * of_d + layers[3, x] * of_r
            od *= (F(1) + F(0.07) * patch[x]) * (F(1) + fold[x])
            rx = (F(x) + F(0.5)) * step - brush.light_x
            lamp = F(1) - brush.vignette * F(2) * (ry * ry + rx * rx)
            # exp(-od) = (1 - od / n)^n, within 0.1 grey levels for n = 2^10
            through = F(1) - min(max(od, F(0)), F(8)) * F(1 / (1 << _HALVINGS))
            for _ in range(_HALVINGS):
                through *= through
            row[x] = np.uint8(bright * lamp * through + F(0.5))


@numba.njit(inline="always")
def _nucleus(y, x, here, cell, depth_px, inner, grain, brush):  # type: ignore[no-untyped-def]
    """Chromatin: clumps, a rim, a paler middle, a nucleolus; DAB over it in a positive cell."""
    depth_um = depth_px * brush.mpp
    # a Gaussian to within 2 %: half as deep at 0.45 um
    fall = F(1) + depth_um * depth_um * F(0.875)
    rim = F(1) / (fall * fall * fall * fall)
    inside = min(depth_px / cell.radius * F(1.6), F(1))
    pitch = brush.mpp * F(1 / 0.19)
    clumps = sample(grain, F(y) * pitch + cell.grain_y, F(x) * pitch + cell.grain_x)
    clumps += F(0.2) * (clumps * clumps - F(1))
    tone = F(1) - cell.pallor * inside + cell.rim * rim + cell.chromatin * clumps
    if cell.nucleolus_radius > 0:
        dy, dx = F(y) - cell.nucleolus_y, F(x) - cell.nucleolus_x
        bulge = F(1) - (dy * dy + dx * dx) / (cell.nucleolus_radius * cell.nucleolus_radius)
        if bulge > 0:
            tone += F(0.65) * min(F(2) * bulge, F(1))
    tone = min(max(tone, F(0.42)), F(2.2))
    # a nucleus out of focus fades in from its outline, a sharp one within a pixel
    tone *= F(0.55) + F(0.45) * min((depth_px + F(0.4)) / (cell.softness + F(0.8)), F(1))
    h = cell.density * tone
    e = F(0.55) * brush.eosin
    d = F(0.5) * brush.haze
    if brush.nuclear_dab > 0:
        if cell.dab > 0:
            coarse = F(1) + F(1.3) * min(cell.chromatin, F(0.25)) * clumps
            d += F(1.25) * cell.dab * tone * min(max(coarse, F(0.45)), F(1.8))
            h *= max(F(0.2), F(0.6) - F(0.2) * cell.dab)
    elif here == POSITIVE and brush.membrane_dab > 0:
        d += F(0.4) * brush.blush * cell.dab * _fade(inner)
    return h, e, d


@numba.njit(inline="always")
def _fade(inner):  # type: ignore[no-untyped-def]
    """DAB pales towards negative tumour and ends where the label does."""
    return min(max(F(2.4) * inner - F(1.2), F(0.12)), F(1))


@numba.njit(inline="always")
def _cytoplasm(y, x, here, cell, edge, inner, grain, smooth, brush):  # type: ignore[no-untyped-def]
    """Granular, uneven, here and there torn cytoplasm, with a membrane or a broken cleft at its border."""
    pitch = brush.mpp * F(1 / 0.26)
    grit = sample(grain, F(y) * pitch + cell.grain_x, F(x) * pitch + cell.grain_y)
    pitch = brush.mpp * F(36 / 13)
    wear = sample(smooth, F(y) * pitch + brush.start_x, F(x) * pitch - brush.start_y)
    tone = cell.cytoplasm * (F(1) + brush.texture * (F(0.17) * grit + F(0.13) * wear))
    torn = F(0.6) * wear + F(0.5) * grit - F(2) + F(1.5) * brush.retraction
    tone *= F(1) - F(0.85) * min(max(torn, F(0)), F(1))
    tone = max(tone, F(0.05))
    h = brush.tissue * tone
    e = brush.eosin * tone
    d = brush.haze * tone
    if here == POSITIVE and brush.membrane_dab > 0:
        blush = max(cell.dab, F(0.45) * brush.dab) * brush.blush
        stained = edge * (F(1) + F(0.35) * grit) + blush * (F(1) + F(0.4) * grit + F(0.15) * wear)
        d += max(stained, F(0)) * _fade(inner)
    else:
        edge = min(edge, F(1))
        cleft = min(max(brush.retraction - F(0.35) + F(0.35) * wear, F(0)), F(0.9))
        fade = F(1) + (F(0.25) * (F(1) - cleft) - cleft) * edge
        h *= fade
        e *= fade
    return h, e, d


@numba.njit(inline="always")
def _stroma(here, across_um, along_um, grain, smooth, brush):  # type: ignore[no-untyped-def]
    """Collagen: bundles that wave each in its own phase, fibres in them, and clefts; looser among lymphocytes."""
    bundle = sample(smooth, along_um * F(0.6) - brush.start_x, across_um * F(2.6) + brush.start_y)
    # collagen is crimped, but not all of it, and no two bundles in step
    turn = along_um * F(0.07) + F(0.16) * bundle + across_um * F(0.011)
    turn -= math.floor(turn)
    wave = turn * (F(1) - turn) * F(4) if turn < 1 else F(0)
    across_um += (F(1.1) * wave + F(0.8) * bundle) * max(F(0.5) + F(0.5) * bundle, F(0.1))
    pitch = F(6) / brush.fibre_um
    fibre = sample(grain, along_um * pitch * F(0.16) + brush.start_y, across_um * pitch + brush.start_x)
    gap = sample(smooth, along_um * F(0.9) + brush.start_x, across_um * F(4.6) - brush.start_y)
    tone = F(1) + brush.texture * (F(0.13) * fibre + F(0.16) * bundle - F(0.06) * gap)
    opened = gap + F(0.35) * fibre - F(0.3) * bundle - F(2.2) + F(1.3) * brush.retraction
    if here == IMMUNE:
        tone *= F(0.75)
        opened += F(0.5)
    tone *= F(1) - F(0.88) * min(max(opened * F(1.4), F(0)), F(1))
    tone = max(tone, F(0.05))
    return F(0.6) * brush.tissue * tone, brush.eosin * tone, F(0.8) * brush.haze * tone
