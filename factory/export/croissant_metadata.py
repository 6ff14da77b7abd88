"""Metadata of a data set in Croissant 1.0 (Akhtar et al. 2024), https://docs.mlcommons.org/croissant/docs/croissant-spec.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from factory.export.base import Export
from factory.export.origin import summary

_TERMS = (
    "citeAs", "column", "conformsTo", "dataBiases", "dataCollection", "data", "equivalentProperty", "examples",
    "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isLiveDataset", "jsonPath",
    "key", "md5", "parentField", "path", "personalSensitiveInformation", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_JSON = ("data", "examples")


def metadata(
    export: Export,
    distribution: Sequence[Mapping[str, Any]],
    columns: pa.Schema,
    source: Mapping[str, Any],
    meanings: Mapping[str, str],
) -> dict[str, Any]:
    """A Croissant document.

    Args:
        export: what is described. distribution: its files, from `file_object` and `file_set`.
        columns: of the records. source: of the records, ``{"fileSet": {"@id": ...}}`` or ``{"fileObject": ...}``.
        meanings: column -> its description.
    """
    fields = [_field(column, source, meanings.get(column.name, "")) for column in columns]
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "name": export.name,
        "description": summary(export.mark),
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "license": list(export.mark["licences"]) or ["not stated"],
        "creator": {"@type": "sc:Organization", "name": export.mark["generator"]},
        "keywords": [export.kind, export.mark["use"], "digital pathology", export.scheme.name],
        "version": "1.0.0",
        "citeAs": f"{export.name}, {export.kind} tiles of {export.mark['generator']}",
        "rai:dataCollection": summary(export.mark),
        "rai:dataUseCases": f"Segmentation of histology; {export.mark['use']}.",
        "rai:dataLimitations": f"{export.kind}; {export.mark['use']}.",
        "rai:personalSensitiveInformation": (
            "Pixels of real images are inside." if export.mark["real_pixels"] else "No pixel of a real image is inside."
        ),
        "distribution": list(distribution),
        "recordSet": [{"@type": "cr:RecordSet", "@id": "tiles", "name": "tiles", "field": fields}],
    }


def file_object(name: str, size: int, sha256: str, kind: str) -> dict[str, Any]:
    """A file of the distribution: its path beside the document, bytes, digest and media type."""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def file_set(name: str, pattern: str, kind: str) -> dict[str, Any]:
    """Files of the distribution by a pattern, relative to the document."""
    return {"@type": "cr:FileSet", "@id": name, "name": name, "includes": pattern, "encodingFormat": kind}


def _context() -> dict[str, Any]:
    terms: dict[str, Any] = {term: f"cr:{term}" for term in _TERMS}
    terms |= {term: {"@id": f"cr:{term}", "@type": "@json"} for term in _JSON}
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        **terms,
        "conformsTo": "dct:conformsTo",
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    }


def _field(column: pa.Field, source: Mapping[str, Any], meaning: str) -> dict[str, Any]:
    kind, repeated = column.type, pa.types.is_list(column.type)
    kind = kind.value_type if repeated else kind
    origin: dict[str, Any] = {**source, "extract": {"column": column.name}}
    if pa.types.is_struct(kind):
        origin["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"tiles/{column.name}",
        "name": column.name,
        "description": meaning or column.name,
        "dataType": _data_type(kind),
        **({"repeated": True} if repeated else {}),
        "source": origin,
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return "sc:ImageObject"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
