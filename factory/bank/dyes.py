"""Dyes of a laboratory: what light, stain vectors and densities its slides have, measured from images without labels.

`dyes_like` measures them, `show_in_dyes` shows other tissue in them. Colours alone are taken, no pixel. Haematoxylin is
matched at three levels, the medians of ground and nuclei and the darkest tenth of nuclei, so that it does not depend on
how many nuclei an image shows. The level of eosin is matched too; that of DAB stays, as it is what a marker says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from factory.bank.bank import Bank
from factory.bank.stain_separation import (
    FloatMap,
    Image,
    Stain,
    Stains,
    compose,
    estimate_he_stains,
    estimate_stains,
    optical_density_table,
    separate,
    stain_of,
)
from factory.bank.tissue_nuclei import nuclear_pixels
from factory.core.config import Config
from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from factory.renderers.stain.dyes import optical_density
from manifests.dataset import open_dataset
from manifests.errors import UserError
from manifests.store import STORE

_MOST_SLIDES, _MOST_IMAGES, _MOST_SIDE = 24, 6, 1024
_TISSUE_OD = 0.05
"""Optical density from which a pixel is tissue: half of that of pale stroma."""
_ENOUGH = 500
"""Pixels of ground and of nuclei from which a level is measured."""
_DARK_RED = 1.2
"""Optical density of red light above which the green light is asked."""
_MOST_STRETCH = 4.0
_EOSIN_LEFT = np.float32(0.03)
"""DAB that a counterstain of H&E gets for its eosin: tissue is never without any."""

_Item = TypeVar("_Item")
Vector = tuple[float, float, float]


class Dyes(Config):
    """Dyes of one slide. Densities are natural-logarithm optical densities.

    Attributes:
        source: slide, ``data set/group``, and its licence. stain: H&E, or an immunostain.
        background: light of air, grey levels. haematoxylin, second: stain vectors; the second is eosin or DAB.
        ground, nuclei, dark: haematoxylin: median between nuclei, median in them, and their 90th percentile.
        eosin: median between nuclei.
    """

    source: str
    licence: str | None = None
    stain: Stain
    background: Vector
    haematoxylin: Vector
    second: Vector
    ground: float
    nuclei: float
    dark: float
    eosin: float

    @property
    def stains(self) -> Stains:
        """Light and vectors as arrays."""
        return Stains(*(np.asarray(v, np.float64) for v in (self.background, self.haematoxylin, self.second)))


def measure_dyes(images: Sequence[Image], mpp: float, source: str, licence: str | None = None) -> Dyes | None:
    """Measure the dyes of images of one slide, uint8 [H, W, 3]; None where too little of it is stained."""
    stain = stain_of(images)
    stains = estimate_he_stains(images) if stain == "he" else _of_nuclei(images, estimate_stains(images), mpp)
    found = [_levels(image, stains, stain, mpp) for image in images]
    ground, nuclei = (np.concatenate([levels[k] for levels in found], axis=1) for k in range(2))
    if min(ground.shape[1], nuclei.shape[1]) < _ENOUGH:
        return None
    low, eosin = (float(level) for level in np.clip(np.median(ground[:2], axis=1), 0.02, 3))
    middle, dark = (float(level) for level in np.percentile(nuclei[0], (50, 90)))
    middle = max(middle, 1.2 * low)
    background, haematoxylin, second = ((float(v[0]), float(v[1]), float(v[2])) for v in np.round(stains, 4))
    return Dyes(
        source=source,
        licence=licence,
        stain=stain,
        background=background,
        haematoxylin=haematoxylin,
        second=second,
        ground=round(low, 4),
        nuclei=round(middle, 4),
        dark=round(max(dark, 1.2 * middle), 4),
        eosin=round(eosin, 4),
    )


def _of_nuclei(images: Sequence[Image], stains: Stains, mpp: float) -> Stains:
    """Stains of an immunostain with the colour that most of its blue nuclei have as its haematoxylin."""
    nuclei = np.concatenate([_levels(image, stains, "ihc", mpp)[1] for image in images], axis=1)
    if nuclei.shape[1] < _ENOUGH:
        return stains
    od = np.median(nuclei, axis=1) @ stains.vectors()
    haematoxylin = np.maximum(od, 0.01)
    return stains._replace(haematoxylin=haematoxylin / np.linalg.norm(haematoxylin))


def _levels(image: Image, stains: Stains, stain: Stain, mpp: float) -> tuple[FloatMap, FloatMap]:
    """Haematoxylin, eosin or DAB, and the rest [3, n] of the ground and of nuclei, without what is brown."""
    dense = cv2.GaussianBlur(optical_density(image, stains.background), (0, 0), 0.7 / mpp)
    tissue = np.linalg.norm(dense, axis=-1) > _TISSUE_OD
    haematoxylin, second, rest = separate(image, stains)
    smooth = cv2.GaussianBlur(haematoxylin, (0, 0), 0.7)
    dark = np.maximum(smooth, 0) + (np.maximum(second, 0) if stain == "ihc" else 0)
    nuclear = nuclear_pixels(dark, mpp)
    if stain == "ihc":
        tissue &= cv2.GaussianBlur(second, (0, 0), 0.7) < 0.5 * np.maximum(smooth, 0.1)
    separated = np.stack([smooth, second, rest])
    return separated[:, tissue & ~nuclear], separated[:, tissue & nuclear & (smooth > 0.1)]


def show_in_dyes(image: Image, own: Dyes, wanted: Dyes) -> Image:
    """Show tissue, uint8 [H, W, 3], in the light, the dyes and the densities of another slide. Air stays air.

    H&E in the dyes of an immunostain is shown as a counterstain: its eosin is taken out. Where haematoxylin lets no red
    light through, the sensor does not say how much there is; green light does.
    """
    source = own.stains
    green = optical_density_table(source.background)[:, 1]
    densest = np.maximum(green * (source.haematoxylin[0] / source.haematoxylin[1]), _DARK_RED)
    least_red = np.clip((source.background[0] + 1) * np.exp(-densest) - 1, 0, 255).astype(np.uint8)
    seen = image.copy()
    seen[..., 0] = np.maximum(seen[..., 0], least_red[seen[..., 1]])
    densities = separate(seen, source).reshape(3, -1)
    if own.stain != wanted.stain:  # red light tells haematoxylin also where no green is left
        eosin = np.clip(densities[1], 0, 2 * own.eosin)
        red = optical_density_table(source.background)[seen[..., 0], 0].ravel()
        densities[0] = (red - eosin * np.float32(source.second[0])) / np.float32(source.haematoxylin[0])
    densities[0] = _matched(densities[0], own, wanted)
    if own.stain == "he" == wanted.stain:
        densities[1] *= _stretch(wanted.eosin, own.eosin)
    elif own.stain == "he":
        densities[1:] = _EOSIN_LEFT * np.clip(densities[1], 0, 1), np.zeros_like(densities[0])
    return compose(densities, wanted.stains).reshape(image.shape)


def _matched(haematoxylin: FloatMap, own: Dyes, wanted: Dyes) -> FloatMap:
    """Map densities so that the levels of one slide fall onto those of another, linearly between them."""
    steps = [0.0, own.ground, own.nuclei, own.dark]
    aims = [0.0, wanted.ground, wanted.nuclei, wanted.dark]
    slopes = [_stretch(a - b, c - d) for a, b, c, d in zip(aims[1:], aims, steps[1:], steps, strict=False)]
    matched = slopes[0] * np.minimum(haematoxylin, own.ground)
    for low, high, slope in zip(steps[1:], steps[2:], slopes[1:], strict=False):
        matched += slope * np.clip(haematoxylin - low, 0, high - low)
    # the darkest pixels keep their contrast and are not stretched further
    matched += min(slopes[2], np.float32(1)) * np.maximum(haematoxylin - own.dark, 0)
    return np.asarray(matched, np.float32)


def _stretch(wanted: float, own: float) -> np.float32:
    return np.float32(np.clip(wanted / own, 1 / _MOST_STRETCH, _MOST_STRETCH))


@lru_cache(maxsize=256)
def dyes_of_slide(bank: Bank, slide: int | None) -> Dyes | None:
    """Dyes of a slide of a bank, of at most `_MOST_IMAGES` of its pages.

    A slide that shows too little without DAB has those of the whole bank (`slide` None); None where that does too.
    """
    pages = [number for number, page in enumerate(bank.pages) if slide is None or page[3] == slide]
    images = [bank.picture(number) for number in _even(pages, _MOST_IMAGES)]
    own = measure_dyes(images, bank.mpp, "the bank" if slide is None else bank.slides[slide])
    return dyes_of_slide(bank, None) if own is None and slide is not None else own


def dyes_like(path: Path, mpp: float) -> tuple[Dyes, ...]:
    """Measure the dyes of real images; labels are not needed.

    Args:
        path: a data set (its train split, where it has one), a folder of images, or an image. Every file of a folder
            counts as a slide.
        mpp: of the images, about.

    Raises:
        UserError: where no image shows stained tissue, or where H&E and immunostains are mixed.
    """
    found = []
    for source, licence, images in _reference_slides(path):
        dyes = measure_dyes(images, mpp, source, licence)
        found += [dyes] if dyes else []
    if not found:
        raise UserError(f"renderer.dyes: expected images with stained tissue, got none in {path}. Choose others.")
    if len({dyes.stain for dyes in found}) > 1:
        raise UserError(f"renderer.dyes: expected H&E or immunostains, got both in {path}. Name a folder of one.")
    return tuple(found)


def _reference_slides(path: Path) -> list[tuple[str, str | None, list[Image]]]:
    """Name, licence and a few images of each slide, at even steps where there are many."""
    name = path.resolve().name
    if (path / STORE).exists():
        dataset = open_dataset(path)
        if dataset.info.is_synthetic:
            raise UserError(f"renderer.dyes: expected real images, got synthetic ones in {path}. Name real ones.")
        rows = dataset.table.select(["split", "group_id", "sample_id", "licence"]).to_pylist()
        chosen = [place for place, row in enumerate(rows) if row["split"] == "train"] or range(len(rows))
        slides: dict[str, list[int]] = {}
        for place in chosen:
            slides.setdefault(rows[place]["group_id"] or rows[place]["sample_id"], []).append(place)
        return [
            (f"{name}/{slide}", rows[places[0]]["licence"], [dataset[i].image for i in _even(places, _MOST_IMAGES)])
            for slide, places in _even(list(slides.items()), _MOST_SLIDES)
        ]
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"renderer.dyes: expected a data set, a folder of images or an image, got {path}.")
    return [(f"{name}/{file.stem}", None, [_middle(read_rgb(file))]) for file in _even(files, _MOST_SLIDES)]


def _even(items: Sequence[_Item], most: int) -> list[_Item]:
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, min(len(items), most)).astype(int))]


def _middle(image: Image) -> Image:
    """The middle of a large image."""
    top, left = (max(0, (length - _MOST_SIDE) // 2) for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + _MOST_SIDE, left : left + _MOST_SIDE])
