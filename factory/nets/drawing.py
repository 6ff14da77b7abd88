"""Networks made ready to draw from: batch norm folded in, in the precision asked for, with layers fast to draw.

What is computed is what the network says in eval mode, up to rounding; a network made ready can no longer be trained,
saved or loaded into.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from factory.core.precision import Precision
from factory.nets.inference_layers import Convolution, Doubling, FullPrecisionHead, InstanceNorm, Pair, ThriftyDoubling
from factory.nets.layers import fold_batch_norm


def ready(network: nn.Module, precision: Precision, device: str) -> nn.Module:
    """Prepare a network for drawing, in place; it takes float32 inputs and gives float32 logits.

    Args:
        network: with its weights; its last layer is `head`, a convolution or an `nn.Sequential` that ends in one.
        precision: bf16 computes all but the last layer in bfloat16.
        device: where to compute.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    fold_batch_norm(network.eval()).requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True  # no network here uses again what went into one
    network.head = _head(cast(nn.Module, network.head))
    _replace_layers(network, dtype)
    return network.to(device)


def _head(head: nn.Module) -> FullPrecisionHead:
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    last = layers.pop()
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
    return FullPrecisionHead(nn.Sequential(*layers), last)


def _replace_layers(module: nn.Module, dtype: torch.dtype) -> None:
    """Put the layers of `inference_layers` in the place of torch's, all the way down."""
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            setattr(module, name, _convolution(layer, dtype))
        elif isinstance(layer, nn.ConvTranspose2d):
            setattr(module, name, _transposed(layer, dtype))
        elif isinstance(layer, nn.InstanceNorm2d) and not layer.affine and not layer.track_running_stats:
            setattr(module, name, InstanceNorm(layer.eps))
        else:
            _replace_layers(layer, dtype)


def _convolution(layer: nn.Conv2d, dtype: torch.dtype) -> nn.Module:
    assert layer.groups == 1
    padding, dilation = cast(Pair, layer.padding), cast(Pair, layer.dilation)
    stride = cast(Pair, layer.stride)
    if layer.padding_mode == "zeros":
        return Convolution(layer.weight, layer.bias, stride, padding, dilation, dtype)
    assert layer.padding_mode == "replicate"
    pad = nn.ReplicationPad2d((padding[1], padding[1], padding[0], padding[0]))
    return nn.Sequential(pad, Convolution(layer.weight, layer.bias, stride, (0, 0), dilation, dtype))


def _transposed(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> nn.Module:
    """A `Doubling` where the layer doubles; DCGAN's first layer, which sees one pixel, stays as it is, in float32."""
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    if shape == ((3, 3), (2, 2), (1, 1), (1, 1)):  # the same with a last row and column of zeros
        return Doubling(F.pad(layer.weight, (0, 1, 0, 1)), layer.bias, dtype)
    if shape == ((4, 4), (2, 2), (1, 1), (0, 0)):
        thrifty = ThriftyDoubling.pays(layer.in_channels, layer.out_channels)
        return (ThriftyDoubling if thrifty else Doubling)(layer.weight, layer.bias, dtype)
    return layer
