"""Annotations taken back: checked against images, classes and generator, then written as a data set of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from factory.annotate import TOOLS
from factory.annotate.folder import RECORD, Record, open_drawn, read_record
from factory.annotate.shapes import Shape, check_class, paint, read_json
from factory.core.config import Config, digest
from factory.core.images.files import read_header, read_rgb
from factory.core.images.header import UnreadableError
from factory.core.registry import resolve
from factory.core.runs import RunSpec, library_versions, write_shard
from factory.core.seeds import Stream, generator
from factory.core.shards import write_missing
from factory.joint.generators import DRAWING, drawing_of
from factory.make.pipeline import BYTE_MAKERS
from factory.plan.rows import check_shares, spread_splits
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme
from manifests.ledger import ShardRecord
from manifests.schema import DatasetInfo
from manifests.store import Layout
from manifests.tile import Tile

ANNOTATED = "annotated"
"""Key of run.yaml that says which annotations these labels are."""

_PNG = ".png"
Row = dict[str, Any]
Payload = tuple[Row, Row, tuple[Shape, ...]]


class ImportConfig(Config):
    """What can be told of how annotations are read.

    Attributes:
        fill: class of what no shape covers; None leaves that out (255). split: shares of train, val, test.
        seed: of who is in which split. shard: images in a shard file.
    """

    fill: str | None = None
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: int = Field(default=64, ge=1, le=65_536)

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        return check_shares(split)


@dataclass(frozen=True)
class Order:
    """What will be written, nothing written yet.

    Attributes:
        spec: of the data set. data: where the images are. scheme: of the labels. fill: label of what no shape covers.
        payloads: row of the image, new row and shapes of every annotated image. notes: for a person, one line each.
    """

    spec: RunSpec
    data: Path
    scheme: LabelScheme
    fill: int
    payloads: tuple[Payload, ...]
    notes: tuple[str, ...]

    def payload_of(self, shard: int) -> list[Payload]:
        """What the task of a shard needs."""
        return [self.payloads[place] for place in self.spec.layout.rows(shard)]


@dataclass(frozen=True)
class AnnotatedShard:
    """The task of one shard: rows and shapes in, a published record out."""

    spec: RunSpec
    data: Path
    scheme: LabelScheme
    fill: int

    def __call__(self, shard: int, payloads: Sequence[Payload], tick: Callable[[], None]) -> ShardRecord:
        """Paint the masks of a shard and publish it."""
        store = open_dataset(self.data).store

        def counted() -> Iterator[tuple[npt.NDArray[np.uint8], Tile, Row]]:
            for given, row, shapes in payloads:
                semantic = paint(shapes, self.scheme, (row["height"], row["width"]), self.fill).semantic
                tile = Tile(semantic, np.zeros(semantic.shape, np.int32), row["mpp"], self.scheme)
                yield store.read(given["index"], "image"), tile, row
                tick()

        return write_shard(self.spec, shard, counted())


def prepare(
    folder: Path, data: Path, scheme: LabelScheme, out: Path, config: ImportConfig, *, partial: bool = False
) -> Order:
    """Read all annotations and refuse what is wrong with them, before anything is written.

    Args:
        folder: of `factory.annotate.folder.export`. data: the data set whose images these are. scheme: of the labels.
        out: the new data set's folder. config: how they are read. partial: leave out images that are not annotated.

    Raises:
        UserError: naming the first file at fault and why.
    """
    record = read_record(folder)
    dataset, digest_of_generator = open_drawn(data)
    if record.generator != digest_of_generator:
        raise UserError(
            f"{folder}: expected annotations for the generator of {data} ({digest_of_generator[:12]}...), got those "
            f"for another ({record.generator[:12]}...). Name the data set that was exported."
        )
    if config.fill is not None:
        check_class(config.fill, scheme, "--fill")
    _refuse_inside(out, data, folder)
    _refuse_foreign(folder, record)
    rows = _rows_of(record, dataset, folder)
    found = {name: _annotated(folder, name, row, record, scheme) for name, row in rows.items()}
    _refuse_missing(folder, found, partial)
    annotated = {name: shapes for name, shapes in found.items() if shapes}
    splits = spread_splits(config.split, generator(config.seed, Stream.DRAW).permutation(len(annotated)))
    payloads = tuple(
        (rows[name], _labelled(rows[name], scheme, split), shapes)
        for (name, shapes), split in zip(annotated.items(), splits, strict=True)
    )
    return Order(
        spec=_spec(out, dataset, record, scheme, annotated, config),
        data=data,
        scheme=scheme,
        fill=IGNORE if config.fill is None else scheme.names.index(config.fill),
        payloads=payloads,
        notes=_notes(annotated, scheme, record.size, config.fill, len(found) - len(annotated)),
    )


def write(
    order: Order,
    *,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> tuple[pa.Table, int]:
    """Write what is missing of an order: its rows, and how many images were labelled now; see `write_missing`."""
    task = AnnotatedShard(order.spec, order.data, order.scheme, order.fill)
    return write_missing(
        order.spec, task, order.payload_of, workers=1, overwrite=overwrite, on_start=on_start, on_tiles=on_tiles
    )


def _refuse_inside(out: Path, data: Path, folder: Path) -> None:
    for other in (data.resolve(), folder.resolve()):
        here = out.resolve()
        if here == other or other in here.parents or here in other.parents:
            raise UserError(
                f"--out {out}: expected a folder apart from {other}, got one with it. Choose another --out."
            )


def _refuse_foreign(folder: Path, record: Record) -> None:
    """Refuse annotation files of images that were not exported into this folder."""
    tool = resolve(TOOLS, record.tool, "tool")
    own = {RECORD, "classes.geojson", *(f"{name}{tool.suffix}" for name in record.images)}
    strangers = sorted(path.name for path in folder.glob(f"*{tool.suffix}") if path.name not in own)
    if strangers:
        raise UserError(
            f"{folder / strangers[0]}: expected annotations of the images in {RECORD}, got those of another. "
            "Take the file out, or give it the name of its image."
        )


def _refuse_missing(folder: Path, found: Mapping[str, tuple[Shape, ...]], partial: bool) -> None:
    """Refuse images without a shape, where they may not be left out or no other is there."""
    missing = [name for name, shapes in found.items() if not shapes]
    if (missing and not partial) or len(missing) == len(found):
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{folder}: expected annotations of all {len(found)} images, got none of {missing[0]}{others}. "
            "Annotate them, or leave them out with --partial."
        )


def _rows_of(record: Record, dataset: Dataset, folder: Path) -> dict[str, Row]:
    """The row of every image of a record, in the order of the data set."""
    layout = dataset.store.layout
    if record.size != (layout.height, layout.width):
        raise UserError(
            f"{folder / RECORD}: expected images of {layout.height}x{layout.width}, as in {dataset.root}, "
            f"got {'x'.join(map(str, record.size))}. Export anew."
        )
    rows = {row["sample_id"]: row for row in dataset.table.sort_by("index").to_pylist()}
    for name, sha256 in record.images.items():
        if name not in rows or rows[name]["image_sha256"] != sha256:
            got = "another image under that name" if name in rows else "none"
            raise UserError(
                f"{folder}: {name}: expected an image of {dataset.root}, got {got}. "
                "Name the data set that was exported."
            )
    return {name: row for name, row in rows.items() if name in record.images}


def _annotated(folder: Path, name: str, row: Row, record: Record, scheme: LabelScheme) -> tuple[Shape, ...]:
    """The shapes on an image, none where it is not annotated."""
    tool, size = resolve(TOOLS, record.tool, "tool"), (row["height"], row["width"])
    _check_image(folder / f"{name}{_PNG}", size, row["image_sha256"])
    path = folder / f"{name}{tool.suffix}"
    if not path.exists():
        return ()
    document = read_json(path)
    mark = document.get("pathology_tiles") if isinstance(document, dict) else None
    mark = mark if isinstance(mark, dict) else {}
    if mark.get("sample_id", name) != name:
        raise UserError(f"{path}: expected annotations of {name}, got those of {mark['sample_id']}. Rename the file.")
    if mark.get("generator", record.generator) != record.generator:
        raise UserError(
            f"{path}: expected annotations of an image of the generator {record.generator[:12]}..., "
            f"got those for another ({str(mark['generator'])[:12]}...). Use the file that was exported here."
        )
    shapes = tuple(tool.read(path, size))
    for number, shape in enumerate(shapes, 1):
        check_class(shape.label, scheme, f"{path}: annotation {number}")
    return shapes


def _check_image(path: Path, size: tuple[int, int], sha256: str) -> None:
    """Refuse a picture that is no longer the exported one: what was drawn on it would lie elsewhere."""
    if not path.exists():
        return
    try:
        header = read_header(path)
    except UnreadableError as error:
        raise UserError(f"{path}: {error}. Export it again.") from error
    if (header.height, header.width) != size:
        raise UserError(
            f"{path}: expected the exported image of {size[0]}x{size[1]}, got {header.height}x{header.width}. "
            "Annotate the image as it was exported."
        )
    if hashlib.sha256(np.ascontiguousarray(read_rgb(path)).data).hexdigest() != sha256:
        raise UserError(
            f"{path}: expected the exported image, got other pixels. Annotate the image as it was exported."
        )


def _notes(
    annotated: Mapping[str, tuple[Shape, ...]],
    scheme: LabelScheme,
    size: tuple[int, int],
    fill: str | None,
    missing: int,
) -> tuple[str, ...]:
    """What a person should know of overlaps, unlabelled pixels and images left out."""
    painted = [paint(shapes, scheme, size) for shapes in annotated.values()]
    pixels = size[0] * size[1] * len(painted)
    disputed, unlabelled = (sum(getattr(p, name) for p in painted) for name in ("disputed_px", "unlabelled_px"))
    notes = []
    if disputed:
        images = sum(p.disputed_px > 0 for p in painted)
        notes.append(
            f"shapes of several classes overlap on {disputed / pixels:.2%} of the pixels, in {images} images: "
            "the later one counts"
        )
    if unlabelled:
        became = "255, ignore" if fill is None else fill
        notes.append(f"{unlabelled / pixels:.2%} of the pixels are in no shape and become {became}")
    if missing:
        notes.append(f"{missing} images are not annotated and are left out")
    return tuple(notes)


def _labelled(row: Row, scheme: LabelScheme, split: str) -> Row:
    """The row of an image with a person's labels: image, seed and latent stay."""
    return {**row, "split": split, "label_scheme": scheme.name, "label_origin": "annotated"}


def _spec(
    out: Path,
    dataset: Dataset,
    record: Record,
    scheme: LabelScheme,
    annotated: Mapping[str, tuple[Shape, ...]],
    config: ImportConfig,
) -> RunSpec:
    drawn = {
        name: [[shape.label, [[ring.tolist() for ring in rings] for rings in shape.polygons]] for shape in shapes]
        for name, shapes in annotated.items()
    }
    document = {
        DRAWING: drawing_of(dataset.root).model_dump(mode="json"),
        ANNOTATED: {"data": record.data, "tool": record.tool, "shapes_sha256": digest(drawn)},
        "scheme": scheme.to_dict(),
        **config.model_dump(mode="json"),
    }
    versions = library_versions(*BYTE_MAKERS, "torch")
    info = DatasetInfo(
        is_synthetic=True,
        generator=f"{dataset.info.generator}, annotated",
        label_schemes=(scheme,),
        versions=versions,
        training_sources=dataset.info.training_sources,
        licences=dataset.info.licences,
    )
    return RunSpec(out, document, Layout(len(annotated), *record.size, config.shard), info)
