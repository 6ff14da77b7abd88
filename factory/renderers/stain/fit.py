"""Stain and scanner of real slides, measured from their pixels alone. Deterministic.

Vectors follow Macenko et al. 2009: the plane of the two largest singular vectors of the optical densities, and in it
the directions at robust extremes of the angle. Two things are added. In immunostains brown and blue pixels weigh the
same, because 1 % of positive nuclei would vanish among the percentiles. A dye that an image does not show keeps its
configured vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import numpy.typing as npt

from factory.renderers.stain.appearance import Staining
from factory.renderers.stain.config import Preparation, Slide, StainConfig
from factory.renderers.stain.dyes import densities, optical_density
from manifests.errors import UserError

MOST_IMAGES = 48
_MOST_SIDE = 1024
_STAINED = 0.2
"""Optical density (length of the RGB vector, natural logarithm) from which a pixel counts as stained."""
_TISSUE = 0.06
"""The same for tissue, however pale."""
_BLACK = 2.0
_ENOUGH = 150
"""Pixels from which a colour counts as present."""
_SHEET_PX = 4000
"""A connected brown area above this is more than a cluster of nuclei, at any usual resolution."""
_NO_AIR = np.array([244.0, 242.0, 244.0])
"""Background assumed where an image shows none."""

_LEFT_BY_JPEG = 0.26
"""Share of the noise that compression and the blur of the codec's colours leave, on rendered tiles."""
# A nucleus is no step, and Scharr's own width adds: a line through the medians of tiles that were rendered with 0.6 to
# 1.2 px (`experiments.stain_constants`), which come back within 0.1 px.
_EDGE_SLOPE, _EDGE_BIAS_PX = 1.6, 0.95

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Luma = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Gains:
    """Value of each measure below on rendered tiles, per unit of the parameter of the same name.

    From `python -m experiments.stain_constants`, which renders tiles and fits them. The medians come back; a single
    tile's nuclei do to within 25 % and its DAB to within 35 % (a test), the others are looser. The tissue of H&E is an
    exception: Macenko's eosin takes in some of its haematoxylin, so that less of it must come back.
    """

    nucleus: float
    nucleus_spread: float
    tissue: float
    chromatin: float
    texture: float
    eosin: float = 1.0
    haze: float = 1.0
    dab: float = 1.0
    blush: float = 1.0


_HE_GAINS = _Gains(nucleus=0.8, nucleus_spread=1.4, tissue=0.85, chromatin=0.63, texture=0.14, eosin=0.97)
_IHC_GAINS = _Gains(
    nucleus=0.73, nucleus_spread=1.15, tissue=0.45, chromatin=1.1, texture=0.42, haze=0.42, dab=0.76, blush=2.2
)


@dataclass(frozen=True)
class Scan:
    """Standard deviation of the point spread (px), noise (grey levels) and JPEG quality (1-100)."""

    blur_px: float
    grain: float
    jpeg_quality: float


@dataclass(frozen=True)
class _Sample:
    """Middle of an image: background, optical densities float32 [H, W, 3], their lengths, masks of brown and blue."""

    background: npt.NDArray[np.float64]
    od: npt.NDArray[np.float32]
    length: npt.NDArray[np.float32]
    brown: Mask
    blue: Mask
    immunostain: bool
    scan: Scan


def fit_slides(
    images: Sequence[npt.NDArray[np.uint8]], staining: Staining, config: StainConfig, *, positive_labelled: bool
) -> StainConfig:
    """Return `config` with the stain of the images, at most 48 of them, evenly picked.

    Args:
        images: uint8 [H, W, 3], RGB. staining: of the scheme.
        config: its values are kept where the images show nothing of them.
        positive_labelled: whether the scheme labels positive classes. Where it does not and most images are
            immunostains, tiles become immunostains with the images' share of positive cells, nuclear where DAB lies in
            spots, membranous where it lies in sheets.

    Raises:
        UserError: when no image holds stained tissue.
    """
    picked = sorted({int(i) for i in np.linspace(0, len(images) - 1, MOST_IMAGES)}) if len(images) else []
    samples = [sample for sample in (_sample(images[i]) for i in picked) if sample is not None]
    if not samples:
        raise UserError(f"--like: expected images with stained tissue, got none in {len(images)}. Choose other images.")
    immunostains = [sample for sample in samples if sample.immunostain]
    infer = not positive_labelled and config.stain == "auto" and 2 * len(immunostains) > len(samples)
    wanted = immunostains if infer or staining != "he" else [s for s in samples if not s.immunostain]
    preparation = config.ihc if infer or staining != "he" else config.he
    # where no image has the wanted stain, its background, haematoxylin and scanner are taken all the same
    fitted = [_slide(sample, preparation) for sample in wanted or samples]
    config = config.model_copy(update={"slides": tuple(slide for slide, _ in fitted)})
    if not infer:
        return config
    dab = [dab for _, dab in fitted if dab is not None]
    sheets = bool(dab) and float(np.mean([d.in_sheets for d in dab])) > 0.5
    share = round(sum(d.share for d in dab) / len(fitted), 4)
    anatomy = config.anatomy.model_copy(update={"unlabelled_positive": share})
    stain = "membrane_dab" if sheets else "nuclear_dab"
    return config.model_copy(update={"stain": stain, "anatomy": anatomy})


