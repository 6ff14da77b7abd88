"""The folder of an audit: the calibration, and findings in parts of 64 tiles.

A part is written as a whole, so a killed audit resumes after its last part. Parts are kept, so that another bound is
applied without auditing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from factory.core.encoding import json_bytes, parquet_bytes
from factory.core.folder import RUN, begin, check_same, is_begun, lock_folder
from manifests.errors import FaultError
from manifests.files import write_atomic
from manifests.limits import reads
from segment.audit.auditor import FIGURES, Auditor, Finding
from segment.audit.calibration import StainCalibration, calibrate
from segment.audit.request import Audit, TileSet
from segment.data.sources import ACCEPTED, AUDIT, SUMMARY
from segment.network.head import has_instances

PART_TILES = 64
PARTS, CALIBRATION = "parts", "calibration.json"
PLOT, REPORT = "audit.png", "audit.md"
_OWN = frozenset({RUN, PARTS, CALIBRATION, AUDIT, ACCEPTED, PLOT, SUMMARY, REPORT})

_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("tps_judge", pa.string()),
        *(pa.field(name, pa.float64()) for name in FIGURES),
    ]
)


def check_target(audit: Audit, *, overwrite: bool) -> None:
    """Refuse a folder with other files, or with another audit unless it is to be replaced."""
    if is_begun(audit.out, "an audit", _OWN.__contains__) and not overwrite:
        check_same(audit.out, "an audit", audit.document, "Use --overwrite or another --out.")


@contextmanager
def opened(audit: Audit, *, overwrite: bool = False) -> Iterator[None]:
    """Lock the audit's folder, made and with `overwrite` cleared, ready for parts."""
    check_target(audit, overwrite=overwrite)
    audit.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(audit.out):
        begin(audit.out, audit.document, {}, clear=overwrite)
        (audit.out / PARTS).mkdir(exist_ok=True)
        yield


def read_calibration(audit: Audit, on_tile: Callable[[], None] = lambda: None) -> StainCalibration | None:
    """The calibration of the stain count, from an earlier start or made now; None where no tiles are given for it."""
    if audit.stain_from is None:
        return None
    path = audit.out / CALIBRATION
    if path.is_file():
        return TypeAdapter(StainCalibration).validate_json(path.read_bytes())
    auditor = Auditor(audit.weights, None, None)
    has_nuclei = has_instances(audit.weights.scheme)
    segmenter = (lambda image, densities, mpp: auditor.segment(image, mpp).instance) if has_nuclei else None
    calibration = calibrate(audit.stain_from, segmenter, on_tile)
    write_atomic(path, json_bytes(asdict(calibration)))
    return calibration


def tiles_done(audit: Audit) -> int:
    """Tiles in the parts of an earlier start."""
    return sum(
        min(PART_TILES, len(tiles.dataset) - number * PART_TILES)
        for tiles in audit.tile_sets
        for number in _numbers(tiles)
        if _part_path(audit.out, tiles, number).is_file()
    )


def audit_tiles(
    audit: Audit, auditor: Auditor, tiles: TileSet, on_tile: Callable[[], None] = lambda: None
) -> list[Finding]:
    """Findings on all tiles of a set, in the order of their rows; existing parts are not made again."""
    findings = []
    for number in _numbers(tiles):
        path = _part_path(audit.out, tiles, number)
        if not path.is_file():
            _write_part(path, auditor, tiles, number, on_tile)
        findings += _read_part(path)
    return findings


def _numbers(tiles: TileSet) -> range:
    """Numbers of the parts of a set."""
    return range(-(-len(tiles.dataset) // PART_TILES))


def _part_path(out: Path, tiles: TileSet, number: int) -> Path:
    return out / PARTS / f"{tiles.name}-{number:06d}.parquet"


def _write_part(path: Path, auditor: Auditor, tiles: TileSet, number: int, on_tile: Callable[[], None]) -> None:
    rows = []
    first = number * PART_TILES
    for position in range(first, min(first + PART_TILES, len(tiles.dataset))):
        sample = tiles.dataset[position]
        finding = auditor.audit(sample, tiles.annotated)
        rows.append({"sample_id": sample.row["sample_id"], "tps_judge": finding.tps_method, **asdict(finding)})
        on_tile()
    write_atomic(path, parquet_bytes(pa.Table.from_pylist(rows, _SCHEMA)))


@reads("a part of an audit")
def _read_part(path: Path) -> list[Finding]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise FaultError(f"{path}: expected a whole part, got a damaged one. Remove it and run again.") from error
    columns = {name: table[name].to_numpy() for name in FIGURES}
    methods = table["tps_judge"].to_pylist()
    return [
        Finding(**{name: float(columns[name][row]) for name in FIGURES}, tps_method=methods[row])
        for row in range(table.num_rows)
    ]
