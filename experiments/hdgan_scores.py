"""Figures of `experiments.hdgan`: tables of pixels by tile and seed, Dice and accuracy of classes, with intervals."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.hdgan_copies import said_by
from factory.core.statistics import times_drawn
from factory.joint.hdgan import Hdgan, HdganConfig
from factory.joint.held_out import confusion
from manifests.dataset import Dataset, open_dataset
from manifests.errors import FaultError
from manifests.files import sha256_file, write_atomic
from manifests.measure import measured_tps
from segment.network.weights import Weights, load_weights

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Measure = Callable[[npt.NDArray[np.float64]], Floats]


def counts_of_segmenter(folder: Path, truth: Dataset, device: str, kept: Path) -> Counts:
    """Pixels of every tile by true class [rows] and class by a segmenter [columns]: int64 [tiles, C, C].

    Args:
        folder: of the segmenter's training. truth: tiles. device: where it runs. kept: folder of such tables, so that
            none is made twice.
    """
    weights = load_weights(folder, device)
    path = kept / f"{sha256_file(weights.path)[:16]}-{len(truth)}.npy"
    if path.is_file():
        found: Counts = np.load(path)
        return found
    classes = len(weights.scheme)
    counts = np.stack(
        [
            confusion(sample.tile.semantic, said_by(weights, sample.image, sample.tile.mpp).semantic, classes)
            for sample in truth
        ]
    )
    buffer = io.BytesIO()
    np.save(buffer, counts)
    kept.mkdir(exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return counts


def counts_of_labeller(folder: Path, annotated: Path, device: str) -> Counts:
    """Pixels by class of a labeller against its annotator, on held-out images.

    Raises:
        FaultError: when the generator does not reproduce those images.
    """
    joint, dataset = Hdgan(HdganConfig(weights=str(folder)), device), open_dataset(annotated)
    counts = []
    for sample in dataset.where(np.array(dataset.table["split"]) == "test"):
        drawn = joint.draw(sample.row["seed"])
        if not np.array_equal(drawn.image, sample.image):
            raise FaultError(f"{annotated}: {sample.row['sample_id']}: expected the image that {folder} draws.")
        counts.append(confusion(sample.tile.semantic, drawn.tile.semantic, len(joint.scheme)))
    return np.stack(counts)


def tps_said(weights: Weights, dataset: Dataset) -> Floats:
    """TPS of images by a segmenter: float64 [tiles], NaN without tumour."""
    tiles = (said_by(weights, sample.image, sample.tile.mpp) for sample in dataset)
    return np.array([measured_tps(tile) for tile in tiles], np.float64)


def dice(counts: Floats) -> Floats:
    """Dice of every class, 2 TP / (2 TP + FP + FN), of tables [..., C, C]: [..., C], NaN for an absent class."""
    right, total = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1) + counts.sum(-2)
    return np.where(total > 0, 2 * right / np.maximum(total, 1), np.nan)


def accuracy(counts: Floats) -> Floats:
    """Recall of every class, of tables [..., C, C]: [..., C]; NaN as in `dice`."""
    right, there = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1)
    return np.where(there > 0, right / np.maximum(there, 1), np.nan)


def draws(counts: Counts, of: Measure, resamples: int) -> Floats:
    """A figure of every class over the pixels of all tiles, the mean of the seeds: float64 [1 + resamples, C].

    The first row is the figure itself. In each further one seeds and, independently, tiles are drawn with replacement
    (the pigeonhole bootstrap of `factory.core.statistics`), the same for all tables of a shape, so rows of two can
    be subtracted. A single seed is not resampled.

    Args:
        counts: int64 [seeds, tiles, C, C]. of: tables [..., C, C] -> [..., C]. resamples: how many.
    """
    seeds, tiles, classes = counts.shape[:3]
    rng = np.random.default_rng(0)
    weights = [np.concatenate([np.ones((1, count)), times_drawn(rng, count, resamples)]) for count in (seeds, tiles)]
    flat = counts.reshape(seeds, tiles, -1).astype(np.float64)
    pooled = np.stack([weights[1] @ table for table in flat], 1).reshape(1 + resamples, seeds, classes, classes)
    figures: Floats = (of(pooled) * weights[0][:, :, None]).sum(1) / seeds
    return figures


def mean_of_classes(figures: Floats) -> Floats:
    """Mean over the classes that are present, of rows [B, C]: [B]; NaN without any."""
    known = ~np.isnan(figures)
    total = np.where(known, figures, 0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)


def interval(figures: Floats) -> tuple[float, float, float]:
    """The figure itself, and the 95 % interval of its further rows: of [1 + resamples]; NaN where undefined."""
    further = figures[1:][~np.isnan(figures[1:])]
    low, high = np.quantile(further, (0.025, 0.975)) if further.size else (np.nan, np.nan)
    return float(figures[0]), float(low), float(high)
