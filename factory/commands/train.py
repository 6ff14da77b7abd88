"""`factory train`: masks of data sets, with their images for a renderer, in; weights out."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory import joint, masks, renderers
from factory.core.command_line import unpacked
from factory.core.options import (
    CONFIGURATION,
    INPUT,
    OUTPUT,
    SCHEMES,
    Device,
    DryRun,
    Overwrite,
    Resume,
    TrainingPrecision,
)

if TYPE_CHECKING:
    from factory.core.config import Config


def _names(part: ModuleType, other: ModuleType) -> str:
    """Names of a table that can be trained; those in both tables have the table's name before them."""
    folder = part.__name__.rpartition(".")[2]
    return ", ".join(f"{folder}/{name}" if name in other.TRAINABLE else name for name in part.TRAINABLE)


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Options of `factory train`."""

    name: Annotated[
        str,
        typer.Argument(
            help=f"Masks: {_names(masks, renderers)}. Images from masks: {_names(renderers, masks)}. "
            f"Images and labels: {', '.join(joint.TRAINABLE)}. Real tissue: {', '.join(renderers.COLLECTED)}.",
            show_default=False,
        ),
    ]
    data: Annotated[
        list[Path] | None, INPUT("Data set to learn from (its train split). Repeatable. [default: data/real]")
    ] = None
    scheme: Annotated[
        str | None,
        INPUT(f"Label scheme: {SCHEMES}, or a YAML file. [default: the richest that all data can be read as]"),
    ] = None
    generator: Annotated[
        str | None,
        INPUT(
            f"{', '.join(joint.FITTED)}: run folder of the generator whose annotated images are in --data. "
            "[default: none]"
        ),
    ] = None
    max_mb: Annotated[
        float | None,
        INPUT(f"{', '.join(renderers.COLLECTED)}: size of the bank at most. [default: 200]"),
    ] = None
    config: Annotated[
        str | None,
        CONFIGURATION("YAML file, or a name in configs/train. [default: NAME_light on a CPU, else NAME, the paper's]"),
    ] = None
    assignments: Annotated[
        list[str] | None,
        CONFIGURATION(
            "Change one value of the configuration: --set batch=4. Repeatable.", "--set", metavar="KEY=VALUE"
        ),
    ] = None
    size: Annotated[
        str | None,
        CONFIGURATION("HEIGHTxWIDTH of the crops, or one side of a square. [default: from the configuration]"),
    ] = None
    steps: Annotated[int | None, CONFIGURATION("Optimiser steps. [default: epochs of the configuration]")] = None
    batch: Annotated[int | None, CONFIGURATION("Crops in a step. [default: from the configuration]")] = None
    seed: Annotated[int | None, CONFIGURATION("Seed of weights, crops and noise. [default: 0]")] = None
    precision: TrainingPrecision = None
    device: Device = "auto"
    out: Annotated[Path | None, OUTPUT("Run folder. [default: runs/train/NAME]")] = None
    resume: Resume = False
    overwrite: Overwrite = False
    dry_run: DryRun = False


@unpacked
def train(request: TrainRequest) -> None:
    """Train a generator of masks, of images, or of both, or the labeller of a generator's images.

    The same command with --resume continues an interrupted run, to the same bytes on a CPU.

    Examples:
      factory train depas --data data/real
      factory train pix2pixhd --data data/real --config pix2pixhd_light --steps 2000
      factory train hdgan --generator runs/train/stylegan2 --data data/annotated
      factory train exemplar --data data/real --max-mb 100
    """
    from factory.core.config import parse_size
    from factory.core.devices import resolve_device
    from factory.train import generator as generators

    if request.name in renderers.COLLECTED:
        _collect_bank(request)
        return
    if request.max_mb is not None:
        from manifests.errors import UserError

        raise UserError(f"--max-mb: expected none for {request.name}; it is for {', '.join(renderers.COLLECTED)}.")
    if request.name not in joint.FITTED:
        generators.trainer_class(request.name)  # an unknown name is said before torch looks for devices
    typed = {key: getattr(request, key) for key in ("scheme", "steps", "batch", "seed", "precision")}
    typed["size"] = parse_size(request.size) if request.size else None
    given = {key: value for key, value in typed.items() if value is not None}
    run = _train_labeller if request.name in joint.FITTED else _train_generator
    run(request, given, resolve_device(request.device))


def _collect_bank(request: TrainRequest) -> None:
    from factory.core.console import progress, say
    from factory.core.wording import dry_run, plural
    from factory.train import bank
    from manifests.errors import UserError

    for name in ("generator", "config", "assignments", "size", "steps", "batch", "precision"):
        if getattr(request, name) is not None:
            option = "set" if name == "assignments" else name
            raise UserError(f"--{option}: expected none for {request.name}, which is collected and not trained.")
    run = bank.prepare(
        request.data or [Path("data/real")],
        request.out,
        scheme=request.scheme,
        max_mb=request.max_mb,
        seed=request.seed,
        overwrite=request.overwrite,
    )
    chosen = run.collection
    say(
        f"{request.name}: {len(chosen.chosen)} of {plural(chosen.offered, 'tile')}, "
        f"{plural(len(chosen.slides), 'slide')}, scheme {chosen.scheme.name} at {chosen.mpp:g} um per pixel"
    )
    if request.dry_run:
        say(dry_run(run.size_bytes, run.out))
        return
    with progress("collecting", len(chosen.chosen), unit="tiles") as bar:
        card = bank.write(run, lambda done: bar.to(done, len(chosen.chosen)))
    found = ", ".join(f"{count:,} {name}" for name, count in card["nuclei"].items()) or "none"
    say(
        f"{run.out}: bank of real tissue under {', '.join(card['licences'])}; nuclei: {found}",
        f"Use it: factory make --renderer {request.name} --set renderer.bank={run.out}",
    )


def _train_generator(request: TrainRequest, typed: dict[str, Any], device: str) -> None:
    from factory.core.console import progress, say, working
    from factory.core.wording import plural
    from factory.train import generator as generators
    from manifests.errors import UserError

    name, how = request.name, {"resume": request.resume, "overwrite": request.overwrite}
    if request.generator is not None:
        raise UserError(f"--generator: expected none for {name}; it is for {', '.join(joint.FITTED)}. Leave it out.")
    trainer = generators.resolve_trainer(name, request.config, request.assignments or [], typed, device)
    with progress("looking at masks", 0, unit="tiles") as bar:
        run = generators.prepare(name, trainer, request.data or [Path("data/real")], request.out, on_tile=bar.to)
    run.folder.check(**how)
    height, width = run.config.size
    say(
        f"{name}: {plural(len(run.tiles), 'mask')} of scheme {run.tiles.scheme.name} at {run.tiles.mpp:g} um per pixel"
        f", {run.steps} steps of {run.config.batch} crops of {height}x{width}, {run.config.precision} on {device}",
        *(f"note: {note}" for note in run.notes),
    )
    if request.dry_run:
        say(_yaml(run.config))
        with working("timing two steps"):
            needs = generators.rehearse(run, device)
        say(needs)
        return
    with progress("training", run.steps, unit="steps") as bar:
        result = generators.train(
            run,
            device=device,
            **how,
            on_start=bar.resume_at,
            on_step=bar.to,
            on_look=lambda row: say(_describe(row)),
        )
    went_on = f", going on from {result.start}" if result.start else ""
    waited = f"{result.wait_share:.1%} waiting for crops"
    say(
        f"{run.out}: {result.step} steps{went_on}, {result.steps_per_s:.2f} steps/s, {waited}",
        f"weights {run.out}/best.safetensors; look at {run.out}/samples and {run.out}/history.png",
        f"Use it: {_use_of(name, run.out)}",
    )


def _train_labeller(request: TrainRequest, typed: dict[str, Any], device: str) -> None:
    from factory.core.console import progress, say
    from factory.core.wording import dry_run as dry_run_text
    from factory.train import labeller as labellers
    from manifests.errors import UserError

    for name in ("scheme", "size", "precision"):
        if typed.pop(name, None) is not None:
            raise UserError(f"--{name}: expected none for hdgan, which takes it from the images. Leave it out.")
    if request.generator is None or not request.data:
        missing = "--generator" if request.generator is None else "--data"
        raise UserError(f"{missing}: expected the generator's run and its annotated images, got none. Name both.")
    resolved = labellers.resolve_labeller(request.config, request.assignments or [], typed, device)
    run = labellers.prepare(request.generator, request.data, resolved, request.out)
    how = {"resume": request.resume, "overwrite": request.overwrite}
    labellers.check_target(run, **how)
    learnt, held = (len(run.images.rows(held_out=held_out)) for held_out in (False, True))
    channels, (height, width) = sum(shape[0] for shape in run.taps.values()), run.card.fields["network"]["size"]
    say(
        f"hdgan: {learnt} annotated images of {height}x{width} to learn from and {held} held out, scheme "
        f"{run.images.scheme.name}; {channels} channels of {len(run.taps)} layers, {run.need_bytes / 1e9:.2f} GB of "
        f"features; {resolved.members} classifiers of {run.steps} steps of {resolved.batch:,} each, for "
        f"{run.labelled_px:,} labelled pixels, on {device}",
        *(f"note: {note}" for note in run.notes),
    )
    if request.dry_run:
        say(_yaml(resolved), dry_run_text(run.need_bytes, run.out))
        return
    with progress("drawing images, training", 0, unit="images, then steps") as bar:
        result = labellers.train(run, device=device, **how, on_image=bar.to, on_step=bar.to)
    if result.loss is None:
        say(f"{run.out}: was finished before; figures on held-out images are in {run.out}/{labellers.HELD_OUT}")
        return
    say(
        *(result.held_out.lines if result.held_out else []),
        f"weights {run.out}/best.safetensors, mean loss {result.loss:.3f}",
        f"Use it: factory make --joint hdgan --weights {run.out}",
    )


def _yaml(config: "Config") -> str:
    import yaml

    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _use_of(name: str, out: Path) -> str:
    """Command line that draws with trained weights."""
    short = name.rpartition("/")[2]
    if name in joint.TRAINABLE:
        return f"factory sample --weights {out}"
    part = "renderer" if short in renderers.TRAINABLE and not name.startswith("masks/") else "masks"
    return f"factory make --{part} {short} --set {part}.weights={out}"


def _describe(row: dict[str, Any]) -> str:
    losses = "  ".join(
        f"{name} {value:.3f}" for name, value in row.items() if name not in ("step", "steps_per_s", "wait_share")
    )
    return f"step {row['step']}  {losses}  {row['steps_per_s']:.2f} steps/s"
