"""A training run of a labeller: from a generator and a few of its images, annotated, to a run folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from factory.core.config import resolve_config
from factory.core.devices import usable_cores
from factory.core.history import plot_history, write_history
from factory.core.stopping import noting
from factory.core.training_folder import TrainingFolder
from factory.core.weights import BEST, Card, read_card
from factory.joint import HDGAN
from factory.joint.features import FeatureStore, Shape, need_bytes
from factory.joint.generators import generator_card, generator_path, open_generator
from factory.joint.hdgan import BESIDE, tap_shapes
from factory.joint.held_out import HeldOut, score_held_out
from factory.joint.labeller import KIND, Fitted, LabellerConfig, fit_labeller, steps_of, write_labeller
from factory.joint.pixels import Annotated
from factory.learn.sample_sheet import write_sample_sheet
from factory.train.annotated_images import LabelledImages, open_labelled, write_features
from factory.train.inputs import manifest_digest, shipped_name
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.files import publish, temporary_beside, write_atomic
from manifests.labels import IGNORE
from manifests.schema import DISCLAIMER

FEATURES = "features"
HELD_OUT = "held_out.json"
SHEET = "held_out.png"
FEW_STEPS = 200
"""Steps of a member below which a run is warned of: 25 ended at chance, the light preset takes 400."""
_NAMES = (FEATURES, HELD_OUT, SHEET, BESIDE)
_SHOWN = 4
_SHOWN_PX = 512
_HISTORY_ROWS = 100
_BLOCK_LAYERS = 2


class LabellerRunConfig(LabellerConfig):
    """Settings of a labeller's training, and the features it reads.

    Attributes:
        blocks: number of the generator's last blocks whose features are read (5 as published); null reads all.
        state_every: steps between two states. keep_features: keep the features in the folder at the end.
        threads: CPU threads of torch; null takes all cores.
    """

    blocks: int | None = Field(default=None, ge=1)
    state_every: int = Field(default=500, ge=1)
    keep_features: bool = False
    threads: int | None = Field(default=None, ge=1)


UNHASHED = frozenset({"state_every", "keep_features", "threads"})
"""Fields that are not part of the fingerprint. Only the threads can change the weights; a resumed run keeps them."""


@dataclass(frozen=True)
class LabellerRun:
    """A run that is ready to start.

    Attributes:
        config: resolved. generator: file of its weights. card: of these weights. images: annotated ones.
        taps: features that are read, by name, with their shapes. out: the run's folder.
        data: digests of the data sets' manifests.
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
        """The run's folder, identified by configuration, generator and data."""
        config = self.config.model_dump(mode="json", exclude=set(UNHASHED))
        document = {"labeller": HDGAN, "config": config, "generator": self.card.sha256, "data": list(self.data)}
        return TrainingFolder(self.out, document, self.config.model_dump(mode="json"), _NAMES)

    @property
    def need_bytes(self) -> int:
        """Bytes that the features of all annotated images take."""
        count = sum(len(self.images.rows(held_out=held_out)) for held_out in (False, True))
        return need_bytes(list(self.taps.values()), count)

    @cached_property
    def labelled_px(self) -> int:
        """Labelled pixels of the images that are learnt from."""
        rows = self.images.rows(held_out=False)
        labels = (dataset.store.read(row["index"], "semantic") for dataset, row in rows)
        return sum(int((each != IGNORE).sum()) for each in labels)

    @property
    def steps(self) -> int:
        """Steps of each classifier."""
        return steps_of(self.labelled_px, self.config)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to print, one line each."""
        notes = []
        if self.steps < FEW_STEPS:
            notes.append(
                f"{self.steps} steps are few: under {FEW_STEPS} a labeller may stay at chance. Annotate more, or use "
                "--steps 400 or --config hdgan_light"
            )
        if self.images.empty:
            notes.append(f"{self.images.empty} images have no label at all and are left out")
        if not self.images.rows(held_out=True):
            notes.append("no annotated image is of split val or test, so the labeller is not scored")
        return tuple(notes)


@dataclass(frozen=True)
class LabellerResult:
    """Outcome of a training run.

    Attributes:
        held_out: scores on held-out images; None without any. loss: mean last loss of the members; None when the run
            was finished before.
    """

    held_out: HeldOut | None
    loss: float | None


def resolve_labeller(
    config: str | None, assignments: Sequence[str], typed: dict[str, Any], device: str
) -> LabellerRunConfig:
    """Lay typed values over ``--set`` over ``--config`` over the defaults; see `resolve_config`."""
    config = config or shipped_name(HDGAN, device)
    return resolve_config(LabellerRunConfig, "train", config, assignments, typed, config)


def prepare(generator: str, data: Sequence[Path], config: LabellerRunConfig, out: Path | None) -> LabellerRun:
    """Open and check everything; writes nothing.

    Args:
        generator: "starter", weights or the folder of their run. data: folders of annotated images. config: resolved.
        out: the run's folder; None takes ``runs/train/hdgan``.
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
        config, generator_path(generator), card, images, taps, folder, tuple(manifest_digest(path) for path in data)
    )


