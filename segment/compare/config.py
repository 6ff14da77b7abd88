"""What a comparison is: its configuration, and the grid of trainings that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from factory.core.config import Config
from segment.data.augmentation import AugmentConfig
from segment.train.loop import TrainConfig

ARMS = {
    "R": "real tiles, not augmented",
    "R*": "real tiles, augmented",
    "S": "synthetic tiles alone, not augmented",
    "S*": "real and synthetic tiles, augmented",
}
"""The training sets of Enhanced Sharp-GAN (section 4), by their names there."""

Arm = Literal["R", "R*", "S", "S*"]

METRICS = ("aji", "pq", "dq", "sq", "foreground_dice", "mean_iou")
"""What is compared where the scheme has nuclei; the first is the one that a claim is about."""

REGION_METRICS = ("mean_iou", "wiou", "wprecision", "wrecall", "dice")
"""The same where it has none: Eqs. 1 to 4 of "Noise in the correct frequency", and the mean Dice of the classes."""

DIFFERENCES = (("S*", "R*"), ("R*", "R"), ("S*", "R"), ("S", "R"))
"""Pairs of arms that are compared, the question of the command first."""

FURTHER_TOLERANCE = 0.125
"""Numbers of patients are rounded, so what stands for 2n patients may differ from them by this share."""

SET_BY_GRID = ("mix", "seed", "real_fraction")
"""Fields of `TrainConfig` that differ between the trainings of a comparison."""


class PublishedValue(Config):
    """A figure from the literature, shown beside ours and never mixed with them.

    Attributes:
        name: method or training set as published. metric: which figure; dice is that of the nuclei. value: 0..1.
        source: where, e.g. "Graham et al. 2019, Kumar test set".
    """

    name: str = Field(min_length=1)
    metric: Literal["aji", "pq", "dice", "mean_iou"]
    value: float = Field(ge=0, le=1)
    source: str = Field(min_length=1)


class ClaimConfig(Config):
    """What a comparison must have before a sentence is drawn from it; below, the figures are shown without one.

    Attributes:
        min_steps: of each training. min_seeds: finished, in both arms. min_patients: of the test split.
    """

    min_steps: int = Field(default=1000, ge=1)
    min_seeds: int = Field(default=3, ge=1)
    min_patients: int = Field(default=10, ge=2)


class BootstrapConfig(Config):
    """Percentile intervals by resampling seeds and patients; see `segment.compare.statistics`.

    Attributes:
        resamples: how many. level: coverage asked for. seed: of the resampling.
    """

    resamples: int = Field(default=10_000, ge=100)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)


class CompareConfig(Config):
    """A comparison.

    Attributes:
        arms: which training sets. fractions: shares of the patients of the real train split, nested by seed.
        seeds: trainings per arm and fraction, numbered from 0; a seed gives all arms the same patients and the same
            initial weights. synth_share: of the tiles that S* draws.
        final: train on the train and val splits together, for all steps, keep the last weights and read nuclei as
            `train.instances` says: nothing is chosen. Otherwise the val split of the real tiles chooses the weights
            and how nuclei are read, for every arm.
        train: what the trainings differ from `segment train` in, alike for all; its augmentation is that of R* and S*.
        claims, bootstrap: see there. published: figures from the literature.
    """

    arms: tuple[Arm, ...] = ("R", "R*", "S", "S*")
    fractions: tuple[float, ...] = (0.1, 0.25, 1.0)
    seeds: int = Field(default=5, ge=1)
    synth_share: float = Field(default=0.5, gt=0, lt=1)
    final: bool = False
    train: TrainConfig = TrainConfig()
    claims: ClaimConfig = ClaimConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    published: tuple[PublishedValue, ...] = ()

    @field_validator("arms", "fractions")
    @classmethod
    def _unique(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values or len(set(values)) < len(values):
            raise ValueError("expected one value or more, each once")
        return values

    @field_validator("fractions")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in values):
            raise ValueError("expected shares above 0 and up to 1")
        return tuple(sorted(values))

    @model_validator(mode="after")
    def _grid_owns(self) -> CompareConfig:
        for name in SET_BY_GRID:
            if getattr(self.train, name) != TrainConfig.model_fields[name].get_default():
                raise ValueError(f"expected no train.{name}: the grid of arms, fractions and seeds sets it")
        if self.train.patience is not None:
            raise ValueError("expected no train.patience: every training has the same steps")
        return self


@dataclass(frozen=True)
class Cell:
    """One training of the grid: an arm, a share of the real patients (None for S, which has none), a seed."""

    arm: Arm
    fraction: float | None
    seed: int

    @property
    def name(self) -> str:
        """Its folder's name, e.g. ``S+-0.25-3``: the star of an arm is a plus there, for shells expand stars."""
        return "-".join(
            (self.arm.replace("*", "+"), "all" if self.fraction is None else f"{self.fraction:g}", str(self.seed))
        )

    @property
    def has_synth(self) -> bool:
        """Whether it sees synthetic tiles."""
        return self.arm.startswith("S")

    def train_config(self, config: CompareConfig) -> TrainConfig:
        """The training of this cell; all that the grid does not set is the same in every cell."""
        mix = {"S": "synth", "S*": f"real+synth:{config.synth_share:g}"}.get(self.arm, "real")
        augment = config.train.augment if self.arm.endswith("*") else AugmentConfig.none()
        values = {"mix": mix, "seed": self.seed, "real_fraction": self.fraction or 1.0, "augment": augment}
        if config.final:  # one validation, after the last step: nothing to choose between, and not to be waited for
            values |= {"validate_every": config.train.steps, "validate_tiles": 1}
        return config.train.model_copy(update=values)


def twice(patients: Mapping[float, int]) -> dict[float, float]:
    """For each fraction the one with twice its patients, or nearest to that within `FURTHER_TOLERANCE`.

    Args:
        patients: fraction -> patients that it comes to.

    Returns:
        Fraction -> larger fraction; without those that have none.
    """
    pairs = {}
    for fraction, count in patients.items():
        larger = [other for other in patients if patients[other] > count]
        nearest = min(larger, key=lambda other: (abs(patients[other] - 2 * count), other), default=None)
        if nearest is not None and abs(patients[nearest] - 2 * count) <= FURTHER_TOLERANCE * 2 * count:
            pairs[fraction] = nearest
    return pairs


def grid(config: CompareConfig) -> list[Cell]:
    """All cells, seed by seed, so that a comparison that was stopped has whole seeds to show."""
    cells = []
    for seed in range(config.seeds):
        for arm in config.arms:
            fractions = (None,) if arm == "S" else config.fractions
            cells += [Cell(arm, fraction, seed) for fraction in fractions]
    return cells
