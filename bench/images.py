"""Image renderers: inference against stock torch and the convolution peak, and the memory of stitching.

All on one thread, on both sides; random weights. The peak is that of the best of two large 3x3 convolutions of 1024
channels in bfloat16, measured between the others; the share of it counts the multiplications of plain
convolutions, so Winograd convolutions can bring it over 100 %. FACTORY_BENCH_CLOCK=cpu measures processor time
instead of wall time, for a machine with other work. FACTORY_BENCH_STITCH sets the
sides of the tiles that are stitched (default 2048,4096; 10016 takes some minutes).
"""

import json
import os
import tempfile
from typing import Any

from bench.alone import measured, ms, show, show_machine

NETWORKS: dict[str, dict[str, Any]] = {
    "pix2pixhd": {},
    "pix2pixhd, resize": {"upsampling": "resize"},
    "light, instance norm": {"width": 16, "downs": 3, "blocks": 6, "kernel": 5, "upsampling": "resize"},
}
STITCHED = "light, instance norm"

COMMON = """
import json, os, resource, statistics, sys, time
from pathlib import Path
import numpy as np, torch
from bench import timing
from bench.timing import chosen_clock
from torch import nn
from factory.nets.drawing import ready
from factory.nets.pix2pixhd import GlobalGenerator
from factory.nets.stitching import draw, to_pixels

torch.set_num_threads(1)
clock = chosen_clock()
CLASSES = torch.arange(5, dtype=torch.uint8)[:, None, None]

def built(shape):
    torch.manual_seed(0)
    return GlobalGenerator(5, **json.loads(shape)).eval()

def regions(height, width):
    # Squares of three classes, and pixels of noise every 15 or so, a band at a time.
    rng, mask = np.random.default_rng(0), np.zeros((height, width), np.uint8)
    for top in range(0, height, 64):
        band = mask[top : top + 64]
        band[:] = np.repeat(rng.integers(0, 3, -(-width // 64)), 64)[:width]
        band[rng.random(band.shape) < 1 / 225] = 4
    return mask

def one_hot(mask):
    return (torch.from_numpy(mask) == CLASSES).float()[None]

def seconds_of(work, repeats=5):
    return timing.seconds_of(work, repeats, clock)
"""

FORWARD = (
    COMMON
    + """
shape, setting, kept = sys.argv[1:]
network, x = built(shape), one_hot(regions(512, 1024))
with torch.inference_mode():
    if setting == "stock":
        asked = 0
        def count(layer, inputs, output):
            global asked
            pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
            asked += 2 * layer.weight.numel() * pixels.shape[2] * pixels.shape[3]
        hooks = [layer.register_forward_hook(count) for layer in network.modules() if hasattr(layer, "kernel_size")]
        np.save(kept, to_pixels(network(x)))
        for hook in hooks:
            hook.remove()
        print(json.dumps([statistics.median(seconds_of(lambda: network(x), 3)), asked]))
    else:
        from factory.core.malloc import keep_freed_memory
        keep_freed_memory()
        network = ready(network, setting, "cpu")
        moved = np.abs(to_pixels(network(x)).astype(int) - np.load(kept))
        print(json.dumps([statistics.median(seconds_of(lambda: network(x))), float(moved.mean()), int(moved.max())]))
"""
)

PEAK = (
    COMMON
    + """
from factory.nets.inference_layers import Convolution
found = []
with torch.inference_mode():
    layer = Convolution(torch.randn(1024, 1024, 3, 3), None, (1, 1), (1, 1), (1, 1), torch.bfloat16)
    for height, width in ((32, 64), (64, 64)):
        x = torch.randn(1, 1024, height, width).bfloat16().contiguous(memory_format=torch.channels_last)
        found.append(2 * layer.weight.numel() * height * width / min(seconds_of(lambda: layer(x), 9)))
print(json.dumps(max(found)))
"""
)

STITCH = (
    COMMON
    + """
from factory.core.malloc import keep_freed_memory
keep_freed_memory()
shape, side = sys.argv[1], int(sys.argv[2])
network, mask = ready(built(shape), "bf16", "cpu"), regions(side, side)
read = lambda rows, columns: one_hot(mask[rows, columns])
with torch.inference_mode():
    network(one_hot(mask[:256, :256]))  # kernels are compiled, as after any first tile
held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
started = clock()
image = draw(network, read, mask.shape, window_px=1024)
seconds = clock() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([seconds, (peak - held - image.nbytes) / 1e6]))
"""
)


def main() -> None:
    """Print the tables."""
    show_machine()
    _forward_passes()
    _stitching()


def _forward_passes() -> None:
    peaks = [measured(PEAK)]
    columns = ("stock eager fp32", "ours fp32", "ours bf16", "bf16 of the peak", "levels moved, mean/max")
    show("forward pass, 512x1024", *columns)
    with tempfile.TemporaryDirectory(dir=os.environ.get("FACTORY_BENCH_DIR")) as folder:
        for name, options in NETWORKS.items():
            shape, kept = json.dumps(options), f"{folder}/stock.npy"
            stock, asked = measured(FORWARD, shape, "stock", kept)
            (full, *moved), (half, *moved_more) = (measured(FORWARD, shape, kind, kept) for kind in ("fp32", "bf16"))
            peaks.append(measured(PEAK))
            gains = (f"{ms(seconds)} ({stock / seconds:.2f} x)" for seconds in (full, half))
            levels = ", ".join(f"{mean:.2f}/{most}" for mean, most in (moved, moved_more))
            show(name, ms(stock), *gains, f"{asked / half / max(peaks):.0%}", levels)
    print(f"peak: {max(peaks) / 1e9:.0f} GFLOP/s in bfloat16, best of {len(peaks)} runs")


def _stitching() -> None:
    show(f"\nstitched, {STITCHED}", "time", "megapixels/s", "beyond mask and image")
    for side in os.environ.get("FACTORY_BENCH_STITCH", "2048,4096").split(","):
        seconds, extra = measured(STITCH, json.dumps(NETWORKS[STITCHED]), side)
        show(f"{side}x{side}", f"{seconds:.1f} s", f"{int(side) ** 2 / seconds / 1e6:.2f}", f"{extra:.0f} MB")
