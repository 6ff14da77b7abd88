"""The global generator, and what making it ready to draw changes: nothing, up to rounding."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from factory.nets.drawing import ready
from factory.nets.inference_layers import ExactInstanceNorm, UpsamplingKernel3, UpsamplingKernel4, WideKernelHead
from factory.nets.pix2pixhd import GlobalGenerator
from factory.nets.stitching import to_pixels
from factory.nets.winograd import WinogradConvolution

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {
    "transposed": {"upsampling": "transposed"},
    "resize": {"upsampling": "resize"},
    "batch norm": {"norm": "batch", "kernel": 3},
    "modulated": {"upsampling": "resize", "norm": "batch", "modulated": True},
}


def _network(name: str, width: int = 8) -> GlobalGenerator:
    torch.manual_seed(2)
    network = GlobalGenerator(4, width=width, downs=2, blocks=2, **({"kernel": 5} | SHAPES[name]))  # type: ignore[arg-type]
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.01, 0.05)
    return network.eval()


def _classes(size: tuple[int, int], count: int = 1) -> torch.Tensor:
    coarse = np.random.default_rng(6).integers(0, 4, (count, size[0] // 8, size[1] // 8))
    labels = torch.from_numpy(coarse).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("name", SHAPES)
def test_ready_draws_the_same_image_in_float32(name: str) -> None:
    network, x = _network(name), _classes((32, 48), 2)
    with torch.inference_mode():
        before, after = network(x), ready(copy.deepcopy(network), "fp32", "cpu")(x)
    assert after.dtype == torch.float32
    assert float((after - before).abs().max()) <= 2e-5 * float(before.abs().max())


@pytest.mark.parametrize("name", SHAPES)
def test_ready_moves_few_grey_levels_in_bfloat16(name: str) -> None:
    network, x = _network(name), _classes((64, 96))
    with torch.inference_mode():
        before, after = (to_pixels(net(x)) for net in (network, ready(copy.deepcopy(network), "bf16", "cpu")))
    assert before.std() > 5
    assert np.abs(before.astype(np.int64) - after).mean() < 3


def test_ready_takes_the_fast_layers() -> None:
    wide = _network("transposed", width=48)  # 192 channels in the blocks
    kinds = [type(layer) for layer in ready(wide, "fp32", "cpu").modules()]
    assert (kinds.count(WinogradConvolution), kinds.count(UpsamplingKernel3), kinds.count(WideKernelHead)) == (4, 2, 1)
    assert kinds.count(ExactInstanceNorm) == 1 + 2 + 4 + 2
    kinds = [type(layer) for layer in ready(_network("resize"), "bf16", "cpu").modules()]
    assert kinds.count(UpsamplingKernel4) == 2
    assert nn.Upsample not in kinds


def test_winograd_draw_the_same_image_too() -> None:
    network, x = _network("resize", width=48), _classes((32, 64))
    with torch.inference_mode():
        before, after = network(x), ready(copy.deepcopy(network), "fp32", "cpu")(x)
    assert float((after - before).abs().max()) <= 5e-5 * float(before.abs().max())
