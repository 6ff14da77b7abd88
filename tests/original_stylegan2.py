"""The original's generator (NVlabs/stylegan2-ada-pytorch, `G_ema`), written out in float64 without torch's layers.

Names and shapes of its weights are those of its `state_dict`.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import signal

Array = npt.NDArray[np.float64]

WIDTHS = {4: 5, 8: 4, 16: 2}
CLAMP = 1.5


def their_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (6,)}
    shapes |= {"mapping.fc0.weight": (6, 7), "mapping.fc0.bias": (6,), "synthesis.b4.const": (WIDTHS[4], 4, 4)}
    shapes |= {"mapping.fc1.weight": (6, 6), "mapping.fc1.bias": (6,)}
    before = 0
    for side, width in WIDTHS.items():
        for name, inside, kernel in (("conv0", before, 3), ("conv1", width, 3), ("torgb", width, 1)):
            if not inside:
                continue
            out, layer = (3 if name == "torgb" else width), f"synthesis.b{side}.{name}"
            shapes |= {f"{layer}.weight": (out, inside, kernel, kernel), f"{layer}.bias": (out,)}
            shapes |= {f"{layer}.affine.weight": (inside, 6), f"{layer}.affine.bias": (inside,)}
            if name != "torgb":
                shapes |= {f"{layer}.noise_strength": (), f"{layer}.noise_const": (side, side)}
        before = width
    tensors = {k: torch.from_numpy(np.asarray(rng.standard_normal(s), np.float32)) for k, s in shapes.items()}
    taps = torch.tensor([1.0, 3, 3, 1])
    blocks = [f"synthesis.b{side}{layer}" for side in WIDTHS for layer in ("", ".conv0", ".conv1")]
    filters = {f"{b}.resample_filter": torch.outer(taps, taps) / 64 for b in blocks if b != "synthesis.b4.conv0"}
    return {**tensors, **filters}


def their_doubling(image: Array) -> Array:
    for axis in (0, 1):
        image = signal.upfirdn(np.array([1, 3, 3, 1]) / 4, image, up=2, axis=axis)
        image = np.take(image, np.arange(1, image.shape[axis] - 1), axis)
    return image


def their_convolution(x: Array, weight: Array, style: Array, up: bool, demodulate: bool) -> Array:
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    planes = []
    for out in weight:
        plane: Array = np.zeros(())
        for channel, kernel in zip(x, out, strict=True):
            if not up:
                plane = plane + signal.correlate2d(channel, kernel, "same")
                continue
            spread = np.zeros((2 * len(channel) - 1,) * 2)
            spread[::2, ::2] = channel
            taps = np.array([1, 3, 3, 1]) / 4
            whole = signal.convolve2d(signal.convolve2d(spread, kernel, "full"), np.outer(taps, taps), "full")
            plane = plane + whole[2:-2, 2:-2]
        planes.append(plane)
    return np.stack(planes)


def their_image(tensors: dict[str, torch.Tensor], z: Array, psi: float) -> Array:
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    w = z / np.sqrt((z**2).mean() + 1e-8)
    for layer in range(2):
        weight, bias = t[f"mapping.fc{layer}.weight"], t[f"mapping.fc{layer}.bias"]
        w = weight @ w * 0.01 / math.sqrt(len(w)) + 0.01 * bias
        w = np.where(w > 0, w, 0.2 * w) * math.sqrt(2)
    w = t["mapping.w_avg"] + psi * (w - t["mapping.w_avg"])
    x, image = t["synthesis.b4.const"], np.zeros((3, 2, 2))
    for side in WIDTHS:
        for name in ("conv0", "conv1", "torgb"):
            layer = f"synthesis.b{side}.{name}"
            if f"{layer}.weight" not in t:
                continue
            style = t[f"{layer}.affine.weight"] @ w / math.sqrt(6) + t[f"{layer}.affine.bias"]
            bias = t[f"{layer}.bias"][:, None, None]
            if name == "torgb":
                style = style / math.sqrt(len(style))
                said = their_convolution(x, t[f"{layer}.weight"], style, False, False) + bias
                image = np.stack([their_doubling(plane) for plane in image]) + np.clip(said, -CLAMP, CLAMP)
                continue
            x = their_convolution(x, t[f"{layer}.weight"], style, name == "conv0", True)
            x = x + t[f"{layer}.noise_const"] * t[f"{layer}.noise_strength"] + bias
            x = np.clip(np.where(x > 0, x, 0.2 * x) * math.sqrt(2), -CLAMP, CLAMP)
    return image
