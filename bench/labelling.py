"""Labels of a generated image from 496 channels of features: by streaming, and by upsampling them all.

One thread, time of the processor, a process for every way. The taps are those of the last five blocks of a StyleGAN2 of
4096 x 4096, 2 x (128 + 64 + 32 + 16 + 8) channels, the last two at the image's size; weights and features are random.

"upsample all" is the published way: every tap upsampled and concatenated, then 65,536 pixels at a time through the
network. "upsample tiles" does the same in tiles of 256 with a halo. FACTORY_BENCH_LARGE=1 labels 4096 x 4096 too, from
features on disk, by streaming and in tiles; upsampling all takes 33 GB. FACTORY_BENCH_SIDES=256 does that size alone.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from bench.alone import measured, show, show_machine

SCRIPT = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from bench.timing import median_seconds, peak_mb
from factory.core.malloc import keep_freed_memory
keep_freed_memory()
torch.set_num_threads(1)
from factory.joint.features import FeatureStore
from factory.joint.streaming import StreamingLabeller
from factory.nets.pixel_classifier import Ensemble

way, side, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
store, size = FeatureStore(folder, "random"), (side, side)
SHAPES = [(8 * stride, side // stride, side // stride) for stride in (16, 8, 4, 2, 1) for _ in (0, 1)]
rng = np.random.default_rng(0)
if way == "write":
    store.check_space(SHAPES, 1)
    store.write("image", [rng.standard_normal(shape, np.float32) for shape in SHAPES], size, "random")
    print(json.dumps([]))
    sys.exit()
torch.manual_seed(0)
channels = [shape[0] for shape in SHAPES]
members = int(way.partition(" x ")[2] or 1)
ensemble = Ensemble(sum(channels), 5, members)
for layer in ensemble.modules():
    if isinstance(layer, torch.nn.Linear):
        torch.nn.init.kaiming_normal_(layer.weight)
    if isinstance(layer, torch.nn.BatchNorm1d):
        torch.nn.init.uniform_(layer.running_mean)
        torch.nn.init.uniform_(layer.running_var, 0.5, 2.0)
ensemble.standardise_by(torch.randn(2000, sum(channels)) + torch.randn(sum(channels)))
ensemble.eval()
features = store.read("image")
large = side >= 4096  # taps stay on disk in float16, as the published way has them
taps = features.taps if large else [torch.from_numpy(tap).float().contiguous() for tap in features.taps]

def whole():
    with torch.inference_mode():
        up = torch.cat([F.interpolate(tap[None], size=size, mode="bilinear", align_corners=False) for tap in taps], 1)
        pixels = up[0].flatten(1).T
        return torch.cat([ensemble(part)[0].argmax(0) for part in pixels.split(65536)]).view(size)

def tiles(tile=256):
    labels = torch.empty(size, dtype=torch.int64)
    with torch.inference_mode():
        for row in range(0, side, tile):
            for column in range(0, side, tile):
                parts = []
                for tap in taps:
                    stride = side // tap.shape[1]
                    cuts = [(max(at // stride - 1, 0), (at + tile) // stride + 1) for at in (row, column)]
                    (a, b), (c, d) = cuts
                    part = torch.as_tensor(tap[:, a:b, c:d]).float()[None]
                    up = F.interpolate(part, scale_factor=stride, mode="bilinear", align_corners=False)
                    top, left = row - a * stride, column - c * stride
                    parts.append(up[:, :, top : top + tile, left : left + tile])
                said = ensemble(torch.cat(parts, 1)[0].flatten(1).T)[0].argmax(0)
                labels[row : row + tile, column : column + tile] = said.view(min(tile, side - row), -1)
    return labels

if way.startswith("streaming"):
    _, precision, tile_px = way.partition(" x ")[0].split()
    labeller = StreamingLabeller(ensemble, channels, precision=precision)
    label = lambda: labeller.label(taps, size, int(tile_px)).semantic
elif way == "gather":
    pixels = rng.integers(0, side, (65536, 2))
    label = lambda: features.gather(pixels)
else:
    label = {"upsample all": whole, "upsample tiles": tiles}[way]
said = []

def work():
    said[:] = [label()]

before = peak_mb()
seconds = median_seconds(work, 5 if side <= 256 else 1, time.process_time)
peak = peak_mb()  # what follows is not of the work
if way != "gather":
    np.save(folder / f"{way}.npy", np.asarray(said[0], np.uint8))
print(json.dumps([seconds, before, peak]))
"""

PUBLISHED, TILES = "upsample all", "upsample tiles"
WAYS = (
    "streaming fp32 64", "streaming fp32 128", "streaming bf16 64", "streaming fp32 32 x 10", TILES, PUBLISHED,
)  # fmt: skip


def main() -> None:
    """Print a table for each size."""
    show_machine()
    for side in map(int, os.environ.get("FACTORY_BENCH_SIDES", "256,1024").split(",")):
        _table(side, WAYS)
    if os.environ.get("FACTORY_BENCH_LARGE") == "1":
        _table(4096, WAYS[:-1])


def _table(side: int, ways: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        folder = Path(name)
        measured(SCRIPT, "write", side, folder)
        found = {way: measured(SCRIPT, way, side, folder) for way in ways}
        labels = {way: np.load(folder / f"{way}.npy") for way in ways}
        rate = 65_536 / measured(SCRIPT, "gather", side, folder)[0]
    fastest = found[WAYS[0]][0]
    reference = labels.get(PUBLISHED, labels[TILES])
    show(f"{side} x {side}", "seconds", "x streaming", "MB, before -> peak", "labels that differ")
    for way, (seconds, before, peak) in found.items():
        differ = "-" if " x " in way else f"{(labels[way] != reference).sum()}"
        show(way, f"{seconds:.3f}", f"{seconds / fastest:.2f}", f"{before:.0f} -> {peak:.0f}", differ)
    print(f"training pixels gathered from native maps: {rate:,.0f} a second\n", flush=True)


if __name__ == "__main__":
    main()
