"""Settings of a score, and the random generators under its seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from factory.core.config import Config


class Settings(Config):
    """Settings of `compare_sets`; all of them are written beside the figures.

    Attributes:
        features: name in `factory.score.features.EXTRACTORS`, or ``timm:NAME``.
        feature_weights: safetensors file of its weights; None if it needs no file, or for a download.
        device: of the feature extractor: cpu, cuda. batch: pictures per forward pass.
        picture_px: largest length of the longer side of the pictures that features are extracted from.
        seed: seed of every draw.
        neighbours: k of precision, recall, density and coverage.
        draws: number of random halves, and of draws of every other row of the table of controls.
        bootstrap: number of resamples of the interval.
        subset_sizes: number of sample sizes that the extrapolation is fitted over.
        kernel_subsets: number of subsets that give the spread of the kernel distance.
        grid: cells per axis of the grid over a projection.
        min_cell: number of real and of fake tiles that a cell needs for a distance.
        patch_grid: rows and columns that real tiles are cut into for the shuffled control.
        modes: number of clusters of the real tiles, at most.
        copy_px: largest length of the longer side of the fakes' pictures in the search for copies; training tiles are
            reduced by the same factor.
        copy_quantile: share of held-out real tiles that lie below the limit for copies.
        planted: number of random crops of the training tiles that are planted as each kind of copy.
        shift_bins: number of equal-count bins of the allocation shift.
    """

    features: str = "random-vgg16"
    feature_weights: str | None = None
    device: str = "cpu"
    batch: int = Field(default=8, ge=1)
    picture_px: int = Field(default=256, ge=16)
    seed: int = Field(default=0, ge=0)
    neighbours: int = Field(default=5, ge=1)
    draws: int = Field(default=10, ge=1)
    bootstrap: int = Field(default=200, ge=20)
    subset_sizes: int = Field(default=10, ge=3)
    kernel_subsets: int = Field(default=50, ge=2)
    grid: int = Field(default=3, ge=1)
    min_cell: int = Field(default=8, ge=2)
    patch_grid: tuple[int, int] = (4, 8)
    modes: int = Field(default=8, ge=1)
    copy_px: int = Field(default=128, ge=16)
    copy_quantile: float = Field(default=0.99, gt=0, le=1)
    planted: int = Field(default=40, ge=1)
    shift_bins: int = Field(default=4, ge=1)

    @property
    def weights_path(self) -> Path | None:
        """Path of `feature_weights`."""
        return Path(self.feature_weights) if self.feature_weights else None


STREAMS = {
    "choice": 0,
    "crops": 1,
    "bootstrap": 2,
    "extrapolation": 3,
    "kernel": 4,
    "halves": 5,
    "shuffle": 6,
    "planted": 7,
    "shift": 8,
    "pairs": 9,
}
"""Number of each stream of random draws; fixed, so that a new figure never changes an old one."""


def generator(seed: int, stream: str, *more: int) -> np.random.Generator:
    """Returns the random generator of one stream under a seed; `more` numbers its parts."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], *more)))
