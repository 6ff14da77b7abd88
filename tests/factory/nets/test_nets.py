"""Networks of the generators that learn: sizes, noise, receptive fields, annealing, and what folding changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factory.core.seeds import Stream, generator
from factory.learn.base import UsesWeights
from factory.masks import TRAINABLE
from factory.masks.base import resolve_mask_generator
from factory.nets import annealing
from factory.nets.depas import DcganGenerator, DepasGenerator
from factory.nets.discriminators import PatchDiscriminator, Scales, WholeDiscriminator, smallest_side
from factory.nets.drawing import ready
from factory.nets.layers import WEIGHT_STD, draw_first_weights, fold_batch_norm, make_norm, noise_pyramid
from factory.nets.resnet import ResnetGenerator
from factory.nets.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = (8, 8, 6, 4, 4)


def depas(channels: int = 1, mixing: int = 2) -> DepasGenerator:
    torch.manual_seed(0)
    return DepasGenerator(3, 4, WIDTHS, mixing, channels)


def rngs(*seeds: int) -> list[np.random.Generator]:
    return [generator(seed, Stream.MASK) for seed in seeds]


# Annealing: Eqs. 1 and 2.


def test_the_slope_goes_from_1_to_10_over_the_papers_100_epochs() -> None:
    slopes = [annealing.slope(epoch, 10) for epoch in range(100)]
    assert slopes == [1.0 + epoch // 10 for epoch in range(100)]
    assert sorted(set(slopes)) == list(range(1, 11))
    assert [annealing.slope(epoch, 10) for epoch in (0, 9, 10, 19, 99)] == [1, 1, 2, 2, 10]


def test_the_temperature_is_divided_by_1_25_every_ten_epochs() -> None:
    for k in range(10):
        for epoch in (10 * k, 10 * k + 9):
            assert 1 / annealing.inverse_temperature(epoch, 10) == pytest.approx(1.25**-k)
    assert annealing.inverse_temperature(0, 10) == 1.0


def test_sharpness_is_the_slope_of_one_channel_and_the_inverse_temperature_of_several() -> None:
    assert annealing.sharpness(25, 10, 1) == 3.0
    assert annealing.sharpness(25, 10, 6) == pytest.approx(1.25**2)


def test_probabilities_are_a_sigmoid_or_a_softmax_and_grow_hard() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0]).reshape(5, 1, 1, 1)
    by_hand = [1 / (1 + math.exp(-3 * float(v))) for v in x]
    torch.testing.assert_close(annealing.probabilities(3 * x).flatten(), torch.tensor(by_hand))
    torch.testing.assert_close(annealing.probabilities(1e4 * x).flatten(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    logits = torch.tensor([0.3, 0.1, -1.0]).reshape(1, 3, 1, 1)
    by_hand = np.exp(1.25 * np.array([0.3, 0.1, -1.0]))
    torch.testing.assert_close(
        annealing.probabilities(1.25 * logits).flatten().double(), torch.from_numpy(by_hand / by_hand.sum()), rtol=1e-6,
        atol=1e-7,
    )  # fmt: skip
    torch.testing.assert_close(annealing.probabilities(1e4 * logits).flatten(), torch.tensor([1.0, 0.0, 0.0]))


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 9), seed=st.integers(0, 999), height=st.integers(1, 6), width=st.integers(1, 6))
def test_labels_to_channels_and_back_are_the_same(classes: int, seed: int, height: int, width: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, (2, height, width), dtype=np.uint8))
    channels = annealing.channels_of(classes)
    maps = annealing.to_channels(labels, channels)
    assert maps.shape == (2, channels, height, width)
    assert maps.dtype == torch.float32
    logits = maps - 0.5  # as a generator without doubt would say it
    assert torch.equal(annealing.to_labels(logits), labels)
    assert torch.equal(annealing.to_labels(7.0 * logits), labels)  # sharpening changes no decision
    assert annealing.to_labels(logits).dtype == torch.uint8
    if channels > 1:
        assert (maps.sum(1) == 1).all()


# DEPAS and DCGAN.


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (96, 160), (128, 32)])
@pytest.mark.parametrize("channels", [1, 6])
def test_depas_draws_every_multiple_of_32(size: tuple[int, int], channels: int) -> None:
    network = depas(channels).eval()
    inputs = network.inputs(rngs(1, 2), size)
    assert [tuple(t.shape) for t in inputs] == [(2, 3), (2, 4, size[0] // 32, size[1] // 32), (2, 1, *size)]
    assert {t.dtype for t in inputs} == {torch.float32}
    logits = network(*inputs)
    assert logits.shape == (2, channels, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("mixing", [0, 1, 3])
def test_depas_mixes_its_seed_map_as_often_as_asked(mixing: int) -> None:
    network = depas(mixing=mixing).eval()
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.mix) == mixing
    assert network(*network.inputs(rngs(1), (64, 64))).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("build", [depas, lambda: DcganGenerator(5, WIDTHS, (64, 96), 1)], ids=["depas", "dcgan"])
def test_inputs_of_a_tile_depend_on_its_own_generator_alone(build: Callable[[], Any]) -> None:
    network = build()
    alone = [network.inputs([rng], (64, 96)) for rng in rngs(1, 2, 3)]
    together = network.inputs(rngs(1, 2, 3), (64, 96))
    reverse = network.inputs(rngs(3, 2, 1), (64, 96))
    for place in range(3):
        for part, whole in enumerate(together):
            assert torch.equal(whole[place], alone[place][part][0])
            assert torch.equal(whole[place], reverse[part][2 - place])
    assert not torch.equal(together[0][0], together[0][1])


def test_noise_has_variance_one_at_every_level_and_halves_its_size() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 1, 512, 512)).astype(np.float32))
    levels = noise_pyramid(noise, 5, torch.float32)
    assert [tuple(level.shape[2:]) for level in levels] == [(32, 32), (64, 64), (128, 128), (256, 256), (512, 512)]
    assert torch.equal(levels[-1], noise)
    for level in levels:
        n = level.numel()
        assert float(level.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / n))  # of n independent normal values
        assert float(level.mean()) == pytest.approx(0.0, abs=5 / math.sqrt(n))
    one = noise[0, 0, :2, :2]
    assert float(levels[-2][0, 0, 0, 0]) == pytest.approx(float(one.sum()) / 2)  # the sum of four over its deviation
    assert noise_pyramid(noise, 5, torch.bfloat16)[0].dtype == torch.bfloat16


def test_depas_noise_acts_in_every_layer_once_its_scale_is_not_zero() -> None:
    network = depas().eval()
    tile, place, noise = network.inputs(rngs(1), (64, 64))
    plain = network(tile, place, noise)
    assert torch.equal(plain, network(tile, place, -noise))
    for layer in range(5):
        with torch.no_grad():
            network.noise_scale.zero_()
            network.noise_scale[layer] = 0.05
        assert not torch.equal(plain, network(tile, place, noise)), layer


@pytest.mark.parametrize("size", [(32, 64), (64, 64)])
def test_dcgan_draws_its_own_size(size: tuple[int, int]) -> None:
    network = DcganGenerator(5, WIDTHS, size, 6).eval()
    (latent,) = network.inputs(rngs(1, 2, 3), size)
    assert latent.shape == (3, 5)
    assert network(latent).shape == (3, 6, *size)
    with pytest.raises(AssertionError):
        network.inputs(rngs(1), (96, 96))


# U-Net and ResNet.


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("depth", "size"), [(2, (32, 64)), (4, (32, 64)), (5, (64, 96))])
def test_a_unet_gives_logits_of_the_size_it_is_given(depth: int, size: tuple[int, int], norm: str) -> None:
    network = UNet(7, 6, 4, depth, norm, 0.5)
    assert network(torch.randn(2, 7, *size)).shape == (2, 6, *size)
    assert network.eval()(torch.randn(1, 7, *size)).shape == (1, 6, *size)


def test_a_unet_drops_in_its_three_innermost_layers_and_in_training_alone() -> None:
    network = UNet(2, 1, 4, 6, "batch", 0.5)
    dropping = [any(isinstance(layer, nn.Dropout) for layer in up) for up in network.ups]
    assert dropping == [True, True, True, False, False]
    x = torch.randn(2, 2, 64, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_a_unets_output_depends_on_its_input_through_every_skip() -> None:
    network = UNet(2, 1, 4, 4, "batch").eval()
    x = torch.randn(1, 2, 32, 32, requires_grad=True)
    network(x)[0, 0, 16, 16].backward()
    assert x.grad is not None
    reached = x.grad.abs().sum(1)[0] > 0
    assert reached.all()  # the innermost layer sees 2 x 2 pixels of a 32 x 32 tile


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("size", [(32, 32), (32, 96)])
def test_a_resnet_gives_logits_of_the_size_it_is_given(size: tuple[int, int], norm: str) -> None:
    network = ResnetGenerator(6, 6, 4, 2, norm)
    assert network(torch.randn(2, 6, *size)).shape == (2, 6, *size)


# Discriminators.


@pytest.mark.parametrize("size", [(32, 64), (64, 64), (96, 160), (128, 256)])
def test_a_discriminator_of_whole_masks_gives_one_logit_per_mask_at_three_scales(size: tuple[int, int]) -> None:
    discriminators = Scales([WholeDiscriminator(6, 4, (size[0] >> level, size[1] >> level)) for level in range(3)])
    said = discriminators(torch.rand(5, 6, *size))
    assert [tuple(logits.shape) for logits in said] == [(5,)] * 3


def test_smaller_scales_see_means_over_squares_of_pixels() -> None:
    seen: list[torch.Tensor] = []

    class Eye(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    x = torch.rand(1, 1, 8, 8)
    Scales([Eye(), Eye(), Eye()])(x)
    assert torch.equal(seen[0], x)
    torch.testing.assert_close(seen[1][0, 0, 1, 2], x[0, 0, 2:4, 4:6].mean())
    torch.testing.assert_close(seen[2][0, 0, 0, 1], x[0, 0, 0:4, 4:8].mean())
    Scales([Eye(), Eye(), Eye()], pooling=3)(x)
    torch.testing.assert_close(seen[4][0, 0, 1, 2], x[0, 0, 1:4, 3:6].mean())
    torch.testing.assert_close(seen[4][0, 0, 0, 0], x[0, 0, 0:2, 0:2].mean())  # pixels beyond the border do not count
    torch.testing.assert_close(seen[5][0, 0, 1, 1], seen[4][0, 0, 1:4, 1:4].mean())


@pytest.mark.parametrize(("depth", "field"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_a_patch_discriminators_receptive_field_is_the_published_one(depth: int, field: int) -> None:
    """Which pixels a logit in the middle answers to; without norm, as instance norm sees the whole tile."""
    network = PatchDiscriminator(1, 4, depth, "none").double()
    x = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = network(x)[-1]
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert x.grad is not None
    rows, columns = (torch.nonzero(x.grad[0, 0].abs().sum(axis)).flatten() for axis in (1, 0))
    for reached in (rows, columns):
        assert int(reached[-1] - reached[0]) + 1 == field
    # And from the other side: a pixel that is changed changes the logits within reach and no other.
    y, other = x.detach().clone(), network(x.detach())[-1]
    y[0, 0, 128, 128] += 1.0
    changed = torch.nonzero((network(y)[-1] != other)[0, 0])
    extent = (changed.max(0).values - changed.min(0).values + 1).tolist()
    stride = 2**depth
    assert all(field / stride - 1 <= side <= field / stride + 1 for side in extent)


def test_a_patch_discriminator_gives_every_stage_and_a_map_of_logits() -> None:
    stages = PatchDiscriminator(2, 4, 3)(torch.rand(2, 2, 64, 128))
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (4, 32, 64), (8, 16, 32), (16, 8, 16), (32, 7, 15), (1, 6, 14),
    ]  # fmt: skip
    padded = PatchDiscriminator(2, 4, 3, padding=2)(torch.rand(2, 2, 64, 128))  # half a kernel, rounded up
    assert [tuple(stage.shape[2:]) for stage in padded] == [(33, 65), (17, 33), (9, 17), (10, 18), (11, 19)]


# First weights, folding, precision.


def test_first_weights_are_normal_with_the_papers_deviation() -> None:
    torch.manual_seed(0)
    network = draw_first_weights(nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(4096), nn.Linear(8, 8)))
    convolution, norm, linear = network.requires_grad_(False)
    assert float(convolution.weight.std()) == pytest.approx(WEIGHT_STD, rel=0.05)
    assert float(norm.weight.mean()) == pytest.approx(1.0, abs=0.002)
    assert float(norm.weight.std()) == pytest.approx(WEIGHT_STD, rel=0.05)
    assert not convolution.bias.any()
    assert not norm.bias.any()
    assert not linear.bias.any()


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="batch, instance or none, got 'layer'"):
        make_norm("layer", 4)
    assert isinstance(make_norm("none", 4), nn.Identity)


def lived_in(network: nn.Module) -> nn.Module:
    """The network with weights and running statistics that are not those of a first day."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.15)
    for name, parameter in network.named_parameters():
        if name == "noise_scale":
            nn.init.uniform_(parameter, 0.01, 0.03)
    return network.eval()


