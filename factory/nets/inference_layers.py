"""Layers that compute what torch's do, faster on a CPU and for drawing only: no gradient, no training.

All work on tensors in memory as [N, H, W, C] ("channels last"), the layout of oneDNN's fast kernels: there a transposed
convolution becomes a plain one, a norm over pixels needs no copy, and the last layer is one product of matrices.
`factory.nets.drawing.ready` puts them into a network; `python -m bench masks` measures what they give.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

Pair = tuple[int, int]

_PIXELS_AT_ONCE = 8192
"""Pixels that the last layer converts to float32 at a time: few enough to stay in a core's cache."""

_MANY_PIXELS = 512
"""Of a map, from which on products take longer than bringing their kernels from memory."""


_OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
"""Of `torch.ops.mkldnn`; private, so another torch may lack them."""


class Convolution(nn.Module):
    """A convolution in one number format; on the CPU its weights are put into oneDNN's own order once, not per call.

    Args:
        weight: [O, I, kh, kw]. bias: [O] or None. stride, padding, dilation: as in `nn.Conv2d`.
        dtype: what is computed in; the input is converted where it is another.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, stride: Pair, padding: Pair, dilation: Pair,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.padding, self.dilation, self.dtype = stride, padding, dilation, dtype
        self.weight = nn.Buffer(weight.detach().to(dtype, memory_format=torch.channels_last))
        self.bias = None if bias is None else nn.Buffer(bias.detach().to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, O, H', W'] of [N, I, H, W]."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if x.device.type != "cpu" or not _onednn_computes(self.dtype):
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
        # The two operators that torch's own compiler uses for this. The order is the best for the first input's size.
        shape = (list(self.padding), list(self.stride), list(self.dilation), 1)
        if not self.weight.is_mkldnn:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *shape, list(x.shape))
        convolve = torch.ops.mkldnn._convolution_pointwise
        return cast(torch.Tensor, convolve(x, self.weight, self.bias, *shape, "none", [], ""))


def _onednn_computes(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN has convolutions in a number format, and this torch its private operators."""
    operators = all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    if not operators or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Doubling(nn.Module):
    """A transposed convolution of kernel 4, stride 2 and padding 1 as a plain one of kernel 2 (Shi et al. 2016).

    Each of the four kinds of output pixels (even or odd row, even or odd column) sees 2 x 2 input pixels through its
    own quarter of the kernel. One convolution of kernel 2 computes all four as channels; they are then interleaved.

    Args:
        weight: [I, O, 4, 4], of the transposed convolution. bias: [O] or None. dtype: what is computed in.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        channels = weight.shape[1]
        # Kernel row 2 (1 - t) + p is tap t of kind p, and the same for columns.
        taps = weight.reshape(*weight.shape[:2], 2, 2, 2, 2).flip(2, 4)  # [I, O, t, p, u, q]
        kernels = taps.permute(3, 5, 1, 0, 2, 4).reshape(4 * channels, weight.shape[0], 2, 2)
        repeated = None if bias is None else bias.repeat(4)
        self.channels = channels
        self.kinds = Convolution(kernels, repeated, (1, 1), (1, 1), (1, 1), dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, O, 2 H, 2 W] of [N, I, H, W]."""
        count, _, height, width = x.shape
        kinds: torch.Tensor = self.kinds(x).permute(0, 2, 3, 1)
        kinds = kinds.reshape(*kinds.shape[:3], 2, 2, self.channels)  # a view: [N, H + 1, W + 1, 2, 2, O]
        doubled = kinds.new_empty(count, 2 * height, 2 * width, self.channels)
        for row in (0, 1):
            for column in (0, 1):
                seen = kinds[:, row : row + height, column : column + width, 1 - row, 1 - column]
                doubled[:, row::2, column::2] = seen
        return doubled.permute(0, 3, 1, 2)


