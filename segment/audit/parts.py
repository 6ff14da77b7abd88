"""The folder of an audit: a calibration, and findings in parts of 64 tiles, each whole or absent.

A killed audit goes on after its last whole part. Parts stay, so that another bound is applied in a moment.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.folder import begin, check_same, is_begun
from factory.core.runs import RUN, lock_folder
from manifests.errors import FaultError
from manifests.files import write_atomic
from segment.audit.calibration import StainCalibration, calibrate
from segment.audit.judge import FIGURES, Finding, Judge
from segment.audit.request import Audit, Inspected
from segment.data.accepted import ACCEPTED, SUMMARY
from segment.network.head import has_instances

PART_TILES = 64
PARTS, CALIBRATION = "parts", "calibration.json"
AUDIT, PLOT, REPORT = "audit.parquet", "audit.png", "audit.md"
_OWN = frozenset({RUN, PARTS, CALIBRATION, AUDIT, ACCEPTED, PLOT, SUMMARY, REPORT})

_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("tps_judge", pa.string()),
        *(pa.field(name, pa.float64()) for name in FIGURES),
    ]
)


def check_target(audit: Audit, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else than this audit.

    Raises:
        UserError: with what to do about it.
    """
    if is_begun(audit.out, "an audit", _OWN.__contains__) and not overwrite:
        check_same(audit.out, "an audit", audit.document, "Use --overwrite or another --out.")


@contextmanager
def opened(audit: Audit, *, overwrite: bool = False) -> Iterator[None]:
    """Hold the audit's folder: made, cleared where asked, and ready for parts.

    Raises:
        UserError: as `check_target`, and for two audits in one folder.
    """
    check_target(audit, overwrite=overwrite)
    audit.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(audit.out):
        begin(audit.out, audit.document, {}, clear=overwrite)
        (audit.out / PARTS).mkdir(exist_ok=True)
        yield


def read_calibration(audit: Audit, on_tile: Callable[[], None] = lambda: None) -> StainCalibration | None:
    """The calibration of the stain count: of an earlier start, or made now; None without a source for it."""
    if audit.stain_from is None:
        return None
    path = audit.out / CALIBRATION
    if path.is_file():
        return StainCalibration.from_dict(json.loads(path.read_text()))
    judge = Judge(audit.weights, None, None)
    knows_nuclei = has_instances(audit.weights.scheme)
    segmenter = (lambda image, densities, mpp: judge.see(image, mpp).instance) if knows_nuclei else None
    calibration = calibrate(audit.stain_from, segmenter, on_tile)
    write_atomic(path, json.dumps(calibration.to_dict(), indent=2).encode() + b"\n")
    return calibration


def tiles_done(audit: Audit) -> int:
    """Tiles in the parts of an earlier start."""
    return sum(
        min(PART_TILES, len(inspected.dataset) - number * PART_TILES)
        for inspected in audit.inspected
        for number in _numbers(inspected)
        if _part_path(audit.out, inspected, number).is_file()
    )


def look(audit: Audit, judge: Judge, inspected: Inspected, on_tile: Callable[[], None] = lambda: None) -> list[Finding]:
    """Findings of all tiles in question, in the order of their rows; parts that are there are not made again."""
    findings = []
    for number in _numbers(inspected):
        path = _part_path(audit.out, inspected, number)
        if not path.is_file():
            _write_part(path, judge, inspected, number, on_tile)
        findings += _read_part(path)
    return findings


def _numbers(inspected: Inspected) -> range:
    """Numbers of the parts that its tiles make."""
    return range(-(-len(inspected.dataset) // PART_TILES))


def _part_path(out: Path, inspected: Inspected, number: int) -> Path:
    return out / PARTS / f"{inspected.name}-{number:06d}.parquet"


def _write_part(path: Path, judge: Judge, inspected: Inspected, number: int, on_tile: Callable[[], None]) -> None:
    rows = []
    first = number * PART_TILES
    for position in range(first, min(first + PART_TILES, len(inspected.dataset))):
        sample = inspected.dataset[position]
        finding = judge.look(sample, inspected.annotated)
        rows.append({"sample_id": sample.row["sample_id"], **asdict(finding)})
        on_tile()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())


def _read_part(path: Path) -> list[Finding]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise FaultError(f"{path}: expected a whole part, got a damaged one. Remove it and run again.") from error
    columns = {name: table[name].to_numpy() for name in FIGURES}
    judges = table["tps_judge"].to_pylist()
    return [
        Finding(**{name: float(columns[name][row]) for name in FIGURES}, tps_judge=judges[row])
        for row in range(table.num_rows)
    ]
