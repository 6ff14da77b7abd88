"""A training step against the stock eager float32 step of the same network, and what bfloat16 costs in scores.

FACTORY_BENCH_REAL names a data set of real tiles to train the two precisions on (default: tiles of the factory itself).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from factory.core.config import resolve_config
from factory.core.precision import resolve_precision
from segment.train.config import TrainConfig

STEP = """
import json, statistics, sys, time
import numpy as np
import torch
setting, name, encoder, decoder = sys.argv[1:]
stock = setting == "stock"
if not stock:
    from factory.core.malloc import keep_freed_memory
    keep_freed_memory()
from segment.data.tiles import Batch
from factory.core.ema import averaged
from segment.network.head import Head
from segment.train.losses import segmentation_loss
from segment.network.networks import NetworkConfig, build, to_input
from segment.train.config import TrainConfig
from segment.train.task import train_step
torch.manual_seed(0)
rng = np.random.default_rng(0)
batch = Batch(
    rng.integers(0, 256, (8, 256, 256, 3), dtype=np.uint8),
    rng.integers(0, 2, (8, 256, 256), dtype=np.uint8),
    rng.integers(0, 255, (8, 256, 256), dtype=np.uint8),
)
head = Head(2, distance=True)
network = build(NetworkConfig(name=name, encoder=encoder, decoder=json.loads(decoder)), head.channels).train()
config = TrainConfig(precision="fp32" if setting in ("stock", "fp32") else "bf16")
if not stock:
    network = network.to(memory_format=torch.channels_last)
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
mean = averaged(network, 0.99)

def stock_step():
    # As a first script is written: NCHW, float32, torch's defaults; the same loss.
    optimiser.zero_grad()
    images, labels, distances = (torch.from_numpy(a) for a in (batch.images, batch.labels, batch.distances))
    output = network(to_input(images).contiguous())
    logits, distance_logits = head.split(output)
    losses = segmentation_loss(
        logits, labels.long(), config.loss, distance_logits=distance_logits, distances=distances
    )
    losses.total.backward()
    optimiser.step()

def our_step():
    assert train_step(network, head, optimiser, batch, config, "cpu") is not None
    mean.update_parameters(network)

work = stock_step if stock else our_step
work()
seconds = []
for _ in range(5):
    started = time.perf_counter()
    work()
    seconds.append(time.perf_counter() - started)
print(json.dumps(statistics.median(seconds)))
"""
NETWORKS = (("unetplusplus", "resnet34"), ("segnet", "vgg16_bn"), ("unetplusplus", "mobilenet_v2"))
ENCODER = "tu-tf_efficientnet_lite0"
STEPS = 150


def main() -> None:
    """Print the tables."""
    native = resolve_precision("auto", "cpu") == "bf16"
    print(f"bfloat16 in hardware: {'yes' if native else 'no'}; 8 crops of 256x256; seconds per step, x stock")
    for name, encoder in NETWORKS:
        stock, plain, half = (_step_seconds(setting, name, encoder) for setting in ("stock", "fp32", "bf16"))
        print(
            f"{name + ' ' + encoder:<28}stock fp32 {stock:6.2f} s   ours fp32 {plain:6.2f} s ({stock / plain:.2f} x)   "
            f"ours bf16 {half:6.2f} s ({stock / half:.2f} x)",
            flush=True,
        )
    _compare_presets()
    with tempfile.TemporaryDirectory() as folder:
        _compare_scores(Path(folder))


def _compare_presets() -> None:
    """The network of `--config light` against UNet++ with the same encoder and the published decoder."""
    light = resolve_config(TrainConfig, "segment", "light", [], {}, "bench").network
    full = _step_seconds("fp32", "unetplusplus", ENCODER)
    narrow = _step_seconds("fp32", light.name, str(light.encoder), light.decoder)
    print(f"\nunetplusplus {ENCODER} {full:.2f} s, --config light {narrow:.2f} s: {narrow / full:.2f}", flush=True)


def _step_seconds(setting: str, name: str, encoder: str, decoder: tuple[int, ...] | None = None) -> float:
    command = [sys.executable, "-c", STEP, setting, name, encoder, json.dumps(decoder)]
    # Torch's own thread settings for the stock step; ours waits less at barriers, as `segment` does.
    environment = os.environ if setting == "stock" else {"GOMP_SPINCOUNT": "10000", **os.environ}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout))


def _compare_scores(folder: Path) -> None:
    """The same short training in both precisions, three seeds each: validation figures side by side."""
    real = os.environ.get("FACTORY_BENCH_REAL")
    if real is None:
        made = [
            sys.executable,
            "-m",
            "factory.cli",
            "make",
            "--scheme",
            "nuclei",
            "--n",
            "60",
            "--out",
            folder / "data",
        ]
        subprocess.run(made, check=True, capture_output=True)
    source = ["--mix", "real", "--real", real] if real else ["--mix", "synth", "--synth", folder / "data"]
    print(f"\nUNet++ mobilenet_v2, {STEPS} steps of 8 crops of 128x128 on {real or 'tiles of the factory'}: validation")
    for seed in range(3):
        for precision in ("fp32", "bf16"):
            run = folder / f"{precision}-{seed}"
            command = [sys.executable, "-m", "segment.cli", "train", *source, "--precision", precision]
            command += ["--steps", STEPS, "--crop", "128x128", "--seed", seed, "--out", run]
            command += ["--set", f"validate_every={STEPS}"]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            row = pq.read_table(run / "history.parquet").to_pylist()[-1]
            figures = "   ".join(f"{name} {row['val_' + name]:.4f}" for name in ("mean_iou", "dice", "aji", "pq"))
            print(f"seed {seed}  {precision}   {figures}   {row['steps_per_s']:.2f} steps/s", flush=True)
