"""The contract of a manifest row: Arrow types, file metadata, and the checks that a table must pass."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import UserError
from manifests.keys import Keys
from manifests.labels import SCHEMES, LabelScheme
from manifests.limits import parse_json

SCHEMA_VERSION = 1
METADATA_KEY = b"pathology_tiles"
DISCLAIMER = "not for diagnosis"
SPLITS = ("train", "val", "test")
SOURCES = ("real", "synthetic")
LABEL_ORIGINS = ("exact", "conditioned", "predicted", "annotated", "weak", "copied")
SAMPLE_ID = re.compile(r"[a-z0-9-]+")

_TEXT, _SHARE, _COUNT = pa.string(), pa.float64(), pa.int64()
SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("sample_id", _TEXT, nullable=False),
        pa.field("index", _COUNT, nullable=False),
        pa.field("split", _TEXT),
        pa.field("source", _TEXT, nullable=False),
        pa.field("group_id", _TEXT),
        pa.field("height", _COUNT, nullable=False),
        pa.field("width", _COUNT, nullable=False),
        pa.field("mpp", _SHARE, nullable=False),
        pa.field("label_scheme", _TEXT, nullable=False),
        pa.field("seed", pa.uint64()),
        *(pa.field(name, _TEXT) for name in ("recipe", "mask_generator", "renderer", "config_sha256")),
        *(pa.field(name, _TEXT) for name in ("mask_weights_sha256", "image_weights_sha256")),
        *(pa.field(name, _SHARE) for name in ("request_tps", "request_tissue")),
        pa.field("request_cells", _COUNT),
        pa.field("request_fractions", pa.list_(pa.float64())),
        *(pa.field(name, _SHARE) for name in ("tps_area", "tps_cells", "positive_tissue_fraction")),
        pa.field("has_tumour", pa.bool_()),
        pa.field("tissue_fraction", _SHARE),
        pa.field("class_fractions", pa.list_(pa.float64())),
        *(pa.field(name, _COUNT) for name in ("cells", "cells_positive", "cells_negative", "cells_cut")),
        pa.field("allocation_shift", pa.float64()),
        pa.field("attempts", _COUNT),
        *(pa.field(name, _TEXT) for name in ("image_sha256", "semantic_sha256", "instance_sha256")),
        pa.field("store", _TEXT),
        pa.field("shard", _COUNT),
        *(pa.field(name, _TEXT) for name in ("label_origin", "device", "precision")),
        pa.field("latent", pa.list_(pa.float32())),
        pa.field("source_uri", _TEXT),
        *(pa.field(name, _COUNT) for name in ("source_x", "source_y", "source_level")),
        pa.field("licence", _TEXT),
        pa.field("real_pixels", pa.bool_()),
        pa.field("real_groups", pa.list_(_TEXT)),
        *(pa.field(name, pa.list_(pa.float64())) for name in ("request_cell_fractions", "cell_fractions")),
    ]
)
"""Columns of a manifest, version 1. A plan has nulls in the achieved columns; null means "not applicable".

