"""Measurements of `bench.stylegan2`, each in a process of its own: drawing, labelling, training steps, memory."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from bench.stylegan2_script import FirstScript
from bench.timing import chosen_clock, peak_mb, seconds_of
from factory.core.checkpoints import BEST, write_weights
from factory.joint import HDGAN
from factory.joint.generators import GENERATOR, DrawConfig, open_generator
from factory.joint.hdgan import BESIDE, Hdgan, HdganConfig, tap_shapes
from factory.joint.labeller import KIND
from factory.joint.stylegan2 import WEIGHTS_KIND, StyleGan2Config, StyleGan2Trainer, build
from factory.nets.pixel_classifier import Ensemble
from factory.plan.rows import load_scheme
from factory.train import generator as training_run
from manifests.labels import get_scheme

PRESETS = {"published": "stylegan2", "light": "stylegan2_light"}
LABELLERS: dict[str, tuple[int | None, int]] = {"published": (5, 1), "light": (None, 5)}
"""Blocks that a labeller reads, None for all, and its members: as in configs/train/hdgan.yaml and hdgan_light.yaml."""
P, CYCLE = 0.2, 16


def write_all(folder: str) -> None:
    """Write weights of both networks and of their labellers, once for each number format."""
    torch.manual_seed(0)
    scheme = load_scheme("configs/schemes/kidney.yaml")
    origin = {"scheme": scheme.to_dict(), "mpp": 0.5, "sources": [], "licences": []}
    for which, preset in PRESETS.items():
        config = training_run.resolve_trainer(GENERATOR, preset, [], {}, "cpu")
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
    from factory.make.pipeline import make
    from factory.make.recipes import samples as sampling

    weights = Path(folder) / f"{which}-{precision}" / BESIDE
    drawing = {"weights": str(weights), "precision": precision}
    count = _images(which, n)

    def sample(images: int, seed: int) -> None:
        config = sampling.SampleConfig.model_validate({"drawing": drawing, "n": images, "seed": seed})
        out = Path(folder) / f"sampled-{which}-{precision}-{seed}"
        make(sampling.prepare(config, out), workers=1)

    sample(1, 0)  # weights are loaded and kernels compiled
    bare = _bare_forward(weights, precision)
    ours = _seconds(lambda: sample(count, 1)) / count
    bare += _bare_forward(weights, precision)
    return [statistics.median(bare), ours, peak_mb() / 1e3]


def labelled(which: str, precision: str, asked: str, folder: str, n: str) -> list[float]:
    """Seconds of the stock fp32 pass, of the fastest, of `Hdgan.draw`, and of a tile of `factory make --joint hdgan`.

    Where something is `asked`, tiles are chosen from a pool of four for each.
    """
    from factory.make import pipeline
    from factory.make.joint_candidates import choose
    from factory.make.recipes import joint as joint_making
    from factory.make.resolve import resolve_joint

    run, count = Path(folder) / f"{which}-{precision}", _images(which, n)
    assignments = [f"joint.precision={precision}", *(["joint.tolerance=1"] if asked else [])]

    def make(tiles: int, seed: int) -> None:
        flags = {"n": tiles, "seed": seed, "tissue": "0.3-0.9" if asked else None}
        config = resolve_joint(flags, {"name": HDGAN, "weights": str(run)}, [], None, assignments)
        out = Path(folder) / f"made-{which}-{precision}-{asked}-{seed}"
        prepared = joint_making.prepare(config, out, manifest=None, device="cpu")
        if asked:
            prepared = choose(prepared, workers=1)
        pipeline.make(prepared, workers=1)

    make(1, 0)  # weights are loaded and kernels compiled
    part = Hdgan(
        Hdgan.resolve_weights(HdganConfig.model_validate({"weights": str(run), "precision": precision}), "cpu")
    )
    bare, stock = _bare_forward(run / BESIDE, precision, fastest=True), _stock_forward(run / BESIDE)
    ours = _seconds(lambda: make(count, 1)) / count
    drawn = seconds_of(lambda: part.draw(0), len(bare), chosen_clock())
    bare += _bare_forward(run / BESIDE, precision, fastest=True)
    stock += _stock_forward(run / BESIDE)
    return [statistics.median(stock), statistics.median(bare), statistics.median(drawn), ours]


def _images(which: str, n: str) -> int:
    return int(n) * (64 if which == "light" else 1)


def _seconds(work: Callable[[], object]) -> float:
    clock = chosen_clock()
    started = clock()
    work()
    return clock() - started


def _stock_forward(weights: Path) -> list[float]:
    """Seconds of forward passes in float32, layer by layer as in training: nothing is folded, nothing done in place."""
    network = open_generator(weights).network
    latent = torch.randn(1, network.z_dim)
    noise = [torch.randn(1, 1, *size) for size in network.synthesis.noise_sizes]
    with torch.enable_grad():  # of weights that need none, so no graph is kept
        return seconds_of(lambda: network(latent, noise), 3 if max(network.size) > 64 else 32, chosen_clock())


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
    config = training_run.resolve_trainer(GENERATOR, PRESETS["light"], [], typed, "cpu")
    assert isinstance(config, StyleGan2Config)
    run, clock = training_run.prepare(GENERATOR, config, [Path(data)], Path(out)), chosen_clock()
    views = StyleGan2Trainer(config, run.tiles.scheme, "cpu").draw_from(run.tiles)(0)
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


def augmented_steps(data: str) -> list[float]:
    """Seconds of a step without ADA, at p = 0.2 and at p = 1; the three in turns, so that what is slow slows all."""
    from factory.learn.crops import open_tiles

    trainers = []
    for values in ({"augpipe": "noaug"}, {"augment_p": P}, {"augment_p": 1.0}):
        typed = {"threads": 1, "ada_target": None, **values}
        config = training_run.resolve_trainer(GENERATOR, PRESETS["light"], [], typed, "cpu")
        assert isinstance(config, StyleGan2Config)
        tiles = open_tiles([Path(data)], None, config.size, config.batch)
        trainers.append(StyleGan2Trainer(config, tiles.scheme, "cpu"))
    views = trainers[0].draw_from(tiles)(0)
    found: list[list[tuple[int, float]]] = [[] for _ in trainers]
    for step in range(2 * CYCLE + 1):
        for timed, trainer in zip(found, trainers, strict=True):
            timed.append((step, _seconds(lambda: trainer.step(views, step, 0))))  # noqa: B023  # called at once
    return [_weighed(timed[1:]) for timed in found]


def say_peaks(side: str) -> None:
    """Print a line for each part of a step: memory before it and peak so far in GB, seconds, ADA's share of them."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # of all processes this is the one to be killed for memory
    values = {"size": (int(side), int(side)), "batch": 1, "threads": 1, "augment_p": 1.0}
    config = training_run.resolve_trainer(GENERATOR, PRESETS["published"], [], values, "cpu")
    assert isinstance(config, StyleGan2Config)
    trainer = StyleGan2Trainer(config, get_scheme("ki67"), "cpu")
    for optimiser in trainer.optimisers.values():
        _fill_state(optimiser)
    image = np.random.default_rng(0).integers(0, 256, (1, *config.size, 3), np.uint8)
    real = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    augment, spent = trainer._augmented, list[float]()

    def timed(*what: Any) -> torch.Tensor:
        seen = list[torch.Tensor]()
        spent.append(_seconds(lambda: seen.append(augment(*what))))
        return seen[0]

    trainer._augmented = timed  # type: ignore[method-assign, assignment]
    for part in (
        lambda: trainer.step([image], 1, 0),
        lambda: trainer._penalise_gradients(real, 0),
        lambda: trainer._regularise_paths(0, 1),
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
