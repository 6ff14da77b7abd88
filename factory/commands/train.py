"""`factory train`: masks of data sets, with their images for a renderer, in; weights out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from factory.commands import options


def train(
    name: Annotated[
        str,
        typer.Argument(
            help="depas, dcgan, priorpath, masks/cyclegan; pix2pixhd, sharpgan, pix2pix, renderers/cyclegan; "
            "stylegan2, hdgan.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Data set to learn from (its train split). Repeatable. [default: data/real]"),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="YAML, or a name in configs/train. [default: NAME_light on a CPU, else NAME, the paper's]"),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the config: --set batch=4. Repeatable.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Label scheme. [default: the richest that all data read as]")
    ] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the crops. [default: by config]")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. [default: epochs of the config]")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops in a step. [default: by config]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, crops and noise. [default: 0]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or auto: bf16 where the machine computes it. [default: auto]")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="hdgan: run of the generator whose annotated images --data has. [default: none]")
    ] = None,
    device: options.Device = "auto",
    out: Annotated[Path | None, typer.Option(help="The run's folder. [default: runs/train/NAME]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, print the configuration, stop.")] = False,
) -> None:
    """Train a generator of masks, a renderer or generator of images, or what labels a generator's images.

    Stopped? The same command with --resume goes on, to the same bytes on a CPU.
    """
    import yaml

    from factory import joint
    from factory.commands.train_labeller import train_labeller
    from factory.core.console import console, progress
    from factory.core.devices import resolve_device
    from factory.make.resolve import parse_size
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
        f"{name}: {len(run.tiles)} masks of scheme {run.tiles.scheme.name} at {run.tiles.mpp:g} um per pixel, "
        f"{run.steps} steps of {run.config.batch} crops of {height}x{width}, {run.config.precision} on {device}"
    )
    for note in run.notes:
        say(f"note: {note}")
    if dry_run:
        say(yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False))
        say(f"dry run: nothing written, the run would go to {run.out}")
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


def _describe(row: dict[str, Any]) -> str:
    losses = "  ".join(
        f"{name} {value:.3f}" for name, value in row.items() if name not in ("step", "steps_per_s", "wait_share")
    )
    return f"step {row['step']}  {losses}  {row['steps_per_s']:.2f} steps/s"
