"""A training run of a generator, from data sets to a run folder. Everything is checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from factory import joint, masks, renderers
from factory.core.checkpoints import write_weights
from factory.core.config import resolve_config
from factory.core.devices import usable_cores
from factory.core.fit import Diverged, FitResult, Row, TrainingTask, bytes_of_run, estimate, fit
from factory.core.history import plot_history
from factory.core.precision import resolve_precision
from factory.core.registry import resolve
from factory.core.training_folder import TrainingFolder
from factory.core.wording import dry_run
from factory.learn.crops import Tiles, open_tiles
from factory.learn.sample_sheet import write_sample_sheet
from factory.learn.trainer import Crops, Trainer, TrainerConfig, epoch_of, rate_factor
from factory.train.inputs import manifest_digest, shipped_name
from manifests.errors import UserError
from manifests.schema import DISCLAIMER

STATE_KIND = "generator-state"
SAMPLES = "samples"
_SHOWN = 8

UNHASHED = ("threads",)
"""Fields that say how a machine is used. They are not part of the fingerprint, but a resumed run keeps its threads."""


@dataclass(frozen=True)
class TrainingRun:
    """A run that is ready to start.

    Attributes:
        name: of the generator. config: resolved. tiles: to learn from. out: the run's folder.
        data: digests of the data sets' manifests. notes: to print, one line each.
    """

    name: str
    config: TrainerConfig
    tiles: Tiles
    out: Path
    data: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Number of steps in total."""
        per_epoch = max(len(self.tiles) // self.config.batch, 1)
        return self.config.steps or self.config.epochs * per_epoch

    @property
    def folder(self) -> TrainingFolder:
        """The run's folder, identified by generator, configuration and data."""
        config = self.config.model_dump(mode="json", exclude=set(UNHASHED))
        document = {"generator": self.name, "config": config, "data": list(self.data)}
        return TrainingFolder(self.out, document, self.config.model_dump(mode="json"), (SAMPLES,))


def resolve_trainer(
    name: str, config: str | None, assignments: Sequence[str], typed: dict[str, Any], device: str
) -> TrainerConfig:
    """Lay typed values over ``--set`` over ``--config`` over the generator's defaults; see `resolve_config`.

    Without ``--config`` the shipped file of the generator is used, on a CPU the one that ends in ``_light``.
    """
    config = config or shipped_name(_shipped_name(name), device)
    resolved = resolve_config(trainer_class(name).Config, "train", config, assignments, typed, config)
    return resolved.model_copy(update={"precision": resolve_precision(resolved.precision, device)})


def trainer_class(name: str) -> type[Trainer]:
    """Import the trainer of a generator.

    Raises:
        UserError: for an unknown name, or a generator that needs no training.
    """
    untrained = {*masks.MASKS, *renderers.RENDERERS} - {*masks.TRAINABLE, *renderers.TRAINABLE}
    if name in joint.FITTED or name in untrained:
        reason = "needs no training" if name in untrained else "learns from annotated images"
        raise UserError(f"NAME: expected one of {', '.join(trainers())}, got {name}, which {reason}.")
    if name in masks.TRAINABLE and name in renderers.TRAINABLE:
        raise UserError(
            f"NAME: expected masks/{name} or renderers/{name}, got {name}, which is the name of both. Say which."
        )
    found: type[Trainer] = resolve(trainers(), name, "NAME").Trainer
    return found


def trainers() -> dict[str, str]:
    """Return ``module:class`` of each trainable generator, by name.

    ``masks/`` or ``renderers/`` precedes a name that both tables have.
    """
    both = set(masks.TRAINABLE) & set(renderers.TRAINABLE)
    unlabelled = tuple(name for name in joint.TRAINABLE if name not in joint.FITTED)
    tables = (
        ("masks", masks.MASKS, masks.TRAINABLE),
        ("renderers", renderers.RENDERERS, renderers.TRAINABLE),
        ("joint", joint.JOINT, unlabelled),
    )
    return {f"{part}/{name}" if name in both else name: table[name] for part, table, names in tables for name in names}


def _shipped_name(name: str) -> str:
    """Return the name of a trainer's shipped configs; for a renderer that shares its name it ends in ``_images``."""
    part, _, own = name.rpartition("/")
    return f"{own}_images" if part == "renderers" else own


def prepare(
    name: str,
    config: TrainerConfig,
    data: Sequence[Path],
    out: Path | None,
    *,
    on_tile: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingRun:
    """Open and check everything; writes nothing.

    Args:
        name: of the generator. config: resolved. data: folders of data sets. out: the run's folder; None takes
            ``runs/train/NAME``. on_tile: called with the tiles checked and their number.

    Raises:
        UserError: when the data do not fit the configuration.
    """
    images_alone = trainer_class(name).images_alone
    tiles = open_tiles(data, config.scheme, config.size, config.batch, keep_ignored=images_alone, on_tile=on_tile)
    config.check_data(tiles.scheme, tiles.mpp)
    config = config.model_copy(update={"scheme": tiles.scheme.name})
    digests = tuple(manifest_digest(path) for path in data)
    notes = []
    if tiles.left_out:
        notes.append(f"{tiles.left_out} tiles contain ignored pixels (255) and are left out")
    return TrainingRun(name, config, tiles, out or Path("runs/train") / name.replace("/", "-"), digests, tuple(notes))


def train(
    run: TrainingRun,
    *,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda step, steps: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_look: Callable[[Row], None] = lambda row: None,
) -> FitResult:
    """Train, and write weights, card, state, history, plot and sheets of samples into the run folder.

    Args:
        run: as `prepare` returns it. device: where to train. resume: continue from the folder's state if there is one.
        overwrite: replace another run. on_start, on_step: see `fit`. on_look: called with each row of the history.
    """
    config, folder = run.config, run.folder
    folder.check(resume=resume, overwrite=overwrite)
    torch.set_num_threads(config.threads or usable_cores())
    if resume:
        folder.refuse_other_threads(torch.get_num_threads())
    task = _task_of(run, device)
    folder.check_room(bytes_of_run(task.networks, task.kept, task.ema))
    with folder.open(resume=resume):
        return fit(task, folder, device=device, resume=resume, on_start=on_start, on_step=on_step, on_row=on_look)


def rehearse(run: TrainingRun, device: str) -> str:
    """Tell the room and the time that a run needs, from two of its steps where these are quick."""
    height, width = run.config.size
    need, seconds = estimate(_task_of(run, device), run.config.batch * height * width, device)
    run.folder.check_room(need)
    return dry_run(need, run.out, seconds)


def _task_of(run: TrainingRun, device: str) -> _GeneratorTask:
    torch.manual_seed(run.config.seed)
    return _GeneratorTask(run, trainer_class(run.name)(run.config, run.tiles.scheme, device))


class _GeneratorTask(TrainingTask[list[Crops]]):
    """A trainer in the training loop. Each checkpoint writes weights, a plot and a sheet of samples."""

    state_kind = STATE_KIND
    advice = "Lower --set learning_rate."

    def __init__(self, run: TrainingRun, trainer: Trainer) -> None:
        self.networks, self.optimisers, self.kept = trainer.networks, trainer.optimisers, trainer.kept
        self.ema, self.steps = run.config.ema, run.steps
        self._run, self._config, self._trainer, self._draw = run, run.config, trainer, trainer.draw_from(run.tiles)
        shown = [self.draw(step) for step in range(math.ceil(_SHOWN / run.config.batch))]
        self._shown = [np.concatenate(parts)[:_SHOWN] for parts in zip(*shown, strict=True)]

    def draw(self, step: int) -> list[Crops]:
        return self._draw(step)

    def learning_rate(self, step: int) -> float:
        return self._config.learning_rate * rate_factor(self._config, step, self.steps)

    def step(self, batch: list[Crops], step: int) -> dict[str, torch.Tensor]:
        losses = self._trainer.step(batch, step, epoch_of(self._config, step, self.steps))
        values = torch.stack(list(losses.values())).tolist()
        if broken := [name for name, value in zip(losses, values, strict=True) if not math.isfinite(value)]:
            raise Diverged("finite losses", broken)
        return losses

    def is_due(self, steps: int) -> bool:
        return steps % self._config.look_every == 0

    def keep(self, network: nn.Module, history: Sequence[Row]) -> None:
        step, out = history[-1]["step"], self._run.out
        columns = self._trainer.sample(network, self._shown)
        network.train()
        write_sample_sheet(out / SAMPLES / f"step-{step:06d}.png", columns, self._run.tiles.scheme)
        losses = [name for name in history[0] if name not in ("step", "steps_per_s", "wait_share")]
        plot_history(out, history, {"losses": {name: name.replace("_", " ") for name in losses}})
        card = {**_card(self._run), **self._trainer.card(), "kind": self._trainer.kind, "step": step}
        write_weights(self._run.folder.weights, network.state_dict(), card)

    def extra_state(self) -> Mapping[str, torch.Tensor]:
        return self._trainer.extra_state()

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._trainer.load_extra_state(tensors)


def _card(run: TrainingRun) -> dict[str, Any]:
    """Return the fields of the weights' card that the run knows."""
    config = run.config.model_dump(mode="json", exclude=set(UNHASHED))
    return {
        "generator": run.name.rpartition("/")[2],
        "scheme": run.tiles.scheme.to_dict(),
        "mpp": run.tiles.mpp,
        "trained_size": list(run.config.size),
        "steps": run.steps,
        "tiles": len(run.tiles),
        "config": config,
        "config_sha256": run.folder.fingerprint,
        "sources": list(run.tiles.sources),
        "licences": list(run.tiles.licences),
        "use": f"research; {DISCLAIMER}",
    }
