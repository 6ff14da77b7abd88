"""`factory convert`: weights of an original implementation into weights of ours."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.commands.options import SCHEMES, DryRun, Overwrite
from factory.core.options import INPUT, OUTPUT

Original = Literal["stylegan2"]
"""Implementations whose weights are converted."""


def convert(
    name: Annotated[Original, typer.Argument(help="stylegan2: NVlabs' PyTorch implementation of StyleGAN2-ADA.")],
    file: Annotated[Path, typer.Argument(help="safetensors file of G_ema.state_dict(); pickles are never opened.")],
    mpp: Annotated[
        float, typer.Option(help="Micrometres per pixel of the images that it draws.", rich_help_panel=INPUT)
    ],
    scheme: Annotated[
        str,
        typer.Option(
            help=f"Label scheme, until annotations bring theirs: {SCHEMES}, or a YAML file.", rich_help_panel=INPUT
        ),
    ] = "tissue",
    clamp: Annotated[
        float, typer.Option(help="Bound of the outputs of its convolutions; 0 for none.", rich_help_panel=INPUT)
    ] = 256.0,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help="Training data, for card and manifests. Repeatable. [default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help="Licence of the weights and of the training data. Repeatable. [default: none]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the weights and their card.", rich_help_panel=OUTPUT)] = Path(
        "runs/train/stylegan2"
    ),
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
    from factory.core.console import console
    from factory.core.wording import dry_run as dry_run_text
    from factory.joint.convert import Origin
    from factory.joint.convert import convert as converted
    from factory.plan.rows import load_scheme

    assert name == "stylegan2"
    origin = Origin(mpp, load_scheme(scheme), tuple(source or ()), tuple(licence or ()))
    network = converted(file, out, origin, clamp or None, overwrite=overwrite, dry_run=dry_run)
    height, width = network.size
    if dry_run:
        need = sum(tensor.nbytes for tensor in network.state_dict().values())
        console().print(dry_run_text(need, out), markup=False, highlight=False, soft_wrap=True)
        return
    console().print(
        f"{out}: generator of {height}x{width} at {mpp:g} um per pixel, latents of {network.z_dim} numbers; "
        f"next: factory sample --weights {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
