"""`factory make --tps 0.01-0.5`: rate from first to last shard, cores, memory, and the share of storage.

FACTORY_BENCH_TILES sets the number of tiles (default 1000; the figure in docs/results/speed.md is of 5000).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from bench.timing import peak_mb


def main() -> None:
    """Print the table."""
    n = int(os.environ.get("FACTORY_BENCH_TILES", "1000"))
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("FACTORY_BENCH_DIR")))
    out = folder / "synth"
    try:
        # One shard first: compiled kernels are then in numba's cache, as after any first run.
        _run(folder / "warm", 2)
        seconds, busy, peak = _run(out, n)
        projected = f", at this rate 5000 in {5000 / n * seconds:.0f} s" if n != 5000 else ""
        print(f"{n} tiles of 512x1024 in {seconds:.1f} s: {n / seconds:.1f} tiles/s{projected}")
        print(f"cores busy {busy:.2f} of {os.cpu_count()}; peak memory of all processes {peak:.0f} MB")
        _flatness(out)
        _storage_share()
    finally:
        shutil.rmtree(folder)


def _run(out: Path, n: int) -> tuple[float, float, float]:
    """Wall seconds, mean number of busy cores, and peak memory of the command and its workers in MB."""
    command = [sys.executable, "-m", "factory.cli", "make", "--tps", "0.01-0.5", "--n", str(n), "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, cpu = 0.0, dict[int, float]()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not stop.wait(0.25):
            total = 0
            for member in [root, *root.children(recursive=True)]:
                try:
                    total += member.memory_full_info().pss
                    times = member.cpu_times()
                    cpu[member.pid] = times.user + times.system
                except psutil.Error:
                    continue
            peak = max(peak, total / 1e6)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    if process.wait():
        raise RuntimeError("factory make failed")
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    return seconds, sum(cpu.values()) / seconds, peak


def _flatness(out: Path) -> None:
    """Rate of the last quarter of the shards against the first, from the times of their records."""
    times = sorted(path.stat().st_mtime for path in (out / "ledger").glob("*.json"))
    quarter = len(times) // 4
    if quarter < 2:
        return
    first = (times[quarter] - times[0]) / quarter
    last = (times[-1] - times[-1 - quarter]) / quarter
    print(f"rate of the last quarter of shards against the first: {first / last:.2f}")


def _storage_share() -> None:
    """Time in encoding, hashing, writing and fsync, as a share of making a shard in one process."""
    from factory.core import runs
    from factory.core.pool import single_threaded
    from factory.make.recipes.base import maker_of
    from factory.make.recipes.masks_and_renderer import prepare
    from factory.make.resolve import resolve_make

    single_threaded()
    folder = Path(tempfile.mkdtemp())
    config, scheme = resolve_make({"n": 64, "tps": "0.01-0.5"}, {}, None, [])
    prepared = prepare(config, scheme, folder / "d", manifest=None, like=None, device="cpu")
    maker, rows = maker_of(prepared.recipe), prepared.rows_of(0)
    list(maker.make(rows[:2]))
    started = time.perf_counter()
    samples = list(maker.make(rows))
    making = time.perf_counter() - started
    with runs.open_run(prepared.spec):
        started = time.perf_counter()
        runs.write_shard(prepared.spec, 0, samples)
        storing = time.perf_counter() - started
    shutil.rmtree(folder)
    share = storing / (making + storing)
    print(
        f"storing (measure, encode, hash, write, fsync) {share:.1%} of a shard's time; this process {peak_mb():.0f} MB"
    )
