"""`segment train`: fit a network to real tiles, synthetic tiles, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from factory.core.choices import Precision
from factory.core.options import CONFIGURATION, INPUT, OUTPUT, RUNNING
from factory.core.shipped import shipped_configs
from segment.commands import options
from segment.network import NETWORKS

_NETWORK, _TRAINING = "Network", "Training"


def train(
    mix: Annotated[
        str | None,
        typer.Option(
            help="real, synth, real+synth (every pixel equally likely) or real+synth:SHARE of synthetic tiles. "
            "[default: real+synth]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    real: options.Real = Path("data/real"),
    synth: options.Synth = Path("data/synth"),
    scheme: Annotated[
        str | None,
        typer.Option(
            help=f"Label scheme of the network: {options.SCHEMES}, or a YAML file. [default: the richest common one]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(help=f"Network: {', '.join(NETWORKS)}. [default: unetplusplus]", rich_help_panel=_NETWORK),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder of the network. [default: mobilenet_v2; segnet: vgg16_bn]", rich_help_panel=_NETWORK
        ),
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(
            help="Start the encoder from a safetensors file, or imagenet. [default: random]", rich_help_panel=_NETWORK
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps. [default: 1000]", rich_help_panel=_TRAINING)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Crops in a step. [default: 8]", rich_help_panel=_TRAINING)] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH of a crop, or one side of a square; multiples of 32. "
            "[default: 256x256, less for smaller tiles]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of AdamW. [default: 0.001]", rich_help_panel=_TRAINING)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many validations without improvement. [default: never]", rich_help_panel=_TRAINING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of weights, order and augmentation. [default: 0]", rich_help_panel=_TRAINING),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help=f"YAML with what differs from the defaults: a file, or a shipped name: "
            f"{', '.join(shipped_configs('segment'))}. [default: none]",
            rich_help_panel=CONFIGURATION,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the configuration: --set loss.dice=0.5. Repeatable.",
            rich_help_panel=CONFIGURATION,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/segment/NET-MIX]", rich_help_panel=OUTPUT)
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Arithmetic of networks; auto: bf16 where the machine computes it in hardware. [default: auto]",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
) -> None:
    """Train a segmentation network on real tiles, synthetic tiles, or both.

    The run folder receives the best weights by validation, history, sample panels and TensorBoard events. Loss: Dice +
    cross entropy / 4, and for schemes with nuclei a predicted distance that separates touching ones. Validation: the
    val split of the real tiles, every 100 steps and at the end, by AJI and PQ where there are nuclei, else by mIoU.

    Examples:
      segment train --mix real+synth --steps 2000
      segment train --mix real --real data/nuclei --config quick --out runs/segment/real-only
    """
    from factory.core.config import parse_size
    from factory.core.devices import resolve_device
    from manifests.errors import UserError

    if resume and overwrite:
        raise UserError("--resume: expected without --overwrite, got both. Choose one.")
    flags = {
        "mix": mix,
        "scheme": scheme,
        "network": _given({"name": net, "encoder": encoder}),
        "encoder_weights": encoder_weights,
        "steps": steps,
        "batch": batch,
        "crop": parse_size(crop, "--crop") if crop is not None else None,
        "lr": lr,
        "precision": precision,
        "patience": patience,
        "seed": seed,
    }
    device = resolve_device(device)

    from factory.core.console import console, progress
    from segment.commands.settings import resolve
    from segment.train import describe
    from segment.train import run as experiment
    from segment.train.config import TrainConfig

    settings = resolve(
        TrainConfig, config, assignments or [], _given(flags), command="segment train", shipped="segment"
    )

    job = experiment.prepare(settings, real, synth, out, device=device)
    terminal = console()
    for line in describe.describe(job):
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    job.folder.check(resume=resume, overwrite=overwrite)
    if dry_run:
        _print_config(terminal, job)
        return
    with progress("training", job.config.steps, unit="steps") as bar:
        result = experiment.run(
            job,
            device=device,
            resume=resume,
            overwrite=overwrite,
            on_start=bar.resume_at,
            on_step=bar.to,
            on_validation=lambda row: terminal.print(describe.describe_validation(row), markup=False, soft_wrap=True),
        )
    for line in [
        *describe.describe_result(result, job),
        f"Next: segment evaluate --weights {job.out}; segment predict IMAGES --weights {job.out} --out predicted",
    ]:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given: None and empty mappings left out."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _print_config(terminal: Any, job: Any) -> None:
    import yaml

    from factory.core.wording import dry_run as dry_run_text

    text = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False)
    terminal.print(text, markup=False, highlight=False, soft_wrap=True)
    terminal.print(dry_run_text(None, job.out), markup=False, soft_wrap=True)
