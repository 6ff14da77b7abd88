"""Cells of a tile: the kind of each nucleus by the mask, and the properties with which each is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from factory.core.compiled import compiled
from factory.geometry.nuclear_maps import renumbered
from factory.renderers.stain.appearance import StainAppearance
from factory.renderers.stain.config import Anatomy
from manifests.labels import LabelScheme

Floats = npt.NDArray[np.float64]

# Kinds of pixel. MIXED: tissue of unknown kind; CELL, POSITIVE_CELL: under a nucleus that takes the kind of the tissue
# around it.
AIR, STROMA, IMMUNE, TUMOUR, POSITIVE, MIXED, CELL, POSITIVE_CELL = range(8)
_KINDS = 8
# Forms of nucleus.
EPITHELIAL, LYMPHOID, SPINDLE = range(3)


@dataclass(frozen=True)
class Look:
    """A type of nucleus: its form, and factors on what is drawn for that form."""

    form: int
    density: float = 1.0
    chromatin: float = 1.0
    rim: float = 1.0
    pallor: float = 1.0
    nucleolus: float = 1.0
    softness: float = 1.0


LOOKS: dict[str, Look] = {
    "neoplastic": Look(EPITHELIAL, density=1.1, chromatin=1.5, rim=1.3, nucleolus=1.4),
    "inflammatory": Look(LYMPHOID, density=1.05, chromatin=1.2),
    "connective": Look(SPINDLE),
    "dead": Look(LYMPHOID, density=1.7, chromatin=0.15, rim=0.0, softness=0.5),
    "epithelial": Look(EPITHELIAL, density=0.75, chromatin=0.55, pallor=1.2, nucleolus=0.7),
}
"""Types of nucleus by the appearance of their class: coarse and dark with large nucleoli in tumour, pyknotic where
dead, pale and even in normal epithelium. By eye."""

CELL_DTYPE = np.dtype(
    [
        ("y", "f4"),  # centre, px
        ("x", "f4"),
        ("radius", "f4"),  # of the circle of equal area, px
        ("kind", "i4"),
        ("form", "i4"),
        ("density", "f4"),  # haematoxylin
        ("rim", "f4"),  # extra density at the outline, relative
        ("softness", "f4"),  # depth over which the outline fades in, px: nuclei lie at different depths of focus
        ("pallor", "f4"),  # loss of density in the middle, relative
        ("chromatin", "f4"),  # contrast
        ("grain_y", "f4"),  # where its chromatin is read from the table
        ("grain_x", "f4"),
        ("nucleolus_y", "f4"),  # px
        ("nucleolus_x", "f4"),
        ("nucleolus_radius", "f4"),  # px, 0 = none
        ("width", "f4"),  # of its cytoplasm, px
        ("cytoplasm", "f4"),  # density of its cytoplasm, relative
        ("dab", "f4"),  # density of its membrane or nucleus
        ("ring", "f4"),  # 1 = complete membrane, 0 = gaps over half of it
    ]
)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of a tile and their kinds.

    Attributes:
        number: int32 [H, W], 0 = none, 1..n in the order of the instance ids.
        kind: uint8 [H, W], kind of each pixel; never CELL.
        table: CELL_DTYPE [n + 1]; entry 0 stands for no cell. Position, radius, kind and aspect are set.
        aspect: float64 [n + 1], long axis / short axis.
        looks: int64 [n + 1], place in `LOOKS`, -1 for a nucleus whose form follows from its tissue, size and aspect.
    """

    number: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    table: npt.NDArray[np.void]
    aspect: npt.NDArray[np.float64]
    looks: npt.NDArray[np.int64]


def kind_table(scheme: LabelScheme) -> npt.NDArray[np.uint8]:
    """Return the kind of pixel of each class: uint8 [256]. Ignored pixels are drawn as tissue without a label."""
    nuclear = set(nucleus_classes(scheme))
    regional = set(scheme.ids("tumour_positive") + scheme.ids("tumour_negative") + scheme.ids("inflammation")) - nuclear
    table = np.full(256, STROMA if regional else MIXED, np.uint8)
    for role, kind in (("inflammation", IMMUNE), ("tumour_negative", TUMOUR), ("tumour_positive", POSITIVE)):
        table[list(scheme.ids(role))] = kind
    for label in nuclear:
        table[label] = POSITIVE_CELL if label in scheme.ids("tumour_positive") else CELL
    table[list(scheme.ids("air"))] = AIR
    return table


