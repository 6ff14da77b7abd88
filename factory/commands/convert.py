"""`factory convert`: weights of an original implementation into weights of ours."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.core.options import INPUT, OUTPUT, SCHEMES, DryRun, Overwrite

Original = Literal["stylegan2"]
"""Implementations whose weights are converted."""


def convert(
    name: Annotated[Original, typer.Argument(help="stylegan2: NVlabs' PyTorch implementation of StyleGAN2-ADA.")],
    file: Annotated[Path, typer.Argument(help="safetensors file of G_ema.state_dict(); pickles are never opened.")],
    mpp: Annotated[float, INPUT("Micrometres per pixel of the images that it draws.")],
    scheme: Annotated[
        str, INPUT(f"Label scheme, until annotations bring theirs: {SCHEMES}, or a YAML file.")
    ] = "tissue",
    clamp: Annotated[float, INPUT("Bound of the outputs of its convolutions; 0 for none.")] = 256.0,
    source: Annotated[
        list[str] | None, INPUT("Training data, for card and manifests. Repeatable. [default: none]")
    ] = None,
    licence: Annotated[
        list[str] | None, INPUT("Licence of the weights and of the training data. Repeatable. [default: none]")
    ] = None,
    out: Annotated[Path, OUTPUT("Folder for the weights and their card.")] = Path("runs/train/stylegan2"),
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Convert a trained generator of its authors' implementation into weights for factory sample.

    Where the original runs, save plain tensors first: safetensors.torch.save_file({k: v.contiguous() for k, v in
    G_ema.state_dict().items()}, FILE).

    Examples:
      factory convert stylegan2 g_ema.safetensors --mpp 0.5
      factory convert stylegan2 g_ema.safetensors --mpp 0.25 --source BreCaHAD --licence CC-BY-4.0
    """
    import time

    from factory.core.console import say
    from factory.core.wording import dry_run as dry_run_text
    from factory.joint.convert import Origin
    from factory.joint.convert import convert as converted
    from factory.plan.rows import load_scheme

    assert name == "stylegan2"
    started = time.monotonic()
    origin = Origin(mpp, load_scheme(scheme), tuple(source or ()), tuple(licence or ()))
    network = converted(file, out, origin, clamp or None, overwrite=overwrite, dry_run=dry_run)
    height, width = network.size
    if dry_run:
        need = sum(tensor.nbytes for tensor in network.state_dict().values())
        say(dry_run_text(need, out, time.monotonic() - started))
        return
    say(
        f"{out}: generator of {height}x{width} at {mpp:g} um per pixel, latents of {network.z_dim} numbers; "
        f"next: factory sample --weights {out}"
    )
