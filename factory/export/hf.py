"""Hugging Face datasets: Parquet with the columns of the public PanNuke set, a dataset card, and Croissant metadata.

Columns as in RationAI/PanNuke: image, instances (a mask of one bit for each cell), categories (the class of each) and
tissue. Further ones follow: the semantic mask, and what the manifest says of the tile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from factory.core.cells import Cells
from factory.core.encoding import bilevel_png, png
from factory.export.base import Export, Files, Format, Part, Record
from factory.export.croissant_metadata import file_object, file_set, metadata
from factory.export.objects import objects_of
from factory.export.origin import summary
from manifests.dataset import Sample
from manifests.files import sha256_file
from manifests.schema import SCHEMA

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_MANIFEST = ("sample_id", "group_id", "mpp", "tps_area", "tps_cells", "cells", "label_origin", "licence")
_OWN = pa.schema(
    [
        ("image", _IMAGE),
        ("instances", pa.list_(_IMAGE)),
        ("categories", pa.list_(pa.int64())),
        ("tissue", pa.int64()),
        ("semantic", _IMAGE),
        ("is_synthetic", pa.bool_()),
        *((name, SCHEMA.field(name).type) for name in _MANIFEST),
    ]
)
_MEANINGS = {
    "image": "the tile, RGB",
    "instances": "a mask of one bit for each cell",
    "categories": "class of each cell",
    "tissue": "organ",
    "semantic": "class of each pixel; 255 = ignore",
}
_TISSUES = ["not stated"]
_ROW_GROUP = 64
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class HuggingFace(Format):
    """``data/SPLIT-00000-of-00001.parquet``, ``README.md`` and ``croissant.json``."""

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """A Parquet file."""
        rows = [_row(export, sample, objects_of(export, sample)[0]) for sample in samples]
        table = pa.Table.from_pylist(rows, _schema(export))
        name = f"data/{part.split}-{part.index:05d}-of-{part.parts:05d}.parquet"
        with files.open(name) as stream:
            # Pictures are compressed already: their pages are stored as they are.
            pq.write_table(table, stream, compression="none", write_page_checksum=True, row_group_size=_ROW_GROUP)
        return {"split": part.split, "bytes": table.nbytes, "file": name, "size": files.sizes[name]}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """The dataset card, and Croissant metadata."""
        files.put_text("README.md", _card(export, list(records.values())))
        kind = "application/x-parquet"
        objects = [
            file_object(record["file"], record["size"], sha256_file(files.root / record["file"]), kind)
            for record in records.values()
        ]
        files_of = file_set("parquet", "data/*.parquet", kind)
        source = {"fileSet": {"@id": "parquet"}}
        files.put_json("croissant.json", metadata(export, [*objects, files_of], _OWN, source, _MEANINGS))


def _row(export: Export, sample: Sample, cells: Cells) -> dict[str, Any]:
    row, (height, width) = sample.row, export.size
    places = {label.id: number for number, label in enumerate(export.cell_classes)}
    masks = []
    for number, (left, top, right, bottom) in zip(cells.ids.tolist(), cells.boxes.tolist(), strict=True):
        mask = np.zeros((height, width), np.bool_)
        mask[top:bottom, left:right] = sample.tile.instance[top:bottom, left:right] == number
        masks.append({"bytes": bilevel_png(mask), "path": None})
    comment = export.comment(row)
    return {
        "image": {"bytes": png(sample.image, comment), "path": f"{row['sample_id']}.png"},
        "instances": masks,
        "categories": [places[label] for label in cells.classes.tolist()],
        "tissue": 0,
        "semantic": {"bytes": png(sample.tile.semantic, comment), "path": f"{row['sample_id']}-semantic.png"},
        "is_synthetic": export.mark["is_synthetic"],
        **{name: row[name] for name in _MANIFEST},
    }


def _schema(export: Export) -> pa.Schema:
    """The columns, with their features as `datasets` reads them and the origin in the file's metadata."""

    def named(names: list[str]) -> dict[str, Any]:
        return {"names": names, "_type": "ClassLabel"}

    values = {
        name: {"dtype": str(_OWN.field(name).type).replace("double", "float64"), "_type": "Value"}
        for name in _OWN.names
    }
    features = {
        **values,
        "image": {"mode": "RGB", "_type": "Image"},
        "instances": {"feature": {"mode": "1", "_type": "Image"}, "_type": "Sequence"},
        "categories": {"feature": named([label.name for label in export.cell_classes]), "_type": "Sequence"},
        "tissue": named(_TISSUES),
        "semantic": {"mode": "L", "_type": "Image"},
    }
    mark = {"huggingface": {"info": {"features": features}}, "pathology_tiles": dict(export.mark)}
    return _OWN.with_metadata({key: json.dumps(value) for key, value in mark.items()})


def _card(export: Export, records: list[Record]) -> str:
    """``README.md``: the head that the hub reads, and the text that people read."""
    tiles = sum(export.tiles.values())
    sizes = [record["size"] for record in records]
    head = {
        "license": "other",
        "license_name": ", ".join(export.mark["licences"]) or "not stated",
        "task_categories": ["image-segmentation"],
        "tags": [export.kind, "medical", "histology", "not-for-diagnosis"],
        "size_categories": [next((name for most, name in _SIZES if tiles < most), "n>1M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in export.tiles],
            }
        ],
        "dataset_info": {
            "splits": [
                {
                    "name": split,
                    "num_examples": count,
                    "num_bytes": sum(record["bytes"] for record in records if record["split"] == split),
                }
                for split, count in export.tiles.items()
            ],
            "download_size": sum(sizes),
            "dataset_size": sum(record["bytes"] for record in records),
        },
    }
    height, width = export.size
    classes = "\n".join(f"- {label.id}: {label.name}" for label in export.scheme.classes)
    columns = "\n".join(f"- `{name}`: {meaning}" for name, meaning in _MEANINGS.items())
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {export.name}\n\n"
        f"{summary(export.mark)}\n\n{tiles:,} tiles of {height}x{width} pixels, {export.mpp:g} um per pixel.\n\n"
        f"## Columns\n\n{columns}\n\n`categories` counts classes of cells from 0: "
        f"{', '.join(label.name for label in export.cell_classes)}. The others are columns of the manifest.\n\n"
        f"## Classes of `semantic`\n\n{classes}\n- 255: ignore\n\n"
        f"## Origin\n\n```json\n{json.dumps(dict(export.mark), indent=1)}\n```\n"
    )
