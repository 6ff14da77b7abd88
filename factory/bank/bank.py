"""A bank of real tissue in one file: images, labels, nuclei and where they are from, mapped into memory.

The file is safetensors with a card, as weights are (`factory.core.weights`). Images lie end to end: an image of a bank
is called a page here, as a slide has several. Every process that draws maps the same file, so a bank of 200 MB takes
that much memory once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.bank.stain_separation import stain_of
from factory.core.weights import Card, read_card, read_header, write_with_card
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme
from manifests.limits import reads

KIND = "tissue-bank"
BLOCK = 8
"""Side, in pixels, of the blocks in which a bank describes its tissue. Sides of pages are multiples of it."""
RAYS = 32
"""Directions in which the radius of a nucleus is kept."""

Bytes = npt.NDArray[np.uint8]
_DTYPES: dict[str, type[np.generic]] = {
    "U8": np.uint8,
    "U16": np.uint16,
    "I32": np.int32,
    "I64": np.int64,
    "F32": np.float32,
}


@dataclass(frozen=True)
class Nuclei:
    """Nuclei that can be set into a layout, one row each, sorted by page.

    Attributes:
        page: int32 [N]. number: uint16 [N], id on the page. label: uint8 [N], class id.
        centre: float32 [N, 2], centroid (y, x) on the page, in pixels.
        area: float32 [N], pixels. axes: float32 [N, 2], standard deviations along the long and the short axis, pixels.
        angle: float32 [N], direction of the long axis, radians from x towards y.
        radii: float32 [N, RAYS], distance of the outline from the centroid, the first along the long axis.
        density: float32 [N, 3], mean optical density.
    """

    page: npt.NDArray[np.int32]
    number: npt.NDArray[np.uint16]
    label: Bytes
    centre: npt.NDArray[np.float32]
    area: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]
    angle: npt.NDArray[np.float32]
    radii: npt.NDArray[np.float32]
    density: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.page)


@dataclass(frozen=True, eq=False)
class Bank:
    """Real tissue of one label scheme and resolution. Compared by identity: `open_bank` maps a file once.

    Attributes:
        card: of the file, verified. scheme: of the labels. mpp: micrometres per pixel.
        pages: int64 [n, 5]: first pixel, height, width, slide, first block.
        image: uint8 [P, 3], pixels of all pages. ground: the same with its nuclei filled by tissue beside them; equal
            to `image` where no nuclei are known, and then not stored.
        semantic: uint8 [P], class ids. nucleus: uint16 [P], ids on the page, 0 = none.
        blocks: uint8 [B, 4] for each block of a page: share of pixels that are filled or unknown, nuclei around it,
            and cosine and sine of twice the direction of fibres (128 = none).
        shares: uint8 [B, classes], share of each class in a block, 255 = all.
        colour: float32 [slides, 2, 2, 3], mean and standard deviation of the optical density of ground and of nuclei.
        nuclei: those that can be set into layouts.
    """

    card: Card
    scheme: LabelScheme
    mpp: float
    pages: npt.NDArray[np.int64]
    image: Bytes
    ground: Bytes
    semantic: Bytes
    nucleus: npt.NDArray[np.uint16]
    blocks: Bytes
    shares: Bytes
    colour: npt.NDArray[np.float32]
    nuclei: Nuclei

    @property
    def slides(self) -> tuple[str, ...]:
        """Names of the slides, ``data set/group``."""
        return tuple(self.card.fields["sources"])

    @cached_property
    def is_he(self) -> bool:
        """Whether the tissue is stained by eosin beside haematoxylin; of a few pages at even steps."""
        numbers = np.unique(np.linspace(0, len(self.pages) - 1, 12).astype(int))
        return stain_of([self.picture(int(number)) for number in numbers]) == "he"

    @property
    def has_nuclei(self) -> bool:
        """Whether nuclei can be set into layouts."""
        return len(self.nuclei) > 0

    def slides_of(self, pixels: npt.NDArray[np.int64]) -> tuple[str, ...]:
        """Names of the slides that pixels of the bank are from, sorted."""
        pages = np.unique(np.searchsorted(self.pages[:, 0], np.unique(pixels), side="right") - 1)
        return tuple(sorted({self.slides[slide] for slide in self.pages[pages, 3]}))

    def page(self, number: int) -> tuple[slice, tuple[int, int]]:
        """Pixels of a page within `image`, and its height and width."""
        first, height, width = (int(value) for value in self.pages[number, :3])
        return slice(first, first + height * width), (height, width)

    def picture(self, number: int) -> Bytes:
        """Image of a page, uint8 [height, width, 3]."""
        pixels, shape = self.page(number)
        return np.asarray(self.image[pixels]).reshape(*shape, 3)


ARRAYS = ("pages", "image", "ground", "semantic", "nucleus", "blocks", "shares", "colour")
"""Tensors of a bank's file, beside ``nuclei.*``."""


def write_bank(path: Path, arrays: Mapping[str, npt.NDArray[Any]], card: Mapping[str, Any]) -> str:
    """Write a bank, whole or not at all.

    Args:
        path: the file. arrays: `ARRAYS`, and ``nuclei.*`` with the fields of `Nuclei`. card: JSON-ready.

    Returns:
        sha256 of card and arrays.
    """
    from safetensors.numpy import save

    return write_with_card(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}), card)


@reads("a bank of tissue")
def open_bank(path: Path) -> Bank:
    """Map a bank into memory, read-only; once in a process, as long as the file stays the same.

    Raises:
        UserError: when the file is missing, damaged, or no bank.
    """
    written = path.stat() if path.is_file() else None
    return _open(path, written and (written.st_mtime_ns, written.st_size, written.st_ino))


@lru_cache(maxsize=2)
def _open(path: Path, version: tuple[int, ...] | None) -> Bank:
    del version
    card = read_card(path, KIND)
    header = read_header(path)
    header.pop("__metadata__", None)
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    mapped = np.memmap(path, np.uint8, "r", offset=start) if header else np.empty(0, np.uint8)

    def array(name: str) -> npt.NDArray[Any]:
        if name not in header:
            raise UserError(f"{path}: expected a bank with {name}, got none. Collect it again: factory train exemplar.")
        first, last = header[name]["data_offsets"]
        flat = np.asarray(mapped[first:last]).view(_DTYPES[header[name]["dtype"]])
        return flat.reshape(header[name]["shape"])

    arrays = {name: array(name) for name in ARRAYS}
    if not len(arrays["ground"]):
        arrays["ground"] = arrays["image"]
    scheme = LabelScheme.from_dict(card.fields["scheme"])
    shipped = SCHEMES.get(scheme.name)
    return Bank(
        card,
        shipped if shipped and shipped.names == scheme.names else scheme,
        float(card.fields["mpp"]),
        **arrays,
        nuclei=Nuclei(**{field.name: array(f"nuclei.{field.name}") for field in fields(Nuclei)}),
    )
