"""Training of renderers: pairs of condition map and image, the terms of the losses, and the presets."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from factory.core.config import parse
from factory.core.shipped import configs_dir
from factory.learn.crops import Tiles, open_tiles
from factory.nets.perceptual import LAYERS, PerceptualDistance
from factory.renderers.conditions import ConditionConfig
from factory.train.generator import trainer_class, trainers
from manifests.errors import UserError
from manifests.labels import SCHEMES, get_scheme
from tests.mask_training import SIZE, blobs, trainer_config, write_blobs, write_masks

pytestmark = pytest.mark.usefixtures("one_thread", "no_training_plots")

NAMES = [name for name in trainers() if trainer_class(name).kind == "renderer-weights"]
PAIRED = ["pix2pixhd", "pix2pix"]
PLAIN = {"condition": {"kind": "polygons"}, "look": False}
KI67 = get_scheme("ki67")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Tiles:
    """Six masks of ki67 of three slides, and images that show them exactly: the colours of their classes."""
    root = tmp_path_factory.mktemp("tiles") / "ki67"
    masks = [blobs(seed, 4, (48, 96)) for seed in range(6)]
    write_masks(root, masks, "ki67", images=lambda index: KI67.palette[masks[index]])
    return open_tiles([root], None, SIZE, 1)


def trainer_of(name: str, scheme: str = "ki67", **changes: Any) -> Any:
    torch.manual_seed(0)
    trainer = trainer_class(name)(trainer_config(name, **changes), get_scheme(scheme), "cpu")
    for network in trainer.networks.values():
        network.train()
    return trainer


# Crops.


def test_jitter_colours_image_and_look_alike(tiles: Tiles) -> None:
    draw = trainer_of("pix2pixhd", condition={"kind": "polygons"}, look=True, look_jitter=0.2).draw_from(tiles)
    plain = trainer_of("pix2pixhd", condition={"kind": "polygons"}, look=True).draw_from(tiles)
    for step in range(3):
        labels, images, looks = draw(step)
        told = np.clip(np.rint((looks + 1) * 127.5), 0, 255)
        for place in range(len(labels)):  # the images show the looks' colours, whatever these are
            np.testing.assert_allclose(images[place], told[place][labels[place]], atol=1.0)
        assert np.abs(looks - plain(step)[2]).max() > 0.02
        np.testing.assert_array_equal(images, draw(step)[1])
    assert np.ptp(np.stack([draw(step)[2][0] for step in range(8)]), axis=0).min() > 0.02


@pytest.mark.parametrize("name", PAIRED)
def test_condition_and_image_are_cut_from_the_same_place(name: str, tiles: Tiles) -> None:
    draw = trainer_of(name).draw_from(tiles)
    for step in range(4):
        labels, images, _ = draw(step)
        shown = labels < len(KI67)
        assert 0.9 < shown.mean() < 0.97  # the rest is the noise label, one of 16 pixels
        np.testing.assert_array_equal(images[shown], KI67.palette[labels[shown]])


def test_cyclegan_sees_maps_and_images_of_different_tiles(tmp_path: Path) -> None:
    masks = [np.full(SIZE, label % 4, np.uint8) for label in range(8)]
    images = [np.full((*SIZE, 3), 10 * number, np.uint8) for number in range(8)]
    write_masks(tmp_path / "d", masks, "ki67", images=lambda index: images[index])
    draw = trainer_of("renderers/cyclegan", **PLAIN).draw_from(open_tiles([tmp_path / "d"], None, SIZE, 1))
    drawn = [draw(step)[:2] for step in range(32)]
    classes = np.array([label for labels, _ in drawn for label in labels[:, 0, 0]])
    numbers = np.array([colour for _, shown in drawn for colour in shown[:, 0, 0, 0]]) // 10
    assert np.bincount(classes).tolist() == [16] * 4  # each stream goes through all tiles by itself
    assert np.bincount(numbers).tolist() == [8] * 8
    assert 0.1 < (classes == numbers % 4).mean() < 0.45  # 1 in 4 by chance


@pytest.mark.parametrize("name", NAMES)
def test_what_a_view_holds_does_not_depend_on_the_batch(name: str, tiles: Tiles) -> None:
    one, two = (trainer_of(name, batch=batch).draw_from(tiles) for batch in (1, 2))
    for single, pair in zip(zip(*map(one, range(4)), strict=True), zip(*map(two, range(2)), strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(single), np.concatenate(pair))


def test_every_view_has_noise_of_its_own(tiles: Tiles) -> None:
    labels = np.concatenate([trainer_of("pix2pixhd").draw_from(tiles)(step)[0] for step in range(4)])
    assert len({(crop == len(KI67)).tobytes() for crop in labels}) == 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("condition", "scheme", "card_scheme", "channels"),
    [
        ({"kind": "polygons"}, "ki67", "ki67", 4),
        ({"kind": "polygons+noise"}, "ki67", "ki67", 5),
        ({"kind": "polygons+noise", "arrangement": "poisson", "spacing_um": 2.0}, "ki67", "ki67", 5),
        ({"kind": "polygons+air+cells"}, "ki67", "ki67_cells", 5),
        ({"kind": "polygons+air+cells"}, "pdl1", "pdl1_cells", 6),
    ],
)
def test_every_kind_of_condition_reaches_the_network_one_hot(
    name: str, condition: dict[str, Any], scheme: str, card_scheme: str, channels: int, tmp_path: Path
) -> None:
    write_blobs(tmp_path / "d", n=2, scheme=scheme)
    opened = open_tiles([tmp_path / "d"], None, SIZE, 1)
    trainer = trainer_of(name, scheme, condition=condition, look=False)
    crops = trainer.draw_from(opened)(0)
    seen = trainer.seen(crops)
    assert trainer.in_channels == channels
    assert seen.shape == (2, channels, *SIZE)
    assert seen.dtype == torch.float32
    np.testing.assert_array_equal(seen.argmax(1).numpy(), crops[0])
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert (seen.sum(1) == 1).all()
    assert torch.isfinite(torch.stack(list(trainer.step(crops, 0, 0).values()))).all()
    card = trainer.card()
    assert card["scheme"] == get_scheme(card_scheme).to_dict()
    assert card["condition"] == ConditionConfig.model_validate(condition).model_dump(mode="json")
    assert card["network"]["in_channels"] == channels


def test_cells_and_air_are_read_off_the_image(tmp_path: Path) -> None:
    mask = np.ones(SIZE, np.uint8)
    mask[:, 48:] = 3
    image = np.full((*SIZE, 3), 225, np.uint8)
    image[4:16, 4:16] = 60  # a nucleus
    image[20:28, 4:16] = 250  # a hole
    image[:, 48:] = 250
    write_masks(tmp_path / "d", [mask] * 2, "ki67", images=lambda index: image)
    trainer = trainer_of("pix2pixhd", condition={"kind": "polygons+air+cells"}, max_background=1.0)
    for step in range(4):
        labels, images, _ = trainer.draw_from(open_tiles([tmp_path / "d"], None, SIZE, 1))(step)
        np.testing.assert_array_equal(labels == 4, images[..., 0] == 60)
        np.testing.assert_array_equal(labels == 3, images[..., 0] == 250)
    assert trainer.card()["classes"] == ["Ki-67 negative", "air", "cell"]


def test_a_kind_that_the_scheme_cannot_give_is_refused() -> None:
    said = r"condition\.kind: expected masks of pdl1, ki67 for polygons\+air\+cells, got tissue"
    with pytest.raises(UserError, match=said):
        trainer_of("pix2pixhd", "tissue", condition={"kind": "polygons+air+cells"})
    with pytest.raises(UserError, match=r"condition\.kind: expected a map that a network sees, got labels"):
        trainer_of("pix2pixhd", condition={"kind": "labels"})


@pytest.mark.parametrize("name", NAMES)
def test_the_look_tells_every_pixel_the_colour_of_its_class_in_its_slide(name: str, tmp_path: Path) -> None:
    masks = [blobs(seed, 4, SIZE) for seed in range(4)]
    tints = [np.uint8([1, 2, 3]), np.uint8([3, 2, 1])]  # of two slides
    write_masks(
        tmp_path / "d", masks, "ki67", group=lambda index: str(index % 2),
        images=lambda index: (20 * (masks[index][..., None] + 1) * tints[index % 2]).astype(np.uint8),
    )  # fmt: skip
    trainer = trainer_of(name, look=True)
    assert trainer.in_channels == 8
    draw = trainer.draw_from(open_tiles([tmp_path / "d"], None, SIZE, 1))
    crops = draw(0)
    seen, labels = trainer.seen(crops).numpy(), crops[0]
    for place in range(2):
        noise = labels[place] == 4
        assert (seen[place, 5:, noise] == 0).all()
        told = np.stack([crops[2][place][label] for label in labels[place][~noise]])
        np.testing.assert_allclose(seen[place, 5:].transpose(1, 2, 0)[~noise], told)
        own = [np.allclose((crops[2][place, :4] + 1) * 127.5, 20 * np.arange(1, 5)[:, None] * tint) for tint in tints]
        assert sum(own) == 1
    if name in PAIRED:  # the look is of the slide that the image is from
        np.testing.assert_allclose(
            (seen[:, 5:].transpose(0, 2, 3, 1)[labels < 4] + 1) * 127.5, crops[1][labels < 4], atol=1e-3
        )
    assert np.shape(trainer.card()["looks"]) == (2, 4, 3)
    assert trainer_of(name, look=False).card()["looks"] == []


def test_classes_that_are_hardly_there_are_not_in_the_card(tmp_path: Path) -> None:
    masks = [blobs(seed, 3, (128, 128)) for seed in range(2)]
    masks[0][0, 0] = 3
    write_masks(tmp_path / "d", masks, "ki67")
    trainer = trainer_of("pix2pix")
    trainer.draw_from(open_tiles([tmp_path / "d"], None, SIZE, 1))
    assert trainer.card()["classes"] == ["other", "Ki-67 negative", "Ki-67 positive"]


def test_samples_show_the_noise_label_in_black_beside_what_is_made_and_what_is_real(tiles: Tiles) -> None:
    trainer = trainer_of("pix2pixhd", batch=3)
    crops = trainer.draw_from(tiles)(0)
    condition, made, real = trainer.sample(trainer.networks["generator"], crops)
    np.testing.assert_array_equal(condition[crops[0] < 4], KI67.palette[crops[0][crops[0] < 4]])
    assert not condition[crops[0] == 4].any()
    assert made.shape == real.shape == (3, *SIZE, 3)
    np.testing.assert_array_equal(real, crops[1])


# Losses.


def still(name: str, **changes: Any) -> Any:
    """A trainer whose steps move nothing, so that its losses can be computed again."""
    return trainer_of(name, **{"learning_rate": 1e-30, "network": {"width": 4, "downs": 2, "blocks": 1}, **changes})


def discriminatord(trainer: Any, crops: list[np.ndarray]) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Outputs of the discriminators for generated and for real images, layer by layer."""
    seen, real = trainer.seen(crops), trainer.images(crops)
    with torch.no_grad():
        made = trainer.networks["generator"](seen).tanh()
        said = [trainer.networks["discriminators"](torch.cat([seen, image], 1)) for image in (made, real)]
    of_made, of_real = (
        [[layer.numpy() for layer in discriminator] for discriminator in discriminators] for discriminators in said
    )
    return of_made, of_real


