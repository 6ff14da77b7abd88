"""The key of a quiz: what every tile is, sealed in the page and open in `key.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory.quiz.sources import KINDS, Truth
from manifests.errors import UserError
from manifests.schema import DISCLAIMER

KIND = "factory quiz key"
VERSION = 1
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class KeyTile:
    """One tile of a quiz.

    Attributes:
        truth: what it is. salt: hex, of its seal. image_sha256: of its picture's bytes in the page.
        dataset, made_by, sample_id, group_id, top, left, tps: where it is from, as in `Crop`.
    """

    truth: Truth
    salt: str
    image_sha256: str
    dataset: str
    made_by: str
    sample_id: str
    group_id: str | None
    top: int
    left: int
    tps: float | None

    @property
    def seal(self) -> str:
        """sha256 of ``salt:truth``: what the page holds instead of the truth."""
        return hashlib.sha256(f"{self.salt}:{self.truth}".encode()).hexdigest()


@dataclass(frozen=True)
class Key:
    """The tiles of a quiz in the order they are shown, and what it was made of (seed, size, data sets and so on)."""

    tiles: tuple[KeyTile, ...]
    made_of: Mapping[str, Any]

    @property
    def quiz(self) -> str:
        """The quiz's id: sha256 over the pictures and seals of its tiles, in order.

        Answers name it, so those to another quiz are known, and a key that was changed no longer fits its own.
        """
        lines = [f"{tile.image_sha256} {tile.seal}\n" for tile in self.tiles]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The content of `key.json`."""
        document = {
            "kind": KIND,
            "version": VERSION,
            "quiz": self.quiz,
            "use": f"contains synthetic images, {DISCLAIMER}",
            "made_of": dict(self.made_of),
            "tiles": [{"tile": number, **asdict(tile)} for number, tile in enumerate(self.tiles, start=1)],
        }
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def read_document(path: Path, kind: str, where: str) -> dict[str, Any]:
    """A JSON object that says of what kind and version it is.

    Args:
        path: the file. kind: its ``kind``. where: the option or argument that named it.

    Raises:
        UserError: for anything else.
    """
    if not path.is_file():
        raise UserError(f"{where}: expected a file, got none.")
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{where}: expected a JSON file of at most {_MOST_BYTES >> 20} MiB, got a larger one.")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON, got {error}.") from error
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise UserError(f"{where}: expected a file with kind {kind!r}, got another. Is it the right file?")
    if document.get("version") != VERSION:
        raise UserError(
            f"{where}: expected version {VERSION}, got {document.get('version')!r}. Install the matching release."
        )
    return document


def read_key(path: Path) -> Key:
    """Read `key.json`.

    Raises:
        UserError: when it is missing, not a key, or no longer the one that was written.
    """
    where = f"--key {path}"
    document = read_document(path, KIND, where)
    try:
        key = Key(tuple(_tile(entry) for entry in document["tiles"]), dict(document["made_of"]))
        tells = [entry["tile"] for entry in document["tiles"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: expected the key of a quiz, got {error!r} in it. Make the quiz again.") from error
    if key.quiz != document.get("quiz") or tells != list(range(1, len(tells) + 1)) or not tells:
        raise UserError(f"{where}: expected the key as it was written, got a changed one. Make the quiz again.")
    return key


def _tile(entry: Mapping[str, Any]) -> KeyTile:
    if entry["truth"] not in KINDS:
        raise ValueError(f"truth {entry['truth']!r}")
    tps = entry["tps"]
    return KeyTile(
        truth=entry["truth"],
        salt=str(entry["salt"]),
        image_sha256=str(entry["image_sha256"]),
        dataset=str(entry["dataset"]),
        made_by=str(entry["made_by"]),
        sample_id=str(entry["sample_id"]),
        group_id=None if entry["group_id"] is None else str(entry["group_id"]),
        top=int(entry["top"]),
        left=int(entry["left"]),
        tps=None if tps is None else float(tps),
    )
