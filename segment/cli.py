"""The command `segment`: train segmenters on the factory's tiles and on real ones, and score them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.core.console import run

app = typer.Typer(
    help="Train and judge segmentation networks on real tiles, synthetic tiles, or both.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Real = Annotated[Path, typer.Option(help="Data set of real tiles.")]
Synth = Annotated[Path, typer.Option(help="Data set of synthetic tiles.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


@app.command()
def train(
    mix: Annotated[
        str | None,
        typer.Option(
            help="real, synth, real+synth (every pixel equally likely) or real+synth:SHARE of synthetic tiles. "
            "[default: real+synth]"
        ),
    ] = None,
    real: Real = Path("data/real"),
    synth: Synth = Path("data/synth"),
    scheme: Annotated[
        str | None, typer.Option(help="Label scheme of the network. [default: the richest common one]")
    ] = None,
    net: Annotated[str | None, typer.Option(help="unetplusplus or segnet. [default: unetplusplus]")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the network. [default: mobilenet_v2; segnet: vgg16_bn]")
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="Start the encoder from a safetensors file, or imagenet. [default: random]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/segment/NET-MIX]")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. [default: 1000]")] = None,
    batch: Annotated[int | None, typer.Option(help="Views in a step. [default: 8]")] = None,
    crop: Annotated[
        str | None, typer.Option(help="HxW of a view, multiples of 32. [default: 256x256, less for smaller tiles]")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of AdamW. [default: 0.001]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation. [default: 0]")] = None,
    device: Device = "auto",
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML with what differs from the defaults: a file, or a shipped name (pdl1, quick, sharpgan). "
            "[default: none]"
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the config, e.g. loss.dice=0.5; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's checkpoint, if any.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print the resolved config, write nothing.")
    ] = False,
) -> None:
    """Train a network; the best weights by validation, history and plot go to the run folder.

    Loss: Dice + cross entropy / 4. Validation: the val split of the real tiles, every 100 steps and at the end.
    """
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
        "crop": _parse_crop(crop),
        "lr": lr,
        "seed": seed,
    }
    settings = _resolve_config(config, assignments or [], _given(flags))
    device = resolve_device(device)

    from factory.core.console import console, progress
    from segment import experiment, report

    job = experiment.prepare(settings, real, synth, out)
    terminal = console()
    for line in report.describe(job):
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    experiment.check_target(job, resume=resume, overwrite=overwrite)
    if dry_run:
        _print_config(terminal, job)
        return
    with progress("training", job.config.steps, unit="steps") as bar:
        result = experiment.run(
            job,
            device=device,
            resume=resume,
            overwrite=overwrite,
            on_step=bar.to,
            on_validation=lambda row: terminal.print(report.describe_validation(row), markup=False, soft_wrap=True),
        )
    for line in report.describe_result(result, job):
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Option(help="best.safetensors of a run, or the run's folder.")],
    mix: Annotated[
        str | None, typer.Option(help="Which data sets to score on: real, synth or real+synth. [default: as trained]")
    ] = None,
    real: Real = Path("data/real"),
    synth: Synth = Path("data/synth"),
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for the report. [default: beside the weights]")] = None,
) -> None:
    """Score weights per image and pooled, by source; JSON and Markdown go beside the weights.

    mIoU, wIoU, wPrecision, wRecall, Dice, tObjective; TPS error where the scheme knows tumour; DQ, SQ, PQ, AJI and
    AJI+ where it knows nuclei. Refused when a scored patient or slide was trained on.
    """
    from factory.core.console import console, progress
    from factory.core.devices import resolve_device
    from manifests.errors import UserError

    if split not in ("test", "val", "train", "all"):
        raise UserError(f"--split: expected test, val, train or all, got {split!r}.")
    device = resolve_device(device)

    from segment import report
    from segment.evaluate import check_test_leaks, load_weights
    from segment.evaluate import evaluate as score
    from segment.sources import open_sources, parse_mix, projections

    loaded = load_weights(weights, device)
    sources = open_sources(parse_mix(mix or loaded.card["mix"]), real, synth)
    parts = [(source, source.dataset if split == "all" else source.split(split)) for source in sources]
    parts = [(source, dataset) for source, dataset in parts if len(dataset)]
    if not parts:
        folders = ", ".join(str(source.dataset.root) for source in sources)
        raise UserError(f"{folders}: expected tiles with split {split}, got none. Choose another --split.")
    for _, dataset in parts:
        projections(dataset, loaded.scheme)  # another scheme is refused before the first image is scored
    if split in ("test", "all"):
        check_test_leaks(loaded, weights, parts, split)

    terminal = console()
    total = sum(len(dataset) for _, dataset in parts)
    with progress("scoring", total, unit="images") as bar:
        scores = score(loaded, parts, device, bar.advance)
    header = {"weights": str(weights), "step": loaded.card["step"], "split": split, "scheme": loaded.scheme.name}
    document = report.evaluation_document(scores, header, loaded.scheme)
    for table in report.evaluation_tables(document):
        terminal.print(table)
    folder = out or (weights if weights.is_dir() else weights.parent)
    for path in report.write_evaluation(document, folder):
        terminal.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given: None and empty mappings left out."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _parse_crop(text: str | None) -> tuple[int, int] | None:
    import re

    from manifests.errors import UserError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UserError(f"--crop: expected HEIGHTxWIDTH in pixels, got {text!r}. Write for example --crop 256x256.")
    return int(match[1]), int(match[2])


def _resolve_config(name: str | None, assignments: list[str], flags: dict[str, Any]) -> Any:
    """Defaults, then the YAML, then --set, then flags."""
    from factory.core.config import configs_dir, merge, parse, parse_assignments, read_yaml
    from manifests.errors import UserError
    from segment.training import TrainConfig

    values: dict[str, Any] = {}
    if name is not None:
        shipped = {path.stem: path for path in sorted((configs_dir() / "segment").glob("*.yaml"))}
        if not Path(name).exists() and name not in shipped:
            raise UserError(f"--config: expected a YAML file or a shipped name ({', '.join(shipped)}), got {name!r}.")
        values = read_yaml(Path(name) if Path(name).exists() else shipped[name])
    values = merge(merge(values, parse_assignments(assignments)), flags)
    return parse(TrainConfig, values, name or "segment train")


def _print_config(terminal: Any, job: Any) -> None:
    import yaml

    text = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False)
    terminal.print(text, markup=False, highlight=False, soft_wrap=True)
    terminal.print(f"dry run: nothing written, the run would go to {job.out}", markup=False, soft_wrap=True)


def main() -> None:
    """Entry point of the console script."""
    # Threads that spin long at OpenMP's barriers keep the core that another process or the batch thread needs. On two
    # cores a step took 0.42 s alone either way; beside a second training 5-12 s with libgomp's own count and 1.3-2.3 s
    # with this one. Read when torch is loaded, so it is set here; a user's own value stands.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    run(app, go_on="run the same command with --resume to go on")


if __name__ == "__main__":
    main()
