"""The command `segment`: a small run from data sets to a report, resuming, and one line for every mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from factory.core.checkpoints import BEST, LAST, read_checkpoint
from factory.core.folder import lock_folder
from factory.core.runs import RunSpec, open_run, write_shard
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.store import Layout
from segment.cli import app
from segment.network.networks import NetworkConfig
from segment.network.weights import STATE_KIND, WEIGHTS_KIND, load_weights, write_weights
from segment.train import run as experiment
from segment.train.config import TrainConfig
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.small_network import Small

TINY = ["--steps", "4", "--batch", "2", "--set", "validate_every=2", "--set", "threads=1", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("one_thread", "small_network")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `factory ingest` and `factory make` leave it; the real tiles' sides are no multiples of 32."""
    folder = tmp_path_factory.mktemp("home")
    write_dataset(folder / "data/real", scheme="ihc", size=(70, 100))
    write_dataset(folder / "data/synth", scheme="nuclei", source="synthetic", n=9)
    return folder


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def segment(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if result.exception and not isinstance(result.exception, UserError | SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    """A run on the real tiles alone: scheme ihc, which knows instances and TPS."""
    run = home / "run"
    result = segment("train", "--mix", "real", "--real", str(home / "data/real"), "--out", str(run), *TINY)
    assert result.exit_code == 0, result.output
    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("real_network")
def test_train_and_evaluate_from_the_default_folders_in_the_common_scheme(at_home: Path) -> None:
    result = segment("train", "--mix", "real+synth", *TINY, "--set", "network.decoder=[8,8,8,8,8]")
    assert result.exit_code == 0, result.output
    assert "scheme nuclei: background, nucleus" in result.output
    assert "of the tiles drawn are synthetic (by pixels)" in result.output
    assert "crops of 64x96" in result.output
    assert "step 4: loss" in result.output
    assert "waiting for data" in result.output
    run = at_home / "runs/segment/unetplusplus-real+synth"
    assert {path.name for path in run.iterdir()} == {
        BEST, "best.json", LAST, "history.parquet", "history.png", "run.yaml", "panels", "tensorboard",
    }  # fmt: skip
    assert [path.name for path in sorted((run / "panels").iterdir())] == ["step-000002.png", "step-000004.png"]
    assert pq.read_table(run / "history.parquet")["step"].to_pylist() == [2, 4]
    card = json.loads((run / "best.json").read_text())
    assert card["scheme"]["name"] == "nuclei"
    assert card["groups"] == ["real-slide-0", "real-slide-1"]

    scored = segment("evaluate", "--weights", str(run), "--device", "cpu")
    assert scored.exit_code == 0, scored.output
    document = json.loads((run / "evaluation-test.json").read_text())
    assert set(document["sources"]) == {"real", "synth"}
    assert document["sources"]["real"]["tps"] is None


def test_evaluation_reports_every_figure_per_image_and_pooled(trained: Path, at_home: Path, tmp_path: Path) -> None:
    result = segment("evaluate", "--weights", str(trained / BEST), "--device", "cpu", "--out", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "report/evaluation-test.json").read_text())
    part = document["sources"]["real"]
    figures = {
        "mean_iou", "wiou", "wprecision", "wrecall", "dice", "cross_entropy", "t_objective",
        "dq", "sq", "pq", "aji", "aji_plus", "mpq", "foreground_dice", "object_dice", "f1_50", "f1_70", "f1_90",
        "boundary_f1",
    }  # fmt: skip
    assert document["unit"] == "whole image"
    assert part["images"] == len(document["images"]) == 2
    assert figures <= set(part["pooled"])
    assert figures | {"tps_error"} <= set(part["mean"])
    assert figures | {"name", "source", "tps_truth", "tps_pred"} <= set(document["images"][0])
    assert part["tps"]["basis"] == "cells"
    assert sum(map(sum, part["tps"]["confusion"])) == part["tps"]["images"] == 2
    for figure in figures - {"cross_entropy", "t_objective"}:
        assert 0 <= part["pooled"][figure] <= 1
    markdown = (tmp_path / "report/evaluation-test.md").read_text()
    assert "| mIoU |" in markdown
    assert "scored by whole image" in markdown
    assert "TPS by cells" in markdown


def test_tile_wise_scores_are_named_so(trained: Path, at_home: Path, tmp_path: Path) -> None:
    result = segment("evaluate", "--weights", str(trained), "--device", "cpu", "--out", str(tmp_path), "--tiles")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation-test-tiles.json", "evaluation-test-tiles.md"}
    assert json.loads((tmp_path / "evaluation-test-tiles.json").read_text())["unit"] == "tile"


def test_evaluation_refuses_groups_that_were_trained_on(trained: Path, home: Path, tmp_path: Path) -> None:
    leaky = str(write_leaky(tmp_path / "leaky").root)
    for folder, split, message in (
        (str(home / "data/real"), "all", "never saw the scored tiles"),
        (leaky, "all", "never saw the scored groups, got 'real-slide-0' (1 such)"),
        (leaky, "test", "never saw the scored groups, got 'real-slide-0' (1 such)"),
    ):
        result = segment(
            "evaluate", "--weights", str(trained), "--out", str(tmp_path / "report"), "--real", folder, "--split", split
        )
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    assert not (tmp_path / "report").exists()


def write_leaky(folder: Path) -> Dataset:
    """A data set whose one tile, of split test, is of a patient that the fixture's train split has."""
    source = write_dataset(folder / "a", scheme="ihc", groups=3)
    spec = RunSpec(folder / "b", {}, Layout(1, 64, 96, 1), source.info)
    sample = source[0]
    with open_run(spec) as run:
        run.done[0] = write_shard(spec, 0, [(sample.image, sample.tile, {**sample.row, "split": "test"})])
        run.finish()
    return open_dataset(folder / "b")


@pytest.mark.usefixtures("real_network")
def test_resumed_training_with_unetplusplus_equals_unbroken_training(home: Path, tmp_path: Path) -> None:
    network = NetworkConfig(decoder=(8, 8, 8, 8, 8))
    config = TrainConfig(steps=2, batch=2, validate_every=1, threads=1, mix="real", crop=(32, 32), network=network)
    real, synth = home / "data/real", home / "data/synth"

    def stop(step: int) -> None:
        if step == 2:  # which is then taken again
            raise KeyboardInterrupt

    whole, broken = (experiment.prepare(config, real, synth, tmp_path / name) for name in ("whole", "broken"))
    experiment.run(whole)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(broken, on_step=stop)
    assert experiment.run(broken, resume=True).start == 1
    assert (whole.out / BEST).read_bytes() == (broken.out / BEST).read_bytes()
    states = [read_checkpoint(job.out / LAST, STATE_KIND).tensors for job in (whole, broken)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_resume_of_a_finished_run_says_so_and_changes_nothing(trained: Path, at_home: Path) -> None:
    before = tree(trained)
    result = segment("train", "--mix", "real", "--out", str(trained), "--resume", *TINY)
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.output
    changed = {name for name, content in tree(trained).items() if before.get(name) != content}
    assert all(name == "history.png" or name.startswith("tensorboard/") for name in changed)  # drawn again


def test_a_run_folder_is_not_written_over_unasked(trained: Path, at_home: Path, tmp_path: Path) -> None:
    before = tree(trained)
    asked = ["train", "--mix", "real", "--out", str(trained)]
    for words, message in (
        (TINY, "Use --resume, --overwrite or another --out"),
        ([*TINY, "--resume", "--seed", "3"], "config.seed: 0 there, 3 asked"),
        ([*TINY, "--resume", "--overwrite"], "--resume: expected without --overwrite"),
    ):
        result = segment(*asked, *words)
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    (tmp_path / "thesis.tex").write_text("years of work")
    result = segment("train", "--mix", "real", "--out", str(tmp_path), "--overwrite", *TINY)
    assert "got 'thesis.tex' in it" in str(result.exception)
    assert tree(trained) == before


def test_a_second_training_in_the_same_folder_is_refused(trained: Path, at_home: Path) -> None:
    before = tree(trained)
    with lock_folder(trained):
        result = segment("train", "--mix", "real", "--out", str(trained), "--overwrite", *TINY)
    assert "the only writer" in str(result.exception)
    assert tree(trained) == before


def test_overwrite_replaces_a_run_and_reaches_the_same_weights(trained: Path, at_home: Path) -> None:
    before = (trained / BEST).read_bytes()
    result = segment("train", "--mix", "real", "--out", str(trained), "--overwrite", *TINY)
    assert result.exit_code == 0, result.output
    assert (trained / BEST).read_bytes() == before


def test_validation_falls_back_to_synthetic_tiles_and_says_so(at_home: Path, tmp_path: Path) -> None:
    result = segment("train", "--mix", "synth", "--out", str(tmp_path / "run"), "--dry-run", *TINY)
    assert result.exit_code == 0, result.output
    assert "no real validation tiles" in result.output


def test_dry_run_prints_the_resolved_config_and_writes_nothing(
    at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segment.network.segnet.SegNetVgg16.build", Small.build)
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("lr: 0.5\nseed: 5\nnetwork: {name: segnet}\n")
    out = tmp_path / "run"
    words = ["--set", "seed=6", "--lr", "0.25", "--batch", "1", "--dry-run", "--out", str(out)]
    result = segment("train", "--config", str(yaml), *words)
    assert result.exit_code == 0, result.output
    for line in ("lr: 0.25", "seed: 6", "name: segnet", "encoder: vgg16_bn", "scheme: nuclei", "mix: real+synth"):
        assert line in result.output
    assert not out.exists()


@pytest.mark.usefixtures("real_network")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "real+fake"], "--mix: expected real, synth, real+synth, real+synth:SHARE of synthetic tiles"),
        (
            ["--net", "unetplus"],
            "--net: expected one of segnet, unet, unetplusplus, got 'unetplus'. Did you mean unetplusplus?",
        ),
        (["--encoder", "resnet43"], "--encoder: expected an encoder of unetplusplus, got 'resnet43'. Did you mean"),
        (["--set", "stepz=3"], "segment train: stepz: expected a known key, got 'stepz'. Did you mean steps?"),
        (["--set", "augment.flip=3"], "augment.flip: expected a known key"),
        (["--set", "stepz"], "--set: expected KEY=VALUE"),
        (["--steps", "0"], "steps: expected greater than or equal to 1, got 0"),
        (["--crop", "64x"], "--crop: expected HEIGHTxWIDTH in pixels or one side of a square, got '64x'"),
        (["--crop", "50x64"], "crop: expected multiples of 32 such as 32x64 or 64x64"),
        (["--crop", "128x64"], "--crop: expected at most 64x96, the smallest tile, got 128x64. Use 64x96 or less."),
        (["--batch", "1", "--crop", "32x32"], "--batch: expected 2 or more"),
        (["--scheme", "ihc"], "label scheme nuclei: expected a projection onto one of nuclei, got ihc"),
        (["--scheme", "nuclie"], "Did you mean nuclei?"),
        (
            ["--real", "nowhere"],
            "nowhere: expected a data set of real tiles, got no such folder. Make one with factory ing",
        ),
        (["--synth", "data/real"], "data/real: expected synthetic tiles, got real ones"),
        (
            ["--config", "nothing.yaml"],
            "expected a YAML file or a shipped name (light, pdl1, quick, sharpgan, starter), got 'nothing.yaml'",
        ),
        (
            ["--net", "segnett", "--real", "nowhere"],
            "--net: expected one of segnet, unet, unetplusplus, got 'segnett'. Did you mean segnet?",
        ),
        (["--device", "tpu"], "--device: expected a device of this machine (cpu"),
        (["--encoder-weights", "nothing.safetensors"], "nothing.safetensors: expected a safetensors file"),
    ],
)
def test_bad_requests_are_one_line_and_write_nothing(
    at_home: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "run"
    result = segment("train", "--out", str(out), *words)
    assert isinstance(result.exception, UserError), result.output
    assert result.exception.exit_code == 2
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not out.exists()


def test_sources_without_a_common_scheme_are_refused(at_home: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "pdl1", scheme="pdl1")
    result = segment("train", "--real", str(tmp_path / "pdl1"), "--out", str(tmp_path / "run"))
    assert "expected data sets with a common scheme, got nuclei, pdl1" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_tiles_without_a_validation_split_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "real", groups=1)
    result = segment("train", "--mix", "real", "--real", str(tmp_path / "real"), "--out", str(tmp_path / "run"))
    assert "expected tiles with split val, got none" in str(result.exception)


