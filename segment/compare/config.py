"""Configuration of a comparison, and its grid of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from factory.core.config import Config
from factory.core.statistics import BootstrapConfig
from manifests.errors import UserError
from segment.data.augmentation import AugmentConfig
from segment.data.mixing import parse_mix
from segment.data.pasting import PasteConfig
from segment.data.weighting import WeightConfig
from segment.train.config import TrainConfig

ARMS = {
    "R": "real tiles, not augmented",
    "R*": "real tiles, augmented",
    "S": "synthetic tiles alone, not augmented",
    "S*": "real and synthetic tiles, augmented",
    "P*": "real tiles, augmented, with nuclei pasted",
    "S>R": "synthetic tiles first, then real ones, augmented",
    "W*": "real and weighted synthetic tiles, augmented",
    "W>R": "weighted synthetic tiles first, then real ones, augmented",
}
"""Training sets: the first four by their names in "Enhanced Sharp-GAN" (section 4)."""

Arm = Literal["R", "R*", "S", "S*", "P*", "S>R", "W*", "W>R"]

NUCLEI_METRICS = ("aji", "pq", "dq", "sq", "foreground_dice", "mean_iou")
"""Metrics compared where the scheme has nuclei; claims are about the first."""

REGION_METRICS = ("mean_iou", "wiou", "wprecision", "wrecall", "dice")
"""Metrics compared where it has none: Eqs. 1 to 4 of "Noise in the correct frequency", and mean Dice of the classes."""

DIFFERENCES = (
    ("S*", "R*"),
    ("S>R", "R*"),
    ("P*", "R*"),
    ("S*", "P*"),
    ("S>R", "P*"),
    ("S>R", "S*"),
    ("W*", "S*"),
    ("W>R", "S>R"),
    ("W*", "R*"),
    ("W>R", "R*"),
    ("W*", "P*"),
    ("W>R", "P*"),
    ("R*", "R"),
    ("S*", "R"),
    ("S", "R"),
)
"""Pairs of arms that are compared; the first is the question of the command."""

FURTHER_TOLERANCE = 0.125
"""Largest relative difference from 2n patients: numbers of patients are rounded."""

SET_BY_GRID = ("mix", "seed", "real_fraction")
"""Fields of `TrainConfig` that differ between the trainings of a comparison."""


class PublishedValue(Config):
    """A figure from the literature, shown in a column of its own.

    Attributes:
        name: method or training set as published. metric: its key; dice is that of the nuclei. value: 0..1.
        source: where, e.g. "Graham et al. 2019, Kumar test set".
    """

    name: str = Field(min_length=1)
    metric: Literal["aji", "pq", "dice", "mean_iou"]
    value: float = Field(ge=0, le=1)
    source: str = Field(min_length=1)


class ClaimConfig(Config):
    """Requirements for a claim of the report; a comparison with less shows only the figures.

    Attributes:
        min_steps: of each training. min_seeds: finished, in both arms. min_patients: of the test split.
    """

    min_steps: int = Field(default=1000, ge=1)
    min_seeds: int = Field(default=3, ge=1)
    min_patients: int = Field(default=10, ge=2)


class CompareConfig(Config):
    """A comparison.

    Attributes:
        arms: training sets. fractions: shares of the patients of the real train split, nested by seed.
        seeds: trainings per arm and fraction, numbered from 0; a seed gives all arms the same patients and the same
            initial weights. synth_share: share of synthetic tiles in S*, or "FIRST..LAST" for one that changes evenly.
        pretraining_share: share of the steps of S>R that are on synthetic tiles; `train.pretraining` has the rest.
        paste: pasting of nuclei in P*. weighting: of synthetic tiles in W* and W>R, which are S* and S>R otherwise.
        final: train on the train and val splits together, for all steps, keep the last weights and separate nuclei
            with `train.instances`: nothing is chosen. Otherwise the val split of the real tiles chooses weights and
            instance settings for every arm.
        train: settings of all trainings that differ from the defaults; its augmentation is that of R* and S*.
        claims, bootstrap: see there. published: figures from the literature.
    """

    added: ClassVar = frozenset({"pretraining_share", "paste", "weighting"})
    arms: tuple[Arm, ...] = ("R", "R*", "S", "S*")
    fractions: tuple[float, ...] = (0.1, 0.25, 1.0)
    seeds: int = Field(default=5, ge=1)
    synth_share: float | str = 0.5
    pretraining_share: float = Field(default=0.5, gt=0, lt=1)
    paste: PasteConfig = PasteConfig(probability=0.5)
    weighting: WeightConfig = WeightConfig(likeness=1.0)
    final: bool = False
    train: TrainConfig = TrainConfig()
    claims: ClaimConfig = ClaimConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    published: tuple[PublishedValue, ...] = ()

    @field_validator("synth_share")
    @classmethod
    def _is_mix(cls, value: float | str) -> float | str:
        try:
            parse_mix(f"real+synth:{value}")
        except UserError as error:
            raise ValueError(f"expected a share between 0 and 1, or FIRST..LAST, got {value!r}") from error
        return value

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
        if self.train.augment.paste.probability:
            raise ValueError("expected no train.augment.paste: it is what P* has and R* has not (paste)")
        if self.train.weighting.is_on:
            raise ValueError("expected no train.weighting: it is what W* has and S* has not (weighting)")
        if not self.weighting.is_on:
            raise ValueError("expected a weighting by agreement or likeness, got none: leave W* and W>R out instead")
        if self.train.patience is not None:
            raise ValueError("expected no train.patience: every training has the same steps")
        return self


@dataclass(frozen=True)
class Training:
    """One training of the grid: an arm, a share of the real patients (None for S, which has none), a seed."""

    arm: Arm
    fraction: float | None
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder, e.g. ``S+-0.25-3``: no character of an arm means something to a shell."""
        arm = self.arm.replace("*", "+").replace(">", "_")
        return "-".join((arm, "all" if self.fraction is None else f"{self.fraction:g}", str(self.seed)))

    @property
    def has_synth(self) -> bool:
        """Whether it uses synthetic tiles."""
        return self.arm[0] in "SW"

    def train_config(self, config: CompareConfig) -> TrainConfig:
        """Its configuration; fields that the grid does not set are the same in every training."""
        mixes = {
            "S": "synth",
            "S*": f"real+synth:{config.synth_share}",
            "S>R": f"synth-then-real:{config.pretraining_share:g}",
        }
        mix = mixes.get(self.arm.replace("W", "S"), "real")
        augment = AugmentConfig.none() if self.arm in ("R", "S") else config.train.augment
        if self.arm == "P*":
            augment = augment.model_copy(update={"paste": config.paste})
        values: dict[str, Any] = {
            "mix": mix,
            "seed": self.seed,
            "real_fraction": self.fraction or 1.0,
            "augment": augment,
        }
        if self.arm.startswith("W"):
            values["weighting"] = config.weighting
        if config.final:  # one validation, after the last step, of one tile: there is nothing to choose
            values |= {"validate_every": config.train.steps, "validate_tiles": 1}
        return config.train.model_copy(update=values)


def double_patients(patients: Mapping[float, int]) -> dict[float, float]:
    """For each fraction (-> number of patients) the one with twice its patients, or nearest to it.

    A fraction without one within `FURTHER_TOLERANCE` is left out.
    """
    pairs = {}
    for fraction, count in patients.items():
        larger = [other for other in patients if patients[other] > count]
        nearest = min(larger, key=lambda other: (abs(patients[other] - 2 * count), other), default=None)
        if nearest is not None and abs(patients[nearest] - 2 * count) <= FURTHER_TOLERANCE * 2 * count:
            pairs[fraction] = nearest
    return pairs


def grid(config: CompareConfig) -> list[Training]:
    """All trainings, seed by seed, so that a stopped comparison has complete seeds.

    S has no fraction: where a comparison has a synthetic set for each cell, it takes that of all patients.
    """
    trainings = []
    for seed in range(config.seeds):
        for arm in config.arms:
            fractions = (None,) if arm == "S" else config.fractions
            trainings += [Training(arm, fraction, seed) for fraction in fractions]
    return trainings
