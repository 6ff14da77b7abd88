"""StyleGAN2-ADA and its labels at work: sampling, a training step, ADA's share of it, tiles with labels, and memory.

One thread, a process for every line, random weights of two networks in files as the factory writes them: `published` is
configs/train/stylegan2.yaml at 512 x 512, with one labeller of the last five blocks; `light` is stylegan2_light.yaml,
with five labellers of all blocks. Beside labels in bf16 the bare forward pass is the fastest found (weights in bf16,
channels last), beside images it has the arithmetic of `factory sample`. `asked`: tiles chosen from a pool of four for
each. Seconds of a step are medians of its kinds (nothing more, path length, R1 too), weighed as often as they come.

Memory is the resident peak so far of a process with the published network at batch 1, its image augmented (p = 1),
gradients and Adam's state there: after what every step does, R1, then path length. A process that leaves the machine
under 1.5 GB is killed, and what it had is said. ADA's share there is of the first of these, and without gradients.

FACTORY_BENCH_SIDES sets the sides (default 512,1024,2048), FACTORY_BENCH_LARGE=1 adds 4096, FACTORY_BENCH_TILES sets
images and tiles (default 4, of `light` 64 times as many), and FACTORY_BENCH_CLOCK=cpu takes the processor's time.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from bench.alone import measured, ms, show, show_machine
from bench.timing import chosen_clock, peak_mb, seconds_of
from factory import training_run
from factory.core.checkpoints import BEST, write_weights
from factory.core.precision import autocast
from factory.joint import HDGAN
from factory.joint.generators import GENERATOR, DrawConfig, open_generator
from factory.joint.hdgan import BESIDE, Hdgan, HdganConfig, tap_shapes
from factory.joint.labeller import KIND
from factory.joint.stylegan2 import WEIGHTS_KIND, StyleGan2Config, StyleGan2Lesson, build
from factory.nets.ada import PIPES, augmented, draw_uniforms
from factory.nets.pixel_classifier import Ensemble
from factory.nets.stylegan2 import Discriminator, Generator
from factory.plan import load_scheme
from manifests.labels import get_scheme

PRESETS = {"published": "stylegan2", "light": "stylegan2_light"}
LABELLERS: dict[str, tuple[int | None, int]] = {"published": (5, 1), "light": (None, 5)}
"""Blocks that a labeller reads, None for all, and its members: as in configs/train/hdgan.yaml and hdgan_light.yaml."""
P, CYCLE = 0.2, 16
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
from bench import stylegan2
print(json.dumps(getattr(stylegan2, sys.argv[1])(*sys.argv[2:])))
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
        show("\nwith labels", "bare forward pass", "pass and labels", "factory make", "of the bare rate", "tiles/s")
        for which, precision, asked in (
            ("published", "fp32", ""), ("published", "bf16", ""), ("light", "fp32", ""), ("light", "fp32", "asked"),
        ):  # fmt: skip
            bare, drawn, ours, _ = measured(CALL, "labelled", which, precision, asked, folder, n)
            row = ", ".join(filter(None, (which, precision, asked)))
            show(row, ms(bare), ms(drawn), ms(ours), f"{bare / ours:.2f}", f"{1 / ours:.2f}")
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
    """What a process says of the parts of a step that it came to, and the GB at which it was killed, None if not."""
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


# What follows runs in processes of their own.


def write_all(folder: str) -> None:
    """Write weights of both networks and of their labellers, once for each number format."""
    torch.manual_seed(0)
    scheme = load_scheme("configs/schemes/kidney.yaml")
    origin = {"scheme": scheme.to_dict(), "mpp": 0.5, "sources": [], "licences": []}
    for which, preset in PRESETS.items():
        config = training_run.resolve_lesson(GENERATOR, preset, [], {}, "cpu")
        assert isinstance(config, StyleGan2Config)
        network = {**config.network.model_dump(mode="json"), "size": list(config.size)}
        card = {**origin, "kind": WEIGHTS_KIND, "generator": GENERATOR, "network": network}
        taps, generator = tap_shapes(network), build(network)
        blocks, members = LABELLERS[which]
        taps = dict(list(taps.items())[-2 * blocks :]) if blocks else taps
        channels = [shape[0] for shape in taps.values()]
        shape: dict[str, Any] = {"channels": sum(channels), "classes": len(scheme), "members": members}
        for precision in ("fp32", "bf16"):
            run = Path(folder) / f"{which}-{precision}"
            run.mkdir()
            write_weights(run / BESIDE, generator.state_dict(), card)
            beside = {
                **origin, "kind": KIND, "network": shape, "channels": channels, "taps": list(taps), "held_out": None,
                "generator_sha256": open_generator(run / BESIDE).digest, "trained_size": list(config.size),
                "drawing": DrawConfig(precision=precision).model_dump(mode="json", exclude={"weights"}),
            }  # fmt: skip
            write_weights(run / BEST, Ensemble(**shape).state_dict(), beside)


def sampled(which: str, precision: str, folder: str, n: str) -> list[float]:
    """Seconds of a bare forward pass and of an image of `factory sample`, and the peak in GB."""
    from factory import sampling

    weights = Path(folder) / f"{which}-{precision}" / BESIDE
    drawing = {"weights": str(weights), "precision": precision}
    count = _images(which, n)

    def sample(images: int, seed: int) -> None:
        config = sampling.SampleConfig.model_validate({"drawing": drawing, "n": images, "seed": seed})
        out = Path(folder) / f"sampled-{which}-{precision}-{seed}"
        sampling.sample(sampling.prepare(config, out), workers=1)

    sample(1, 0)  # weights are loaded and kernels compiled
    bare = _bare_forward(weights, precision)
    ours = _seconds(lambda: sample(count, 1)) / count
    bare += _bare_forward(weights, precision)
    return [statistics.median(bare), ours, peak_mb() / 1e3]


def labelled(which: str, precision: str, asked: str, folder: str, n: str) -> list[float]:
    """Seconds of a bare forward pass, of `Hdgan.draw`, and of a tile of `factory make --joint hdgan`; the peak in GB.

    Where something is `asked`, tiles are chosen from a pool of four for each.
    """
    from factory import joint_making, pipeline
    from factory.order import resolve_joint

    run, count = Path(folder) / f"{which}-{precision}", _images(which, n)
    assignments = [f"joint.precision={precision}", *(["joint.tolerance=1"] if asked else [])]

    def make(tiles: int, seed: int) -> None:
        flags = {"n": tiles, "seed": seed, "tissue": "0.3-0.9" if asked else None}
        config = resolve_joint(flags, {"name": HDGAN, "weights": str(run)}, [], None, assignments)
        out = Path(folder) / f"made-{which}-{precision}-{asked}-{seed}"
        order = joint_making.prepare(config, out, manifest=None, device="cpu")
        if asked:
            order = joint_making.choose(order, workers=1)
        pipeline.make(order, workers=1)

    make(1, 0)  # weights are loaded and kernels compiled
    part = Hdgan(Hdgan.settle(HdganConfig.model_validate({"weights": str(run), "precision": precision}), "cpu"))
    bare = _bare_forward(run / BESIDE, precision, fastest=True)
    ours = _seconds(lambda: make(count, 1)) / count
    drawn = seconds_of(lambda: part.draw(0), len(bare), chosen_clock())
    bare += _bare_forward(run / BESIDE, precision, fastest=True)
    return [statistics.median(bare), statistics.median(drawn), ours, peak_mb() / 1e3]


def _images(which: str, n: str) -> int:
    return int(n) * (64 if which == "light" else 1)


def _seconds(work: Callable[[], object]) -> float:
    clock = chosen_clock()
    started = clock()
    work()
    return clock() - started


def _bare_forward(weights: Path, precision: str, *, fastest: bool = False) -> list[float]:
    """Seconds of forward passes as a first script has them, latent and noise in memory; `fastest`: see above."""
    network = open_generator(weights).network
    latent = torch.randn(1, network.z_dim)
    noise = [torch.randn(1, 1, *size) for size in network.synthesis.noise_sizes]
    cast = precision == "bf16" and not fastest
    if precision == "bf16" and fastest:
        network = network.bfloat16().to(memory_format=torch.channels_last)
        latent, noise = latent.bfloat16(), [drawn.bfloat16() for drawn in noise]

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            network(latent, noise)

    return seconds_of(forward, 3 if max(network.size) > 64 else 32, chosen_clock())


def trained(data: str, out: str) -> list[float]:
    """Seconds of a step of a bare loop and of `factory train`, and the peak in GB."""
    # ADA follows as always, but so slowly that p stays.
    typed = {"threads": 1, "augment_p": P, "ada_kimg": 1e12, "steps": 2 * CYCLE + 1, "look_every": 2 * CYCLE + 1}
    config = training_run.resolve_lesson(GENERATOR, PRESETS["light"], [], typed, "cpu")
    assert isinstance(config, StyleGan2Config)
    run, clock = training_run.prepare(GENERATOR, config, [Path(data)], Path(out)), chosen_clock()
    views = StyleGan2Lesson(config, run.tiles.scheme, "cpu").draw_from(run.tiles)(0)
    script, stamps, bare = FirstScript(config, views[0]), list[float](), list[tuple[int, float]]()
    for step in (0, *range(1, CYCLE + 1)):
        bare.append((step, _seconds(lambda: script.step(step))))  # noqa: B023  # called at once
    training_run.train(run, on_step=lambda done: stamps.append(clock()))
    for step in range(CYCLE + 1, 2 * CYCLE + 1):
        bare.append((step, _seconds(lambda: script.step(step))))  # noqa: B023
    ours = enumerate(np.diff(stamps).tolist(), 1)  # the first step is not counted, here and in the bare loop
    return [_weighed(bare[1:]), _weighed(ours), peak_mb() / 1e3]


def _weighed(timed: Iterable[tuple[int, float]]) -> float:
    """Seconds of a step, from those of steps by number: medians of the kinds, weighed by how often these come."""
    kinds: dict[int, list[float]] = {12: [], 3: [], 1: []}
    for step, seconds in timed:
        kinds[1 if step % CYCLE == 0 else 3 if step % 4 == 0 else 12].append(seconds)
    return sum(times * statistics.median(seconds) for times, seconds in kinds.items()) / CYCLE


class FirstScript:
    """Training as a first script has it: the same networks, losses, regularisers, augmentation and number format.

    Args:
        config: of the lesson. images: uint8 [N, H, W, 3], the batch of every step, in memory.
    """

    def __init__(self, config: StyleGan2Config, images: Any) -> None:
        self.config, self.real = config, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.generator = Generator(config.network, config.size)
        self.judge = Discriminator(config.network, config.size, config.mbstd_group_size)
        self.average = copy.deepcopy(self.generator)
        self.path_mean = torch.zeros(())
        self.adams = [
            torch.optim.Adam(part.parameters(), config.learning_rate * c, (0.0, 0.99**c))
            for part, c in ((self.generator, 4 / 5), (self.judge, 16 / 17))
        ]

    def step(self, number: int) -> None:
        """A step of each network, with what is due of path length (every 4) and R1 (every 16)."""
        self.judge.requires_grad_(False)
        self.descend(0, F.softplus(-self.said(self.made(len(self.real)))).mean())
        if number % 4 == 0:
            ws = self.styles(len(self.real) // 2)
            images = self.generator.synthesis(ws, self.noise(len(ws)))
            y = torch.randn_like(images) / images[0, 0].numel() ** 0.5
            (slope,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
            lengths = slope.square().sum(2).mean(1).sqrt()
            self.path_mean = self.path_mean.lerp(lengths.mean().detach(), 0.01)
            self.descend(0, (lengths - self.path_mean).square().mean() * 2 * 4)
        self.judge.requires_grad_(True)
        with torch.no_grad():
            fake = self.made(len(self.real))
        self.descend(1, (F.softplus(self.said(fake)) + F.softplus(-self.said(self.real))).mean())
        if number % 16 == 0:
            real = self.real.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.judge(self.augmented(real)).sum(), real, create_graph=True)
            self.descend(1, slope.square().sum((1, 2, 3)).mean() * (self.config.gamma / 2 * 16))
        with torch.no_grad():
            for kept, latest in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.lerp_(latest, 0.01)

    def descend(self, which: int, loss: torch.Tensor) -> None:
        """A step of Adam: of the generator (0) or the discriminator (1)."""
        self.adams[which].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adams[which].step()

    def styles(self, count: int) -> torch.Tensor:
        """Styles [N, layers, w_dim] of new latents, nine times of ten of two each."""
        mapping, layers = self.generator.mapping, self.generator.synthesis.layers
        w = mapping(torch.randn(count, self.generator.z_dim))
        mapping.follow(w, 0.995)
        ws = w[:, None].repeat(1, layers, 1)
        cut = int(torch.randint(1, layers, ())) if torch.rand(()) < 0.9 else layers
        other = mapping(torch.randn(count, self.generator.z_dim))
        return torch.cat([ws[:, :cut], other[:, None].repeat(1, layers - cut, 1)], 1)

    def noise(self, count: int) -> list[torch.Tensor]:
        """New noise of every convolution."""
        return [torch.randn(count, 1, *size) for size in self.generator.synthesis.noise_sizes]

    def made(self, count: int) -> torch.Tensor:
        """Images float32 [N, 3, H, W]."""
        with autocast(self.config.precision, "cpu"):
            images: torch.Tensor = self.generator.synthesis(self.styles(count), self.noise(count))
        return images

    def augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the discriminator sees them."""
        uniforms = draw_uniforms(len(images), torch.default_generator)
        return augmented(images, self.config.augment_p, uniforms, PIPES[self.config.augpipe])

    def said(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N]."""
        seen = self.augmented(images)
        with autocast(self.config.precision, "cpu"):
            logits: torch.Tensor = self.judge(seen)
        return logits


def augmented_steps(data: str) -> list[float]:
    """Seconds of a step without ADA, at p = 0.2 and at p = 1; the three in turns, so that what is slow slows all."""
    from factory.views import open_tiles

    lessons = []
    for values in ({"augpipe": "noaug"}, {"augment_p": P}, {"augment_p": 1.0}):
        typed = {"threads": 1, "ada_target": None, **values}
        config = training_run.resolve_lesson(GENERATOR, PRESETS["light"], [], typed, "cpu")
        assert isinstance(config, StyleGan2Config)
        tiles = open_tiles([Path(data)], None, config.size, config.batch)
        lessons.append(StyleGan2Lesson(config, tiles.scheme, "cpu"))
    views = lessons[0].draw_from(tiles)(0)
    found: list[list[tuple[int, float]]] = [[] for _ in lessons]
    for step in range(2 * CYCLE + 1):
        for timed, lesson in zip(found, lessons, strict=True):
            timed.append((step, _seconds(lambda: lesson.step(views, step, 0))))  # noqa: B023  # called at once
    return [_weighed(timed[1:]) for timed in found]


def say_peaks(side: str) -> None:
    """Print a line for each part of a step: memory before it and peak so far in GB, seconds, ADA's share of them."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # of all processes this is the one to be killed for memory
    values = {"size": (int(side), int(side)), "batch": 1, "threads": 1, "augment_p": 1.0}
    config = training_run.resolve_lesson(GENERATOR, PRESETS["published"], [], values, "cpu")
    assert isinstance(config, StyleGan2Config)
    lesson = StyleGan2Lesson(config, get_scheme("ki67"), "cpu")
    for optimiser in lesson.optimisers.values():
        _fill_state(optimiser)
    image = np.random.default_rng(0).integers(0, 256, (1, *config.size, 3), np.uint8)
    real = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    augment, spent = lesson._augmented, list[float]()

    def timed(*what: Any) -> torch.Tensor:
        seen = list[torch.Tensor]()
        spent.append(_seconds(lambda: seen.append(augment(*what))))
        return seen[0]

    lesson._augmented = timed  # type: ignore[method-assign, assignment]
    for part in (
        lambda: lesson.step([image], 1, 0),
        lambda: lesson._flatten_judge(real, 0),
        lambda: lesson._shorten_paths(0, 1),
    ):
        before = psutil.Process().memory_info().rss / 1e9
        spent.clear()
        seconds = _seconds(part)
        row = {"before": before, "peak": peak_mb() / 1e3, "seconds": seconds, "ada": sum(spent) / seconds}
        print(json.dumps(row), flush=True)


def _fill_state(optimiser: torch.optim.Optimizer) -> None:
    """Make a step of zeros, so that gradients and Adam's state are there, as in every step but the first."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