def test_bad_weights_are_one_line_and_write_nothing(trained: Path, home: Path, tmp_path: Path) -> None:
    best = read_checkpoint(trained / BEST, WEIGHTS_KIND)
    path = tmp_path / "w.safetensors"
    pdl1 = write_dataset(tmp_path / "pdl1", scheme="pdl1")

    def refused(*words: str) -> str:
        before = tree(tmp_path)
        result = segment("evaluate", "--weights", str(path), "--real", str(home / "data/real"), *words)
        assert isinstance(result.exception, UserError), result.output
        assert tree(tmp_path) == before
        return str(result.exception)

    assert "expected a safetensors file, got: No such file" in refused()
    path.write_bytes(b"\x80\x04cos\nsystem\n.")
    assert "expected safetensors, got a pickle" in refused()
    damaged = bytearray((trained / BEST).read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert "expected content that matches its sha256" in refused()
    write_weights(path, {name: tensor for name, tensor in best.tensors.items() if "encoder" in name}, best.card)
    assert "expected weights that fit their card" in refused()
    write_weights(path, best.tensors, best.card)
    assert "label scheme pdl1: expected a projection onto one of pdl1, tissue, got ihc" in refused(
        "--real", str(pdl1.root)
    )
    assert "--split: expected one of train, val, test, all, got 'tset'. Did you mean test?" in refused(
        "--split", "tset"
    )
    assert load_weights(path, "cpu").scheme.name == "ihc"


def test_command_line_answers_without_torch_and_fails_in_one_line(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    heavy = "{'torch', 'zarr', 'numba', 'cv2', 'numpy', 'pyarrow'} & set(sys.modules)"
    code = (
        f"import sys\nfrom segment.cli import app\ntry:\n app(['train', '--help'])\nexcept SystemExit:\n print({heavy})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("set()\n")
    assert "[default: 1000]" in shown.stdout

    command = [sys.executable, "-m", "segment.cli", "train", "--mixture", "real"]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: No such option: --mixture")
    assert failed.stderr.count("\n") == 1
    assert_refused(cli("segment", "train", "--mix", "real"), "data/real: expected a data set of real tiles")
    assert list(tmp_path.iterdir()) == []
