"""Adaptive discriminator augmentation (ADA; Karras et al. 2020, "Training GANs with Limited Data", Appendix B).

All images shown to the discriminator, real or generated, are augmented at random, each way with probability p, and are
differentiable. p rises while the discriminator overfits, which is measured by the signs of its logits of real images.

Differs from the paper and its code: beyond its edges an image is mirrored at the edge itself, where the original
mirrors at the centre of the last pixel and only as far as the image is wide; images that are only flipped, turned by 90
degrees or moved by whole pixels are not filtered, so they keep their pixels exactly, and images to which nothing
happens are not changed; the delay of the filter is its true 0.40 of an upsampled pixel, not 0.5; p is at most 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field

from factory.core.config import Config
from factory.nets.ada_resampling import MARGIN, PHASE, band_filters, doubled, filtered, halved, sampled

COLUMNS = 41
"""Uniform numbers of one image, used or not, so that switching one augmentation on changes no other."""


class AdaConfig(Config):
    """Augmentations and their strengths.

    Attributes:
        xflip, rotate90, xint, scale, rotate, aniso, xfrac: geometry. brightness, contrast, lumaflip, hue, saturation:
            colours. imgfilter, noise, cutout: the rest. Each is a factor of p; 0 switches it off.
        xint_max: largest move by whole pixels, share of the side. xfrac_std: standard deviation of other moves.
        scale_std, aniso_std: of scaling, in powers of 2. rotate_max, hue_max: largest angle, 1 is half a turn.
        brightness_std: of the shift. contrast_std, saturation_std: of factors, in powers of 2.
        imgfilter_bands: factor of p for each octave, the lowest first. imgfilter_std: in powers of 2.
        noise_std: of the noise's standard deviation. cutout_size: of the grey rectangle, share of the sides.
    """

    xflip: float = Field(default=0.0, ge=0)
    rotate90: float = Field(default=0.0, ge=0)
    xint: float = Field(default=0.0, ge=0)
    xint_max: float = Field(default=0.125, ge=0)
    scale: float = Field(default=0.0, ge=0)
    rotate: float = Field(default=0.0, ge=0)
    aniso: float = Field(default=0.0, ge=0)
    xfrac: float = Field(default=0.0, ge=0)
    scale_std: float = Field(default=0.2, ge=0)
    rotate_max: float = Field(default=1.0, ge=0)
    aniso_std: float = Field(default=0.2, ge=0)
    xfrac_std: float = Field(default=0.125, ge=0)
    brightness: float = Field(default=0.0, ge=0)
    contrast: float = Field(default=0.0, ge=0)
    lumaflip: float = Field(default=0.0, ge=0)
    hue: float = Field(default=0.0, ge=0)
    saturation: float = Field(default=0.0, ge=0)
    brightness_std: float = Field(default=0.2, ge=0)
    contrast_std: float = Field(default=0.5, ge=0)
    hue_max: float = Field(default=1.0, ge=0)
    saturation_std: float = Field(default=1.0, ge=0)
    imgfilter: float = Field(default=0.0, ge=0)
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.0, ge=0)
    cutout: float = Field(default=0.0, ge=0)
    noise_std: float = Field(default=0.1, ge=0)
    cutout_size: float = Field(default=0.5, ge=0, le=1)


_PARTS: dict[str, dict[str, float]] = {
    "b": {"xflip": 1, "rotate90": 1, "xint": 1},
    "g": {"scale": 1, "rotate": 1, "aniso": 1, "xfrac": 1},
    "c": {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 1, "saturation": 1},
    "f": {"imgfilter": 1},
    "n": {"noise": 1},
}


def _pipe(letters: str, **more: float) -> AdaConfig:
    return AdaConfig(**{k: v for letter in letters for k, v in _PARTS[letter].items()}, **more)  # type: ignore[arg-type]


PIPES: dict[str, AdaConfig] = {
    **{name: _pipe(name[0]) for name in ("blit", "geom", "color", "filter", "noise")},
    "cutout": _pipe("", cutout=1),
    **{letters: _pipe(letters) for letters in ("bg", "bgc", "bgcf", "bgcfn")},
    "bgcfnc": _pipe("bgcfn", cutout=1),
}
"""The pipelines that the paper compares; its default is ``bgc``: pixel blitting, geometry and colours."""


class _Draws:
    """Uniform numbers [N, COLUMNS], read in order, also by augmentations that are switched off."""

    def __init__(self, uniforms: torch.Tensor, p: float) -> None:
        self._columns = iter(uniforms.to(torch.float64).unbind(1))
        self._p = p

    def uniform(self) -> torch.Tensor:
        """[N] in 0..1."""
        return next(self._columns)

    def normal(self) -> torch.Tensor:
        """[N], standard normal."""
        tiny = torch.finfo(torch.float64).eps
        normal: torch.Tensor = torch.special.ndtri(self.uniform().clamp(tiny, 1 - tiny))
        return normal

    def where(self, multiplier: float, value: torch.Tensor, nothing: float) -> torch.Tensor:
        """`value` with probability multiplier times p, else `nothing`."""
        return self.at(multiplier * self._p, value, nothing)

    def at(self, probability: float, value: torch.Tensor, nothing: float) -> torch.Tensor:
        """`value` with a probability, else `nothing`."""
        return torch.where(self.uniform() < probability, value, torch.full_like(value, nothing))

    def pair(self, multiplier: float, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both values or two zeros."""
        happens = self.uniform() < multiplier * self._p
        return first * happens, second * happens