@pytest.mark.parametrize(("discriminators", "depth"), [(1, 3), (2, 2)])
def test_feature_matching_is_the_sum_of_the_authors_code(discriminators: int, depth: int, tiles: Tiles) -> None:
    """https://github.com/NVIDIA/pix2pixHD, models/pix2pixHD_model.py: 4 / (n_layers_D + 1) over discriminators and
    layers."""
    trainer = still("pix2pixhd", discriminators=discriminators, discriminator_depth=depth, loss={"feature": 10})
    crops = trainer.draw_from(tiles)(0)
    found = float(trainer.step(crops, 0, 0)["feature"])
    expected = 0.0
    for of_made, of_real in zip(*discriminatord(trainer, crops), strict=True):
        assert len(of_made) == depth + 2
        for made, real in zip(of_made[:-1], of_real[:-1], strict=True):
            expected += 1 / discriminators * 4 / (depth + 1) * np.abs(made - real).mean()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fooling", ["lsgan", "bce"])
def test_adversarial_terms_are_means_over_the_discriminators(fooling: str, tiles: Tiles) -> None:
    trainer = still("pix2pixhd", fooling=fooling)
    crops = trainer.draw_from(tiles)(0)
    losses = trainer.step(crops, 0, 0)
    of_made, of_real = discriminatord(trainer, crops)
    if fooling == "lsgan":
        expected = np.mean([np.mean((made[-1] - 1) ** 2) for made in of_made])
    else:
        expected = np.mean([np.mean(np.log1p(np.exp(-made[-1].astype(float)))) for made in of_made])
    assert float(losses["adversarial"]) == pytest.approx(expected, rel=1e-5)
    told = [0.5 * (np.mean((r[-1] - 1) ** 2) + np.mean(m[-1] ** 2)) for m, r in zip(of_made, of_real, strict=True)]
    assert float(losses["discriminators"]) == pytest.approx(np.mean(told), rel=1e-5)


