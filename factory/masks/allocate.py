"""Composition by construction: scores become labels by quantile, so that a request is met exactly.

`request -> generator.draw -> Scores -> allocate -> Tile`. `quantiles` divides pixels and `cells.placement` places
cells; this module decides the targets and the order. Counts are floor(share x total + 0.5), allocation is the last
operation on a mask, so a share is met to half a pixel and a TPS by cells to half a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from factory.masks.cells.placement import Cells, Population, place_population, remove_instances
from factory.masks.quantiles import TUMOUR_ROLES, Calibrated, Partition, Shares, target_count, top, whole_counts
from factory.plan.class_shares import has_types
from factory.plan.request import Request
from manifests.tile import Tile

Instances = npt.NDArray[np.int32]
Labels = npt.NDArray[np.uint8]

SUM_TOLERANCE = 1e-3
"""Largest difference from 1 of the sum of requested shares."""


class Unmet(Exception):
    """A draw that cannot meet its request. Another attempt may succeed."""


@dataclass(frozen=True)
class Scores:
    """The result of one draw of a mask generator.

    The score-field rule: fields that are not calibrated are 0 for the leftover class (the first without a region role)
    and at most 0 for every other class of tissue, so that each margin depends on one field alone.

    Attributes:
        fields: float32 [C, H, W], finite, one for each class of the scheme. Pixels with the highest score of a class
            get it first.
        fractions: shares of all pixels in scheme order, used where the request has none.
        calibrated: whether the fields are logits, so that a threshold of 0 is the generator's own decision: all of
            them, or ``air``, that of air alone.
        tps: used where the request has none and it does not follow from the fractions.
        cells: the cells to place, if any.
    """

    fields: npt.NDArray[np.float32]
    fractions: tuple[float, ...]
    calibrated: Calibrated = False
    tps: float | None = None
    cells: Cells | None = None


@dataclass(frozen=True)
class Allocation:
    """A tile that meets its request.

    Attributes:
        shift: largest distance of a threshold used from the generator's own, in units of its fields; None where
            fields are not calibrated.
    """

    tile: Tile
    shift: float | None


def shares(request: Request, fractions: tuple[float, ...]) -> Shares:
    """Resolve a request: `tissue` rescales the shares of all tissue, `tps` takes precedence over `fractions`."""
    scheme = request.scheme
    air = sum(fractions[i] for i in scheme.ids("air"))
    tissue = 1.0 - air if request.tissue is None else request.tissue
    kept = tuple(fractions)
    if abs(tissue - (1.0 - air)) > 1e-9:
        within = tissue / (1.0 - air) if air < 1.0 else 0.0
        outside = (1.0 - tissue) / air if air > 0.0 else 1.0
        kept = tuple(f * (outside if i in scheme.ids("air") else within) for i, f in enumerate(fractions))
    positive, negative, inflammation = (
        sum(kept[i] for i in scheme.ids(role)) for role in ("tumour_positive", "tumour_negative", "inflammation")
    )
    tumour = positive + negative
    tps = request.tps if request.tps is not None else (positive / tumour if tumour > 0 else None)
    return Shares(tissue, tumour, inflammation, tps, kept)


def completed(request: Request, drawn: tuple[float, ...]) -> tuple[float, ...]:
    """Complete the requested shares by those of a draw, in whole pixels where some are left open.

    Args:
        request: whose `tissue` says how much is air. drawn: shares of all pixels in scheme order, of the generator.

    Returns:
        Shares of all pixels in scheme order, each a whole number of pixels where the request leaves a class open.
    """
    asked = request.fractions
    if asked is None or None not in asked:
        return drawn if asked is None else tuple(share or 0.0 for share in asked)
    total = request.height * request.width
    counts = np.zeros(len(asked), np.int64)
    for ids, share in _sides(request):
        is_air = share < 1.0 and ids == request.scheme.ids("air")  # tissue is rounded, air is the rest of it
        within = total - target_count(1.0 - share, total) if is_air else target_count(share, total)
        if within:
            of_side = [None if asked[i] is None else (asked[i] or 0.0) * total / within for i in ids]
            counts[list(ids)] = whole_counts(of_side, [drawn[i] for i in ids], within)
    return tuple((counts / total).tolist())


def _sides(request: Request) -> list[tuple[tuple[int, ...], float]]:
    """Classes that share one part of a tile, and its share: air and tissue where `tissue` is asked, else all."""
    everything, air = tuple(range(len(request.scheme))), request.scheme.ids("air")
    if request.tissue is None:
        return [(everything, 1.0)]
    return [(air, 1.0 - request.tissue), (tuple(i for i in everything if i not in air), request.tissue)]


def check(request: Request) -> str | None:
    """Return why no mask can ever meet a request, or None. Generators add their own reasons in `refusal`."""
    scheme = request.scheme
    for name, share in (("tps", request.tps), ("tissue", request.tissue)):
        if share is not None and not 0.0 <= share <= 1.0:
            return f"{name}: expected a share from 0 to 1, got {share:g}"
    if request.height < 1 or request.width < 1 or not request.mpp > 0:
        return f"expected a size in pixels and a positive mpp, got {request.height}x{request.width} at {request.mpp:g}"
    if request.cells is not None and request.cells < 0:
        return f"cells: expected a number from 0, got {request.cells}"
    if request.tissue is not None and not scheme.ids("air"):
        return f"tissue: scheme {scheme.name} knows no air"
    if request.tps is not None and not scheme.ids("tumour_positive"):
        return f"tps: scheme {scheme.name} knows no tumour"
    total = request.height * request.width
    if _needs_tumour(request) and request.tissue is not None and not target_count(request.tissue, total):
        return f"tps: {request.tps:g} is asked of a tile with tissue {request.tissue:g}, which has no tumour"
    if request.cell_fractions is not None and (reason := _check_cells(request, request.cell_fractions)):
        return reason
    return None if request.fractions is None else _check_fractions(request, request.fractions)


def _needs_tumour(request: Request) -> bool:
    """Whether the TPS of a request needs tumour: 0 is that of healthy or inflamed tissue too (Daniel 2023, Fig. 6)."""
    return bool(request.tps) and request.scheme.tps_basis == "area"


def _check_cells(request: Request, asked: tuple[float | None, ...]) -> str | None:
    scheme = request.scheme
    if not has_types(scheme):
        return f"cell_fractions: scheme {scheme.name} has no types of nuclei"
    if len(asked) != len(scheme):
        return f"cell_fractions: expected {len(scheme)} shares in the order {', '.join(scheme.names)}, got {len(asked)}"
    of_types = [asked[label] for label in scheme.ids("nucleus")]
    total = sum(share or 0.0 for share in asked)
    if sum(share or 0.0 for share in of_types) < total or total > 1.0 + SUM_TOLERANCE:
        return f"cell_fractions: expected shares of the types of nuclei of at most 1 in all, got {total:.4g}"
    if None not in of_types and total < 1.0 - SUM_TOLERANCE:
        return f"cell_fractions: expected shares of 1 in all, got {total:.4g}"
    return None


def _check_fractions(request: Request, asked_for: tuple[float | None, ...]) -> str | None:
    scheme = request.scheme
    if len(asked_for) != len(scheme):
        return f"fractions: expected {len(scheme)} shares in the order {', '.join(scheme.names)}, got {len(asked_for)}"
    if any(f is not None and not 0.0 <= f <= 1.0 for f in asked_for):
        return f"fractions: expected shares from 0 to 1, got {', '.join(f'{f:g}' for f in asked_for if f is not None)}"
    if None in asked_for:
        return _check_open(request, asked_for)
    fractions = tuple(f or 0.0 for f in asked_for)
    if abs(sum(fractions) - 1.0) > SUM_TOLERANCE:
        return f"fractions: expected a sum of 1, got {sum(fractions):g}"
    asked = shares(request, fractions)
    bare = not any(f for i, f in enumerate(fractions) if i not in scheme.ids("air"))
    if request.tissue and bare:
        return f"tissue: {request.tissue:g} is asked of fractions that are all air"
    if request.tissue == 0.0 and any(fractions[i] for role in TUMOUR_ROLES for i in scheme.ids(role)):
        return "tissue: 0 leaves no place for the tumour in fractions"
    if _needs_tumour(request) and not target_count(asked.tumour, request.height * request.width):
        return f"tps: {request.tps:g} is asked of a tile without tumour"
    return None


def _check_open(request: Request, asked: tuple[float | None, ...]) -> str | None:
    """Return why shares of some classes cannot be met, or None."""
    scheme = request.scheme
    named = [label for label in scheme.classes if asked[label.id] is not None]
    if request.tps is not None and scheme.tps_basis == "area":
        for label in named:
            if set(label.roles) & set(TUMOUR_ROLES):
                return f"tps: is asked beside a share of {label.name}, which decides it. Leave one out"
    for ids, share in _sides(request):
        total = sum(asked[i] or 0.0 for i in ids)
        is_open = any(asked[i] is None for i in ids)
        if total > share + SUM_TOLERANCE or (not is_open and total < share - SUM_TOLERANCE):
            names = " + ".join(scheme.names[i] for i in ids if asked[i] is not None)
            wanted = "at most" if is_open else "exactly"
            return f"shares: expected {wanted} {share:.4g} of the pixels for {names}, got {total:.4g}"
    return None


def allocate(scores: Scores, request: Request, rng: np.random.Generator) -> Allocation:
    """Turn the scores of a draw into a tile that meets its request exactly.

    Args:
        scores: of the request. rng: breaks ties and places cells (stream `TIES` of the row).

    Raises:
        Unmet: when the cells of this draw do not fit, or a TPS is requested of a draw without tumour.
        ValueError: when the fields do not match the request or are not finite.
    """
    expected = (len(request.scheme), request.height, request.width)
    if scores.fields.shape != expected or scores.fields.dtype != np.float32:
        raise ValueError(f"fields: expected float32 {expected}, got {scores.fields.dtype} {scores.fields.shape}")
    fractions = completed(request, scores.fractions)
    if request.fractions is not None and None in request.fractions:
        request = replace(request, tissue=None)  # the completed shares have its air, in whole pixels
    asked = shares(request, fractions)
    if asked.tps is None and scores.tps is not None:
        asked = replace(asked, tps=scores.tps)
    cells = scores.cells
    if cells is not None and request.scheme.ids("nucleus"):
        return _with_classified_cells(scores, cells, asked.tps, request, rng)
    if cells is not None and cells.drawn_as is not None:
        return _with_drawn_cells(scores, cells, cells.drawn_as, asked, request, rng)
    partition = Partition(scores.fields, request.scheme, rng, calibrated=scores.calibrated)
    partition.air(asked)
    partition.regions(asked)
    _express(partition, asked, request)
    instance = np.zeros(partition.labels.shape, np.int32)
    if cells is not None:
        _place_in_regions(instance, partition.labels, cells, asked.tps, request, rng)
    return Allocation(Tile(partition.labels, instance, request.mpp, request.scheme), partition.shift)


def _express(partition: Partition, asked: Shares, request: Request) -> None:
    """Divide the tumour by TPS."""
    if request.tps and not partition.tumour.size:
        raise Unmet(f"tps {request.tps:g} is asked and no pixel is tumour")
    partition.expression(asked)


def _place_in_regions(
    instance: Instances, labels: Labels, cells: Cells, tps: float | None, request: Request, rng: np.random.Generator
) -> None:
    """Place cells on a finished region mask, with exact number and TPS."""
    positive, negative = (request.scheme.ids(role) for role in TUMOUR_ROLES)
    placed_count = 0
    for population in cells.populations:
        wanted = len(population.outlines)
        if set(population.on) & {*positive, *negative} and tps is not None:
            sides = (positive, negative)
            placed = _place_tumour_cells(instance, labels, cells, population, tps, sides, rng, placed_count)
        else:
            placed = place_population(instance, labels, cells, population, rng, first=placed_count + 1)
        if placed < (1.0 - cells.loss) * wanted - 1.0:
            raise Unmet(f"{placed} of {wanted} {population.name} nuclei fit")
        placed_count += placed
    if request.cells is None:
        return
    # Other regions make up for nuclei that did not fit in theirs, tumour aside, whose ratio is exact.
    for population in cells.populations[::-1]:
        missing = request.cells - placed_count
        if missing > 0 and not set(population.on) & {*positive, *negative} and len(population.outlines):
            indices = np.arange(missing, dtype=np.int64) % len(population.outlines)
            extra = replace(population, outlines=population.outlines.pick(indices), room=0.0, touching=0.0)
            placed_count += place_population(instance, labels, cells, extra, rng, first=placed_count + 1)
    if placed_count != request.cells:
        raise Unmet(f"{placed_count} of {request.cells} cells fit")


def _place_tumour_cells(
    instance: Instances, labels: Labels, cells: Cells, population: Population, tps: float,
    sides: tuple[tuple[int, ...], tuple[int, ...]], rng: np.random.Generator, placed_count: int,
) -> int:  # fmt: skip
    """Place n tumour nuclei, floor(TPS x n + 0.5) of them positive; n is smaller than wanted where not all fit."""
    positive, negative = sides
    wanted = len(population.outlines)
    order = np.arange(wanted, dtype=np.int64)
    count = target_count(tps, wanted)
    placed: list[int] = []
    for indices, on, sign in ((order[:count], positive, 1), (order[count:], negative, -1)):
        side = replace(population, outlines=population.outlines.pick(indices), on=on)
        first = placed_count + sum(placed) + 1
        placed.append(place_population(instance, labels, cells, side, rng, first=first, positive=positive, wanted=sign))
    most = sum(placed)
    while most and not (target_count(tps, most) <= placed[0] and most - target_count(tps, most) <= placed[1]):
        most -= 1
    # The last ones of each side are removed: they lie behind the others, which do not change.
    ones = target_count(tps, most)
    start = placed_count + 1
    surplus = [
        np.arange(start + ones, start + placed[0]),
        np.arange(start + placed[0] + most - ones, start + placed[0] + placed[1]),
    ]
    remove_instances(instance, np.concatenate(surplus))
    return most


def _with_drawn_cells(
    scores: Scores, cells: Cells, label: int, asked: Shares, request: Request, rng: np.random.Generator
) -> Allocation:
    """Allocate a scheme in which cells are a class of their own."""
    # Cells are placed on a draft whose regions are wider by the share that cells will cover; the regions are then
    # allocated again among the pixels without cells. Air and TPS are exact whatever the cells cover, and so are tumour
    # and inflammation unless too few pixels are left: then both shrink in proportion.
    partition = Partition(scores.fields, request.scheme, rng, calibrated=scores.calibrated, without=label)
    partition.air(asked)
    widened = asked.tissue / max(asked.tissue - asked.fractions[label], 1e-9)
    partition.regions(replace(asked, tumour=asked.tumour * widened, inflammation=asked.inflammation * widened))
    instance = np.zeros(partition.labels.shape, np.int32)
    _place_in_regions(instance, partition.labels, cells, None, request, rng)
    left = (partition.tissue.size - np.count_nonzero(instance)) / instance.size
    fit = min(1.0, left / max(asked.tumour + asked.inflammation, 1e-9))
    if fit < 1.0 and request.fractions is not None and None in request.fractions:
        raise Unmet("cells leave too few pixels for the shares")
    partition.regions(replace(asked, tumour=asked.tumour * fit, inflammation=asked.inflammation * fit), instance > 0)
    _express(partition, asked, request)
    partition.labels[instance > 0] = label
    return Allocation(Tile(partition.labels, instance, request.mpp, request.scheme), partition.shift)


def _with_classified_cells(
    scores: Scores, cells: Cells, tps: float | None, request: Request, rng: np.random.Generator
) -> Allocation:
    """Place cells on a background, in a scheme whose classes are kinds of cells; floor(TPS x n + 0.5) are positive."""
    scheme = request.scheme
    if all(population.label is not None for population in cells.populations):
        return _with_typed_cells(scores, cells, request, rng)
    instance = np.zeros((request.height, request.width), np.int32)
    background = np.zeros(instance.shape, np.uint8)
    placed_count = 0
    for population in cells.populations:
        placed = place_population(instance, background, cells, population, rng, first=placed_count + 1)
        if request.cells is not None and placed < len(population.outlines):
            raise Unmet(f"{placed_count + placed} of {request.cells} cells fit")
        placed_count += placed
    ids = scheme.ids("nucleus")
    positive = [i for i in ids if i in scheme.ids("tumour_positive")]
    others = [i for i in ids if i not in positive]
    table = np.full(placed_count + 1, (others or positive)[0], np.uint8)
    table[0] = next(i for i in range(len(scheme)) if i not in ids)
    if positive and others and tps is not None and placed_count:
        chosen = top(_rank(instance, cells, placed_count), target_count(tps, placed_count), rng)
        table[1:][chosen] = positive[0]
    return Allocation(Tile(table[instance], instance, request.mpp, scheme), 0.0 if scores.calibrated else None)


def _with_typed_cells(scores: Scores, cells: Cells, request: Request, rng: np.random.Generator) -> Allocation:
    """Place cells of several types on a background; of n cells each requested type has floor(share x n + 0.5)."""
    instance = np.zeros((request.height, request.width), np.int32)
    background = np.zeros(instance.shape, np.uint8)
    placed, wanted = list[int](), sum(len(each.outlines) for each in cells.populations)
    for population in cells.populations:
        placed.append(place_population(instance, background, cells, population, rng, first=sum(placed) + 1))
    labels = [population.label or 0 for population in cells.populations]
    counts = np.array(placed, np.int64)
    if sum(placed) < wanted:  # some did not fit: others are removed until the shares are right
        if request.cells is not None or sum(placed) < (1.0 - cells.loss) * wanted - 1.0:
            raise Unmet(f"{sum(placed)} of {wanted} cells fit")
        shares_of_types = request.cell_fractions or (None,) * len(request.scheme)
        asked = [shares_of_types[label] for label in labels]
        kept = (whole_counts(asked, placed, n) for n in range(sum(placed), -1, -1))
        counts = next(each for each in kept if (each <= placed).all())
        ends = np.cumsum(placed)
        surplus = [np.arange(end - had + has, end) + 1 for end, had, has in zip(ends, placed, counts, strict=True)]
        remove_instances(instance, np.concatenate(surplus))
    background_class = next(i for i in range(len(request.scheme)) if i not in labels)
    table = np.concatenate([[background_class], np.repeat(labels, counts)]).astype(np.uint8)
    return Allocation(Tile(table[instance], instance, request.mpp, request.scheme), None)


def _rank(instance: npt.NDArray[np.int32], cells: Cells, placed_count: int) -> npt.NDArray[np.float32]:
    """Return the mean rank under every instance: float32 [placed_count]; 0 where the draw has no ranks."""
    if cells.rank is None:
        return np.zeros(placed_count, np.float32)
    inside = np.flatnonzero(instance)
    ids = instance.ravel()[inside] - 1
    sums = np.bincount(ids, weights=cells.rank.ravel()[inside], minlength=placed_count)
    ranks: npt.NDArray[np.float32] = (sums / np.bincount(ids, minlength=placed_count)).astype(np.float32)
    return ranks