def draw_uniforms(count: int, rng: torch.Generator) -> torch.Tensor:
    """The `uniforms` of `augmented` for so many images: uniform in 0..1, float64 [count, COLUMNS], on the CPU."""
    return torch.rand(count, COLUMNS, generator=rng, dtype=torch.float64)


def augmented(
    images: torch.Tensor, p: float, uniforms: torch.Tensor, config: AdaConfig, grain: torch.Tensor | None = None
) -> torch.Tensor:
    """Augmented images: a function of the arguments alone, each image of its own row of `uniforms`.

    Args:
        images: float32 or float64 [N, 3, H, W], about -1..1. p: probability of each way of augmentation, 0..1.
        uniforms: see `draw_uniforms`; on the CPU, where the augmentations of each image are chosen.
        config: the augmentations. grain: standard normal, shaped as `images`; needed where ``noise`` is on.

    Raises:
        ValueError: for a wrong number of columns, or noise without grain.
    """
    if uniforms.shape != (len(images), COLUMNS):
        raise ValueError(f"uniforms: expected {len(images)} x {COLUMNS}, got {tuple(uniforms.shape)}")
    if config.noise and grain is None:
        raise ValueError("grain: expected normal numbers for the noise, got None")
    draws = _Draws(uniforms, p)
    height, width = images.shape[2:]
    blits = _draw_blits(draws, config, height, width)
    moves = _draw_geometry(draws, config, height, width)
    colours = _draw_colours(draws, config)
    gains = _draw_band_gains(draws, config)
    sigma = draws.where(config.noise, draws.normal().abs() * config.noise_std, 0.0)
    cut = draws.where(config.cutout, torch.full_like(sigma, config.cutout_size), 0.0)
    centre = torch.stack([draws.uniform(), draws.uniform()], 1)

    with torch.autocast(images.device.type, enabled=False):
        images = _moved(images, blits, moves)
        images = _recoloured(images, colours)
        images = _band_filtered(images, gains)
        if bool(sigma.any()):
            assert grain is not None
            images = images + grain.to(images) * _wide(sigma).to(images)
        return _cut(images, cut, centre) if bool(cut.any()) else images


def _draw_blits(draws: _Draws, config: AdaConfig, height: int, width: int) -> torch.Tensor:
    """Draw flips, quarter turns and moves by whole pixels: [N, 3, 3] from output to input pixels from the centre."""
    flip = draws.where(config.xflip, (draws.uniform() * 2).floor(), 0.0)
    inverse = _scaling(1 - 2 * flip, torch.ones_like(flip))
    turns = draws.where(config.rotate90, (draws.uniform() * 4).floor(), 0.0)
    inverse = inverse @ _rotation(turns * (math.pi / 2)).round()
    x, y = ((draws.uniform() * 2 - 1) * config.xint_max for _ in range(2))
    x, y = draws.pair(config.xint, x, y)
    return inverse @ _translation(-(x * width).round(), -(y * height).round())


