"""Small data sets that many tests need, written the way the factory writes them."""

import functools
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from hypothesis import settings

from factory.core.runs import RunSpec, open_run, write_shard
from factory.plan.rows import with_column
from manifests import Dataset, DatasetInfo, Tile, get_scheme, open_dataset
from manifests.store import Layout

settings.register_profile("untimed", deadline=None)  # the first example compiles kernels
settings.load_profile("untimed")

_written = tempfile.TemporaryDirectory()
"""Data sets of `write_dataset`, kept until the end: to copy one takes a tenth of the time that writing it takes."""


def write_dataset(out: Path, **options: Any) -> Dataset:
    """Write the data set of `_write_once` to `out`; equal `options` give equal bytes."""
    shutil.copytree(_write_once(**options), out, dirs_exist_ok=True)
    return open_dataset(out)


@functools.cache
def _write_once(**options: Any) -> Path:
    out = Path(tempfile.mkdtemp(dir=_written.name)) / "set"
    write_by_run(out, **options)
    return out


def write_by_run(
    out: Path,
    *,
    scheme: str = "nuclei",
    n: int = 6,
    size: tuple[int, int] = (64, 96),
    source: str = "real",
    groups: int = 3,
    seed: int = 0,
    shard: int = 4,
    mpp: float = 0.5,
    cells: bool = True,
) -> None:
    """Write discs on a grid as a run does: tile i has about i + 2 cells; classes cycle; splits go by group."""
    label_scheme = get_scheme(scheme)
    info = DatasetInfo(source == "synthetic", "tests", (label_scheme,), licences=("test",))
    spec = RunSpec(out, {"scheme": scheme, "n": n, "seed": seed}, Layout(n, *size, shard), info)

    def sample(index: int) -> tuple[np.ndarray, Tile, dict[str, object]]:
        rng = np.random.default_rng([seed, index])
        semantic, instance = np.zeros(size, np.uint8), np.zeros(size, np.int32)
        if scheme in ("pdl1", "pdl1_cells", "tissue"):
            semantic[:] = (np.arange(size[1]) * len(label_scheme) // size[1]).astype(np.uint8)
        rows, columns = np.indices(size)
        for cell in range(index + 2 if cells else 0):
            y, x = rng.integers(6, size[0] - 6), rng.integers(6, size[1] - 6)
            disc = ((rows - y) ** 2 + (columns - x) ** 2 < 25) & (instance == 0)
            instance[disc] = cell + 1
            if scheme in ("nuclei", "ihc"):
                semantic[disc] = 1 + cell % (len(label_scheme) - 1)
        image = label_scheme.palette[semantic] // 2 + rng.integers(0, 64, (*size, 3), dtype=np.uint8)
        image[instance > 0] //= 2
        group = index % groups
        row = {
            "sample_id": f"{source}-{seed}-{index}",
            "split": ("train", "val", "test")[group % 3],
            "source": source,
            "group_id": f"{source}-slide-{group}",
            "height": size[0],
            "width": size[1],
            "mpp": mpp,
            "label_scheme": scheme,
            "seed": seed,
            "label_origin": "exact",
            "licence": "test",
        }
        return image, Tile(semantic, instance, mpp, label_scheme), row

    with open_run(spec) as run:
        for number in run.todo:
            run.add(write_shard(spec, number, (sample(index) for index in spec.layout.rows(number))))
        run.finish()


def with_columns(dataset: Dataset, **columns: list[object]) -> Dataset:
    """The data set with other values in some columns, in memory alone."""
    table = dataset.table
    for name, values in columns.items():
        table = with_column(table, name, values)
    return Dataset(dataset.root, table, dataset.info, dataset.store)


def embedded_json(page: str) -> dict[str, Any]:
    """The JSON in an HTML page, found the way a browser does: up to the first closing tag."""
    match = re.search(r'<script id="data" type="application/json">(.*?)</script', page, re.DOTALL | re.IGNORECASE)
    assert match
    return json.loads(match[1])


@pytest.fixture
def dataset_factory(tmp_path: Path) -> Callable[..., Dataset]:
    """``dataset_factory("name", scheme=..., n=...)`` writes a small finished data set below the test's folder."""
    return lambda name, **options: write_dataset(tmp_path / name, **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that at the end no worker waits for another's."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@dataclass(frozen=True)
class Outcome:
    """Result of a command: its exit code and its output."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Typer makes a command line of its functions at every call, which takes longer than most calls here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_worker_unless_asked() -> Iterator[None]:
    """A command without --workers works in this process: two others take longer to start than most calls here."""
    from factory.core import devices

    parse = devices.parse_workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "parse_workers", lambda workers: parse(1 if workers is None else workers))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_synced() -> Iterator[None]:
    """A disk is not waited for, which took a tenth of the time: only a power cut takes what was not synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def run_command(program: str, *arguments: object) -> int:
    """Run a command in this process, which has imported all that it needs; its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(sys, "argv", [program, *map(str, arguments)])
            importlib.import_module(f"{program}.cli").main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return int(stopped.value.code or 0)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """``cli("factory", "make", "--n", "2")`` runs a command in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def call(program: str, *arguments: object) -> Outcome:
        capfd.readouterr()
        code = run_command(program, *arguments)
        printed = capfd.readouterr()
        return Outcome(code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: small crops gain nothing from two, and on a busy machine lose much."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_network() -> Iterator[None]:
    """``unetplusplus`` is a network of three convolutions: building and saving the real one is most of a short run."""
    from segment.network import NETWORKS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "unetplusplus", "tests.small_network:Small")
        yield


@pytest.fixture
def real_network(small_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``unetplusplus`` is itself again."""
    from segment.network import NETWORKS

    monkeypatch.setitem(NETWORKS, "unetplusplus", "segment.network.networks:UnetPlusPlus")


@pytest.fixture(scope="module")
def narrow_features() -> Iterator[None]:
    """``random-vgg16`` is an eighth as wide: the full one takes most of a score of small tiles."""
    from factory.score import features, random_vgg

    widths = [each if each == "M" else each // 8 for each in random_vgg.cfgs["D"]]
    features._open.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_vgg, "cfgs", {"D": widths})
        patch.setattr(random_vgg, "_POOLED", random_vgg._POOLED // 8)
        yield
    features._open.cache_clear()


@pytest.fixture(scope="module")
def no_training_plots() -> Iterator[None]:
    """Trainings plot no history: the plot takes longer than a training of a few steps."""
    from factory.train import generator
    from segment.train import run as experiment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "plot_history", lambda out, history, panels: out)
        patch.setattr(experiment, "plot_history", lambda out, history: out)
        yield


@pytest.fixture(scope="session", autouse=True)
def _blank_plots() -> Iterator[Callable[..., None]]:
    """Figures are made and saved, but blank: to draw one takes longer than most of what it shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    draw = FigureCanvasAgg.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "draw", lambda self: setattr(self, "renderer", self.get_renderer()))
        yield draw


@pytest.fixture
def drawn_plots(_blank_plots: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn."""
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.draw", _blank_plots)


def assert_refused(outcome: Outcome, said: str, code: int = 2) -> None:
    """One line on stderr that says what is wrong, and the exit code."""
    lines = outcome.err.strip().splitlines()
    assert outcome.code == code, outcome
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: "), lines
    assert re.search(said, lines[0]), lines[0]
