"""A training run around its steps: subsets of patients, how nuclei are read, pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from factory.core.checkpoints import BEST, read_checkpoint
from factory.core.precision import resolve_precision
from factory.core.runs import RunSpec, open_run, write_shard
from manifests import Dataset, get_scheme, open_dataset
from manifests.errors import UserError
from manifests.store import Layout
from segment.data.sources import Source
from segment.data.stains import estimate_stains, median_stains
from segment.data.targets import distance_target
from segment.network.head import Head, head_for
from segment.network.instances import InstanceConfig
from segment.network.networks import NetworkConfig, build
from segment.network.weights import WEIGHTS_KIND, load_weights
from segment.train import run as experiment
from segment.train.config import TrainConfig
from segment.train.panels import draw_panel
from segment.train.run import training_part
from segment.train.scalars import TENSORBOARD
from segment.train.validation import CANDIDATES, Shown, Validation

pytestmark = pytest.mark.usefixtures("one_thread", "small_network", "no_training_plots")


def small_training(**values: Any) -> TrainConfig:
    """Two steps on small crops, with a validation after each."""
    small = {"mix": "real", "steps": 2, "batch": 2, "validate_every": 1, "warmup_steps": 0, "threads": 1}
    return TrainConfig(**{**small, "crop": (32, 32), **values})


class Oracle(nn.Module):
    """Gives back the truth that the image's channels hold: class in red, distance in green."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from segment.network.networks import MEAN, STD

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
    assert all(getattr(chosen, field) in CANDIDATES[field] for field in CANDIDATES)
    smallest = [  # the last field to be chosen, so none of its other values may be better
        Validation(dataset, scheme, head_for(scheme), 6, chosen.model_copy(update={"min_area_um2": area}), "cpu")
        for area in CANDIDATES["min_area_um2"]
    ]
    assert score == pytest.approx(max(other.score(Oracle())[0]["score"] for other in smallest))
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
    config = small_training()
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    experiment.run(job)
    weights = load_weights(tmp_path / "run", "cpu")
    assert weights.head == Head(2, distance=True)
    assert weights.card["instances_chosen"]["tiles"] == 3
    assert weights.card["instances"] == weights.instances.model_dump()
    kept = (tmp_path / "run" / BEST).read_bytes()
    experiment.run(job, resume=True)
    assert (tmp_path / "run" / BEST).read_bytes() == kept


