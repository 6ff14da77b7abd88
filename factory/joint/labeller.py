"""Labellers: ensembles that classify pixels by a generator's features. Votes, disagreement, calibration, and files.

Histopathology-DatasetGAN (Rizvi et al.) trains one pixel classifier on 16 annotated images. DatasetGAN (Zhang et al.
2021) trains ten, takes the majority vote, and drops images on which they disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt

from factory.core.checkpoints import read_checkpoint, write_weights
from factory.core.config import Config
from factory.core.seeds import Stream, generator
from factory.joint.features import Features
from factory.joint.pixels import PixelSampler
from factory.nets.pixel_classifier import Ensemble
from manifests.errors import UserError

KIND = "hdgan-labeller"

_CHUNK = 16_384
"""Pixels whose features are in memory at once: 370 MB for all blocks of a generator of 4096 x 4096."""


class PixelClassifierConfig(Config):
    """Shape of a `PixelClassifier`, by default the published one."""

    widths: tuple[PositiveInt, PositiveInt] = (128, 32)
    dropout: float = Field(default=0.3, ge=0, lt=1)


class LabellerConfig(Config):
    """Settings of a labeller's training, by default the published ones (paper and its authors' code).

    Attributes:
        network: of each member. members: size of the ensemble, 1 in HDGAN and 10 in DatasetGAN.
        batch: pixels per step. epochs: passes over the labelled pixels. steps: of each member; replaces the number
            that follows from the epochs.
        balanced: draw all classes equally often, however rare they are.
        optimiser: sgd as published, or adam. learning_rate: of either. momentum: of sgd.
        label_smoothing: share of the target that is spread over all classes.
        seed: of weights, pixels and dropout; member i does not depend on the number of members.
    """

    network: PixelClassifierConfig = PixelClassifierConfig()
    members: int = Field(default=1, ge=1, le=100)
    batch: int = Field(default=65_536, ge=2)
    epochs: int = Field(default=25, ge=1)
    steps: int | None = Field(default=None, ge=1)
    balanced: bool = True
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=1e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Annotated:
    """An annotated image: its features, and classes uint8 [H, W] with 255 where unlabelled."""

    features: Features
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fitted:
    """A trained ensemble in eval mode, and the loss of every step of every member."""

    ensemble: Ensemble
    losses: tuple[tuple[float, ...], ...]


Pixels = tuple[torch.Tensor, torch.Tensor]
"""Features float32 [P, C] and classes int64 [P]."""


def pixel_sampler(images: Sequence[Annotated], classes: int, *, balanced: bool) -> PixelSampler:
    """Check annotated images and return a sampler of their labelled pixels.

    Args:
        images: of one generator. classes: of the labels. balanced: draw all classes equally often.

    Raises:
        UserError: for labels of another size than the image, other classes, or features of different taps.
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


def majority_vote(logits: torch.Tensor) -> torch.Tensor:
    """Return the class that most members of an ensemble choose: uint8 [...] of logits [E, K, ...].

    Ties go to the class with the larger mean probability.
    """
    choices = logits.max(1).indices  # argmax is many times slower on a CPU
    labels: torch.Tensor = choices[0].to(torch.uint8)
    if len(logits) == 1:
        return labels
    votes = torch.stack([(choices == label).sum(0) for label in range(logits.shape[1])])
    chosen = votes + 0.5 * logits.float().softmax(1).mean(0)
    return chosen.max(0).indices.to(torch.uint8)


def disagreement(logits: torch.Tensor) -> torch.Tensor:
    """Compute the Jensen-Shannon divergence between members: float32 [...] of logits [E, K, ...], in nats.

    The entropy of the mean distribution minus the mean entropy (Zhang et al. 2021): 0 where all members agree with the
    same confidence, at most the logarithms of K and of E.
    """
    log = logits.float().log_softmax(1)
    p = log.exp()
    mean = p.mean(0)
    divergence: torch.Tensor = (p * log).sum(1).mean(0) - torch.special.xlogy(mean, mean).sum(0)
    return divergence.clamp_min_(0.0)


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


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

    Raises:
        UserError: as `pixel_sampler`.
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
class Labeller:
    """An ensemble in eval mode and the card that it came with."""

    ensemble: Ensemble
    card: Mapping[str, Any]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the features that it reads, tap by tap."""
        return tuple(self.card["channels"])


def write_labeller(
    path: Path,
    fitted: Fitted,
    config: LabellerConfig,
    images: Sequence[Annotated],
    card: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> None:
    """Write a labeller as safetensors with its card, and the card beside as JSON.

    Args:
        path: the file. fitted, config, images: result, settings and training images.
        card: further fields: the scheme, sources, licences. calibration: on held-out images if there are some.
    """
    records = [image.features.record for image in images]
    document = {
        **card,
        "kind": KIND,
        "network": {
            "channels": fitted.ensemble.channels,
            "classes": fitted.ensemble.classes,
            "members": config.members,
            **config.network.model_dump(mode="json"),
        },
        "channels": list(records[0].channels),
        "generator_sha256": records[0].weights_sha256,
        "latents_sha256": [record.latent_sha256 for record in records],
        "config": config.model_dump(mode="json"),
        "calibration": None if calibration is None else calibration.to_dict(),
    }
    write_weights(path, fitted.ensemble.state_dict(), document)


def read_labeller(path: Path, generator_sha256: str | None = None) -> Labeller:
    """Read a labeller.

    Args:
        path: the file. generator_sha256: of the weights whose features it must have been trained on; None takes any.

    Raises:
        UserError: for a file that is missing, damaged, of another kind, or for another generator.
    """
    checkpoint = read_checkpoint(path, KIND)
    card = checkpoint.card
    found = str(card.get("generator_sha256"))
    if generator_sha256 is not None and found != generator_sha256:
        raise UserError(
            f"{path}: expected a labeller for the generator {generator_sha256[:12]}, got one for {found[:12]}. "
            "Features of one generator mean nothing to the labeller of another: train one for these weights."
        )
    try:
        ensemble = Ensemble(**card["network"])
        ensemble.load_state_dict(checkpoint.tensors)
        if sum(card["channels"]) != ensemble.channels:
            raise ValueError("channels")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: expected the weights that its card describes, got others. Get it again.") from error
    return Labeller(ensemble.eval(), card)
