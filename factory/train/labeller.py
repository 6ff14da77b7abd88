"""One training run of a labeller: a generator and a few of its images, annotated, in; what labels all others out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from factory.core.config import merge, parse, parse_assignments, read_yaml
from factory.core.devices import usable_cores
from factory.core.history import plot_history, write_history
from factory.core.training_folder import TrainingFolder
from factory.core.weights import BEST, Card, read_card
from factory.joint import HDGAN
from factory.joint.features import FeatureStore, Shape, need_bytes
from factory.joint.generators import generator_card, open_generator, weights_path
from factory.joint.hdgan import BESIDE, tap_shapes
from factory.joint.held_out import HeldOut, judge
from factory.joint.labeller import KIND, Annotated, Fitted, LabellerConfig, write_labeller
from factory.joint.labeller_training import Keep, fit_labeller, steps_of
from factory.learn.sample_sheet import write_sample_sheet
from factory.train.annotated_images import LabelledImages, open_labelled, write_features
from factory.train.generator import config_path, manifest_digest
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.files import publish, temporary_beside, write_atomic
from manifests.labels import IGNORE
from manifests.schema import DISCLAIMER

FEATURES = "features"
HELD_OUT = "held_out.json"
SHEET = "held_out.png"
_NAMES = (FEATURES, HELD_OUT, SHEET, BESIDE)
_SHOWN = 4
_SHOWN_PX = 512
_LOOKS = 100
_BLOCK_LAYERS = 2


class LabellerRunConfig(LabellerConfig):
    """How a labeller is trained, and what it reads.

    Attributes:
        blocks: of the generator whose features are read, from the last one; null reads all. The published ones are 5.
        state_every: steps between two states to go on from. keep_features: leave them in the folder at the end.
        threads: of torch on the CPU; null takes all.
    """

    blocks: int | None = Field(default=None, ge=1)
    state_every: int = Field(default=500, ge=1)
    keep_features: bool = False
    threads: int | None = Field(default=None, ge=1)


UNHASHED = frozenset({"state_every", "keep_features", "threads"})
"""Fields that change no byte of the weights, but for the threads, which a resumed run keeps."""


@dataclass(frozen=True)
class LabellerRun:
    """A run that is ready to start.

    Attributes:
        config: resolved. generator: file with its weights. card: of these. images: annotated. taps: that are read, with
            their shapes. out: the run's folder. data: digests of the data sets' manifests.
    """

    config: LabellerRunConfig
    generator: Path
    card: Card
    images: LabelledImages
    taps: dict[str, Shape]
    out: Path
    data: tuple[str, ...]

    @property
    def folder(self) -> TrainingFolder:
        """The run's folder; its document says what decides the result."""
        config = self.config.model_dump(mode="json", exclude=set(UNHASHED))
        document = {"labeller": HDGAN, "config": config, "generator": self.card.sha256, "data": list(self.data)}
        return TrainingFolder(self.out, document, self.config.model_dump(mode="json"), _NAMES)

    @property
    def need_bytes(self) -> int:
        """Of the features of all annotated images."""
        count = sum(len(self.images.rows(held_out=held_out)) for held_out in (False, True))
        return need_bytes(list(self.taps.values()), count)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, one line each."""
        notes = []
        if self.images.empty:
            notes.append(f"{self.images.empty} images have no label at all and are left out")
        if not self.images.rows(held_out=True):
            notes.append("no annotated image is of split val or test, so nothing says how good the labeller is")
        return tuple(notes)


@dataclass(frozen=True)
class LabellerResult:
    """What training left: figures on held-out images, None without any; mean loss at the end, None if it was done."""

    held_out: HeldOut | None
    loss: float | None


def resolve_labeller(
    config: str | None, assignments: Sequence[str], typed: dict[str, Any], device: str
) -> LabellerRunConfig:
    """Lay typed values over ``--set`` over ``--config``; None takes ``hdgan_light`` on a CPU and ``hdgan`` elsewhere.

    Raises:
        UserError: for an unknown key or file, or a value of the wrong form.
    """
    path = config_path(config or (f"{HDGAN}_light" if device == "cpu" else HDGAN))
    values = merge(merge(read_yaml(path), parse_assignments(assignments)), typed)
    return parse(LabellerRunConfig, values, str(path.name if config is None else config))


def prepare(generator: str, data: Sequence[Path], config: LabellerRunConfig, out: Path | None) -> LabellerRun:
    """Open and check everything; writes nothing.

    Raises:
        UserError: for whatever is wrong with the generator, its annotated images or the disk.
    """
    card, folder = generator_card(generator), out or Path("runs/train") / HDGAN
    images = open_labelled(data, card)
    taps = tap_shapes(card.fields["network"])
    blocks = math.ceil(len(taps) / _BLOCK_LAYERS)  # the first has one layer
    if config.blocks is not None:
        if config.blocks > blocks:
            raise UserError(f"blocks: expected at most {blocks}, as the generator has, got {config.blocks}.")
        taps = dict(list(taps.items())[-_BLOCK_LAYERS * config.blocks :])
    return LabellerRun(
        config, weights_path(generator), card, images, taps, folder, tuple(manifest_digest(path) for path in data)
    )


def check_target(run: LabellerRun, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run folder that holds something else, or has no room for the features that are still to be written.

    Raises:
        UserError: with what to do about it; for features that are there and damaged or of other weights, too.
    """
    store, images = FeatureStore(run.out / FEATURES, run.card.sha256), run.images
    names = [row["sample_id"] for _, row in [*images.rows(held_out=False), *images.rows(held_out=True)]]
    if run.folder.check(resume=resume, overwrite=overwrite):
        if is_finished(run):
            return
        names = store.missing(names)
    store.check_space(list(run.taps.values()), len(names))