In the lists of requested shares, null leaves a class to the mask generator.
"""

ACHIEVED = (
    "tps_area", "tps_cells", "positive_tissue_fraction", "has_tumour", "tissue_fraction", "class_fractions",
    "cells", "cells_positive", "cells_negative", "cells_cut", "cell_fractions",
)  # fmt: skip
"""The columns that `measure` fills, named as the fields of `Composition`."""

_SHARES = ("request_tps", "request_tissue", "tps_area", "tps_cells", "positive_tissue_fraction", "tissue_fraction")
_LOWER_BOUNDS = {
    "height": 1,
    "width": 1,
    **dict.fromkeys(("request_cells", "cells", "cells_positive", "cells_negative", "cells_cut"), 0),
    **dict.fromkeys(("index", "attempts", "shard"), 0),
}
_CHOICES = {"split": SPLITS, "source": SOURCES, "label_origin": LABEL_ORIGINS}


@dataclass(frozen=True)
class DatasetInfo:
    """Metadata of all rows of a manifest, kept in the Parquet metadata and the Zarr attributes.

    Attributes:
        is_synthetic: whether the images were generated.
        generator: maker of the images, e.g. "pathology-tile-factory 0.1.0: ihc + stain"; "ingest" for real ones.
        label_schemes: every scheme that rows name, with ids, names and colours.
        versions: library -> version, of all that can change a byte.
        training_sources: data sets that the generators were trained on or fitted to, or the images' own source.
        licences: of those sources.
        real_pixels: whether images hold pixels of real ones, whose patients the rows name in `real_groups`.
    """

    is_synthetic: bool
    generator: str
    label_schemes: tuple[LabelScheme, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    training_sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    real_pixels: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description with the schema version and the disclaimer."""
        return {
            "schema_version": SCHEMA_VERSION,
            "is_synthetic": self.is_synthetic,
            "generator": self.generator,
            "label_schemes": [scheme.to_dict() for scheme in self.label_schemes],
            "versions": dict(sorted(self.versions.items())),
            "training_sources": list(self.training_sources),
            "licences": list(self.licences),
            "real_pixels": self.real_pixels,
            "use": DISCLAIMER,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str) -> DatasetInfo:
        """Read the description back.

        Raises:
            UserError: for another schema version or a missing key.
        """
        version = document.get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{where}: expected schema version {SCHEMA_VERSION}, got {version!r}. Install the matching release."
            )
        try:
            return cls(
                is_synthetic=bool(document["is_synthetic"]),
                generator=str(document["generator"]),
                label_schemes=tuple(LabelScheme.from_dict(d) for d in document["label_schemes"]),
                versions=dict(document["versions"]),
                training_sources=tuple(document["training_sources"]),
                licences=tuple(document["licences"]),
                # data sets made before the key was there hold real pixels where they are real
                real_pixels=bool(document.get("real_pixels", not document["is_synthetic"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: expected the metadata of a manifest, got {error!r} in it.") from error

    def scheme(self, name: str) -> LabelScheme:
        """The scheme of that name, from this file or the shipped ones.

        Raises:
            UserError: when neither knows it.
        """
        for scheme in self.label_schemes:
            if scheme.name == name:
                return scheme
        if name in SCHEMES:
            return SCHEMES[name]
        raise UserError(f"manifest: label_scheme: expected a scheme that the metadata lists, got {name!r}.")


OWN_COLUMNS = "x_"
"""Start of the names of columns that users may add."""


def conform(table: pa.Table, where: str) -> pa.Table:
    """Cast a table to `SCHEMA`: missing columns become null, own ones (`OWN_COLUMNS`) stay, others are refused.

    Raises:
        UserError: naming the column that does not fit.
    """
    refuse_unknown(table.column_names, where)
    columns, zeros = [], pa.py_buffer(np.zeros(table.num_rows + 1, np.int64))
    for wanted in SCHEMA:
        column = table.column(wanted.name) if wanted.name in table.column_names else None
        if column is None or column.null_count == len(column):
            columns.append(_nulls(wanted.type, table.num_rows, zeros))
            continue
        if pa.types.is_integer(wanted.type) and pa.types.is_floating(column.type):
            _refuse_rounded(where, wanted, column)
        try:
            columns.append(column.cast(wanted.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{where}: column {wanted.name}: expected {wanted.type}, got {column.type} ({reason})."
            ) from error
    conformed = pa.table(columns, schema=SCHEMA)
    for name in table.column_names:
        if name.startswith(OWN_COLUMNS):
            conformed = conformed.append_column(name, table.column(name))
    return conformed


def _nulls(kind: pa.DataType, n: int, zeros: pa.Buffer) -> pa.Array:
    """`n` nulls of a type in zeros that columns share: a plan has thirty such columns, a third of a kilobyte a row."""
    if pa.types.is_list(kind):
        return pa.Array.from_buffers(kind, n, [zeros, zeros], n, children=[pa.nulls(0, kind.value_type)])
    return pa.Array.from_buffers(kind, n, [zeros, zeros, zeros][: kind.num_buffers], n)


_EXACT_BITS = {16: 11, 32: 24, 64: 53}
"""Width of a float type -> bits of the largest whole numbers that it holds exactly (IEEE 754)."""


def _refuse_rounded(where: str, wanted: pa.Field, column: pa.ChunkedArray) -> None:
    """Refuse whole numbers that another program turned into floats, where that rounds them."""
    most = 2 ** _EXACT_BITS[column.type.bit_width]
    worst = pc.max(pc.abs(column)).as_py()
    if worst is not None and worst > most:
        raise UserError(
            f"{where}: column {wanted.name}: expected {wanted.type}, got {column.type}, which rounds numbers above "
            f"{most:,}, such as {worst:.0f}. Write it again from the original with whole numbers: in pandas, "
            f'read_parquet(..., dtype_backend="pyarrow") keeps them through a merge.'
        )


def refuse_unknown(names: Sequence[str], where: str) -> None:
    """Check the names of columns.

    Raises:
        UserError: for an unknown or a repeated column.
    """
    for name in names:
        if name not in SCHEMA.names and not name.startswith(OWN_COLUMNS):
            raise UserError(
                f"{where}: expected the columns of a manifest, got the unknown column {name!r}. Remove it, or call it "
                f"{OWN_COLUMNS}{name}."
            )
    if len(set(names)) != len(names):
        raise UserError(f"{where}: expected every column once, got a repeated column name.")


def refuse_duplicates(table: pa.Table, where: str, first: int = 0) -> None:
    """Check that ids and indices are unique; `first` is the number of the table's first row.

    Raises:
        UserError: naming the first two rows that share one.
    """
    keys = Keys()
    keys.add(table)
    if not keys.may_repeat:
        return
    for name in ("sample_id", "index"):
        column = table[name]
        if pc.count_distinct(column).as_py() == len(column):
            continue
        seen: dict[Any, int] = {}
        for row, value in enumerate(column.to_pylist(), first):
            if value in seen:
                other = seen[value]
                raise UserError(f"{where}: row {row}: {name}: expected unique values, got {value!r} of row {other}.")
            seen[value] = row


def validate(table: pa.Table, where: str, first: int = 0) -> None:
    """Check the values of a table that has the columns of `SCHEMA`; `first` is the number of its first row.

    Raises:
        UserError: naming the first row and the column at fault.
    """
    refuse = partial(_refuse, where, first)
    for wanted in SCHEMA:
        column = table.column(wanted.name)
        if not wanted.nullable and column.null_count:
            refuse(wanted.name, pc.is_null(column), "a value", column)
        if pa.types.is_floating(wanted.type):
            refuse(wanted.name, pc.invert(pc.is_finite(column)), "a finite number", column)
        elif pa.types.is_list(wanted.type):
            _validate_list(table, wanted.name, where, first)
    refuse("mpp", pc.less_equal(table["mpp"], 0.0), "micrometres per pixel above 0", table["mpp"])
    for name in _SHARES:
        outside = pc.or_(pc.less(table[name], 0.0), pc.greater(table[name], 1.0))
        refuse(name, outside, "a share from 0 to 1", table[name])
    for name, bound in _LOWER_BOUNDS.items():
        refuse(name, pc.less(table[name], bound), f"{bound} or more", table[name])
    for name, choices in _CHOICES.items():
        outside = pc.invert(pc.is_in(table[name], pa.array(choices)))
        refuse(name, pc.and_(outside, pc.is_valid(table[name])), f"one of {', '.join(choices)}", table[name])
    ids = table["sample_id"]
    refuse("sample_id", pc.invert(pc.match_substring_regex(ids, "^[a-z0-9-]+$")), "[a-z0-9-]+", ids)
    groups = table["real_groups"]
    unsaid = pc.and_(pc.greater(pc.list_value_length(groups), 0), pc.invert(pc.fill_null(table["real_pixels"], False)))
    refuse("real_groups", unsaid, "none without real_pixels true", groups)
    refuse_duplicates(table, where, first)


def refuse_unsaid_pixels(table: pa.Table, info: DatasetInfo, where: str, first: int = 0) -> None:
    """Check that the metadata does not deny the real pixels of a row; `first` is the number of the first row.

    Raises:
        UserError: naming the first row with real pixels.
    """
    if not info.real_pixels:
        column = table["real_pixels"]
        _refuse(where, first, "real_pixels", column, "false, as the metadata says of all rows", column)


def _validate_list(table: pa.Table, name: str, where: str, start: int) -> None:
    values = table[name].combine_chunks()
    flat = pc.list_flatten(values)
    if pa.types.is_string(flat.type):
        bad = pc.fill_null(pc.equal(flat, ""), True)
        if pc.any(bad).as_py():
            first = pc.list_parent_indices(values).filter(bad)[0].as_py()
            raise UserError(f"{where}: row {start + first}: {name}: expected names, got {values[first].as_py()}.")
        return
    missing = not name.startswith("request_")  # a request may leave a class open
    bad = pc.fill_null(pc.invert(pc.is_finite(flat)), missing)
    what = "finite numbers"
    if name != "latent":
        bad = pc.or_(bad, pc.fill_null(pc.or_(pc.less(flat, 0.0), pc.greater(flat, 1.0)), missing))
        what = "shares from 0 to 1"
    if pc.any(bad).as_py():
        first = pc.list_parent_indices(values).filter(bad)[0].as_py()
        raise UserError(f"{where}: row {start + first}: {name}: expected {what}, got {values[first].as_py()}.")


def _refuse(where: str, first: int, name: str, bad: Any, expected: str, column: Any) -> None:
    bad = pc.fill_null(bad, False)
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        got = "nothing" if column[row].as_py() is None else repr(column[row].as_py())[:80]
        raise UserError(f"{where}: row {first + row}: {name}: expected {expected}, got {got}.")


def metadata_of(info: DatasetInfo) -> dict[bytes, bytes]:
    """Schema metadata that carries `info`."""
    return {METADATA_KEY: json.dumps(info.to_dict(), sort_keys=True).encode()}


def info_of(schema: pa.Schema, where: str) -> DatasetInfo:
    """The `DatasetInfo` in a Parquet file's schema.

    Raises:
        UserError: when the file was not written as a manifest.
    """
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise UserError(f"{where}: expected a manifest with pathology_tiles metadata, got a plain Parquet file.")
    try:
        document = parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON metadata, got {error}.") from error
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected a JSON object as metadata, got a {type(document).__name__}.")
    return DatasetInfo.from_dict(document, where)
