"""Conversion of the original implementation's weights (NVlabs/stylegan2-ada-pytorch, `G_ema`) to our `Generator`.

Theirs come as pickles of code, which are never opened here. Whoever has them saves the plain tensors first::

    safetensors.torch.save_file({k: v.contiguous() for k, v in G_ema.state_dict().items()}, "g_ema.safetensors")

Those weights may be licensed for research alone; that is for their owner to say, and the card of what is made of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from factory.core.checkpoints import BEST, read_tensors, write_weights
from factory.core.config import parse
from factory.core.folder import is_begun
from factory.joint.stylegan2 import WEIGHTS_KIND
from factory.nets.stylegan2 import Generator, StyleGan2Shape
from factory.nets.stylegan2_layers import Blur
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme
from manifests.schema import DISCLAIMER

_BLOCK = re.compile(r"synthesis\.b(\d+)\.")
_LAYER = re.compile(r"mapping\.fc(\d+)\.weight")
_CLAMP = 256.0
"""Bound of the convolutions in the original's training script. It is a setting and not among the tensors."""


@dataclass(frozen=True)
class Origin:
    """Metadata that is not stored in the tensors.

    Attributes:
        mpp: micrometres per pixel of the images. scheme: label scheme of the images.
        sources: training data of the weights. licences: of the weights and of that data.
    """

    mpp: float
    scheme: LabelScheme
    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()