class UnevenDoubling(nn.Module):
    """A transposed convolution of kernel 3, stride 2, padding 1 and output padding 1, without a product too many.

    Even rows of the output see one row of the input, odd ones two, and columns likewise: four plain convolutions with
    one, two, two and four of the nine weights, whose outputs are interleaved.

    Args:
        weight: [I, O, 3, 3], of the transposed convolution. bias: [O] or None. dtype: what is computed in.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        plain = weight.transpose(0, 1)
        taps = ([1], [2, 0])  # of even and of odd outputs, in the order of the inputs that they see
        self.kinds = nn.ModuleList(
            Convolution(plain[:, :, rows][:, :, :, columns], bias, (1, 1), (row, column), (1, 1), dtype)
            for row, rows in enumerate(taps)
            for column, columns in enumerate(taps)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, O, 2 H, 2 W] of [N, I, H, W]."""
        x = x.contiguous(memory_format=torch.channels_last)
        kinds = [kind(x).permute(0, 2, 3, 1) for kind in self.kinds]
        count, height, width, channels = kinds[0].shape
        doubled: torch.Tensor = kinds[0].new_empty(count, height, 2, width, 2, channels)
        for kind, seen in enumerate(kinds):
            row, column = divmod(kind, 2)  # of two taps, the first output saw the zeros before the border
            doubled[:, :, row, :, column] = seen[:, row:, column:]
        return doubled.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class ThriftyDoubling(Doubling):
    """A `Doubling` with 9 multiplications where it has 16: Winograd's F(2, 2), rows and columns (Lavin & Gray 2016).

    Along one axis, a pair of inputs (a, b) gives four outputs with a kernel k. With d = a - b, and e = b' - a, where b'
    is of the pair before and 0 beyond the border, they are

        e k3 + a (k1 + k3),    d k2 + b (k0 + k2),    a (k1 + k3) - d k1,    b (k0 + k2) - e" k0,

    e" of the next pair: 6 multiplications, not 8. Sums in bfloat16 make the layer's rounding error 1.7 to 1.9 times
    that of a `Doubling`. It pays where channels and pixels are many; `Doubling` does maps that are small or odd.

    Args:
        weight: [I, O, 4, 4], of the transposed convolution. bias: [O] or None. dtype: what is computed in.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight, bias, dtype)
        self.dtype = dtype
        channels = weight.shape[1]
        self.bias = nn.Buffer((weight.new_zeros(channels) if bias is None else bias).detach().to(dtype))
        # For e, d, a, b of the rows, each: for e, d, a, b of the columns, what these are multiplied by.
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
    """What e, d, a and b are multiplied by, along axis 2 of [I, O, 4, ...]."""
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


class ThriftyConvolution(nn.Module):
    """A convolution of kernel 3 without padding, with 4 multiplications where it has 9: Winograd's F(2x2, 3x3).

    Along one axis, four inputs a, b, a', b' give two outputs with a kernel k (Lavin & Gray 2016): with the products
    p = (a - a') k0, q = (b + a') (k0 + k1 + k2) / 2, r = (a' - b) (k0 - k1 + k2) / 2 and s = (b - b') k2 they are
    p + q + r and q - r - s. Sums in bfloat16 make the layer's rounding error 2.3 times that of a `Convolution`.

    Args:
        weight: [O, I, 3, 3]. bias: [O] or None. dtype: what is computed in.
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
    """What the terms of p, q, r and s are multiplied by, along an axis of [O, I, ...], which has one place left."""
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


