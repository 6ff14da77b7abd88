"""Banks small enough to ship: pages as WebP, all else deflated. `unpack_bank` makes the bank that is mapped."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.bank import ARRAYS, KIND, Bank, Nuclei, open_bank, write_bank
from factory.core.seeds import Stream, generator
from factory.core.weights import read_card
from manifests.limits import reads

PACKED_KIND = "tissue-bank-packed"
_QUALITY = 80
_PICTURES = ("image", "ground")


def pack_bank(source: Path, out: Path, *, most_nuclei: int, card: Mapping[str, Any]) -> None:
    """Write a bank in a hundredth of its size; what WebP loses of its pixels is lost.

    Args:
        source: file of the bank. out: file to write. most_nuclei: drawn from its nuclei; the others stay in the pages.
        card: laid over the card of the bank.
    """
    bank = open_bank(source)
    count = len(bank.nuclei)
    kept = np.sort(generator(0, Stream.FIT, 2).permutation(count)[:most_nuclei])
    arrays = {name: getattr(bank, name) for name in ARRAYS if name not in _PICTURES}
    arrays |= {f"nuclei.{field.name}": getattr(bank.nuclei, field.name)[kept] for field in fields(Nuclei)}
    packed = {name: np.frombuffer(zlib.compress(array.tobytes(), 9), np.uint8) for name, array in arrays.items()}
    for name in _PICTURES:
        packed |= {f"{name}.{number}": _encoded(bank, name, number) for number in range(len(bank.pages))}
    kinds = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    labels, counts = np.unique(arrays["nuclei.label"], return_counts=True)
    described = {
        **bank.card.fields,
        "nuclei": {bank.scheme.names[label]: int(n) for label, n in zip(labels, counts, strict=True)},
        **card,
        "kind": PACKED_KIND,
        "arrays": kinds,
        "packed_from_sha256": bank.card.sha256,
    }
    write_bank(out, packed, described)


def _encoded(bank: Bank, name: str, number: int) -> npt.NDArray[np.uint8]:
    pixels, shape = bank.page(number)
    picture = np.asarray(getattr(bank, name)[pixels]).reshape(*shape, 3)
    return cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1].ravel()


@reads("a packed bank")
def unpack_bank(source: Path, folder: Path = Path("runs/banks")) -> Path:
    """Make the bank of a packed file, or find the one that was made before: ``FOLDER/NAME-DIGEST.safetensors``.

    Raises:
        UserError: when the file is missing, damaged or no packed bank.
    """
    from safetensors.numpy import load_file

    card = read_card(source, PACKED_KIND)
    path = folder / f"{source.stem}-{card.sha256[:16]}.safetensors"
    if path.is_file():
        return path
    packed = load_file(source)
    arrays = {name: _inflated(packed[name], *kind) for name, kind in card.fields["arrays"].items()}
    for name in _PICTURES:
        arrays[name] = _decoded([packed[f"{name}.{number}"] for number in range(len(arrays["pages"]))])
    folder.mkdir(parents=True, exist_ok=True)
    described = {key: value for key, value in card.fields.items() if key not in ("arrays", "packed_from_sha256")}
    write_bank(path, arrays, {**json.loads(json.dumps(described)), "kind": KIND, "unpacked_from_sha256": card.sha256})
    return path


def _inflated(packed: npt.NDArray[np.uint8], dtype: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """An array of its deflated bytes, of which no more are taken than it has."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    content = zlib.decompressobj().decompress(packed.tobytes(), size + 1)
    return np.frombuffer(content, dtype).reshape(shape)


def _decoded(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Pixels of pictures end to end, uint8 [P, 3]."""
    found = [cv2.imdecode(picture, cv2.IMREAD_COLOR) for picture in pictures]
    return np.concatenate([np.asarray(picture, np.uint8)[..., ::-1].reshape(-1, 3) for picture in found])
