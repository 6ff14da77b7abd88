"""`factory train`: masks of data sets, with their images for a renderer, in; weights out."""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from factory import joint, masks, renderers
from factory.commands import options
from factory.core.choices import Precision
from factory.core.options import CONFIGURATION, INPUT, OUTPUT, RUNNING


def _names(part: ModuleType, other: ModuleType) -> str:
    """Names of a table that can be trained; those in both tables have the table's name before them."""
    folder = part.__name__.rpartition(".")[2]
    return ", ".join(f"{folder}/{name}" if name in other.TRAINABLE else name for name in part.TRAINABLE)


def train(
    name: Annotated[
        str,
        typer.Argument(
            help=f"Masks: {_names(masks, renderers)}. Images from masks: {_names(renderers, masks)}. "
            f"Images and labels: {', '.join(joint.TRAINABLE)}.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="Data set to learn from (its train split). Repeatable. [default: data/real]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help=f"Label scheme: {options.SCHEMES}, or a YAML file. "
            "[default: the richest that all data can be read as]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(joint.FITTED)}: run folder of the generator whose annotated images are in --data. "
            "[default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML file, or a name in configs/train. [default: NAME_light on a CPU, else NAME, the paper's]",
            rich_help_panel=CONFIGURATION,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the configuration: --set batch=4. Repeatable.",
            rich_help_panel=CONFIGURATION,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH of the crops, or one side of a square. [default: from the configuration]",
            rich_help_panel=CONFIGURATION,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimiser steps. [default: epochs of the configuration]", rich_help_panel=CONFIGURATION),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Crops in a step. [default: from the configuration]", rich_help_panel=CONFIGURATION),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, crops and noise. [default: 0]", rich_help_panel=CONFIGURATION)
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Arithmetic of networks; auto: bf16 where the machine computes it in hardware. [default: auto]",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    device: options.Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/train/NAME]", rich_help_panel=OUTPUT)
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train a generator of masks, of images, or of both, or the labeller of a generator's images.

    The same command with --resume continues an interrupted run, to the same bytes on a CPU.

    Examples:
      factory train depas --data data/real
      factory train pix2pixhd --data data/real --config pix2pixhd_light --steps 2000
      factory train hdgan --generator runs/train/stylegan2 --data data/annotated
    """
    import yaml

    from factory.commands.train_labeller import train_labeller
    from factory.core.config import parse_size
    from factory.core.console import console, progress
    from factory.core.devices import resolve_device
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import plural
    from factory.train import generator as training_run
    from manifests.errors import UserError

    if name not in joint.FITTED:
        training_run.trainer_class(name)  # an unknown name is said before torch looks for devices
    device = resolve_device(device)
    typed: dict[str, Any] = {
        "scheme": scheme,
        "size": parse_size(size) if size else None,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "precision": precision,
    }
    given = {key: value for key, value in typed.items() if value is not None}
    if name in joint.FITTED:
        train_labeller(
            generator,
            data,
            config,
            assignments or [],
            given,
            device=device,
            out=out,
            resume=resume,
            overwrite=overwrite,
            dry_run=dry_run,
        )
        return
    if generator is not None:
        raise UserError(f"--generator: expected none for {name}; it is for {', '.join(joint.FITTED)}. Leave it out.")
    trainer = training_run.resolve_trainer(name, config, assignments or [], given, device)
    with progress("looking at masks", 0, unit="tiles") as bar:
        run = training_run.prepare(name, trainer, data or [Path("data/real")], out, on_tile=bar.to)
    run.folder.check(resume=resume, overwrite=overwrite)
    terminal = console()

    def say(line: str) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    height, width = run.config.size
    say(
        f"{name}: {plural(len(run.tiles), 'mask')} of scheme {run.tiles.scheme.name} at {run.tiles.mpp:g} um per pixel"
        f", {run.steps} steps of {run.config.batch} crops of {height}x{width}, {run.config.precision} on {device}"
    )
    for note in run.notes:
        say(f"note: {note}")
    if dry_run:
        say(yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False))
        say(dry_run_text(None, run.out))
        return
    with progress("training", run.steps, unit="steps") as bar:
        result = training_run.train(
            run,
            device=device,
            resume=resume,
            overwrite=overwrite,
            on_start=bar.resume_at,
            on_step=bar.to,
            on_look=lambda row: say(_describe(row)),
        )
    went_on = f", going on from {result.start}" if result.start else ""
    waited = f"{result.wait_share:.1%} waiting for crops"
    say(f"{run.out}: {result.step} steps{went_on}, {result.steps_per_s:.2f} steps/s, {waited}")
    say(f"weights {run.out}/best.safetensors; look at {run.out}/samples and {run.out}/history.png")
    say(f"Use it: {_use_of(name, run.out)}")


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
