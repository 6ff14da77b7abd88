"""`factory make` with starter weights: the processor's time with and without each kind of inference layer.

Every run is a process of its own, from the start of Python to the last file, in one worker and one thread. The ways
take turns, and each run is compared with the one of `as shipped` in the same turn, so that a machine that does other
work in between slows both. The images are compared as well: a data set must keep its bytes.
FACTORY_BENCH_TURNS sets the number of turns (default 5).
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

from bench.alone import show, show_machine

ROUTES = {
    "sharpgan": ("--renderer", "sharpgan", "--n", "48"),
    "pix2pixhd": ("--renderer", "pix2pixhd", "--n", "6"),
    "priorpath": ("--masks", "priorpath", "--scheme", "tissue", "--renderer", "palette", "--n", "12"),
    "depas": ("--masks", "depas", "--scheme", "tissue", "--renderer", "palette", "--n", "12"),
}

WAYS = {
    "as shipped": "",
    "no Winograd": "winograd.WinogradConvolution.pays = winograd.WinogradUpsampling.pays = never",
    "no private calls": "inference_layers._onednn_computes = never",
    "neither": """winograd.WinogradConvolution.pays = winograd.WinogradUpsampling.pays = never
inference_layers._onednn_computes = never""",
    "torch's own layers": """drawing._join_upsampling = never
drawing._convolution = drawing._transposed = lambda layer, dtype: layer.to(memory_format=torch.channels_last)""",
}

SCRIPT = """
import sys
import torch
from factory.nets import drawing, inference_layers, winograd
never = lambda *_: False
{change}
from factory.cli import main
main()
"""


def main() -> None:
    """Print a table for every route."""
    show_machine()
    turns = int(os.environ.get("FACTORY_BENCH_TURNS", "5"))
    for name, options in ROUTES.items():
        show(f"factory make, {name}", "time of the processor", "of the shipped time", "pixels moved, most")
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with tempfile.TemporaryDirectory(dir=os.environ.get("FACTORY_BENCH_DIR")) as folder:
            for turn in range(turns):
                for way in WAYS:
                    seconds[way].append(_cpu_seconds(way, (*options, "--out", f"{folder}/{turn}-{way}")))
            for way, found in seconds.items():
                ratio = statistics.median(a / b for a, b in zip(found, seconds["as shipped"], strict=True))
                moved = _moved(Path(folder), way)
                show(f"  {way}", f"{statistics.median(found):.1f} s", f"{ratio:.3f}", moved)


def _cpu_seconds(way: str, options: tuple[str, ...]) -> float:
    """User and system seconds of one command in a process of its own."""
    command = [sys.executable, "-c", SCRIPT.format(change=WAYS[way]), "make", "--workers", "1", "--device", "cpu"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _moved(folder: Path, way: str) -> str:
    """Share of grey levels that differ from the shipped ones', and the largest difference."""
    shipped, other = (
        np.asarray(zarr.open_group(folder / f"0-{name}" / "store.zarr", mode="r")["image"]).astype(np.int16)
        for name in ("as shipped", way)
    )
    moved = np.abs(shipped - other)
    return f"{np.count_nonzero(moved) / moved.size:.2%}, {moved.max()}"