def _draw_geometry(draws: _Draws, config: AdaConfig, height: int, width: int) -> torch.Tensor:
    """Other geometry, [N, 3, 3] as `_draw_blits`: the identity exactly where nothing happens."""
    scale = draws.where(config.scale, (draws.normal() * config.scale_std).exp2(), 1.0)
    inverse = _scaling(1 / scale, 1 / scale)
    # Rotation before or after the anisotropic scaling; either with probability p.
    turning = 1 - math.sqrt(min(max(1 - config.rotate * draws._p, 0.0), 1.0))
    before = draws.at(turning, (draws.uniform() * 2 - 1) * (math.pi * config.rotate_max), 0.0)
    inverse = inverse @ _rotation(before)
    stretch = draws.where(config.aniso, (draws.normal() * config.aniso_std).exp2(), 1.0)
    inverse = inverse @ _scaling(1 / stretch, stretch)
    after = draws.at(turning, (draws.uniform() * 2 - 1) * (math.pi * config.rotate_max), 0.0)
    inverse = inverse @ _rotation(after)
    x, y = draws.normal() * config.xfrac_std, draws.normal() * config.xfrac_std
    x, y = draws.pair(config.xfrac, x, y)
    return inverse @ _translation(-x * width, -y * height)


def _draw_colours(draws: _Draws, config: AdaConfig) -> torch.Tensor:
    """An affine map of colours, [N, 4, 4]."""
    shift = draws.where(config.brightness, draws.normal() * config.brightness_std, 0.0)
    gain = draws.where(config.contrast, (draws.normal() * config.contrast_std).exp2(), 1.0)
    flip = draws.where(config.lumaflip, (draws.uniform() * 2).floor(), 0.0)
    angle = draws.where(config.hue, (draws.uniform() * 2 - 1) * (math.pi * config.hue_max), 0.0)
    saturation = draws.where(config.saturation, (draws.normal() * config.saturation_std).exp2(), 1.0)

    unit = torch.eye(4, dtype=torch.float64)
    grey = torch.zeros(4, 4, dtype=torch.float64)
    grey[:3, :3] = 1 / 3  # projects on the axis of luma
    map_ = unit.repeat(len(shift), 1, 1)
    map_[:, :3, 3] = shift[:, None]
    contrast = unit * _column(gain)
    contrast[:, 3, 3] = 1
    map_ = contrast @ map_
    map_ = (unit - 2 * grey * _column(flip)) @ map_
    map_ = _hue_rotation(angle) @ map_
    return (grey + (unit - grey) * _column(saturation)) @ map_


def _draw_band_gains(draws: _Draws, config: AdaConfig) -> torch.Tensor:
    """Draw the gain of each octave, [N, 4]; the others are normalised, so that an image keeps its power."""
    # The power of images falls as 1 / f: the lowest band is taken to have ten times that of each other one.
    power = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64) / 13
    total: torch.Tensor | None = None
    for band, share in enumerate(config.imgfilter_bands):
        gain = draws.where(config.imgfilter * share, (draws.normal() * config.imgfilter_std).exp2(), 1.0)
        gains = torch.ones(len(gain), 4, dtype=torch.float64)
        gains[:, band] = gain
        gains = gains / (power * gains.square()).sum(1, keepdim=True).sqrt()
        total = gains if total is None else total * gains
    assert total is not None
    return total


