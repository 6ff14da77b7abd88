"""Trained mask generators: drawing against stock torch, `factory make` and `factory train` against bare loops.

All on one thread, on both sides. Weights are random; of the published sizes where the name has no `light`. Only the
starter weights are trained: they show the cost of redraws that keep masks within the shift bound (--tissue 0.3-0.9).
FACTORY_BENCH_TILES sets the tiles that are made (default 24). FACTORY_BENCH_CLOCK=cpu measures processor time instead
of wall time, for a machine with other work.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.alone import measured, ms, show, show_machine

NETWORKS = ("depas", "depas_light", "priorpath", "priorpath_paper", "priorpath_light")
MADE = ("depas", "priorpath")
STARTER_BOUNDS = {"shift bound": (), "no shift bound": ("shift_bound=null",)}
TRAINED = ("depas_light", "priorpath_light")

COMMON = """
import json, os, statistics, sys, time
import numpy as np, torch
from bench import timing
from bench.timing import chosen_clock
from factory.core.config import read_yaml
from factory.core.shipped import configs_dir
from factory.core.registry import resolve
from factory.masks import MASKS

torch.set_num_threads(1)
clock = chosen_clock()
SIZE = (512, 1024)

def built(preset):
    name, shape = preset.split("_")[0], read_yaml(configs_dir() / "train" / f"{preset}.yaml")["network"]
    shape = shape | ({"out_channels": 1, "sharpness": 10.0} if name == "depas" else {"channels": 1})
    masks = resolve(MASKS, name, "--masks")
    torch.manual_seed(0)
    return masks, shape, masks.build(shape).eval()

def inputs_of(network):
    rng = np.random.default_rng(0)
    if hasattr(network, "inputs"):
        return network.inputs([rng], SIZE)
    coarse = torch.zeros(1, 1, *SIZE)
    coarse[..., 100:400, 200:800] = 1
    return (torch.cat([coarse, torch.from_numpy(rng.standard_normal(coarse.shape, np.float32))], 1),)

def seconds_of(work, repeats=7):
    return timing.seconds_of(work, repeats, clock)
"""

FORWARD = (
    COMMON
    + """
preset, setting = sys.argv[1:]
if setting != "stock":
    from factory.core.malloc import keep_freed_memory
    keep_freed_memory()
_, _, network = built(preset)
inputs = inputs_of(network)
with torch.inference_mode():
    found = network(*inputs) if setting != "stock" else None
    if setting != "stock":
        from factory.nets.drawing import ready
        network = ready(network, setting, "cpu")
    seconds = statistics.median(seconds_of(lambda: network(*inputs)))
    differing = 0.0
    if found is not None:  # both cut at half of the pixels, as a request for half tissue would
        ours, stock = (logits > logits.median() for logits in (network(*inputs), found))
        differing = float((ours != stock).float().mean())
print(json.dumps([seconds, differing]))
"""
)

MAKE = (
    COMMON
    + """
from pathlib import Path
from factory.core.malloc import keep_freed_memory
from factory.core.pool import single_threaded
keep_freed_memory()
single_threaded()
from factory.make import pipeline
from factory.make.recipes.base import maker_of
from factory.make.recipes.masks_and_renderer import prepare
from factory.core.checkpoints import write_weights
from factory.make.resolve import resolve_make
from manifests.labels import SCHEMES

preset, folder, tiles = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
masks, shape, network = built(preset)
card = {"kind": "generator-weights", "generator": masks.name, "network": shape, "step": 0, "mpp": 0.5}
card |= {"scheme": SCHEMES["tissue"].to_dict(), "sources": [], "licences": []}
card |= {"config": {"opening_px": 5, "closing_px": 10}}
write_weights(folder / "weights.safetensors", network.state_dict(), card)
plan = {"n": tiles, "size": SIZE, "mpp": 0.5, "tissue": "0.3-0.9"}
config, scheme = resolve_make(
    plan, {"masks": masks.name, "renderer": "palette"}, None, [f"masks.weights={folder / 'weights.safetensors'}"]
)
prepared = prepare(config, scheme, folder / "made", manifest=None, like=None, device="cpu")
maker = maker_of(prepared.recipe)
list(maker.make(prepared.rows_of(0)[:1]))  # weights are read and kernels compiled, as after any first tile
drawing, inputs = maker.masks.network, inputs_of(network)

def forward():
    with torch.inference_mode():
        drawing(*inputs)

bare = seconds_of(forward)
started = clock()
pipeline.make(prepared, workers=1)
whole = (clock() - started) / tiles
bare += seconds_of(forward)  # before and after, so that a machine that grows warm or busy shows
print(json.dumps([statistics.median(bare), whole]))
"""
)

STARTER = (
    COMMON
    + """
from pathlib import Path
from factory.core.malloc import keep_freed_memory
from factory.core.pool import single_threaded
keep_freed_memory()
single_threaded()
from factory.make import pipeline
from factory.make.recipes.base import maker_of
from factory.make.recipes.masks_and_renderer import prepare
from factory.make.resolve import resolve_make

folder, tiles, assignments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
plan = {"n": tiles, "size": SIZE, "mpp": 0.5, "tissue": "0.3-0.9"}
config, scheme = resolve_make(plan, {"masks": "depas", "renderer": "palette"}, None, assignments)
prepared = prepare(config, scheme, folder / "made", manifest=None, like=None, device="cpu")
list(maker_of(prepared.recipe).make(prepared.rows_of(0)[:1]))
started = clock()
table, _ = pipeline.make(prepared, workers=1)
whole = (clock() - started) / tiles
print(json.dumps([whole, float(np.mean(table["attempts"].to_numpy()))]))
"""
)

STEP = (
    COMMON
    + """
