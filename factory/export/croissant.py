"""Croissant metadata of the data set itself: its manifest as records, and the files of its store with their digests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pyarrow.parquet as pq

from factory.export.base import Export, Files, Format, Part, Record
from factory.export.croissant_metadata import file_object, file_set, metadata
from manifests.checksums import listed_files
from manifests.dataset import Sample
from manifests.files import sha256_file
from manifests.schema import SCHEMA
from manifests.store import STORE
from manifests.table import rows_to_table

_PARQUET = "application/x-parquet"


class Croissant(Format):
    """``croissant.json`` and the chosen rows of the manifest as ``tiles/SPLIT-00000-of-00001.parquet``."""

    bytes_per_px = 0.1

    @staticmethod
    def check(export: Export) -> None:
        """The paths of the store are relative to the export: both are on this machine."""
        os.fspath(export.root)

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """Rows of the manifest; the tiles are read, so that the metadata describe a set that is whole."""
        rows = [sample.row for sample in samples]
        name = f"tiles/{part.split}-{part.index:05d}-of-{part.parts:05d}.parquet"
        with files.open(name) as stream:
            pq.write_table(rows_to_table(rows), stream, compression="zstd", write_page_checksum=True)
        return {"file": name, "size": files.sizes[name]}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """``croissant.json``; paths of the store are relative to it."""
        tables = [
            file_object(record["file"], record["size"], sha256_file(files.root / record["file"]), _PARQUET)
            for record in records.values()
        ]
        beside = os.path.relpath(export.root, export.out)
        arrays = [
            file_object(f"{beside}/{name}", (export.root / name).stat().st_size, sha256, "application/octet-stream")
            for name, sha256 in sorted(listed_files(export.root).items())
            if name.startswith(f"{STORE}/")
        ]
        distribution = [*tables, file_set("tiles-parquet", "tiles/*.parquet", _PARQUET), *arrays]
        source = {"fileSet": {"@id": "tiles-parquet"}}
        files.put_json("croissant.json", metadata(export, distribution, SCHEMA, source, {}))
