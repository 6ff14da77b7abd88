"""The contract of the table of networks, which a new one inherits by its name; and what is special to each."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from manifests.errors import FaultError, UserError
from segment.network import NETWORKS, Symmetries, segnet
from segment.network.head import Head
from segment.network.inference import SYMMETRIES, InferenceConfig, predict_maps, predict_output
from segment.network.networks import (
    DIVISOR,
    NetworkConfig,
    architecture,
    build,
    load_encoder_weights,
    to_input,
)
from segment.network.segnet import Vgg16Encoder
from segment.train.losses import LossConfig, segmentation_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=sorted(NETWORKS))
def config(request: pytest.FixtureRequest) -> NetworkConfig:
    torch.manual_seed(0)
    return NetworkConfig(name=request.param)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_has_a_default_encoder_that_it_lists_and_accepts(name: str) -> None:
    found = architecture(name)
    assert found.default_encoder in found.encoders()
    assert all(found.accepts(encoder) for encoder in found.encoders())
    assert not found.accepts("nothing")


def test_network_gives_logits_of_the_images_size_and_a_gradient_to_every_parameter(config: NetworkConfig) -> None:
    network = build(config, 3)
    logits = network(torch.randn(2, 3, 2 * DIVISOR, DIVISOR))
    assert logits.shape == (2, 3, 2 * DIVISOR, DIVISOR)
    logits.square().mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    weights = [(name, parameter) for name, parameter in network.named_parameters() if parameter.ndim > 1]
    assert without == []
    assert [name for name, parameter in weights if not parameter.grad.abs().sum() > 0] == []


def test_network_learns_two_tiles_by_heart(config: NetworkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segnet, "STAGES", tuple(tuple(width // 4 for width in stage) for stage in segnet.STAGES))
    generator = torch.Generator().manual_seed(3)
    labels = torch.zeros(2, DIVISOR, DIVISOR, dtype=torch.long)
    labels[0, 8:24, 4:20], labels[1, 2:14, 10:30] = 1, 1
    images = labels[:, None] * 1.5 + 0.3 * torch.randn(2, 3, DIVISOR, DIVISOR, generator=generator)
    network = build(config, 2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(20):
        optimiser.zero_grad()
        loss = segmentation_loss(network(images), labels, LossConfig()).total
        loss.backward()
        optimiser.step()
    right = (network(images).argmax(1) == labels).float().mean().item()
    assert right > 0.97


def test_network_is_the_same_for_the_same_seed(config: NetworkConfig) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(7)
        networks.append(build(config, 2).state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_unpooling_puts_values_back_where_the_maxima_were() -> None:
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    image = torch.tensor([[[[1.0, 9, 2, 3], [4, 5, 8, 6], [0, 1, 1, 0], [7, 2, 3, 5]]]])
    values, indices = pool(image)
    assert indices.flatten().tolist() == [1, 6, 12, 15]
    expected = torch.zeros(16)
    expected[[1, 6, 12, 15]] = torch.tensor([9.0, 8, 7, 5])
    assert torch.equal(unpool(values, indices).flatten(), expected)


def test_segnet_decodes_with_the_indices_of_its_own_encoder() -> None:
    torch.manual_seed(0)
    network = build(NetworkConfig(name="segnet"), 2).eval()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    network.unpool.register_forward_hook(lambda module, inputs, output: seen.append((inputs[1], output)))
    with torch.inference_mode():
        image = torch.randn(1, 3, 64, 64)
        indices = network.encoder(image)[1]
        network(image)
    assert [index.shape[-1] for index, _ in seen] == [2, 4, 8, 16, 32]
    for (index, output), own in zip(seen, reversed(indices), strict=True):
        assert torch.equal(index, own)
        assert set(torch.nonzero(output.flatten(2)[0, 0]).flatten().tolist()) <= set(own.flatten(2)[0, 0].tolist())


def test_segnet_encoder_is_named_as_torchvisions_vgg16_bn() -> None:
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        published, own = vgg16_bn().state_dict(), Vgg16Encoder(3).state_dict()
    shapes = {name: tensor.shape for name, tensor in published.items() if name.startswith("features.")}
    assert {name: tensor.shape for name, tensor in own.items()} == shapes


def test_narrow_decoders_have_fewer_weights_and_are_kept_in_the_config() -> None:
    wide = NetworkConfig(name="unetplusplus")
    narrow = wide.model_copy(update={"decoder": (32, 24, 16, 12, 8)}).resolved()
    assert narrow.decoder == (32, 24, 16, 12, 8)
    sizes = [sum(weight.numel() for weight in build(config, 2).parameters()) for config in (narrow, wide)]
    assert sizes[0] < sizes[1] / 2
    with pytest.raises(UserError, match=r"network.decoder: expected null for segnet"):
        build(NetworkConfig(name="segnet", decoder=(8, 8, 8, 8, 8)), 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "unetplusplu"},
            "--net: expected one of segnet, unet, unetplusplus, got 'unetplusplu'. Did you mean unetplusplus?",
        ),
        (
            {"encoder": "resnet43"},
            "--encoder: expected an encoder of unetplusplus, got 'resnet43'. Did you mean resnet34?",
        ),
        ({"encoder": "tu-nothing"}, "--encoder: expected an encoder of unetplusplus, got 'tu-nothing'."),
        (
            {"name": "segnet", "encoder": "resnet18"},
            "--encoder: expected an encoder of segnet, got 'resnet18'. Known: vgg16_bn.",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        NetworkConfig(**values).resolved()
    assert str(caught.value).startswith(message)


def test_encoder_weights_come_from_a_file_and_only_whole(tmp_path: Path) -> None:
    config = NetworkConfig(encoder="resnet18")
    torch.manual_seed(1)
    donor = build(config, 2).encoder.state_dict()
    path = tmp_path / "encoder.safetensors"
    save_file({**donor, "fc.weight": torch.zeros(3, 3)}, path)
    network = build(config, 4)
    load_encoder_weights(network, config, str(path))
    assert all(torch.equal(tensor, donor[name]) for name, tensor in network.encoder.state_dict().items())

    save_file({name: tensor for name, tensor in donor.items() if name != "conv1.weight"}, path)
    with pytest.raises(UserError, match=r"differs at conv1\.weight \(1 in all\)"):
        load_encoder_weights(network, config, str(path))


def test_imagenet_weights_that_cannot_be_reached_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **options: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda **options: None)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    config = NetworkConfig(encoder="resnet18")
    with pytest.raises(FaultError, match="give --encoder-weights PATH"):
        load_encoder_weights(nn.Module(), config, "imagenet")


@pytest.mark.parametrize("size", [(33, 70), (20, 31), (64, 32)])
def test_prediction_has_the_images_size_whatever_it_is(size: tuple[int, int]) -> None:
    class Brightness(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not any(side % DIVISOR for side in x.shape[2:])
            return x[:, :2]

    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    logits = predict_output(Brightness(), image.numpy(), "cpu")
    assert torch.allclose(logits, to_input(image[None])[0, :2])


class Slanted(nn.Module):
    """Logits and a distance that depend on where a pixel lies among its neighbours, which no symmetry keeps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0], x[:, 0].roll((1, 2), (1, 2)), x[:, 1].roll(3, 2)], 1)


