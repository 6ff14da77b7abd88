"""One pass over a tile's pixels, from anatomy to dye densities to light, without an intermediate image.

`outline` decides where cells end and how dark their borders are; `paint` gives every pixel its densities of
haematoxylin, eosin, DAB and red cells, and turns them into light by Beer-Lambert. Both are numba kernels: their
arguments are arrays and a `PaintSettings`, the scalars of one tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.cells import AIR, EPITHELIAL, IMMUNE, MIXED, POSITIVE, STROMA, TUMOUR
from factory.renderers.stain.noise_tables import sample, sample_many

F = np.float32
"""Type of every number in a kernel: one double literal would make its whole expression double."""
_HALVINGS = 10
_DENSEST = F(1.4)
"""Largest density of cytoplasm and fibres relative to their mean, so that no grain looks like a nucleus."""


class Scene(NamedTuple):
    """Maps of a tile, each [H, W]; across, along and patch are those of `Fields`."""

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


class PaintSettings(NamedTuple):
    """Scalars of one tile; densities as in `StainAppearance`, lengths in micrometres."""

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


@compiled(fastmath=True)
def outline(kind, owner, nucleus, distance, cells, smooth, settings, border, epithelium, inner):  # type: ignore[no-untyped-def]
    """Resolve MIXED pixels of `kind` into epithelium and stroma, and mark the borders of epithelial cells in `border`.

    Border pixels get the DAB density of their cell's membrane where the tissue is positive (next to none along the
    gaps of an incomplete ring), 1 in other epithelium; all other pixels get 0. Where positive tumour meets negative
    tumour there is a border only if two cells meet there. `epithelium` becomes 255 in it, 0 elsewhere; `inner` becomes
    255 in all but negative tumour.
    """
    height, width = kind.shape
    pitch = settings.mpp * F(36 / 7)  # gaps of some 7 um
    for y in range(height):
        for x in range(width):
            if kind[y, x] == MIXED:
                cell = owner[y, x]
                around = cell > 0 and cells[cell].form == EPITHELIAL
                near = around and (nucleus[y, x] > 0 or distance[y, x] < cells[cell].width)
                stained = near and settings.membrane_dab > 0 and cells[cell].dab > 0
                kind[y, x] = POSITIVE if stained else TUMOUR if near else STROMA
            epithelium[y, x] = 255 if kind[y, x] == TUMOUR or kind[y, x] == POSITIVE else 0
            inner[y, x] = 0 if kind[y, x] == TUMOUR else 255
    for y in range(height):
        for x in range(width):
            border[y, x] = 0
            if epithelium[y, x] == 0:
                continue
            cell = owner[y, x]
            positive = kind[y, x] == POSITIVE and settings.membrane_dab > 0
            alone = True
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width:
                    # a nest ends in a membrane where it is positive; otherwise only the borders of cells show
                    meets = positive if epithelium[v, u] == 0 else owner[v, u] != cell
                    alone = alone and not meets
            if alone:
                continue
            if not positive:
                border[y, x] = 1
            else:
                gaps = sample(smooth, F(y) * pitch - settings.start_x, F(x) * pitch + settings.start_y)
                level = (F(1) - F(2) * cells[cell].ring) * F(1.3)
                closed = min(max((gaps - level) * F(1.2) + F(0.5), F(0.06)), F(1))
                border[y, x] = max(cells[cell].dab, F(0.4) * settings.dab) * closed


@compiled(fastmath=True)
def paint(light, scene, cells, grain, smooth, dyes, background, settings):  # type: ignore[no-untyped-def]
    """Fill `light`, uint8 [3, H, W]; `dyes` float32 [4, 3] and `background` float32 [3] are in its channel order.

    Row by row, so that intermediate values stay in the first cache. The pixels of a row are sorted by kind, and noise
    is looked up for all pixels of a kind at once, which the compiler vectorises.
    """
    height, width = scene.kind.shape
    layers = np.zeros((4, width), np.float32)
    sorts = np.zeros((3, width), np.int32)
    noise = np.zeros((6, width), np.float32)
    for y in range(height):
        nuclear, epithelial, stromal = _sort_row(y, sorts, scene)
        layers[:] = 0
        _lay_nuclei(y, sorts[0, :nuclear], layers, noise, scene, cells, grain, settings)
        _lay_cytoplasm(y, sorts[1, :epithelial], layers, noise, scene, cells, grain, smooth, settings)
        _lay_stroma(y, sorts[2, :stromal], layers, noise, scene, grain, smooth, settings)
        _lay_red_cells(y, layers, scene.red, settings)
        _shine_row(y, light, layers, scene.patch[y], scene.fold[y], dyes, background, settings)


@compiled(fastmath=True)
def _sort_row(y, sorts, scene):  # type: ignore[no-untyped-def]
    """Columns of a row that are nucleus, epithelium and stroma, the last two both where they blend: [3, W]."""
    nuclear, epithelial, stromal = 0, 0, 0
    for x in range(sorts.shape[1]):
        if scene.nucleus[y, x] > 0:
            sorts[0, nuclear] = x
            nuclear += 1
        elif scene.kind[y, x] != AIR:
            share = scene.epithelium[y, x]
            if share > 0:
                sorts[1, epithelial] = x
                epithelial += 1
            if share < 255:
                sorts[2, stromal] = x
                stromal += 1
    return nuclear, epithelial, stromal


@compiled(fastmath=True)
def _lay_nuclei(y, columns, layers, noise, scene, cells, grain, settings):  # type: ignore[no-untyped-def]
    """Chromatin: clumps, a rim, a paler middle, a nucleolus; DAB over it in a positive cell."""
    ys, xs, clump = noise[0], noise[1], noise[2]
    pitch = settings.mpp * F(1 / 0.19)
    for i in range(len(columns)):
        x = columns[i]
        cell = cells[scene.nucleus[y, x]]
        ys[i], xs[i] = F(y) * pitch + cell.grain_y, F(x) * pitch + cell.grain_x
    sample_many(grain, ys, xs, clump, len(columns))
    for i in range(len(columns)):
        x = columns[i]
        cell = cells[scene.nucleus[y, x]]
        depth_px = scene.distance[y, x]
        tone = _chromatin(F(y), F(x), cell, depth_px, clump[i], settings)
        h = cell.density * tone
        d = F(0.5) * settings.haze
        if settings.nuclear_dab > 0:
            if cell.dab > 0:
                coarse = F(1) + F(1.3) * min(cell.chromatin, F(0.25)) * clump[i]
                d += F(1.25) * cell.dab * tone * min(max(coarse, F(0.45)), F(1.8))
                h *= max(F(0.2), F(0.6) - F(0.2) * cell.dab)
        elif settings.membrane_dab > 0 and scene.kind[y, x] == POSITIVE:
            d += F(0.4) * settings.blush * cell.dab * _fade(scene.inner[y, x])
        layers[0, x], layers[1, x], layers[2, x] = h, F(0.55) * settings.eosin, d


@numba.njit(inline="always")
def _chromatin(y, x, cell, depth_px, clump, settings):  # type: ignore[no-untyped-def]
    """Density of a nucleus at a pixel, relative to its mean."""
    depth_um = depth_px * settings.mpp
    # close to exp(-3.5 d^2), without an exponential
    fall = F(1) + depth_um * depth_um * F(0.875)
    fall *= fall
    inside = min(depth_px / cell.radius * F(1.6), F(1))
    clump += F(0.2) * (clump * clump - F(1))
    tone = F(1) - cell.pallor * inside + cell.rim / (fall * fall) + cell.chromatin * clump
    if cell.nucleolus_radius > 0:
        dy, dx = y - cell.nucleolus_y, x - cell.nucleolus_x
        bulge = F(1) - (dy * dy + dx * dx) / (cell.nucleolus_radius * cell.nucleolus_radius)
        if bulge > 0:
            tone += F(0.65) * min(F(2) * bulge, F(1))
    tone = min(max(tone, F(0.42)), F(2.2))
    # a nucleus out of focus fades in from its outline, a sharp one within a pixel
    return tone * (F(0.55) + F(0.45) * min((depth_px + F(0.4)) / (cell.softness + F(0.8)), F(1)))


@numba.njit(inline="always")
def _fade(inner):  # type: ignore[no-untyped-def]
    """DAB pales towards negative tumour and ends where the label does; `inner` is 0 to 255."""
    return min(max(F(inner) * F(2.4 / 255) - F(1.2), F(0.12)), F(1))


@compiled(fastmath=True)
def _lay_cytoplasm(y, columns, layers, noise, scene, cells, grain, smooth, settings):  # type: ignore[no-untyped-def]
    """Granular, uneven, here and there torn cytoplasm, with a membrane or a broken cleft at its border."""
    ys, xs, grit, wear = noise[0], noise[1], noise[2], noise[3]
    fine, coarse = settings.mpp * F(1 / 0.26), settings.mpp * F(36 / 13)
    for i in range(len(columns)):
        x = columns[i]
        cell = cells[scene.owner[y, x]]
        ys[i], xs[i] = F(y) * fine + cell.grain_x, F(x) * fine + cell.grain_y
    sample_many(grain, ys, xs, grit, len(columns))
    for i in range(len(columns)):
        ys[i], xs[i] = F(y) * coarse + settings.start_x, F(columns[i]) * coarse - settings.start_y
    sample_many(smooth, ys, xs, wear, len(columns))
    for i in range(len(columns)):
        x = columns[i]
        cell = cells[scene.owner[y, x]]
        tone = cell.cytoplasm * (F(1) + settings.texture * (F(0.17) * grit[i] + F(0.13) * wear[i]))
        torn = F(0.6) * wear[i] + F(0.5) * grit[i] - F(2) + F(1.5) * settings.retraction
        tone = min(max(tone * (F(1) - F(0.85) * min(max(torn, F(0)), F(1))), F(0.05)), _DENSEST)
        counter, dab = tone, settings.haze * tone
        edge = scene.border[y, x]
        if settings.membrane_dab > 0 and scene.kind[y, x] == POSITIVE:
            blush = max(cell.dab, F(0.45) * settings.dab) * settings.blush
            stained = edge * (F(1) + F(0.35) * grit[i]) + blush * (F(1) + F(0.4) * grit[i] + F(0.15) * wear[i])
            dab += max(stained, F(0)) * _fade(scene.inner[y, x])
        else:
            cleft = min(max(settings.retraction - F(0.35) + F(0.35) * wear[i], F(0)), F(0.9))
            counter *= F(1) + (F(0.25) * (F(1) - cleft) - cleft) * min(edge, F(1))
        share = F(scene.epithelium[y, x]) * F(1 / 255)
        layers[0, x], layers[1, x] = share * settings.tissue * counter, share * settings.eosin * counter
        layers[2, x] = share * dab


@compiled(fastmath=True)
def _lay_stroma(y, columns, layers, noise, scene, grain, smooth, settings):  # type: ignore[no-untyped-def]
    """Collagen: bundles that wave each in its own phase, fibres in them, and clefts; looser among lymphocytes."""
    count = len(columns)
    ys, xs, bundle, fibre, gap, across = noise[0], noise[1], noise[2], noise[3], noise[4], noise[5]
    for i in range(count):
        x = columns[i]
        ys[i] = scene.along[y, x] * F(0.6) - settings.start_x
        xs[i] = scene.across[y, x] * F(2.6) + settings.start_y
    sample_many(smooth, ys, xs, bundle, count)
    fine = F(6) / settings.fibre_um
    for i in range(count):
        x = columns[i]
        along = scene.along[y, x]
        # collagen is crimped, but not all of it, and no two bundles in step
        turn = along * F(0.07) + F(0.16) * bundle[i] + scene.across[y, x] * F(0.011)
        turn -= np.floor(turn)
        wave = F(2.2) * turn * (F(1) - turn)
        across[i] = scene.across[y, x] + (F(2) * wave + F(0.8) * bundle[i]) * max(F(0.5) + F(0.5) * bundle[i], F(0.1))
        ys[i] = along * fine * F(0.16) + settings.start_y
        xs[i] = across[i] * fine + settings.start_x
    sample_many(grain, ys, xs, fibre, count)
    for i in range(count):
        ys[i] = scene.along[y, columns[i]] * F(0.9) + settings.start_x
        xs[i] = across[i] * F(4.6) - settings.start_y
    sample_many(smooth, ys, xs, gap, count)
    for i in range(count):
        x = columns[i]
        tone = F(1) + settings.texture * (F(0.13) * fibre[i] + F(0.16) * bundle[i] - F(0.06) * gap[i])
        opened = gap[i] + F(0.35) * fibre[i] - F(0.3) * bundle[i] - F(2.2) + F(1.3) * settings.retraction
        if scene.kind[y, x] == IMMUNE:
            tone *= F(0.75)
            opened += F(0.5)
        tone = min(max(tone * (F(1) - F(0.88) * min(max(opened * F(1.4), F(0)), F(1))), F(0.05)), _DENSEST)
        filled = F(1) - F(scene.epithelium[y, x]) * F(1 / 255)
        hollow = settings.lumen - scene.patch[y, x]
        if hollow > 0 and scene.distance[y, x] * settings.mpp > 1:
            filled *= F(1) - F(0.97) * min(hollow * F(8), F(1))
        tone *= filled
        layers[0, x] += F(0.6) * settings.tissue * tone
        layers[1, x] += settings.eosin * tone
        layers[2, x] += F(0.8) * settings.haze * tone


@compiled(fastmath=True)
def _lay_red_cells(y, layers, red, settings):  # type: ignore[no-untyped-def]
    """Red cells push aside what would be under them."""
    for x in range(layers.shape[1]):
        if red[y, x] > 0:
            covered = F(red[y, x]) * F(1 / 255)
            bare = max(F(1) - F(1.6) * covered, F(0))
            layers[0, x] *= bare
            layers[1, x] *= bare
            layers[3, x] = covered * settings.red


@compiled(fastmath=True)
def _shine_row(y, light, layers, patch, fold, dyes, background, settings):  # type: ignore[no-untyped-def]
    """Light through one row of pixels, without branches or tables, so that it is vectorised."""
    height, width = light.shape[1:]
    ry = (F(y) + F(0.5)) / F(height) - settings.light_y
    step = F(1) / F(width)
    for c in range(3):
        of_h, of_e, of_d, of_r, bright = dyes[0, c], dyes[1, c], dyes[2, c], dyes[3, c], background[c]
        row = light[c, y]
        for x in range(width):
            od = layers[0, x] * of_h + layers[1, x] * of_e + layers[2, x] * of_d + layers[3, x] * of_r
            od *= (F(1) + F(0.07) * patch[x]) * (F(1) + fold[x])
            rx = (F(x) + F(0.5)) * step - settings.light_x
            lamp = F(1) - settings.vignette * F(2) * (ry * ry + rx * rx)
            # exp(-od) = (1 - od / n)^n, within 0.1 grey levels for n = 2^10
            through = F(1) - min(max(od, F(0)), F(8)) * F(1 / (1 << _HALVINGS))
            for _ in range(_HALVINGS):
                through *= through
            row[x] = np.uint8(bright * lamp * through + F(0.5))
