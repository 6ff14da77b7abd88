"""Training: resumed equals unbroken, what is saved is whole or absent, and a loss that is no number stops it."""

import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from factory.core.checkpoints import BEST, LAST, read_checkpoint, read_tensors, write_checkpoint
from factory.core.config import parse, read_yaml
from factory.core.ema import averaged
from factory.core.fit import FitResult, fit
from factory.core.history import HISTORY, write_history
from factory.core.shipped import configs_dir
from factory.core.training_folder import TrainingFolder
from factory.core.weights import read_card
from manifests.errors import FaultError, UserError
from segment.data.tiles import Batch
from segment.network.head import Head
from segment.network.weights import STATE_KIND, WEIGHTS_KIND, write_weights
from segment.train.config import TrainConfig, learning_rate
from segment.train.history import plot_history
from segment.train.scalars import TENSORBOARD, Scalars
from segment.train.task import SegmenterTask, best_row

CONFIG = TrainConfig(steps=8, validate_every=2, warmup_steps=2, batch=2, precision="fp32")
HEAD = Head(2, distance=True)


pytestmark = pytest.mark.usefixtures("one_thread")


def small_network() -> nn.Module:
    """Buffers (batch norm) and random numbers in the forward pass (dropout), so that both must be restored."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(6, HEAD.channels, 1)
    )


def draw(step: int) -> Batch:
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    return Batch(images, (images[..., 0] > 127).astype(np.uint8), images[..., 1])


def validate(network: nn.Module, step: int) -> dict[str, float]:
    """A figure that depends on every weight, and an undefined one."""
    with torch.no_grad():
        total = sum(float(parameter.double().abs().sum()) for parameter in network.parameters())
    return {"score": total % 1, "mean_iou": step / 100, "wiou": 0.0, "dice": float("nan")}


def job(
    out: Path,
    config: TrainConfig = CONFIG,
    network: nn.Module | None = None,
    validate: Callable[[nn.Module, int], dict[str, float]] = validate,
    document: str = "this run",
    **changes: Any,
) -> Callable[[], FitResult]:
    """A training that is ready to start."""
    out.mkdir(exist_ok=True)
    network = network or small_network()
    task = SegmenterTask(network, HEAD, config, draw, validate, out, {"mix": "real"}, "cpu")
    return partial(fit, task, TrainingFolder(out, {"run": document}, {}), **changes)


def interrupt_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def learnt(out: Path) -> dict[str, bytes]:
    """Everything a run leaves that must not depend on interruptions, times left out."""
    state = read_checkpoint(out / LAST, STATE_KIND)
    history = [
        {k: v for k, v in row.items() if k not in ("steps_per_s", "wait_share")} for row in state.card["history"]
    ]
    columns = pq.read_table(out / HISTORY).drop_columns(["steps_per_s", "wait_share"]).to_pylist()
    assert columns == history
    found = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    return {**found, "history": json.dumps(history).encode(), "best": (out / BEST).read_bytes()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, 7])
def test_resumed_training_equals_unbroken_training_bit_for_bit(tmp_path: Path, stop: int, precision: str) -> None:
    config = CONFIG.model_copy(update={"precision": precision})
    job(tmp_path / "whole", config=config)()
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "broken", config=config, on_step=interrupt_at(stop))()
    again = job(tmp_path / "broken", config=config, resume=True)
    if stop > 2:  # whatever the process did in between; before the first checkpoint the run simply starts anew
        torch.manual_seed(123)
    assert again().start == (stop - 1) // 2 * 2
    whole, broken = learnt(tmp_path / "whole"), learnt(tmp_path / "broken")
    assert [name for name in whole if whole[name] != broken[name]] == []


def test_interrupting_twice_equals_unbroken_training(tmp_path: Path) -> None:
    job(tmp_path / "whole")()
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "broken", on_step=interrupt_at(3))()
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "broken", resume=True, on_step=interrupt_at(7))()
    job(tmp_path / "broken", resume=True)()
    assert learnt(tmp_path / "whole") == learnt(tmp_path / "broken")


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    job(tmp_path / "run")()
    before = learnt(tmp_path / "run")
    result = job(tmp_path / "run", resume=True)()
    assert (result.start, result.step) == (8, 8)
    assert learnt(tmp_path / "run") == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    job(tmp_path / "run")()
    with pytest.raises(UserError, match="got another's"):
        job(tmp_path / "run", resume=True, document="another")()


def test_the_best_weights_are_those_of_the_best_validation(tmp_path: Path) -> None:
    scores = iter([0.2, 0.7, 0.7, 0.1])
    seen: list[dict[str, torch.Tensor]] = []

    def scored(network: nn.Module, step: int) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"score": next(scores), "mean_iou": step / 100, "wiou": 0.0, "dice": 0.0}

    result = job(tmp_path / "run", validate=scored)()
    assert (best_row(result.history)["step"], best_row(result.history)["val_score"]) == (4, 0.7)
    best = read_checkpoint(tmp_path / "run" / BEST, WEIGHTS_KIND)
    assert best.card["step"] == 4
    assert best.card["validation"]["val_score"] == 0.7
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in best.tensors.items())


@pytest.mark.parametrize(("patience", "last"), [(1, 6), (2, 8), (None, 12)])
def test_training_stops_early_when_validation_no_longer_rises(tmp_path: Path, patience: int | None, last: int) -> None:
    config = CONFIG.model_copy(update={"steps": 12, "patience": patience})
    scores = iter([0.2, 0.7, 0.7, 0.1, 0.5, 0.9])
    result = job(
        tmp_path / "run", config=config, validate=lambda n, step: {**validate(n, step), "score": next(scores)}
    )()
    assert result.step == last
    assert best_row(result.history)["step"] == (12 if patience is None else 4)
    before = learnt(tmp_path / "run")
    assert job(tmp_path / "run", config=config, resume=True)().step == last
    assert learnt(tmp_path / "run") == before


def test_validated_and_kept_weights_are_the_running_mean(tmp_path: Path) -> None:
    network, seen = small_network(), []

    def on_step(step: int) -> None:
        seen.append({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})

    job(tmp_path / "run", network=network, on_step=on_step, config=CONFIG.model_copy(update={"steps": 2}))()
    kept = read_checkpoint(tmp_path / "run" / BEST, WEIGHTS_KIND).tensors
    rate = (1 + 1) / (10 + 1)  # after the first step the mean is the weights; then r = (1 + n) / (10 + n) with n = 1
    for name in ("0.weight", "1.running_mean"):
        assert torch.allclose(kept[name], rate * seen[0][name] + (1 - rate) * seen[1][name], atol=1e-7)
    assert kept["1.num_batches_tracked"] == 2


def test_the_mean_follows_at_the_decay_once_it_has_seen_enough() -> None:
    network = nn.Linear(1, 1, bias=False)
    mean = averaged(network, 0.5)
    expected = None
    for n, value in enumerate([1.0, 3.0, -2.0, 5.0, 0.5]):
        with torch.no_grad():
            network.weight.fill_(value)
        mean.update_parameters(network)
        rate = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else rate * expected + (1 - rate) * value
    assert mean.module.weight.item() == pytest.approx(expected)


def test_events_are_those_of_the_history_after_a_run_went_on(tmp_path: Path) -> None:
    def events(out: Path) -> bytes:
        return b"".join(path.read_bytes() for path in sorted((out / TENSORBOARD).iterdir()))

    with pytest.raises(KeyboardInterrupt):
        first = Scalars(tmp_path)
        job(tmp_path, on_row=first.add, on_step=interrupt_at(5))()
    first.close()
    second = Scalars(tmp_path)
    job(tmp_path, on_row=second.add, resume=True)()
    second.close()
    assert len(list((tmp_path / TENSORBOARD).iterdir())) == 1
    written = events(tmp_path)
    assert written.count(b"validation/mean_iou") == written.count(b"training/distance_loss") == 4
    assert b"validation/dice" not in written  # undefined in this run


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    network = small_network()

    def poison(step: int) -> None:
        if step == 5:
            with torch.no_grad():
                network[0].weight[0, 0, 0, 0] = float("nan")  # type: ignore[index, union-attr, operator]

    with pytest.raises(FaultError, match=r"at step 6; the last good checkpoint is .*last\.safetensors"):
        job(tmp_path / "run", network=network, on_step=poison)()
    state = read_checkpoint(tmp_path / "run" / LAST, STATE_KIND)
    assert state.card["step"] == 4
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in state.tensors.values())


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(CONFIG.model_copy(update={"steps": 100, "warmup_steps": 10}), step) for step in range(101)]
    assert rates[9] == rates[10] == CONFIG.lr
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0)


def test_history_is_the_same_file_whatever_the_order_of_its_columns(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 0.5, "val_dice": None} for step in (2, 4)]
    for name, history in (("a", rows), ("b", [dict(sorted(row.items())) for row in rows])):
        (tmp_path / name).mkdir()
        write_history(tmp_path / name, history)
    assert (tmp_path / "a" / HISTORY).read_bytes() == (tmp_path / "b" / HISTORY).read_bytes()
    assert [str(field.type) for field in pq.read_schema(tmp_path / "a" / HISTORY)] == ["int64", "double", "double"]


@pytest.mark.usefixtures("drawn_plots")
def test_history_is_drawn_even_where_scores_are_undefined(tmp_path: Path) -> None:
    result = job(tmp_path / "run")()
    assert [row["step"] for row in result.history] == [2, 4, 6, 8]
    assert result.history[0]["val_dice"] is None
    assert plot_history(tmp_path / "run", result.history).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", sorted(path.name for path in (configs_dir() / "segment").glob("*.yaml")))
def test_every_shipped_config_is_valid_and_holds_only_differences(name: str) -> None:
    values = read_yaml(configs_dir() / "segment" / name)
    plain = parse(TrainConfig, values, name).model_dump(mode="json")
    default = TrainConfig().model_dump(mode="json")
    assert values
    assert all(plain[key] != default[key] for key in values if key != "network")


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from factory.core.checkpoints import read_checkpoint
from segment.network.weights import write_weights

path = Path(sys.argv[1]) / "best.safetensors"
tensors = lambda value: {"a": torch.full((1000,), float(value)), "b": torch.full((7, 3), value)}
write_weights(path, tensors(0), {"value": 0})

def killing(calls, real):
    def call(*args, **options):
        left[0] -= 1
        if left[0] < 0 and calls == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

killed, saved = 0, 0
for when in ("before", "after"):
    for operations in range(12):
        child = os.fork()
        if child == 0:
            left = [operations]
            os.fsync, os.replace, os.open = (killing(when, f) for f in (os.fsync, os.replace, os.open))
            write = type(path).replace
            type(path).replace = killing(when, write)
            write_weights(path, tensors(saved + 1), {"value": saved + 1})
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
        found = read_checkpoint(path, "segment-weights")
        value = found.card["value"]
        assert value in (saved, saved + 1), (value, saved)
        assert all(bool((t == value).all()) for t in found.tensors.values())
        assert os.WIFSIGNALED(status) or value == saved + 1
        saved = value
print(killed)
"""


