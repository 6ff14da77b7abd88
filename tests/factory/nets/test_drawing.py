"""Networks made ready to draw from say what they said before, up to rounding."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from factory.nets import inference_layers
from factory.nets.depas import DcganGenerator, DepasGenerator
from factory.nets.drawing import ready
from factory.nets.inference_layers import (
    Convolution,
    FullPrecisionHead,
    InstanceNorm,
    UpsamplingKernel3,
    UpsamplingKernel4,
    WideKernelHead,
)
from factory.nets.resnet import ResnetGenerator
from factory.nets.unet import UNet
from factory.nets.winograd import WinogradConvolution, WinogradUpsampling

FP32 = torch.float32


def _networks() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "depas": DepasGenerator(4, 12, (32, 24, 16, 12, 8), mixing=2, out_channels=1),
        "depas without mixing": DepasGenerator(4, 12, (32, 24, 16, 12, 8), mixing=0, out_channels=5),
        "dcgan": DcganGenerator(20, (32, 24, 16, 12, 8), (64, 96), 1),
        "u-net batch": UNet(2, 1, 12, 4, "batch"),
        "u-net instance": UNet(4, 3, 12, 4, "instance", 0.5),
        "resnet": ResnetGenerator(1, 1, 8, 2),
    }


def _inputs(network: nn.Module, size: tuple[int, int] = (64, 96), count: int = 2) -> tuple[torch.Tensor, ...]:
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    if isinstance(network, DepasGenerator | DcganGenerator):
        return network.inputs(rngs, size)
    channels = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)).in_channels
    return (torch.from_numpy(np.stack([rng.standard_normal((channels, *size), np.float32) for rng in rngs])),)


def _lively(network: nn.Module) -> nn.Module:
    """With statistics in its norms, gains, and noise that counts, so that nothing is folded trivially."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight.shape[0] * 4
            nn.init.normal_(module.weight, 0.0, (2.0 / fan) ** 0.5, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
    if isinstance(network, DepasGenerator):
        nn.init.uniform_(network.noise_scale, 0.005, 0.02, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", _networks())
def test_ready_says_the_same_in_float32(name: str) -> None:
    network = _lively(_networks()[name])
    inputs = _inputs(network)
    with torch.inference_mode():
        before = network(*inputs)
        after = ready(copy.deepcopy(network), "fp32", "cpu")(*inputs)
    assert after.dtype == FP32
    assert after.shape == before.shape
    assert float((after - before).abs().max()) <= 1e-5 * max(1.0, float(before.abs().max()))


@pytest.mark.parametrize("name", _networks())
def test_ready_draws_almost_the_same_mask_in_bfloat16(name: str) -> None:
    network = _lively(_networks()[name])
    inputs = _inputs(network)
    with torch.inference_mode():
        before = network(*inputs)
        after = ready(copy.deepcopy(network), "bf16", "cpu")(*inputs)
    assert after.dtype == FP32
    assert float((after - before).std() / before.std()) < 0.03
    cut = [logits[:, -1] > logits[:, -1].median() for logits in (before, after)]
    assert float((cut[0] != cut[1]).float().mean()) < 0.02
    assert len(after.unique()) > 0.5 * after.numel()  # logits of full precision: a quantile finds few ties


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ready_gives_the_same_bits_again_and_after_another_size(precision: str) -> None:
    network = _lively(_networks()["u-net batch"])
    first, second = (ready(copy.deepcopy(network), precision, "cpu") for _ in range(2))  # type: ignore[arg-type]
    inputs, others = _inputs(network), _inputs(network, (32, 48))
    with torch.inference_mode():
        second(*others)
        results = [first(*inputs), first(*inputs), second(*inputs)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_ready_leaves_the_inputs_as_they_are() -> None:
    for name, network in _networks().items():
        inputs = _inputs(network)
        kept = [tensor.clone() for tensor in inputs]
        with torch.inference_mode():
            ready(network, "fp32", "cpu")(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True)), name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (3, 5), (4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_doubling_is_the_transposed_convolution(height: int, width: int, bias: bool, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("factory.nets.winograd._MANY_PIXELS", 1)
    layer = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(2, 5, height, width)
    for kind in (UpsamplingKernel4, WinogradUpsampling):
        torch.testing.assert_close(kind(layer.weight, layer.bias, FP32)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_winograd_upsampling_takes_the_plain_way_on_small_maps(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    layer = WinogradUpsampling(torch.randn(4, 3, 4, 4), None, FP32)
    monkeypatch.setattr(WinogradUpsampling, "_along_rows", lambda *_: pytest.fail("the Winograd way on a small map"))
    assert layer(torch.randn(1, 4, 8, 8)).shape == (1, 3, 16, 16)


def test_winograd_upsampling_rounds_little_more_than_plain_in_bfloat16() -> None:
    torch.manual_seed(0)
    weight, x = 0.02 * torch.randn(256, 128, 4, 4), torch.randn(1, 256, 32, 32).relu().bfloat16()
    exact = F.conv_transpose2d(x.float(), weight, None, 2, 1)
    plain, winograd = (
        kind(weight, None, torch.bfloat16)(x).float() - exact for kind in (UpsamplingKernel4, WinogradUpsampling)
    )
    assert float(winograd.std()) < 2.5 * float(plain.std())
    assert float(winograd.std()) < 0.01 * float(exact.std())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (3, 5), (4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_uneven_doubling_is_the_transposed_convolution(height: int, width: int, bias: bool) -> None:
    layer = nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1, output_padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(2, 5, height, width)
    torch.testing.assert_close(UpsamplingKernel3(layer.weight, layer.bias, FP32)(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (3, 6), (4, 4), (8, 5), (10, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_convolution_is_the_convolution(height: int, width: int, bias: bool) -> None:
    layer = nn.Conv2d(5, 4, 3, bias=bias).requires_grad_(False)
    x = torch.randn(2, 5, height, width)
    torch.testing.assert_close(WinogradConvolution(layer.weight, layer.bias, FP32)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_winograd_convolution_rounds_little_more_than_plain_in_bfloat16() -> None:
    torch.manual_seed(0)
    weight, x = 0.02 * torch.randn(64, 256, 3, 3), torch.randn(1, 256, 18, 18).relu().bfloat16()
    exact = F.conv2d(x.float(), weight)
    plain = Convolution(weight, None, (1, 1), (0, 0), (1, 1), torch.bfloat16)(x).float() - exact
    winograd = WinogradConvolution(weight, None, torch.bfloat16)(x).float() - exact
    assert float(winograd.std()) < 3 * float(plain.std())
    assert float(winograd.std()) < 0.01 * float(exact.std())


def test_nearest_neighbours_and_a_convolution_become_one_doubling() -> None:
    layers = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(5, 4, 3, padding=1))
    network = nn.ModuleDict({"layers": layers.requires_grad_(False), "head": nn.Conv2d(4, 1, 1)})
    x = torch.randn(2, 5, 6, 7)
    before = layers(x)
    ready(network, "fp32", "cpu")
    assert isinstance(layers[1], UpsamplingKernel4)
    torch.testing.assert_close(layers(x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 3, 7), nn.Conv2d(6, 2, (5, 3), bias=False), nn.Conv2d(6, 3, 1)])
def test_wide_head_is_its_convolution(layer: nn.Conv2d) -> None:
    x = torch.randn(2, 6, 12, 17)
    with torch.inference_mode():
        exact = layer(x.relu())
        full, half = (WideKernelHead(nn.ReLU(), layer, dtype)(x) for dtype in (FP32, torch.bfloat16))
    torch.testing.assert_close(full, exact, rtol=1e-5, atol=1e-6)
    assert half.dtype == FP32
    assert float((half - exact).std()) < 0.01 * float(exact.std())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 1, 3, padding=1),
        nn.Conv2d(6, 4, 7),
        nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1, bias=False),
    ],
)
def test_head_is_its_convolution_in_float32(layer: nn.Module, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("factory.nets.inference_layers._PIXELS_AT_ONCE", 50)
    x = torch.randn(2, 6, 12, 17).bfloat16()
    with torch.inference_mode():
        expected = layer(x.float().relu())
        found = FullPrecisionHead(nn.ReLU(), layer)(x)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_instance_norm_and_convolution_are_those_of_torch() -> None:
    x = torch.randn(3, 4, 9, 7)
    torch.testing.assert_close(InstanceNorm(1e-5)(x), F.instance_norm(x, eps=1e-5), rtol=1e-5, atol=1e-5)
    layer = nn.Conv2d(4, 5, 3, stride=2, padding=1).requires_grad_(False)
    ours = Convolution(layer.weight, layer.bias, (2, 2), (1, 1), (1, 1), FP32)
    for _ in range(2):  # the first call brings the weights into another layout
        torch.testing.assert_close(ours(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_a_torch_without_its_private_operators_draws_the_same_up_to_rounding(
    precision: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _lively(_networks()["u-net batch"])
    inputs = _inputs(network)
    with torch.inference_mode():
        fast = ready(copy.deepcopy(network), precision, "cpu")(*inputs)  # type: ignore[arg-type]
        monkeypatch.setattr(inference_layers, "_OPERATORS", (*inference_layers._OPERATORS, "_gone"))
        assert not inference_layers._onednn_computes(FP32)
        plain = ready(copy.deepcopy(network), precision, "cpu")  # type: ignore[arg-type]
        found = plain(*inputs)
    assert not any(part.weight.is_mkldnn for part in plain.modules() if isinstance(part, Convolution))
    assert float((found - fast).std() / fast.std()) < most