def nucleus_classes(scheme: LabelScheme) -> tuple[int, ...]:
    """Return the classes whose pixels are nuclei."""
    named = tuple(label.id for label in scheme.classes if label.name in ("cell", "nucleus"))
    return tuple(sorted({*scheme.ids("nucleus"), *named}))


def look_table(scheme: LabelScheme) -> npt.NDArray[np.int64]:
    """Return the place in `LOOKS` of each class, -1 for a class that is no type of nucleus: int64 [256]."""
    table = np.full(256, -1, np.int64)
    for label in scheme.ids("nucleus"):
        if scheme.classes[label].appearance in LOOKS:
            table[label] = list(LOOKS).index(scheme.classes[label].appearance)
    return table


def find_nuclei(
    kind: npt.NDArray[np.uint8], instance: npt.NDArray[np.int32], look: npt.NDArray[np.int64] | None = None
) -> Nuclei:
    """Number the nuclei 1..n and find the kind of each from the pixels under and around it.

    Args:
        kind: uint8 [H, W], changed: pixels under a nucleus class take the kind of the tissue around their nucleus.
        instance: int32 [H, W]. Connected pixels of a nucleus class without an id are a nucleus.
        look: int64 [H, W], place in `LOOKS` of each pixel, -1 for none; None where there is none at all.
    """
    number = renumbered(instance)
    count = int(number.max(initial=0))
    orphans = ((kind >= CELL) & (number == 0)).astype(np.uint8)
    if orphans.any():
        extra, components = cv2.connectedComponents(orphans, connectivity=4)
        number = np.where(orphans > 0, components.astype(np.int32) + count, number)
        count += extra - 1
    sums = np.zeros((count + 1, 6), np.float64)
    votes = np.zeros((count + 1, _KINDS), np.int64)
    _count(number, kind, sums, votes)
    table, aspect = _shapes(sums)
    table["kind"] = _elect(votes)
    _fill(kind, number, table["kind"].astype(np.uint8))
    looks = np.full(count + 1, -1) if look is None else _commonest(number, look, count)
    return Nuclei(number, kind, table, aspect, looks)


def _commonest(number: npt.NDArray[np.int32], look: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Find the look of most pixels of each nucleus: int64 [count + 1], -1 for none."""
    inside = np.flatnonzero((number > 0) & (look >= 0))
    places = len(LOOKS)
    at = number.ravel()[inside] * places + look.ravel()[inside]
    votes = np.bincount(at, minlength=(count + 1) * places).reshape(-1, places)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def with_centres(nuclei: Nuclei, centres: npt.NDArray[np.float64]) -> Nuclei:
    """Append cells without a nucleus at `centres`, float64 [k, 2] of y and x in pixels."""
    extra = np.zeros(len(centres), CELL_DTYPE)
    extra["y"], extra["x"] = centres.T
    extra["kind"] = nuclei.kind[tuple(centres.astype(np.intp).T)]
    table, aspect = np.concatenate([nuclei.table, extra]), np.concatenate([nuclei.aspect, np.ones(len(centres))])
    looks = np.concatenate([nuclei.looks, np.full(len(centres), -1)])
    return Nuclei(nuclei.number, nuclei.kind, table, aspect, looks)


@compiled()
def _count(number, kind, sums, votes):  # type: ignore[no-untyped-def]
    """Add up moments of every nucleus, and pixels of each kind under it or, under a CELL, beside it."""
    height, width = number.shape
    for y in range(height):
        for x in range(width):
            here = number[y, x]
            if here == 0:
                continue
            sums[here, 0] += 1.0
            sums[here, 1] += y
            sums[here, 2] += x
            sums[here, 3] += y * y
            sums[here, 4] += y * x
            sums[here, 5] += x * x
            votes[here, kind[y, x]] += 1
            if kind[y, x] == CELL:
                for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= v < height and 0 <= u < width and kind[v, u] < CELL:
                        votes[here, kind[v, u]] += 1


def _elect(votes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Choose the kind of each nucleus: POSITIVE_CELL by majority, otherwise the commonest kind of tissue counted."""
    tissue = votes.copy()
    tissue[:, [AIR, CELL, POSITIVE_CELL]] = 0
    kind = np.where(tissue.any(axis=1), tissue.argmax(axis=1), MIXED)
    own = votes[:, CELL] + votes[:, POSITIVE_CELL]
    return np.where((votes[:, POSITIVE_CELL] * 2 > own) & (own > 0), POSITIVE_CELL, kind)


@compiled()
def _fill(kind, number, kinds):  # type: ignore[no-untyped-def]
    """Give the pixels under a nucleus class the kind of the tissue around their nucleus."""
    for y in range(kind.shape[0]):
        for x in range(kind.shape[1]):
            if kind[y, x] >= CELL:
                around = kinds[number[y, x]]
                kind[y, x] = MIXED if around >= CELL else around


def _shapes(sums: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float64]]:
    """Compute centre, radius and aspect ratio from moments [n + 1, 6]."""
    table = np.zeros(len(sums), CELL_DTYPE)
    area = np.maximum(sums[:, 0], 1.0)
    y, x = sums[:, 1] / area, sums[:, 2] / area
    yy, yx, xx = sums[:, 3] / area - y * y, sums[:, 4] / area - y * x, sums[:, 5] / area - x * x
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    table["y"], table["x"], table["radius"] = y, x, np.sqrt(sums[:, 0] / np.pi)
    return table, np.sqrt((middle + half + 0.1) / np.maximum(middle - half + 0.1, 0.05))


