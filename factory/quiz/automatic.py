"""An automatic reader takes the quiz: how often classifiers tell synthetic tiles from real ones of held-out patients.

A classifier two-sample test (Lopez-Paz and Oquab 2017): half of the tiles are of either kind, so 50 % means that the
reader sees no difference. Every tile is answered by readers that learnt from other patients and other synthetic tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config
from factory.core.console import progress
from factory.core.devices import resolve_device
from factory.core.statistics import (
    Interval,
    Places,
    group_numbers,
    group_sums,
    percentile_interval,
    resampled_sums,
    wilson_interval,
)
from factory.quiz.quiz import made_of
from factory.quiz.readers import Bools, Pictures, Reader, Regression, SmallNetwork, cross_answers, fewest_groups
from factory.quiz.selection import Crop, choose, generator
from factory.quiz.sources import KINDS, Inputs
from factory.score.features import Extractor, extract
from factory.score.layers import check_layers, open_layers
from manifests.errors import UserError

Image = npt.NDArray[np.uint8]

REGRESSION, NETWORK = "layers + regression", "small network"
AS_THEY_ARE = "as they are"
LEAST_TILES, MOST_TILES = 16, 1000
"""Tiles of either kind that readers need, and of both kinds together that they are shown unless asked for more."""
_JPEG_QUALITY, _BLUR_PX = 80, 1.0
_GREY_MEAN, _GREY_STD = 128.0, 45.0


class AutomaticConfig(Config):
    """Settings of the automatic readers.

    Attributes:
        features, feature_weights: of the regression, see `factory.score.layers.open_layers`.
        device: cpu, cuda... batch: pictures per forward pass.
        folds: parts of the tiles, each answered by readers that learnt from the others.
        steps, crops: of the small network: steps of training, and crops in a step.
        halves, network_halves: random halves of the real patients that are told apart as a control, for either reader.
        resamples: of the intervals. seed: of every draw.
    """

    features: str = "random-vgg16"
    feature_weights: str | None = None
    device: str = "cpu"
    batch: int = Field(default=8, ge=1)
    folds: int = Field(default=7, ge=2)
    steps: int = Field(default=200, ge=1)
    crops: int = Field(default=8, ge=2, multiple_of=2)
    halves: int = Field(default=5, ge=1)
    network_halves: int = Field(default=2, ge=1)
    resamples: int = Field(default=2000, ge=100)
    seed: int = Field(default=0, ge=0)

    @property
    def weights_path(self) -> Path | None:
        """Path of `feature_weights`."""
        return Path(self.feature_weights) if self.feature_weights else None


def check_config(config: AutomaticConfig) -> AutomaticConfig:
    """Returns the settings, with a device that this machine has.

    Raises:
        UserError: for an extractor or a device that cannot be used.
    """
    check_layers(config.features, config.weights_path)
    return config.model_copy(update={"device": resolve_device(config.device)})


def check_count(count: int) -> int:
    """Returns a number of tiles that is enough for readers to learn from.

    Raises:
        UserError: when it is not.
    """
    if count < 2 * LEAST_TILES:
        raise UserError(f"--n: expected at least {2 * LEAST_TILES} tiles for --automatic, got {count}. Give more.")
    return count


@dataclass(frozen=True)
class Tiles:
    """Tiles of both kinds: pictures uint8 [N, h, w, 3], truth bool [N], and the number of each group, intp [N]."""

    pictures: Pictures
    is_synthetic: Bools
    groups: Places

    @classmethod
    def of(cls, crops: Sequence[Crop]) -> Tiles:
        """Takes the tiles of a quiz; groups are patients or slides, or single tiles where none is known."""
        return cls(
            np.stack([crop.image for crop in crops]),
            np.array([crop.truth == "synthetic" for crop in crops]),
            group_numbers([(crop.truth, crop.dataset, crop.group_id or crop.sample_id) for crop in crops]),
        )


@dataclass(frozen=True)
class Rate:
    """A share of tiles with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Answered:
    """How one reader did on one view of the tiles.

    Attributes:
        reader: `REGRESSION` or `NETWORK`. view: name in `VIEWS`.
        accuracy: mean of the two below. sensitivity: synthetic tiles called synthetic. specificity: real called real.
        control: accuracies on random halves of the real patients; nothing where there are too few patients.
    """

    reader: str
    view: str
    accuracy: Rate
    sensitivity: Rate
    specificity: Rate
    control: tuple[float, ...] = ()


