"""`segment train`: fit a network to real tiles, synthetic tiles, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from factory.core.options import (
    CONFIGURATION,
    INPUT,
    OUTPUT,
    SCHEMES,
    Device,
    DryRun,
    Heading,
    Overwrite,
    Resume,
    TrainingPrecision,
)
from factory.core.shipped import shipped_configs
from segment.commands import options
from segment.network import NETWORKS

_NETWORK, _TRAINING = Heading("Network"), Heading("Training")


def train(
    mix: Annotated[
        str | None,
        INPUT(
            "real, synth, real+synth (every pixel equally likely), real+synth:SHARE of synthetic tiles, "
            "real+synth:FIRST..LAST share (changes evenly), or synth-then-real:SHARE of the steps on synthetic tiles "
            "first. [default: real+synth]"
        ),
    ] = None,
    real: options.Real = Path("data/real"),
    synth: options.Synth = Path("data/synth"),
    scheme: Annotated[
        str | None,
        INPUT(f"Label scheme of the network: {SCHEMES}, or a YAML file. [default: the richest common one]"),
    ] = None,
    net: Annotated[str | None, _NETWORK(f"Network: {', '.join(NETWORKS)}. [default: unetplusplus]")] = None,
    encoder: Annotated[
        str | None, _NETWORK("Encoder of the network. [default: mobilenet_v2; segnet: vgg16_bn]")
    ] = None,
    encoder_weights: Annotated[
        str | None, _NETWORK("Start the encoder from a safetensors file, or imagenet. [default: random]")
    ] = None,
    steps: Annotated[int | None, _TRAINING("Optimiser steps. [default: 1000]")] = None,
    batch: Annotated[int | None, _TRAINING("Crops in a step. [default: 8]")] = None,
    crop: Annotated[
        str | None,
        _TRAINING(
            "HEIGHTxWIDTH of a crop, or one side of a square; multiples of 32. "
            "[default: 256x256, less for smaller tiles]"
        ),
    ] = None,
    lr: Annotated[float | None, _TRAINING("Peak learning rate of AdamW. [default: 0.001]")] = None,
    patience: Annotated[
        int | None, _TRAINING("Stop after this many validations without improvement. [default: never]")
    ] = None,
    seed: Annotated[int | None, _TRAINING("Seed of weights, order and augmentation. [default: 0]")] = None,
    config: Annotated[
        str | None,
        CONFIGURATION(
            "YAML with what differs from the defaults: a file, or a shipped name: "
            f"{', '.join(shipped_configs('segment'))}. [default: none]"
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        CONFIGURATION(
            "Change one value of the configuration: --set loss.dice=0.5. Repeatable.", "--set", metavar="KEY=VALUE"
        ),
    ] = None,
    out: Annotated[Path | None, OUTPUT("Run folder. [default: runs/segment/NET-MIX]")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    precision: TrainingPrecision = None,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train a segmentation network on real tiles, synthetic tiles, or both.

    The run folder receives the best weights by validation, history, sample panels and TensorBoard events. Loss: Dice +
    cross entropy / 4, and for schemes with nuclei a predicted distance that separates touching ones. Validation: the
    val split of the real tiles, every 100 steps and at the end, by AJI and PQ where there are nuclei, else by mIoU.

    Examples:
      segment train --mix real+synth --steps 2000
      segment train --mix synth-then-real:0.5 --steps 2000 --set pretraining.rest=0.25
      segment train --mix real --real data/nuclei --config quick --out runs/segment/real-only
    """
    from factory.core.config import option_names, parse_size, resolve_config
    from factory.core.devices import resolve_device
    from manifests.errors import UserError

    if resume and overwrite:
        raise UserError("--resume: expected without --overwrite, got both. Choose one.")
    flags = {
        "mix": mix,
        "scheme": scheme,
        "network": {key: value for key, value in (("name", net), ("encoder", encoder)) if value is not None} or None,
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

    import yaml

    from factory.core.console import progress, say, working
    from factory.core.wording import dry_run as dry_run_text
    from segment.train import describe
    from segment.train import run as experiment
    from segment.train.config import TrainConfig

    given = {key: value for key, value in flags.items() if value is not None}
    named = {"network.name": "--net", "network.encoder": "--encoder"} if "network" in given else {}
    named = option_names({key: value for key, value in given.items() if key != "network"}) | named
    where = config or "segment train"
    settings = resolve_config(TrainConfig, "segment", config, assignments or [], given, where, named)
    job = experiment.prepare(settings, real, synth, out, device=device)
    say(*describe.describe(job))
    job.folder.check(resume=resume, overwrite=overwrite)
    if dry_run:
        say(yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False))
        with working("timing two steps"):
            need, seconds = experiment.estimate(job, device)
        job.folder.check_room(need)
        say(dry_run_text(need, job.out, seconds))
        return
    with progress("training", job.config.steps, unit="steps") as bar:
        result = experiment.run(
            job,
            device=device,
            resume=resume,
            overwrite=overwrite,
            on_start=bar.resume_at,
            on_step=bar.to,
            on_validation=lambda row: say(describe.describe_validation(row)),
        )
    say(
        *describe.describe_result(result, job),
        f"Next: segment evaluate --weights {job.out}; segment predict IMAGES --weights {job.out} --out predicted",
    )