def draw_cell_properties(
    nuclei: Nuclei,
    appearance: StainAppearance,
    anatomy: Anatomy,
    patch: npt.NDArray[np.float32],
    *,
    mpp: float,
    unlabelled_positive: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.void]:
    """Draw the properties of every cell: CELL_DTYPE [n + 1], a completed copy of `nuclei.table`.

    Chromatin is vesicular (pale, with a rim and a nucleolus) in epithelium, dense and clumped in lymphocytes, even in
    spindle cells.

    Args:
        nuclei, appearance, anatomy: of the tile. patch: [H, W], a smooth field of unit variance that staining follows,
            as neighbours resemble each other. unlabelled_positive: share of cells to stain positive where no label
            decides.
    """
    cells = nuclei.table.copy()
    count = len(cells)
    form = _forms(nuclei, mpp)
    cells["form"] = form
    uniform = rng.random((count, 9)).T
    normal = rng.normal(size=(count, 3)).T
    vesicular = (form == EPITHELIAL) * np.clip(rng.beta(1.3, 1.3) + 0.3 * normal[0], 0.0, 1.0)
    cells["density"] = (
        appearance.nucleus
        * np.choose(form, (1.0, 1.3, 1.15))
        * np.exp(appearance.nucleus_spread * np.clip(normal[1], -2, 2))
        * (1 - 0.2 * vesicular)
    )
    blurred = rng.beta(1.1, 2.2, count)
    if anatomy.lymphocyte_spread:
        cells["density"] *= np.exp(anatomy.lymphocyte_spread * np.clip(normal[0], -2, 2) * (form == LYMPHOID))
        blurred = np.where(form == LYMPHOID, np.clip(blurred + 0.5 * np.abs(normal[2]), 0, 1), blurred)
    cells["rim"] = (0.1 + 0.75 * vesicular) * (1 - 0.8 * blurred)
    cells["softness"] = 1.5 * blurred / mpp
    cells["pallor"] = 0.33 * vesicular
    cells["chromatin"] = appearance.chromatin * np.choose(form, (1.0, 0.9, 0.6)) * (0.7 + 0.6 * uniform[0])
    cells["grain_y"], cells["grain_x"] = uniform[1] * 512, uniform[2] * 512
    _nucleoli(cells, vesicular, uniform[3], uniform[4], uniform[5], mpp)
    cells["width"] = np.choose(form, (rng.uniform(*anatomy.cytoplasm_um), 0.9, 0.5)) * (0.7 + 0.6 * uniform[6]) / mpp
    _apply_looks(cells, nuclei.looks)
    cells["cytoplasm"] = np.exp(0.13 * np.clip(normal[2], -2, 2))
    around = patch[cells["y"].astype(np.intp), cells["x"].astype(np.intp)]
    # nuclear antigens come and go from cell to cell, membranous ones by whole nests
    lot = rng.random(count) if appearance.staining == "nuclear_dab" else ndtr(around)
    positive = np.isin(cells["kind"], (POSITIVE, POSITIVE_CELL)) | (lot < unlabelled_positive)
    if appearance.staining != "he":
        intensity = ndtr(0.7 * around + 0.7 * ndtri(np.clip(uniform[7], 1e-6, 1 - 1e-6)))
        _immunostain(cells, positive, appearance, anatomy, intensity, uniform[8], rng)
    return cells


