"""`factory train hdgan`: annotated images in, a whole folder out; resumed is unbroken; wrong input is one line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factory.core.checkpoints import BEST, LAST, read_checkpoint
from factory.joint.features import FeatureStore
from factory.joint.generators import DrawConfig
from factory.joint.hdgan import tap_shapes
from factory.joint.held_out import class_figures, confusion
from factory.joint.labeller import STATE_KIND, read_labeller, steps_of
from factory.train import labeller as labeller_run
from factory.train.labeller import FEATURES, HELD_OUT, SHEET, LabellerRunConfig
from manifests import get_scheme
from manifests.errors import UserError
from tests.annotated_images import NETWORK, SCHEME, write_annotated, write_generator
from tests.conftest import Outcome, assert_refused

pytestmark = pytest.mark.usefixtures("one_thread", "plain_plots")

QUICK: dict[str, Any] = {
    "members": 2, "batch": 512, "steps": 30, "optimiser": "adam", "learning_rate": 0.01, "threads": 1, "state_every": 7,
}  # fmt: skip
SETS = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def plain_plots() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labeller_run, "plot_history", lambda out, history, panels: out)
        yield


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_generator(tmp_path_factory.mktemp("generator") / "run")


@pytest.fixture(scope="module")
def annotated(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_annotated(tmp_path_factory.mktemp("data") / "annotated", generator, empty=0).root


def run_of(generator: Path, annotated: Path, out: Path, **changes: Any) -> labeller_run.LabellerRun:
    config = LabellerRunConfig.model_validate({**QUICK, **changes})
    return labeller_run.prepare(str(generator), [annotated], config, out)


def test_the_command_leaves_a_whole_folder_and_says_how_good_it_is(
    generator: Path, annotated: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    words = ("--generator", generator, "--data", annotated, "--out", tmp_path / "run", "--device", "cpu", *SETS)
    dry = cli("factory", "train", "hdgan", *words, "--dry-run")
    assert "4 annotated images of 32x64 to learn from and 2 held out" in dry.out
    assert re.search(r"2 classifiers of 30 steps of 512 each, for [78],\d{3} labelled\s+pixels", dry.out)
    assert not (tmp_path / "run").exists()
    done = cli("factory", "train", "hdgan", *words)
    assert done.code == 0, done.err
    assert "held out: 2 images, mean Dice" in done.out
    assert all(f"  {name}: accuracy" in done.out for name in SCHEME.names)
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found == {
        "run.yaml", BEST, "best.json", LAST, "history.parquet", HELD_OUT, SHEET, "generator.safetensors",
    }  # fmt: skip
    assert (tmp_path / "run/generator.safetensors").read_bytes() == (generator / BEST).read_bytes()
    labeller = read_labeller(tmp_path / "run" / BEST)
    figures = json.loads((tmp_path / "run" / HELD_OUT).read_text())
    assert labeller.card["held_out"] == figures
    assert labeller.card["drawing"]["psi"] == 0.9
    assert labeller.card["sources"] == ["slides/s1"]
    assert figures["mean_dice"] > 0.4  # by chance 0.2; a grey level lies in the features, but not alone
    assert figures["calibration"]["pixels"] > 0
    (tmp_path / "run" / FEATURES).mkdir()  # what a kill leaves between the last two steps
    again = cli("factory", "train", "hdgan", *words, "--resume")
    assert (again.code, "was finished before" in again.out) == (0, True)
    assert not (tmp_path / "run" / FEATURES).exists()
    assert_refused(cli("factory", "train", "hdgan", *words), "expected an empty folder, got a run")


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(generator: Path, annotated: Path, tmp_path: Path) -> None:
    def stop_at(place: int) -> Callable[[int, int], None]:
        def on_step(done: int, total: int) -> None:
            if done == place:
                raise KeyboardInterrupt

        return on_step

    labeller_run.train(run_of(generator, annotated, tmp_path / "whole"))
    broken = run_of(generator, annotated, tmp_path / "broken")
    for place in (10, 45):  # within the first member, and within the second
        with pytest.raises(KeyboardInterrupt):
            labeller_run.train(broken, resume=True, on_step=stop_at(place))
    state = read_checkpoint(tmp_path / "broken" / LAST, STATE_KIND)
    begun = sum(name.startswith("extra.losses") for name in state.tensors)
    assert (begun, len(state.tensors["extra.losses1"])) == (2, 14)
    labeller_run.train(broken, resume=True)
    assert (tmp_path / "broken" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    assert (tmp_path / "broken" / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()


def test_blocks_are_counted_from_the_last_and_all_are_read_by_default(
    generator: Path, annotated: Path, tmp_path: Path
) -> None:
    everything, two = (run_of(generator, annotated, tmp_path / "run", blocks=blocks).taps for blocks in (None, 2))
    assert list(everything)[:2] == ["b4x8.conv1", "b8x16.conv0"]
    before = torch.get_rng_state()
    assert tap_shapes({**NETWORK, "size": [4096, 4096], "channel_base": 32768, "channel_max": 512})["b4096.conv1"] == (
        8, 4096, 4096,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn to know that
    assert list(two) == ["b16x32.conv0", "b16x32.conv1", "b32x64.conv0", "b32x64.conv1"]
    assert two["b32x64.conv1"] == (8, 32, 64)
    with pytest.raises(UserError, match="blocks: expected at most 4, as the generator has, got 5"):
        run_of(generator, annotated, tmp_path / "run", blocks=5)


def test_the_steps_are_said_and_few_are_warned_of(generator: Path, annotated: Path, tmp_path: Path) -> None:
    run = run_of(generator, annotated, tmp_path / "run", steps=None, epochs=3, batch=64)
    assert run.steps == 3 * -(-run.labelled_px // 64)
    assert run.notes == ()
    few = run_of(generator, annotated, tmp_path / "run", steps=labeller_run.FEW_STEPS - 1)
    assert "--config hdgan_light" in few.notes[0]
    enough = run_of(generator, annotated, tmp_path / "run", steps=labeller_run.FEW_STEPS)
    assert "few" not in " ".join(enough.notes)


@pytest.mark.parametrize(("pixels", "steps"), [(100, 400), (65_536, 400), (4_096 * 999 + 1, 1000), (10**9, 2000)])
def test_the_light_preset_takes_its_steps_by_the_labelled_pixels(pixels: int, steps: int) -> None:
    light = labeller_run.resolve_labeller("hdgan_light", [], {}, "cpu")
    assert steps_of(pixels, light) == steps
    assert steps_of(pixels, light.model_copy(update={"steps": 7})) == 7
    with pytest.raises(UserError, match="expected the fewest steps first, then the most"):
        labeller_run.resolve_labeller("hdgan_light", ["steps_within=[9, 3]"], {}, "cpu")


def test_figures_by_class_are_those_of_a_table_by_hand() -> None:
    scheme = get_scheme("ihc")
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    labels = np.array([[0, 0, 1, 1], [0, 255, 2, 0]], np.uint8)
    counts = confusion(truth, labels, 3)
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    background, negative, positive = class_figures(counts, scheme)
    assert (background.pixels, background.accuracy, background.dice) == (3, 2 / 3, 4 / 6)
    assert (negative.accuracy, negative.dice) == (1 / 2, 2 / 4)
    assert (positive.pixels, positive.accuracy, positive.dice) == (0, None, None)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "latent missing": ({"latent": None}, r"t-0: expected a seed and a latent, got none"),
    "latent too short": ({"latent": [0.1]}, r"t-0: expected a latent of 6 numbers, got 1"),
    "another generator": (
        {"image_weights_sha256": "f" * 64},
        r"expected images of the generator .*, got those of ffff",
    ),
    "unknown class": ({"label_scheme": "tissue"}, r"t-0: expected classes 0 to 1 of tissue, or 255 .*, got 2"),
    "no image to learn from": ({"split": "test"}, r"expected annotated images of split train, got none"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_images_that_are_of_no_use_are_refused_before_anything_is_written(
    what: str, generator: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    columns, said = REFUSED[what]
    data = write_annotated(tmp_path / "annotated", generator, 3, **columns).root
    outcome = cli("factory", "train", "hdgan", "--generator", generator, "--data", data, "--out", "run", *SETS)
    assert_refused(outcome, said)
    assert not (tmp_path / "run").exists()


def test_options_that_make_no_sense_are_refused(
    generator: Path, annotated: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    hdgan = ("factory", "train", "hdgan", "--generator", generator, "--data", annotated, "--out", tmp_path / "run")
    assert_refused(cli(*hdgan, "--size", "32x32"), "--size: expected none for hdgan")
    assert_refused(cli(*hdgan, "--set", "member=3"), "Did you mean members")
    assert_refused(cli(*hdgan, "--set", "network.widths=[0, 4]"), "network.widths.0: expected greater than 0, got 0")
    assert_refused(cli("factory", "train", "hdgan", "--data", annotated), "--generator: expected the generator's run")
    assert_refused(cli("factory", "train", "depas", "--generator", generator), "--generator: expected none for depas")
    assert_refused(cli(*hdgan, "--generator", tmp_path / "none"), "none.*expected a safetensors file")
    assert not (tmp_path / "run").exists()


def test_images_of_another_size_or_way_of_drawing_are_refused(
    generator: Path, annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_generator(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="expected images of the generator"):
        run_of(other, annotated, tmp_path / "run")
    elsewhere = write_annotated(tmp_path / "elsewhere", generator, 3, drawing=DrawConfig(psi=0.5)).root
    with pytest.raises(UserError, match="expected images of one truncation and kind of noise"):
        labeller_run.prepare(str(generator), [annotated, elsewhere], LabellerRunConfig(), tmp_path / "run")
    monkeypatch.setattr("tests.annotated_images.SIZE", (16, 32))
    monkeypatch.setattr("tests.annotated_images.NETWORK", {**write_annotated.__globals__["NETWORK"], "size": [16, 32]})
    small = write_generator(tmp_path / "small")
    with pytest.raises(UserError, match=r"expected annotations of 16x32, the size that the generator draws, got 32x64"):
        run_of(small, annotated, tmp_path / "run")


def test_an_image_that_its_latent_does_not_give_is_refused(generator: Path, tmp_path: Path) -> None:
    latents = write_annotated(tmp_path / "right", generator, 3).table["latent"].to_pylist()
    data = write_annotated(tmp_path / "swapped", generator, 3, latent=latents[1]).root
    with pytest.raises(UserError, match=r"t-0: expected the image that its latent and the generator give, got another"):
        labeller_run.train(run_of(generator, data, tmp_path / "run"))


def test_an_image_that_is_there_twice_is_refused(generator: Path, annotated: Path, tmp_path: Path) -> None:
    """Learnt from in one data set and held out in the other, it would make the figures better than they are."""
    elsewhere = write_annotated(tmp_path / "elsewhere", generator, split="test").root
    for data in ([annotated, annotated], [annotated, elsewhere]):
        with pytest.raises(UserError, match=r"t-\d: expected an image once, got it in .*annotated: t-\d too"):
            labeller_run.prepare(str(generator), data, LabellerRunConfig(), tmp_path / "run")


def test_features_that_are_cut_short_or_of_other_weights_are_refused_on_resuming(
    generator: Path, annotated: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    run = run_of(generator, annotated, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        labeller_run.train(run, on_step=stop)
    features = run.out / FEATURES
    whole = (features / "t-1.f16").read_bytes()
    (features / "t-1.f16").write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"t-1.f16: expected .* bytes, got .*: the file is cut short"):
        labeller_run.check_target(run, resume=True, overwrite=False)
    damaged = bytearray(whole)
    damaged[7] ^= 1
    (features / "t-1.f16").write_bytes(damaged)
    with pytest.raises(UserError, match=r"t-1.f16: expected sha256 .*: the file is damaged"):
        labeller_run.train(run, resume=True)
    record = json.loads((features / "t-1.json").read_text())
    (features / "t-1.f16").write_bytes(whole)
    (features / "t-1.json").write_text(json.dumps({**record, "weights_sha256": "a" * 64}))
    with pytest.raises(UserError, match="expected features of the generator"):
        labeller_run.check_target(run, resume=True, overwrite=False)
    shutil.rmtree(features)
    assert FeatureStore(features, run.card.sha256).missing(["t-1"]) == ["t-1"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    generator: Path, annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(generator, annotated, tmp_path / "run")
    free = shutil.disk_usage(tmp_path)._replace(free=run.need_bytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match="GB free for the features of 6 images"):
        labeller_run.train(run)
    assert not run.out.exists()
