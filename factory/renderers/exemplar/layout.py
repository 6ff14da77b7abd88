"""What the layout of a tile asks of the tissue: classes that a bank can stand in for, and guides of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import BLOCK, Bank
from factory.bank.ground import neighbourhood
from factory.bank.shapes import Shapes
from factory.renderers.exemplar.backdrop import colours_of_blocks, draw_backdrop, fibres_of
from factory.renderers.exemplar.quilting import Grid, Guides
from manifests.labels import IGNORE, LabelClass, LabelScheme

Bytes = npt.NDArray[np.uint8]

_FIBRE_WEIGHT, _FILLED_WEIGHT, _DENSITY_WEIGHT, _CLASS_WEIGHT = 3, 24, 12, 10
_COLOUR_WEIGHT, _COLOUR_WEIGHT_OF_REGIONS = 8, 4
TUMOUR = {"tumour_negative", "tumour_positive"}
_SPINDLE = 1.8
"""Elongation (long axis by short axis) from which a nucleus says where fibres run."""


@dataclass(frozen=True, eq=False)
class Classes:
    """How the classes of a layout are looked up in a bank.

    Attributes:
        of_layout, of_bank: uint8 [256], class id -> group; classes of one group stand in for each other.
        groups: number of groups. air: group of air, None without.
        missing: names of the layout's classes that no class of the bank can stand in for.
    """

    of_layout: Bytes
    of_bank: Bytes
    groups: int
    air: int | None
    missing: tuple[str, ...]


@lru_cache(maxsize=16)
def match_classes(layout: LabelScheme, bank: LabelScheme, held: frozenset[str], *, painted: bool) -> Classes:
    """Match the classes of a layout with those of a bank, by name and else by role.

    Classes of nuclei and cells are not matched: instances are drawn on top, so what lies under them is the rest.

    Args:
        layout, bank: schemes. held: names of the classes that occur in the bank.
        painted: whether the marker is painted, so that any tumour stands in for any.
    """
    of_layout, of_bank = np.zeros(256, np.uint8), np.full(256, IGNORE, np.uint8)
    groups: list[list[int]] = []
    missing = []
    present = [each for each in bank.classes if each.name in held]
    for each in layout.classes:
        if _is_cell(each):
            continue
        twins = [other.id for other in present if not _is_cell(other) and _stands_in(each, other, painted)]
        if not twins and "air" not in each.roles:
            # a bank that knows tissue alone, or a background, has it for every class of tissue
            twins = [other.id for other in present if not _is_cell(other) and not set(other.roles) - {"inflammation"}]
        if not twins:
            missing.append(each.name)
            continue
        at = next((g for g, ids in enumerate(groups) if set(ids) & set(twins)), len(groups))
        if at == len(groups):
            groups.append([])
        groups[at] += twins
        of_layout[each.id] = at
        of_bank[twins] = at
    air = next((int(of_layout[each.id]) for each in layout.classes if "air" in each.roles and groups), None)
    return Classes(of_layout, of_bank, max(1, len(groups)), air, tuple(missing))


def _is_cell(label: LabelClass) -> bool:
    return "nucleus" in label.roles or label.name == "cell"


def _stands_in(label: LabelClass, other: LabelClass, painted: bool) -> bool:
    if label.name == other.name:
        return True
    roles = set(label.roles) - {"nuclear_marker", ""}
    if painted and roles & TUMOUR:  # its own marker is taken away
        roles = TUMOUR
    return bool(roles & set(other.roles))


def guides_of(
    semantic: Bytes,
    ids: npt.NDArray[np.int32],
    shapes: Shapes | None,
    classes: Classes,
    bank: Bank,
    mpp: float,
    grid: Grid,
    phase: tuple[int, int],
    slide: int,
    rng: np.random.Generator,
) -> Guides:
    """Describe what each block of a layout asks for, beside what each block of the bank has.

    Colours, and fibres where no spindle asks for a direction, are those of a real window like the layout (`backdrop`).

    Args:
        semantic: uint8 [H, W]. ids: int32 [H, W], outlines. shapes: of these; None where the layout has no instances,
            and the nuclei of the ground stay. classes: matched. bank: of tissue. mpp: of the tile.
        grid: of patches. phase: of the first patch, see `quilt`. slide: that patches are of. rng: draws the window.
    """
    rows, columns = (count * grid.step + grid.overlap for count in grid.count(ids.shape, phase))
    margins = ((phase[0], rows - phase[0] - ids.shape[0]), (phase[1], columns - phase[1] - ids.shape[1]))
    size = (columns // BLOCK, rows // BLOCK)

    def coarse(plane: Bytes, mode: str = "reflect") -> Bytes:
        padded = np.pad(plane, margins, mode="edge" if min(plane.shape) <= grid.patch else mode)  # type: ignore[call-overload]
        small: Bytes = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
        return small

    target, source, weights = [], [], []

    def add(wanted: Bytes, there: Bytes, weight: int) -> None:
        target.append(wanted)
        source.append(there)
        weights.append(weight)

    nuclei = ids > 0
    cosine, sine = _spindles(ids, shapes, mpp)
    filled = bank.blocks[:, 0] if shapes else np.where(bank.blocks[:, 0] == 255, 255, 0).astype(np.uint8)
    add(coarse(cosine), bank.blocks[:, 2], _FIBRE_WEIGHT)
    add(coarse(sine), bank.blocks[:, 3], _FIBRE_WEIGHT)
    add(coarse(nuclei.astype(np.uint8) * np.uint8(255)), filled, _FILLED_WEIGHT if shapes else 0)
    if shapes:
        add(coarse(neighbourhood(nuclei, mpp)), bank.blocks[:, 1], _DENSITY_WEIGHT)
    if classes.groups > 1:
        grouped = classes.of_layout[semantic]
        for group in range(classes.groups):
            wanted = coarse((grouped == group).astype(np.uint8) * np.uint8(255))
            add(wanted, shares_of_group(bank, classes, group), _CLASS_WEIGHT)
    asked = _shares_of_patches(target[-classes.groups :] if classes.groups > 1 else target[:1], grid)
    known = slice(3, None) if len(target) > 3 else slice(2, 3)
    blocks, turn = draw_backdrop(bank, slide, target[known], source[known], weights[known], rng)
    still = (target[0] == 128) & (target[1] == 128)
    for plane, fibres in zip(target[:2], fibres_of(bank, blocks, turn), strict=True):
        plane[still] = fibres[still]
    colours = colours_of_blocks(bank, shapes is not None)
    for channel in range(3):
        add(colours[blocks, channel], colours[:, channel], _COLOUR_WEIGHT if shapes else _COLOUR_WEIGHT_OF_REGIONS)
    return Guides(np.stack(source, -1), np.stack(target, -1), np.array(weights, np.int64), asked)


def _shares_of_patches(planes: list[Bytes], grid: Grid) -> npt.NDArray[np.float64]:
    """Mean of each plane of blocks over each patch, float64 [rows, columns, planes]."""
    side, step = grid.patch // BLOCK, grid.step // BLOCK
    means = []
    for plane in planes:
        total = cv2.integral(plane).astype(np.float64)
        sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
        means.append(sums[::step, ::step] / (255 * side * side) + 1e-9)
    return np.stack(means, axis=-1)


def shares_of_group(bank: Bank, classes: Classes, group: int) -> Bytes:
    """Share of a group of classes in each block of a bank: uint8 [B], 255 = all."""
    chosen = classes.of_bank[: bank.shares.shape[1]] == group
    share: Bytes = np.minimum(bank.shares[:, chosen].sum(1, dtype=np.int64), 255).astype(np.uint8)
    return share


def _spindles(ids: npt.NDArray[np.int32], shapes: Shapes | None, mpp: float) -> tuple[Bytes, Bytes]:
    """Direction that elongated nuclei ask of the fibres around them: cosine and sine as in `Bank.blocks`."""
    still = np.full(ids.shape, 128, np.uint8)
    if shapes is None or not len(shapes.area):
        return still, still
    long = shapes.axes[:, 0] / shapes.axes[:, 1] > _SPINDLE
    if not long.any():
        return still, still
    pull = np.where(long, 1.0, 0.0)
    table = np.zeros((len(pull) + 1, 3), np.float32)
    table[1:] = np.stack([pull * np.cos(2 * shapes.angle), pull * np.sin(2 * shapes.angle), pull], axis=1)
    side = 2 * round(6.0 / mpp / 2) + 1
    spread = cv2.blur(table[ids], (side, side))
    weight = np.maximum(spread[..., 2], 1e-6)
    planes = [np.where(spread[..., 2] > 0.05, 128 + 60 * spread[..., c] / weight, 128) for c in (0, 1)]
    return np.rint(planes[0]).astype(np.uint8), np.rint(planes[1]).astype(np.uint8)
