"""`factory train`'s loop for all that learns: resumed is unbroken, and nothing half-written is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from factory.core import fit
from factory.core.checkpoints import BEST, LAST, read_checkpoint
from factory.core.config import parse
from factory.core.history import HISTORY, PLOT, plot_history
from factory.core.weights import read_card
from factory.learn.trainer import TrainerConfig, epoch_of, rate_factor
from factory.masks.learned.generator import WEIGHTS_KIND
from factory.train import generator
from factory.train.generator import SAMPLES, STATE_KIND, train, trainer_class, trainers
from manifests.errors import FaultError, UserError
from manifests.labels import get_scheme
from tests.conftest import Outcome, assert_refused
from tests.mask_training import SIZE, as_file, small_run, trained, write_blobs

Cli = Callable[..., Outcome]
REPOSITORY = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs").root


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[[str], Path]:
    """``unbroken("depas")``: the folder of a run that nothing stopped, trained once."""
    folder, done = tmp_path_factory.mktemp("unbroken"), dict[str, Path]()

    def run(name: str) -> Path:
        if name not in done:
            done[name] = trained(name, data, folder / name)
        return done[name]

    return run


def interrupt_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def learnt(out: Path) -> dict[str, bytes]:
    """Everything a run leaves that must not depend on interruptions: files as they are, times left out."""
    times = ("steps_per_s", "wait_share")
    state = read_checkpoint(out / LAST, STATE_KIND)
    history = [{k: v for k, v in row.items() if k not in times} for row in state.card["history"]]
    assert pq.read_table(out / HISTORY).drop_columns(list(times)).to_pylist() == history
    found = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    card = {key: value for key, value in state.card.items() if key != "history"}
    found |= {"state card": json.dumps([card, history], sort_keys=True).encode()}
    files = [out / BEST, out / "best.json", *(out / SAMPLES).iterdir()]
    return found | {str(path.relative_to(out)): path.read_bytes() for path in files}


def differing(one: Path, other: Path) -> list[str]:
    """Names of what two runs do not have in common."""
    a, b = learnt(one), learnt(other)
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


@pytest.mark.parametrize(("name", "stop"), [*((name, 3) for name in trainers()), ("depas", 6)])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(
    name: str, stop: int, data: Path, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    """Between two checkpoints (3), and after the last step but before the state is written (6)."""
    run = small_run(name, data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(run, on_step=interrupt_at(stop))
    assert read_checkpoint(run.out / LAST, STATE_KIND).card["step"] == stop // 3 * 2
    torch.manual_seed(123)  # whatever the process did in between
    assert train(run, resume=True).start == stop // 3 * 2
    assert differing(unbroken(name), run.out) == []


@pytest.mark.parametrize("name", ["depas", "masks/cyclegan", "pix2pixhd"])
def test_a_run_in_bfloat16_resumes_too(name: str, data: Path, tmp_path: Path) -> None:
    whole = trained(name, data, tmp_path / "whole", precision="bf16", steps=4)
    run = small_run(name, data, tmp_path / "broken", precision="bf16", steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(run, on_step=interrupt_at(3))
    train(run, resume=True)
    assert differing(whole, run.out) == []


def test_a_run_interrupted_before_its_first_checkpoint_starts_anew(
    data: Path, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    run = small_run("dcgan", data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(run, on_step=interrupt_at(1))
    assert train(run, resume=True).start == 0
    assert differing(unbroken("dcgan"), run.out) == []


def test_a_full_disk_is_refused_before_an_earlier_run_is_removed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run("depas", data, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / BEST).write_bytes(b"of an earlier run")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("factory.core.folder.shutil.disk_usage", lambda folder: full)
    with pytest.raises(FaultError, match=r"expected room for about .* got 1 kB free"):
        train(run, overwrite=True)
    assert (tmp_path / "run" / BEST).read_bytes() == b"of an earlier run"


def test_resuming_a_finished_run_does_nothing(data: Path, tmp_path: Path) -> None:
    run = small_run("depas", data, tmp_path / "run")
    train(run)
    before = learnt(run.out)
    result = train(run, resume=True)
    assert (result.start, result.step) == (6, 6)
    assert learnt(run.out) == before


@pytest.mark.parametrize(
    ("module", "victim"),
    [
        (generator, "write_sample_sheet"),
        (fit, "write_history"),
        (generator, "write_weights"),
        (fit, "write_state"),
    ],
)
def test_a_failing_write_leaves_the_checkpoint_before_it(
    module: ModuleType,
    victim: str,
    data: Path,
    unbroken: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk fills up within the second checkpoint, wherever it is; the run goes on from the first."""
    run, real, calls = small_run("dcgan", data, tmp_path / "run"), getattr(module, victim), [0]

    def failing(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", _no_space)
                return real(*args, **options)
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, victim, failing)
        with pytest.raises(OSError, match="No space"):
            train(run)
    assert read_checkpoint(run.out / LAST, STATE_KIND).card["step"] == 2
    assert read_checkpoint(run.out / BEST, WEIGHTS_KIND).card["step"] in (2, 4)
    assert train(run, resume=True).start == 2
    assert differing(unbroken("dcgan"), run.out) == []


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


