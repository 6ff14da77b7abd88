"""Template matching of tiles in larger training tiles, also flipped and turned, to find copies.

Tiles are compared by their edges: they are reduced, then a band-pass (difference of Gaussians, 1 and 4 reduced pixels)
removes the mean, large shapes that many tiles share, and single-pixel noise. Every tile is moved over every whole
training tile, in each of the eight symmetries that fits into it. The similarity is the correlation coefficient of the
overlap (normalised cross-correlation; the band-pass has removed the means). A tile may reach past the training tile by
a quarter of its sides if the overlap has half of its edges. The search goes from coarse to fine:

1. At every coarse pixel (a quarter of the fine size: every 8 pixels for 128x256), by FFT; the spectra of the training
   tiles are computed once. Of the best places of all training tiles and symmetries, the 12 best are kept.
2. Around each of them, at every fine pixel (every 2 pixels for 128x256).
3. For the best two, the place is cut out of the training tile, shifted by up to half a fine pixel, and reduced to edges
   in the same way as the tile, so that an exact copy has similarity 1 at any place.

A tile without edges has no similarity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from factory.core.statistics import Floats, Places
from factory.score.tiles import TileSet, reduction, shrink
from manifests.labels import LabelScheme

Pixels = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]

_FINE_PX, _COARSE_PX = 1.0, 4.0
_COARSER = 4  # fine pixels along a side of a coarse pixel; fewer where tiles would have fewer than 16 coarse pixels
_COARSE_BAND = (0.5, 2.0)  # of the band-pass at the coarse size, where averaging has removed the noise
_FEWEST_EDGES = 1e-4  # mean square of the band-pass; below it a tile is blank
_CANDIDATES, _FINALISTS = 12, 2
_REACH = 0.25
_LEAST_OVERLAP = 0.5
_LEAST_CONTRAST = 0.25  # squared; fainter places count as this much, so that specks match nothing
_BLOCK = 64  # training tiles that are correlated at a time

SYMMETRIES: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "as it is": lambda a: a,
    "flipped left-right": lambda a: a[..., :, ::-1],
    "flipped up-down": lambda a: a[..., ::-1, :],
    "turned by 180": lambda a: a[..., ::-1, ::-1],
    "transposed": lambda a: a.swapaxes(-1, -2),
    "turned by 90": lambda a: a.swapaxes(-1, -2)[..., ::-1, :],
    "turned by 270": lambda a: a.swapaxes(-1, -2)[..., :, ::-1],
    "anti-transposed": lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
}
"""Symmetries of a square; the last four turn a tile on its side."""

UPRIGHT = 4
"""Number of symmetries that keep height and width."""

_INVERSE = {"turned by 90": "turned by 270", "turned by 270": "turned by 90"}


@dataclass(frozen=True)
class Match:
    """The place in the training tiles that is most similar to a tile.

    Attributes:
        place: of the training tile; -1 for a tile without edges. similarity: from -1 to 1; NaN without edges.
        symmetry: of the tile, in `SYMMETRIES`. position: row and column in the training tile, in pixels, of the upper
            left corner of the turned tile; below 0 where it reaches past the training tile.
    """

    place: int
    similarity: float
    symmetry: str = ""
    position: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Searched:
    """Training tiles prepared for the search; from `prepare`.

    Attributes:
        tiles: whole tiles. shape: height and width of the tiles to be found. fine, coarse: reduction factors.
        reach: free coarse rows and columns before every tile. size: of the Fourier transform.
        spectra: complex64 [M, C, ...]. over_norms: one over the norm of the edges under a tile at every position,
            float32 [M, rows, columns], for tiles upright and on their side (None where these do not fit).
        blank: bool [M].
    """

    tiles: TileSet
    shape: tuple[int, int]
    fine: int
    coarse: int
    reach: tuple[int, int]
    size: tuple[int, int]
    spectra: npt.NDArray[np.complex64]
    over_norms: tuple[Singles, Singles | None]
    blank: npt.NDArray[np.bool_]

    @property
    def symmetries(self) -> tuple[str, ...]:
        """Symmetries in which a tile fits into the training tiles."""
        return tuple(SYMMETRIES)[: UPRIGHT if self.over_norms[1] is None else None]


def turned(picture: Pixels, symmetry: str) -> Pixels:
    """Applies a symmetry to a mask [H, W] or an image [H, W, 3]."""
    if picture.ndim == 2:
        return np.ascontiguousarray(SYMMETRIES[symmetry](picture))
    return np.ascontiguousarray(np.moveaxis(SYMMETRIES[symmetry](np.moveaxis(picture, 2, 0)), 0, 2))


def inverse(symmetry: str) -> str:
    """Returns the inverse of a symmetry."""
    return _INVERSE.get(symmetry, symmetry)


def edges_of(
    pixels: Pixels, scheme: LabelScheme | None, factor: int, band: tuple[float, float] = (_FINE_PX, _COARSE_PX)
) -> Singles:
    """Returns edges: band-passed reduced pictures, with a channel for each class but the first, or one for images.

    Args:
        pixels: uint8 [N, H, W] masks or [N, H, W, 3] images. scheme: of the masks; None for images.
        factor: of the reduction. band: standard deviations of both Gaussians, in reduced pixels.

    Returns:
        float32 [N, C, h, w].
    """
    small: list[Singles] = []
    for tile in pixels:  # one at a time: planes of all tiles at full size would not fit into memory
        if scheme is None:
            planes = [(shrink(tile[None], factor)[0].mean(-1) / 255).astype(np.float32)]
        else:
            planes = [shrink((tile[None] == c).view(np.uint8), factor)[0] for c in range(1, len(scheme))]
        fine, coarse = (
            [cv2.GaussianBlur(plane, (0, 0), width, borderType=cv2.BORDER_REPLICATE) for plane in planes]
            for width in band
        )
        small.append(np.array(fine, np.float32) - np.array(coarse, np.float32))
    return np.array(small, np.float32)


def is_blank(edges: Singles) -> npt.NDArray[np.bool_]:
    """Returns which tiles have practically no edges: bool [N]."""
    blank: npt.NDArray[np.bool_] = np.square(edges).sum(1).mean((1, 2)) < _FEWEST_EDGES
    return blank


def prepare(training: TileSet, shape: tuple[int, int], longest_px: int) -> Searched:
    """Prepares whole training tiles for the search for tiles of one shape, at most as large as they are.

    `longest_px` is the largest length of the longer side of `shape` at the fine size.
    """
    fine = reduction(shape, longest_px)
    coarse = fine * max(1, min(_COARSER, min(shape) // (16 * fine)))
    edges = edges_of(training.pixels, training.scheme, coarse, _COARSE_BAND)
    height, width = edges.shape[2:]
    h, w = shape[0] // coarse, shape[1] // coarse
    on_side = shape[1] <= training.shape[0] and shape[0] <= training.shape[1]
    most = int(max(h, w) * _REACH)
    reach = (most, most) if on_side else (int(h * _REACH), int(w * _REACH))
    size = (fft.next_fast_len(height + reach[0], real=True), fft.next_fast_len(width + reach[1], real=True))
    spectra = np.concatenate([_spectra(edges[s : s + _BLOCK], reach, size) for s in range(0, len(edges), _BLOCK)])
    squares = np.square(edges).sum(1)
    over_norms = (_over_norms(squares, (h, w)), _over_norms(squares, (w, h)) if on_side else None)
    return Searched(training, shape, fine, coarse, reach, size, spectra, over_norms, is_blank(edges))


def _spectra(edges: Singles, reach: tuple[int, int], size: tuple[int, int]) -> npt.NDArray[np.complex64]:
    free = [(0, 0), (0, 0), *((r, s - r - side) for r, s, side in zip(reach, size, edges.shape[2:], strict=True))]
    return fft.rfft2(np.pad(edges, free)).astype(np.complex64, copy=False)


def _over_norms(squares: Singles, shape: tuple[int, int]) -> Singles:
    """Returns one over the norm of the edges under a tile at every position, up to a quarter past the border."""
    h, w = shape
    reach = int(h * _REACH), int(w * _REACH)
    return (1 / np.sqrt(np.maximum(_window_sums(squares, shape, reach), 1e-12))).astype(np.float32)


def _window_sums(planes: Singles, shape: tuple[int, int], reach: tuple[int, int]) -> Floats:
    """Sums windows at every position: [M, H, W] -> [M, H + 2 reach - h + 1, W + 2 reach - w + 1]."""
    h, w = shape
    padded = np.pad(planes, ((0, 0), (reach[0] + 1, reach[0]), (reach[1] + 1, reach[1])))
    sums = padded.cumsum(1, dtype=np.float64).cumsum(2)
    windows: Floats = sums[:, h:, w:] - sums[:, :-h, w:] - sums[:, h:, :-w] + sums[:, :-h, :-w]
    return windows


def _inside(tile: Singles, rows: Places, columns: Places, shape: tuple[int, int]) -> Floats:
    """Sums the squares of a tile's edges inside a training tile, at every position of its upper left corner."""
    h, w = tile.shape[1:]
    sums = np.pad(np.square(tile).sum(0).cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    top, bottom = (np.clip(end, 0, h)[:, None] for end in (-rows, shape[0] - rows))
    left, right = (np.clip(end, 0, w)[None] for end in (-columns, shape[1] - columns))
    own: Floats = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return own


def _over_own(tile: Singles, rows: Places, columns: Places, shape: tuple[int, int]) -> Singles:
    """Returns one over the norm of a tile's edges inside a training tile; 0 where too few of them lie inside."""
    own = _inside(tile, rows, columns, shape)
    enough = own >= _LEAST_OVERLAP * np.square(tile).sum()
    over: Singles = np.where(enough, 1 / np.sqrt(np.maximum(own, 1e-12)), 0).astype(np.float32)
    return over


def closest(tiles: TileSet, training: Searched, on_tile: Callable[[], None] = lambda: None) -> list[Match]:
    """Finds the most similar place in the training tiles for each tile, of the shape that they were prepared for."""
    matches = []
    for pixels in tiles.pixels:
        edges = edges_of(pixels[None], tiles.scheme, training.fine)
        if is_blank(edges)[0] or training.blank.all():
            matches.append(Match(-1, float("nan")))
        else:
            matches.append(_search(pixels, edges[0], training))
        on_tile()
    return matches


def _search(pixels: Pixels, fine: Singles, training: Searched) -> Match:
    """Finds the best place of one tile, from coarse to fine."""
    coarse = edges_of(pixels[None], training.tiles.scheme, training.coarse, _COARSE_BAND)[0]
    names = training.symmetries
    found = [_peaks(SYMMETRIES[name](coarse), training, on_side=number >= UPRIGHT) for number, name in enumerate(names)]
    values = np.stack([peaks for peaks, _ in found])
    order = np.argsort(values, axis=None)[::-1][:_CANDIDATES]
    near = []
    for which, place in zip(*np.unravel_index(order, values.shape), strict=True):
        if np.isfinite(values[which, place]):
            row, column = found[which][1][place]
            start = int(row) * training.coarse, int(column) * training.coarse
            near.append(_nearby(SYMMETRIES[names[which]](fine), training, int(place), names[which], start))
    near.sort(key=lambda match: -match.similarity)
    return max((_exactly(pixels, training, match) for match in near[:_FINALISTS]), key=lambda match: match.similarity)


def _peaks(tile: Singles, training: Searched, *, on_side: bool) -> tuple[Singles, Places]:
    """Returns the best coefficient with each training tile, float32 [M], and its place, int [M, 2] in coarse pixels."""
    h, w = tile.shape[1:]
    height, width = (side // training.coarse for side in training.tiles.shape)
    reach = int(h * _REACH), int(w * _REACH)
    norms = training.over_norms[int(on_side)]
    assert norms is not None  # this symmetry fits
    rows, columns = np.arange(-reach[0], height - h + reach[0] + 1), np.arange(-reach[1], width - w + reach[1] + 1)
    over_own = _over_own(tile, rows, columns, (height, width))
    faintest = over_own / np.float32(np.sqrt(_LEAST_CONTRAST))
    spectrum = fft.rfft2(tile, training.size).conj()
    # The training tile lies `reach` away from the corner; positions past its end wrap around into this free margin.
    top, left = (free - own for free, own in zip(training.reach, reach, strict=True))
    peaks, places = [], []
    for start in range(0, len(norms), _BLOCK):
        block = slice(start, start + _BLOCK)
        product = fft.irfft2((training.spectra[block] * spectrum).sum(1), training.size, overwrite_x=True)
        score = product[:, top : top + len(rows), left : left + len(columns)] * np.minimum(norms[block], faintest)
        score *= over_own
        flat = score.reshape(len(score), -1)
        best = flat.argmax(1)
        peaks.append(flat[np.arange(len(flat)), best])
        places.append(best)
    at = np.concatenate(places)
    values = np.where(training.blank, -np.inf, np.concatenate(peaks)).astype(np.float32)
    return values, np.stack([rows[at // len(columns)], columns[at % len(columns)]], 1)


def _nearby(tile: Singles, training: Searched, place: int, symmetry: str, start: tuple[int, int]) -> Match:
    """Finds the best fine position of a turned tile's fine edges [C, h, w] within a coarse pixel of `start`."""
    factor = training.fine
    margin = training.coarse // factor
    tile = np.ascontiguousarray(tile)
    shape = training.tiles.shape[0] // factor, training.tiles.shape[1] // factor
    corner = [side // factor - margin for side in start]
    ends = [first + side + 2 * margin for first, side in zip(corner, tile.shape[1:], strict=True)]
    (top, bottom), (left, right) = (
        (max(0, first), min(length, end)) for first, end, length in zip(corner, ends, shape, strict=True)
    )
    part = training.tiles.pixels[place, top * factor : bottom * factor, left * factor : right * factor]
    edges = edges_of(part[None], training.tiles.scheme, factor)[0]
    free = ((0, 0), (top - corner[0], ends[0] - bottom), (left - corner[1], ends[1] - right))
    canvas = np.pad(edges, free)
    rows, columns = (np.arange(first, first + 2 * margin + 1) for first in corner)
    product = sum(cv2.matchTemplate(c, t, cv2.TM_CCORR) for c, t in zip(canvas, tile, strict=True))
    under = _window_sums(np.square(canvas).sum(0)[None], tile.shape[1:], (0, 0))[0]
    over_own = _over_own(tile, rows, columns, shape)
    norms = np.minimum(1 / np.sqrt(np.maximum(under, 1e-12)), over_own / np.sqrt(_LEAST_CONTRAST))
    score = product * norms * over_own
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    return Match(place, float(score[y, x]), symmetry, (int(rows[y]) * factor, int(columns[x]) * factor))


def _exactly(pixels: Pixels, training: Searched, match: Match) -> Match:
    """Returns the coefficient of a tile with the exact place, with shifts below a fine pixel."""
    tile, step = turned(pixels, match.symmetry), training.fine // 2
    steps = (-step, 0, step) if step else (0,)
    found = []
    for position in ((match.position[0] + y, match.position[1] + x) for y in steps for x in steps):
        own, other = overlap(tile, training.tiles.pixels[match.place], position)
        if min(own.shape[:2]) >= training.fine:
            similarity = _coefficient(own, other, training.tiles.scheme, training.fine)
            found.append(Match(match.place, similarity, match.symmetry, position))
    return max(found, key=lambda found: found.similarity)


def overlap(tile: Pixels, training: Pixels, position: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Returns the overlapping parts of a tile and a training tile, when the tile's corner lies at `position`."""
    own, other = [], []
    for side, length, first in zip(tile.shape[:2], training.shape[:2], position, strict=True):
        low, high = max(0, -first), min(side, length - first)
        own.append(slice(low, high))
        other.append(slice(low + first, high + first))
    return tile[tuple(own)], training[tuple(other)]


def _coefficient(own: Pixels, other: Pixels, scheme: LabelScheme | None, factor: int) -> float:
    a, b = (edges_of(part[None], scheme, factor)[0] for part in (own, other))
    mine, theirs = float(np.square(a).sum()), float(np.square(b).sum())
    return float((a * b).sum() / np.sqrt(max(mine * max(theirs, _LEAST_CONTRAST * mine), 1e-12)))
