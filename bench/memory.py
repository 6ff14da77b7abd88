"""Memory that grows with rows: peak and bytes a row of plan, make, resume, verify and opening for training.

Resume, verify and train take a data set whose shards are links to the first one's files, with records made for it.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from factory.core.runs import open_run
from factory.make.pipeline import MakeShard, Prepared, make, prepare_run
from factory.make.recipes.base import Row, Sample
from factory.make.report import class_table, closing_table, request_table
from factory.plan.rows import PlanConfig, plan, requests_digest
from manifests.dataset import verify
from manifests.labels import get_scheme
from manifests.ledger import ShardRecord, finished, publish_record
from manifests.schema import DatasetInfo
from manifests.tile import Tile
from segment.data.augmentation import AugmentConfig
from segment.data.mixing import Shares, parse_mix
from segment.data.sampling import MixingSampler
from segment.data.sources import check_leaks, choose_scheme, open_sources
from segment.data.tiles import Tiles

ROWS = 19_200, 57_600
"""Numbers of tiles, in whole shards."""

SIZE_PX, SHARD = 32, 64
SCHEME = get_scheme("pdl1")


@dataclass(frozen=True)
class Blank:
    """Makes the same tile for every row: what is left is the cost of rows and records."""

    def maker(self) -> "Blank":
        """This object."""
        return self

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield the sample of each row."""
        labels = np.arange(SIZE_PX**2).reshape(SIZE_PX, SIZE_PX) % len(SCHEME)
        tile = Tile(labels.astype(np.uint8), np.zeros((SIZE_PX, SIZE_PX), np.int32), 0.5, SCHEME)
        image = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
        made = {"recipe": "polygons+stain", "mask_generator": "polygons", "renderer": "stain", "attempts": 1}
        origin = {"label_origin": "exact", "device": "cpu", "precision": "float32", "real_pixels": False}
        for row in rows:
            yield image, tile, {**row, **made, **origin}


def prepared(n: int, out: Path) -> Prepared[Blank]:
    """The run of `n` tiles."""
    rows = plan(PlanConfig(n=n, size=(SIZE_PX, SIZE_PX), tps="0-1", tissue="0.8-1"))
    config = {"plan": {"requests_sha256": requests_digest(rows)}, "shard": SHARD}
    return prepare_run(Blank(), rows, out, config, DatasetInfo(True, "bench", (SCHEME,)))


def run_plan(n: int, out: Path) -> None:
    """Draw a plan, and print it."""
    request_table(prepared(n, out).rows)


def run_make(n: int, out: Path) -> None:
    """Make all tiles that are missing."""
    table, _ = make(prepared(n, out), workers=1)
    closing_table(table, SCHEME)
    class_table(table, SCHEME)


def run_link(n: int, out: Path) -> None:
    """Write a finished data set of which only the first shard is made."""
    shutil.rmtree(out, ignore_errors=True)
    run_of = prepared(n, out)
    spec, rows = run_of.spec, run_of.rows
    with open_run(spec) as run:
        first = MakeShard(spec, Blank())(0, run_of.rows_of(0), lambda: None)
        for shard in range(1, spec.layout.shards):
            files = tuple(replace(file, path=file.path.replace("/c/0/", f"/c/{shard}/")) for file in first.files)
            for file, source in zip(files, first.files, strict=True):
                (out / file.path).parent.mkdir(parents=True)
                (out / file.path).hardlink_to(out / source.path)
            planned = rows.slice(shard * SHARD, SHARD).to_pylist()
            asked = ({name: value for name, value in row.items() if value is not None} for row in planned)
            made = tuple({**first.rows[0], **row, "shard": shard} for row in asked)
            publish_record(out, ShardRecord(shard, spec.fingerprint, files, made))
        run.done = finished(out, range(spec.layout.shards), spec.fingerprint)
        run.finish()


def run_resume(n: int, out: Path) -> None:
    """Make one shard and the manifest again."""
    for path in out.glob("manifest.*"):
        path.unlink()
    (out / "ledger/000003.json").unlink()
    run_make(n, out)


def run_verify(n: int, out: Path) -> None:
    """Verify the data set."""
    if faults := verify(out):
        sys.exit(f"{n}: {faults[0]}")


def run_train(n: int, out: Path) -> None:
    """Open the data set for training, and draw what a batch holds."""
    (source,) = sources = open_sources(parse_mix("synth"), out / "none", out)
    scheme = choose_scheme(sources, None)
    check_leaks(sources)
    with tempfile.TemporaryDirectory() as folder:
        tiles = Tiles(source.split("train"), scheme, Path(folder), 0)
        size = SIZE_PX, SIZE_PX
        MixingSampler((tiles,), Shares.constant(0.0), 16, 0, size, AugmentConfig(), 1 / 3).plan(n)


PHASES = {
    "plan": run_plan,
    "make": run_make,
    "link": run_link,
    "resume": run_resume,
    "verify": run_verify,
    "train": run_train,
}


def status_mb(key: str) -> float:
    """A size of this process in MB: VmHWM is the largest resident size since it was reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(key))) / 1e3


def measure(phase: str, n: int, out: Path) -> None:
    """Run a phase in this process; print its peak in MB and its CPU seconds."""
    started = time.process_time()
    PHASES[phase](n, out)
    print(status_mb("VmHWM"), time.process_time() - started)


def measured(phase: str, n: int, out: Path) -> tuple[float, float]:
    """Run a phase in a process of its own; its peak in MB and its CPU seconds."""
    command = [sys.executable, "-m", "bench.memory", phase, str(n), str(out)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(printed[-2]), float(printed[-1])


def main(few: int = ROWS[0], many: int = ROWS[1]) -> None:
    """Print the table."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        for n in (few, many):
            for phase in PHASES:
                found[phase, n] = measured(phase, n, root / str(n))
    finally:
        shutil.rmtree(root)
    print(f"{'':<8}{f'{few:,} rows':>16}{f'{many:,} rows':>16}{'a row':>12}")
    for phase in PHASES:
        (small, _), (large, seconds) = found[phase, few], found[phase, many]
        a_row = (large - small) * 1e6 / (many - few)
        print(f"{phase:<8}{small:>13.0f} MB{large:>13.0f} MB{a_row:>10.0f} B   {seconds:.1f} s of CPU")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] and words[0] in PHASES:
        measure(words[0], int(words[1]), Path(words[2]))
    else:
        main(*map(int, words))
