"""How much a tile looks like another one that may be shifted, flipped or turned: what tells a copy.

Both tiles are brought to the same small size and to their edges: a band-pass (difference of Gaussians, 1 and 4 pixels
of that size) takes away the mean, the large shapes that many tiles share, and single-pixel noise. Then

1. the circular cross-correlation with every candidate under every symmetry, one FFT each, finds the likeliest few;
2. for these the correlation coefficient over the overlap alone, at every shift of up to a quarter of each side where
   the overlap holds at least half of the edges of both tiles (Padfield 2012, masked normalised cross-correlation, with
   rectangles for masks and without the means, which the band-pass has taken).

1 is an exact copy; unrelated masks come to 0.2 to 0.6. A tile without edges has nothing to copy and no similarity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from factory.realism.pictures import reduction, shrink
from factory.realism.tiles import TileSet

Singles = npt.NDArray[np.float32]

_FINE_PX, _COARSE_PX = 1.0, 4.0
_FEWEST_EDGES = 1e-4  # mean square of the band-pass: below this a tile is blank
_CANDIDATES = 8
_LARGEST_SHIFT = 0.25
_LEAST_OVERLAP = 0.5
_BLOCK = 256  # training tiles correlated at a time

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
"""The symmetries of a square; tiles that are not square have the first four."""


@dataclass(frozen=True)
class Match:
    """The training tile most like a tile.

    Attributes:
        place: of the training tile; -1 for a tile without edges. similarity: from -1 to 1; NaN for those.
        symmetry: in `SYMMETRIES`, of the tile. shift: rows and columns by which the tile so turned lies beside it, as
            shares of the sides.
    """

    place: int
    similarity: float
    symmetry: str = ""
    shift: tuple[float, float] = (0.0, 0.0)


def edges_of(tiles: TileSet, longest_px: int) -> Singles:
    """Band-passed small pictures: float32 [N, C, h, w], a channel for each class but the first, or the grey of images.

    Args:
        tiles: masks or images. longest_px: of the longer side, at most.
    """
    factor = reduction(tiles.shape, longest_px)
    if tiles.scheme is None:
        grey = np.stack([shrink(tile[None], factor)[0].mean(-1) for tile in tiles.pixels])[:, None] / 255
        return _band_pass(grey.astype(np.float32))
    labels = range(1, len(tiles.scheme))
    shares = [np.concatenate([shrink((t[None] == c).view(np.uint8), factor) for t in tiles.pixels]) for c in labels]
    return _band_pass(np.stack(shares, 1))


def _band_pass(pictures: Singles) -> Singles:
    sigmas = [(0, 0, width, width) for width in (_FINE_PX, _COARSE_PX)]
    fine, coarse = (ndimage.gaussian_filter(pictures, sigma, mode="nearest") for sigma in sigmas)
    return np.ascontiguousarray(fine - coarse, np.float32)


def is_blank(edges: Singles) -> npt.NDArray[np.bool_]:
    """Which tiles have no edges to speak of: bool [N]."""
    blank: npt.NDArray[np.bool_] = np.square(edges).sum(1).mean((1, 2)) < _FEWEST_EDGES
    return blank


def closest(edges: Singles, training: Singles, on_tile: Callable[[], None] = lambda: None) -> list[Match]:
    """The training tile most like each tile.

    Args:
        edges, training: float32 [N, C, h, w] and [M, C, h, w] of `edges_of`. on_tile: called after each tile.
    """
    height, width = training.shape[2:]
    names = list(SYMMETRIES) if height == width else list(SYMMETRIES)[:4]
    spectra = np.concatenate([_spectrum(training[s : s + _BLOCK]) for s in range(0, len(training), _BLOCK)])
    blank, training_blank = is_blank(edges), is_blank(training)
    matches = []
    for tile, empty in zip(edges, blank, strict=True):
        if empty or training_blank.all():
            matches.append(Match(-1, float("nan")))
        else:
            peaks = np.stack([_peaks(SYMMETRIES[name](tile), spectra, (height, width)) for name in names])
            peaks[:, training_blank] = -np.inf
            matches.append(_refine(tile, training, peaks, names))
        on_tile()
    return matches


def _unit(edges: Singles) -> Singles:
    norms = np.sqrt(np.square(edges).sum((-3, -2, -1), keepdims=True))
    unit: Singles = edges / np.maximum(norms, np.float32(1e-12))
    return unit


def _spectrum(edges: Singles) -> npt.NDArray[np.complex64]:
    """Spectrum of unit edges up to half of the highest frequency: above it lie three parts in a hundred of masks."""
    height, width = (side // 2 for side in edges.shape[-2:])
    whole = fft.rfft2(_unit(edges))[..., : width // 2 + 1]
    rows = np.r_[: -(-height // 2), -(height // 2) : 0]
    return np.ascontiguousarray(whole[..., rows, :])


def _peaks(tile: Singles, spectra: npt.NDArray[np.complex64], shape: tuple[int, int]) -> Singles:
    """Largest circular correlation with each training tile, seen at every other pixel: float32 [M]."""
    spectrum = _spectrum(tile).conj()
    half = (shape[0] // 2, shape[1] // 2)
    peaks = []
    for start in range(0, len(spectra), _BLOCK):
        product = (spectra[start : start + _BLOCK] * spectrum).sum(1)
        peaks.append(fft.irfft2(product, half, overwrite_x=True).max((1, 2)) / 4)
    return np.concatenate(peaks)


def _refine(tile: Singles, training: Singles, peaks: Singles, names: list[str]) -> Match:
    best = Match(-1, -np.inf)
    order = np.argsort(peaks, axis=None)[::-1][:_CANDIDATES]
    for which, place in zip(*np.unravel_index(order, peaks.shape), strict=True):
        if not np.isfinite(peaks[which, place]):
            continue
        similarity, shift = overlap_similarity(SYMMETRIES[names[which]](tile), training[place])
        if similarity > best.similarity:
            best = Match(int(place), similarity, names[which], shift)
    return best


def overlap_similarity(tile: Singles, other: Singles) -> tuple[float, tuple[float, float]]:
    """Largest correlation coefficient over the overlap of two tiles, and the shift of the second that gives it.

    Args:
        tile, other: float32 [C, h, w].

    Returns:
        The coefficient, and the shift in rows and columns as shares of the sides.
    """
    height, width = tile.shape[1:]
    reach = (int(height * _LARGEST_SHIFT), int(width * _LARGEST_SHIFT))
    size = (fft.next_fast_len(height + reach[0], real=True), fft.next_fast_len(width + reach[1], real=True))
    inside = fft.rfft2(np.ones((height, width), np.float32), size)
    squares = [fft.rfft2(np.square(side).sum(0), size) for side in (tile, other)]
    spectrum = (fft.rfft2(tile, size).conj() * fft.rfft2(other, size)).sum(0)
    stack = fft.irfft2(np.stack([spectrum, squares[0].conj() * inside, inside.conj() * squares[1]]), size)
    rows, columns = (np.arange(-side, side + 1) for side in reach)
    product, own, others = stack[:, rows[:, None], columns[None, :]]
    enough = (own >= _LEAST_OVERLAP * np.square(tile).sum()) & (others >= _LEAST_OVERLAP * np.square(other).sum())
    coefficient = np.where(enough, product / np.sqrt(np.maximum(own * others, 1e-12)), -1.0)
    y, x = np.unravel_index(int(coefficient.argmax()), coefficient.shape)
    return float(coefficient[y, x]), (float(rows[y] / height), float(columns[x] / width))
