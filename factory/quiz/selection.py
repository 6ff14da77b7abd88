"""Selection of the tiles of a quiz, of a piece of each, and of their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from factory.inspect.blocks import CUT_TRIES, has_tissue, piece_of
from factory.inspect.selection import achieved_tps
from factory.quiz.key import Origin
from factory.quiz.sources import KINDS, Inputs, Source
from manifests.dataset import Sample
from manifests.errors import UserError
from manifests.labels import IGNORE
from manifests.measure import measure

Image = npt.NDArray[np.uint8]

_STREAMS = {"real": 0, "synthetic": 1, "order": 2, "salts": 3, "reader": 4, "rates": 5, "control": 6}


@dataclass(frozen=True, kw_only=True)
class Crop(Origin):
    """A piece of a tile, as it is shown: image uint8 [h, w, 3], and the licence of its row."""

    image: Image
    licence: str | None


@dataclass(frozen=True)
class Choice:
    """The tiles in the order they are shown, and notes on how they were chosen."""

    crops: tuple[Crop, ...]
    notes: tuple[str, ...]


def generator(seed: int, stream: str, *more: int) -> np.random.Generator:
    """Returns the random generator of one of `_STREAMS` under a seed; `more` numbers its parts."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAMS[stream], *more)))


def choose(inputs: Inputs, n: int, seed: int, on_tile: Callable[[], None] = lambda: None) -> Choice:
    """Draws n / 2 tiles of either kind and shuffles them.

    Data sets take turns, and within a data set its patients or slides. In a tile larger than the quiz's size, up to 12
    places are drawn until the piece has tissue (see `has_tissue`) and, for real tiles of one image, overlaps no piece
    that is already shown. Overlaps are found by `source_x` and `source_y`, which count pixels of the original, so that
    some are missed in resampled images. Tiles without such a place come last. Mirrored margins of real tiles are never
    shown: a quiz with too few real tiles of enough pixels is refused.
    """
    crops: list[Crop] = []
    notes: list[str] = []
    for kind in KINDS:
        taken, second = _take(inputs.of(kind), n // 2, inputs.shape, generator(seed, kind), on_tile)
        crops += taken
        if second:
            notes.append(f"{second} {kind} tiles with little tissue, or with tissue that another tile shows too")
        if len(taken) < n // 2:
            height, width = inputs.shape
            raise UserError(
                f"{inputs.of(kind)[0].where}: expected {n // 2} tiles with {height}x{width} pixels of their own, got "
                f"{len(taken)}: the others are filled up with mirrored pixels. Use a smaller --n or --size."
            )
    order = generator(seed, "order").permutation(n)
    return Choice(tuple(crops[place] for place in order), tuple(notes))


def _take(
    sources: Sequence[Source],
    count: int,
    shape: tuple[int, int],
    rng: np.random.Generator,
    on_tile: Callable[[], None],
) -> tuple[list[Crop], int]:
    """Returns at most `count` crops, and how many of them have little tissue or overlap another."""
    taken: list[Crop] = []
    second: list[Crop] = []
    corners: dict[tuple[str, str], list[tuple[int, int]]] = {}  # of the crops shown, in pixels of their image
    turns = zip_longest(*[_rows(source, rng) for source in sources])
    for source, position in (item for turn in turns for item in turn if item is not None):
        sample = source.dataset[position]
        area = own_area(sample.image, sample.tile.semantic)
        if area[0] < shape[0] or area[1] < shape[1]:
            continue
        row = sample.row
        image, top, left = row["source_uri"], row["source_y"], row["source_x"]
        of_image = corners.setdefault((source.name, image), []) if None not in (image, top, left) else None
        shown = [(y - top, x - left) for y, x in of_image or ()]
        place, is_good = _place(sample, area, shape, shown, rng)
        if is_good:
            taken.append(_crop(source, sample, place, shape))
            on_tile()
            if of_image is not None:
                of_image.append((top + place[0], left + place[1]))
        elif len(second) < count:
            second.append(_crop(source, sample, place, shape))
        if len(taken) == count:
            return taken, 0
    more = second[: count - len(taken)]
    for _ in more:
        on_tile()
    return taken + more, len(more)


def _rows(source: Source, rng: np.random.Generator) -> Iterator[tuple[Source, int]]:
    """Yields the rows of a data set in random order, its patients or slides in turn."""
    groups: dict[str, list[int]] = {}
    names = source.dataset.table["group_id"].to_pylist()
    for position in rng.permutation(len(names)).tolist():
        groups.setdefault(names[position] or f"row {position}", []).append(position)
    for positions in zip_longest(*groups.values()):
        yield from ((source, position) for position in positions if position is not None)


def own_area(image: Image, semantic: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Returns height and width of a tile without the mirrored margin that `factory ingest` pads small images with.

    Such a margin lies on the lower and the right side, has no labels, and mirrors the pixels before it exactly. A
    reader could take it for a mistake of a generator.
    """
    height = _own_length(image, (semantic == IGNORE).all(axis=1))
    across = image[:height].swapaxes(0, 1)
    width = _own_length(across, (semantic[:height] == IGNORE).all(axis=0))
    return height, width


def _own_length(image: Image, unlabelled: npt.NDArray[np.bool_]) -> int:
    """Returns the number of rows before a mirrored margin, which begins within the last rows without labels."""
    length = len(image)
    labelled = np.flatnonzero(~unlabelled)
    first = int(labelled[-1]) + 1 if labelled.size else 1
    for start in range(max(first, 1), length):
        if not np.array_equal(image[start], image[start - 1]):
            continue
        mirrored = np.pad(image[:start], ((0, length - start), (0, 0), (0, 0)), mode="symmetric")
        if np.array_equal(mirrored[start:], image[start:]):
            return start
    return length


def _place(
    sample: Sample,
    area: tuple[int, int],
    shape: tuple[int, int],
    shown: Sequence[tuple[int, int]],
    rng: np.random.Generator,
) -> tuple[tuple[int, int], bool]:
    """Draws the top left corner of a crop in a tile, and returns whether it has tissue and no overlap."""
    place = (0, 0)
    room = area[0] - shape[0], area[1] - shape[1]
    for _ in range(CUT_TRIES if any(room) else 1):
        place = int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
        piece = sample.image[place[0] : place[0] + shape[0], place[1] : place[1] + shape[1]]
        is_shown = any(abs(y - place[0]) < shape[0] and abs(x - place[1]) < shape[1] for y, x in shown)
        if has_tissue(piece) and not is_shown:
            return place, True
    return place, False


def _crop(source: Source, sample: Sample, place: tuple[int, int], shape: tuple[int, int]) -> Crop:
    row, (image, tile) = sample.row, piece_of(sample, place, shape)
    parts = [row[name] for name in ("mask_generator", "renderer") if row[name] is not None]
    return Crop(
        image=image.copy(),
        truth=source.truth,
        dataset=source.name,
        made_by=" + ".join(parts) or source.dataset.info.generator,
        sample_id=row["sample_id"],
        group_id=row["group_id"],
        top=place[0],
        left=place[1],
        tps=achieved_tps(asdict(measure(tile)), tile.scheme),
        licence=row["licence"],
    )
