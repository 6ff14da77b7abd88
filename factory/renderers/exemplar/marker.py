"""A marker painted on real tissue: DAB of known extent over real haematoxylin.

`remove_marker` (in `marker_removal`) takes the tissue's own DAB away, `he_to_counterstain` makes ground of H&E,
`positive_field` draws where a marker is positive, and `paint_marker` lays it down. No DAB lies outside the positive
region of the mask.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.stain_separation import (
    FloatMap,
    Image,
    Mask,
    Stains,
    estimate_stains,
    separate,
)
from factory.bank.tissue_nuclei import find_tissue_nuclei
from factory.core.compiled import compiled
from factory.core.config import Config
from factory.geometry.fields import noise
from factory.renderers.exemplar.marker_removal import MarkerKind, he_to_counterstain, remove_marker
from factory.renderers.exemplar.membranes import (
    Staining,
    divide_into_cells,
    membrane_density,
    nuclear_density,
    positive_cells,
)
from factory.renderers.stain.config import Above0, Range, UnitRange
from factory.renderers.stain.dyes import DAB, vary_vector
from factory.renderers.stain.noise_tables import SIZE

__all__ = ["MarkerConfig", "he_to_counterstain", "paint_marker", "positive_field", "remove_marker"]

_DENSITY_STEPS = 512
"""Steps per unit of optical density in the table of light."""
_MOST_DENSITY = 6
_BLUEST = 1.0
"""Most haematoxylin that is left under nuclear DAB; above it a sensor without light in the red channel says nothing."""
_HUE_SPREAD = 0.025
_EDGE_UM, _EDGE_FIELD_UM = {"membrane": 2.0, "nucleus": 0.4}, 12.0
"""Depth over which DAB fades in from the edge of the positive region, and the scale on which that depth varies."""
_RIM_UM = 22.0
"""Depth up to which cells may be paler than those in the middle of a positive region."""
_FIELD_UM = 70.0
_MODERATE = 0.8
"""Density of a membrane below which more of the DAB lies in the cytoplasm."""
_TISSUE_OD = (0.03, 0.07)
"""Optical density up to which nothing is painted, and from which everything is."""


class MarkerConfig(Config):
    """How a painted marker looks. Ranges are (low, high), drawn for each tile; densities as in `stain.config`.

    Chosen by eye beside one PD-L1 core (SP142, pale) and the photograph of an immunostain in scikit-image (strong).
    """

    membrane_density: Above0 = (0.7, 1.4)
    """DAB of an average positive membrane."""
    nucleus_density: Above0 = (1.2, 2.8)
    """DAB of an average positive nucleus."""
    spread: Range = (0.2, 0.4)
    """Log standard deviation of it from cell to cell."""
    cytoplasm: UnitRange = (0.25, 0.5)
    """DAB of the cytoplasm relative to the membrane."""
    complete: UnitRange = (0.4, 0.95)
    """How much of its outline a membrane covers."""
    granular: UnitRange = (0.35, 0.6)
    """Contrast of the grains of DAB."""
    membrane_um: Above0 = (0.6, 1.1)


_DEFAULT = MarkerConfig()


def paint_marker(
    image: Image,
    positive: Mask,
    kind: MarkerKind,
    mpp: float,
    rng: np.random.Generator,
    nuclei: npt.NDArray[np.int32] | None = None,
    settings: MarkerConfig = _DEFAULT,
    *,
    stains: Stains | None = None,
) -> Image:
    """Lay DAB over real haematoxylin. Outside `positive` no pixel changes, and air stays air.

    A cell or nucleus that lies mostly in `positive` is painted whole, as far as the region reaches; others are not.

    Args:
        image: uint8 [H, W, 3], RGB, of haematoxylin only.
        positive: bool [H, W].
        kind: "membrane" (PD-L1: borders of cells and a little of their cytoplasm) or "nucleus" (Ki-67).
        mpp: micrometres per pixel.
        rng: the tile's generator.
        nuclei: int32 [H, W], ids from 1, 0 = none; found in the tissue where it is None.
        settings: appearance of the marker.
        stains: of the slide; estimated from the image where it is None.

    Returns:
        uint8 [H, W, 3].
    """
    if not positive.any():
        return image.copy()
    stains = estimate_stains([image]) if stains is None else stains
    separated = separate(image, stains)
    haematoxylin = np.maximum(separated[0], 0)
    total = haematoxylin + np.maximum(separated[1], 0)
    if nuclei is None:
        nuclei = find_tissue_nuclei(total, mpp)
    staining = _draw_staining(settings, kind, rng)
    there = cv2.GaussianBlur(total, (0, 0), max(0.5 / mpp, 0.5))
    # without a border anywhere the distance is the largest float
    depth_um = np.minimum(cv2.distanceTransform(positive.astype(np.uint8), cv2.DIST_L2, 5), 10_000) * np.float32(mpp)
    if kind == "membrane":
        cells = divide_into_cells(nuclei, positive, there > _TISSUE_OD[0], mpp, rng)
        level = _levels(cells.owner, cells.count, positive, depth_um, staining, mpp, rng, nuclei)
        density = membrane_density(cells, nuclei, level, staining, mpp)
        hidden = _hidden_by_membranes(density, haematoxylin, nuclei)
    else:
        level = _levels(nuclei, int(nuclei.max(initial=0)), positive, depth_um, staining, mpp, rng)
        density = nuclear_density(nuclei, haematoxylin, level, staining, mpp)
        hidden = _hidden_by_nuclear_dab(density, haematoxylin, separated[2])
    shown = _shown(there, depth_um, _EDGE_UM[kind], mpp, rng)
    vectors = stains.vectors()
    # halfway to the slide's own DAB, of which little may be left to see
    vectors[1] = vary_vector(tuple((stains.second + DAB) / 2), _HUE_SPREAD, rng)
    painted = image.copy()
    _shine(painted, positive, density * shown, hidden * shown, vectors.astype(np.float32), _light_table())
    return painted


def _hidden_by_membranes(density: FloatMap, haematoxylin: FloatMap, nuclei: npt.NDArray[np.int32]) -> FloatMap:
    """Haematoxylin, and what is neither dye, that DAB hides: float32 [2, H, W].

    A veil of DAB over all of the blue of cytoplasm would be grey, which no slide shows.
    """
    share = np.where(nuclei > 0, np.float32(0.2), np.float32(0.6)) * np.minimum(2.5 * density, 1)
    return np.stack([haematoxylin * share, np.zeros_like(density)])


def _hidden_by_nuclear_dab(density: FloatMap, haematoxylin: FloatMap, rest: FloatMap) -> FloatMap:
    """The same under nuclear DAB, which bars the way of haematoxylin as in `stain.light`."""
    left = np.maximum(0.5 - 0.2 * density, 0.12) * np.minimum(haematoxylin, _BLUEST)
    return np.minimum(2.5 * density, 1) * np.stack([haematoxylin - left, rest])


def _shown(there: FloatMap, depth_um: FloatMap, edge_um: float, mpp: float, rng: np.random.Generator) -> FloatMap:
    """Share of DAB that is shown, 0..1: none in air, and from the edge of the region on more and more."""
    low, high = _TISSUE_OD
    height, width = there.shape
    uneven_um = np.float32(edge_um) * (np.float32(1.4) + noise(rng, height, width, _EDGE_FIELD_UM / mpp))
    return np.clip(depth_um / uneven_um, 0, 1) * np.clip((there - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)


def _draw_staining(settings: MarkerConfig, kind: MarkerKind, rng: np.random.Generator) -> Staining:
    strength = rng.uniform(*(settings.membrane_density if kind == "membrane" else settings.nucleus_density))
    spread = rng.uniform(*settings.spread)
    # pale staining is more diffuse
    cytoplasm = rng.uniform(*settings.cytoplasm) * min(max(_MODERATE / strength, 1.0), 2.0)
    complete, granular = rng.uniform(*settings.complete), rng.uniform(*settings.granular)
    values = (strength, spread, cytoplasm, complete, granular, rng.uniform(*settings.membrane_um))
    return Staining(*(np.float32(value) for value in (*values, *rng.uniform(0, SIZE, 2))))


def _levels(
    owner: npt.NDArray[np.int32],
    count: int,
    positive: Mask,
    depth_um: FloatMap,
    staining: Staining,
    mpp: float,
    rng: np.random.Generator,
    nuclei: npt.NDArray[np.int32] | None = None,
) -> FloatMap:
    """Relative density of every cell, float32 [count + 1]; 0 in negative ones.

    Cells 1..n are positive as their nuclei 1..n are, where these are given: so labels count them.

    Neighbours resemble each other, and cells at the rim of a positive region are often paler, as expression fades out
    of a nest rather than ending at a line.
    """
    height, width = owner.shape
    field = noise(rng, height, width, _FIELD_UM / mpp)
    deviates = np.clip(rng.normal(size=count + 1), -2, 2)
    rim_um = _RIM_UM * rng.random()
    area = np.maximum(np.bincount(owner.ravel(), minlength=count + 1), 1)
    around = np.bincount(owner.ravel(), field.ravel(), minlength=count + 1) / area
    inner = np.bincount(owner.ravel(), depth_um.ravel(), minlength=count + 1) / area
    level = np.exp(staining.spread * deviates + 0.9 * around)
    level *= np.clip(0.6 + 0.4 * inner / max(rim_um, 1.0), 0.6, 1)
    painted = positive_cells(owner, count, positive)
    if nuclei is not None:
        nucleated = int(nuclei.max(initial=0))
        painted[: nucleated + 1] = positive_cells(nuclei, nucleated, positive)
    return np.where(painted, level, 0).astype(np.float32)


@functools.cache
def _light_table() -> FloatMap:
    """exp(-od) for optical densities from -`_MOST_DENSITY` to `_MOST_DENSITY`, float32 [steps]."""
    od = np.arange(-_MOST_DENSITY * _DENSITY_STEPS, _MOST_DENSITY * _DENSITY_STEPS + 1, dtype=np.float64)
    return np.exp(-od / _DENSITY_STEPS).astype(np.float32)


@compiled()
def _shine(image, positive, density, hidden, vectors, light):  # type: ignore[no-untyped-def]
    """Let the light of positive pixels pass through `density` more of DAB and `hidden` less of the other two."""
    height, width = positive.shape
    scale, half = np.float32(_DENSITY_STEPS), np.float32(0.5)
    middle = light.size // 2
    for y in range(height):
        for x in range(width):
            more = density[y, x]
            if not positive[y, x] or more <= 0:
                continue
            for c in range(3):
                od = more * vectors[1, c] - hidden[0, y, x] * vectors[0, c] - hidden[1, y, x] * vectors[2, c]
                step = min(max(int(math.floor(od * scale + half)) + middle, 0), light.size - 1)
                level = np.float32(image[y, x, c] + 1) * light[step] - half
                image[y, x, c] = np.uint8(min(max(level, np.float32(0)), np.float32(255)))


def positive_field(tumour: Mask, tps: float, rng: np.random.Generator, mpp: float) -> Mask:
    """Draw a positive region of exactly floor(tps * tumour pixels + 0.5) pixels inside the tumour: bool [H, W].

    The region is where a smooth field is highest; its patches are 50 to 300 um wide. With the same generator the
    region of a smaller TPS lies inside that of a larger one. Ties go to the first pixel.

    Raises:
        ValueError: when `tps` is outside 0..1.
    """
    if not 0 <= tps <= 1:
        raise ValueError(f"tps: expected 0 to 1, got {tps}")
    height, width = tumour.shape
    patch_px = 50 * 6.0 ** rng.random() / mpp
    field = noise(rng, height, width, patch_px)
    for part, weight in ((3, 0.3), (10, 0.1)):
        field = field + np.float32(weight) * noise(rng, height, width, max(patch_px / part, 2.0))
    places = np.flatnonzero(tumour)
    wanted = int(tps * len(places) + 0.5)
    positive = np.zeros(tumour.shape, np.bool_)
    if wanted:
        values = field.ravel()[places]
        cut = -np.partition(-values, wanted - 1)[wanted - 1]
        ties = np.flatnonzero(values == cut)
        above = values > cut
        above[ties[: wanted - int(above.sum())]] = True
        positive.ravel()[places[above]] = True
    return positive
