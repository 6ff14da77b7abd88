"""Weights and training states as safetensors: one file, whole or absent, that carries its card and its own sha256.

Nothing here unpickles. safetensors alone does not notice a flipped bit, so the metadata holds a digest over the card
and every tensor's name, type, shape and bytes; a file is used only when it matches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from factory.core.config import canonical
from manifests.errors import FaultError, UserError
from manifests.files import write_atomic

BEST = "best.safetensors"
LAST = "last.safetensors"
WEIGHTS_KIND = "segment-weights"
STATE_KIND = "segment-state"

_KEY = "pathology_segment"
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the JSON card that came with them."""

    tensors: dict[str, torch.Tensor]
    card: dict[str, Any]


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> str:
    """Write tensors and card as one file: written aside, fsynced, renamed. What was there before stays until then.

    Returns:
        sha256 of the content, as kept in the file.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sha256 = _digest(plain, card)
    # One key, because safetensors writes several in no fixed order: equal content, equal bytes.
    write_atomic(path, save(plain, metadata={_KEY: canonical({"card": dict(card), "sha256": sha256})}))
    return sha256


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write a network's weights, and their card beside them as JSON for people; the copy inside the file counts."""
    sha256 = write_checkpoint(path, tensors, {**card, "kind": WEIGHTS_KIND})
    readable = json.dumps({**card, "kind": WEIGHTS_KIND, "sha256": sha256}, indent=2, sort_keys=True)
    write_atomic(path.with_suffix(".json"), readable.encode() + b"\n")


def read_checkpoint(path: Path, kind: str) -> Checkpoint:
    """Read a file written here.

    Raises:
        UserError: when it is missing, not safetensors, damaged, or of another kind.
    """
    tensors, metadata = read_tensors(path)
    try:
        document = json.loads(metadata[_KEY])
        card, sha256, found = document["card"], document["sha256"], document["card"]["kind"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected weights that segment train wrote, got a file without their card.") from error
    if sha256 != _digest(tensors, card):
        raise UserError(f"{path}: expected content that matches its sha256, got a damaged file. Get it again.")
    if found != kind:
        raise UserError(f"{path}: expected a file of kind {kind}, got {found}. Weights are in {BEST}.")
    return Checkpoint(tensors, card)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; executes nothing that the file holds.

    Raises:
        UserError: for a missing file, a pickle, or anything else that is not whole safetensors.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a whole safetensors file, got: {reason}.") from error


def _check_header(path: Path) -> None:
    """Look at the first bytes: little-endian uint64 length of a JSON object (safetensors format)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
            size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: expected a safetensors file, got: {error.strerror}.") from error
    length = int.from_bytes(head[:8], "little")
    if len(head) == 9 and head[8:] == b"{" and length <= min(size - 8, _MAX_HEADER_BYTES):
        return
    what = "other content"
    if head[:2] == b"PK":
        what = "a zip archive (torch.save makes those)"
    elif head[:1] == b"\x80":
        what = "a pickle"
    raise UserError(f"{path}: expected safetensors, got {what}. Weights in other formats are never loaded.")


def _digest(tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> str:
    sha256 = hashlib.sha256(canonical(dict(card)).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha256.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return sha256.hexdigest()


def write_state(
    path: Path, network: torch.nn.Module, optimiser: torch.optim.Optimizer, card: Mapping[str, Any], device: str
) -> None:
    """Write all that training needs to go on: weights, buffers, optimiser and random states, and `card` with the rest.

    Call it between steps. The schedule and the sampler are functions of the step, so the step in the card is their
    state.
    """
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    state = optimiser.state_dict()
    for index, values in state["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in values.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.startswith("cuda"):
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    write_checkpoint(path, tensors, {**card, "kind": STATE_KIND, "param_groups": state["param_groups"]})


def restore_state(
    checkpoint: Checkpoint, network: torch.nn.Module, optimiser: torch.optim.Optimizer, device: str
) -> None:
    """Put everything back as `write_state` found it.

    Raises:
        FaultError: when the state is not one of this network and optimiser.
    """
    model: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        part, _, rest = name.partition(".")
        if part == "model":
            model[rest] = tensor
        elif part == "optimiser":
            index, _, key = rest.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
    try:
        network.load_state_dict(model)
        optimiser.load_state_dict({"state": moments, "param_groups": checkpoint.card["param_groups"]})
        torch.set_rng_state(checkpoint.tensors["rng.cpu"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise FaultError(
            f"checkpoint: expected the state of this network, got: {str(error).splitlines()[0]}"
        ) from error
    if device.startswith("cuda") and "rng.cuda" in checkpoint.tensors:
        torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"], device)