GENERATORS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], tuple[torch.Tensor, ...]]]] = {
    "depas": (depas, lambda network: network.inputs(rngs(1, 2), (64, 96))),
    "dcgan": (lambda: DcganGenerator(5, WIDTHS, (64, 96), 1), lambda network: network.inputs(rngs(1, 2), (64, 96))),
    "priorpath": (lambda: UNet(2, 1, 4, 5, "batch"), lambda network: (torch.randn(2, 2, 64, 96),)),
    "cyclegan": (lambda: ResnetGenerator(1, 1, 4, 2, "batch"), lambda network: (torch.randn(2, 1, 64, 96),)),
    "priorpath_paper": (
        lambda: UNet(2, 1, 4, 5, "batch", activation="relu", padding_mode="reflect"),
        lambda network: (torch.randn(2, 2, 64, 96),),
    ),
}


def test_every_generator_that_learns_is_folded_here() -> None:
    assert set(GENERATORS) == {*TRAINABLE, "priorpath_paper"}
    assert all(issubclass(resolve_mask_generator(name), UsesWeights) for name in TRAINABLE)


@pytest.mark.parametrize("name", GENERATORS)
def test_folding_batch_norm_changes_nothing_but_rounding(name: str) -> None:
    build, draw = GENERATORS[name]
    network = lived_in(build())
    inputs = draw(network)
    with torch.inference_mode():
        before = network(*inputs)
        after = fold_batch_norm(copy.deepcopy(network))
        assert not [module for module in after.modules() if isinstance(module, nn.BatchNorm2d)]
        error = (after(*inputs) - before).abs().max() / before.std()
    assert float(error) < 1e-4
    assert float(before.std()) > 0.05  # there is something to compare