@pytest.mark.parametrize(("symmetries", "count"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_averaged_maps_do_not_depend_on_the_symmetries_they_average(symmetries: Symmetries, count: int) -> None:
    calls: list[int] = []
    network, head, config = Slanted(), Head(2, distance=True), InferenceConfig(test_time_augmentation=symmetries)
    network.register_forward_hook(lambda *_: calls.append(1))
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)

    def maps(view: np.ndarray) -> np.ndarray:
        found = predict_maps(network, head, view, "cpu", "fp32", config)
        np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
        assert found.distance is not None
        return np.moveaxis(np.concatenate([found.probabilities, found.distance[None]]), 0, -1)

    plain = maps(image)
    assert len(calls) == count
    assert plain.shape == (64, 32, 3)
    for turns, mirrored in itertools.product(range(4), (False, True)):
        view = np.rot90(image, turns)
        found = maps(view[:, ::-1] if mirrored else view)
        found = np.rot90(found[:, ::-1] if mirrored else found, -turns)
        averaged = (turns, mirrored) in SYMMETRIES[symmetries]
        assert np.allclose(found, plain, atol=1e-5) == averaged, (turns, mirrored)


def test_prediction_leaves_the_network_in_the_mode_it_was_in() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict_output(network, torch.zeros(32, 32, 3, dtype=torch.uint8).numpy(), "cpu")
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