def test_terms_that_do_not_count_are_not_computed(tiles: Tiles) -> None:
    def terms(name: str, **loss: float) -> set[str]:
        trainer = trainer_of(name, loss=loss)
        return set(trainer.step(trainer.draw_from(tiles)(0), 0, 0))

    assert terms("pix2pixhd") == {"adversarial", "discriminators"}
    assert terms("pix2pixhd", feature=10) == {"adversarial", "feature", "discriminators"}
    assert terms("pix2pix", l1=100) == {"adversarial", "l1", "discriminators"}


def steepest(weights: dict[str, torch.Tensor], image: np.ndarray) -> list[np.ndarray]:
    """relu1_1 to relu5_1 of VGG19, layer by layer (Simonyan and Zisserman 2015, Table 1, E)."""
    x = (torch.from_numpy(image) / 2 + 0.5 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    found = []
    plan = [2, 2, 4, 4, 1]  # convolutions before each pooling, as far as they are needed
    place = 0
    for stage, count in enumerate(plan):
        for position in range(count):
            kernel, bias = (weights[f"features.{place}.{name}"].double() for name in ("weight", "bias"))
            x = nn.functional.conv2d(x, kernel, bias, padding=1).clamp_min(0)
            if position == 0:
                found.append(x.numpy().copy())
            place += 2
        x = nn.functional.max_pool2d(x, 2) if stage < 4 else x
        place += 1
    return found


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file of random weights in the shapes of torchvision's vgg19, without its classifier, and the tensors."""
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    features = make_layers(cfgs["E"])[: max(LAYERS) + 1]
    tensors = {f"features.{name}": tensor.clone() for name, tensor in features.state_dict().items()}
    tensors["classifier.6.bias"] = torch.zeros(1000)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(tensors, path)
    return path, tensors


def test_the_perceptual_term_is_that_of_pix2pixhd(vgg19: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = vgg19
    distance = PerceptualDistance(path).double()
    one, other = (np.random.default_rng(seed).uniform(-1, 1, (1, 3, 32, 32)) for seed in (0, 1))
    made = torch.from_numpy(one).requires_grad_()
    found = distance(made, torch.from_numpy(other))
    layers = zip(steepest(tensors, one), steepest(tensors, other), [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1], strict=True)
    expected = sum(weight * np.abs(a - b).mean() for a, b, weight in layers)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert distance(made, torch.from_numpy(one)).item() == 0
    found.backward()
    assert made.grad is not None
    assert made.grad.abs().min() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_perceptual_term_counts_and_its_network_is_not_trained(
    vgg19: tuple[Path, dict[str, torch.Tensor]], tiles: Tiles
) -> None:
    trainer = trainer_of("pix2pixhd", batch=1, loss={"perceptual": 10}, perceptual_weights=str(vgg19[0]))
    losses = trainer.step(trainer.draw_from(tiles)(0), 0, 0)
    assert set(losses) == {"adversarial", "perceptual", "discriminators"}
    assert losses["perceptual"] > 0
    assert set(trainer.networks) == {"generator", "discriminators"}


def test_the_perceptual_term_without_its_weights_is_refused(
    tmp_path: Path, vgg19: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    said = "perceptual_weights: expected a file of VGG19's weights with loss.perceptual"
    for changes in ({"loss": {"perceptual": 10}}, {"perceptual_weights": str(vgg19[0])}):
        with pytest.raises(UserError, match=said):
            trainer_config("pix2pixhd", **changes)
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=r"w\.safetensors: expected a safetensors file"):
        trainer_of("pix2pixhd", loss={"perceptual": 1}, perceptual_weights=str(path))
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(UserError, match="expected the weights of torchvision's vgg19, got other tensors"):
        PerceptualDistance(path)
    path.write_bytes(vgg19[0].read_bytes()[:-100])
    with pytest.raises(UserError, match="expected a whole safetensors file"):
        PerceptualDistance(path)


# Learning.


@pytest.mark.parametrize("name", PAIRED)
def test_two_tiles_are_learnt_by_heart(name: str, tiles: Tiles) -> None:
    network = {"pix2pixhd": {"width": 8, "downs": 2, "blocks": 1, "kernel": 3}, "pix2pix": {"width": 8, "depth": 3}}
    changes = {"learning_rate": 5e-3, "network": network[name], "loss": {"adversarial": 0.1, "l1": 10}}
    trainer = trainer_of(name, **PLAIN, **changes)
    crops = trainer.draw_from(tiles)(0)
    losses = [float(trainer.step(crops, step, 0)["l1"]) for step in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_feature_matching_alone_brings_images_nearer_to_the_real_ones(tiles: Tiles) -> None:
    network = {"width": 8, "downs": 2, "blocks": 1, "kernel": 3}
    trainer = trainer_of("pix2pixhd", **PLAIN, network=network, learning_rate=5e-3, loss={"feature": 10})
    crops = trainer.draw_from(tiles)(0)

    def distance() -> float:
        with torch.no_grad():
            made = trainer.networks["generator"](trainer.seen(crops)).tanh()
        return float((made - trainer.images(crops)).abs().mean())

    before = distance()
    for step in range(30):
        trainer.step(crops, step, 0)
    assert distance() < 0.6 * before


def test_cyclegan_learns_to_come_back(tiles: Tiles) -> None:
    trainer = trainer_of("renderers/cyclegan", **PLAIN, learning_rate=1e-2)
    crops = trainer.draw_from(tiles)(0)
    losses = [float(trainer.step(crops, step, 0)["cycle"]) for step in range(25)]
    assert losses[-1] < 0.7 * losses[0]


# Configs.


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("pix2pixhd", {"network": {"downs": 5}}, r"size: expected sides from 64, which reflection padding needs"),
        ("pix2pixhd", {"discriminators": 3}, "size: expected sides from 48 for these discriminators, got 32x64"),
        ("pix2pixhd", {"network": {"kernel": 4}}, r"network\.kernel: expected an odd number"),
        ("pix2pixhd", {"network": {"upsampling": "bilinear"}}, r"upsampling: expected 'transposed' or 'resize'"),
        ("pix2pix", {"network": {"depth": 6}}, r"size: expected multiples of 64, 2\^depth, got 32x64"),
        ("pix2pix", {"discriminator_depth": 4}, "size: expected sides from 48"),
        ("renderers/cyclegan", {"discriminator_depth": 4}, "size: expected sides from 48"),
        ("renderers/cyclegan", {"network": {"kernel": 6}}, r"network\.kernel: expected an odd number"),
        ("pix2pix", {"condition": {"spacing": 5}}, r"condition\.spacing: .*Did you mean spacing_um"),
        ("pix2pix", {"loss": {"l2": 5}}, r"loss\.l2"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        trainer_config(name, **changes)


PRESETS = {
    "pix2pixhd": 182, "pix2pixhd_paper": 182, "pix2pix": 54, "cyclegan_images": 11,
    "sharpgan": 54, "sharpgan_2022": 54, "sharpgan_pix2pix": 54,
}  # fmt: skip
"""Millions of parameters of the published generators."""


@pytest.mark.parametrize("preset", PRESETS)
def test_published_networks_have_their_size(preset: str) -> None:
    name = "renderers/cyclegan" if preset == "cyclegan_images" else preset.partition("_")[0]
    values = yaml.safe_load((configs_dir() / "train" / f"{preset}.yaml").read_text())
    config = parse(trainer_class(name).Config, values, preset)
    with torch.device("meta"):
        trainer = trainer_class(name)(config, KI67, "meta")
    count = sum(parameter.numel() for parameter in trainer.networks["generator"].parameters())
    assert count / 1e6 == pytest.approx(PRESETS[preset], abs=0.8)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_trainers_take_the_masks_of_every_scheme(name: str, scheme: str) -> None:
    trainer = trainer_of(name, scheme, look=True)
    assert trainer.in_channels == len(get_scheme(scheme)) + 1 + 3


def test_the_same_seed_draws_the_same_first_weights() -> None:
    first = [
        next(trainer_of("pix2pixhd", **changes).networks["generator"].parameters()).detach()
        for changes in ({}, {"look": True}, {"look": True})
    ]
    assert torch.equal(first[1], first[2])
    assert all(one.shape[0] == other.shape[0] for one, other in pairwise(first))
