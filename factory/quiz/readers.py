"""Automatic readers: classifiers that learn "real or synthetic?" from some tiles and answer for others.

Two kinds, which see different things: a logistic regression on the layers of a fixed network, and a small convolutional
network that learns its own features from random crops. `cross_answers` lets either answer for every tile, each time
taught by the tiles of other groups (patients or slides).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from factory.core.statistics import Floats, Places

Bools = npt.NDArray[np.bool_]
Pictures = npt.NDArray[np.uint8]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the L2 penalty that a logistic regression chooses from."""

_INNER_FOLDS = 3
_CROP_PX = 96


@dataclass(frozen=True)
class Lesson:
    """Tiles to learn from: their places among all tiles, intp [n], and for each the truth, bool [n], and its group."""

    places: Places
    is_synthetic: Bools
    groups: Places


class Reader(Protocol):
    """A classifier of tiles that are known by their places among all."""

    def answer(self, lesson: Lesson, asked: Places, rng: np.random.Generator) -> Floats:
        """Learns from a lesson and returns a score for each tile asked, float64 [m]: above 0 means synthetic."""


def fold_numbers(is_synthetic: Bools, groups: Places, folds: int, rng: np.random.Generator) -> Places:
    """Deals whole groups to folds, so that each has about as many tiles of either kind; intp [n].

    Args:
        is_synthetic: bool [n]. groups: intp [n], numbers of groups, each of one kind. folds: their number.
        rng: of the order of equally large groups.
    """
    found = np.empty(len(groups), np.intp)
    for kind in (False, True):
        names, counts = np.unique(groups[is_synthetic == kind], return_counts=True)
        order = rng.permutation(len(names))
        filled = np.zeros(folds, np.intp)
        for place in order[np.argsort(-counts[order], kind="stable")]:
            fold = int(filled.argmin())
            filled[fold] += counts[place]
            found[groups == names[place]] = fold
    return found


def cross_answers(
    reader: Reader,
    is_synthetic: Bools,
    groups: Places,
    folds: int,
    rng: np.random.Generator,
    on_fold: Callable[[], None] = lambda: None,
) -> Floats:
    """Returns a score for every tile by a reader that saw no tile of its fold, and so none of its group; float64 [n].

    Args:
        reader: of all n tiles. is_synthetic: bool [n]. groups: intp [n]. folds: their number.
        rng: of the folds and of the reader. on_fold: called after each.
    """
    scores = np.empty(len(groups))
    numbers = fold_numbers(is_synthetic, groups, folds, rng)
    for fold in range(folds):
        taught, asked = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
        scores[asked] = reader.answer(Lesson(taught, is_synthetic[taught], groups[taught]), asked, rng)
        on_fold()
    return scores


@dataclass(frozen=True)
class Regression:
    """A logistic regression with an L2 penalty on standardised features: float64 [N, d] of all tiles.

    The strength of the penalty has the lowest log loss in a cross-validation over groups of the lesson.
    """

    features: Floats

    def answer(self, lesson: Lesson, asked: Places, rng: np.random.Generator) -> Floats:
        """See `Reader`."""
        folds = min(_INNER_FOLDS, fewest_groups(lesson.is_synthetic, lesson.groups))
        losses = np.zeros(len(STRENGTHS))
        if folds > 1:
            numbers = fold_numbers(lesson.is_synthetic, lesson.groups, folds, rng)
            for fold in range(folds):
                losses += self._losses(lesson, numbers == fold)
        chosen = STRENGTHS[int(losses.argmin())]
        return self._fitted(chosen, lesson.places, lesson.is_synthetic).decision_function(self.features[asked])

    def _losses(self, lesson: Lesson, is_asked: Bools) -> Floats:
        """Sums the log loss over the tiles asked, for each of `STRENGTHS`."""
        taught, signs = lesson.places[~is_asked], np.where(lesson.is_synthetic[is_asked], 1.0, -1.0)
        asked = self.features[lesson.places[is_asked]]
        found = []
        for strength in STRENGTHS:
            scores = self._fitted(strength, taught, lesson.is_synthetic[~is_asked]).decision_function(asked)
            found.append(np.logaddexp(0, -signs * scores).sum())
        return np.array(found)

    def _fitted(self, strength: float, taught: Places, is_synthetic: Bools) -> Pipeline:
        fit = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
        return make_pipeline(StandardScaler(), fit).fit(self.features[taught], is_synthetic)


@dataclass(frozen=True)
class SmallNetwork:
    """Five convolutions and a mean over the tile, trained from scratch on random crops in all eight symmetries.

    Attributes:
        pictures: uint8 [N, h, w, 3], all tiles. steps: of training. batch: crops in a step. device: cpu, cuda...
    """

    pictures: Pictures
    steps: int
    batch: int
    device: str

    def answer(self, lesson: Lesson, asked: Places, rng: np.random.Generator) -> Floats:
        """See `Reader`."""
        network = self._trained(lesson, rng).eval()
        with torch.inference_mode():
            scores = [network(self._tensor(self.pictures[place][None])).item() for place in asked]
        return np.array(scores, np.float64)

    def _trained(self, lesson: Lesson, rng: np.random.Generator) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            network = _network().to(self.device)
        optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        kinds = [np.flatnonzero(lesson.is_synthetic == kind) for kind in (False, True)]
        for _ in range(self.steps):
            # As many of either kind in every step, whatever the fold has.
            chosen = np.concatenate([rng.choice(kind, self.batch // 2) for kind in kinds])
            crops = np.stack([_crop(self.pictures[lesson.places[place]], rng) for place in chosen])
            truth = torch.from_numpy(lesson.is_synthetic[chosen]).float().to(self.device)
            loss = F.binary_cross_entropy_with_logits(network(self._tensor(crops)), truth)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        return network

    def _tensor(self, pictures: Pictures) -> torch.Tensor:
        return (torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def fewest_groups(is_synthetic: Bools, groups: Places) -> int:
    """Returns the number of groups of the kind that has fewer."""
    return min(len(np.unique(groups[is_synthetic == kind])) for kind in (False, True))


def _crop(picture: Pictures, rng: np.random.Generator) -> Pictures:
    """Cuts a random square, and turns and mirrors it at random."""
    side = min(_CROP_PX, *picture.shape[:2])
    top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
    crop = np.rot90(picture[top : top + side, left : left + side], int(rng.integers(4)))
    return crop[:, ::-1] if rng.integers(2) else crop


def _network() -> nn.Module:
    """Builds the network: float32 [N, 3, h, w] -> [N]. Every layer halves the resolution; none skips a pixel."""
    widths = (3, 16, 24, 32, 48, 64)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1), nn.Flatten(0))