KILLED = """
import os, signal
import factory.cli
from factory.masks.depas import DepasTrainer

real = DepasTrainer.step

def step(trainer, crops, number, epoch):
    if number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(trainer, crops, number, epoch)

DepasTrainer.step = step
factory.cli.main()
"""


def test_a_killed_command_resumes_to_the_same_bytes(data: Path, tmp_path: Path, cli: Cli) -> None:
    changes = {"steps": 12, "look_every": 4}
    whole = trained("depas", data, tmp_path / "whole", **changes)
    words = ("train", "depas", "--data", data, "--out", "broken", "--device", "cpu", "--config")
    words = (*words, as_file(tmp_path / "small.yaml", "depas", **changes))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_checkpoint(tmp_path / "broken" / LAST, STATE_KIND).card["step"] == 8
    again = cli("factory", *words, "--resume")
    assert again.code == 0, again
    assert "going on from 8" in again.out
    assert differing(whole, tmp_path / "broken") == []


def test_an_interrupted_command_says_how_it_goes_on(data: Path, tmp_path: Path, cli: Cli) -> None:
    def step(trainer: Any, crops: Any, number: int, epoch: int) -> Any:
        raise KeyboardInterrupt

    words = ("factory", "train", "dcgan", "--data", data, "--config", as_file(tmp_path / "small.yaml", "dcgan"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_class("dcgan"), "step", step)
        assert_refused(cli(*words), "interrupted.*--resume", code=130)
    assert_refused(cli(*words), "got a run. Use --resume")


# Schedules.


def test_the_rate_stands_then_falls_linearly_to_zero() -> None:
    config = parse(TrainerConfig, {"epochs": 100, "decay_epochs": 50}, "x")
    factors = [rate_factor(config, step, 1000) for step in range(1000)]
    assert factors[:501] == [1.0] * 501
    np.testing.assert_allclose(factors[500:], 1 - np.arange(500) / 500)
    assert rate_factor(parse(TrainerConfig, {"epochs": 3}, "x"), 999, 1000) == 1.0
    assert rate_factor(parse(TrainerConfig, {"epochs": 3, "decay_epochs": 9}, "x"), 0, 1000) == 1.0


@pytest.mark.parametrize("steps", [100, 1000, 37 * 100])
def test_a_shorter_run_goes_through_the_same_epochs(steps: int) -> None:
    config = parse(TrainerConfig, {"epochs": 100}, "x")
    epochs = [epoch_of(config, step, steps) for step in range(steps)]
    assert np.bincount(epochs).tolist() == [steps // 100] * 100
    assert epochs == sorted(epochs)


def test_a_run_of_fewer_steps_than_epochs_ends_in_a_late_one() -> None:
    config = parse(TrainerConfig, {"epochs": 100}, "x")
    assert [epoch_of(config, step, 4) for step in range(4)] == [0, 25, 50, 75]


def test_the_rate_reaches_the_optimisers(data: Path, tmp_path: Path) -> None:
    seen, steps = [], []
    run = small_run("dcgan", data, tmp_path / "run")
    real = trainer_class("dcgan").step

    def step(trainer: Any, crops: Any, number: int, epoch: int) -> Any:
        seen.append({group["lr"] for o in trainer.optimisers.values() for group in o.param_groups})
        steps.append((number, epoch))
        return real(trainer, crops, number, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_class("dcgan"), "step", step)
        train(run)
    rates = [1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 0.5e-3]  # the last 2 of 6 epochs, one step each: 2/2, 1/2
    assert [pytest.approx(rate) for rate in rates] == [next(iter(found)) for found in seen]
    assert all(len(found) == 1 for found in seen)
    assert steps == [(n, n) for n in range(6)]


def test_the_sharpness_at_the_end_of_training_is_in_the_card(unbroken: Callable[[str], Path]) -> None:
    def sharpness(name: str) -> float:
        value: float = read_card(unbroken(name) / BEST, WEIGHTS_KIND).fields["network"]["sharpness"]
        return value

    assert sharpness("depas") == 1 + 5 // 2  # epochs 0 to 5, one step each, steeper every 2
    assert sharpness("dcgan") == 1.0


def test_the_sharpness_of_many_classes_is_the_inverse_temperature(tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "regions", scheme="pdl1_cells").root
    out = trained("depas", data, tmp_path / "run", steps=3)
    card = read_card(out / BEST, WEIGHTS_KIND)
    assert card.fields["network"]["out_channels"] == 6
    assert card.fields["network"]["sharpness"] == 1.25**2  # steps 0, 1, 2 of 3 are epochs 0, 2, 4; colder every 2


# A loss that is no number.


@pytest.mark.parametrize("name", ["dcgan", "masks/cyclegan", "pix2pixhd", "renderers/cyclegan"])
def test_a_loss_that_is_no_number_stops_the_run_with_its_last_good_checkpoint(
    name: str, data: Path, unbroken: Callable[[str], Path], tmp_path: Path, cli: Cli
) -> None:
    real = trainer_class(name).step

    def step(trainer: Any, crops: Any, number: int, epoch: int) -> Any:
        losses = real(trainer, crops, number, epoch)
        if number == 4:
            with torch.no_grad():
                next(trainer.networks[trainer.kept].parameters()).fill_(float("nan"))
            losses |= {next(iter(losses)): torch.tensor(float("nan"))}
        return losses

    config = as_file(tmp_path / "small.yaml", name)
    words = ("factory", "train", name, "--data", data, "--out", "run", "--device", "cpu", "--config", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_class(name), "step", step)
        outcome = cli(*words)
    assert_refused(outcome, r"finite losses.* at step 5 \(\w+\).*last good checkpoint is run/last\.safetensors", code=1)
    state = read_checkpoint(tmp_path / "run" / LAST, STATE_KIND)
    assert state.card["step"] == 4
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in state.tensors.values())
    assert cli(*words, "--resume").code == 0
    assert differing(unbroken(name), tmp_path / "run") == []


def test_a_loss_that_is_no_number_at_once_says_that_there_is_no_checkpoint(data: Path, tmp_path: Path) -> None:
    def step(trainer: Any, crops: Any, number: int, epoch: int) -> Any:
        return {"generator": torch.tensor(float("inf"))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_class("dcgan"), "step", step)
        with pytest.raises(FaultError, match=r"step 1 \(generator\); no checkpoint had been written"):
            train(small_run("dcgan", data, tmp_path / "run"))
    assert not (tmp_path / "run" / LAST).exists()


def test_a_weight_that_is_no_number_is_never_written_though_the_losses_are(
    data: Path, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    real = trainer_class("dcgan").step

    def step(trainer: Any, crops: Any, number: int, epoch: int) -> Any:
        losses = real(trainer, crops, number, epoch)
        if number == 3:  # the last step before a checkpoint: no loss has seen the weight yet
            with torch.no_grad():
                next(trainer.networks["discriminators"].parameters()).flatten()[0] = float("inf")
        return losses

    run = small_run("dcgan", data, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_class("dcgan"), "step", step)
        with pytest.raises(
            FaultError, match=r"finite weights.* at step 4 \(discriminators\).*last good checkpoint is .*last"
        ):
            train(run)
    assert read_checkpoint(run.out / LAST, STATE_KIND).card["step"] == 2
    assert read_checkpoint(run.out / BEST, WEIGHTS_KIND).card["step"] == 2
    train(run, resume=True)
    assert differing(unbroken("dcgan"), run.out) == []


# What a run leaves.


@pytest.mark.usefixtures("drawn_plots")
def test_a_run_leaves_a_history_a_plot_sheets_and_weights_with_their_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "plot_history", plot_history)
    out = trained("depas", data, tmp_path / "run", steps=4)
    assert {path.name for path in out.iterdir()} == {"run.yaml", BEST, "best.json", LAST, HISTORY, PLOT, SAMPLES}
    assert [path.name for path in sorted((out / SAMPLES).iterdir())] == ["step-000002.png", "step-000004.png"]
    sheet = np.asarray(Image.open(out / SAMPLES / "step-000004.png"))
    assert sheet.shape == (8 * 32 + 9 * 4, 3 * 64 + 4 * 4, 3)  # eight masks of four steps, three columns, gaps of 4
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert colours == {(96, 96, 96), *(label.colour for label in get_scheme("tissue").classes)}
    assert (out / PLOT).read_bytes().startswith(b"\x89PNG")
    history = pq.read_table(out / HISTORY)
    assert history["step"].to_pylist() == [2, 4]
    assert {"generator", "discriminators", "steps_per_s", "wait_share"} < set(history.column_names)


def test_the_card_says_what_the_weights_are(data: Path, unbroken: Callable[[str], Path]) -> None:
    fields = read_card(unbroken("priorpath") / BEST, WEIGHTS_KIND).fields
    assert fields["generator"] == "priorpath"
    assert fields["scheme"] == get_scheme("tissue").to_dict()
    assert (fields["mpp"], fields["trained_size"], fields["tiles"]) == (0.5, list(SIZE), 8)
    assert (fields["step"], fields["steps"]) == (6, 6)
    assert fields["sources"] == [f"blobs/slide-{n}" for n in range(3)]
    assert fields["licences"] == ["licence of blobs"]
    assert (fields["config"]["opening_px"], fields["config"]["closing_px"]) == (3, 6)
    assert "threads" not in fields["config"]
    assert "not for diagnosis" in fields["use"]
    readable = json.loads((unbroken("priorpath") / "best.json").read_text())
    assert readable == {**fields, "sha256": read_card(unbroken("priorpath") / BEST).sha256}


def test_kept_weights_are_the_running_mean(data: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    real = trainer_class("dcgan").step

    def step(trainer: Any, crops: Any, number: int, epoch: int) -> Any:
        losses = real(trainer, crops, number, epoch)
        seen.append(trainer.networks["generator"].head.weight.detach().clone())
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_class("dcgan"), "step", step)
        out = trained("dcgan", data, tmp_path / "run", steps=2)
    kept = read_checkpoint(out / BEST, WEIGHTS_KIND).tensors["head.weight"]
    rate = 2 / 11  # min(0.9, (1 + n) / (10 + n)) with n = 1
    torch.testing.assert_close(kept, rate * seen[0] + (1 - rate) * seen[1])


def test_a_state_of_another_configuration_is_not_resumed(data: Path, tmp_path: Path) -> None:
    run = small_run("dcgan", data, tmp_path / "run", steps=2)
    train(run)
    other = small_run("dcgan", data, tmp_path / "run", steps=2, seed=1)
    with pytest.raises(UserError, match=r"config\.seed: 0 there, 1 asked"):
        train(other, resume=True)
    (run.out / "run.yaml").write_text((run.out / "run.yaml").read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match="got another's"):  # the file lies, the state does not
        train(other, resume=True)
