"""StyleGAN2-ADA and its labels at work: sampling, a training step, ADA's share of it, tiles with labels, and memory.

One thread, a process for every line, random weights of two networks in files as the factory writes them: `published` is
configs/train/stylegan2.yaml at 512 x 512, with one labeller of the last five blocks; `light` is stylegan2_light.yaml,
with five labellers of all blocks. The bare forward pass beside images has the arithmetic of `factory sample`. Beside
labels, the stock pass goes layer by layer in float32, as in training; the fastest in the same number format folds what
is linear, in bf16 with weights in bf16. `asked`: tiles chosen from a pool of four for each. Seconds of a step are
medians of its kinds (nothing more, path length, R1 too), weighed as often as they come.

Memory is the resident peak so far of a process with the published network at batch 1, its image augmented (p = 1),
gradients and Adam's state there: after what every step does, R1, then path length. A process that leaves the machine
under 1.5 GB is killed, and its peak is printed. ADA's share there is of the first of these, and without gradients.

FACTORY_BENCH_SIDES sets the sides (default 512,1024,2048), FACTORY_BENCH_LARGE=1 adds 4096, FACTORY_BENCH_TILES sets
images and tiles (default 4, of `light` 64 times as many), and FACTORY_BENCH_CLOCK=cpu takes the processor's time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.alone import measured, ms, show, show_machine
from bench.stylegan2_work import P

PARTS = ("a step", "and R1", "and path length")
FLOOR_GB = 1.5

CALL = """
import json, sys
from factory.core.malloc import keep_freed_memory
keep_freed_memory()
import torch
torch.set_num_threads(1)
from factory.core.pool import single_threaded
single_threaded()
from bench import stylegan2_work
print(json.dumps(getattr(stylegan2_work, sys.argv[1])(*sys.argv[2:])))
"""


def main() -> None:
    """Print the tables."""
    show_machine()
    n = os.environ.get("FACTORY_BENCH_TILES", "4")
    with tempfile.TemporaryDirectory(dir=os.environ.get("FACTORY_BENCH_DIR")) as name:
        folder = Path(name)
        measured(CALL, "write_all", folder)
        show("images", "bare forward pass", "factory sample", "of the bare rate", "images/s", "peak memory, GB")
        for which, precision in (("published", "fp32"), ("published", "bf16"), ("light", "fp32")):
            bare, ours, peak = measured(CALL, "sampled", which, precision, folder, n)
            rates = f"{bare / ours:.2f}", f"{1 / ours:.2f}"
            show(f"{which}, {precision}", ms(bare), ms(ours), *rates, f"{peak:.2f}")
        columns = (
            "stock pass, fp32",
            "fastest pass",
            "pass and labels",
            "factory make",
            "of the stock rate",
            "of the fastest",
        )
        show("\nwith labels", *columns)
        for which, precision, asked in (
            ("published", "fp32", ""), ("published", "bf16", ""), ("light", "fp32", ""), ("light", "fp32", "asked"),
        ):  # fmt: skip
            stock, bare, drawn, ours = measured(CALL, "labelled", which, precision, asked, folder, n)
            row = ", ".join(filter(None, (which, precision, asked)))
            show(row, ms(stock), ms(bare), ms(drawn), ms(ours), f"{stock / ours:.2f}", f"{bare / ours:.2f}")
        _make_tiles_to_learn(folder / "data")
        show("\ntraining step, light", "bare loop", "factory train", "of the bare rate", "peak memory, GB")
        bare, ours, peak = measured(CALL, "trained", folder / "data", folder / "run")
        show(f"ADA at p = {P:g}", ms(bare), ms(ours), f"{bare / ours:.2f}", f"{peak:.2f}")
        show("\nADA in a step, light", "step without", "step with it", "share of the step")
        steps = measured(CALL, "augmented_steps", folder / "data")
        for p, seconds in zip((P, 1.0), steps[1:], strict=True):
            show(f"p = {p:g}", ms(steps[0]), ms(seconds), f"{1 - steps[0] / seconds:.1%}")
    _show_memory()


def _show_memory() -> None:
    """Print what processes say that may be killed, one for each side."""
    sides = os.environ.get("FACTORY_BENCH_SIDES", "512,1024,2048").split(",")
    sides += ["4096"] if os.environ.get("FACTORY_BENCH_LARGE") == "1" else []
    show("\npeak memory, GB", "before", *PARTS, "seconds of each", "ADA, share of a step")
    for side in filter(None, sides):
        rows, killed = _peaks_of(side)
        before, ada = (f"{rows[0]['before']:.2f}", f"{rows[0]['ada']:.1%}") if rows else ("-", "-")
        cells = [f"{row['peak']:.2f}" for row in rows] + ([f"killed at {killed:.1f}"] if killed else [])
        cells += ["-"] * (len(PARTS) - len(cells))
        show(f"{side} x {side}", before, *cells, ", ".join(f"{row['seconds']:.1f}" for row in rows), ada)


def _peaks_of(side: str) -> tuple[list[dict[str, float]], float | None]:
    """Output of a process for the parts of a step that it reached, and the GB at which it was killed, None if not."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CALL, "say_peaks", side]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    most = 0.0
    while child.poll() is None:
        try:
            most = max(most, psutil.Process(child.pid).memory_info().rss / 1e9)
        except psutil.NoSuchProcess:
            break
        if psutil.virtual_memory().available < FLOOR_GB * 1e9:
            child.kill()
        time.sleep(0.02)
    said, errors = child.communicate()
    rows = [json.loads(line) for line in said.splitlines()[: len(PARTS)]]
    if child.returncode < 0 or "can't allocate memory" in errors:  # killed here or by the kernel, or refused memory
        return rows, most
    if child.returncode:
        raise RuntimeError(errors)
    return rows, None


def _make_tiles_to_learn(out: Path) -> None:
    command = [sys.executable, "-m", "factory.cli", "make", "--scheme", "ki67", "--renderer", "stain", "--n", "32"]
    subprocess.run(
        [*command, "--size", "128x128", "--workers", "1", "--out", str(out)], check=True, capture_output=True
    )
