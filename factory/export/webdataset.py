"""WebDataset (Aizman et al. 2019): tar files of samples, each an image, its label maps and a JSON."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from factory.core.encoding import png
from factory.export.base import Export, Files, Format, Part, Record
from manifests.dataset import Sample
from manifests.schema import ACHIEVED


class WebDataset(Format):
    """Tar files ``SPLIT-000000.tar`` of ``ID.png``, ``ID.npz`` (semantic, instance) and ``ID.json``."""

    @staticmethod
    def write(export: Export, part: Part, samples: Iterator[Sample], files: Files) -> Record:
        """A tar file. Label maps are arrays: webdataset turns every PNG into RGB."""
        with (
            files.open(f"{part.split}-{part.index:06d}.tar") as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for sample in samples:
                row = sample.row
                own = {name: row[name] for name in ("split", "group_id", "mpp", "seed", *ACHIEVED)}
                document = {**export.mark_of(row), **own, "label_scheme": export.scheme.to_dict()}
                _add(tar, f"{row['sample_id']}.json", json.dumps(document, sort_keys=True).encode())
                _add(tar, f"{row['sample_id']}.npz", npz(semantic=sample.tile.semantic, instance=sample.tile.instance))
                _add(tar, f"{row['sample_id']}.png", png(sample.image, export.comment(row)))
        return {}

    @staticmethod
    def finish(export: Export, records: Mapping[int, Record], files: Files) -> None:
        """Nothing: the samples say all."""


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def npz(**arrays: npt.NDArray[np.integer]) -> bytes:
    """Arrays as numpy's NPZ, compressed quickly, the same bytes every time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as entry:
                np.lib.format.write_array(entry, array)
    return stream.getvalue()
