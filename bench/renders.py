"""Image renderers at work: `factory make` against the bare forward pass, `factory train` against a bare loop.

One thread on both sides. The published generator has random weights, in a file as `factory train` writes it.
FACTORY_BENCH_TILES sets the number of tiles (default 12).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.alone import measured, ms, show, show_machine

MADE = ("published", "starter")
TRAINED = ("pix2pixhd_light", "pix2pix_light")

COMMON = """
import json, os, resource, statistics, sys, time
from pathlib import Path
import numpy as np, torch
from bench import timing
from bench.timing import chosen_clock
from factory.core.malloc import keep_freed_memory
keep_freed_memory()
torch.set_num_threads(1)
clock = chosen_clock()

def seconds_of(work, repeats):
    return timing.seconds_of(work, repeats, clock)
"""

MAKE = (
    COMMON
    + """
from factory.core.pool import single_threaded
single_threaded()
from factory.make import pipeline
from factory.make.recipes.base import maker_of
from factory.make.recipes.masks_and_renderer import prepare
from factory.core.checkpoints import write_weights
from factory.make.resolve import resolve_make
from factory.renderers.pix2pixhd import Pix2PixHd
from manifests.labels import get_scheme

which, folder, tiles = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
assignments = []
if which == "published":
    torch.manual_seed(0)
    scheme = get_scheme("ki67")
    shape = {"in_channels": len(scheme) + 1}
    card = {
        "kind": Pix2PixHd.kind, "generator": "pix2pixhd", "network": shape, "scheme": scheme.to_dict(), "mpp": 0.5,
        "condition": {"kind": "polygons+noise"}, "classes": list(scheme.names), "looks": [],
        "sources": [], "licences": [],
    }
    write_weights(folder / "random.safetensors", Pix2PixHd.build(shape).state_dict(), card)
    assignments = [f"renderer.weights={folder / 'random.safetensors'}"]
plan = {"n": tiles, "size": [512, 1024], "tps": "0.01-0.5"}
config, scheme = resolve_make(plan, {"masks": "polygons", "renderer": "pix2pixhd"}, None, assignments)
prepared = prepare(config, scheme, folder / "made", manifest=None, like=None, device="cpu")
maker = maker_of(prepared.recipe)
list(maker.make(prepared.rows_of(0)[:1]))  # weights are loaded and kernels compiled
network = maker.renderer.network
x = torch.rand(1, maker.renderer.card.fields["network"]["in_channels"], 512, 1024)

def forward():
    with torch.inference_mode():
        network(x)

bare = seconds_of(forward, 5)
started = clock()
pipeline.make(prepared, workers=1)
whole = (clock() - started) / tiles
bare += seconds_of(forward, 5)  # before and after, so that a machine that grows warm or busy shows
print(json.dumps([statistics.median(bare), whole, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))
"""
)

STEP = (
    COMMON
    + """
import torch.nn.functional as F
from factory import training_run

preset, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
name, STEPS = preset.removesuffix("_light"), 12
typed = {"threads": 1, "steps": STEPS, "look_every": STEPS}
config = training_run.resolve_trainer(name, preset, [], typed, "cpu")
run = training_run.prepare(name, config, [data], out)
half = lambda: torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16")
trainer = training_run.trainer_class(run.name)(config, run.tiles.scheme, "cpu")
views = trainer.draw_from(run.tiles)(0)
layout = trainer._layout
seen, real = (part.contiguous(memory_format=layout) for part in (trainer.seen(views), trainer.images(views)))
generator, discriminators = (trainer.networks[part].train() for part in ("generator", "discriminators"))
adam_g, adam_j = (
    torch.optim.Adam(part.parameters(), config.learning_rate, (0.5, 0.999)) for part in (generator, discriminators)
)
if config.discriminator_loss == "lsgan":
    says = lambda logits, truth: (logits.float() - truth).square().mean()
else:
    says = lambda logits, truth: F.softplus(-logits.float() if truth else logits.float()).mean()

def step():
    # As a first script is written: the same networks, losses and number format, data in memory.
    noise = [torch.randn(len(seen), 1, *seen.shape[2:])] if name == "pix2pix" else []
    with half():
        fake = generator(torch.cat([seen, *noise], 1)).tanh()
        told = discriminators(torch.cat([seen, real], 1)), discriminators(torch.cat([seen,
        fake.detach().to(seen.dtype)], 1))
        loss = 0.5 * sum(says(r[-1], 1.0) + says(f[-1], 0.0) for r, f in zip(*told)) / config.discriminators
    adam_j.zero_grad()
    loss.backward()
    adam_j.step()
    discriminators.requires_grad_(False)
    with half():
        made = discriminators(torch.cat([seen, fake.to(seen.dtype)], 1))
        loss = sum(says(f[-1], 1.0) for f in made) / config.discriminators
        if config.loss.feature:
            with torch.no_grad():
                true = discriminators(torch.cat([seen, real], 1))
            layers = [(a, b) for m, t in zip(made, true) for a, b in zip(m[:-1], t[:-1])]
            gaps = [(a.float() - b.float()).abs().mean() for a, b in layers]
            loss = loss + config.loss.feature * sum(gaps) / config.discriminators
        if config.loss.l1:
            loss = loss + config.loss.l1 * (fake.float() - real).abs().mean()
    adam_g.zero_grad()
    loss.backward()
    adam_g.step()
    discriminators.requires_grad_(True)

bare, ours = seconds_of(step, STEPS), []
for _ in range(2):
    stamps = []
    training_run.train(run, overwrite=True, on_step=lambda done: stamps.append(clock()))
    ours += list(np.diff(stamps))
    bare += seconds_of(step, STEPS)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps([statistics.median(bare), statistics.median(ours), memory]))
