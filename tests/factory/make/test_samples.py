"""Images of a generator: functions of their rows, stored with latents, drawn again, a diverse few of them chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from factory.core.seeds import Stream, generator
from factory.core.weights import BEST, read_card
from factory.joint.generators import DrawConfig, draw_latents, drawing_of, noise_of, open_generator
from factory.make.pipeline import make
from factory.make.recipes import samples as sampling
from factory.make.recipes.samples import SampleConfig, farthest_points
from factory.make.replay import replay
from manifests import open_dataset, verify
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import IGNORE
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.generator_weights import SHAPE, SIZE, write_generator
from tests.mask_training import as_assignments
from tests.original_stylegan2 import their_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_generator(tmp_path_factory.mktemp("generator"))


def drawn(weights: Path, out: Path, n: int = 5, **drawing: Any) -> Path:
    config = SampleConfig(drawing=DrawConfig(weights=str(weights), **drawing), n=n, shard=2)
    make(sampling.prepare(config, out), workers=1)
    return out


def test_an_image_is_a_function_of_its_seed_alone(weights: Path) -> None:
    opened, config = open_generator(weights), DrawConfig()
    assert (opened.size, opened.mpp) == (SIZE, 0.5)
    latents = draw_latents([5, 6, 7], SHAPE.z_dim)
    assert (latents.dtype, latents.shape) == (np.float32, (3, SHAPE.z_dim))
    np.testing.assert_array_equal(latents[1], generator(6, Stream.LATENT).standard_normal(SHAPE.z_dim, np.float32))
    three = opened.draw(latents, noise_of([5, 6, 7], config), 0.7)
    assert (three.dtype, three.shape) == (np.uint8, (3, *SIZE, 3))
    alone, taps = opened.draw_with_taps(latents[1], generator(6, Stream.RENDER), 0.7)
    np.testing.assert_array_equal(alone, three[1])
    assert [tap.features.shape[2:] for tap in taps] == [
        torch.Size(size) for size in opened.network.synthesis.noise_sizes
    ]
    assert opened.draw(latents[:0], [], 0.7).shape == (0, *SIZE, 3)


def test_truncation_noise_and_latent_all_count(weights: Path) -> None:
    opened = open_generator(weights)
    latents = draw_latents([1, 2], SHAPE.z_dim)
    mean = opened.draw(latents, None, 0.0)
    np.testing.assert_array_equal(mean[0], mean[1])  # no style is left of either
    one, other = opened.draw(latents, None, 0.7)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, opened.draw(latents, None, 1.0)[0])
    noisy = opened.draw(latents, noise_of([1, 2], DrawConfig()), 0.7)[0]
    assert not np.array_equal(one, noisy)
    assert not np.array_equal(noisy, opened.draw(latents[:1], [generator(9, Stream.RENDER)], 0.7)[0])
    assert noise_of([1], DrawConfig(noise="constant")) is None


def test_samples_are_a_data_set_with_latents_and_without_labels(weights: Path, tmp_path: Path) -> None:
    root = drawn(weights, tmp_path / "s")
    assert verify(root) == []
    dataset = open_dataset(root)
    assert dataset.info.is_synthetic
    assert (dataset.info.training_sources, dataset.info.licences) == (("slides/p1",), ("test",))
    rows = dataset.table.to_pylist()
    np.testing.assert_array_equal(sampling.latents_of(dataset), draw_latents([r["seed"] for r in rows], SHAPE.z_dim))
    assert {row["image_weights_sha256"] for row in rows} == {read_card(weights / BEST).sha256}
    for sample in dataset:
        assert (sample.tile.semantic == IGNORE).all()
        assert (sample.row["recipe"], sample.row["label_origin"]) == ("stylegan2", None)
    assert len({row["image_sha256"] for row in rows}) == len(rows)
    assert drawing_of(root).psi == 0.7


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    whole, broken = drawn(weights, tmp_path / "whole"), drawn(weights, tmp_path / "broken")
    for name in ("ledger/000001.json", "manifest.parquet", "SHA256SUMS"):
        (broken / name).unlink()
    config = SampleConfig(drawing=DrawConfig(weights=str(weights)), n=5, shard=2)
    _, made = make(sampling.prepare(config, broken), workers=1)
    assert made == 2
    assert sha256_file(whole / "SHA256SUMS") == sha256_file(broken / "SHA256SUMS")


@pytest.mark.parametrize("noise", ["drawn", "constant"])
def test_replay_draws_the_same_image(weights: Path, tmp_path: Path, noise: str) -> None:
    root = drawn(weights, tmp_path / "s", n=3, noise=noise)
    result = replay(root, open_dataset(root).row(2)["sample_id"])
    assert result.holds
    assert result.image_difference == 0


def test_replay_refuses_other_weights(weights: Path, tmp_path: Path) -> None:
    own = write_generator(tmp_path / "own")
    root = drawn(own, tmp_path / "s", n=1)
    write_generator(own, seed=1)
    with pytest.raises(UserError, match=r"expected the weights .* Put those back"):
        replay(root, open_dataset(root).row(0)["sample_id"])


def test_farthest_points_are_those_of_a_slow_search() -> None:
    line = np.array([[0.0], [1], [2], [10]], np.float32)
    assert farthest_points(line, 4) == [2, 3, 0, 1]  # nearest to the mean 3.25, then the ends, then what is left
    points = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    chosen = farthest_points(points, 12)
    assert len(set(chosen)) == 12
    assert farthest_points(points, 5) == chosen[:5]
    for count in range(1, 12):
        gaps = [min(float(np.linalg.norm(p - points[c])) for c in chosen[:count]) for p in points]
        assert gaps[chosen[count]] == pytest.approx(max(gaps))
    assert sorted(farthest_points(np.zeros((3, 2), np.float32), 3)) == [0, 1, 2]


def test_the_command_draws_and_leaves_gallery_and_choice_beside(cli: Cli, weights: Path) -> None:
    words = ("--weights", weights, "--n", 5, "--out", "s", "--workers", 1, "--device", "cpu")
    done = cli("factory", "sample", *words, "--diverse", 3)
    assert done.code == 0, done.err
    chosen = open_dataset("s", "s-diverse.parquet")
    assert len(chosen) == 3
    assert [row["sample_id"] for row in chosen.table.to_pylist()] == [
        open_dataset("s").row(place)["sample_id"] for place in sampling.choose_diverse(open_dataset("s"), 3)
    ]
    with Image.open("s-gallery.png") as sheet:
        assert min(sheet.size) > 100
    assert verify("s") == []
    assert "0 drawn" in cli("factory", "sample", *words).out
    assert cli("factory", "inspect", "s").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--diverse", 6), "--diverse: expected 1 to 5 images, as many as --n, got 6"),
        (("--psi", 3), "--psi: .*less than or equal to 2"),
        (("--noise", "white"), "--noise: expected one of drawn, constant, got .white"),
        (("--n", 0), "--n: .*greater than or equal to 1"),
        (("--weights", "none"), "none: expected weights, the folder of their run, or a starter"),
        (("--weights", "masks"), "expected a file of kind joint-weights, got mask-weights"),
    ],
)
def test_a_wrong_order_is_refused_in_one_line(
    cli: Cli, weights: Path, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    write_generator(tmp_path / "masks", kind="mask-weights")
    refused = cli("factory", "sample", "--weights", weights, "--n", 5, "--out", "s", "--device", "cpu", *words)
    assert_refused(refused, said)
    assert not Path("s").exists()


def test_stylegan2_is_trained_by_its_command_and_drawn_from(cli: Cli, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data/real", scheme="nuclei", n=6)
    words = as_assignments("stylegan2", steps=2, look_every=2)
    trained = cli("factory", "train", "stylegan2", *words, "--device", "cpu", "--out", "run")
    assert trained.code == 0, trained.err
    assert Path("run/samples/step-000002.png").is_file()
    done = cli("factory", "sample", "--weights", "run", "--n", 2, "--out", "s", "--workers", 1, "--device", "cpu")
    assert done.code == 0, done.err
    assert open_dataset("s").row(0)["label_scheme"] == "nuclei"


def test_images_without_labels_are_learnt_from_too(cli: Cli, weights: Path, tmp_path: Path) -> None:
    drawn(weights, tmp_path / "s", n=4)
    words = as_assignments("stylegan2", steps=2, look_every=2, size=[32, 32])
    trained = cli("factory", "train", "stylegan2", *words, "--data", "s", "--device", "cpu", "--out", "run")
    assert trained.code == 0, trained.err
    assert "left out" not in trained.out


def test_converted_weights_are_drawn_from(cli: Cli) -> None:
    save_file(their_tensors(), "g.safetensors")
    words = ("factory", "convert", "stylegan2", "g.safetensors", "--mpp", 0.25, "--out", "run")
    done = cli(*words, "--source", "FFHQ", "--licence", "research")
    assert done.code == 0, done.err
    card = read_card(Path("run") / BEST).fields
    assert (card["sources"], card["licences"], card["mpp"]) == (["FFHQ"], ["research"], 0.25)
    done = cli("factory", "sample", "--weights", "run", "--n", 1, "--out", "s", "--workers", 1, "--device", "cpu")
    assert done.code == 0, done.err
    assert_refused(cli(*words), "run: expected an empty folder, got weights")
    torch.save(their_tensors(), "g.pt")
    assert_refused(cli("factory", "convert", "stylegan2", "g.pt", "--mpp", 1, "--out", "other"), "expected safetensors")
    for mpp in (0, "inf", "nan"):
        assert_refused(cli(*words[:-1], "third", "--mpp", mpp), "--mpp: expected micrometres per pixel above 0")
    assert_refused(cli(*words[:-1], "third", "--clamp", -1), "--clamp: expected a number above 0, or 0")
