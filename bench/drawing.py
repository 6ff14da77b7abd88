"""Inference layers: `factory make` and whole networks with and without each kind of layer; processor time, one thread.

`factory make` draws with starter weights, each run in a process of its own, from the start of Python to the last file.
The networks have the sizes of configs/train and random weights. The ways take turns and each is compared with
`as shipped` of the same turn, so that other work on the machine slows both. "no private calls" replaces torch's
private operators by `F.conv2d`; "torch's layers" leaves all convolutions to torch. The images are compared too: data
sets must keep their bytes. FACTORY_BENCH_TURNS sets the number of turns (default 3).
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from bench.alone import measured, show, show_machine

ROUTES = {
    "sharpgan": ("--renderer", "sharpgan", "--n", "32"),
    "pix2pixhd": ("--renderer", "pix2pixhd", "--n", "6"),
    "priorpath": ("--masks", "priorpath", "--scheme", "tissue", "--renderer", "palette", "--n", "10"),
    "depas": ("--masks", "depas", "--scheme", "tissue", "--renderer", "palette", "--n", "10"),
}
NETWORKS = {
    "pix2pixhd, 256x512": "GlobalGenerator(5), (256, 512)",
    "cyclegan, 256x256": "ResnetGenerator(5, 3, 64, 9), (256, 256)",
    "pix2pix, 256x256": "UNet(6, 3, 64, 8, 'instance'), (256, 256)",
    "pix2pix, 512x512": "UNet(6, 3, 64, 8, 'instance'), (512, 512)",
    "priorpath, 512x512": "UNet(2, 1, 64, 8, 'instance'), (512, 512)",
}
WAYS = {
    "as shipped": "",
    "no Winograd": "winograd.WinogradConvolution.pays = winograd.WinogradUpsampling.pays = lambda *_: False",
    "no private calls": "inference_layers._onednn_computes = lambda dtype: False",
    "torch's layers": """drawing._join_upsampling = lambda network: None
drawing._convolution = drawing._transposed = lambda layer, dtype: layer.to(memory_format=torch.channels_last)""",
}

COMMAND = """
import torch
from factory.nets import drawing, inference_layers, winograd
{change}
from factory.cli import main
main()
"""

FORWARD = """
import copy, importlib, json, sys, time
import torch
from factory.nets import drawing, inference_layers, winograd
from factory.nets.pix2pixhd import GlobalGenerator
from factory.nets.resnet import ResnetGenerator
from factory.nets.unet import UNet
torch.set_num_threads(1)
torch.manual_seed(0)
network, size = eval(sys.argv[1])
ways, turns = json.loads(sys.argv[2]), int(sys.argv[3])
first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
x = torch.randn(1, first.in_channels, *size)
seconds = {way: [] for way in ways}
with torch.inference_mode():
    for turn in range(turns + 1):  # the first is not counted
        for way, change in ways.items():
            for module in (inference_layers, winograd, drawing):
                importlib.reload(module)
            exec(change)
            ready = drawing.ready(copy.deepcopy(network).eval(), "fp32", "cpu")
            ready(x)
            started = time.process_time()
            ready(x)
            seconds[way] += [time.process_time() - started] * (turn > 0)
print(json.dumps(seconds))
"""


def main() -> None:
    """Print a table for the command and one for networks."""
    show_machine()
    turns = int(os.environ.get("FACTORY_BENCH_TURNS", "3"))
    show("factory make", "time of the processor", "of the shipped time", "levels moved, most")
    for name, options in ROUTES.items():
        with tempfile.TemporaryDirectory(dir=os.environ.get("FACTORY_BENCH_DIR")) as folder:
            seconds = _in_turns(turns, _maker(options, folder))
            _show_ways(name, seconds, {way: _moved(Path(folder), way) for way in WAYS})
    show("forward pass, published", "time of the processor", "of the shipped time")
    for name, network in NETWORKS.items():
        _show_ways(name, measured(FORWARD, network, json.dumps(WAYS), turns), {})


def _maker(options: tuple[str, ...], folder: str) -> Callable[[int, str], float]:
    return lambda turn, way: _command(way, (*options, "--out", f"{folder}/{turn}-{way}"))


def _in_turns(turns: int, work: Callable[[int, str], float]) -> dict[str, list[float]]:
    """Seconds of every way, one after the other in each turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns):
        for way in WAYS:
            seconds[way].append(work(turn, way))
    return seconds


def _show_ways(name: str, seconds: dict[str, list[float]], moved: dict[str, str]) -> None:
    for way, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, seconds["as shipped"], strict=True))
        cells = [f"{statistics.median(found):.2f} s", f"{ratio:.2f}", *([moved[way]] if moved else [])]
        show(f"{name}\n  {way}" if way == "as shipped" else f"  {way}", *cells)


def _command(way: str, options: tuple[str, ...]) -> float:
    """User and system seconds of `factory make` in a process of its own."""
    command = [sys.executable, "-c", COMMAND.format(change=WAYS[way]), "make", "--workers", "1", "--device", "cpu"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _moved(folder: Path, way: str) -> str:
    """Number of grey levels that differ from the shipped ones', and the largest difference."""
    shipped, other = (
        np.asarray(zarr.open_group(folder / f"0-{name}" / "store.zarr", mode="r")["image"]).astype(np.int16)
        for name in ("as shipped", way)
    )
    moved = np.abs(shipped - other)
    return f"{np.count_nonzero(moved)} of {moved.size:.1e}, {moved.max()}"