def _forms(nuclei: Nuclei, mpp: float) -> npt.NDArray[np.int64]:
    """Choose the form of each nucleus by its tissue, size and elongation: int64 [n + 1]."""
    kind, radius_um = nuclei.table["kind"], nuclei.table["radius"] * mpp
    real = radius_um[radius_um > 0]
    typical = float(np.median(real)) if len(real) else 0.0
    long, small = nuclei.aspect > 2.0, (radius_um < 0.78 * typical) & (radius_um < 3.2) & (nuclei.aspect < 1.5)
    mixed = np.where(long, SPINDLE, np.where(small, LYMPHOID, EPITHELIAL))
    stroma = np.where(small | ((nuclei.aspect < 1.25) & (radius_um < 2.8)), LYMPHOID, SPINDLE)
    immune = np.where(long, SPINDLE, np.where(radius_um < 4.2, LYMPHOID, EPITHELIAL))
    form = np.where(kind == STROMA, stroma, np.where(kind == IMMUNE, immune, EPITHELIAL))
    form = np.where(kind == MIXED, mixed, form)
    of_look = np.array([look.form for look in LOOKS.values()])
    return np.where(nuclei.looks >= 0, of_look[nuclei.looks], form)


def _apply_looks(cells: npt.NDArray[np.void], looks: npt.NDArray[np.int64]) -> None:
    """Scale the properties of nuclei that have a look."""
    for place, look in enumerate(LOOKS.values()):
        own = looks == place
        for name in ("density", "chromatin", "rim", "pallor", "softness"):
            cells[name][own] *= getattr(look, name)
        cells["nucleolus_radius"][own] *= look.nucleolus


def _nucleoli(
    cells: npt.NDArray[np.void], vesicular: Floats, share: Floats, distance: Floats, angle: Floats, mpp: float
) -> None:
    """Draw a nucleolus, off the middle, in most vesicular nuclei and some others."""
    has = share < 0.15 + 0.75 * vesicular
    away = 0.45 * np.sqrt(distance) * cells["radius"]
    cells["nucleolus_y"] = cells["y"] + away * np.sin(2 * np.pi * angle)
    cells["nucleolus_x"] = cells["x"] + away * np.cos(2 * np.pi * angle)
    size_um = np.minimum(0.55 + 0.7 * vesicular * distance, 0.3 * cells["radius"] * mpp)
    cells["nucleolus_radius"] = np.where(has & (cells["form"] == EPITHELIAL), size_um / mpp, 0.0)


def _immunostain(
    cells: npt.NDArray[np.void],
    positive: npt.NDArray[np.bool_],
    appearance: StainAppearance,
    anatomy: Anatomy,
    intensity: Floats,
    ring: Floats,
    rng: np.random.Generator,
) -> None:
    """Draw intensity class and completeness of each positive cell."""
    # A tile leans to weak or strong staining as a whole, as tumours do.
    shares = rng.dirichlet(4.0 * np.asarray(anatomy.intensity_shares) + 0.05)
    grade = np.searchsorted(np.cumsum(shares)[:2], intensity)
    strength = np.choose(grade, (0.45, 1.0, 1.9)) * (0.85 + 0.3 * ring)
    cells["dab"] = np.where(positive, appearance.dab * strength, 0.0)
    cells["ring"] = np.clip(rng.uniform(*anatomy.complete) + 0.5 * (ring - 0.5) + 0.12 * grade, 0.0, 1.0)
