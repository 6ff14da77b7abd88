"""OME-NGFF 0.5 (Moore et al. 2021), https://ngff.openmicroscopy.org/0.5: a Zarr v3 group with an image for each tile.

Each image has its labels: ``semantic``, with names and colours of the classes, and ``instances``. An image is one
chunk, as is each of its labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factory.export.base import Export, Files, Format, Part, Record
from factory.export.origin import summary
from manifests.dataset import Sample

_VERSION = "0.5"
_ZSTD = pa.Codec("zstd", compression_level=1)


class OmeZarr(Format):
    """A Zarr group ``NAME`` for each tile, in the layout of bioformats2raw."""

    bytes_per_px = 5.0

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """A group for each tile, with its arrays."""
        for sample in samples:
            name, mpp = sample.row["sample_id"], sample.row["mpp"]
            image = {"multiscales": [_multiscale(name, "cyx", mpp)], "omero": _channels()}
            _put_group(files, name, image, pathology_tiles=export.mark_of(sample.row))
            _put_array(files, f"{name}/0", np.moveaxis(sample.image, -1, 0), "cyx")
            labels: dict[str, npt.NDArray[Any]] = {"semantic": sample.tile.semantic}
            if export.cells:
                labels["instances"] = sample.tile.instance
            _put_group(files, f"{name}/labels", {"labels": list(labels)})
            for kind, array in labels.items():
                shown = {"multiscales": [_multiscale(kind, "yx", mpp)], "image-label": _image_label(export, kind)}
                _put_group(files, f"{name}/labels/{kind}", shown)
                _put_array(files, f"{name}/labels/{kind}/0", array, "yx")
        files.put_piece("names", part, (row["sample_id"] for row in part.rows))
        return {}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """The group of all, and the list of its images."""
        del records
        mark = {**export.mark, "description": summary(export.mark)}
        _put_group(files, "", {"bioformats2raw.layout": 3}, pathology_tiles=mark)
        _put_group(files, "OME", {"series": [name for split in export.tiles for name in files.lines("names", split)]})


def _put_group(files: Files, path: str, ome: Mapping[str, Any], **others: Any) -> None:
    attributes = {"ome": {"version": _VERSION, **ome}, **others}
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    files.put_json(f"{path}/zarr.json".lstrip("/"), document)


def _put_array(files: Files, path: str, array: npt.NDArray[Any], axes: str) -> None:
    """An array of one chunk."""
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    files.put_json(
        f"{path}/zarr.json",
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": array.shape,
            "data_type": array.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": array.shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
            ],
            "attributes": {},
            "dimension_names": list(axes),
        },
    )
    files.put("/".join([path, "c", *"0" * array.ndim]), _ZSTD.compress(stored, asbytes=True))


def _multiscale(name: str, axes: str, mpp: float) -> dict[str, Any]:
    space = {"type": "space", "unit": "micrometer"}
    scale = [1.0 if axis == "c" else mpp for axis in axes]
    return {
        "name": name,
        "axes": [{"name": axis, **({"type": "channel"} if axis == "c" else space)} for axis in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
    }


def _channels() -> dict[str, Any]:
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    colours = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}
    channels = [{"label": name, "color": colour, "active": True, "window": window} for name, colour in colours.items()]
    return {"channels": channels, "rdefs": {"model": "color"}}


def _image_label(export: Export, kind: str) -> dict[str, Any]:
    document: dict[str, Any] = {"source": {"image": "../../"}}
    if kind == "semantic":
        classes = export.scheme.classes
        document["colors"] = [{"label-value": label.id, "rgba": [*label.colour, 255]} for label in classes]
        document["properties"] = [{"label-value": label.id, "class": label.name} for label in classes]
    return document