def _sample(image: npt.NDArray[np.uint8]) -> _Sample | None:
    """Measure the middle of an image; None where there is no stained tissue."""
    top, left = (max(0, (length - _MOST_SIDE) // 2) for length in image.shape[:2])
    image = np.ascontiguousarray(image[top : top + _MOST_SIDE, left : left + _MOST_SIDE])
    background = air_colour(image)
    # a little blur against JPEG and noise
    od = cv2.GaussianBlur(optical_density(image, background), (0, 0), 0.7)
    length = np.linalg.norm(od, axis=-1)
    stained = length > _STAINED
    brown, black, bluish = brown_black_blue(od, length)
    if stained.sum() < max(_ENOUGH, 0.002 * stained.size):
        return None
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    pink = stained & (green > 1.3 * red) & (green > 1.2 * blue)
    immunostain = pink.sum() < max(0.1 * stained.sum(), 0.5 * brown.sum())
    return _Sample(background, od, length, brown | (black & immunostain), bluish, bool(immunostain), fit_scan(image))


def brown_black_blue(od: Floats, length: Floats) -> tuple[Mask, Mask, Mask]:
    """Find the pixels of an immunostain that DAB or its counterstain colours, by optical density and its length.

    Where DAB is nearly black the sensor saw no colour: too dark for a counterstain, and not blue.
    """
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    brown = (length > 0.35) & (blue > 0.8 * green) & (blue > 1.15 * red)
    black = (length > _BLACK) & (blue > 0.8 * red)
    bluish = (length > 0.25) & (length < _BLACK) & (red > 1.15 * blue)
    return brown, black, bluish


def air_colour(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Colour of the light without tissue: the brighter half of the nearly white pixels."""
    pixels = image[::2, ::2].reshape(-1, 3)
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    white = pixels[(low > 195) & (high - low < 24)]
    if len(white) < 0.002 * len(pixels):
        return _NO_AIR
    level = white.sum(axis=1)
    bright: npt.NDArray[np.float64] = white[level >= np.median(level)].mean(axis=0)
    return np.clip(bright, 128, 255)


@dataclass(frozen=True)
class _Dab:
    """DAB of a sample: of a 2+ structure, of cytoplasm / membrane, of other tissue; positive share; share in sheets."""

    density: float
    blush: float
    haze: float
    share: float
    in_sheets: float


def _slide(sample: _Sample, preparation: Preparation) -> tuple[Slide, _Dab | None]:
    """Fit the stain of a sample, and its DAB where there is any."""
    haematoxylin, partner = _vectors(sample, preparation)
    share = densities(sample.od, np.stack([haematoxylin, partner]))
    h, other = np.maximum(share[..., 0], 0), np.maximum(share[..., 1], 0)
    brown = sample.brown if sample.immunostain else np.zeros_like(sample.brown)
    within = cv2.boxFilter((sample.length > _TISSUE).astype(np.float32), -1, (25, 25)) > 0.5
    # DAB and the pixels that it blurs into are no counterstain
    spread = cv2.dilate(brown.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    counter = within & ~spread & ((sample.length < _BLACK) | (not sample.immunostain))
    counter = counter if counter.sum() > _ENOUGH else sample.length > _STAINED
    cut = _otsu(np.minimum(h[counter], np.percentile(h[counter], 98)))
    nuclei, tissue = counter & (h > cut), counter & (h <= cut)
    pink = not sample.immunostain
    gains = _HE_GAINS if pink else _IHC_GAINS
    nucleus = _level(h, nuclei, gains.nucleus * sum(preparation.nucleus) / 2, 50)
    dab = _dab(other, brown, nuclei, tissue, gains) if brown.sum() > _ENOUGH else None
    slide = Slide(
        haematoxylin=tuple(haematoxylin.tolist()),
        eosin=tuple(partner.tolist()) if pink else preparation.eosin,
        dab=tuple(partner.tolist()) if dab else preparation.dab,
        background=tuple(np.round(sample.background, 2).tolist()),
        nucleus=_rounded(nucleus / gains.nucleus),
        nucleus_spread=_rounded(np.clip(_spread(h[nuclei]) / gains.nucleus_spread, 0.1, 0.5)),
        tissue=_rounded(_level(h, tissue, gains.tissue * preparation.tissue[0], 35) / gains.tissue),
        eosin_density=_rounded(
            _level(other, tissue, 0.4, 50) / gains.eosin if pink else sum(preparation.eosin_density) / 2
        ),
        haze=dab.haze if dab else 0.0,
        dab_density=dab.density if dab else sum(preparation.dab_density) / 2,
        blush=dab.blush if dab else sum(preparation.blush) / 2,
        chromatin=_rounded(np.clip(_contrast(h, nuclei, nucleus) / gains.chromatin, 0.05, 0.5)),
        texture=_rounded(np.clip(_contrast(h + other, tissue, None) / gains.texture, 0.2, 3.0)),
        retraction=_rounded(_clefts(sample.length > _TISSUE)),
        **asdict(sample.scan),
    )
    return slide, dab


def _dab(density: Floats, brown: Mask, nuclei: Mask, tissue: Mask, gains: _Gains) -> _Dab:
    """Measure DAB, float32 [H, W], in the brown pixels and in the areas that they enclose."""
    enclosed = cv2.morphologyEx(brown.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, _, pieces, _ = cv2.connectedComponentsWithStats(enclosed)
    area = pieces[1:, cv2.CC_STAT_AREA]
    pale, middle, dark = np.percentile(density[enclosed > 0], [25, 50, 85])
    in_sheets = float(area[area > _SHEET_PX].sum() / area.sum())
    return _Dab(
        density=_rounded((dark if in_sheets > 0.5 else middle) / gains.dab),
        blush=_rounded(np.clip(pale / dark / gains.blush, 0.03, 0.5)),
        haze=_rounded(_level(density, tissue, 0.0, 35) / gains.haze),
        share=float(area.sum() / (area.sum() + (nuclei & (enclosed == 0)).sum())),
        in_sheets=in_sheets,
    )


def _vectors(sample: _Sample, preparation: Preparation) -> tuple[Floats, Floats]:
    """Unit vectors of haematoxylin and of the other dye that the image shows (eosin or DAB)."""
    default_h, default_eosin, default_dab = (
        np.asarray(dye) for dye in (preparation.haematoxylin, preparation.eosin, preparation.dab)
    )
    if not sample.immunostain:
        first, second = extreme_directions(sample.od[sample.length > _STAINED])
        haematoxylin, eosin = (first, second) if first[0] > second[0] else (second, first)
        return (haematoxylin, eosin) if haematoxylin @ eosin < 0.985 else (default_h, default_eosin)
    brown, blue = sample.od[sample.brown & (sample.length < _BLACK)], sample.od[sample.blue]
    return immunostain_vectors(brown, blue, default_h, default_dab)


def immunostain_vectors(brown: Floats, blue: Floats, default_h: Floats, default_dab: Floats) -> tuple[Floats, Floats]:
    """Unit vectors of haematoxylin and DAB from optical densities [N, 3] of brown and of blue pixels.

    A dye that too few pixels show keeps its default.
    """
    if len(blue) < _ENOUGH:
        return default_h, (extreme_directions(brown)[1] if len(brown) > _ENOUGH else default_dab)
    if len(brown) < _ENOUGH:
        mean = np.median(blue / np.linalg.norm(blue, axis=1, keepdims=True), axis=0)
        return mean / np.linalg.norm(mean), default_dab
    size = min(len(brown), len(blue), 50_000)
    even = np.concatenate([group[np.linspace(0, len(group) - 1, size).astype(int)] for group in (brown, blue)])
    first, second = extreme_directions(even, tail=4)
    return (first, second) if first[2] / first[0] < second[2] / second[0] else (second, first)


def extreme_directions(od: Floats, tail: float = 1) -> tuple[Floats, Floats]:
    """Macenko's two directions of pixels [N, 3] in OD space, `tail` % from either end; unit, none below 0.01."""
    _, vectors = np.linalg.eigh(od.astype(np.float64).T @ od.astype(np.float64))
    plane = vectors[:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    projected = od @ plane
    angles = np.percentile(np.arctan2(projected[:, 1], projected[:, 0]), [tail, 100 - tail])
    pair = np.maximum(np.stack([plane @ np.array([np.cos(a), np.sin(a)]) for a in angles]), 0.01)
    first, second = pair / np.linalg.norm(pair, axis=1, keepdims=True)
    return first, second


def _level(values: Floats, where: Mask, otherwise: float, percentile: float) -> float:
    return float(np.percentile(values[where], percentile)) if where.sum() > _ENOUGH else otherwise


def _otsu(values: Floats) -> float:
    """Return the threshold of Otsu 1979 for values of 0 or more, in steps of 1/255 of the largest."""
    top = max(float(values.max()), 1e-6)
    level, _ = cv2.threshold(
        np.rint(values * (255 / top)).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return float(level) * top / 255


def _spread(values: Floats) -> float:
    """Log standard deviation from the quartiles."""
    if len(values) < _ENOUGH:
        return 0.25
    low, high = np.percentile(values, [25, 75])
    return float(np.log(high / max(low, 1e-3)) / 1.35)


def _contrast(values: Floats, where: Mask, level: float | None) -> float:
    """Standard deviation at wavelengths of some 2 to 12 px, relative to `level` (None: the median)."""
    # the rim of a region is an edge, not texture
    inner = cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if inner.sum() < _ENOUGH:
        inner = where
    if not inner.any():
        return 0.0
    detail = values - cv2.GaussianBlur(values, (0, 0), 3.0)
    level = float(np.median(values[inner])) if level is None else level
    low, high = np.percentile(detail[inner], [16, 84])
    return float((high - low) / 2 / max(level, 0.05))


def _clefts(tissue: Mask) -> float:
    """Unstained pixels with tissue all around, as the 0..1 of `Preparation.retraction`."""
    around = cv2.boxFilter(tissue.astype(np.float32), -1, (25, 25))
    inside = around > 0.7
    return float(np.clip((~tissue & inside).sum() / max(1, inside.sum()) / 0.15, 0, 1))


def _rounded(value: float) -> float:
    return round(float(value), 4)


def fit_scan(image: npt.NDArray[np.uint8]) -> Scan:
    """Measure the scanner of an image, uint8 [H, W, 3] RGB."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Scan(round(_blur_px(luma), 3), round(_grain(luma), 3), round(_jpeg_quality(luma), 1))


def _blur_px(luma: Luma) -> float:
    """Measure the steepest edges: a step of height a under a Gaussian of sigma s has a slope of a / (s sqrt(2 pi))."""
    if min(luma.shape) < 16:
        return 0.8
    dx, dy = cv2.Scharr(luma, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(luma, cv2.CV_32F, 0, 1) / 32
    slope = np.hypot(dx, dy)
    box = np.ones((9, 9), np.uint8)
    height = cv2.dilate(luma, box) - cv2.erode(luma, box)
    crest = (slope >= cv2.dilate(slope, np.ones((5, 5), np.uint8))) & (height > 40)
    if crest.sum() < 30:
        return 0.8
    sigma = height[crest] / (np.maximum(slope[crest], 1e-3) * math.sqrt(2 * math.pi))
    # the sharpest edges show the optics, the others the tissue
    return float(np.clip(_EDGE_SLOPE * np.percentile(sigma, 15) - _EDGE_BIAS_PX, 0.4, 2.5))


def _grain(luma: Luma) -> float:
    """Measure noise in the flattest parts: the lower decile of Immerkaer's estimate (1996) in blocks of 16 px."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rough = np.abs(cv2.filter2D(luma, -1, kernel))
    rows, columns = (length // 16 for length in luma.shape)
    if rows == 0 or columns == 0:
        return 1.0
    blocks = rough[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16).mean(axis=(1, 3))
    return float(np.clip(np.percentile(blocks, 10) * math.sqrt(math.pi / 2) / 6 / _LEFT_BY_JPEG, 0.2, 8.0))


def _jpeg_quality(luma: Luma) -> float:
    """Measure the extra steps at borders of 8 px blocks; images cropped off the grid or resized have none."""
    steps = np.abs(np.diff(luma, n=1, axis=1)).mean(axis=0)
    if len(steps) < 64:
        return 90.0
    by_phase = np.array([steps[phase::8].mean() for phase in range(8)])
    blockiness = by_phase.max() / max(float(np.median(by_phase)), 1e-3) - 1
    return float(np.clip(98 - 90 * blockiness, 60, 98))
