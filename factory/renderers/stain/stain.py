"""A renderer without weights: the physics of dyes over the anatomy of the masks.

masks -> nuclei and their kinds -> territories of cells -> densities of dyes -> light (Beer-Lambert) -> scanner.
The image follows the mask exactly: every labelled nucleus is visible, none is added where the scheme labels nuclei, air
is bright, and DAB on membranes ends where the positive class ends. Each tile is a slide of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from factory.renderers.base import Renderer
from factory.renderers.conditions import Condition, ConditionConfig
from factory.renderers.stain.appearance import StainAppearance, draw_appearance, staining_of
from factory.renderers.stain.cells import (
    AIR,
    MIXED,
    POSITIVE,
    TUMOUR,
    Nuclei,
    draw_cell_properties,
    find_nuclei,
    kind_table,
    look_table,
    nucleus_classes,
    with_centres,
)
from factory.renderers.stain.config import StainConfig
from factory.renderers.stain.fit import fit_slides
from factory.renderers.stain.light import PaintSettings, Scene, outline, paint
from factory.renderers.stain.noise_tables import SIZE, grain, smooth
from factory.renderers.stain.red_cells import scatter_red_cells
from factory.renderers.stain.region_looks import (
    KINDS,
    NUCLEI,
    distinct_looks,
    dress,
    look_map,
    named_looks,
    own_layouts,
)
from factory.renderers.stain.scanner import scan
from factory.renderers.stain.territories import centres_without_nucleus, spread_territories
from factory.renderers.stain.tissue import Fields, direction_of, draw_fields, fold_profile
from factory.renderers.stain.unlabelled_nuclei import OWN_LAYOUT, scatter_marked_nuclei, scatter_nuclei
from manifests.labels import LabelScheme

_FULL_WIDTH = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""
_LINING_UM = 1.2
"""Standard deviation of the Gaussian by which the lining of air falls off into the tissue."""
_REACH_UM = 3.5
"""Radius of an average nucleus: a cell without one starts at this distance from its centre."""


class Stain(Renderer):
    """Renders label maps of any scheme as H&E, membranous or nuclear immunostain, by the roles of the classes."""

    condition = ConditionConfig(kind="labels")
    label_origin = "exact"
    Config = StainConfig
    config: StainConfig

    def render(
        self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
    ) -> list[npt.NDArray[np.uint8]]:
        """Render each condition map with its own generator: uint8 [H, W, 3], RGB."""
        return [self._render(condition, rng) for condition, rng in zip(conditions, rngs, strict=True)]

    def fit_images(self, images: Sequence[npt.NDArray[np.uint8]], scheme: LabelScheme) -> StainConfig:
        """Return the config with the stain of real images; see `FitsImages` and `fit_slides`."""
        labelled = bool(scheme.ids("tumour_positive"))
        return fit_slides(images, staining_of(self.config, scheme), self.config, positive_labelled=labelled)

    def dressed(self, scheme: LabelScheme) -> StainConfig:
        """Return the config in which classes without a role look different from each other; see `DressesClasses`."""
        return self.config.model_copy(update={"appearances": distinct_looks(scheme, self.config.appearances)})

    def _render(self, condition: Condition, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        array, mpp = condition.array, condition.mpp
        if array.ndim != 3 or array.shape[0] != 2 or array.dtype != np.int32:
            raise ValueError(f"condition: expected int32 [2, H, W], got {array.dtype} {array.shape}")
        appearance = draw_appearance(self.config, staining_of(self.config, condition.scheme), mpp, rng)
        direction = direction_of(array[1]) if self.config.anatomy.fibres_along_nuclei else None
        fields = draw_fields(array.shape[1:], mpp, rng, direction)
        looks = named_looks(condition.scheme, self.config.appearances)
        look = look_map(array[0].astype(np.uint8), condition.scheme, looks)
        nuclei = _nuclei(condition, look, fields, rng)
        vague = bool((nuclei.kind == MIXED).any())
        hollow = vague and not condition.scheme.ids("air")
        settings = self._paint_settings(appearance, mpp, hollow, rng)
        scene, cells = self._scene(nuclei, fields, appearance, settings, vague, condition.scheme, rng)
        light = np.empty((3, *array.shape[1:]), np.uint8)
        dyes = np.ascontiguousarray(appearance.vectors[:, ::-1], np.float32)
        background = np.ascontiguousarray(appearance.background[::-1], np.float32)
        paint(light, scene, cells, grain(), smooth(), dyes, background, settings)
        if looks:
            light = dress(light, look, nuclei.number, background, mpp, rng)
        return scan(cv2.merge(list(light)), appearance, self.config.scanner, rng)

    def _scene(
        self,
        nuclei: Nuclei,
        fields: Fields,
        appearance: StainAppearance,
        settings: PaintSettings,
        vague: bool,
        scheme: LabelScheme,
        rng: np.random.Generator,
    ) -> tuple[Scene, npt.NDArray[np.void]]:
        """Draw the anatomy around the nuclei (cells and their borders, red cells, a fold) and the table of cells."""
        mpp, anatomy, number = float(settings.mpp), self.config.anatomy, nuclei.number
        labelled = appearance.staining == "he" or bool(scheme.ids("tumour_positive"))
        share = 0.0 if labelled else anatomy.unlabelled_positive
        if appearance.staining == "membrane_dab" and not labelled:
            nuclei.kind[(nuclei.kind == TUMOUR) & (fields.patch < ndtri(share))] = POSITIVE
        # every pixel gets its cell; sheets of epithelium are filled up with cells cut beside their nucleus
        confluent = (nuclei.kind == TUMOUR) | (nuclei.kind == POSITIVE)
        crowded = confluent | (nuclei.kind == MIXED)
        centres = centres_without_nucleus(number, confluent, mpp, rng)
        owner = np.zeros_like(number)
        owner[tuple(centres.astype(np.intp).T)] = np.arange(len(centres)) + len(nuclei.table)
        everyone = with_centres(nuclei, centres)
        cells = draw_cell_properties(
            everyone, appearance, anatomy, fields.patch, mpp=mpp, unlabelled_positive=share, rng=rng
        )
        distance = spread_territories(number, owner, crowded, _REACH_UM / mpp, grain())

        # borders are two pixels wide; spreading them to the thickness of a membrane must not make them paler
        border = np.empty_like(distance)
        epithelium, inner = np.empty((2, *distance.shape), np.uint8)
        outline(nuclei.kind, owner, number, distance, cells, smooth(), settings, border, epithelium, inner)
        sigma = rng.uniform(*anatomy.membrane_um) / mpp / _FULL_WIDTH
        border = cv2.GaussianBlur(border, (0, 0), sigma) * np.float32(1 / math.erf(1 / (sigma * math.sqrt(2))))
        # where only the distance to a nucleus separates epithelium from stroma, they fade into each other
        epithelium = cv2.GaussianBlur(epithelium, (0, 0), (1.6 if vague else 0.8) / mpp)
        if appearance.staining == "membrane_dab":
            # two box filters, whose variances of (n^2 - 1) / 12 add up: as good as a Gaussian here, and faster
            box = 2 * round(math.sqrt(6 * (anatomy.marker_fade_um / mpp) ** 2 + 1) / 2 - 0.5) + 1
            inner = cv2.blur(cv2.blur(inner, (box, box)), (box, box))

        per_mm2 = rng.uniform(*anatomy.red_cells_per_mm2) * (1.0 if appearance.staining == "he" else 0.1)
        diameter_px = rng.uniform(*anatomy.red_cell_um) / mpp
        red = scatter_red_cells(nuclei.kind, number, per_mm2=per_mm2, diameter_px=diameter_px, mpp=mpp, rng=rng)
        folded = rng.random() < self.config.scanner.fold
        fold = fold_profile(distance.shape, mpp, rng) if folded else np.zeros_like(distance)
        if anatomy.lining[1]:
            away_um = cv2.distanceTransform((nuclei.kind != AIR).astype(np.uint8), cv2.DIST_L2, 5) * mpp
            away = np.minimum(away_um / _LINING_UM, 9)
            fold += np.float32(rng.uniform(*anatomy.lining)) * np.exp(-0.5 * np.square(away))
        maps = (nuclei.kind, number, owner, distance, border, epithelium, inner, red)
        return Scene(*maps, fields.across, fields.along, fields.patch, fold), cells

    def _paint_settings(
        self, appearance: StainAppearance, mpp: float, hollow: bool, rng: np.random.Generator
    ) -> PaintSettings:
        lumen = rng.uniform(*self.config.anatomy.lumen)
        scalars = {
            "mpp": mpp,
            "tissue": appearance.tissue,
            "eosin": appearance.eosin,
            "haze": appearance.haze,
            "dab": appearance.dab,
            "red": 0.25 + 0.9 * appearance.eosin if appearance.staining == "he" else 0.12,
            "blush": appearance.blush,
            "texture": appearance.texture,
            "retraction": appearance.retraction,
            "fibre_um": rng.uniform(*self.config.anatomy.fibre_um),
            "lumen": ndtri(lumen) if hollow else -math.inf,
            "nuclear_dab": float(appearance.staining == "nuclear_dab"),
            "membrane_dab": float(appearance.staining == "membrane_dab"),
            "start_y": rng.uniform(0, SIZE),
            "start_x": rng.uniform(0, SIZE),
            "vignette": rng.uniform(*self.config.scanner.vignette),
            "light_y": rng.uniform(0.3, 0.7),
            "light_x": rng.uniform(0.3, 0.7),
        }
        return PaintSettings(**{name: np.float32(value) for name, value in scalars.items()})


def _nuclei(condition: Condition, look: npt.NDArray[np.int64], fields: Fields, rng: np.random.Generator) -> Nuclei:
    """Find the labelled nuclei, or draw unlabelled ones where the scheme labels none and the tile has none.

    `look` is int64 [H, W], the place of each pixel in `region_looks.LOOKS` or -1.
    """
    classes, instance = condition.array
    kind = kind_table(condition.scheme)[classes.astype(np.uint8)]
    dressed = look >= 0
    kind[dressed] = KINDS[look[dressed]]
    if instance.any() or nucleus_classes(condition.scheme):
        return find_nuclei(kind, instance, look_table(condition.scheme)[classes.astype(np.uint8)])
    if condition.scheme.ids("nuclear_marker"):
        hidden, kind = scatter_marked_nuclei(kind, fields.zones, fields.fibre_angle(), condition.mpp, rng)
        return find_nuclei(kind, hidden)
    coded = np.where(dressed, look + OWN_LAYOUT, kind).astype(np.uint8)
    layouts = {code: own for code, own in own_layouts().items() if (coded == code).any()}
    hidden, coded = scatter_nuclei(coded, fields.zones, fields.fibre_angle(), condition.mpp, rng, layouts)
    kind = np.where(dressed, kind, coded)
    return find_nuclei(kind, hidden, np.where(dressed, NUCLEI[look], -1))