def convert(
    path: Path,
    out: Path,
    origin: Origin,
    conv_clamp: float | None = _CLAMP,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Generator:
    """Write the original's weights as those of a run of ours: ``best.safetensors`` with its card.

    Args:
        path: a safetensors file with the original's names. out: folder of the run. origin: for the card.
        conv_clamp: see `read_original`. overwrite: weights that are in the folder. dry_run: write nothing.

    Raises:
        UserError: for other weights, a resolution or bound that is none, or a folder that holds something else.
    """
    if not 0 < origin.mpp < math.inf:
        raise UserError(f"--mpp: expected micrometres per pixel above 0, got {origin.mpp:g}.")
    if conv_clamp is not None and not 0 < conv_clamp < math.inf:
        raise UserError(f"--clamp: expected a number above 0, or 0 for no bound, got {conv_clamp:g}.")
    card_path = Path(BEST).with_suffix(".json").name
    if is_begun(out, "converted weights", {BEST, card_path}.__contains__) and not overwrite:
        raise UserError(f"{out}: expected an empty folder, got weights. Use --overwrite or another --out.")
    network = read_original(path, conv_clamp)
    if dry_run:
        return network
    card = {
        "kind": WEIGHTS_KIND,
        "generator": "stylegan2",
        "network": {**network.shape.model_dump(mode="json"), "size": list(network.size)},
        "scheme": origin.scheme.to_dict(),
        "mpp": origin.mpp,
        "trained_size": list(network.size),
        "converted_from": {"name": path.name, "sha256": sha256_file(path)},
        "sources": list(origin.sources),
        "licences": list(origin.licences),
        "use": f"research; {DISCLAIMER}",
    }
    out.mkdir(parents=True, exist_ok=True)
    write_weights(out / BEST, network.state_dict(), card)
    return network


def read_original(path: Path, conv_clamp: float | None = _CLAMP) -> Generator:
    """The generator of a safetensors file with the original's names.

    Args:
        path: the file. conv_clamp: what its convolutions were bounded by; None where they were not.
    """
    return converted(read_tensors(path), conv_clamp, where=str(path))


def converted(
    tensors: Mapping[str, torch.Tensor], conv_clamp: float | None = _CLAMP, *, where: str = "weights"
) -> Generator:
    """The generator of the original's tensors by name, in eval mode; equal images up to rounding.

    Args:
        tensors: the `state_dict` of an unconditional `G_ema`, floats. conv_clamp: see `read_original`. where: named in
        errors.

    Raises:
        UserError: for tensors that are missing, too many, no finite floats, of another shape or another architecture.
    """
    _refuse_other_numbers(tensors, where)
    shape, side = _shape_of(tensors, conv_clamp, where)
    network = Generator(shape, (side, side))
    ours = network.state_dict()
    theirs = {name: _original_name(name) for name in ours}
    filters = {name for name in tensors if name.endswith(".resample_filter")}
    _refuse_other_filters({name: tensors[name] for name in filters}, where)
    _refuse_other_names(set(theirs.values()), set(tensors) - filters, where)
    for name, original in theirs.items():
        if tensors[original].shape != ours[name].shape:
            raise UserError(
                f"{where}: {original}: expected {_text(ours[name])}, got {_text(tensors[original])}. "
                "Only the default architecture with skips is converted."
            )
    network.load_state_dict({name: tensors[original].float() for name, original in theirs.items()})
    return network.eval()


def _shape_of(tensors: Mapping[str, torch.Tensor], conv_clamp: float | None, where: str) -> tuple[StyleGan2Shape, int]:
    """Shape and side of a generator with such tensors."""
    if any(name.startswith("mapping.embed.") for name in tensors):
        raise UserError(f"{where}: expected an unconditional generator, got one with classes. Use another.")
    sides = sorted({int(found[1]) for found in map(_BLOCK.match, tensors) if found})
    layers = [name for name in tensors if _LAYER.fullmatch(name)]
    first = tensors.get("mapping.fc0.weight")
    if first is None or len(sides) < 2 or sides != [4 << n for n in range(len(sides))]:
        raise UserError(
            f"{where}: expected the state dict of the original's G_ema (mapping.fc0.weight, synthesis.b4.const ...), "
            f"got {', '.join(sorted(tensors)[:3]) or 'nothing'} .... Save G_ema.state_dict()."
        )
    w_dim, z_dim = _sizes(tensors, "mapping.fc0.weight", 2, where)
    widths = {side: _sizes(tensors, f"synthesis.b{side}.conv1.weight", 4, where)[0] for side in sides}
    values = {
        "z_dim": z_dim,
        "w_dim": w_dim,
        "mapping_layers": len(layers),
        "channel_base": max(side * width for side, width in widths.items()),
        "channel_max": max(widths.values()),
        "conv_clamp": conv_clamp,
    }
    return parse(StyleGan2Shape, values, where), sides[-1]


def _sizes(tensors: Mapping[str, torch.Tensor], name: str, axes: int, where: str) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes."""
    if name not in tensors:
        raise UserError(f"{where}: {name}: expected a tensor, got none. Save the whole G_ema.state_dict().")
    if tensors[name].ndim != axes:
        raise UserError(
            f"{where}: {name}: expected a tensor of {axes} axes, got {_text(tensors[name])}. Save G_ema.state_dict()."
        )
    return tuple(tensors[name].shape)


def _original_name(name: str) -> str:
    """The original's name of one of our tensors."""
    name = re.sub(r"^mapping\.layers\.(\d+)\.", r"mapping.fc\1.", name)
    name = re.sub(r"^synthesis\.constant$", "synthesis.b4.const", name)
    found = re.match(r"synthesis\.blocks\.(\d+)\.(.*)", name)
    if not found:
        return name
    rest = found[2].removeprefix("convolutions.").replace("to_rgb.", "torgb.").replace(".convolution.", ".")
    return f"synthesis.b{4 << int(found[1])}.{rest}"


def _refuse_other_numbers(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            got = "some that are not" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{where}: {name}: expected finite floats, got {got}. Save G_ema.state_dict().")


def _refuse_other_filters(filters: Mapping[str, torch.Tensor], where: str) -> None:
    ours = Blur(0).kernel[0, 0]
    for name, kernel in filters.items():
        if kernel.shape != ours.shape or not torch.allclose(kernel.float(), ours, atol=1e-6):
            raise UserError(f"{where}: {name}: expected the filter [1, 3, 3, 1], got another. Use other weights.")


def _refuse_other_names(expected: set[str], got: set[str], where: str) -> None:
    for names, wrong in ((expected - got, "none"), (got - expected, "one")):
        if names:
            wanted = "a tensor" if wrong == "none" else "no tensor"
            more = f" ({len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(
                f"{where}: {min(names)}: expected {wanted} of that name, got {wrong}{more}. "
                "Only the default architecture with skips is converted."
            )


def _text(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
