"""The experiment of Histopathology-DatasetGAN: figures by hand, its copies of data sets, and what its report says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.hdgan_copies import copy
from experiments.hdgan_report import Control, Found, write_report
from experiments.hdgan_scores import accuracy, dice, draws, interval, mean_of_classes
from factory.core.config import read_yaml
from factory.core.shipped import configs_dir
from factory.core.statistics import BootstrapConfig, crossed_bootstrap_mean
from factory.joint.held_out import class_figures, confusion
from factory.make.resolve import resolve_make
from factory.train.generator import resolve_trainer
from manifests import Tile, get_scheme, verify
from segment.compare.config import CompareConfig
from segment.data.mixing import Mix
from segment.data.sources import open_sources
from tests.conftest import write_dataset

IHC = get_scheme("ihc")


def protocol() -> dict[str, Any]:
    return dict(read_yaml(configs_dir() / "experiments/hdgan.yaml"))


def test_the_protocol_is_what_the_commands_take() -> None:
    plan = protocol()
    assert len(plan["compare"]["fractions"]) == 2
    CompareConfig.model_validate(plan["compare"])
    resolve_trainer("stylegan2", plan["generator"]["config"], [], {"size": tuple(plan["size"])}, "cpu")
    resolve_make({"scheme": plan["scheme"], "size": tuple(plan["size"]), "split": tuple(plan["split"])}, {}, None, [])
    learnt = plan["tiles"] * plan["split"][0]
    assert plan["compare"]["fractions"][0] * learnt == plan["annotated"]  # as many rendered tiles as samples
    assert plan["pairs"] == learnt
    assert plan["samples"] > plan["annotated"] * plan["labellers"]


def test_dice_and_accuracy_of_classes_are_those_of_the_labeller_s_report() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 2, (2, 40, 40)).astype(np.uint8)
    truth[:3] = 255
    counts = confusion(truth, said, 3)
    for place, figures in enumerate(class_figures(counts, IHC)):
        for got, expected in ((dice(counts)[place], figures.dice), (accuracy(counts)[place], figures.accuracy)):
            assert np.isnan(got) if expected is None else got == pytest.approx(expected)
    assert mean_of_classes(dice(counts)[None])[0] == pytest.approx(np.nanmean(dice(counts)))
    assert np.isnan(mean_of_classes(np.full((1, 3), np.nan)))[0]


def test_intervals_draw_seeds_and_tiles_as_segment_compare_does() -> None:
    """For tiles of equal size, accuracy over all pixels is the mean of the tiles' accuracies."""
    rng = np.random.default_rng(1)
    right = rng.integers(50, 100, (3, 30))
    counts = np.zeros((3, 30, 2, 2), np.int64)
    counts[..., 0, 0], counts[..., 0, 1] = right, 100 - right
    drawn = draws(counts, accuracy, 4000)
    mean, low, high = interval(drawn[:, 0])
    oracle = crossed_bootstrap_mean(right / 100, [str(tile) for tile in range(30)], BootstrapConfig(resamples=4000))
    assert mean == pytest.approx(oracle.mean)
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.003)
    # The same rows are drawn for any table of this shape, so differences are paired.
    worse = counts.copy()
    worse[..., 0, 0] -= 10
    worse[..., 0, 1] += 10
    assert interval((drawn - draws(worse, accuracy, 4000))[:, 0]) == pytest.approx((0.1, 0.1, 0.1))
    assert np.isnan(interval(drawn[:, 1])[0])  # a class that is nowhere


def test_a_copy_has_the_images_with_other_labels_and_is_made_once(tmp_path: Path) -> None:
    tiles = write_dataset(tmp_path / "rendered", scheme="ihc", n=6, source="synthetic")
    with pytest.raises(Exception, match="expected real tiles, got synthetic"):
        open_sources(Mix(("real",)), tiles.root, tiles.root)
    asked: list[str] = []

    def turned(sample: Any) -> Tile:
        asked.append(sample.row["sample_id"])
        return Tile(2 - sample.tile.semantic, np.zeros_like(sample.tile.instance), 0.5, IHC)

    def made() -> Any:
        return copy(
            tmp_path / "copy", tiles, [4, 0, 2], turned, lambda place: {"source": "real", "split": f"test{place}"[:4]},
            config={}, is_synthetic=False,
        )  # fmt: skip

    found = made()
    assert verify(tmp_path / "copy") == []
    for place, sample in zip((4, 0, 2), found, strict=True):
        of = tiles[place]
        assert np.array_equal(sample.image, of.image)
        assert np.array_equal(sample.tile.semantic, 2 - of.tile.semantic)
        assert (sample.row["sample_id"], sample.row["source"], sample.row["split"]) == (
            of.row["sample_id"], "real", "test",
        )  # fmt: skip
    assert len(open_sources(Mix(("real",)), found.root, found.root)) == 1
    asked.clear()
    made()
    assert asked == []


def _counts(right: int) -> Any:
    counts = np.zeros((2, 8, 3, 3), np.int64)
    for label in range(3):
        counts[:, :, label, label], counts[:, :, label, (label + 1) % 3] = right, 100 - right
    return counts


def test_the_report_says_which_figure_is_which(tmp_path: Path) -> None:
    plan = {**protocol(), "resamples": 100}
    held_out = tmp_path / "held_out.json"
    held_out.write_text(json.dumps({"calibration": {"error": 0.0123}}))
    dices = {"rendered": 95, "few rendered": 60, "pairs": 80, "same images": 85, "samples": 55}
    tps = np.array([0.1, 0.3, 0.5])
    control = Control(tps, tps + 0.01, np.array([0.2, np.nan, 0.4]))
    found = Found(IHC, {name: _counts(right) for name, right in dices.items()}, _counts(90), held_out, control)
    write_report(plan, found, tmp_path / "results")
    text = (tmp_path / "results/hdgan.md").read_text()
    table = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert (
        "0.950 [0.950, 0.950]"
        in table["1600 rendered tiles, exact truth: the ceiling; the annotator is its first seed"]
    )
    assert "0.800" in table["**1600 generated images, labels of the labeller: the test that counts**"]
    assert "0.600" in table["16 rendered tiles, exact truth: what as many annotations of real images teach"]
    assert "+0.250 [+0.250, +0.250]" in table["pairs - samples"]
    assert "-0.050" in table["pairs - same images"]
    assert "0.900" in table["Dice"]
    assert "| 2 | 0.100 | 0.100 |" in table["images"]
    assert "Calibration error of the first: 0.012" in text
    assert "Published (Rizvi et al.): mean Dice 0.92" in text
    document = json.loads((tmp_path / "results/hdgan.json").read_text())
    assert document["segmenters_against_exact_truth"]["pairs"]["dice"]["mean"][0] == pytest.approx(0.8)
    assert document["labellers_against_annotator"]["accuracy"]["positive cell"][0] == pytest.approx(0.9)
    assert document["protocol"] == plan