class InstanceNorm(nn.Module):
    """`nn.InstanceNorm2d` without weights: the batch norm of a batch of one, which torch computes in this layout.

    Attributes:
        pooled: weights of the samples of the next input, which sum to 1: all are then normalised as if they were one,
            by statistics that are kept. None for each sample's own.
        frozen: mean and variance of each channel, float32, to normalise by; None for those of the input.
            `factory.nets.stitching` sets these two.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.pooled: torch.Tensor | None = None
        self.frozen: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] with mean 0 and variance 1 over the pixels of each channel of each sample, unless frozen."""
        if self.pooled is not None:
            self.frozen = _pooled_moments(x, self.pooled)
        if self.frozen is not None:
            return F.batch_norm(x, *self.frozen, training=False, eps=self.eps)
        normed = [F.batch_norm(sample, None, None, training=True, eps=self.eps) for sample in torch.split(x, 1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


def _pooled_moments(x: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of every channel over the pixels of all samples, weighted: float32 [C] each."""
    means, variances = (torch.zeros(*x.shape[:2], device=x.device) for _ in range(2))
    for sample, mean, variance in zip(torch.split(x, 1), means, variances, strict=True):
        F.batch_norm(sample, mean, variance, training=True, momentum=1.0)
    pixels = x[0, 0].numel()
    variances *= (pixels - 1) / pixels  # running variances are unbiased, those that norms use are not
    weights = weights.to(x.device)[:, None]
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)


class WideHead(nn.Module):
    """The last convolution of an image's network: a wide kernel, few outputs, stride 1, no padding of its own.

    One convolution of a kernel one row high gives what each row of pixels adds to each of the rows of output that see
    it; these are many more outputs, and fill a kernel's vectors. Then the rows are added up, in float32.

    Args:
        before: what comes between the last hidden layer and the convolution (ReLU, padding).
        layer: the convolution. dtype: what is computed in.
    """

    def __init__(self, before: nn.Module, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.before, self.channels, self.height = before, layer.out_channels, cast(Pair, layer.kernel_size)[0]
        rows = layer.weight.permute(2, 0, 1, 3).flatten(0, 1)[:, :, None]  # [kh O, I, 1, kw]
        self.rows = Convolution(rows, None, (1, 1), (0, 0), (1, 1), dtype)
        self.bias = None if layer.bias is None else nn.Buffer(layer.bias.detach().float()[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [N, O, H', W'] of [N, I, H, W]."""
        added = self.rows(self.before(x)).contiguous(memory_format=torch.contiguous_format)
        height = added.shape[2] - self.height + 1
        first, *others = added.split(self.channels, 1)
        logits: torch.Tensor = first[:, :, :height].to(torch.float32, copy=True)
        for row, part in enumerate(others, 1):
            logits += part[:, :, row : row + height]
        return logits if self.bias is None else logits.add_(self.bias)


class FullPrecisionHead(nn.Module):
    """The last convolution, plain or transposed, in float32 of an input in any format.

    Its few output channels waste most of a convolution kernel's vectors. Instead one product of matrices gives what
    every input pixel adds to each output pixel that sees it, and `fold` sums these up.

    Args:
        before: what comes between the last hidden layer and the convolution (ReLU, padding), in the input's format.
        layer: the convolution, not dilated.
    """

    def __init__(self, before: nn.Module, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.before, self.kernel = before, cast(Pair, layer.kernel_size)
        weight, padding = layer.weight.detach().float(), cast(Pair, layer.padding)
        self.stride = cast(Pair, layer.stride)
        if isinstance(layer, nn.Conv2d):  # a plain one is the transposed one of the mirrored kernel
            weight = weight.flip(2, 3).transpose(0, 1)
            padding = (self.kernel[0] - 1 - padding[0], self.kernel[1] - 1 - padding[1])
        self.padding = padding
        self.weight = nn.Buffer(weight.flatten(1).T.contiguous())  # [O kh kw, I]
        self.bias = None if layer.bias is None else nn.Buffer(layer.bias.detach().float()[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [N, O, H', W'] of [N, I, H, W]."""
        logits = torch.cat([self._of_one(sample) for sample in self.before(x).permute(0, 2, 3, 1)])
        return logits if self.bias is None else logits + self.bias

    def _of_one(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [1, O, H', W'] of [H, W, I]."""
        height, width = (
            (side - 1) * step - 2 * pad + reach
            for side, step, pad, reach in zip(x.shape[:2], self.stride, self.padding, self.kernel, strict=True)
        )
        pixels = x.reshape(-1, x.shape[2])
        added = self.weight.new_empty(len(self.weight), len(pixels))
        for start in range(0, len(pixels), _PIXELS_AT_ONCE):
            some = slice(start, start + _PIXELS_AT_ONCE)
            torch.mm(self.weight, pixels[some].float().T, out=added[:, some])
        return F.fold(added[None], (height, width), self.kernel, stride=self.stride, padding=self.padding)
