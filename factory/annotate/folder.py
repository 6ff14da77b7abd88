"""The exported folder: images as PNG, an annotation file for each, and a record of their origin."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.annotate.shapes import read_json, resolve_tool
from factory.core.datasets import open_finished, shape_of
from factory.core.encoding import png
from factory.joint.generators import drawing_of
from factory.make.recipes.samples import choose_diverse, latents_of
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.labels import LabelScheme
from manifests.schema import DISCLAIMER
from manifests.table import read_manifest

RECORD = "images.json"
_VERSION = 1


@dataclass(frozen=True)
class Record:
    """The content of a folder of images for annotation.

    Attributes:
        tool: by its name. scheme: by its name. data: name of the data set. generator: digest of what drew the images.
        size: height and width. images: sample_id -> sha256 of the decoded image.
    """

    tool: str
    scheme: str
    data: str
    generator: str
    size: tuple[int, int]
    images: Mapping[str, str]
    version: int = _VERSION
    use: str = f"synthetic; {DISCLAIMER}"


def open_drawn(root: Path) -> tuple[Dataset, str]:
    """A finished data set whose images a generator drew, all rows with their latents, and the generator's digest."""
    dataset = open_finished(root)
    drawing_of(root)
    latents_of(dataset)
    digests = set(dataset.table["image_weights_sha256"].to_pylist())
    if len(digests) != 1 or None in digests:
        raise UserError(f"{root}: expected images of one generator, got {len(digests)}. Draw them with factory sample.")
    return dataset, str(digests.pop())


def export(
    root: Path,
    out: Path,
    tool: str,
    scheme: LabelScheme | None = None,
    *,
    diverse: int | None = None,
    chosen: Path | None = None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    dry_run: bool = False,
) -> int:
    """Write the images of a data set for an annotation tool; returns their number.

    Args:
        root: the data set. out: a folder that is empty or not there yet, as annotations are never overwritten.
        tool: by name. scheme: of the labels to be; None takes the data set's. diverse: only so many that differ most.
        chosen: instead a manifest with the rows that are wanted.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: expected an empty folder, got one with files. Choose another --out.")
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"--out {out}: expected a folder apart from {root}, got one in it. Choose another --out.")
    dataset, generator = open_drawn(root)
    written_by, scheme = resolve_tool(tool, "--tool"), scheme or dataset.schemes[0]
    places, size = _places(dataset, diverse, chosen), shape_of(dataset)
    if dry_run:
        return len(places)
    images = {}
    with _emptied_on_error(out):
        for place in places:
            row = dataset.row(place)
            name = row["sample_id"]
            mark = {"sample_id": name, "generator": generator, "is_synthetic": True, "use": DISCLAIMER}
            write_atomic(out / f"{name}.png", _png(dataset.store.read(row["index"], "image"), mark))
            _write_json(out / f"{name}{written_by.suffix}", written_by.skeleton(name, size, mark))
            images[name] = row["image_sha256"]
            on_image(len(images), len(places))
        for name, content in written_by.beside(scheme).items():
            write_atomic(out / name, content.encode())
        record = Record(tool, scheme.name, dataset.root.resolve().name, generator, size, images)
        _write_json(out / RECORD, asdict(record))
    return len(images)


@contextlib.contextmanager
def _emptied_on_error(out: Path) -> Iterator[None]:
    """Make a folder, and remove what was written to it when an error or an interrupt ends the block."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in out.iterdir():
            path.unlink()
        raise


def _places(dataset: Dataset, diverse: int | None, chosen: Path | None) -> Sequence[int]:
    """Positions of the rows that are exported."""
    if diverse is not None and chosen is not None:
        raise UserError("--diverse and --chosen: expected one of them, got both. Leave one out.")
    if diverse is not None:
        return choose_diverse(dataset, diverse)
    if chosen is not None:
        names = read_manifest(chosen)[0]["sample_id"].to_pylist()
        if not names:
            raise UserError(f"--chosen {chosen}: expected the rows of images, got none. Choose some.")
        return [dataset.find(name) for name in names]
    return range(len(dataset))


def read_record(folder: Path) -> Record:
    """The record of a folder."""
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder}: expected a folder of factory annotate export with its {RECORD}, got none.")
    document = read_json(folder / RECORD)
    try:
        record = Record(**{**document, "size": tuple(document["size"]), "images": dict(document["images"])})
        texts = (record.tool, record.scheme, record.data, record.generator, *record.images.values())
        if not record.images or not all(isinstance(text, str) for text in texts):
            raise TypeError("no images, or no text where text belongs")
        resolve_tool(record.tool)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / RECORD}: expected the record of an export, got {error!r}. Export anew.") from error
    if record.version != _VERSION:
        raise UserError(f"{folder / RECORD}: expected version {_VERSION}, got {record.version!r}. Export anew.")
    return record


def _png(image: npt.NDArray[np.uint8], mark: Mapping[str, Any]) -> bytes:
    """A PNG with its origin in a text chunk."""
    return png(image, f"synthetic; {DISCLAIMER}; {json.dumps(dict(mark), sort_keys=True)}")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
