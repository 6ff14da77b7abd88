"""What a training run does around its steps: subsets of patients, how nuclei are read, pictures."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from manifests import Dataset, get_scheme
from segment import experiment
from segment.checkpoints import BEST, WEIGHTS_KIND, read_checkpoint
from segment.experiment import training_part
from segment.head import Head, head_for
from segment.instances import InstanceConfig
from segment.panels import draw_panel
from segment.precision import resolve_precision
from segment.sources import Source
from segment.targets import distance_target
from segment.training import TrainConfig
from segment.validation import CANDIDATES, Shown, Validation
from segment.weights import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


class Oracle(nn.Module):
    """Gives back the truth that the image's channels hold: class in red, distance in green."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from segment.networks import MEAN, STD

        grey = x * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
        nucleus, distance = grey[:, 0], grey[:, 1].clamp(0.001, 0.999)
        return torch.stack([2 - 4 * nucleus, 4 * nucleus - 2, torch.logit(distance)], dim=1)


def truthful(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the store give images that show the truth."""
    read = dataset.store.read

    def shown(index: int, name: str) -> np.ndarray:
        if name != "image":
            return read(index, name)
        instance = read(index, "instance")
        distance = distance_target(instance, instance > 0)
        return np.stack([(instance > 0).astype(np.uint8) * 255, distance, distance], axis=-1)

    monkeypatch.setattr(type(dataset.store), "read", lambda self, index, name: shown(index, name))


def test_a_share_of_the_patients_is_a_subset_of_a_larger_share(dataset_factory: Callable[..., Dataset]) -> None:
    source = Source("real", dataset_factory("real", n=60, groups=30))
    parts = {share: set(training_part(source, share, 7).table["group_id"].to_pylist()) for share in (0.01, 0.3, 0.7, 1)}
    assert parts[0.01] < parts[0.3] < parts[0.7] < parts[1] == source.groups("train")
    assert [len(part) for part in parts.values()] == [1, 3, 7, 10]
    tiles = training_part(source, 0.3, 7).table["group_id"].to_pylist()
    whole = source.split("train").table["group_id"].to_pylist()
    assert all(tiles.count(group) == whole.count(group) for group in parts[0.3])
    others = {
        tuple(sorted(training_part(source, 0.3, seed).table["group_id"].unique().to_pylist())) for seed in range(8)
    }
    assert len(others) > 1


def test_synthetic_tiles_are_not_cut_down_with_the_real_ones(dataset_factory: Callable[..., Dataset]) -> None:
    source = Source("synth", dataset_factory("synth", source="synthetic", n=9))
    assert len(training_part(source, 0.1, 0)) == len(source.split("train"))


def test_validation_of_a_network_that_knows_the_truth_is_perfect(
    dataset_factory: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_factory("real", scheme="nuclei", n=6)
    truthful(dataset, monkeypatch)
    scheme = get_scheme("nuclei")
    validation = Validation(dataset, scheme, head_for(scheme), 4, InstanceConfig(min_area_um2=0, smooth_um=0), "cpu")
    figures, shown = validation.score(Oracle(), panels=2)
    assert len(shown) == 2
    assert figures["mean_iou"] == figures["dice"] == 1
    assert figures["score"] == pytest.approx((figures["aji"] + figures["pq"]) / 2)
    assert figures["pq"] > 0.8  # discs that overlap are crescents, some too small to stand out


def test_instance_parameters_are_the_best_of_the_candidates_field_by_field(
    dataset_factory: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_factory("real", scheme="nuclei", n=6)
    truthful(dataset, monkeypatch)
    scheme = get_scheme("nuclei")
    bad = InstanceConfig(min_area_um2=15, smooth_um=1.0, h=0.3)  # discs of 20 um2, and crescents of less
    validation = Validation(dataset, scheme, head_for(scheme), 6, bad, "cpu")
    chosen, score = validation.choose_instances(Oracle())
    assert chosen.h in CANDIDATES["h"]
    before, _ = validation.score(Oracle())
    after, _ = Validation(dataset, scheme, head_for(scheme), 6, chosen, "cpu").score(Oracle())
    assert after["score"] == pytest.approx(score)
    assert score > before["score"]


@pytest.mark.parametrize("name", ["nuclei", "pdl1"])
def test_a_panel_shows_image_truth_and_prediction_side_by_side(name: str) -> None:
    scheme, size = get_scheme(name), (20, 30)
    image = np.full((*size, 3), 200, np.uint8)
    truth = np.zeros(size, np.uint8)
    truth[5:15, 5:15] = 1
    unlabelled = truth.copy()
    unlabelled[:, 25:] = 255
    instance = truth.astype(np.int32)
    panel = draw_panel([Shown(image, unlabelled, instance, truth, instance)] * 2, scheme)
    assert panel.shape == (2 * 20 + 6, 3 * 30 + 2 * 6, 3)
    assert (panel[:20, :30] == 200).all()
    middle, right = panel[:20, 36:66], panel[:20, 72:]
    assert (middle[:, 25:] == 128).all()
    assert not (right[:, 25:] == 128).all()
    assert (middle[5, 5] != middle[0, 0]).any()


def test_weights_carry_how_nuclei_are_read_and_keep_it_when_the_run_goes_on(
    dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    real = dataset_factory("real", n=9)
    config = TrainConfig(mix="real", steps=2, batch=2, validate_every=1, warmup_steps=0, threads=1, crop=(32, 32))
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    experiment.run(job)
    weights = load_weights(tmp_path / "run", "cpu")
    assert weights.head == Head(2, distance=True)
    assert weights.card["instances_chosen"]["tiles"] == 3
    assert weights.card["instances"] == weights.instances.model_dump()
    kept = (tmp_path / "run" / BEST).read_bytes()
    experiment.run(job, resume=True)
    assert (tmp_path / "run" / BEST).read_bytes() == kept


def test_a_run_killed_before_the_choice_makes_it_when_it_goes_on(
    dataset_factory: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dataset_factory("real", n=9)
    config = TrainConfig(mix="real", steps=2, batch=2, validate_every=1, warmup_steps=0, threads=1, crop=(32, 32))
    experiment.run(experiment.prepare(config, real.root, tmp_path, tmp_path / "whole"))
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "killed")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(experiment, "_settle_instances", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        experiment.run(job)
    assert read_checkpoint(tmp_path / "killed" / BEST, WEIGHTS_KIND).card["instances_chosen"] is None
    experiment.run(job, resume=True)
    assert (tmp_path / "killed" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    assert cv2.imread(str(tmp_path / "killed/panels/step-000002.png")) is not None


def test_precision_is_what_was_asked_and_auto_is_decided_once() -> None:
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "cpu") in ("fp32", "bf16")
    assert resolve_precision("auto", "mps") == "fp32"
