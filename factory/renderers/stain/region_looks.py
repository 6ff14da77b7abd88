"""What classes of regions look like that no role describes: kind of tissue, nuclei, and colour.

Each look has a layout of nuclei of its own and factors on the optical density of the tissue between them, by eye:
muscle is deep pink with few thin nuclei, necrosis pink with fragments of nuclei, mucus pale and blue, fat empty but for
the borders of its cells, blood red without nuclei.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from factory.renderers.stain.cells import IMMUNE, STROMA, TUMOUR, nucleus_classes
from factory.renderers.stain.cells import LOOKS as _NUCLEUS_LOOKS
from factory.renderers.stain.unlabelled_nuclei import OWN_LAYOUT, Layout
from manifests.labels import REGION_LOOKS, SCHEMES, LabelScheme

_ROLES = {"air", "tumour_positive", "tumour_negative", "inflammation"}
"""Roles that say what a region looks like."""
_ORDER = ("stroma", "epithelium", "muscle", "necrosis", "inflammation", "mucus", "blood", "fat")
"""Looks of classes that name none, the first that no other class has."""
_FAT_CELL_UM, _FAT_BORDER_UM = 55.0, 1.2
_SOFT_UM = 1.0
"""Standard deviation of the Gaussian by which one look turns into the next."""


@dataclass(frozen=True)
class RegionLook:
    """The look of a region.

    Attributes:
        kind: of its pixels, as in `cells`. layout: of its nuclei, as in `unlabelled_nuclei`; None for none.
        density: factors on the optical density of the tissue between them, RGB. nuclei: their look in `cells.LOOKS`.
    """

    kind: int
    layout: Layout | None
    density: tuple[float, float, float] = (1.0, 1.0, 1.0)
    nuclei: str = ""


LOOKS: dict[str, RegionLook] = {
    "epithelium": RegionLook(TUMOUR, (9.5, 0.95, 3.4, 0.12, 1.3), (1.3, 1.1, 1.05), "epithelial"),
    "stroma": RegionLook(STROMA, (13.0, 0.55, 2.6, 0.25, 2.6)),
    "inflammation": RegionLook(IMMUNE, (6.6, 0.85, 2.55, 0.12, 1.1), (1.2, 1.0, 1.0), "inflammatory"),
    "necrosis": RegionLook(TUMOUR, (12.0, 0.5, 1.5, 0.35, 1.3), (0.8, 1.25, 1.3), "dead"),
    "muscle": RegionLook(STROMA, (17.0, 0.6, 2.3, 0.2, 4.5), (0.95, 1.6, 1.55), "connective"),
    "mucus": RegionLook(STROMA, (34.0, 0.3, 2.2, 0.2, 1.3), (0.55, 0.28, 0.16)),
    "fat": RegionLook(STROMA, (48.0, 0.4, 1.9, 0.2, 2.8), (0.05, 0.05, 0.05)),
    "blood": RegionLook(STROMA, None, (0.35, 2.2, 2.0)),
}


KINDS = np.array([LOOKS[name].kind for name in REGION_LOOKS], np.uint8)
"""Kind of the pixels of each look."""
NUCLEI = np.array(
    [([*_NUCLEUS_LOOKS].index(LOOKS[name].nuclei) if LOOKS[name].nuclei else -1) for name in REGION_LOOKS]
)
"""Look of the nuclei of each look, its place in `cells.LOOKS`, -1 where that follows from size and aspect."""


def own_layouts() -> dict[int, tuple[int, Layout]]:
    """Return the codes of tissue of each look with nuclei, as `scatter_nuclei` reads them -> kind and layout."""
    coded = ((place + OWN_LAYOUT, LOOKS[name]) for place, name in enumerate(REGION_LOOKS))
    return {code: (look.kind, look.layout) for code, look in coded if look.layout is not None}


def named_looks(scheme: LabelScheme, named: Mapping[str, str]) -> dict[str, str]:
    """Return the looks that classes are given: class -> name in `LOOKS`, by `named` before the scheme."""
    looks = {label.name: named.get(label.name) or label.appearance for label in scheme.classes}
    return {name: look for name, look in looks.items() if look in LOOKS}


def distinct_looks(scheme: LabelScheme, named: Mapping[str, str]) -> dict[str, str]:
    """Return a look for every class of regions that no role describes: that which it is given, else one that is free.

    Schemes that are shipped, and those that label nuclei, get none besides those that are given.
    """
    found = named_looks(scheme, named)
    if scheme.name in SCHEMES or nucleus_classes(scheme):
        return found
    taken = {*found.values(), *(("inflammation",) if scheme.ids("inflammation") else ())}
    if scheme.ids("tumour_negative") or scheme.ids("tumour_positive"):
        taken.add("epithelium")
    free = [look for look in _ORDER if look not in taken]
    for label in scheme.classes:
        if label.name not in found and not set(label.roles) & _ROLES:
            free = free or list(_ORDER)
            found[label.name] = free.pop(0)
    return found


def look_map(classes: npt.NDArray[np.integer], scheme: LabelScheme, looks: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Return the look of each pixel, its place in `LOOKS` or -1: int64 [H, W], for classes [H, W]."""
    table = np.full(256, -1, np.int64)
    for name, look in looks.items():
        if name in scheme.names:
            table[scheme.names.index(name)] = REGION_LOOKS.index(look)
    return np.asarray(table[classes])


def dress(
    light: npt.NDArray[np.uint8],
    looks: npt.NDArray[np.int64],
    nuclei: npt.NDArray[np.int32],
    background: npt.NDArray[np.floating],
    mpp: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Give the tissue between nuclei the colour of its look: uint8 [3, H, W], as `light`.

    Args:
        light: uint8 [3, H, W]. looks: int64 [H, W], see `look_map`. nuclei: int32 [H, W], 0 = none.
        background: of the light, [3], in its channel order, BGR. mpp: micrometres per pixel. rng: the tile's.
    """
    factor = np.ones((*looks.shape, 3), np.float32)
    for place, name in enumerate(REGION_LOOKS):
        if (there := looks == place).any():
            factor[there] = LOOKS[name].density[::-1]
            if name == "fat":
                borders = _fat_borders(looks.shape, mpp, rng)
                factor[there & borders] = 1.0
    factor[nuclei > 0] = 1.0
    soft = cv2.GaussianBlur(factor, (0, 0), _SOFT_UM / mpp).transpose(2, 0, 1)
    bright = np.asarray(background, np.float32)[:, None, None]
    passed = np.clip((light.astype(np.float32) + 0.5) / bright, 1e-3, 1.0)
    return np.clip(bright * passed**soft, 0, 255).astype(np.uint8)


def _fat_borders(shape: tuple[int, ...], mpp: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw the borders of fat cells: bool [H, W], the edges of a jittered mosaic."""
    step = max(_FAT_CELL_UM / mpp, 4.0)
    rows, columns = (np.arange(-step, length + step, step) for length in shape)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    centres = np.clip(centres + rng.uniform(-0.35, 0.35, centres.shape) * step, 0, np.array(shape) - 1)
    empty = np.ones(shape, np.uint8)
    empty[tuple(centres.astype(np.intp).T)] = 0
    _, owner = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5)
    thick = max(1, round(_FAT_BORDER_UM / mpp))
    kernel = np.ones((thick + 1, thick + 1), np.uint8)
    wide = owner.astype(np.float32)
    return np.asarray(cv2.dilate(wide, kernel) != cv2.erode(wide, kernel))
