"""`factory convert`: weights of an original implementation into weights of ours."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Original(StrEnum):
    """Whose weights are converted."""

    stylegan2 = "stylegan2"


def convert(
    name: Annotated[Original, typer.Argument(help="stylegan2: NVlabs' PyTorch implementation of StyleGAN2-ADA.")],
    file: Annotated[Path, typer.Argument(help="safetensors file of G_ema.state_dict(); pickles are never opened.")],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the images that it draws.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights and their card.")] = Path("runs/train/stylegan2"),
    scheme: Annotated[str, typer.Option(help="Label scheme or its YAML, until annotations bring theirs.")] = "tissue",
    clamp: Annotated[float, typer.Option(help="What its convolutions were bounded by; 0 for no bound.")] = 256.0,
    source: Annotated[
        list[str] | None,
        typer.Option(help="What it was trained on, for card and manifests. Repeatable. [default: none]"),
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="Of the weights and of that. Repeatable. [default: none]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other weights in --out.")] = False,
) -> None:
    """Convert a trained generator of the original implementation; then factory sample draws with it.

    Where the original runs, save plain tensors first: safetensors.torch.save_file({k: v.contiguous() for k, v in
    G_ema.state_dict().items()}, FILE).
    """
    from factory.core.console import console
    from factory.joint.convert import Origin
    from factory.joint.convert import convert as converted
    from factory.plan.rows import load_scheme

    assert name is Original.stylegan2
    origin = Origin(mpp, load_scheme(scheme), tuple(source or ()), tuple(licence or ()))
    network = converted(file, out, origin, clamp or None, overwrite=overwrite)
    height, width = network.size
    console().print(
        f"{out}: generator of {height}x{width} at {mpp:g} um per pixel, latents of {network.z_dim} numbers; "
        f"next: factory sample --weights {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
