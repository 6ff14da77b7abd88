"""Weights of synthetic tiles: by the audit's agreement of image and mask, and by their likeness to real tiles.

Hou et al. 2019, "Robust Histopathology Image Analysis: to Label or to Synthesize?", weight each synthetic patch by the
ratio of its densities among real and synthetic ones, which they read off their discriminator. Here a ratio of features
that any generator's tiles have is fitted (uLSIF, Kanamori et al. 2009), and tiles are drawn in proportion to it instead
of weighting the loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from factory.core.config import Config
from manifests.errors import UserError
from manifests.labels import IGNORE
from segment.data.sources import AUDIT, Source
from segment.data.stains import LOG
from segment.data.tiles import Tiles

Floats = npt.NDArray[np.float64]

_WINDOWS = 2000
"""Largest number of windows of each kind that the ratio is fitted on, evenly spread."""
_CENTRES = 200
_WIDTHS = (0.25, 0.5, 1.0)
"""Widths of the Gaussians that are tried, relative to the median distance."""
_RIDGES = (0.001, 0.01, 0.1, 1.0)
_FOLDS = 5


class WeightConfig(Config):
    """Weights of synthetic tiles, by which they are drawn. All are 1 by default.

    Attributes:
        agreement: power of the audit's agreement of image and mask (AJI, mIoU without nuclei); 0 is off. The tiles are
            those of an audit: ``--synth AUDIT/accepted.parquet``.
        likeness: power of the ratio of densities among real training tiles and synthetic ones; 0 is off.
        largest: largest weight, and inverse of the smallest, before the mean is made 1.
        kept: share of the tiles, those of the largest weights, that are drawn at all.
    """

    agreement: float = Field(default=0.0, ge=0, le=8)
    likeness: float = Field(default=0.0, ge=0, le=8)
    largest: float = Field(default=4.0, gt=1, le=100)
    kept: float = Field(default=1.0, gt=0, le=1)

    @property
    def is_on(self) -> bool:
        """Whether tiles differ in weight."""
        return bool(self.agreement or self.likeness)


def check_weighting(config: WeightConfig, roles: tuple[str, ...], synth: Source | None) -> None:
    """Refuse settings that would do nothing, and tiles without an audit where its agreement is asked for."""
    if not config.is_on:
        if config.kept < 1:
            raise UserError("weighting.kept: expected with weighting.agreement or weighting.likeness, got neither.")
        return
    if synth is None:
        raise UserError("weighting: expected a mix with synthetic tiles, got real ones alone. Leave it out.")
    if config.likeness and "real" not in roles:
        raise UserError(
            "weighting.likeness: expected a mix with real tiles, to compare with, got synthetic ones alone."
        )
    if config.agreement:
        read_agreement(synth)


def read_agreement(synth: Source) -> dict[str, float]:
    """Agreement of image and mask of every audited tile, 0..1 or NaN, by `sample_id`."""
    if synth.accepted is None:
        raise UserError(
            f"{synth.path}: expected accepted.parquet of an audit with weighting.agreement, got a data set. "
            f"Run segment audit {synth.path} and give --synth OUT/accepted.parquet."
        )
    path = synth.accepted.parent / AUDIT
    try:
        table = pq.read_table(path)
        figure = "aji" if np.isfinite(table["aji"].to_numpy()).any() else "mean_iou"
        return dict(zip(table["sample_id"].to_pylist(), table[figure].to_numpy().tolist(), strict=True))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path}: expected the tiles of an audit, got {type(error).__name__}. Audit again.") from error


def tile_weights(config: WeightConfig, real: Tiles | None, synth: Tiles, agreement: dict[str, float] | None) -> Floats:
    """Weights of the synthetic tiles, mean 1 over those that are kept, 0 for others: float64 [tiles].

    Args:
        config: which, and how much. real: for the likeness. synth: to be weighted.
        agreement: by `sample_id`; a tile without one gets the mean.
    """
    weights = np.ones(len(synth))
    if config.agreement and agreement is not None:
        known = np.array([agreement.get(name, math.nan) for name in synth.sample_ids])
        weights *= np.nan_to_num(known / np.nanmean(known), nan=1.0) ** config.agreement
    if config.likeness and real is not None:
        weights *= likeness(real, synth) ** config.likeness
    weights = np.clip(weights, 1 / config.largest, config.largest)
    if config.kept < 1:
        order = np.argsort(-weights, kind="stable")
        weights[order[max(round(config.kept * len(order)), 1) :]] = 0
    return weights / weights[weights > 0].mean()


def likeness(real: Tiles, synth: Tiles) -> Floats:
    """Ratio of densities of each synthetic tile among real and synthetic ones, 1 on average: float64 [tiles].

    Tiles are compared by the `describe` of windows of one size; a tile's ratio is the mean over its windows.
    """
    size = (min(real.size[0], synth.size[0]), min(real.size[1], synth.size[1]))
    of_real = np.concatenate([_described(real, position, size) for position in range(len(real))])
    each = [_described(synth, position, size) for position in range(len(synth))]
    ratio = fit_ratio(of_real, np.concatenate(each))
    values = np.array([ratio(features).mean() for features in each])
    return values / values.mean()


def describe(image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], nucleus: npt.NDArray[np.bool_]) -> Floats:
    """Features of a window: mean and spread of the optical density of each channel, its detail at three scales, nuclei.

    Args:
        image: uint8 [h, w, 3]. labels: uint8 [h, w], 255 left out. nucleus: bool [256], classes of nuclei.

    Returns:
        float64 [10]; the last is the share of nuclei.
    """
    density = -LOG[image]
    grey = density.mean(axis=2)
    levels = [grey, *(cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1, 2, 4))]
    detail = [float((fine - coarse).std()) for fine, coarse in itertools.pairwise(levels)]
    known = labels != IGNORE
    share = float(nucleus[labels[known]].mean()) if known.any() else 0.0
    return np.array([*density.mean((0, 1)), *density.std((0, 1)), *detail, share], np.float64)


def _described(tiles: Tiles, position: int, size: tuple[int, int]) -> Floats:
    """Features of the windows of a tile: [windows, features]."""
    image, labels = tiles.read(position)
    return np.array([describe(image[part], labels[part], tiles.is_nucleus) for part in _windows(labels.shape, size)])


def _windows(shape: tuple[int, ...], size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for y in range(0, shape[0] - size[0] + 1, size[0]):
        for x in range(0, shape[1] - size[1] + 1, size[1]):
            yield slice(y, y + size[0]), slice(x, x + size[1])


@dataclass(frozen=True)
class Ratio:
    """A ratio of two densities, as a sum of Gaussians.

    Attributes:
        middle, spread: of the features, [F]. centres: [K, F], of standardised features. width: of the Gaussians.
        share: of each, [K].
    """

    middle: Floats
    spread: Floats
    centres: Floats
    width: float
    share: Floats

    def __call__(self, features: Floats) -> Floats:
        """The ratio: [N, F] -> [N], 0 or more."""
        kernels = _kernels((features - self.middle) / self.spread, self.centres, self.width)
        return np.maximum(kernels @ self.share, 0)


def fit_ratio(above: Floats, below: Floats) -> Ratio:
    """Fit the ratio of the density of the rows `above` to that of the rows `below`, [N, F] each.

    Unconstrained least squares (uLSIF, Kanamori et al. 2009): Gaussians at rows of `above`, shares by ridge regression;
    width and ridge by cross-validation.
    """
    above, below = _spread_out(above, _WINDOWS), _spread_out(below, _WINDOWS)
    together = np.concatenate([above, below])
    middle, spread = together.mean(axis=0), np.maximum(together.std(axis=0), 1e-9)
    above, below = (above - middle) / spread, (below - middle) / spread
    centres = _spread_out(above, _CENTRES)
    rows = _spread_out(np.concatenate([above, below]), 2 * _CENTRES)
    median = max(float(np.sqrt(np.median(_squared_distances(rows, centres)))), 1e-9)
    tried = []
    for width in (median * share for share in _WIDTHS):
        in_above, in_below = _kernels(above, centres, width), _kernels(below, centres, width)
        tried += [(_held_out_loss(in_above, in_below, ridge), width, ridge) for ridge in _RIDGES]
    _, width, ridge = min(tried)
    share = _solve(_kernels(above, centres, width), _kernels(below, centres, width), ridge)
    return Ratio(middle, spread, centres, width, share)


def _squared_distances(rows: Floats, centres: Floats) -> Floats:
    distances: Floats = ((rows[:, None] - centres) ** 2).sum(axis=2)
    return distances


def _kernels(rows: Floats, centres: Floats, width: float) -> Floats:
    """Value of every Gaussian: [N, F] -> [N, K]."""
    kernels: Floats = np.exp(-_squared_distances(rows, centres) / (2 * width**2))
    return kernels


def _solve(in_above: Floats, in_below: Floats, ridge: float) -> Floats:
    second = in_below.T @ in_below / len(in_below) + ridge * np.eye(in_below.shape[1])
    share: Floats = np.linalg.solve(second, in_above.mean(axis=0))
    return share


def _held_out_loss(in_above: Floats, in_below: Floats, ridge: float) -> float:
    """Mean over folds of uLSIF's loss, half of the mean squared ratio among `below` less its mean among `above`."""
    losses = []
    folds = min(_FOLDS, len(in_above), len(in_below))
    for fold in range(folds):
        one, other = (np.arange(len(rows)) % folds == fold for rows in (in_above, in_below))
        share = _solve(in_above[~one], in_below[~other], ridge) if folds > 1 else _solve(in_above, in_below, ridge)
        of_above, of_below = (np.maximum(rows @ share, 0) for rows in (in_above[one], in_below[other]))
        losses.append((of_below**2).mean() / 2 - of_above.mean())
    return float(np.mean(losses))


def _spread_out(rows: Floats, most: int) -> Floats:
    chosen: Floats = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))]
    return chosen
