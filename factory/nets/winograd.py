"""Winograd convolution and upsampling for inference: fewer multiplications, more additions (Lavin & Gray 2016).

In bfloat16 the additions round too, which each layer states. They are used where channels are many
(docs/results/drawing-layers.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from factory.nets.inference_layers import Convolution, UpsamplingKernel4

_MANY_PIXELS = 512
"""Pixels of a map, from which on products take longer than loading their kernels from memory."""


class WinogradUpsampling(UpsamplingKernel4):
    """An `UpsamplingKernel4` with 9 multiplications instead of 16: Winograd's F(2, 2) along rows and columns.

    Along one axis, a pair of inputs (a, b) gives four outputs with a kernel k. With d = a - b, and e = b' - a, where b'
    is of the pair before and 0 beyond the border, they are

        e k3 + a (k1 + k3),    d k2 + b (k0 + k2),    a (k1 + k3) - d k1,    b (k0 + k2) - e" k0,

    e" of the next pair: 6 multiplications, not 8. Sums in bfloat16 make the layer's rounding error 1.7 to 1.9 times
    that of an `UpsamplingKernel4`, which computes maps that are small or have odd sides.

    Args:
        weight: [I, O, 4, 4], of the transposed convolution. bias: [O] or None. dtype: of the arithmetic.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight, bias, dtype)
        self.dtype = dtype
        channels = weight.shape[1]
        self.bias = nn.Buffer((weight.new_zeros(channels) if bias is None else bias).detach().to(dtype))
        # Kernels of e, d, a, b of the rows, and for each of e, d, a, b of the columns.
        for row, row_kernels in enumerate(_pair_kernels(weight.detach())):
            for column in range(4):
                kernels = [_pair_kernels(kernel)[column] for kernel in row_kernels]  # [kinds of rows][of columns]
                joined = torch.cat([kernel for kinds in kernels for kernel in kinds], 1)
                self.register_buffer(f"kernels_{row}{column}", joined.to(dtype))

    @staticmethod
    def pays(in_channels: int, out_channels: int) -> bool:
        """Whether there are so many channels that the products cost much more than the additions."""
        return in_channels >= 256 and out_channels >= 128

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, O, 2 H, 2 W] of [N, I, H, W]."""
        if x.shape[2] % 2 or x.shape[3] % 2 or x.shape[2] * x.shape[3] < _MANY_PIXELS:
            return super().forward(x)
        pixels = x.to(self.dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1)
        rows = [self._along_rows(row, terms) for row, terms in enumerate(_pair_terms(pixels, 1))]
        return _pair_outputs(rows, 1).permute(0, 3, 1, 2)

    def _along_rows(self, row: int, pixels: torch.Tensor) -> torch.Tensor:
        """[N, h, kinds, 2 W, O] of one term of the rows, [N, h, W, I]."""
        products = []
        for column, terms in enumerate(_pair_terms(pixels, 2)):
            flat, kernels = terms.flatten(0, 2), self.get_buffer(f"kernels_{row}{column}")
            # Every output has one product of a or b along both axes: the bias comes in there.
            product = torch.addmm(self.bias, flat, kernels) if row >= 2 and column >= 2 else torch.mm(flat, kernels)
            kinds = (_KINDS[row], _KINDS[column], self.channels)
            products.append(product.view(*terms.shape[:3], *kinds).transpose(2, 3))
        return _pair_outputs(products, 3)


_KINDS = (2, 2, 1, 1)
"""Outputs of a pair that each of e, d, a, b takes part in with a kernel of its own."""


def _pair_kernels(weight: torch.Tensor) -> tuple[list[torch.Tensor], ...]:
    """Kernels of e, d, a and b along axis 2 of [I, O, 4, ...]."""
    k0, k1, k2, k3 = weight.unbind(2)
    return [k3, k0], [k1, k2], [k1 + k3], [k0 + k2]


def _pair_terms(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
    """e, d, a and b along an axis, which is half as long in these, and one longer in e."""
    pairs = x.shape[axis] // 2
    a, b = x.view(*x.shape[:axis], pairs, 2, *x.shape[axis + 1 :]).unbind(axis + 1)
    e = a.new_empty([*a.shape[:axis], pairs + 1, *a.shape[axis + 1 :]])
    torch.sub(b.narrow(axis, 0, pairs - 1), a.narrow(axis, 1, pairs - 1), out=e.narrow(axis, 1, pairs - 1))
    torch.neg(a.select(axis, 0), out=e.select(axis, 0))
    e.select(axis, pairs).copy_(b.select(axis, pairs - 1))
    return e, a - b, a, b


def _pair_outputs(products: list[torch.Tensor], axis: int) -> torch.Tensor:
    """The four outputs of every pair, from products that have the pairs on one axis and the kinds on the next."""
    (e, next_e), (d, next_d) = (product.unbind(axis + 1) for product in products[:2])
    a, b = (product.select(axis + 1, 0) for product in products[2:])
    pairs = a.shape[axis]
    outputs = a.new_empty([*a.shape[: axis + 1], 4, *a.shape[axis + 1 :]])
    first, second, third, fourth = outputs.unbind(axis + 1)
    torch.add(a, e.narrow(axis, 0, pairs), out=first)
    torch.add(b, next_d, out=second)
    torch.sub(a, d, out=third)
    torch.sub(b, next_e.narrow(axis, 1, pairs), out=fourth)
    return outputs.flatten(axis, axis + 1)


class WinogradConvolution(nn.Module):
    """A convolution of kernel 3 without padding, with 4 multiplications instead of 9: Winograd's F(2x2, 3x3).

    Along one axis, four inputs a, b, a', b' give two outputs with a kernel k: with the products
    p = (a - a') k0, q = (b + a') (k0 + k1 + k2) / 2, r = (a' - b) (k0 - k1 + k2) / 2 and s = (b - b') k2 they are
    p + q + r and q - r - s. Sums in bfloat16 make the layer's rounding error 2.3 times that of a `Convolution`.

    Args:
        weight: [O, I, 3, 3]. bias: [O] or None. dtype: of the arithmetic.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        kernels = [kernel for rows in _four_kernels(weight.detach(), 2) for kernel in _four_kernels(rows, 3)]
        # The product q q is in every output once: the bias comes in there.
        self.products = nn.ModuleList(
            Convolution(kernel, bias if place == _Q_Q else None, (1, 1), (0, 0), (1, 1), dtype)
            for place, kernel in enumerate(kernels)
        )

    @staticmethod
    def pays(in_channels: int, out_channels: int) -> bool:
        """Whether there are so many channels that the products cost much more than the additions."""
        return min(in_channels, out_channels) >= 192

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, O, H - 2, W - 2] of [N, I, H, W]."""
        height, width = x.shape[2] - 2, x.shape[3] - 2
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        pixels = x.to(self.dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1)
        rows = []
        for row, terms in enumerate(_four_terms(pixels, 1)):
            products = [
                self.products[4 * row + column](term.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
                for column, term in enumerate(_four_terms(terms, 2))
            ]
            rows.append(_two_outputs(products, 2))
        return _two_outputs(rows, 1)[:, :height, :width].permute(0, 3, 1, 2)


_Q_Q = 5
"""Place of the product that is q along both axes."""


def _four_kernels(weight: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
    """Kernels of the terms of p, q, r and s along an axis of [O, I, ...], which becomes 1 long."""
    k0, k1, k2 = (tap.unsqueeze(axis) for tap in weight.unbind(axis))
    return k0, (k0 + k1 + k2) / 2, (k0 - k1 + k2) / 2, k2


def _four_terms(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
    """The terms of p, q, r and s along an axis, of every two pairs that follow each other."""
    pairs = x.shape[axis] // 2
    a, b = x.view(*x.shape[:axis], pairs, 2, *x.shape[axis + 1 :]).unbind(axis + 1)
    (a, later_a), (b, later_b) = ((part.narrow(axis, 0, pairs - 1), part.narrow(axis, 1, pairs - 1)) for part in (a, b))
    return a - later_a, b + later_a, later_a - b, b - later_b


def _two_outputs(products: list[torch.Tensor], axis: int) -> torch.Tensor:
    """The outputs p + q + r and q - r - s, one after the other along an axis."""
    p, q, r, s = products
    outputs = q.new_empty([*q.shape[: axis + 1], 2, *q.shape[axis + 1 :]])
    first, second = outputs.unbind(axis + 1)
    torch.add(q, r, out=first).add_(p)
    torch.sub(q, r, out=second).sub_(s)
    return outputs.flatten(axis, axis + 1)
