"""Prepares networks for inference: batch norm folded in, the requested precision, faster layers.

The outputs are those of the network in eval mode, up to rounding; a prepared network can no longer be trained, saved or
loaded into.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import nn

from factory.core.precision import Precision
from factory.nets.inference_layers import (
    Convolution,
    ExactInstanceNorm,
    FullPrecisionHead,
    InstanceNorm,
    Pair,
    UpsamplingKernel3,
    UpsamplingKernel4,
    WideKernelHead,
)  # fmt: skip
from factory.nets.layers import fold_batch_norm
from factory.nets.pix2pixhd import GlobalGenerator
from factory.nets.winograd import WinogradConvolution, WinogradUpsampling

_WIDE = 5
"""Rows of a kernel from which on a last layer in float32 is a `WideKernelHead`."""


def ready(network: nn.Module, precision: Precision, device: str) -> nn.Module:
    """Prepare a network for inference, in place; it takes float32 inputs and gives float32 logits.

    Args:
        network: with its weights; its last layer is `head`, a convolution or an `nn.Sequential` that ends in one.
        precision: bf16 computes in bfloat16, except for the last layer of networks that draw masks.
        device: of the computation.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    fold_batch_norm(network.eval()).requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True  # no network here uses the input of a ReLU again
    # An image has 256 levels anyway; a mask is thresholded at a quantile of its logits, which rounding would tie.
    head_dtype = dtype if isinstance(network, GlobalGenerator) else torch.float32
    network.head = _head(cast(nn.Module, network.head), head_dtype)
    _join_upsampling(network)
    _replace_layers(network, dtype, ExactInstanceNorm if isinstance(network, GlobalGenerator) else InstanceNorm)
    return network.to(device)


def _head(head: nn.Module, dtype: torch.dtype) -> nn.Module:
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    last = layers.pop()
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
    before = nn.Sequential(*layers)
    shape = (last.stride, last.padding, last.dilation)
    wide = last.kernel_size[0] >= _WIDE or dtype != torch.float32
    if isinstance(last, nn.Conv2d) and wide and shape == ((1, 1), (0, 0), (1, 1)):
        return WideKernelHead(before, last, dtype)
    return FullPrecisionHead(before, last)


def _join_upsampling(network: nn.Module) -> None:
    """Replace nearest-neighbour upsampling and a convolution of kernel 3 by one transposed convolution of kernel 4."""
    # Each kind of output pixels depends on 2 x 2 pixels, some through a sum of weights: 16 multiplications, not 36.
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index, (first, second) in enumerate(pairwise(module)):
            if isinstance(first, nn.Upsample) and isinstance(second, nn.Conv2d):
                assert (first.scale_factor, first.mode) == (2, "nearest")
                assert (second.kernel_size, second.stride, second.padding) == ((3, 3), (1, 1), (1, 1))
                module[index], module[index + 1] = nn.Identity(), _joined(second)


def _joined(layer: nn.Conv2d) -> nn.ConvTranspose2d:
    weight = layer.weight.detach().transpose(0, 1)
    for axis in (2, 3):
        k0, k1, k2 = weight.unbind(axis)
        weight = torch.stack([k2, k1 + k2, k0 + k1, k0], axis)
    joined = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, stride=2, padding=1)
    joined.weight, joined.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    return joined


def _replace_layers(module: nn.Module, dtype: torch.dtype, norm: type[InstanceNorm]) -> None:
    """Replace torch's layers by those of `inference_layers`, recursively."""
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            setattr(module, name, _convolution(layer, dtype))
        elif isinstance(layer, nn.ConvTranspose2d):
            setattr(module, name, _transposed(layer, dtype))
        elif isinstance(layer, nn.InstanceNorm2d) and not layer.affine and not layer.track_running_stats:
            setattr(module, name, norm(layer.eps))
        else:
            _replace_layers(layer, dtype, norm)


def _convolution(layer: nn.Conv2d, dtype: torch.dtype) -> nn.Module:
    assert layer.groups == 1
    padding, dilation = cast(Pair, layer.padding), cast(Pair, layer.dilation)
    stride = cast(Pair, layer.stride)
    shape = (layer.kernel_size, stride, padding, dilation)
    if shape == ((3, 3), (1, 1), (0, 0), (1, 1)) and WinogradConvolution.pays(layer.in_channels, layer.out_channels):
        return WinogradConvolution(layer.weight, layer.bias, dtype)
    if layer.padding_mode == "zeros":
        return Convolution(layer.weight, layer.bias, stride, padding, dilation, dtype)
    pad = {"replicate": nn.ReplicationPad2d, "reflect": nn.ReflectionPad2d}[layer.padding_mode]
    margins = (padding[1], padding[1], padding[0], padding[0])
    return nn.Sequential(pad(margins), Convolution(layer.weight, layer.bias, stride, (0, 0), dilation, dtype))


def _transposed(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> nn.Module:
    """An upsampling layer where the size doubles; DCGAN's first layer, of one pixel, stays as it is, in float32."""
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    if shape == ((3, 3), (2, 2), (1, 1), (1, 1)):
        return UpsamplingKernel3(layer.weight, layer.bias, dtype)
    if shape == ((4, 4), (2, 2), (1, 1), (0, 0)):
        pays = WinogradUpsampling.pays(layer.in_channels, layer.out_channels)
        return (WinogradUpsampling if pays else UpsamplingKernel4)(layer.weight, layer.bias, dtype)
    return layer
