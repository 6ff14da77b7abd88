"""Labellers are trained on the pixels they should be, vote, doubt, and say how far their confidence can be trusted."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.core.checkpoints import read_checkpoint, write_weights
from factory.joint.features import Features, FeatureStore
from factory.joint.held_out import calibrate, calibration_of
from factory.joint.labeller import KIND, LabellerConfig, fit_labeller, read_labeller, write_labeller
from factory.joint.pixels import Annotated, PixelSampler
from factory.joint.streaming import StreamingLabeller
from factory.nets.pixel_classifier import disagreement, majority_vote
from manifests import get_scheme
from manifests.errors import FaultError, UserError

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (32, 64)
THRIFTY = {"optimiser": "adam", "learning_rate": 0.02, "batch": 256, "steps": 40, "seed": 3}


def _annotated(folder: Path, number: int, *, generator: str = "g" * 64) -> Annotated:
    """Three classes in blobs, the last one rare, and taps that show them at two resolutions with noise."""
    rng = np.random.default_rng(number)
    labels = np.kron(rng.integers(0, 2, (4, 8)), np.ones((8, 8))).astype(np.uint8)
    labels[3:6, 8 * number : 8 * number + 6] = 2
    shown = np.stack([labels == label for label in range(3)]).astype(np.float32)
    coarse = shown.reshape(3, 8, 4, 16, 4).mean((2, 4)) + rng.normal(0, 0.3, (3, 8, 16))
    fine = 40 + 5 * shown[1:] + rng.normal(0, 1.0, (2, *SIZE))
    store = FeatureStore(folder, generator)
    store.write(f"image-{number}", [coarse.astype(np.float32), fine.astype(np.float32)], SIZE, str(number) * 64)
    return Annotated(store.read(f"image-{number}"), labels)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Annotated]:
    folder = tmp_path_factory.mktemp("features")
    return [_annotated(folder, number) for number in range(4)]


def _sampler(labels: list[np.ndarray], classes: int, *, balanced: bool) -> PixelSampler:
    return PixelSampler([(str(number), image) for number, image in enumerate(labels)], classes, balanced=balanced)


def _random_labels() -> list[np.ndarray]:
    """Larger than the blocks in which pixels are counted; class 2 is rare, class 3 absent, a third unlabelled."""
    rng = np.random.default_rng(0)
    chances = [0.5, 0.16, 0.02, 0.0, 0.32]
    sizes = ((61, 67), (5, 3), (40, 90))
    return [np.array([0, 1, 2, 3, 255], np.uint8)[rng.choice(5, size, p=chances)] for size in sizes]


@pytest.mark.parametrize("balanced", [True, False])
def test_drawn_pixels_have_the_class_that_is_said_and_its_share(balanced: bool) -> None:
    labels = _random_labels()
    sampler = _sampler(labels, 4, balanced=balanced)
    assert sampler.labelled == sum(int((image != 255).sum()) for image in labels)
    drawn = sampler.draw(np.random.default_rng(1), 30_000)
    counts = np.zeros(4)
    for image, pixels, classes in drawn:
        assert np.array_equal(labels[image][pixels[:, 0], pixels[:, 1]], classes)
        counts += np.bincount(classes, minlength=4)
    assert counts.sum() == 30_000
    occur = np.bincount(np.concatenate([image.ravel() for image in labels]), minlength=256)[:4]
    expected = np.array([1, 1, 1, 0]) / 3 if balanced else occur / occur.sum()
    np.testing.assert_allclose(counts / 30_000, expected, atol=0.01)


def test_every_pixel_of_a_class_is_drawn_equally_often() -> None:
    labels = _random_labels()
    hits = [np.zeros(image.shape) for image in labels]
    for image, pixels, _ in _sampler(labels, 4, balanced=True).draw(np.random.default_rng(2), 60_000):
        np.add.at(hits[image], tuple(pixels.T), 1)
    for label in (0, 1, 2):
        of_class = np.concatenate([hit[image == label] for hit, image in zip(hits, labels, strict=True)])
        assert of_class.var() == pytest.approx(of_class.mean(), rel=5 * (2 / of_class.size) ** 0.5)  # Poisson's
    assert all(hit[image == 255].sum() == 0 for hit, image in zip(hits, labels, strict=True))


def test_draws_are_a_function_of_the_generator() -> None:
    sampler = _sampler(_random_labels(), 4, balanced=True)
    first, again, other = (sampler.draw(np.random.default_rng(seed), 50) for seed in (5, 5, 6))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=False))


def test_labels_of_another_scheme_and_empty_ones_are_refused() -> None:
    with pytest.raises(UserError, match=r"annotation of 0: expected classes 0 to 1, or 255 .*, got 2"):
        _sampler([np.array([[0, 2]], np.uint8)], 2, balanced=True)
    with pytest.raises(UserError, match="expected labelled pixels, got none"):
        _sampler([np.full((3, 3), 255, np.uint8)], 2, balanced=True)
    with pytest.raises(UserError, match="expected labelled pixels, got none"):
        _sampler([], 2, balanced=True)


def test_the_defaults_are_the_published_settings() -> None:
    published = {
        "network": {"widths": [128, 32], "dropout": 0.3}, "members": 1, "batch": 65_536, "epochs": 25, "steps": None,
        "balanced": True, "optimiser": "sgd", "learning_rate": 1e-4, "momentum": 0.9, "label_smoothing": 0.1, "seed": 0,
    }  # fmt: skip
    assert LabellerConfig().model_dump(mode="json") == published


def test_a_trained_labeller_labels_a_held_out_image(images: list[Annotated]) -> None:
    fitted = fit_labeller(images[:3], 3, LabellerConfig.model_validate({**THRIFTY, "members": 2}))
    assert [len(losses) for losses in fitted.losses] == [40, 40]
    assert all(np.mean(losses[-5:]) < 0.7 * losses[0] for losses in fitted.losses)
    held = images[3]
    labels = StreamingLabeller(fitted.ensemble, [3, 2]).label(held.features.taps, SIZE, 24).semantic
    assert (labels == held.labels).mean() > 0.9
    assert (labels[held.labels == 2] == 2).mean() > 0.7  # the rare class was seen as often as the others
    report = calibrate(fitted.ensemble, [held], seed=0, pixels=2000)
    assert report.pixels == 2000
    assert report.accuracy == pytest.approx((labels == held.labels).mean(), abs=0.05)


def test_published_settings_take_as_many_steps_as_the_pixels_fill(images: list[Annotated]) -> None:
    told = []
    config = LabellerConfig(batch=1000, epochs=2)
    before = torch.get_rng_state()
    fitted = fit_labeller(images[:2], 3, config, on_step=lambda *news: told.append(news))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(told) == 2 * math.ceil(2 * SIZE[0] * SIZE[1] / 1000)
    assert tuple(loss for *_, loss in told) == fitted.losses[0]
    assert not fitted.ensemble.training


def test_a_member_is_the_same_however_many_there_are(images: list[Annotated]) -> None:
    config = {**THRIFTY, "steps": 3}
    one, three, again = (
        fit_labeller(images[:2], 3, LabellerConfig.model_validate({**config, "members": count})) for count in (1, 3, 3)
    )
    state = three.ensemble.state_dict()
    for name, tensor in one.ensemble.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.ensemble.state_dict().items())
    assert not torch.equal(state["members.0.third.weight"], state["members.1.third.weight"])
    assert three.losses[0] == one.losses[0]
    other = fit_labeller(images[:2], 3, LabellerConfig.model_validate({**config, "seed": 4}))
    assert other.losses != one.losses


def test_pixels_without_a_label_teach_nothing(images: list[Annotated], tmp_path: Path) -> None:
    config = LabellerConfig.model_validate({**THRIFTY, "steps": 5})
    labels = images[0].labels.copy()
    labels[:, 40:] = 255
    labels[:16] = 255
    there = images[0].features
    taps = [np.array(tap, np.float32) for tap in there.taps]
    taps[1][:, :14] += 9.0
    taps[1][:, :, 42:] -= 9.0
    taps[0][:, :2] += 9.0
    taps[0][:, :, 13:] -= 9.0
    store = FeatureStore(tmp_path, "g")
    store.write("changed", taps, SIZE, "z")
    changed = Annotated(store.read("changed"), labels)
    first, second = (fit_labeller([image], 3, config) for image in (Annotated(there, labels), changed))
    assert first.losses == second.losses


def test_a_loss_that_is_no_number_stops_the_training(images: list[Annotated]) -> None:
    config = LabellerConfig(learning_rate=1e38, batch=64, steps=20)
    with pytest.raises(FaultError, match=r"labeller: expected a finite loss, got .* of member 1\. Lower learning_rate"):
        fit_labeller(images[:1], 3, config)


def test_annotations_that_do_not_fit_are_refused(images: list[Annotated], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="annotation of image-0: expected 32x64 pixels like its image, got 32x32"):
        fit_labeller([Annotated(images[0].features, images[0].labels[:, :32])], 3, LabellerConfig())
    store = FeatureStore(tmp_path, "g")
    store.write("other", [np.zeros((3, 8, 16), np.float16)], SIZE, "z")
    with pytest.raises(UserError, match=r"features of other: expected taps of \(3, 2\) channels"):
        fit_labeller([images[0], Annotated(store.read("other"), images[0].labels)], 3, LabellerConfig())


def _logits(*members: list[float]) -> torch.Tensor:
    """Logits [E, K, 1] of members that say these probabilities of one pixel."""
    return torch.tensor(members).clamp_min(1e-30).log()[:, :, None]


def test_votes_by_hand() -> None:
    assert majority_vote(_logits([0.2, 0.8, 0.0])).tolist() == [1]
    # Two of three choose class 0, though the third is surer of class 2.
    assert majority_vote(_logits([0.5, 0.1, 0.4], [0.5, 0.1, 0.4], [0.0, 0.0, 1.0])).tolist() == [0]
    # One vote each: the larger mean probability.
    assert majority_vote(_logits([0.6, 0.4, 0.0], [0.1, 0.9, 0.0])).tolist() == [1]
    assert majority_vote(torch.zeros(2, 3, 4, 5)).shape == (4, 5)
    assert majority_vote(torch.zeros(2, 3, 4, 5)).dtype == torch.uint8


def test_disagreement_by_hand() -> None:
    assert disagreement(_logits([1.0, 0.0], [0.0, 1.0])).item() == pytest.approx(math.log(2))
    assert disagreement(_logits([0.3, 0.7], [0.3, 0.7], [0.3, 0.7])).item() == pytest.approx(0.0, abs=1e-6)
    entropy = lambda *p: -sum(q * math.log(q) for q in p)  # noqa: E731
    expected = entropy(0.5, 0.5) - (entropy(0.9, 0.1) + entropy(0.1, 0.9)) / 2
    assert disagreement(_logits([0.9, 0.1], [0.1, 0.9])).item() == pytest.approx(expected, abs=1e-6)
    three = _logits([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert disagreement(three).item() == pytest.approx(math.log(3))
    assert float(disagreement(torch.randn(4, 3, 50)).min()) >= 0
    assert torch.isfinite(disagreement(1e4 * torch.randn(4, 3, 50))).all()


def test_calibration_by_hand() -> None:
    sure = np.array([[0.9, 0.1]] * 10)
    found = calibration_of(sure, np.array([0] * 9 + [1]), bins=10)
    assert found.error == pytest.approx(0.0)
    assert found.accuracy == 0.9
    assert [row.pixels for row in found.bins] == [0] * 8 + [10, 0]  # 0.9 belongs to (0.8, 0.9]
    wrong = calibration_of(sure, np.ones(10, np.int64), bins=10)
    assert wrong.error == pytest.approx(0.9)
    assert (wrong.bins[8].confidence, wrong.bins[8].accuracy) == (pytest.approx(0.9), 0.0)
    assert (wrong.bins[0].confidence, wrong.bins[0].accuracy) == (None, None)
    assert json.loads(json.dumps(asdict(wrong), allow_nan=False))["bins"][8]["pixels"] == 10


def test_calibration_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.5] * 4, 500)
    truth = np.array([rng.choice(4, p=p / p.sum()) for p in probabilities**2])
    found = calibration_of(probabilities, truth)
    error = 0.0
    for step in range(15):
        inside = [
            (p.max(), p.argmax() == label)
            for p, label in zip(probabilities, truth, strict=True)
            if step / 15 < p.max() <= (step + 1) / 15
        ]
        if inside:
            error += len(inside) / 500 * abs(np.mean([c for c, _ in inside]) - np.mean([r for _, r in inside]))
    assert found.error == pytest.approx(error)
    assert sum(row.pixels for row in found.bins) == found.pixels == 500


def test_calibration_has_the_features_of_few_pixels_in_memory(
    images: list[Annotated], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = fit_labeller(images[:2], 3, LabellerConfig.model_validate({**THRIFTY, "steps": 1})).ensemble
    gathered, gather = [], Features.gather
    monkeypatch.setattr("factory.joint.held_out._CHUNK", 300)
    monkeypatch.setattr(
        Features, "gather", lambda features, pixels: gathered.append(len(pixels)) or gather(features, pixels)
    )
    assert calibrate(ensemble, images[2:3], seed=0, pixels=700).pixels == 700
    assert gathered == [300, 300, 100]


def test_a_labeller_on_disk_says_what_it_is_for(images: list[Annotated], tmp_path: Path) -> None:
    config = LabellerConfig.model_validate({**THRIFTY, "steps": 3, "members": 2})
    fitted = fit_labeller(images[:3], 3, config)
    report = calibrate(fitted.ensemble, images[3:], seed=0, pixels=100)
    path, scheme = tmp_path / "labeller.safetensors", get_scheme("pdl1").to_dict()
    write_labeller(path, fitted, config, images[:3], {"scheme": scheme}, asdict(report))
    read = read_labeller(path, "g" * 64)
    assert not read.ensemble.training
    assert all(torch.equal(a, b) for a, b in zip(
        read.ensemble.state_dict().values(), fitted.ensemble.state_dict().values(), strict=True
    ))  # fmt: skip
    assert read.channels == (3, 2)
    card = json.loads((tmp_path / "labeller.json").read_text())
    assert card["latents_sha256"] == [str(number) * 64 for number in range(3)]
    assert card["calibration"]["error"] == pytest.approx(report.error)
    assert card["config"]["members"] == 2
    assert card["scheme"] == scheme
    labels = StreamingLabeller(read.ensemble, read.channels).label(images[3].features.taps, SIZE).semantic
    assert labels.max() < 3


def test_labellers_of_another_generator_and_damaged_ones_are_refused(images: list[Annotated], tmp_path: Path) -> None:
    config = LabellerConfig.model_validate({**THRIFTY, "steps": 1})
    path = tmp_path / "labeller.safetensors"
    write_labeller(path, fit_labeller(images[:1], 3, config), config, images[:1], {})
    with pytest.raises(UserError, match="expected a labeller for the generator hhhhhhhhhhhh, got one for gggggggggggg"):
        read_labeller(path, "h" * 64)
    there = read_checkpoint(path, KIND)
    described = "weights that its card describes, got others"
    for change, message in (
        ({"channels": [3, 3]}, described),
        ({"network": {**there.card["network"], "classes": 4}}, "weights that fit their card, got others"),
        ({"network": None}, "card: network: expected a valid dictionary, got None"),
    ):
        write_weights(path, there.tensors, {**there.card, **change})
        with pytest.raises(UserError, match=message):
            read_labeller(path)
    with pytest.raises(UserError, match="expected a safetensors file"):
        read_labeller(tmp_path / "absent.safetensors")
