"""One training run of a generator, from data sets to a run folder: refused, where it must be, before it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factory import joint, masks, renderers
from factory.core.config import digest, merge, parse, parse_assignments, read_yaml
from factory.core.devices import usable_cores
from factory.core.fit import Fit, FitResult, Row, fit
from factory.core.precision import resolve_precision
from factory.core.registry import resolve
from factory.core.shipped import configs_dir
from factory.core.training_folder import TrainingFolder
from factory.learn.crops import Tiles, open_tiles
from factory.learn.trainer import SAMPLES, UNHASHED, GeneratorTask, Trainer, TrainerConfig
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.schema import DISCLAIMER
from manifests.table import MANIFEST


@dataclass(frozen=True)
class TrainingRun:
    """A run that is ready to start.

    Attributes:
        name: of the generator. config: resolved. tiles: to learn from. out: the run's folder. data: digests of the
        data sets' manifests. notes: what a person should know, one line each.
    """

    name: str
    config: TrainerConfig
    tiles: Tiles
    out: Path
    data: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Steps in all."""
        per_epoch = max(len(self.tiles) // self.config.batch, 1)
        return self.config.steps or self.config.epochs * per_epoch

    @property
    def folder(self) -> TrainingFolder:
        """The run's folder; its document says what decides the result."""
        config = self.config.model_dump(mode="json", exclude=set(UNHASHED))
        document = {"generator": self.name, "config": config, "data": list(self.data)}
        return TrainingFolder(self.out, document, self.config.model_dump(mode="json"), (SAMPLES,))


def resolve_trainer(
    name: str, config: str | None, assignments: Sequence[str], typed: dict[str, Any], device: str
) -> TrainerConfig:
    """Lay typed values over ``--set`` over ``--config`` over the generator's defaults.

    Args:
        name: of the generator. config: a YAML file, or the name of one in ``configs/train``; None takes
        ``<name>_light`` on a CPU and ``<name>`` elsewhere. assignments: ``KEY=VALUE`` words. typed: fields as typed.
        device: where training runs.

    Raises:
        UserError: for an unknown generator, key or file, or a value of the wrong form.
    """
    trainer = trainer_class(name)
    shipped = _shipped_name(name)
    path = config_path(config or (f"{shipped}_light" if device == "cpu" else shipped))
    values = merge(merge(read_yaml(path), parse_assignments(assignments)), typed)
    resolved = parse(trainer.Config, values, str(path.name if config is None else config))
    found: TrainerConfig = resolved.model_copy(update={"precision": resolve_precision(resolved.precision, device)})
    return found


def config_path(name: str) -> Path:
    """A YAML file as it is, or a shipped one of ``configs/train`` by name.

    Raises:
        UserError: when there is neither.
    """
    folder = configs_dir() / "train"
    shipped = folder / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) or not shipped.is_file():
        path = Path(name)
        if not path.is_file():
            known = ", ".join(sorted(found.stem for found in folder.glob("*.yaml")))
            raise UserError(f"--config: expected a YAML file or one of {known}, got {name!r}.")
        return path
    return shipped


def trainer_class(name: str) -> type[Trainer]:
    """The `Trainer` of a generator.

    Raises:
        UserError: for a generator that is not trained, or no generator.
    """
    if name in joint.FITTED:
        raise UserError(f"NAME: expected one of {', '.join(trainers())}, got {name}, which is fitted, not taught.")
    if name in {*masks.MASKS, *renderers.RENDERERS} and name not in {*masks.TRAINABLE, *renderers.TRAINABLE}:
        raise UserError(f"NAME: expected one of {', '.join(trainers())}, got {name}, which needs no training.")
    if name in masks.TRAINABLE and name in renderers.TRAINABLE:
        raise UserError(
            f"NAME: expected masks/{name} or renderers/{name}, got {name}, which is the name of both. Say which."
        )
    found: type[Trainer] = resolve(trainers(), name, "NAME").Trainer
    return found


def trainers() -> dict[str, str]:
    """What can be trained, by name; ``masks/`` or ``renderers/`` stands before a name that both tables have."""
    both = set(masks.TRAINABLE) & set(renderers.TRAINABLE)
    taught = tuple(name for name in joint.TRAINABLE if name not in joint.FITTED)
    tables = (
        ("masks", masks.MASKS, masks.TRAINABLE),
        ("renderers", renderers.RENDERERS, renderers.TRAINABLE),
        ("joint", joint.JOINT, taught),
    )
    return {f"{part}/{name}" if name in both else name: table[name] for part, table, names in tables for name in names}


def _shipped_name(name: str) -> str:
    """How the configs of a trainer are called: those of a renderer's that shares its name end in ``_images``."""
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

    Raises:
        UserError: for whatever is wrong with the data.
    """
    images_alone = trainer_class(name).images_alone
    tiles = open_tiles(data, config.scheme, config.size, config.batch, keep_ignored=images_alone, on_tile=on_tile)
    config.check_data(tiles.scheme, tiles.mpp)
    config = config.model_copy(update={"scheme": tiles.scheme.name})
    digests = tuple(manifest_digest(path) for path in data)
    notes = []
    if tiles.left_out:
        notes.append(f"{tiles.left_out} tiles hold ignored pixels (255) and are left out")
    return TrainingRun(name, config, tiles, out or Path("runs/train") / name.replace("/", "-"), digests, tuple(notes))


def manifest_digest(root: Path) -> str:
    """sha256 of what a data set's manifest says."""
    path = root / MANIFEST
    return sha256_file(path) if path.is_file() else digest([sha256_file(p) for p in sorted(root.glob("manifest/*"))])


def check_target(run: TrainingRun, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run folder that holds something else.

    Raises:
        UserError: with what to do about it.
    """
    run.folder.check(resume=resume, overwrite=overwrite)


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
    """Train, and write weights, card, state, history, plot and sheets of samples into the run folder."""
    check_target(run, resume=resume, overwrite=overwrite)
    config, scheme, folder = run.config, run.tiles.scheme, run.folder
    torch.set_num_threads(config.threads or usable_cores())
    if resume:
        folder.refuse_other_threads(torch.get_num_threads())
    torch.manual_seed(config.seed)
    trainer: Trainer = trainer_class(run.name)(config, scheme, device)
    draw = trainer.draw_from(run.tiles)
    with folder.open(resume=resume):
        return fit(
            Fit(
                task=GeneratorTask(trainer, config, scheme, run.steps, draw, run.out, _card(run)),
                draw=draw,
                steps=run.steps,
                out=run.out,
                fingerprint=folder.fingerprint,
                device=device,
                resume=resume,
                on_start=on_start,
                on_step=on_step,
                on_row=on_look,
            )
        )


def _card(run: TrainingRun) -> dict[str, Any]:
    """What a person, and whoever draws with the weights, must know of them."""
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
