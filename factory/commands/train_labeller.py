"""`factory train hdgan`: what it prints, and what of the options of `factory train` it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.errors import UserError


def train_labeller(
    generator: str | None,
    data: Sequence[Path] | None,
    config: str | None,
    assignments: Sequence[str],
    typed: dict[str, Any],
    *,
    device: str,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Train a labeller on the annotated images of a generator, and print how good it is on those held out.

    Args:
        generator: its weights. data: annotated images. config, assignments: as `factory train` takes them.
        typed: what else was typed, by the name of its option. device: where. out: the run's folder.
        resume, overwrite, dry_run: as everywhere.

    Raises:
        UserError: for options that make no sense here, and whatever is wrong with the input.
    """
    import yaml

    from factory.core.console import console, progress
    from factory.core.wording import dry_run as dry_run_text
    from factory.train import labeller as labeller_run

    for name in ("scheme", "size", "precision"):
        if typed.pop(name, None) is not None:
            raise UserError(f"--{name}: expected none for hdgan, which takes it from the images. Leave it out.")
    if generator is None or not data:
        missing = "--generator" if generator is None else "--data"
        raise UserError(f"{missing}: expected the generator's run and its annotated images, got none. Name both.")
    resolved = labeller_run.resolve_labeller(config, assignments, typed, device)
    run = labeller_run.prepare(generator, data, resolved, out)
    labeller_run.check_target(run, resume=resume, overwrite=overwrite)
    terminal = console()

    def say(line: str) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    learnt, held = (len(run.images.rows(held_out=held_out)) for held_out in (False, True))
    channels, (height, width) = sum(shape[0] for shape in run.taps.values()), run.card.fields["network"]["size"]
    say(
        f"hdgan: {learnt} annotated images of {height}x{width} to learn from and {held} held out, scheme "
        f"{run.images.scheme.name}; {channels} channels of {len(run.taps)} layers, {run.need_bytes / 1e9:.2f} GB of "
        f"features; {resolved.members} classifiers on {device}"
    )
    for note in run.notes:
        say(f"note: {note}")
    if dry_run:
        say(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False))
        say(dry_run_text(run.need_bytes, run.out))
        return
    with progress("drawing images, training", 0, unit="images, then steps") as bar:
        result = labeller_run.train(
            run, device=device, resume=resume, overwrite=overwrite, on_image=bar.to, on_step=bar.to
        )
    if result.loss is None:
        say(f"{run.out}: was finished before; figures on held-out images are in {run.out}/{labeller_run.HELD_OUT}")
        return
    for line in result.held_out.lines if result.held_out else []:
        say(line)
    say(f"weights {run.out}/best.safetensors, mean loss {result.loss:.3f}")
    say(f"Use it: factory make --joint hdgan --weights {run.out}")