"""
)

CONTOURS = (
    COMMON
    + """
from factory import training_run
from factory.learn.crops import open_tiles

data, STEPS = Path(sys.argv[1]), 8
trainers = []
for terms in ((), ("loss.smoothness=0", "loss.contrast=0")):
    config = training_run.resolve_trainer("sharpgan", "sharpgan_light", list(terms), {"threads": 1}, "cpu")
    tiles = open_tiles([data], None, config.size, config.batch)
    trainer = training_run.trainer_class("sharpgan")(config, tiles.scheme, "cpu")
    trainers.append((trainer, trainer.draw_from(tiles)(0)))
found = [[], []]
for _ in range(3):  # in turns, so that a machine that grows warm or busy slows both
    for seconds, (trainer, views) in zip(found, trainers):
        seconds += seconds_of(lambda: trainer.step(views, 0, 0), STEPS)
print(json.dumps([statistics.median(seconds) for seconds in found]))
"""
)


def main() -> None:
    """Print the tables."""
    show_machine()
    with tempfile.TemporaryDirectory(dir=os.environ.get("FACTORY_BENCH_DIR")) as name:
        folder = Path(name)
        show("made, 512x1024", "bare forward pass", "factory make", "of the forward pass", "peak memory, GB")
        for which in MADE:
            (folder / which).mkdir()
            bare, whole, memory = measured(MAKE, which, folder / which, os.environ.get("FACTORY_BENCH_TILES", "12"))
            show(which, ms(bare), ms(whole), f"{bare / whole:.2f}", f"{memory:.2f}")
        _make_tiles_to_learn(folder / "real")
        show("\ntraining step", "bare loop", "factory train", "of the bare loop", "peak memory, GB")
        for preset in TRAINED:
            bare, ours, memory = measured(STEP, preset, folder / "real", folder / f"run-{preset}")
            show(preset, ms(bare), ms(ours), f"{bare / ours:.2f}", f"{memory:.2f}")
        _make_tiles_to_learn(folder / "nuclei", "nuclei")
        show("\nterms of contours", "step with them", "step without", "share of the step")
        with_them, without = measured(CONTOURS, folder / "nuclei")
        show("sharpgan_light", ms(with_them), ms(without), f"{1 - without / with_them:.1%}")


def _make_tiles_to_learn(out: Path, scheme: str = "ki67") -> None:
    command = [sys.executable, "-m", "factory.cli", "make", "--scheme", scheme, "--renderer", "stain", "--n", "48"]
    subprocess.run(
        [*command, "--size", "256x256", "--workers", "1", "--out", str(out)], check=True, capture_output=True
    )
