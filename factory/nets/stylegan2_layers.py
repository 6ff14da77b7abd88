"""Layers of StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"), in plain PyTorch.

Every layer can be differentiated twice, which R1 and path length need, on any device, without compiled operators.
Weights are drawn from N(0, 1) and scaled where they are used, so that Adam's steps count alike in all layers (equalised
learning rate, Karras et al. 2018). Linear layers and the factors of modulation are computed in float32 under autocast.

For the inference of one image all linear steps are folded into the weights of its convolutions and the rest is done in
place: faster, and with less memory (`python -m bench stylegan2` times both).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2.0)
"""Gain of the leaky ReLU, which about halves the variance: it stays 1 from layer to layer."""

_TINY = 1e-8
_TAPS = (1.0, 3.0, 3.0, 1.0)
"""The binomial low-pass filter of the paper's resampling, before it is normalised to a sum of 1."""


def activated(
    x: torch.Tensor, bias: torch.Tensor, *, gain: float = 1.0, clamp: float | None = None, axis: int = 1
) -> torch.Tensor:
    """Leaky ReLU of x + bias, scaled by sqrt(2) and `gain`, within +- `clamp` times `gain`.

    Args:
        x: any shape. bias: one number for each place of `axis`. gain: of the layer. clamp: None for no bound.
        axis: of x that the bias belongs to.
    """
    shape = [1] * x.ndim
    shape[axis] = -1
    x = F.leaky_relu(x + bias.to(x.dtype).reshape(shape), SLOPE) * (ACTIVATION_GAIN * gain)
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """Rows of [N, C] scaled to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + _TINY).rsqrt()


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate, in float32.

    Args:
        in_features, out_features: as in `nn.Linear`. first_bias: first value of all biases.
        lr_multiplier: factor of the learning rate; 0.01 in the mapping network.
        active: with leaky ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        first_bias: float = 0.0,
        lr_multiplier: float = 1.0,
        active: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), first_bias / lr_multiplier))
        self._gain, self._lr_multiplier, self._active = lr_multiplier / math.sqrt(in_features), lr_multiplier, active

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] -> [N, out_features]."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight * self._gain, self.bias * self._lr_multiplier
            if not self._active:
                return F.linear(x.to(weight.dtype), weight, bias)
            return activated(F.linear(x.to(weight.dtype), weight), bias)


class Blur(nn.Module):
    """The low-pass filter [1, 3, 3, 1] in both directions, with zeros around the image.

    Args:
        padding: rows and columns of zeros on every side. stride: which pixels are kept. gain: of the result.
    """

    kernel: torch.Tensor

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor(_TAPS)
        kernel = torch.outer(taps, taps) * (gain / taps.sum().square())
        self.register_buffer("kernel", kernel[None, None], persistent=False)
        self._padding, self._stride = padding, stride

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[N, C, H, W] and a bias [C] -> [N, C, (H + 2 padding - 4) // stride + 1, likewise]."""
        channels, stride = x.shape[1], self._stride
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            # oneDNN computes the gradient of a strided convolution in bfloat16 some 10 times slower.
            return F.conv2d(x, kernel, bias, padding=self._padding, groups=channels)[..., ::stride, ::stride]
        return F.conv2d(x, kernel, bias, stride=stride, padding=self._padding, groups=channels)


def doubled(image: torch.Tensor) -> torch.Tensor:
    """An image [N, C, H, W] at twice the size: zeros between pixels, then `Blur` with zeros around it and gain 4.

    Away from borders that is bilinear interpolation; with a border of zeros put around first it is so everywhere.
    """
    larger = F.interpolate(F.pad(image, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return larger[..., 2:-2, 2:-2]


class ModulatedConvolution(nn.Module):
    """A convolution whose input channels each image scales by its own style, then demodulated (Eqs. 1 to 3).

    The paper scales the weights of each image; here the input is scaled before and the output after one convolution
    with shared weights, which is equal and needs no weights per image.

    Args:
        in_channels, out_channels, kernel: of the convolution. w_dim: length of a style vector.
        demodulate: divide by the norm that the modulated weights have, so that outputs have variance 1.
        up: double the size: a transposed convolution, then `Blur`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, w_dim: int, *, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, in_channels, first_bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self._demodulate, self._padding = demodulate, kernel // 2
        self._gain = 1.0 if demodulate else 1.0 / math.sqrt(in_channels * kernel**2)
        self.blur = Blur(padding=1, gain=4.0) if up else None

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] and styles [N, w_dim] -> [N, out_channels, H, W], or twice that size."""
        styles = self.affine(w) * self._gain  # [N, in_channels]
        x = x * styles[:, :, None, None].to(x.dtype)
        if self.blur is None:
            x = F.conv2d(x, self.weight, padding=self._padding)
        else:
            x = self.blur(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2))
        return x * self._factors(styles)[:, :, None, None].to(x.dtype) if self._demodulate else x

    def of_one(self, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """The same of one image by its own weights, as in the paper, with a bias [out_channels], times `gain`."""
        styles = self.affine(w) * self._gain
        weight, bias = self.weight * (styles[0, :, None, None] * gain).to(self.weight.dtype), bias * gain
        if self._demodulate:
            weight *= self._factors(styles)[0, :, None, None, None]
        if self.blur is None:
            return F.conv2d(x, weight, bias, padding=self._padding)
        return self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), bias)

    def _factors(self, styles: torch.Tensor) -> torch.Tensor:
        """1 / the norm of each image's modulated weights, [N, out_channels]."""
        with torch.autocast(styles.device.type, enabled=False):
            squares = self.weight.square().sum((2, 3))  # [out_channels, in_channels]
            return (styles.square() @ squares.T + _TINY).rsqrt()


