"""What ten million and a billion tiles cost on 1, 100 and 1,000 cores, and what breaks first."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import factory
from bench.memory import measured

FEW, MANY = 5_000, 20_000
"""Rows between which cost a row is measured."""
DRAWN = 256
TASKS = 1_000
SHARD = 64
SIZE_PX = 256
CORES = 1, 100, 1_000
TILES = 10_000_000, 1_000_000_000


@dataclass(frozen=True)
class Rates:
    """Measured costs.

    Attributes:
        draw: CPU seconds of a tile of 256x256, from labels to stored bytes. tile_bytes: of it on the disk.
        task: seconds of the scheduler for a shard. row: CPU seconds of a row, by phase that one process does.
    """

    draw: float
    tile_bytes: float
    task: float
    row: dict[str, float]

    def hours(self, n: int, cores: int) -> dict[str, float]:
        """Wall time of each phase in hours.

        Shards are handed out one at a time, `task` seconds each, and every core draws on its own. The slower of both
        decides; the first shard of one and the last of the other do not overlap with it.
        """
        shards, shard = n / SHARD, SHARD * self.draw
        drawing = max(shards * self.task + shard, shards / cores * shard + self.task)
        wall = {"plan": n * self.row["plan"], "draw": drawing, "close": n * self.row["resume"]}
        return {phase: seconds / 3600 for phase, seconds in wall.items()}


def measure(folder: Path) -> Rates:
    """Measure on this machine, with one process at work."""
    phases = [(phase, n) for n in (FEW, MANY) for phase in ("plan", "make", "resume")]
    found = {(phase, n): measured(phase, n, folder / str(n))[1] for phase, n in phases}
    row = {phase: (found[phase, MANY] - found[phase, FEW]) / (MANY - FEW) for phase in ("plan", "resume")}
    factory.make(folder / "warm", n=2, size=SIZE_PX, tps="0.01-0.5", workers=1)  # kernels are compiled
    started = time.process_time()
    factory.make(folder / "drawn", n=DRAWN, size=SIZE_PX, tps="0.01-0.5", workers=1)
    draw = (time.process_time() - started) / DRAWN
    size = sum(file.stat().st_size for file in (folder / "drawn/store.zarr").rglob("*") if file.is_file())
    return Rates(draw, size / DRAWN, task_seconds(), row)


def task_seconds() -> float:
    """Wall seconds that dask.distributed takes to hand a task to a worker and bring its answer back, many in flight."""
    from distributed import Client, LocalCluster, as_completed

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.submit(abs, -1).result()
        started = time.perf_counter()
        for future in as_completed([client.submit(abs, -number, pure=False) for number in range(TASKS)]):
            future.result()
        return (time.perf_counter() - started) / TASKS


def main() -> None:
    """Print the rates and the table."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        rates = measure(folder)
    finally:
        shutil.rmtree(folder)
    print(f"a tile {rates.draw * 1e3:.1f} ms of CPU, {rates.tile_bytes / 1e3:.0f} kB; a task {rates.task * 1e3:.2f} ms")
    for phase, seconds in rates.row.items():
        print(f"{phase:<8}{seconds * 1e6:>8.0f} us a row")
    cpus = SHARD * rates.draw / rates.task
    print(f"cores that one scheduler keeps busy with shards of {SHARD} tiles: {cpus:,.0f}")
    for n in TILES:
        disk = f"{n * rates.tile_bytes / 1e12:,.1f} TB, {4 * n / SHARD:,.0f} files"
        print(f"\n{n:,} tiles: {disk}")
        for cores in CORES:
            hours = rates.hours(n, cores)
            print(f"{cores:>7,} cores  " + "  ".join(f"{phase} {value:,.2f} h" for phase, value in hours.items()))


if __name__ == "__main__":
    main()
