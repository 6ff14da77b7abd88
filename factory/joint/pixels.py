"""Pixels of annotated images, drawn at random: all classes equally often, or as often as they occur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from factory.core.compiled import compiled
from factory.joint.features import Features
from manifests.errors import UserError
from manifests.labels import IGNORE

_BLOCK = 1024
"""Pixels that are counted together: a list of all pixels of each class would take eight bytes for every one."""

Drawn = list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""For each image with drawn pixels its number, rows and columns int64 [P, 2], and classes int64 [P]."""


@dataclass(frozen=True)
class Annotated:
    """An annotated image: its features, and classes uint8 [H, W] with 255 where unlabelled."""

    features: Features
    labels: npt.NDArray[np.uint8]


class PixelSampler:
    """Draws labelled pixels, with replacement; which, is a function of the generator it is given.

    Args:
        images: name and classes uint8 [H, W] of each, 255 in unlabelled pixels. classes: their number.
        balanced: draw every class that occurs equally often.
    """

    def __init__(self, images: Sequence[tuple[str, npt.NDArray[np.uint8]]], classes: int, *, balanced: bool) -> None:
        self._labels = [np.ascontiguousarray(labels).reshape(-1) for _, labels in images]
        self._widths = [labels.shape[1] for _, labels in images]
        counts = []
        for (name, _), flat in zip(images, self._labels, strict=True):
            other = flat[(flat >= classes) & (flat != IGNORE)]
            if other.size:
                raise UserError(
                    f"annotation of {name}: expected classes 0 to {classes - 1}, or {IGNORE} where unlabelled, "
                    f"got {int(other[0])}. Use the scheme that it was made with."
                )
            starts = np.arange(0, flat.size, _BLOCK)
            counts.append([np.add.reduceat(flat == label, starts, dtype=np.int64) for label in range(classes)])
        self._first_blocks = np.cumsum([0, *(len(blocks[0]) for blocks in counts)])
        joined = np.concatenate(counts, 1) if counts else np.zeros((classes, 0), np.int64)
        self._before = np.concatenate([np.zeros((classes, 1), np.int64), joined.cumsum(1)], 1)  # [class, block]
        totals = self._before[:, -1]
        if not totals.any():
            raise UserError("annotations: expected labelled pixels, got none.")
        self._chances = (totals > 0) / np.count_nonzero(totals) if balanced else totals / totals.sum()

    @property
    def labelled(self) -> int:
        """Pixels that have a class."""
        return int(self._before[:, -1].sum())

    def draw(self, rng: np.random.Generator, count: int) -> Drawn:
        """Draw `count` pixels; returned image by image and class by class."""
        drawn: list[list[tuple[npt.NDArray[np.int64], int]]] = [[] for _ in self._labels]
        for label, number in enumerate(rng.multinomial(count, self._chances)):
            before = self._before[label]
            ranks = np.sort(rng.integers(0, max(before[-1], 1), number))
            blocks = np.searchsorted(before, ranks, "right") - 1
            cuts = np.searchsorted(blocks, self._first_blocks)
            for image, flat in enumerate(self._labels):
                part = slice(cuts[image], cuts[image + 1])
                starts = (blocks[part] - self._first_blocks[image]) * _BLOCK
                places = _find(flat, label, starts, ranks[part] - before[blocks[part]])
                drawn[image].append((places, label))
        found: Drawn = []
        for image, parts in enumerate(drawn):
            places = np.concatenate([places for places, _ in parts])
            classes = np.concatenate([np.full(places.size, label, np.int64) for places, label in parts])
            if places.size:
                found.append((image, np.stack(np.divmod(places, self._widths[image]), 1), classes))
        return found


@compiled()
def _find(
    labels: npt.NDArray[np.uint8], label: int, starts: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Positions in flat labels of the pixels with a label, by their rank among such pixels after a start position."""
    places = np.empty(starts.size, np.int64)
    for number in range(starts.size):
        place, left = starts[number], ranks[number]
        while True:
            if labels[place] == label:
                if left == 0:
                    break
                left -= 1
            place += 1
        places[number] = place
    return places


Pixels = tuple[torch.Tensor, torch.Tensor]
"""Features float32 [P, C] and classes int64 [P]."""


def pixel_sampler(images: Sequence[Annotated], classes: int, *, balanced: bool) -> PixelSampler:
    """Check annotated images and return a sampler of their labelled pixels.

    Args:
        images: of one generator. classes: of the labels. balanced: draw all classes equally often.
    """
    for image in images:
        record = image.features.record
        if image.labels.shape != record.size:
            raise UserError(
                f"annotation of {record.name}: expected {record.size[0]}x{record.size[1]} pixels like its image, "
                f"got {'x'.join(map(str, image.labels.shape))}."
            )
        if record.channels != images[0].features.record.channels:
            raise UserError(
                f"features of {record.name}: expected taps of {images[0].features.record.channels} channels as for "
                f"the first image, got {record.channels}. Write all with the same blocks."
            )
    return PixelSampler([(image.features.record.name, image.labels) for image in images], classes, balanced=balanced)


def pixel_batch(images: Sequence[Annotated], sampler: PixelSampler, rng: np.random.Generator, count: int) -> Pixels:
    """Features and classes of pixels drawn at random."""
    drawn = sampler.draw(rng, count)
    features = [images[number].features.gather(pixels) for number, pixels, _ in drawn]
    classes = np.concatenate([classes for _, _, classes in drawn])
    return torch.from_numpy(np.concatenate(features)), torch.from_numpy(classes)
