"""Inference layers: the results of torch's layers, faster on a CPU; without gradients.

All work on tensors in memory as [N, H, W, C] ("channels last"), the layout of oneDNN's fast kernels: there a transposed
convolution becomes a plain one, a norm over pixels needs no copy, and the last layer is one product of matrices.
`factory.nets.drawing.ready` puts them into a network; docs/results/drawing-layers.md shows the gain of each.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

Pair = tuple[int, int]

_PIXELS_AT_ONCE = 8192
"""Pixels that the last layer converts to float32 at a time: few enough to stay in a core's cache."""

_BAND_PIXELS = 4096
"""Pixels of a band, for the statistics of a norm."""


_OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
"""Private operators of `torch.ops.mkldnn`; another torch may lack them."""


class Convolution(nn.Module):
    """A convolution in one number format; on a CPU with weights in oneDNN's layout, converted once.

    Args:
        weight: [O, I, kh, kw]. bias: [O] or None. stride, padding, dilation: as in `nn.Conv2d`.
        dtype: of the arithmetic; an input of another type is converted.
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
        # The two operators of torch's own compiler. The layout is the best for the first input's size.
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


class UpsamplingKernel4(nn.Module):
    """A transposed convolution of kernel 4, stride 2 and padding 1 as a plain one of kernel 2 (Shi et al. 2016).

    Each of the four kinds of output pixels (even or odd row, even or odd column) depends on 2 x 2 input pixels through
    its own quarter of the kernel. One convolution of kernel 2 computes all four as channels, which are interleaved.

    Args:
        weight: [I, O, 4, 4], of the transposed convolution. bias: [O] or None. dtype: of the arithmetic.
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
                part = kinds[:, row : row + height, column : column + width, 1 - row, 1 - column]
                doubled[:, row::2, column::2] = part
        return doubled.permute(0, 3, 1, 2)


class UpsamplingKernel3(nn.Module):
    """A transposed convolution of kernel 3, stride 2, padding 1 and output padding 1, without multiplications by zero.

    Even rows of the output depend on one row of the input, odd ones on two; columns likewise: four convolutions with
    one, two, two and four of the nine weights, whose outputs are interleaved.

    Args:
        weight: [I, O, 3, 3], of the transposed convolution. bias: [O] or None. dtype: of the arithmetic.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        plain = weight.transpose(0, 1)
        taps = ([1], [2, 0])  # of even and of odd outputs, in the order of their inputs
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
        for kind, part in enumerate(kinds):
            row, column = divmod(kind, 2)  # of two taps, the first output is of the zeros before the border
            doubled[:, :, row, :, column] = part[:, row:, column:]
        return doubled.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class InstanceNorm(nn.Module):
    """`nn.InstanceNorm2d` without weights: the batch norm of a batch of one, which torch computes in this layout.

    Attributes:
        pooled: weights of the samples of the next input, which sum to 1: all are then normalised as one image, by
            statistics that are kept. None for each sample's own.
        frozen: mean and variance of each channel, float32, to normalise by; None for those of the input.
            Set by `factory.nets.stitching`.
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
        normed = [self.of_one(sample) for sample in torch.split(x, 1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)

    def of_one(self, x: torch.Tensor) -> torch.Tensor:
        """One sample normalised by its own statistics, which torch rounds to the format of the input."""
        return F.batch_norm(x, None, None, training=True, eps=self.eps)


class ExactInstanceNorm(InstanceNorm):
    """An `InstanceNorm` whose statistics are float32, and whose sums over many pixels lose no digits.

    Over half a million pixels the sums of an `InstanceNorm` keep three or four digits. That is enough for masks; in an
    image the error is a level of grey.
    """

    def of_one(self, x: torch.Tensor) -> torch.Tensor:
        """One sample normalised by its own statistics."""
        return F.batch_norm(x, *_moments(x), training=False, eps=self.eps)


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of every channel of one sample, float32 [C] each."""
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        return mean, variance
    # Bands of few pixels first: torch sums this layout with one running total for each channel.
    bands = torch.split(x, max(_BAND_PIXELS // x.shape[3], 1), 2)
    means, variances = (torch.zeros(len(bands), x.shape[1]) for _ in range(2))
    for band, mean, variance in zip(bands, means, variances, strict=True):
        F.batch_norm(band, mean, variance, training=True, momentum=1.0)
    pixels = torch.tensor([[float(band[0, 0].numel())] for band in bands])
    variances *= (pixels - 1) / pixels  # running variances are unbiased, those of norms are not
    return _joined_moments(means, variances, pixels / pixels.sum())


def _pooled_moments(x: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of every channel over the pixels of all samples, weighted: float32 [C] each."""
    means, variances = (torch.stack(parts) for parts in zip(*map(_moments, torch.split(x, 1)), strict=True))
    return _joined_moments(means, variances, weights.to(x.device)[:, None])


def _joined_moments(
    means: torch.Tensor, variances: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of an image, of the moments of its parts [N, C] and their weights [N, 1], which sum to 1."""
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)


class WideKernelHead(nn.Module):
    """The last convolution of a renderer: a wide kernel, few outputs, stride 1, no padding of its own.

    A convolution with a kernel one row high computes the contribution of each row of pixels to each row of output that
    depends on it. These are many more outputs, which fill the vectors of a CPU. The rows are then summed in float32.

    Args:
        before: layers between the last hidden layer and the convolution (ReLU, padding).
        layer: the convolution. dtype: of the arithmetic.
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
    """The last convolution, plain or transposed, in float32 for an input in any format.

    Its few output channels would fill a fraction of a CPU's vectors. Instead one product of matrices computes the
    contribution of every input pixel to each output pixel that depends on it, and `fold` sums these up.

    Args:
        before: layers between the last hidden layer and the convolution (ReLU, padding), in the input's format.
        layer: the convolution, not dilated.
    """

    def __init__(self, before: nn.Module, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.before, self.kernel = before, cast(Pair, layer.kernel_size)
        weight, padding = layer.weight.detach().float(), cast(Pair, layer.padding)
        self.stride = cast(Pair, layer.stride)
        if isinstance(layer, nn.Conv2d):  # a plain convolution is the transposed one of the mirrored kernel
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
