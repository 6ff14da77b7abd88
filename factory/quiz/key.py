"""The key of a quiz: the truth of every tile, sealed in the page and readable in `key.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory.quiz.sources import KINDS, Truth
from manifests.errors import UserError
from manifests.limits import read_json
from manifests.schema import DISCLAIMER

KIND = "factory quiz key"
VERSION = 1
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Truth and origin of a tile of a quiz.

    Attributes:
        truth: real or synthetic. dataset: name of its source. sample_id, group_id: of its row.
        made_by: generators of mask and image; for a real tile, the program that ingested it.
        top, left: position of the piece in the tile, in pixels.
        tps: TPS of the piece, by its mask; None without tumour.
    """

    truth: Truth
    dataset: str
    made_by: str
    sample_id: str
    group_id: str | None
    top: int
    left: int
    tps: float | None


@dataclass(frozen=True, kw_only=True)
class KeyTile(Origin):
    """One tile of a key: also the salt of its seal, in hex, and the digest of its picture's bytes in the page."""

    salt: str
    image_sha256: str

    @property
    def seal(self) -> str:
        """sha256 of ``salt:truth``, which the page contains instead of the truth."""
        return hashlib.sha256(f"{self.salt}:{self.truth}".encode()).hexdigest()

    def to_dict(self, number: int) -> dict[str, Any]:
        """Returns the entry of the tile in `key.json`."""
        first = {"tile": number, "truth": self.truth, "salt": self.salt, "image_sha256": self.image_sha256}
        return first | asdict(self)


@dataclass(frozen=True)
class Key:
    """The tiles of a quiz in the order they are shown, and `made_of`: seed, size, data sets and so on."""

    tiles: tuple[KeyTile, ...]
    made_of: Mapping[str, Any]

    @property
    def quiz(self) -> str:
        """Id of the quiz: sha256 over the pictures and seals of its tiles, in order.

        Answers contain it, so that answers to another quiz and a changed key are noticed.
        """
        lines = [f"{tile.image_sha256} {tile.seal}\n" for tile in self.tiles]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> bytes:
        """Returns the content of `key.json`."""
        document = {
            "kind": KIND,
            "version": VERSION,
            "quiz": self.quiz,
            "use": f"contains synthetic images, {DISCLAIMER}",
            "made_of": dict(self.made_of),
            "tiles": [tile.to_dict(number) for number, tile in enumerate(self.tiles, start=1)],
        }
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def read_document(path: Path, kind: str, where: str) -> dict[str, Any]:
    """Reads a JSON object of one ``kind`` and of this version; `where` names the file in errors."""
    if not path.is_file():
        raise UserError(f"{where}: expected a file, got none.")
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{where}: expected a JSON file of at most {_MOST_BYTES >> 20} MiB, got a larger one.")
    try:
        document = read_json(path)
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
    """Reads `key.json`; refuses one that was changed."""
    where = f"--key {path}"
    document = read_document(path, KIND, where)
    try:
        key = Key(tuple(_tile(entry) for entry in document["tiles"]), dict(document["made_of"]))
        numbers = [entry["tile"] for entry in document["tiles"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: expected the key of a quiz, got {error!r} in it. Make the quiz again.") from error
    if key.quiz != document.get("quiz") or numbers != list(range(1, len(numbers) + 1)) or not numbers:
        raise UserError(f"{where}: expected the key as it was written, got a changed one. Make the quiz again.")
    return key


def _tile(entry: Mapping[str, Any]) -> KeyTile:
    if entry["truth"] not in KINDS:
        raise ValueError(f"truth {entry['truth']!r}")
    texts = {name: str(entry[name]) for name in ("salt", "image_sha256", "dataset", "made_by", "sample_id")}
    return KeyTile(
        truth=entry["truth"],
        group_id=None if entry["group_id"] is None else str(entry["group_id"]),
        top=int(entry["top"]),
        left=int(entry["left"]),
        tps=None if entry["tps"] is None else float(entry["tps"]),
        **texts,
    )