def is_finished(run: LabellerRun) -> bool:
    """Whether the folder holds the labeller of this run, so that nothing is left to do."""
    path = run.out / BEST
    return path.is_file() and read_card(path, KIND).fields.get("config_sha256") == run.folder.fingerprint


def train(
    run: LabellerRun,
    *,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> LabellerResult:
    """Draw the annotated images again, train on their features, score those held out; leaves a whole folder."""
    check_target(run, resume=resume, overwrite=overwrite)
    if resume and is_finished(run):
        _leave_features(run)
        return LabellerResult(None, None)
    config, folder = run.config, run.folder
    torch.set_num_threads(config.threads or usable_cores())
    if resume:
        folder.refuse_other_threads(torch.get_num_threads())
    with folder.open(resume=resume):
        # Features.
        drawing = run.images.drawing
        generator = open_generator(run.generator, device, precision=drawing.precision)
        store = FeatureStore(run.out / FEATURES, run.card.sha256)
        learnt_from, held = run.images.rows(held_out=False), run.images.rows(held_out=True)
        drawn = write_features(generator, drawing, [*learnt_from, *held], store, run.taps, on_image)
        learnt, held_out = drawn[: len(learnt_from)], drawn[len(learnt_from) :]
        del generator

        # Labeller.
        labelled = sum(int((image.labels != IGNORE).sum()) for image in learnt)
        steps = steps_of(labelled, config)
        fitted = fit_labeller(
            learnt,
            len(run.images.scheme),
            config,
            device=device,
            keep=Keep(run.out, config.state_every, folder.fingerprint),
            on_step=lambda member, step, loss: on_step(member * steps + step + 1, config.members * steps),
        )
        _leave_history(run.out, fitted)

        # How good it is.
        found = None
        if held_out:
            found, labels = judge(fitted.ensemble, held_out, run.images.scheme, seed=config.seed, device=device)
            _leave_sheet(run, held, held_out, labels)
        _finish(run, fitted, learnt, found)
    return LabellerResult(found, float(np.mean([losses[-1] for losses in fitted.losses])))


def _finish(run: LabellerRun, fitted: Fitted, learnt: Sequence[Annotated], found: HeldOut | None) -> None:
    """Leave figures, the generator, and last the labeller: a folder with it is whole."""
    if found is not None:
        write_atomic(run.out / HELD_OUT, json.dumps(found.to_dict(), indent=1).encode() + b"\n")
    temporary = temporary_beside(run.out / BESIDE)
    shutil.copyfile(run.generator, temporary)
    publish(temporary, run.out / BESIDE)
    calibration = None if found is None else found.calibration
    write_labeller(run.out / BEST, fitted, run.config, learnt, _card(run, found), calibration)
    _leave_features(run)


def _leave_features(run: LabellerRun) -> None:
    """Remove the features of a run that is done, unless they are to stay; a kill may have come before that."""
    if not run.config.keep_features and (run.out / FEATURES).exists():
        shutil.rmtree(run.out / FEATURES)


def _card(run: LabellerRun, found: HeldOut | None) -> dict[str, Any]:
    """What a person, and whoever labels with the weights, must know of them."""
    fields, images = run.card.fields, run.images
    return {
        "labeller": HDGAN,
        "scheme": images.scheme.to_dict(),
        "mpp": fields["mpp"],
        "trained_size": fields["network"]["size"],
        "taps": list(run.taps),
        "drawing": images.drawing.model_dump(mode="json", exclude={"weights", "weights_sha256"}),
        "held_out": None if found is None else found.to_dict(),
        "config_sha256": run.folder.fingerprint,
        "sources": sorted({*fields["sources"], *images.sources}),
        "licences": sorted({*fields["licences"], *images.licences}),
        "use": f"research; {DISCLAIMER}",
    }


def _leave_history(out: Path, fitted: Fitted) -> None:
    """The course of the loss, one member after the other: a table and a plot."""
    losses = np.concatenate([np.array(each) for each in fitted.losses])
    step = max(len(losses) // _LOOKS, 1)
    rows = [{"step": end, "loss": float(losses[end - step : end].mean())} for end in range(step, len(losses) + 1, step)]
    write_history(out, rows)
    plot_history(out, rows, {"loss": {"loss": "members one after the other"}})


def _leave_sheet(
    run: LabellerRun,
    held: Sequence[tuple[Dataset, dict[str, Any]]],
    held_out: Sequence[Annotated],
    labels: Sequence[npt.NDArray[np.uint8]],
) -> None:
    """Held-out images, their annotation, and what the labeller says."""
    apart = max(max(run.card.fields["network"]["size"]) // _SHOWN_PX, 1)
    shown = [
        (dataset.store.read(row["index"], "image"), image.labels, said)
        for (dataset, row), image, said in zip(held[:_SHOWN], held_out, labels, strict=False)
    ]
    columns = [np.stack([each[::apart, ::apart] for each in column]) for column in zip(*shown, strict=True)]
    write_sample_sheet(run.out / SHEET, columns, run.images.scheme)
