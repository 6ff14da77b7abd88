"""One scored image, and all of them, in threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from segment.metrics import IGNORE, Floats


class Sums(Protocol):
    """What images add up to, and the figures that this gives."""

    @property
    def labels(self) -> Collection[int]:
        """Classes that are there."""
        ...

    def row(self, labels: Sequence[int]) -> Floats:
        """As numbers, for all classes of the set: float64 [K]."""
        ...

    @classmethod
    def from_row(cls, row: Floats, labels: Sequence[int]) -> Self:
        """The inverse of `row`; sums of rows give the sums of images."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Figures by name, NaN where there is nothing to score."""
        ...


@dataclass(frozen=True)
class ImageScore:
    """One image.

    Attributes:
        name: that both sides share. group: patient, slide or region. sums: what it adds to the pooled figures.
        alone: figures that have a value for one image and do not pool. counts: of objects or pixels.
    """

    name: str
    group: str
    sums: Sums
    alone: dict[str, float]
    counts: dict[str, int]


def score_all(
    names: Sequence[str], score: Callable[[str], ImageScore], *, workers: int, on_image: Callable[[], None]
) -> list[ImageScore]:
    """Score every image, in the order of the names.

    Decoders, the overlap kernel and the distance transform release the interpreter's lock, so threads serve. Each
    holds the maps of one image at a time.

    Args:
        names: of the images. score: of one name. workers: threads. on_image: called after each image.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        scores = []
        for result in pool.map(score, names):
            scores.append(result)
            on_image()
        return scores
    finally:
        pool.shutdown(cancel_futures=True)


def refuse_ignored_prediction(name: str, truth: npt.NDArray[np.uint8], pred: npt.NDArray[np.uint8]) -> None:
    """Refuse a predicted class map that says 255 (ignore) where the truth is known.

    Raises:
        UserError: naming the image.
    """
    unsaid = int(np.count_nonzero((pred == IGNORE) & (truth != IGNORE)))
    if unsaid:
        raise UserError(
            f"{name}: expected a predicted class at every labelled pixel, got {IGNORE} (ignore) at {unsaid:,}. "
            f"Write class 1 of a binary mask as 1 on both sides; only a truth may hold {IGNORE}."
        )
