"""Weights files: safetensors with their card and a sha256 of the content. Read here without torch.

Nothing here unpickles. safetensors alone does not notice a flipped bit, so the file's metadata holds a digest over the
card, every tensor's name, type, shape and place, and all their bytes; a file is used only when it matches.

The format (huggingface/safetensors, README, "Format"): a little-endian uint64 with the length of a JSON header, the
header ``{name: {"dtype", "shape", "data_offsets"}, "__metadata__": {text: text}}``, then the bytes of the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.cards import check_card
from factory.core.config import canonical
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.limits import parse_json, reads

SUFFIX = ".safetensors"
BEST = "best.safetensors"
"""The weights that a run keeps, in its folder."""

LAST = "last.safetensors"
"""The state that a run is resumed from, in its folder."""

_KEY = "pathology_tile_factory"
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 8 << 20
_MAX_HEADER_VALUES = 1_000_000
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Card:
    """Card of a weights file, verified against its content.

    Attributes:
        fields: the JSON card; `kind` is the purpose of the file.
        sha256: of card and tensors, as kept in the file.
        size_bytes: of the file.
    """

    fields: dict[str, Any]
    sha256: str
    size_bytes: int

    @property
    def kind(self) -> str:
        """Purpose of the file, e.g. ``segment-weights``."""
        return str(self.fields["kind"])

    def refuse_other(self, path: Path, sha256: str | None, otherwise: str) -> None:
        """Raise a UserError where `sha256` is of other weights than these; None is of any.

        Args:
            path: of the file. sha256: of the expected weights. otherwise: advice if these are meant.
        """
        if sha256 not in (None, self.sha256):
            raise UserError(
                f"{path}: expected the weights {str(sha256)[:12]}..., got {self.sha256[:12]}.... "
                f"Put those back, or {otherwise}."
            )


def write_with_card(path: Path, content: bytes, card: Mapping[str, Any]) -> str:
    """Write a safetensors file with a card: written aside, fsynced, renamed. An earlier file stays until then.

    Args:
        path: where to.
        content: a safetensors file without metadata, e.g. of `safetensors.torch.save`.
        card: JSON-ready; `kind` is the purpose of the file.

    Returns:
        sha256 of card and tensors, as kept in the file.
    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    table = json.loads(content[_LENGTH_BYTES:start])
    data = memoryview(content)[start:]
    sha256 = _digest(card, table)
    sha256.update(data)
    # One key, sorted: equal content, equal bytes.
    metadata = {_KEY: canonical({"card": dict(card), "sha256": sha256.hexdigest()})}
    header = canonical({_METADATA: metadata, **table}).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)  # tensors start aligned, as the format's own writer has it
    write_atomic(path, b"".join((len(header).to_bytes(_LENGTH_BYTES, "little"), header, data)))
    return sha256.hexdigest()


@reads("weights")
def read_card(path: Path, kind: str | None = None) -> Card:
    """Read the card of a weights file, and check the content against its digest.

    Args:
        path: the file.
        kind: expected purpose; None accepts any.

    Raises:
        UserError: when it is missing, not safetensors, without a card, damaged, or of another kind.
    """
    header = read_header(path)
    metadata = header.pop(_METADATA, None)
    try:
        document = parse_json(metadata[_KEY].encode(), _MAX_HEADER_VALUES)
        card = Card(check_card(dict(document["card"]), path), str(document["sha256"]), path.stat().st_size)
        found = card.kind
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected weights with their card, which this project writes, got a file without. "
            "Name the file that training wrote."
        ) from error
    if card.sha256 != _digest_of_file(path, card.fields, header):
        raise UserError(f"{path}: expected content that matches its sha256, got a damaged file. Get it again.")
    if kind is not None and found != kind:
        raise UserError(f"{path}: expected a file of kind {kind}, got {found}. Name the one with the weights.")
    return card


@reads("a safetensors file")
def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: tensors by name, and ``__metadata__`` where there is some.

    Raises:
        UserError: for a missing file, a pickle, or anything else that does not start as safetensors do.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_LENGTH_BYTES + 1)
            length = int.from_bytes(head[:_LENGTH_BYTES], "little")
            room = path.stat().st_size - _LENGTH_BYTES
            if head[_LENGTH_BYTES:] == b"{" and _MAX_HEADER_BYTES < length <= room:
                raise UserError(f"{path}: expected a header of at most {_MAX_HEADER_BYTES:,} bytes, got {length:,}.")
            if head[_LENGTH_BYTES:] != b"{" or length > room:
                raise UserError(
                    f"{path}: expected safetensors, got {_other_content(head)}. "
                    "Weights in other formats are never loaded."
                )
            header = parse_json(b"{" + stream.read(length - 1), _MAX_HEADER_VALUES)
    except OSError as error:
        raise UserError(f"{path}: expected a safetensors file, got: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a whole safetensors file, got a damaged header. Get it again.") from error
    assert isinstance(header, dict)  # it starts with a brace
    return header


def _other_content(head: bytes) -> str:
    if head[:2] == b"PK":
        return "a zip archive (torch.save makes those)"
    return "a pickle" if head[:1] == b"\x80" else "other content"


def _digest(card: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    """A sha256 over the card and the table of tensors, to be fed with their bytes."""
    return hashlib.sha256(f"{canonical(dict(card))}\0{canonical(dict(table))}\0".encode())


def _digest_of_file(path: Path, card: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """The digest of a file's content, read block by block."""
    sha256 = _digest(card, table)
    with path.open("rb") as stream:
        stream.seek(_LENGTH_BYTES + int.from_bytes(stream.read(_LENGTH_BYTES), "little"))
        while block := stream.read(_BLOCK_BYTES):
            sha256.update(block)
    return str(sha256.hexdigest())
