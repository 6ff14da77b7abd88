"""Summary of a comparison: estimates by arm and fraction, paired differences, and sentences on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from factory.core.statistics import Estimate, Floats, cohens_dz, crossed_bootstrap_mean, crossed_bootstrap_relative
from segment.compare.config import (
    DIFFERENCES,
    NUCLEI_METRICS,
    REGION_METRICS,
    ClaimConfig,
    CompareConfig,
    Training,
    double_patients,
)
from segment.metrics.names import METRICS


@dataclass(frozen=True)
class Scores:
    """Scores of a comparison on one test set.

    Attributes:
        images: names of the test images. groups: the patient or slide of each; its own name where unknown.
        finished: training -> metric -> float64 [N], in the order of `images`. failed: training -> error.
    """

    images: tuple[str, ...]
    groups: tuple[str, ...]
    finished: Mapping[Training, Mapping[str, Floats]]
    failed: Mapping[Training, str]

    @property
    def metrics(self) -> list[str]:
        """Scored metrics of `NUCLEI_METRICS`, in that order; of `REGION_METRICS` where the scheme has no nuclei."""
        scored = {name for figures in self.finished.values() for name in figures}
        return [name for name in (NUCLEI_METRICS if NUCLEI_METRICS[0] in scored else REGION_METRICS) if name in scored]

    def matrix(self, arm: str, fraction: float | None, metric: str, seeds: int) -> Floats:
        """float64 [seeds, images]; NaN where a training is missing or an image has nothing to score."""
        values = np.full((seeds, len(self.images)), math.nan)
        for training, figures in self.finished.items():
            if training.arm == arm and training.fraction in (fraction, None):
                values[training.seed] = figures[metric]
        return values


@dataclass(frozen=True)
class Level:
    """Score of an arm at a fraction of the real patients; `fraction` is None for synthetic tiles alone."""

    arm: str
    fraction: float | None
    metric: str
    estimate: Estimate


@dataclass(frozen=True)
class Difference:
    """Scores of `arm` minus those of `than`, over pairs of the same seed and image.

    Attributes:
        arm, than: their names. fraction, than_fraction: of the real patients; equal, unless one arm has twice the
            patients of the other. metric: its key.
        estimate: of the difference. relative: the same as a share of the mean of `than`. effect: Cohen's d_z.
    """

    arm: str
    than: str
    fraction: float
    than_fraction: float
    metric: str
    estimate: Estimate
    relative: Estimate
    effect: float

    @property
    def has_more_patients(self) -> bool:
        """Whether one of the two arms has more real patients."""
        return self.fraction != self.than_fraction

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.estimate.low > 0 or self.estimate.high < 0


@dataclass(frozen=True)
class Summary:
    """Scores and differences of a comparison."""

    levels: tuple[Level, ...]
    differences: tuple[Difference, ...]


def summarise(scores: Scores, config: CompareConfig, patients: Mapping[float, int]) -> Summary:
    """Estimate everything that the report shows."""
    return Summary(tuple(_levels(scores, config)), tuple(_differences(scores, config, patients)))


def _levels(scores: Scores, config: CompareConfig) -> Iterator[Level]:
    for metric in scores.metrics:
        for arm in config.arms:
            for fraction in (None,) if arm == "S" else config.fractions:
                values = scores.matrix(arm, fraction, metric, config.seeds)
                yield Level(arm, fraction, metric, crossed_bootstrap_mean(values, scores.groups, config.bootstrap))


def _differences(scores: Scores, config: CompareConfig, patients: Mapping[float, int]) -> Iterator[Difference]:
    """At every fraction, then against twice the patients (as in "Noise in the correct frequency", 5A)."""
    further = double_patients({fraction: patients[fraction] for fraction in config.fractions})
    pairs = [((arm, f), (than, f)) for arm, than in DIFFERENCES for f in config.fractions]
    pairs += [(("S*", f), ("R*", double)) for f, double in further.items()]
    pairs += [(("R*", double), ("R*", f)) for f, double in further.items()]
    for metric in scores.metrics:
        for ours, theirs in pairs:
            if {ours[0], theirs[0]} <= set(config.arms):
                yield _difference(scores, config, ours, theirs, metric)


def _difference(
    scores: Scores, config: CompareConfig, ours: tuple[str, float], theirs: tuple[str, float], metric: str
) -> Difference:
    """Difference of two arms, each at a fraction."""
    higher, lower = (scores.matrix(arm, fraction, metric, config.seeds) for arm, fraction in (ours, theirs))
    gain = higher - lower
    return Difference(
        ours[0],
        theirs[0],
        ours[1],
        theirs[1],
        metric,
        crossed_bootstrap_mean(gain, scores.groups, config.bootstrap),
        crossed_bootstrap_relative(gain, lower, scores.groups, config.bootstrap),
        cohens_dz(gain),
    )


def shortfalls(scores: Scores, config: CompareConfig) -> list[str]:
    """Unmet requirements of the whole comparison for any claim; empty when all are met."""
    claims = config.claims
    needed = (
        ("steps", config.train.steps, claims.min_steps),
        ("seeds", config.seeds, claims.min_seeds),
        ("test patients", len(set(scores.groups)), claims.min_patients),
    )
    return [f"{count} {what} of at least {least}" for what, count, least in needed if count < least]


def sentences(scores: Scores, summary: Summary, config: CompareConfig) -> list[str]:
    """One sentence for each difference in the first metric, or one that gives the reason for no claim."""
    short = shortfalls(scores, config)
    if short:
        return [f"No claim: too few for one ({'; '.join(short)})."]
    return [
        _sentence(difference, config.claims, config.bootstrap.level)
        for difference in summary.differences
        if difference.metric == scores.metrics[0]
    ]


def _sentence(difference: Difference, claims: ClaimConfig, level: float) -> str:
    estimate = difference.estimate
    where = f"With {difference.fraction:.0%} of the real patients, {difference.arm} against {difference.than}"
    if difference.has_more_patients:
        where += f" with {difference.than_fraction:.0%} of them"
    if estimate.seeds < claims.min_seeds or estimate.patients < claims.min_patients:
        return (
            f"{where}: no claim, {estimate.seeds} seeds and {estimate.patients} test patients have both "
            f"(at least {claims.min_seeds} and {claims.min_patients})."
        )
    interval = f"{level:.0%} interval {estimate.low:+.4f} to {estimate.high:+.4f}"
    label = METRICS[difference.metric].short_label
    if not difference.excludes_zero:
        return f"{where}: no difference in {label} shown ({interval})."
    better = "higher" if estimate.mean > 0 else "lower"
    gain = f"{abs(estimate.mean):.4f}, {abs(difference.relative.mean):.1%} of {difference.than}"
    return f"{where}: {label} is {better} by {gain} ({interval}, d_z {difference.effect:+.2f})."
