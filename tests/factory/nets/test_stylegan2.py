"""StyleGAN2's networks and what they minimise, against arithmetic written out here."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import signal
from torch import nn

from factory.nets.stylegan2 import Discriminator, Generator, StyleGan2Shape, Tap, sizes_of
from factory.nets.stylegan2_layers import (
    Blur,
    EqualConvolution,
    EqualLinear,
    ModulatedConvolution,
    doubled,
    with_batch_deviation,
)
from factory.nets.stylegan2_losses import (
    LazyAdam,
    ema_beta,
    ema_kimg_of,
    follow,
    path_length_penalty,
    path_lengths,
    r1_gamma_of,
    r1_penalty,
)
from tests.original_stylegan2 import their_doubling

SHAPE = StyleGan2Shape(z_dim=6, w_dim=5, mapping_layers=2, channel_base=96, channel_max=8)

pytestmark = pytest.mark.usefixtures("one_thread")


def small_generator(size: tuple[int, int] = (16, 16), shape: StyleGan2Shape = SHAPE) -> Generator:
    """One whose noise counts and whose biases are not 0."""
    torch.manual_seed(3)
    network = Generator(shape, size)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((16, 16), [(4, 4), (8, 8), (16, 16)]),
        ((32, 64), [(4, 8), (8, 16), (16, 32), (32, 64)]),
        ((96, 96), [(6, 6), (12, 12), (24, 24), (48, 48), (96, 96)]),
        ((160, 96), [(10, 6), (20, 12), (40, 24), (80, 48), (160, 96)]),
    ],
)
def test_images_are_doubled_from_a_seed_of_at_least_four_pixels(
    size: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    assert sizes_of(size) == sizes


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="expected even sides of at least 8, got 9x16"):
        sizes_of((9, 16))


def test_the_published_widths() -> None:
    shape = StyleGan2Shape()
    assert [shape.channels((side, side)) for side in (4, 64, 128, 1024, 4096)] == [512, 512, 256, 32, 8]
    assert shape.channels((512, 1024)) == 32


@pytest.mark.parametrize(("size", "names"), [((16, 16), ["b4", "b8", "b16"]), ((8, 16), ["b4x8", "b8x16"])])
def test_images_taps_and_logits_have_their_shapes(size: tuple[int, int], names: list[str]) -> None:
    network, discriminator = small_generator(size), Discriminator(SHAPE, size)
    latents = torch.randn(2, 6)
    ws = network.mapping.truncated(network.mapping(latents), network.synthesis.layers)
    taps: list[Tap] = []
    image = network.synthesis(ws, taps=taps)
    assert image.shape == (2, 3, *size)
    assert torch.equal(image, network(latents))
    expected = [f"{names[0]}.conv1", *(f"{name}.conv{n}" for name in names[1:] for n in (0, 1))]
    assert [tap.name for tap in taps] == expected
    sides = [sizes_of(size)[0], *(s for s in sizes_of(size)[1:] for _ in range(2))]
    assert [tuple(tap.features.shape) for tap in taps] == [(2, SHAPE.channels(s), *s) for s in sides]
    assert discriminator(image).shape == (2,)


def test_a_gradient_reaches_every_parameter_of_both_networks() -> None:
    network, discriminator = small_generator((8, 16)), Discriminator(SHAPE, (8, 16))
    discriminator(network(torch.randn(2, 6))).sum().backward()
    for part in (network, discriminator):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("up", [False, True])
def test_demodulated_features_have_variance_one_whatever_the_styles(up: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConvolution(64, 48, 3, 5, up=up)
    with torch.no_grad():
        layer.affine.weight.mul_(20)  # styles of very different sizes
        said = layer(torch.randn(3, 64, 16, 16), torch.randn(3, 5))[..., 2:-2, 2:-2]
    for image in said:
        assert float(image.var()) == pytest.approx(float(said.var()), rel=0.25)
    if not up:  # white noise that is blurred loses power
        assert float(said.var()) == pytest.approx(1.0, rel=0.1)


def test_modulation_and_demodulation_are_those_of_the_papers_weights() -> None:
    torch.manual_seed(1)
    layer = ModulatedConvolution(3, 4, 3, 5).double()
    x, w = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    said = layer(x, w)
    styles = w @ layer.affine.weight.T / math.sqrt(5) + 1
    for image in range(2):
        weight = layer.weight * styles[image][None, :, None, None]  # Eq. 1
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # Eq. 3
        expected = torch.nn.functional.conv2d(x[image : image + 1], weight, padding=1)
        torch.testing.assert_close(said[image : image + 1], expected)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_an_image_drawn_by_itself_is_that_of_a_batch(clamp: float | None) -> None:
    network = small_generator((8, 16), SHAPE.model_copy(update={"conv_clamp": clamp})).double()
    latents = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = [torch.randn(2, 1, *size, dtype=torch.float64) for size in network.synthesis.noise_sizes]
    ws = network.mapping.truncated(network.mapping(latents), network.synthesis.layers)
    taps: list[Tap] = []
    image = network.synthesis(ws, noise, taps)
    with torch.inference_mode():
        for n in range(2):
            own: list[Tap] = []
            one = network.synthesis(ws[n : n + 1], [drawn[n : n + 1] for drawn in noise], own)
            torch.testing.assert_close(one, image[n : n + 1])
            for ours, theirs in zip(own, taps, strict=True):
                torch.testing.assert_close(ours.features, theirs.features[n : n + 1])


@pytest.mark.parametrize("make", [lambda: ModulatedConvolution(2, 2, 3, 3, up=True), lambda: EqualLinear(3, 2)])
def test_layers_differentiate_twice(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    layer = make().double()
    w = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    inputs = (w,)
    if isinstance(layer, ModulatedConvolution):
        inputs = (torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True), w)
    assert torch.autograd.gradcheck(layer, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, inputs, fast_mode=True)


def test_doubling_an_image_is_the_papers_filter_with_zeros_around() -> None:
    image = np.random.default_rng(0).standard_normal((5, 7))
    np.testing.assert_allclose(doubled(torch.from_numpy(image)[None, None])[0, 0].numpy(), their_doubling(image))


@pytest.mark.parametrize("kernel", [1, 3])
def test_halving_convolutions_blur_first(kernel: int) -> None:
    torch.manual_seed(4)
    layer = EqualConvolution(1, 1, kernel, active=False, down=True).double()
    x = np.random.default_rng(1).standard_normal((8, 6))
    taps = np.array([1, 3, 3, 1]) / 8
    weight = layer.weight[0, 0].detach().numpy() / kernel
    blurred = signal.correlate2d(np.pad(x, 1 + kernel // 2), np.outer(taps, taps), "valid")
    expected = signal.correlate2d(blurred, weight, "valid")[::2, ::2]
    np.testing.assert_allclose(layer(torch.from_numpy(x)[None, None])[0, 0].detach().numpy(), expected, atol=1e-12)


def test_a_strided_blur_in_bfloat16_is_that_in_float32_and_goes_back_as_it() -> None:
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    said = []
    for dtype in (torch.float32, torch.bfloat16):
        given = x.to(dtype).requires_grad_(True)
        blurred = Blur(padding=1, stride=2)(given)
        said += [blurred.detach().float(), *torch.autograd.grad(blurred.square().sum(), given)]
    assert said[0].shape == (2, 3, 4, 6)
    torch.testing.assert_close(said[2], said[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(said[3].float(), said[1], rtol=2e-2, atol=2e-2)


def test_images_are_the_same_in_training() -> None:
    network, latents = small_generator((8, 16)), torch.randn(2, 6)
    torch.testing.assert_close(network.train()(latents), network.eval()(latents))


@pytest.mark.parametrize(("count", "groups"), [(4, [[0, 1, 2, 3]]), (6, [[0, 2, 4], [1, 3, 5]]), (1, [[0]])])
def test_the_deviation_over_the_batch_is_that_of_each_group(count: int, groups: list[list[int]]) -> None:
    x = torch.randn(count, 3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    said = with_batch_deviation(x)
    assert torch.equal(said[:, :3], x)
    for group in groups:
        expected = np.sqrt(x[group].numpy().var(0) + 1e-8).mean()
        np.testing.assert_allclose(said[group, 3].numpy(), np.full((len(group), 2, 5), expected))


def test_noise_is_constant_or_given_and_never_of_the_global_generator() -> None:
    network, latents = small_generator(), torch.ones(1, 6)
    before = torch.get_rng_state()
    still = network(latents)
    noise = [torch.ones(1, 1, *size) for size in network.synthesis.noise_sizes]
    assert not torch.allclose(still, network(latents, noise))
    assert torch.equal(network(latents), still)
    assert torch.equal(torch.get_rng_state(), before)
    constants = [t[None, None] for name, t in network.named_buffers() if name.endswith("noise_const")]
    torch.testing.assert_close(network(latents, constants), still)
    with pytest.raises(ValueError, match="expected 5 maps, got 4"):
        network(latents, noise[1:])


def test_truncation_draws_styles_to_their_running_mean() -> None:
    mapping = small_generator().mapping
    for _ in range(3):
        mapping.follow(torch.tensor([[1.0, 2, 3, 4, 5], [3.0, 2, 1, 0, -1]]), 0.5)
    torch.testing.assert_close(mapping.w_avg, torch.full((5,), 2.0) * (1 - 0.5**3))
    styles = torch.arange(10.0).reshape(2, 5)
    assert torch.equal(mapping.truncated(styles, 4), styles[:, None].expand(-1, 4, -1))
    assert torch.equal(mapping.truncated(styles, 4, 0.0)[1, 2], mapping.w_avg)
    half = mapping.truncated(styles, 4, 0.5, cutoff=1)
    torch.testing.assert_close(half[:, 0], (styles + mapping.w_avg) / 2)
    assert torch.equal(half[:, 1:], styles[:, None].expand(-1, 3, -1))


def test_latents_count_by_their_direction_alone() -> None:
    mapping, latents = small_generator().mapping, torch.randn(2, 6)
    torch.testing.assert_close(mapping(latents), mapping(7 * latents), rtol=1e-4, atol=1e-5)


def test_r1_is_the_squared_gradient_by_hand() -> None:
    images = torch.randn(3, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(slope * 0.5 * images.square().sum((1, 2, 3)), images)  # gradient: slope x
    squares = float(images.detach().square().sum()) / 3
    assert float(penalty.detach()) == pytest.approx(0.49 * squares)
    (by_slope,) = torch.autograd.grad(penalty, slope)
    assert float(by_slope) == pytest.approx(1.4 * squares)


def test_r1_of_a_discriminator_is_that_of_finite_differences() -> None:
    torch.manual_seed(5)
    discriminator = Discriminator(SHAPE, (8, 8)).double()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    penalty = float(r1_penalty(discriminator(images), images).detach())
    moved = images.detach() + 1e-6 * torch.eye(192, dtype=torch.float64).reshape(192, 3, 8, 8)
    with torch.no_grad():
        lone = torch.cat([discriminator(m[None]) for m in moved])
        slopes = (lone - discriminator(images)) / 1e-6
    assert penalty == pytest.approx(float(slopes.square().sum()), rel=1e-3)


def test_path_lengths_of_a_linear_generator_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    ws = torch.randn(2, 4, 5, dtype=torch.float64, generator=rng, requires_grad=True)
    jacobian = torch.randn(4, 5, 3 * 2 * 3, dtype=torch.float64, generator=rng)
    noise = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=rng)
    images = torch.einsum("nlc,lcp->np", ws, jacobian).reshape(2, 3, 2, 3)
    lengths = path_lengths(images, ws, noise).detach()
    for image in range(2):
        pulled = jacobian.numpy() @ noise[image].numpy().ravel() / math.sqrt(6)  # [layers, w_dim]
        assert float(lengths[image]) == pytest.approx(math.sqrt((pulled**2).sum(1).mean()))
    penalty, mean = path_length_penalty(torch.tensor([3.0, 5.0]), torch.tensor(2.0), decay=0.5)
    assert (float(penalty), float(mean)) == (2.0, 3.0)  # of distances 0 and 2


def test_the_average_halves_in_ema_kimg_and_ramps_up() -> None:
    assert r1_gamma_of((512, 512), 8) == pytest.approx(6.5536)
    assert ema_kimg_of(32) == 10
    assert ema_beta(8, 10**7, 2.5, None) == pytest.approx(0.5 ** (8 / 2500))
    assert ema_beta(8, 1000, 2.5, 0.05) == pytest.approx(0.5 ** (8 / 50))
    assert ema_beta(8, 0, 2.5, 0.05) == 0
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(3)
        network.running_mean.fill_(7)  # type: ignore[union-attr]
    follow(average, network, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [7, 7]  # type: ignore[union-attr]


def test_lazy_adam_is_adam_with_corrected_constants() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    c = 16 / 17
    lazy = LazyAdam(ours.parameters(), 0.1, (0.5, 0.99), 16)
    adam = torch.optim.Adam(theirs.parameters(), 0.1 * c, (0.5**c, 0.99**c))
    for _ in range(3):
        for network, optimiser in ((ours, lazy), (theirs, adam)):
            optimiser.zero_grad()
            network(torch.ones(1, 3)).square().sum().backward()
            optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert lazy.param_groups[0]["lr"] == 0.1
