"""Reads and writes weights and training states as safetensors with a card (`factory.core.weights`). Imports torch."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.modules.module import register_module_module_registration_hook

from factory.core.weights import BEST as BEST
from factory.core.weights import LAST as LAST
from factory.core.weights import read_card, read_header, write_with_card
from manifests.errors import FaultError, UserError, shown
from manifests.files import write_atomic
from manifests.limits import reads

Network = TypeVar("Network", bound=torch.nn.Module)
_MAX_MODULES = 20_000


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the JSON card of the file."""

    tensors: dict[str, torch.Tensor]
    card: dict[str, Any]


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> str:
    """Write tensors and card as one file, whole or not at all; returns the sha256 that the file stores."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_with_card(path, save(plain), card)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write weights, and a JSON copy of their card for people. Only the card inside the file is read again."""
    sha256 = write_checkpoint(path, tensors, card)
    readable = json.dumps({**card, "sha256": sha256}, indent=2, sort_keys=True)
    write_atomic(path.with_suffix(".json"), readable.encode() + b"\n")


def read_checkpoint(path: Path, kind: str) -> Checkpoint:
    """Read a file that `write_checkpoint` wrote."""
    card = read_card(path, kind)
    return Checkpoint(read_tensors(path), card.fields)


def build_for(path: Path, build: Callable[[], Network]) -> Network:
    """Build the network that a card describes, once the file is known to have its weights.

    Names and shapes are compared before memory is taken, as a card can describe a network of any size.

    Args:
        path: of the weights. build: the network, with random weights.

    Raises:
        UserError: when the file has other tensors.
    """
    wanted = {name: entry["shape"] for name, entry in read_header(path).items() if name != "__metadata__"}
    modules = itertools.count(1)

    def count(*added: object) -> None:
        if next(modules) > _MAX_MODULES:
            raise ValueError(f"more than {_MAX_MODULES} layers")

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers of size 0, whose shapes are refused below
            shapes = {name: list(tensor.shape) for name, tensor in build().state_dict().items()}
    except Exception as error:  # what a layer makes of numbers that fit no network
        raise UserError(f"{path}: expected a card of these weights, got: {shown(str(error))}. Get it again.") from error
    finally:
        hook.remove()
    if shapes != wanted:
        raise UserError(f"{path}: expected weights that fit their card, got others. Train them again.")
    return build()


@reads("a safetensors file")
def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file; never executes content of the file.

    Raises:
        UserError: for a missing file, a pickle, or any other file that is not whole safetensors.
    """
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a whole safetensors file, got: {reason}.") from error


def write_state(
    path: Path,
    modules: Mapping[str, torch.nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    card: Mapping[str, Any],
    device: str,
    extra: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the state of a training between two steps: networks, optimisers, random states, and a card.

    Schedules and samplers are functions of the step, so the step in the card is their state.

    Args:
        path: the file. modules: networks and their running means, by name. optimisers: by name. A name contains no dot.
        card: with the `kind` of the state. device: where training runs. extra: other tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    groups = {}
    for part, module in modules.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
    for part, optimiser in optimisers.items():
        state = optimiser.state_dict()
        groups[part] = state["param_groups"]
        for index, values in state["state"].items():
            tensors |= {f"{part}.{index}.{name}": tensor for name, tensor in values.items()}
    tensors |= {f"extra.{name}": tensor for name, tensor in (extra or {}).items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.startswith("cuda"):
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    write_checkpoint(path, tensors, {**card, "param_groups": groups})


def restore_state(
    checkpoint: Checkpoint,
    modules: Mapping[str, torch.nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    device: str,
) -> dict[str, torch.Tensor]:
    """Restore what `write_state` wrote; returns the extra tensors.

    Raises:
        FaultError: when the state does not fit these networks and optimisers.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    try:
        for part, module in modules.items():
            module.load_state_dict(parts[part])
        for part, optimiser in optimisers.items():
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in parts.get(part, {}).items():
                index, _, key = name.partition(".")
                moments.setdefault(int(index), {})[key] = tensor
            optimiser.load_state_dict({"state": moments, "param_groups": checkpoint.card["param_groups"][part]})
        torch.set_rng_state(parts["rng"]["cpu"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FaultError(
            f"checkpoint: expected the state of these networks, got: {str(error).splitlines()[0]}"
        ) from error
    if device.startswith("cuda") and "cuda" in parts["rng"]:
        torch.cuda.set_rng_state(parts["rng"]["cuda"], device)
    return parts.get("extra", {})