def _moved(images: torch.Tensor, blits: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Apply geometry: moves by whole pixels directly, others at twice the size."""
    unit = torch.eye(3, dtype=torch.float64)
    still, whole = ((found == unit).all(2).all(1) for found in (blits @ moves, moves))
    for places, by_pixels in (((~still & whole).nonzero()[:, 0], True), ((~whole).nonzero()[:, 0], False)):
        if not len(places):
            continue
        where = places.to(images.device)
        part, inverse = images.index_select(0, where), (blits @ moves)[places]
        part = _warped(part, inverse, 0) if by_pixels else halved(_warped(doubled(part), inverse, MARGIN))
        images = images.index_copy(0, where, part)
    return images


def _warped(images: torch.Tensor, inverse: torch.Tensor, margin: int) -> torch.Tensor:
    """Images through [N, 3, 3], whose unit is their pixel (margin 0), or two pixels of doubled ones with a margin."""
    height, width = images.shape[2:]
    unit = 2 if margin else 1
    if margin:
        shift = torch.full((), PHASE / unit, dtype=torch.float64)
        inverse = _translation(shift, shift) @ inverse @ _translation(-shift, -shift)
    inside = torch.tensor([2 * unit / width, 2 * unit / height, 1.0], dtype=torch.float64)
    outside = torch.tensor([width / 2 + margin, height / 2 + margin, unit], dtype=torch.float64) / unit
    theta = inside[:, None] * inverse * outside
    shape = [len(images), 1, height + 2 * margin, width + 2 * margin]
    return sampled(images, F.affine_grid(theta[:, :2].to(images), shape, align_corners=False))


def _recoloured(images: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    if bool((colours == torch.eye(4, dtype=torch.float64)).all()):
        return images
    colours = colours.to(images)
    return torch.einsum("nij,njhw->nihw", colours[:, :3, :3], images) + colours[:, :3, 3, None, None]


def _band_filtered(images: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    places = (gains != 1).any(1).nonzero()[:, 0]
    if not len(places):
        return images
    where = places.to(images.device)
    kernels = gains[places] @ torch.from_numpy(band_filters())
    return images.index_copy(0, where, filtered(images.index_select(0, where), kernels))


def _cut(images: torch.Tensor, size: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Grey (0) in a rectangle of `size` [N] times the sides around a `centre` [N, 2] (x, y), both shares."""
    kept = torch.zeros(len(images), 1, 1, 1, dtype=torch.bool)
    for axis, along in ((3, 0), (2, 1)):
        length = images.shape[axis]
        shape = [1, 1, 1, 1]
        shape[axis] = length
        places = ((torch.arange(length, dtype=torch.float64) + 0.5) / length).reshape(shape)
        kept = kept | ((places - _wide(centre[:, along])).abs() >= _wide(size) / 2)
    return images * kept.to(images)


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None]


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def _stacked(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _scaling(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _stacked([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _translation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _stacked([[one, zero, x], [zero, one, y], [zero, zero, one]])


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    zero, one, s, c = torch.zeros_like(angle), torch.ones_like(angle), angle.sin(), angle.cos()
    return _stacked([[c, -s, zero], [s, c, zero], [zero, zero, one]])


def _hue_rotation(angle: torch.Tensor) -> torch.Tensor:
    """Rotation of colours around the grey axis (1, 1, 1), [N, 4, 4]: exactly the identity for an angle of 0."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    others, turn = (1 - angle.cos()) / 3, angle.sin() / math.sqrt(3)
    same, before, after = 1 - 2 * others, others - turn, others + turn
    rows = [[same, before, after, zero], [after, same, before, zero], [before, after, same, zero]]
    return _stacked([*rows, [zero, zero, zero, one]])


@dataclass
class AdaController:
    """Adapts p to the discriminator's logits of real images: up while r_t = E[sign(D)] is above the target (Eq. 1).

    Attributes:
        target: of r_t. interval: batches between moves. kimg: thousands of images in which p can go from 0 to 1.
        p: probability of the augmentations. r_t: as of the last move, 0 before. signs, count: since that.
    """

    target: float = 0.6
    interval: int = 4
    kimg: float = 500.0
    p: float = 0.0
    r_t: float = 0.0
    signs: float = 0.0
    count: int = 0

    def follow(self, logits: torch.Tensor, step: int) -> None:
        """Add the logits [N] of the real images of a step (0-based)."""
        self.signs += float(logits.detach().sign().sum())
        self.count += len(logits)
        if (step + 1) % self.interval:
            return
        self.r_t = self.signs / self.count
        move = math.copysign(self.count / (self.kimg * 1000), self.r_t - self.target) if self.r_t != self.target else 0
        self.p = min(max(self.p + move, 0.0), 1.0)
        self.signs, self.count = 0.0, 0

    def state(self) -> torch.Tensor:
        """State for a resumed run: float64 [4]."""
        return torch.tensor([self.p, self.r_t, self.signs, self.count], dtype=torch.float64)

    def restore(self, state: torch.Tensor) -> None:
        """Put `state` back."""
        self.p, self.r_t, self.signs, count = state.tolist()
        self.count = int(count)