class StyledConvolution(nn.Module):
    """A 3x3 `ModulatedConvolution`, noise of a learnt strength, bias and leaky ReLU.

    Args:
        in_channels, out_channels, w_dim: of the convolution. size: height and width of the output.
        up: double the size. clamp: bound of the output, None for none.

    Attributes:
        noise_const: the noise where none is given, float32 [H, W], drawn with the first weights and kept constant.
    """

    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        *,
        up: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(in_channels, out_channels, 3, w_dim, up=up)
        self.register_buffer("noise_const", torch.randn(size))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self._clamp = clamp

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Features, styles [N, w_dim] and noise [N or 1, 1, H, W] -> features [N, out_channels, H, W]."""
        noise = self.noise_const if noise is None else noise
        if _infers_one(x):
            # A gain may come before a leaky ReLU.
            x = self.convolution.of_one(x, w, self.bias, ACTIVATION_GAIN)
            x += (noise * (self.noise_strength * ACTIVATION_GAIN)).to(x.dtype)
            x = F.leaky_relu_(x, SLOPE)
            return x if self._clamp is None else x.clamp_(-self._clamp, self._clamp)
        x = self.convolution(x, w)
        x = x + (noise * self.noise_strength).to(x.dtype)
        return activated(x, self.bias, clamp=self._clamp)


class ToRgb(nn.Module):
    """A 1x1 `ModulatedConvolution` without demodulation, and a bias: features -> its contribution to the image."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(in_channels, out_channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self._clamp = clamp

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Features [N, C, H, W] and styles [N, w_dim] -> float [N, out_channels, H, W]."""
        if _infers_one(x):
            x = self.convolution.of_one(x, w, self.bias)
        else:
            x = self.convolution(x, w)
            x = x + self.bias.to(x.dtype)[:, None, None]
        return x if self._clamp is None else x.clamp(-self._clamp, self._clamp)


def _infers_one(x: torch.Tensor) -> bool:
    """Whether features [N, C, H, W] are of one image, without gradients."""
    return len(x) == 1 and not torch.is_grad_enabled()


class EqualConvolution(nn.Module):
    """A convolution of the discriminator with equalised learning rate.

    Args:
        in_channels, out_channels, kernel: of the convolution. active: with bias and leaky ReLU, else neither.
        down: halve the size: `Blur`, then a stride of 2. gain: of the output. clamp: its bound before the gain.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        active: bool = True,
        down: bool = False,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if active else None
        self._weight_gain = 1.0 / math.sqrt(in_channels * kernel**2)
        self._padding, self._stride, self._gain, self._clamp = kernel // 2, 1, gain, clamp
        self.blur: Blur | None = None
        if down:
            # A 1x1 convolution commutes with subsampling, which the blur then does before it.
            self.blur = Blur(padding=self._padding + 1, stride=2 if kernel == 1 else 1)
            self._padding, self._stride = 0, 1 if kernel == 1 else 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H, W], or half that size."""
        if self.blur is not None:
            x = self.blur(x)
        x = F.conv2d(x, self.weight * self._weight_gain, padding=self._padding, stride=self._stride)
        if self.bias is None:
            return x * self._gain
        return activated(x, self.bias, gain=self._gain, clamp=self._clamp)


def with_batch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """Features [N, C, H, W] with a channel of the deviation within groups of images (Karras et al. 2018).

    It is the standard deviation over the images of a group, averaged over channels and pixels. Groups are of the
    largest size up to `group` that divides N; images i, i + N / size ... are one group.
    """
    count, _, height, width = x.shape
    size = next(g for g in range(min(group, count), 0, -1) if count % g == 0)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float() if x.dtype.itemsize < 4 else x
        parts = wide.reshape(size, count // size, *x.shape[1:])
        deviation = (parts.var(0, correction=0) + _TINY).sqrt().mean((1, 2, 3))  # [N / size]
    spread = deviation.repeat(size)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, spread.to(x.dtype)], 1)
