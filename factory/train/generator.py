"""One training run of a generator, from data sets to a run folder: refused, where it must be, before it writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factory import joint, masks, renderers
from factory.core.checkpoints import BEST, LAST
from factory.core.config import digest, merge, parse, parse_assignments, read_yaml
from factory.core.folder import begin, check_same, is_begun
from factory.core.history import HISTORY, PLOT
from factory.core.precision import resolve_precision
from factory.core.registry import resolve
from factory.core.runs import RUN, lock_folder
from factory.core.shipped import configs_dir
from factory.core.weights import read_card
from factory.learn.crops import Tiles, open_tiles
from factory.learn.training import SAMPLES, UNHASHED, Fit, FitResult, TrainerConfig, fit
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.schema import DISCLAIMER
from manifests.table import MANIFEST

_OWN = frozenset({RUN, BEST, "best.json", LAST, HISTORY, PLOT, SAMPLES})


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
    def document(self) -> dict[str, Any]:
        """What decides the result."""
        config = self.config.model_dump(mode="json", exclude=set(UNHASHED))
        return {"generator": self.name, "config": config, "data": list(self.data)}


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


def trainer_class(name: str) -> Any:
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
    return resolve(trainers(), name, "NAME").Trainer


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
    images_alone = getattr(trainer_class(name), "images_alone", False)
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
    if not is_begun(run.out, "a run", lambda name: name in _OWN) or (overwrite and not resume):
        return
    if not resume:
        raise UserError(f"{run.out}: expected an empty folder, got a run. Use --resume, --overwrite or another --out.")
    check_same(run.out, "a run", run.document, "Use another --out, or --overwrite.")


def train(
    run: TrainingRun,
    *,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda step, steps: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_look: Callable[[dict[str, Any]], None] = lambda row: None,
) -> FitResult:
    """Train, and leave weights, card, state, history, plot and sheets in the run folder."""
    check_target(run, resume=resume, overwrite=overwrite)
    config = run.config
    torch.set_num_threads(config.threads or usable_cores())
    refuse_other_threads(run.out, resume, torch.get_num_threads())
    torch.manual_seed(config.seed)
    trainer = trainer_class(run.name)(config, run.tiles.scheme, device)
    draw = trainer.draw_from(run.tiles)
    run.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(run.out):
        begin(run.out, run.document, config.model_dump(mode="json"), clear=not resume)
        return fit(
            Fit(
                config=config,
                trainer=trainer,
                scheme=run.tiles.scheme,
                steps=run.steps,
                draw=draw,
                out=run.out,
                card=_card(run),
                fingerprint=digest(run.document),
                device=device,
                resume=resume,
                on_start=on_start,
                on_step=on_step,
                on_look=on_look,
            )
        )


def refuse_other_threads(out: Path, resume: bool, threads: int) -> None:
    """Sums come out otherwise in their last bits with another number of threads, so a resumed run keeps its own.

    Raises:
        UserError: when the checkpoint to go on from was written with another number.
    """
    path = out / LAST
    if not resume or not path.exists():
        return
    before = read_card(path).fields.get("threads")
    if before is not None and before != threads:
        raise UserError(
            f"{path}: expected the {before} threads it was trained with, got {threads}. Use --set threads={before}."
        )


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        "config_sha256": digest(run.document),
        "sources": list(run.tiles.sources),
        "licences": list(run.tiles.licences),
        "use": f"research; {DISCLAIMER}",
    }
