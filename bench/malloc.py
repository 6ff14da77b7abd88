"""The allocator setting of both command lines: gain, memory, and that the output is the same bit for bit."""

import json
import subprocess
import sys

SCRIPT = """
import hashlib, json, resource, statistics, sys, time
if sys.argv[1] == "tuned":
    from factory.core.malloc import keep_freed_memory
    assert keep_freed_memory()
if sys.argv[2] == "network":
    import torch
    from segment.network.networks import NetworkConfig, build
    torch.manual_seed(0); torch.set_num_threads(2)
    network = build(NetworkConfig(name="unetplusplus", encoder="resnet34"), 2).eval()
    batch = torch.rand(4, 3, 256, 256)
    def work():
        with torch.inference_mode():
            return network(batch).numpy().tobytes()
else:
    from pathlib import Path
    from factory.core.pool import single_threaded
    from factory.make.resolve import resolve_make
    from factory.make.recipes.base import maker_of
    from factory.make.recipes.masks_and_renderer import prepare
    single_threaded()
    config, scheme = resolve_make({"n": 8, "tps": "0.01-0.5"}, {}, None, [])
    prepared = prepare(config, scheme, Path("unused"), manifest=None, like=None, device="cpu")
    maker, rows = maker_of(prepared.recipe), prepared.rows_of(0)
    def work():
        return b"".join(image.tobytes() for image, _, _ in maker.make(rows))
digest = hashlib.sha256(work()).hexdigest()
seconds = []
for _ in range(5):
    started = time.perf_counter(); work(); seconds.append(time.perf_counter() - started)
print(json.dumps([statistics.median(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, digest]))
"""


def main() -> None:
    """Print the table."""
    for what, label in (
        ("network", "UNet++ resnet34, 4x256x256, inference"),
        ("tiles", "8 tiles of 512x1024, one core"),
    ):
        found = {}
        for setting in ("stock", "tuned"):
            command = [sys.executable, "-c", SCRIPT, setting, what]
            found[setting] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        (stock, stock_mb, first), (tuned, tuned_mb, second) = found["stock"], found["tuned"]
        same = "same bits" if first == second else "DIFFERENT BITS"
        print(
            f"{label:<40}{stock / tuned:5.2f} x stock   {stock:.3f} -> {tuned:.3f} s   "
            f"{stock_mb:.0f} -> {tuned_mb:.0f} MB   {same}"
        )