def test_weights_load_whatever_operation_of_a_save_was_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


def weights_file(folder: Path) -> Path:
    path = folder / "w.safetensors"
    write_weights(path, {"a": torch.arange(40.0).reshape(8, 5), "b": torch.tensor(3)}, {"note": "x", "number": 0.1})
    return path


def test_every_flipped_bit_of_a_weights_file_is_noticed(tmp_path: Path) -> None:
    path = weights_file(tmp_path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    silent = 0
    for bit in rng.choice(len(whole) * 8, 300, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read_checkpoint(path, WEIGHTS_KIND)
            silent += 1
        except UserError:
            pass
    assert silent == 0


@pytest.mark.parametrize("size", [0, 5, 9, 100, -1])
def test_a_truncated_weights_file_is_refused(tmp_path: Path, size: int) -> None:
    path = weights_file(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="expected"):
        read_checkpoint(path, WEIGHTS_KIND)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_a_zip_and_an_object_array_execute_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "best.safetensors"
    path.write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(UserError, match="got a pickle"):
        read_checkpoint(path, WEIGHTS_KIND)
    torch.save({"weights": Malicious(mark)}, path)
    with pytest.raises(UserError, match="got a zip archive"):
        read_tensors(path)
    with path.open("wb") as stream:
        np.save(stream, np.array([Malicious(mark)], object), allow_pickle=True)
    with pytest.raises(UserError, match="expected safetensors"):
        read_tensors(path)
    body = pickle.dumps(Malicious(mark))
    path.write_bytes(len(body).to_bytes(8, "little") + b"{" + body)
    with pytest.raises(UserError, match="expected a whole safetensors file"):
        read_tensors(path)
    assert not mark.exists()


def test_safetensors_of_other_origin_and_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="got a file without"):
        read_checkpoint(path, WEIGHTS_KIND)
    write_checkpoint(path, {"a": torch.zeros(2)}, {"kind": STATE_KIND})
    with pytest.raises(UserError, match=r"got segment-state"):
        read_checkpoint(path, WEIGHTS_KIND)
    with pytest.raises(UserError, match="No such file"):
        read_checkpoint(tmp_path / "none", WEIGHTS_KIND)


def test_weights_are_plain_safetensors_with_a_card_beside_them(tmp_path: Path) -> None:
    path = weights_file(tmp_path)
    assert set(load_file(path)) == {"a", "b"}
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["note"] == "x"
    assert card["sha256"] == read_card(path).sha256