def check_target(run: LabellerRun, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run folder that holds something else, or a disk without room for the missing features.

    Raises:
        UserError: for these, and for features in the folder that are damaged or belong to other weights.
    """
    store, images = FeatureStore(run.out / FEATURES, run.card.sha256), run.images
    names = [row["sample_id"] for _, row in [*images.rows(held_out=False), *images.rows(held_out=True)]]
    if run.folder.check(resume=resume, overwrite=overwrite):
        if is_finished(run):
            return
        names = store.missing(names)
    store.check_space(list(run.taps.values()), len(names))


def is_finished(run: LabellerRun) -> bool:
    """Return whether the folder holds the trained labeller of this run."""
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
    """Draw the annotated images again, train on their features, and score the held-out ones.

    Args:
        run: as `prepare` returns it. device: where to train. resume: continue from what is in the folder.
        overwrite: replace another run. on_image: called with images drawn and their number.
        on_step: called with steps done and their number, over all members.
    """
    check_target(run, resume=resume, overwrite=overwrite)
    if resume and is_finished(run):
        _remove_features(run)
        return LabellerResult(None, None)
    config, folder = run.config, run.folder
    torch.set_num_threads(config.threads or usable_cores())
    if resume:
        folder.refuse_other_threads(torch.get_num_threads())
    with folder.open(resume=resume), noting(lambda: _kept(run)):
        # Features.
        drawing = run.images.drawing
        generator = open_generator(run.generator, device, precision=drawing.precision)
        store = FeatureStore(run.out / FEATURES, run.card.sha256)
        training, held = run.images.rows(held_out=False), run.images.rows(held_out=True)
        drawn = write_features(generator, drawing, [*training, *held], store, run.taps, on_image)
        learnt, held_out = drawn[: len(training)], drawn[len(training) :]
        del generator

        # Labeller.
        fitted = fit_labeller(
            learnt,
            len(run.images.scheme),
            config,
            device=device,
            folder=folder,
            state_every=config.state_every,
            on_step=lambda member, step, loss: on_step(member * run.steps + step + 1, config.members * run.steps),
        )
        _write_history(run.out, fitted)

        # Scores on held-out images.
        found = None
        if held_out:
            found, labels = score_held_out(
                fitted.ensemble, held_out, run.images.scheme, seed=config.seed, device=device
            )
            _write_sheet(run, held, held_out, labels)
        _finish(run, fitted, learnt, found)
    return LabellerResult(found, float(np.mean([losses[-1] for losses in fitted.losses])))


def _kept(run: LabellerRun) -> str:
    """How many images need not be drawn again, in a sentence."""
    rows = [*run.images.rows(held_out=False), *run.images.rows(held_out=True)]
    return f"{run.out} keeps the features of {len(list((run.out / FEATURES).glob('*.json')))} of {len(rows)} images."


def _finish(run: LabellerRun, fitted: Fitted, learnt: Sequence[Annotated], found: HeldOut | None) -> None:
    """Write scores, the generator, and last the labeller, which marks the run as finished."""
    if found is not None:
        write_atomic(run.out / HELD_OUT, json.dumps(found.to_dict(), indent=1).encode() + b"\n")
    temporary = temporary_beside(run.out / BESIDE)
    shutil.copyfile(run.generator, temporary)
    publish(temporary, run.out / BESIDE)
    calibration = None if found is None else asdict(found.calibration)
    write_labeller(run.out / BEST, fitted, run.config, learnt, _card(run, found), calibration)
    _remove_features(run)


def _remove_features(run: LabellerRun) -> None:
    """Remove the features of a finished run unless they are kept."""
    if not run.config.keep_features and (run.out / FEATURES).exists():
        shutil.rmtree(run.out / FEATURES)


def _card(run: LabellerRun, found: HeldOut | None) -> dict[str, Any]:
    """Return the fields of the weights' card that the run knows."""
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


def _write_history(out: Path, fitted: Fitted) -> None:
    """Write the losses of the members, one after the other, as a table of mean values and a plot."""
    losses = np.concatenate([np.array(each) for each in fitted.losses])
    step = max(len(losses) // _HISTORY_ROWS, 1)
    rows = [{"step": end, "loss": float(losses[end - step : end].mean())} for end in range(step, len(losses) + 1, step)]
    write_history(out, rows)
    plot_history(out, rows, {"loss": {"loss": "members one after the other"}})


def _write_sheet(
    run: LabellerRun,
    held: Sequence[tuple[Dataset, dict[str, Any]]],
    held_out: Sequence[Annotated],
    labels: Sequence[npt.NDArray[np.uint8]],
) -> None:
    """Write a sheet of held-out images, their annotation and the predicted labels."""
    apart = max(max(run.card.fields["network"]["size"]) // _SHOWN_PX, 1)
    shown = [
        (dataset.store.read(row["index"], "image"), image.labels, predicted)
        for (dataset, row), image, predicted in zip(held[:_SHOWN], held_out, labels, strict=False)
    ]
    columns = [np.stack([each[::apart, ::apart] for each in column]) for column in zip(*shown, strict=True)]
    write_sample_sheet(run.out / SHEET, columns, run.images.scheme)
