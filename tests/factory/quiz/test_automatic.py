"""`factory quiz --automatic`: readers that answer for tiles of other groups, views of the tiles, and the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factory.core.statistics import Places, wilson_interval
from factory.quiz import automatic, readers
from factory.quiz.automatic import NETWORK, REGRESSION, VIEWS, AutomaticConfig, Tiles, rates, read_control, read_tiles
from factory.quiz.readers import Lesson, Regression, SmallNetwork, cross_answers, fold_numbers
from factory.score.features import Extractor
from factory.score.layers import open_layers
from manifests.errors import UserError
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.factory.score.test_feature_extractors import TINY, pictures, tiny_file

pytestmark = pytest.mark.usefixtures("one_thread")


class Pixels(torch.nn.Module):
    """A test double of an extractor: mean and spread of each channel."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values.mean((2, 3)), values.std((2, 3))], 1)


def extractor() -> Extractor:
    return Extractor("pixels", "", Pixels(), "none")


class Guess:
    """A test double of the small network: calls every tile synthetic."""

    def __init__(self, *arguments: object) -> None:
        del arguments

    def answer(self, lesson: Lesson, asked: Places, rng: np.random.Generator) -> np.ndarray:
        del lesson, rng
        return np.ones(len(asked))


@pytest.fixture
def guessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small network guesses, and regressions have one penalty: both take most of the time."""
    monkeypatch.setattr(automatic, "SmallNetwork", Guess)
    monkeypatch.setattr(readers, "STRENGTHS", (1e-2,))
    monkeypatch.setattr(readers, "_INNER_FOLDS", 1)


def tiles(count: int = 48, patients: int = 8, darker: int = 0, side: int = 32) -> Tiles:
    """Noise of real patients with a brightness of their own, and synthetic tiles, which may be darker."""
    rng = np.random.default_rng(5)
    is_synthetic = np.arange(count) >= count // 2
    groups = np.where(is_synthetic, patients + np.arange(count), np.arange(count) % patients)
    level = np.where(is_synthetic, rng.integers(0, patients, count), groups)[:, None, None, None] * 8 + 60
    noise = rng.integers(0, 64, (count, side, side, 3)) + level - darker * is_synthetic[:, None, None, None]
    return Tiles(noise.astype(np.uint8), is_synthetic, groups.astype(np.intp))


# ---- readers ----


def test_folds_keep_groups_whole_and_have_both_kinds() -> None:
    of = tiles(60, 7)
    numbers = fold_numbers(of.is_synthetic, of.groups, 5, np.random.default_rng(0))
    for group in np.unique(of.groups):
        assert len(set(numbers[of.groups == group])) == 1
    for fold in range(5):
        assert {False, True} == set(of.is_synthetic[numbers == fold])
    assert np.bincount(numbers[of.is_synthetic]).tolist() == [6] * 5


def test_a_regression_finds_a_signal_in_new_groups_and_none_in_noise() -> None:
    of = tiles(120, 12)
    noise = np.random.default_rng(1).normal(size=(120, 40))
    for gain, low, high in ((6.0, 0.95, 1.0), (0.0, 0.3, 0.7)):
        features = noise + gain * of.is_synthetic[:, None] * (np.arange(40) == 3)
        scores = cross_answers(Regression(features), of.is_synthetic, of.groups, 6, np.random.default_rng(0))
        assert low <= ((scores > 0) == of.is_synthetic).mean() <= high


def test_what_only_names_a_group_helps_nobody_with_another_group() -> None:
    """Readers must not learn patients by heart: one column for each group, which tells all where tiles are split."""
    of = tiles(96, 8)
    of = Tiles(of.pictures, of.is_synthetic, np.where(of.is_synthetic, 8 + np.arange(96) % 8, of.groups))
    features = np.eye(16)[of.groups]
    rng = np.random.default_rng(0)
    by_group = cross_answers(Regression(features), of.is_synthetic, of.groups, 4, rng)
    by_tile = cross_answers(Regression(features), of.is_synthetic, np.arange(96), 4, rng)
    assert ((by_group > 0) == of.is_synthetic).mean() <= 0.6
    assert ((by_tile > 0) == of.is_synthetic).mean() == 1


def test_the_small_network_learns_a_texture_that_pixel_means_do_not_show_and_repeats_itself() -> None:
    rng = np.random.default_rng(2)
    is_synthetic = np.arange(24) >= 12
    grain = rng.choice([-40, 40], (24, 40, 48, 1))
    grain[is_synthetic] = np.where(np.indices((40, 48)).sum(0) % 2, 40, -40)[..., None]
    shown = np.broadcast_to(128 + grain, (24, 40, 48, 3)).astype(np.uint8)
    reader = SmallNetwork(shown, 60, 8, "cpu")
    found = [cross_answers(reader, is_synthetic, np.arange(24), 2, np.random.default_rng(0)) for _ in range(2)]
    assert ((found[0] > 0) == is_synthetic).mean() == 1
    np.testing.assert_array_equal(*found)


# ---- figures ----


def test_intervals_draw_patients_and_are_never_narrower_than_wilsons() -> None:
    of, config = tiles(48, 8), AutomaticConfig()
    accuracy, sensitivity, specificity = rates(np.ones(48, bool), of, np.random.default_rng(0), config)
    assert (accuracy.value, accuracy.interval.high) == (1, 1)
    assert accuracy.interval.low == wilson_interval(48, 48)[0]
    assert sensitivity.interval.low == wilson_interval(24, 24)[0]
    # Wrong for half of the patients, all tiles of each: patients are what is drawn, so the interval is wide.
    right = of.is_synthetic | (of.groups % 2 == 0)
    accuracy, sensitivity, specificity = rates(right, of, np.random.default_rng(0), config)
    assert (accuracy.value, sensitivity.value, specificity.value) == (0.75, 1, 0.5)
    assert specificity.interval.low <= 0.25
    assert specificity.interval.high >= 0.75


def test_a_view_keeps_size_and_grey_takes_stain_and_exposure_away() -> None:
    image = np.random.default_rng(0).integers(0, 200, (48, 64, 3), dtype=np.uint8)
    for view in VIEWS.values():
        assert (view(image).shape, view(image).dtype) == (image.shape, np.uint8)
    brighter = (image * 0.8 + 40).astype(np.uint8)
    first, second = (VIEWS["grey, even"](each).astype(int) for each in (image, brighter))
    assert abs(first - second).max() <= 2
    np.testing.assert_array_equal(VIEWS["as they are"](image), image)
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert abs(VIEWS["JPEG 80"](flat).astype(int) - flat).max() <= 2  # channels are not swapped


@pytest.mark.usefixtures("guessing")
def test_readers_tell_darker_tiles_until_the_view_takes_the_cue_away() -> None:
    config = AutomaticConfig(folds=4, halves=3, resamples=200)
    answers = {(one.reader, one.view): one for one in read_tiles(tiles(96, 8, darker=60), config, extractor())}
    assert len(answers) == len(VIEWS) + 1
    assert answers[REGRESSION, "as they are"].accuracy.value > 0.9
    assert answers[REGRESSION, "grey, even"].accuracy.value < 0.75
    guess = answers[NETWORK, "as they are"]
    assert (guess.accuracy.value, guess.sensitivity.value, guess.specificity.value) == (0.5, 1, 0)


@pytest.mark.usefixtures("guessing")
def test_the_control_tells_real_patients_apart_and_needs_four() -> None:
    config = AutomaticConfig(folds=4, halves=4, network_halves=2)
    control = read_control(tiles(96, 8, darker=60), config, extractor())
    assert {len(draws) for (reader, _), draws in control.items() if reader == REGRESSION} == {4}
    assert {draws for (reader, _), draws in control.items() if reader == NETWORK} == {(0.5, 0.5)}
    assert read_control(tiles(96, 3), config, extractor()) == {}


def test_one_patient_is_refused() -> None:
    with pytest.raises(UserError, match="expected tiles of two patients or slides or more"):
        read_tiles(tiles(48, 1), AutomaticConfig(), extractor())


# ---- features of layers ----


def test_layers_give_mean_and_spread_of_every_stage(tmp_path: Path) -> None:
    found = open_layers(f"timm:{TINY}", tiny_file(tmp_path / "e.safetensors"))
    shown = torch.from_numpy(pictures()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        values = found.network.eval()(shown)
        stages = found.network.network.layers(shown)
    assert values.shape == (5, 2 * sum(stage.shape[1] for stage in stages))
    torch.testing.assert_close(values[:, : stages[0].shape[1]], stages[0].mean((2, 3)))
    assert open_layers("random-vgg16").network.eval()(shown[:1]).shape == (1, 2 * 1472)
    with pytest.raises(UserError, match=r"--features: expected random-vgg16, resnet50 or timm:NAME, got inception"):
        open_layers("inception")


# ---- the command ----


@pytest.mark.usefixtures("guessing")
def test_command_answers_and_writes_both_files(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    write_dataset(tmp_path / "data/real", n=20, groups=10)
    write_dataset(tmp_path / "data/synth", n=16, source="synthetic", groups=16, seed=1)
    features = ("--features", f"timm:{TINY}", "--feature-weights", tiny_file(tmp_path / "e.safetensors"))
    words = ("factory", "quiz", "--automatic", "--split", "all", *features)
    assert "nothing was written" in cli(*words, "--dry-run").out
    done = cli(*words)
    assert done.code == 0, done.err
    assert "Automatic readers" in done.out
    document = json.loads((tmp_path / "runs/automatic/automatic.json").read_text())
    assert (document["tiles"], document["patients"]) == (32, 10)
    assert len(document["answers"]) == len(VIEWS) + 1
    assert document["answers"][0]["control"]
    assert [one["name"] for one in document["made_of"]["datasets"]] == ["real", "synth"]
    text = (tmp_path / "runs/automatic/automatic.md").read_text()
    for word in ("not for diagnosis", "| as they are | layers + regression |", "32 tiles of 64x96"):
        assert word in text
    assert_refused(cli(*words), "runs/automatic: expected an empty folder, got scores in it")
    again = cli(*words, "--overwrite")
    assert again.code == 0, again.err
    assert (tmp_path / "runs/automatic/automatic.md").read_text() == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--features", "random-vgg16"], "--features: expected it with --automatic, got it without"),
        (["--automatic", "--score", "a.json"], "--automatic: expected it when a quiz is made, got it with --score"),
        (["--automatic", "--features", "inception"], "--features: expected random-vgg16, resnet50 or timm:NAME"),
        (["--automatic", "--split", "all"], r"--n: expected at least 32 tiles for --automatic, got 12\. Give more"),
        (["--automatic", "--split", "all", "--n", 40], "--real: expected at least 20 real tiles for --n 40, got 6"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, cli: Callable[..., Outcome], words: list[Any], said: str
) -> None:
    write_dataset(tmp_path / "data/real")
    write_dataset(tmp_path / "data/synth", source="synthetic", seed=1)
    assert_refused(cli("factory", "quiz", *words), said)
    assert not (tmp_path / "runs").exists()
