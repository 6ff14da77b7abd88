"""COCO: cells as instances and classes as stuff, both as run-length codes, a JSON file for each split.

Format: Lin et al. 2014, https://cocodataset.org/#format-data. The run-length codes are those of pycocotools, made
for all objects of a tile in one pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.encoding import png
from factory.export.base import Export, Files, Format, Part, Record
from factory.export.objects import add, objects_of
from factory.export.origin import summary
from manifests.dataset import Sample
from manifests.labels import IGNORE


class Coco(Format):
    """Images, ``instances_SPLIT.json`` of cells, and ``stuff_SPLIT.json`` of regions."""

    bytes_per_px = 3.5

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """An image for each tile, and the lines of its annotations, which get their ids in `finish`."""
        images, instances, stuff = [], [], []
        lost: dict[str, int] = {}
        for number, sample in enumerate(samples, part.first + 1):
            name = sample.row["sample_id"]
            files.put(f"images/{name}.png", png(sample.image, export.comment(sample.row)))
            images.append(json.dumps(_image(export, number, sample)))
            cells, more = _instances(export, number, sample)
            instances += cells
            stuff += _stuff(number, sample) if export.holds_regions else []
            add(lost, more)
        files.put_piece("images", part, images)
        files.put_piece("instances", part, instances)
        files.put_piece("stuff", part, stuff)
        return {"lost": lost}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """The JSON files, joined line by line."""
        del records
        kinds = ["stuff"] if export.holds_regions else []
        kinds += ["instances"] if export.cells or export.scheme.ids("nucleus") else []
        for kind in kinds:
            classes = export.scheme.classes if kind == "stuff" else export.cell_classes
            categories = [
                {"id": _category(label.id, kind, export), "name": label.name, "supercategory": export.scheme.name}
                for label in classes
            ]
            for split in export.tiles:
                head = {"info": _info(export), "licenses": _licences(export), "categories": categories}
                with files.open(f"annotations/{kind}_{split}.json") as stream:
                    stream.write(json.dumps(head)[:-1].encode())
                    stream.write(b',\n"images": [\n')
                    stream.writelines(_joined(files.lines("images", split)))
                    stream.write(b'\n],\n"annotations": [\n')
                    lines = enumerate(files.lines(kind, split), 1)
                    stream.writelines(_joined(f'{{"id": {number}, {line}' for number, line in lines))
                    stream.write(b"\n]}\n")


def _category(label: int, kind: str, export: Export) -> int:
    """Category of a class: its id, plus 1 where class 0 has a category too."""
    return label + (kind == "stuff" or not export.scheme.ids("nucleus"))


def _image(export: Export, number: int, sample: Sample) -> dict[str, Any]:
    row = sample.row
    height, width = export.size
    licence = export.mark["licences"].index(row["licence"]) + 1 if row["licence"] else 0
    return {
        "id": number,
        "file_name": f"{row['sample_id']}.png",
        "height": height,
        "width": width,
        "license": licence,
        "group": row["group_id"],
        "mpp": row["mpp"],
    }


def _info(export: Export) -> dict[str, Any]:
    return {"description": summary(export.mark), "contributor": export.mark["generator"], **export.mark}


def _licences(export: Export) -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "url": ""} for number, name in enumerate(export.mark["licences"], 1)]


def _instances(export: Export, image: int, sample: Sample) -> tuple[list[str], dict[str, int]]:
    """Annotations of the cells, and of ignored pixels as crowds, which scores leave out; and what is lost."""
    tile, (cells, lost) = sample.tile, objects_of(export, sample)
    codes = run_lengths(tile.instance)
    lines = []
    for number, label, area, (left, top, right, bottom), code in zip(
        *(values.tolist() for values in (cells.ids, cells.classes, cells.areas_px, cells.boxes)), codes, strict=True
    ):
        box = (left, top, right - left, bottom - top)
        lines.append(_annotation(image, _category(label, "instances", export), area, box, tile.shape, code, number))
    ignored = tile.semantic == IGNORE
    if ignored.any() and not export.holds_regions:
        box, (code,) = _box(ignored), run_lengths(ignored.astype(np.int32))
        area = int(np.count_nonzero(ignored))
        lines += [
            _annotation(image, _category(label.id, "instances", export), area, box, tile.shape, code, crowd=True)
            for label in export.cell_classes
        ]
    return lines, lost


def _stuff(image: int, sample: Sample) -> list[str]:
    """An annotation for each class in the tile; ignored pixels are in none."""
    semantic = sample.tile.semantic
    labels = np.where(semantic == IGNORE, 0, semantic.astype(np.int32) + 1)
    present = np.unique(labels[labels > 0]).tolist()
    masks = {label: labels == label for label in present}
    return [
        _annotation(image, label, int(np.count_nonzero(masks[label])), _box(masks[label]), semantic.shape, code)
        for label, code in zip(present, run_lengths(labels), strict=True)
    ]


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, width and height of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _annotation(
    image: int,
    category: int,
    area: int,
    box: tuple[int, int, int, int],
    size: tuple[int, ...],
    code: str,
    instance: int | None = None,
    *,
    crowd: bool = False,
) -> str:
    """An annotation as JSON, but for ``{"id": N, ``."""
    escaped = code.replace("\\", "\\\\")  # the one character of a code that JSON escapes
    own = "" if instance is None else f', "instance_id": {instance}'
    return (
        f'"image_id": {image}, "category_id": {category}, "iscrowd": {int(crowd)}, "area": {area}, '
        f'"bbox": {list(box)}, "segmentation": {{"size": {list(size)}, "counts": "{escaped}"}}{own}}}'
    )


def _joined(lines: Iterator[str]) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        separator = ",\n" if number else ""
        yield f"{separator}{line}".encode()


def run_lengths(labels: npt.NDArray[np.int32]) -> list[str]:
    """COCO's compressed run-length code of every label but 0, ascending: as ``pycocotools.mask.encode`` of its mask.

    Args:
        labels: int32 [H, W].
    """
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    ends = np.append(starts[1:], flat.size)
    on = np.flatnonzero(flat[starts])
    on = on[np.argsort(flat[starts[on]], kind="stable")]
    if not on.size:
        return []
    starts, ends, values = starts[on], ends[on], flat[starts[on]]
    first = np.diff(values, prepend=values[:1] - 1) != 0
    groups = np.cumsum(first) - 1
    before = np.where(first, 0, np.append(0, ends[:-1]))
    last = np.append(first[1:], True)
    # Each run is the gap before it and its length; the last run of a label has the gap behind it too.
    counts = np.stack([starts - before, ends - starts, np.where(last, flat.size - ends, 0)], 1)
    kept = np.stack([np.ones_like(last), np.ones_like(last), last & (ends < flat.size)], 1)
    group = np.repeat(groups, kept.sum(1))
    return _text(counts[kept], group)


def _text(counts: npt.NDArray[np.int64], group: npt.NDArray[np.int64]) -> list[str]:
    """Counts of several codes, one after the other, as text: ``rleToString`` of pycocotools' maskApi.c."""
    place = np.arange(len(counts)) - np.searchsorted(group, group)  # in its own code
    values = counts.copy()
    later = np.flatnonzero(place > 2)
    values[later] -= counts[later - 2]
    characters, rounds, more = [], [], np.ones(len(values), np.bool_)
    while more.any():
        digit = values & 0x1F
        values >>= 5
        rounds.append(more)
        more = more & np.where(digit & 0x10, values != -1, values != 0)
        characters.append((digit | more * 0x20) + 48)
    used = np.stack(rounds, 1)
    text = np.stack(characters, 1)[used].astype(np.uint8).tobytes().decode()
    ends = np.cumsum(np.bincount(group, weights=used.sum(1))).astype(np.int64).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