from pathlib import Path
from factory.core.malloc import keep_freed_memory
keep_freed_memory()
import torch.nn.functional as F
from factory import training_run
from factory.masks.coarse import class_order, coarsen

preset, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
STEPS = 8
typed = {"scheme": "tissue", "threads": 1, "steps": STEPS, "look_every": STEPS}
config = training_run.resolve_trainer(preset.split("_")[0], preset, [], typed, "cpu")
run = training_run.prepare(preset.split("_")[0], config, [data], out)
half = lambda: torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16")
trainer = training_run.trainer_class(run.name)(config, run.tiles.scheme, "cpu")
views = trainer.draw_from(run.tiles)(0)[0]
real = torch.from_numpy(views)[:, None].float()
generator, discriminators = (trainer.networks[name].train() for name in ("generator", "discriminators"))
adam_g, adam_j = (
    torch.optim.Adam(part.parameters(), config.learning_rate, (0.5, 0.999)) for part in (generator, discriminators)
)
says = lambda logits, truth: F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits.float(), truth))

def depas_step():
    # As a first script is written: one step of the discriminators, one of the generator, data in memory, noise by
    # torch.
    place = torch.randn(len(real), config.network.latent_place, config.size[0] // 32, config.size[1] // 32)
    with half():
        fake = generator(torch.randn(len(real), config.network.latent_tile), place, torch.randn_like(real)).sigmoid()
        pairs = zip(discriminators(real), discriminators(fake.detach()))
        loss = sum(says(r, 1.0) + says(f, 0.0) for r, f in pairs)
    adam_j.zero_grad()
    loss.backward()
    adam_j.step()
    discriminators.requires_grad_(False)
    with half():
        loss = sum(says(f, 1.0) for f in discriminators(fake))
    adam_g.zero_grad()
    loss.backward()
    adam_g.step()
    discriminators.requires_grad_(True)

if run.name == "priorpath":
    order = class_order(run.tiles.scheme)
    coarse = [coarsen(v, 2, opening_px=config.opening_px, closing_px=config.closing_px, order=order) for v in views]
    coarse = torch.from_numpy(np.stack(coarse))[:, None].float()

def priorpath_step():
    with half():
        fake = generator(torch.cat([coarse, torch.randn_like(real)], 1)).sigmoid()
        pairs = zip(discriminators(torch.cat([coarse, real], 1)), discriminators(torch.cat([coarse, fake.detach()], 1)))
        loss = 0.5 * sum(says(r[-1], 1.0) + says(f[-1], 0.0) for r, f in pairs) / config.discriminators
    adam_j.zero_grad()
    loss.backward()
    adam_j.step()
    discriminators.requires_grad_(False)
    with half():
        fooled = sum(says(f[-1], 1.0) for f in discriminators(torch.cat([coarse, fake], 1))) / config.discriminators
        loss = fooled + config.loss.l1 * (fake.float() - real).abs().mean()
    adam_g.zero_grad()
    loss.backward()
    adam_g.step()
    discriminators.requires_grad_(True)

bare_step = depas_step if run.name == "depas" else priorpath_step
bare, ours = seconds_of(bare_step, STEPS), []
for _ in range(2):
    stamps = []
    training_run.train(run, overwrite=True, on_step=lambda step: stamps.append(clock()))
    ours += list(np.diff(stamps))
    bare += seconds_of(bare_step, STEPS)
print(json.dumps([statistics.median(bare), statistics.median(ours)]))
"""
)


def main() -> None:
    """Print the tables."""
    show_machine()
    show("forward pass, 512x1024", "stock eager fp32", "ours fp32", "ours bf16", "pixels other: fp32, bf16")
    for preset in NETWORKS:
        (stock, _), (full, moved), (half, moved_more) = (
            measured(FORWARD, preset, setting) for setting in ("stock", "fp32", "bf16")
        )
        gains = (f"{ms(seconds)} ({stock / seconds:.2f} x)" for seconds in (full, half))
        show(preset, ms(stock), *gains, f"{moved:.4%}, {moved_more:.2%}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("FACTORY_BENCH_DIR")) as name:
        folder = Path(name)
        show("\nmade, 512x1024", "bare forward pass", "factory make", "masks/s", "of the forward pass")
        for preset in MADE:
            (folder / preset).mkdir()
            bare, whole = measured(MAKE, preset, folder / preset, os.environ.get("FACTORY_BENCH_TILES", "24"))
            show(preset, ms(bare), ms(whole), f"{1 / whole:.2f}", f"{bare / whole:.2f}")
        show("\nstarter weights, 512x1024", "factory make", "masks/s", "attempts per mask")
        for label, assignments in STARTER_BOUNDS.items():
            (folder / label).mkdir()
            tiles = os.environ.get("FACTORY_BENCH_TILES", "24")
            whole, attempts = measured(STARTER, folder / label, tiles, *assignments)
            show(f"depas, {label}", ms(whole), f"{1 / whole:.2f}", f"{attempts:.2f}")
        _make_masks_to_learn(folder / "real")
        show("\ntraining step", "bare loop", "factory train", "", "of the bare loop")
        for preset in TRAINED:
            bare, ours = measured(STEP, preset, folder / "real", folder / f"run-{preset}")
            show(preset, ms(bare), ms(ours), "", f"{bare / ours:.2f}")


def _make_masks_to_learn(out: Path) -> None:
    command = [sys.executable, "-m", "factory.cli", "make", "--renderer", "palette", "--size", "256x512", "--n", "48"]
    subprocess.run([*command, "--workers", "1", "--out", str(out)], check=True, capture_output=True)