@pytest.mark.parametrize("name", GENERATORS)
def test_a_network_in_bfloat16_keeps_its_last_layer_and_is_close_to_float32(name: str) -> None:
    build, draw = GENERATORS[name]
    network = lived_in(build())
    inputs = draw(network)
    plain = ready(copy.deepcopy(network), "fp32", "cpu")
    fast = ready(copy.deepcopy(network), "bf16", "cpu")
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert not fast.training
    with torch.inference_mode():
        before, after = plain(*inputs), fast(*inputs)
    assert after.dtype == torch.float32
    assert after.unique().numel() > 0.9 * after.numel()  # a quantile finds its pixels: bfloat16 would have few values
    error = (after - before).square().mean().sqrt() / before.std()
    assert 0.0 < float(error) < 0.05
    with torch.inference_mode():
        assert float((plain(*inputs) - network(*inputs)).abs().max() / before.std()) < 1e-4


@pytest.mark.parametrize(("depth", "discriminators"), [(1, 1), (3, 1), (3, 2), (2, 3), (5, 1)])
def test_the_smallest_side_that_patches_discriminator_is_as_stated(depth: int, discriminators: int) -> None:
    least = smallest_side(depth, discriminators)
    network = Scales([PatchDiscriminator(1, 2, depth, "none") for _ in range(discriminators)])
    assert network(torch.rand(1, 1, least, least))[-1][-1].shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="Kernel size"):
        network(torch.rand(1, 1, least - 1, least - 1))