def test_a_run_keeps_the_stains_of_its_training_tiles_for_the_images_of_others(
    dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    real, further = dataset_factory("real", n=9), dataset_factory("further", n=3, seed=5)
    augment = {"macenko": {"probability": 0.5, "references": str(further.root)}}
    config = small_training(inference={"stain_reference": "training"}, augment=augment, steps=1)
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    experiment.run(job)
    weights = load_weights(tmp_path / "run", "cpu")
    own = [found for row in job.training[0] if (found := estimate_stains([row.image]))]
    assert weights.stain_reference == median_stains(own)
    assert load_weights(tmp_path / "run", "cpu", reference="none").stain_reference is None
    assert load_weights(tmp_path / "run", "cpu", reference=str(further.root)).stain_reference not in (None, own)
    glass = np.full((32, 32, 3), 240, np.uint8)
    assert weights.stains_of([glass]) is None
    kept = load_weights(tmp_path / "run", "cpu", reference="none").predict(glass)
    np.testing.assert_array_equal(weights.predict(glass).probabilities, kept.probabilities)
    other = small_training(augment={"macenko": {"probability": 0.5}}, steps=1)
    plain = experiment.prepare(other, real.root, tmp_path, tmp_path / "run")
    assert plain.folder.fingerprint != job.folder.fingerprint


def test_a_run_killed_before_the_choice_makes_it_when_it_goes_on(
    dataset_factory: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dataset_factory("real", n=9)
    config = small_training()
    experiment.run(experiment.prepare(config, real.root, tmp_path, tmp_path / "whole"))
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "killed")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(experiment, "_choose_instances", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        experiment.run(job)
    assert read_checkpoint(tmp_path / "killed" / BEST, WEIGHTS_KIND).card["instances_chosen"] is None
    experiment.run(job, resume=True)
    assert (tmp_path / "killed" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    assert cv2.imread(str(tmp_path / "killed/panels/step-000002.png")) is not None


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_precision_auto_is_decided_by_the_machine_before_the_run_and_kept(
    dataset_factory: Callable[..., Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_bf16: bool,
    expected: str,
) -> None:
    real = dataset_factory("real", n=9)
    monkeypatch.setattr("factory.core.precision._cpu_has_bf16", lambda: has_bf16)
    assert [resolve_precision(asked, "cpu") for asked in ("fp32", "bf16", "auto")] == ["fp32", "bf16", expected]
    config = small_training(steps=1)
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    assert job.config.precision == expected
    experiment.run(job)
    monkeypatch.setattr("factory.core.precision._cpu_has_bf16", lambda: not has_bf16)
    other = experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    with pytest.raises(UserError, match=r"got others \(config.precision"):
        experiment.run(other, resume=True)


def without_ids(source: Dataset, out: Path) -> Dataset:
    """The same tiles with classes alone, as `factory ingest` makes them of semantic masks."""
    layout = source.store.layout
    spec = RunSpec(out, {}, Layout(len(source), layout.height, layout.width, 4), source.info)
    samples = [
        (sample.image, replace(sample.tile, instance=np.zeros_like(sample.tile.instance)), dict(sample.row))
        for sample in source
    ]
    with open_run(spec) as run:
        for shard in run.todo:
            run.add(write_shard(spec, shard, [samples[index] for index in spec.layout.rows(shard)]))
        run.finish()
    return open_dataset(out)


def test_classes_of_nuclei_without_ids_train_a_semantic_network_that_is_chosen_by_miou(
    dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    bare = without_ids(dataset_factory("real", n=9), tmp_path / "bare")
    config = small_training()
    job = experiment.prepare(config, bare.root, tmp_path, tmp_path / "run")
    assert job.head == Head(2)
    assert any("no instance ids" in note for note in job.notes)
    history = experiment.run(job).history
    assert all(row["val_score"] == row["val_mean_iou"] for row in history)
    assert "val_aji" not in history[0]


@pytest.mark.usefixtures("real_network")
def test_an_encoder_that_does_not_take_the_crop_is_refused_before_anything_is_written(
    dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    real = dataset_factory("real", n=9)
    config = small_training(network=NetworkConfig(encoder="tu-swin_tiny_patch4_window7_224"))
    with pytest.raises(UserError, match=r"--encoder: expected one that takes crops of 32x32, got tu-swin_tiny"):
        experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_encoder_weights_are_checked_first_and_their_content_decides_whether_a_run_goes_on(
    dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    real, path = dataset_factory("real", n=9), tmp_path / "encoder.safetensors"
    config = small_training(encoder_weights=str(path))
    with pytest.raises(UserError, match="expected a safetensors file"):
        experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    fingerprints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(build(config.network, 1).encoder.state_dict(), path)  # type: ignore[union-attr]
        fingerprints.append(experiment.prepare(config, real.root, tmp_path, tmp_path / "run").folder.fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_events_that_a_kill_cut_short_are_completed_by_the_next_call(
    dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    real = dataset_factory("real", n=9)
    config = small_training()
    job = experiment.prepare(config, real.root, tmp_path, tmp_path / "run")
    experiment.run(job)
    for path in (tmp_path / "run" / TENSORBOARD).iterdir():
        path.unlink()
    experiment.run(job, resume=True)
    (events,) = (tmp_path / "run" / TENSORBOARD).iterdir()
    assert events.read_bytes().count(b"validation/score") == 2
