"""Configuration models that the reference shows, and the folders of shipped YAML files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import BaseModel

from factory.core.registry import resolve
from factory.ingest.config import IngestConfig
from factory.joint.exemplar.exemplar import CopyConfig
from factory.joint.hdgan import HdganConfig
from factory.make.joint_plan import JointMakeConfig
from factory.make.recipes.given_masks import RenderConfig
from factory.make.recipes.masks_and_renderer import MakeConfig
from factory.make.recipes.samples import SampleConfig
from factory.masks import MASKS
from factory.masks.coarse.augment import AugmentSketchConfig
from factory.plan.rows import PlanConfig
from factory.renderers import RENDERERS
from factory.score.settings import Settings
from factory.train.generator import trainer_class, trainers
from factory.train.labeller import LabellerRunConfig
from segment.compare.config import CompareConfig
from segment.train.config import TrainConfig

Models = Iterable[tuple[str, type[BaseModel]]]


def _data_sets() -> Models:
    yield "Plan: `plan.KEY`", PlanConfig
    yield "`factory make`", MakeConfig
    yield "`factory render`", RenderConfig
    yield "`factory make --joint`", JointMakeConfig
    yield "`factory sample`", SampleConfig
    yield "Ingest: written to `run.yaml`", IngestConfig


def _parts(table: dict[str, str], what: str, key: str) -> Callable[[], Models]:
    def models() -> Models:
        for name in table:
            yield f"`{name}`: `{key}.KEY`", resolve(table, name, what).Config

    return models


def _masks() -> Models:
    yield from _parts(MASKS, "mask generator", "masks")()
    yield "Augmentation of sketches: `masks.sketches.KEY`", AugmentSketchConfig


def _renderers() -> Models:
    yield from _parts(RENDERERS, "renderer", "renderer")()
    yield "`hdgan`: `joint.KEY`", HdganConfig
    yield "`exemplar`: `joint.KEY`", CopyConfig


def _trainings() -> Models:
    for name in trainers():
        yield f"`factory train {name}`", trainer_class(name).Config
    yield "`factory train hdgan`", LabellerRunConfig


def _segment() -> Models:
    yield "`segment train`", TrainConfig
    yield "`segment compare`", CompareConfig
    yield "`factory score` from Python: `Settings`", Settings


ROOTS: dict[str, tuple[str, str, Callable[[], Models]]] = {
    "data-sets": (
        "Configuration of data sets",
        """
        Keys of `--config FILE` and `--set KEY=VALUE` for the commands that make data sets, and the keys of `run.yaml`.
        The resolved configuration is hashed into every row. `null` means that nothing is asked, or that the default of
        the scheme or the weights is taken.
        """,
        _data_sets,
    ),
    "masks": (
        "Configuration of mask generators",
        "Choose a generator with `--masks NAME`, and set its keys with `--set masks.KEY=VALUE`.",
        _masks,
    ),
    "renderers": (
        "Configuration of renderers",
        "Choose a renderer with `--renderer NAME`, and set its keys with `--set renderer.KEY=VALUE`.",
        _renderers,
    ),
    "training": (
        "Configuration of generator training",
        """
        Keys of `factory train NAME --config FILE` and `--set KEY=VALUE`. Shown are the defaults of the model; the
        shipped presets `NAME` and `NAME_light` (see {doc}`shipped`) change some of them.
        """,
        _trainings,
    ),
    "segment": (
        "Configuration of segmenters, comparisons and scores",
        "Keys of `segment train` and `segment compare`, and the settings of a score. `segment compare` takes the keys "
        "of `segment train` below `train`.",
        _segment,
    ),
}
"""Page -> title, text above the tables, and the models with their headings."""

SHIPPED = {
    "plan": ("Defaults of the schemes", "`factory make --scheme NAME` starts from these."),
    "render": ("Appearances", "For `factory make --config configs/render/NAME.yaml` and `factory render --config`."),
    "masks": ("Masks", "For `factory make --config configs/masks/NAME.yaml`."),
    "schemes": ("Label schemes", "For `--scheme configs/schemes/NAME.yaml`."),
    "train": ("Generator training", "For `factory train ... --config NAME`."),
    "segment": ("Segmenter training", "For `segment train --config NAME`."),
    "compare": ("Comparisons", "For `segment compare --config NAME`."),
    "experiments": ("Experiments", "Protocols that `python -m experiments.NAME` reads."),
}
"""Folder of ``configs/`` -> title and use."""
