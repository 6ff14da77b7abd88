"""Scores a labeller on held-out annotated images: accuracy and Dice by class, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from factory.core.seeds import Stream, generator
from factory.joint.pixels import Annotated, pixel_batch, pixel_sampler
from factory.joint.streaming import StreamingLabeller
from factory.nets.pixel_classifier import Ensemble
from manifests.labels import IGNORE, LabelScheme

_CHUNK = 16_384
"""Pixels whose features are in memory at once: 370 MB for all blocks of a generator of 4096 x 4096."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels with a confidence above `low` and up to `high`: number, mean confidence, and share that is right."""

    low: float
    high: float
    pixels: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Agreement of confidence and accuracy (Guo et al. 2017).

    Attributes:
        pixels: their number. accuracy: share of them that is right.
        error: expected calibration error: mean difference of confidence and accuracy of the bins, weighted by pixels.
        bins: the reliability table; values are None in a bin without pixels.
    """

    pixels: int
    accuracy: float
    error: float
    bins: tuple[ReliabilityBin, ...]


def calibration_of(
    probabilities: npt.NDArray[np.floating[Any]], truth: npt.NDArray[np.integer[Any]], bins: int = 15
) -> Calibration:
    """Measure the calibration of probabilities [P, K], P > 0, against classes [P], in bins of equal width (Guo: 15)."""
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == truth
    edges = np.linspace(0.0, 1.0, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, weights, bins) for weights in (confidence, right.astype(np.float64))]
    error = float(np.abs(sums[0] - sums[1]).sum() / truth.size)
    table = tuple(
        ReliabilityBin(float(low), float(high), int(n), float(c / n) if n else None, float(a / n) if n else None)
        for (low, high), n, c, a in zip(pairwise(edges), counts, *sums, strict=True)
    )
    return Calibration(int(truth.size), float(right.mean()), error, table)


def calibrate(
    ensemble: Ensemble, images: Sequence[Annotated], *, seed: int, pixels: int = 65_536, bins: int = 15
) -> Calibration:
    """Measure the calibration of an ensemble's mean probabilities on random pixels of held-out images.

    Args:
        ensemble: in eval mode. images: that it was not trained on. seed: of the draw. pixels: how many are drawn.
        bins: number of bins of equal width.
    """
    sampler = pixel_sampler(images, ensemble.classes, balanced=False)
    rng, predicted, truths = generator(seed, Stream.SAMPLE), [], []
    for start in range(0, pixels, _CHUNK):
        x, truth = pixel_batch(images, sampler, rng, min(_CHUNK, pixels - start))
        with torch.inference_mode():
            predicted.append(ensemble(x.to(ensemble.mean.device)).softmax(1).mean(0).T.cpu())
        truths.append(truth)
    return calibration_of(torch.cat(predicted).numpy(), torch.cat(truths).numpy(), bins)


@dataclass(frozen=True)
class ClassFigures:
    """Scores of one class over the pixels of all images; None where undefined.

    Attributes:
        name: of the class. pixels: annotated as this class. accuracy: share of these that is labelled so, the
            "class-wise pixel-level accuracy" of Histopathology-DatasetGAN. dice: 2 TP / (2 TP + FP + FN).
    """

    name: str
    pixels: int
    accuracy: float | None
    dice: float | None


@dataclass(frozen=True)
class HeldOut:
    """Scores over all held-out images together.

    Attributes:
        images, pixels: their numbers; ignored pixels (255) are not counted.
        accuracy: share of the pixels that is labelled as annotated.
        mean_dice: over the classes that occur in annotation or labels. The "dice coefficient" in the code of
            Histopathology-DatasetGAN counts the pixels of all classes together, which is the `accuracy` of each image.
        classes: in the order of the scheme.
        uncertainty: mean Jensen-Shannon divergence in nats; None for a single classifier.
        calibration: of the mean probabilities.
    """

    images: int
    pixels: int
    accuracy: float
    mean_dice: float
    classes: tuple[ClassFigures, ...]
    uncertainty: float | None
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """Lines to print, one per class after the first."""
        error = self.calibration.error
        found = [
            f"held out: {self.images} images, mean Dice {self.mean_dice:.3f}, {self.accuracy:.1%} of the pixels right, "
            f"calibration error {error:.3f}"
        ]
        for each in self.classes:
            accuracy, dice = (
                "none there" if value is None else f"{value:.{digits}}"
                for value, digits in ((each.accuracy, "1%"), (each.dice, "3f"))
            )
            found.append(f"  {each.name}: accuracy {accuracy}, Dice {dice}, {each.pixels:,} pixels")
        return found


def score_held_out(
    ensemble: Ensemble, images: Sequence[Annotated], scheme: LabelScheme, *, seed: int, device: str = "cpu"
) -> tuple[HeldOut, list[npt.NDArray[np.uint8]]]:
    """Label annotated images and compare.

    Args:
        ensemble: in eval mode. images: that it was not trained on, at least one. scheme: of the labels.
        seed: of the pixels that calibration is measured on. device: where it runs.

    Returns:
        The scores, and the labels of each image, uint8 [H, W].
    """
    labeller = StreamingLabeller(ensemble, images[0].features.record.channels, device)
    counts, labels, uncertainties = np.zeros((len(scheme), len(scheme)), np.int64), [], []
    for image in images:
        predicted = labeller.label(image.features.taps, image.features.record.size)
        counts += confusion(image.labels, predicted.semantic, len(scheme))
        labels.append(predicted.semantic)
        uncertainties.append(predicted.uncertainty)
    classes = class_figures(counts, scheme)
    known = [value for value in uncertainties if value is not None]
    found = HeldOut(
        images=len(images),
        pixels=int(counts.sum()),
        accuracy=float(np.trace(counts) / counts.sum()),
        mean_dice=float(np.mean([each.dice for each in classes if each.dice is not None])),
        classes=classes,
        uncertainty=float(np.mean(known)) if known else None,
        calibration=calibrate(ensemble, images, seed=seed),
    )
    return found, labels


def confusion(truth: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], classes: int) -> Counts:
    """Count pixels by annotated class (rows) and predicted class (columns), without those that are 255 in either."""
    known = (truth != IGNORE) & (labels != IGNORE)
    pairs = truth[known].astype(np.int64) * classes + labels[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_figures(counts: Counts, scheme: LabelScheme) -> tuple[ClassFigures, ...]:
    """Return the scores of every class from a table of `confusion`."""
    table = zip(scheme.names, np.diag(counts), counts.sum(1), counts.sum(0), strict=True)
    return tuple(
        ClassFigures(name, int(annotated), _share(right, annotated), _share(2 * right, annotated + labelled))
        for name, right, annotated, labelled in table
    )


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