def _as_jpeg(image: Image) -> Image:
    # cv2 takes the channels in reverse; both ways alike, so that luminance is that of JPEG.
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def _blurred(image: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR_PX), np.uint8)


def _grey(image: Image) -> Image:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    even = (grey - grey.mean()) / max(float(grey.std()), 1.0) * _GREY_STD + _GREY_MEAN
    return np.repeat(np.clip(even.round(), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


VIEWS: dict[str, Callable[[Image], Image]] = {
    AS_THEY_ARE: lambda image: image,
    f"JPEG {_JPEG_QUALITY}": _as_jpeg,
    f"blur {_BLUR_PX:g} px": _blurred,
    "grey, even": _grey,
}
"""What readers see of real and synthetic tiles alike. Without the cues of a file's past: after JPEG, and after a blur.
Without the cue of stain and exposure: grey, with the same mean and spread in every tile."""


@dataclass(frozen=True)
class AutomaticScores:
    """Answers of the automatic readers.

    Attributes:
        answers: by reader and view. config: settings. origin: of the features. made_of: data sets, seed, size...
        tiles: of either kind together. patients: of the real tiles. notes: on the choice of tiles.
    """

    answers: tuple[Answered, ...]
    config: AutomaticConfig
    origin: str
    made_of: Mapping[str, Any]
    tiles: int
    patients: int
    notes: tuple[str, ...]


def answer_quiz(inputs: Inputs, config: AutomaticConfig, n: int, split: str = "test") -> AutomaticScores:
    """Chooses tiles as for a quiz, and lets the automatic readers answer.

    Args:
        inputs: from `open_inputs`. config: from `check_config`. n: tiles, half of them real.
        split: of the real tiles, for the record.

    Raises:
        UserError: for too few tiles or patients. FaultError: when weights cannot be downloaded.
    """
    extractor = open_layers(config.features, config.weights_path)
    with progress("tiles", n) as bar:
        choice = choose(inputs, n, config.seed, bar.advance)
    tiles = Tiles.of(choice.crops)
    answers, control = read_tiles(tiles, config, extractor), read_control(tiles, config, extractor)
    return AutomaticScores(
        answers=tuple(replace(one, control=control.get((one.reader, one.view), ())) for one in answers),
        config=config,
        origin=extractor.origin,
        made_of=made_of(inputs, split, config.seed),
        tiles=n,
        patients=len(np.unique(tiles.groups[~tiles.is_synthetic])),
        notes=choice.notes,
    )


def most_tiles(inputs: Inputs) -> int:
    """Returns the largest number of tiles of which half are real, at most `MOST_TILES`."""
    there = [sum(len(source.dataset) for source in inputs.of(kind)) for kind in KINDS]
    return min(2 * min(there), MOST_TILES)


def read_tiles(tiles: Tiles, config: AutomaticConfig, extractor: Extractor) -> tuple[Answered, ...]:
    """Lets readers answer for every tile: the regression in each of `VIEWS`, the network in the first.

    Args:
        tiles: of a quiz. config: settings. extractor: from `open_layers`.

    Raises:
        UserError: for too few tiles, patients or slides.
    """
    folds = _folds(tiles, config)
    found = []
    with progress("answers", folds * (len(VIEWS) + 1), unit="folds") as bar:
        for view in VIEWS:
            for name, reader in _readers(tiles, view, config, extractor).items():
                rng = generator(config.seed, "reader")
                scores = cross_answers(reader, tiles.is_synthetic, tiles.groups, folds, rng, bar.advance)
                right = (scores > 0) == tiles.is_synthetic
                found.append(Answered(name, view, *rates(right, tiles, generator(config.seed, "rates"), config)))
    return tuple(found)


def read_control(
    tiles: Tiles, config: AutomaticConfig, extractor: Extractor
) -> dict[tuple[str, str], tuple[float, ...]]:
    """Lets the readers tell random halves of the real patients apart: about 50 %, or the readers are at fault.

    Returns:
        Accuracies by reader and view; nothing with fewer than four patients or slides.
    """
    is_real = ~tiles.is_synthetic
    real = Tiles(tiles.pictures[is_real], tiles.is_synthetic[is_real], tiles.groups[is_real])
    names = np.unique(real.groups)
    if len(names) < 4:
        return {}
    found = {}
    folds = min(config.folds, len(names) // 2)
    draws = {REGRESSION: config.halves, NETWORK: config.network_halves}
    total = folds * (config.halves * len(VIEWS) + config.network_halves)
    with progress("control", total, unit="folds") as bar:
        for view in VIEWS:
            for name, reader in _readers(real, view, config, extractor).items():
                accuracies = []
                for draw in range(draws[name]):
                    rng = generator(config.seed, "control", draw)
                    is_other = np.isin(real.groups, rng.permutation(names)[: len(names) // 2])
                    scores = cross_answers(reader, is_other, real.groups, folds, rng, bar.advance)
                    right = (scores > 0) == is_other
                    accuracies.append(float((right[is_other].mean() + right[~is_other].mean()) / 2))
                found[name, view] = tuple(accuracies)
    return found


def rates(right: Bools, tiles: Tiles, rng: np.random.Generator, config: AutomaticConfig) -> tuple[Rate, Rate, Rate]:
    """Returns accuracy, sensitivity and specificity.

    Intervals resample patients of the real tiles and, independently, the synthetic tiles. Where few answers are wrong
    such an interval has hardly any width; it is never narrower than Wilson's for so many tiles.
    """
    shares, draws = [], []
    for kind in (True, False):
        chosen = tiles.is_synthetic == kind
        parts = np.stack([right[chosen], np.ones(chosen.sum())], 1).astype(np.float64)
        sums = group_sums(parts, tiles.groups[chosen].tolist())
        drawn = np.concatenate(list(resampled_sums(sums, rng, config.resamples)))
        shares.append(right[chosen])
        draws.append(drawn[:, 0] / drawn[:, 1])
    sensitivity, specificity = (_rate(share, drawn) for share, drawn in zip(shares, draws, strict=True))
    return _rate(right, (draws[0] + draws[1]) / 2), sensitivity, specificity


def _rate(right: Bools, draws: npt.NDArray[np.float64]) -> Rate:
    drawn, wilson = percentile_interval(draws), wilson_interval(int(right.sum()), len(right))
    return Rate(float(right.mean()), Interval(min(drawn.low, wilson[0]), max(drawn.high, wilson[1])))


def _folds(tiles: Tiles, config: AutomaticConfig) -> int:
    groups = fewest_groups(tiles.is_synthetic, tiles.groups)
    if groups < 2:
        raise UserError(
            "--real: expected tiles of two patients or slides or more for --automatic, got one. A reader must learn "
            "from others than it is asked about."
        )
    return min(config.folds, groups)


def _readers(tiles: Tiles, view: str, config: AutomaticConfig, extractor: Extractor) -> dict[str, Reader]:
    """Returns the readers of a view: the network, which costs most of the time, reads the tiles as they are alone."""
    pictures = np.stack([VIEWS[view](np.ascontiguousarray(picture)) for picture in tiles.pictures])
    features = extract(extractor, pictures, device=config.device, batch=config.batch)
    readers: dict[str, Reader] = {REGRESSION: Regression(features)}
    if view == AS_THEY_ARE:
        readers[NETWORK] = SmallNetwork(pictures, config.steps, config.crops, config.device)
    return readers
