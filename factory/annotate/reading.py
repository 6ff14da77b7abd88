"""Import of annotations: they are checked against images, classes and generator, then painted into a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from factory.annotate.folder import RECORD, Record, open_drawn, read_record
from factory.annotate.shapes import check_class, paint, read_json, resolve_tool
from factory.core.config import Config, digest
from factory.core.datasets import shape_of
from factory.core.folder import library_versions
from factory.core.images.files import UnreadableError, read_header, read_rgb
from factory.core.label_files.shapes import Shape
from factory.core.seeds import Stream, generator
from factory.core.wording import plural
from factory.joint.generators import DRAWING, drawing_of
from factory.make.pipeline import BYTE_MAKERS, Prepared, prepare_run
from factory.make.recipes.base import Row, Sample
from factory.plan.rows import check_shares, spread_splits, with_column
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme
from manifests.schema import SCHEMA, DatasetInfo
from manifests.tile import Tile

ANNOTATED = "annotated"
"""Key of run.yaml with the annotations that the labels come from."""

_PNG = ".png"


class ImportConfig(Config):
    """Settings of the import.

    Attributes:
        fill: class of the pixels that no shape covers; None leaves them unlabelled (255).
        split: shares of train, val, test. seed: of the assignment to splits. shard: images in a shard file.
    """

    fill: str | None = None
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: int = Field(default=64, ge=1, le=65_536)

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        return check_shares(split)


@dataclass(frozen=True, eq=False)
class Annotations:
    """Shapes that were drawn on the images of a data set. Builds an `AnnotationsMaker`.

    Attributes:
        data: where the images are. scheme: of the labels. fill: label of the pixels that no shape covers.
        shapes: of every annotated image, by its sample_id.
    """

    data: Path
    scheme: LabelScheme
    fill: int
    shapes: Mapping[str, tuple[Shape, ...]]

    def maker(self) -> AnnotationsMaker:
        """Open the images."""
        return AnnotationsMaker(self)


class AnnotationsMaker:
    """Reads images and paints the masks of their annotations."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations, self._store = annotations, open_dataset(annotations.data).store

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield image, labels and row of each row, whose index is that of the image."""
        annotations = self._annotations
        for row in rows:
            shapes, size = annotations.shapes[row["sample_id"]], (row["height"], row["width"])
            painted = paint(shapes, annotations.scheme, size, annotations.fill)
            tile = Tile(painted.semantic, painted.instance, row["mpp"], annotations.scheme)
            yield self._store.read(row["index"], "image"), tile, row


def prepare(
    folder: Path, data: Path, scheme: LabelScheme, out: Path, config: ImportConfig, *, partial: bool = False
) -> Prepared[Annotations]:
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
    table = pa.Table.from_pylist([rows[name] for name in annotated], schema=SCHEMA)
    for column, values in (("split", splits), ("label_scheme", scheme.name), ("label_origin", "annotated")):
        values = [values] * len(annotated) if isinstance(values, str) else values
        table = with_column(table, column, values)
    fill = IGNORE if config.fill is None else scheme.names.index(config.fill)
    document, info = _document(dataset, record, scheme, annotated, config), _info(dataset, scheme)
    notes = _notes(annotated, scheme, record.size, config.fill, len(found) - len(annotated))
    return prepare_run(Annotations(data, scheme, fill, annotated), table, out, document, info, notes=notes)


def _refuse_inside(out: Path, data: Path, folder: Path) -> None:
    for other in (data.resolve(), folder.resolve()):
        here = out.resolve()
        if here == other or other in here.parents or here in other.parents:
            raise UserError(
                f"--out {out}: expected a folder apart from {other}, got one with it. Choose another --out."
            )


def _refuse_foreign(folder: Path, record: Record) -> None:
    """Refuse annotation files of images that were not exported into this folder."""
    tool = resolve_tool(record.tool)
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
    height, width = shape_of(dataset)
    if record.size != (height, width):
        raise UserError(
            f"{folder / RECORD}: expected images of {height}x{width}, as in {dataset.root}, "
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
    tool, size = resolve_tool(record.tool), (row["height"], row["width"])
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
    shapes = tuple(tool.read(path, size, [scheme.names[label] for label in scheme.ids("nucleus")]))
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
    """Notes on overlaps, unlabelled pixels and images that are left out."""
    painted = [paint(shapes, scheme, size) for shapes in annotated.values()]
    pixels = size[0] * size[1] * len(painted)
    disputed, unlabelled = (sum(getattr(p, name) for p in painted) for name in ("disputed_px", "unlabelled_px"))
    notes = []
    if disputed:
        images = sum(p.disputed_px > 0 for p in painted)
        what = "nuclei or shapes of several classes" if scheme.ids("nucleus") else "shapes of several classes"
        where = f"{disputed / pixels:.2%} of the pixels, in {plural(images, 'image')}"
        notes.append(f"{what} overlap on {where}: the later one counts")
    if lost := sum(p.lost for p in painted):
        notes.append(f"{lost} nuclei have no pixel: later shapes cover them, or they are too small")
    if unlabelled:
        became = "255, ignore" if fill is None else fill
        notes.append(f"{unlabelled / pixels:.2%} of the pixels are in no shape and become {became}")
    if missing:
        notes.append(f"{missing} images are not annotated and are left out")
    return tuple(notes)


def _document(
    dataset: Dataset,
    record: Record,
    scheme: LabelScheme,
    annotated: Mapping[str, tuple[Shape, ...]],
    config: ImportConfig,
) -> dict[str, Any]:
    """The ``config`` of run.yaml. With the generator's settings, so that the images can be drawn again."""
    drawn = {
        name: [[shape.label, [[ring.tolist() for ring in rings] for rings in shape.polygons]] for shape in shapes]
        for name, shapes in annotated.items()
    }
    return {
        DRAWING: drawing_of(dataset.root).model_dump(mode="json"),
        ANNOTATED: {"data": record.data, "tool": record.tool, "shapes_sha256": digest(drawn)},
        "scheme": scheme.to_dict(),
        **config.model_dump(mode="json"),
    }


def _info(dataset: Dataset, scheme: LabelScheme) -> DatasetInfo:
    return DatasetInfo(
        is_synthetic=True,
        generator=f"{dataset.info.generator}, annotated",
        label_schemes=(scheme,),
        versions=library_versions(*BYTE_MAKERS, "torch"),
        training_sources=dataset.info.training_sources,
        licences=dataset.info.licences,
    )
