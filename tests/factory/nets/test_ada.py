"""Augmentation for GANs: nothing at p = 0, each way changes what it should, and gradients go through twice."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import signal

from factory.nets.ada import COLUMNS, PIPES, AdaConfig, AdaController, augmented, draw_uniforms
from factory.nets.ada_resampling import SYM2, SYM6, band_filters, doubled, filtered, halved, mirrored, sampled

pytestmark = pytest.mark.usefixtures("one_thread")

# Where `augmented` reads what it draws, in order: (values, gate) of each way.
FLIP, TURN, WHOLE, SCALE, BEFORE, STRETCH, AFTER, FRACTION = 0, 2, 4, 7, 9, 11, 13, 15
BRIGHT, CONTRAST, LUMA, HUE, SATURATION, BANDS, NOISE, CUT = 18, 20, 22, 24, 26, 28, 36, 38


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=rng(), dtype=torch.float64) * 2 - 1


def smooth_image(height: int = 32, width: int = 32, move: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Two unequal bumps near the middle, moved by (x, y) pixels: [1, 3, H, W]."""
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = x - width / 2 - move[0], y - height / 2 - move[1]
    bumps = np.exp(-((x - 3) ** 2 + (y - 1) ** 2) / 18) - 0.6 * np.exp(-((x + 4) ** 2 + (y + 2) ** 2) / 18)
    return torch.from_numpy(np.stack([bumps, 0.5 * bumps, -bumps]))[None]


def uniforms(values: dict[int, float], count: int = 1) -> torch.Tensor:
    """Uniform numbers of a half except in the given columns; gates at 0.5 stay shut at any p up to a half."""
    drawn = torch.full((count, COLUMNS), 0.5, dtype=torch.float64)
    for column, value in values.items():
        drawn[:, column] = value
    return drawn


def normal_at(z: float) -> float:
    """The uniform number whose normal quantile is z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def one_way(name: str, **more: Any) -> AdaConfig:
    return AdaConfig(**{name: 1.0, **more})


@pytest.mark.parametrize("pipe", PIPES)
def test_nothing_happens_at_probability_zero(pipe: str) -> None:
    images = random_images(3)
    assert torch.equal(augmented(images, 0.0, draw_uniforms(3, rng()), PIPES[pipe], torch.ones_like(images)), images)


@pytest.mark.parametrize("pipe", PIPES)
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_every_image_changes_by_its_own_draws_alone(pipe: str, size: tuple[int, int]) -> None:
    images = random_images(4, *size)
    grain, drawn = torch.randn(images.shape, generator=rng(1), dtype=torch.float64), draw_uniforms(4, rng(2))
    before = torch.get_rng_state()
    said = augmented(images, 1.0, drawn, PIPES[pipe], grain)
    assert said.shape == images.shape
    assert not torch.equal(said, images)
    for i in range(4):
        alone = augmented(images[i : i + 1], 1.0, drawn[i : i + 1], PIPES[pipe], grain[i : i + 1])
        torch.testing.assert_close(alone, said[i : i + 1], rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)


def test_switching_a_way_on_changes_no_other() -> None:
    image, drawn = random_images(1), draw_uniforms(1, rng())
    drawn[0, BRIGHT + 1] = 0.99  # no brightness
    both = AdaConfig(brightness=1, xflip=1)
    assert torch.equal(augmented(image, 0.5, drawn, both), augmented(image, 0.5, drawn, one_way("xflip")))


def test_the_published_default_is_blitting_geometry_and_colours() -> None:
    ways = {
        "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac",
        "brightness", "contrast", "lumaflip", "hue", "saturation",
    }  # fmt: skip
    assert PIPES["bgc"] == AdaConfig(**dict.fromkeys(ways, 1.0))  # type: ignore[arg-type]


def test_a_flip_keeps_its_pixels() -> None:
    image = random_images(1)
    said = augmented(image, 0.5, uniforms({FLIP: 0.9, FLIP + 1: 0.1}), one_way("xflip"))
    torch.testing.assert_close(said, image.flip(3), rtol=0, atol=1e-12)
    assert torch.equal(augmented(image, 0.5, uniforms({FLIP: 0.4, FLIP + 1: 0.1}), one_way("xflip")), image)
    assert torch.equal(augmented(image, 0.5, uniforms({FLIP: 0.9, FLIP + 1: 0.6}), one_way("xflip")), image)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_by_ninety_degrees_keep_their_pixels(turns: int) -> None:
    image = random_images(1)
    said = augmented(image, 0.5, uniforms({TURN: turns / 4 + 0.1, TURN + 1: 0.1}), one_way("rotate90"))
    possible = [torch.rot90(image, k, (2, 3)) for k in (turns, -turns)]
    assert any(torch.allclose(said, p, rtol=0, atol=1e-12) for p in possible)


def test_a_move_by_whole_pixels_mirrors_what_comes_in() -> None:
    image = random_images(1, 16, 32)
    drawn = uniforms({WHOLE: 1.0, WHOLE + 1: 0.0, WHOLE + 2: 0.1})  # right by 32 / 8, up by 16 / 8
    said = augmented(image, 0.5, drawn, one_way("xint"))
    wide = np.pad(image[0].numpy(), ((0, 0), (0, 2), (4, 0)), mode="symmetric")
    np.testing.assert_allclose(said[0].numpy(), wide[:, 2:, :32], atol=1e-12)


def test_a_move_by_a_fraction_of_a_pixel() -> None:
    config = one_way("xfrac")
    x, y = 1.5 / 32 / config.xfrac_std, -0.75 / 32 / config.xfrac_std
    drawn = uniforms({FRACTION: normal_at(x), FRACTION + 1: normal_at(y), FRACTION + 2: 0.1})
    said = augmented(smooth_image(), 0.5, drawn, config)
    torch.testing.assert_close(said, smooth_image(move=(1.5, -0.75)), rtol=0, atol=0.015)


@pytest.mark.parametrize("column", [BEFORE, AFTER])
def test_a_rotation_by_half_a_turn_is_where_it_should_be(column: int) -> None:
    image = smooth_image()
    said = augmented(image, 0.5, uniforms({column: 1.0, column + 1: 0.1}), one_way("rotate"))
    torch.testing.assert_close(said, image.rot90(2, (2, 3)), rtol=0, atol=0.015)


def test_either_rotation_happens_with_probability_p() -> None:
    share = 1 - math.sqrt(1 - 0.36)
    image = smooth_image(8, 8)
    shut = augmented(image, 0.36, uniforms({BEFORE: 0.9, BEFORE + 1: share + 1e-6}), one_way("rotate"))
    done = augmented(image, 0.36, uniforms({BEFORE: 0.9, BEFORE + 1: share - 1e-6}), one_way("rotate"))
    assert torch.equal(shut, image)
    assert not torch.equal(done, image)


def test_scaling_enlarges_about_the_centre() -> None:
    config = one_way("scale")
    twice = normal_at(1 / config.scale_std)
    said = augmented(smooth_image(32, 32), 0.5, uniforms({SCALE: twice, SCALE + 1: 0.1}), config)
    y, x = np.mgrid[:32, :32] + 0.5
    x, y = (x - 16) / 2, (y - 16) / 2
    bumps = np.exp(-((x - 3) ** 2 + (y - 1) ** 2) / 18) - 0.6 * np.exp(-((x + 4) ** 2 + (y + 2) ** 2) / 18)
    np.testing.assert_allclose(said[0, 0].numpy(), bumps, atol=0.015)


def test_anisotropic_scaling_widens_as_much_as_it_flattens() -> None:
    config = one_way("aniso")
    y, x = np.mgrid[:32, :32] - 15.5
    image = torch.from_numpy(np.exp(-(x**2 + y**2) / 18))[None, None].repeat(1, 3, 1, 1)
    said = augmented(image, 0.5, uniforms({STRETCH: normal_at(0.5 / config.aniso_std), STRETCH + 1: 0.1}), config)
    np.testing.assert_allclose(said[0, 0].numpy(), np.exp(-(x**2 / 2 + y**2 * 2) / 18), atol=0.02)


def luma(images: torch.Tensor) -> torch.Tensor:
    return images.mean(1, keepdim=True)


def test_colours_change_what_they_are_named_after() -> None:
    image = random_images(1)
    grey, chroma = luma(image), image - luma(image)

    def said(name: str, column: int, value: float) -> torch.Tensor:
        return augmented(image, 0.5, uniforms({column: value, column + 1: 0.1}), one_way(name))

    torch.testing.assert_close(said("brightness", BRIGHT, normal_at(2)), image + 0.4)
    torch.testing.assert_close(said("contrast", CONTRAST, normal_at(2)), 2 * image)
    torch.testing.assert_close(said("lumaflip", LUMA, 0.9), chroma - grey)
    torch.testing.assert_close(said("saturation", SATURATION, normal_at(1)), grey + 2 * chroma)
    third = said("hue", HUE, (1 + 2 / 3) / 2)  # a third of a full turn exchanges the channels
    torch.testing.assert_close(third, image.roll(1, 1))
    torch.testing.assert_close(luma(said("hue", HUE, 0.7)), grey)


def test_bands_are_changed_at_constant_power() -> None:
    image = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    drawn = uniforms({BANDS: normal_at(1), BANDS + 1: 0.1})  # the lowest band, twice
    said = augmented(image, 0.5, drawn, one_way("imgfilter"))
    gain = 2 / math.sqrt((10 * 4 + 3) / 13)  # applied in both directions
    torch.testing.assert_close(said, image * gain**2)


def test_noise_has_the_drawn_deviation_and_a_cutout_the_share() -> None:
    image = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    grain = torch.randn(image.shape, generator=rng(), dtype=torch.float64)
    noisy = augmented(image, 0.5, uniforms({NOISE: normal_at(-2), NOISE + 1: 0.1}), one_way("noise"), grain)
    torch.testing.assert_close(noisy, image + 0.2 * grain)
    cut = augmented(image, 0.5, uniforms({CUT: 0.1}), one_way("cutout"))
    assert cut.mean() == 0.75
    assert bool((cut[..., 8:24, 8:24] == 0).all())
    corner = augmented(image, 0.5, uniforms({CUT: 0.1, CUT + 1: 0.0, CUT + 2: 0.0}), one_way("cutout"))
    assert corner.mean() == 1 - 0.25**2


def test_images_are_flipped_as_often_as_p_says() -> None:
    image = torch.arange(4.0).repeat(4000, 3, 4, 1)
    said = augmented(image, 0.6, draw_uniforms(4000, rng()), one_way("xflip"))
    assert float((said != image).any(3).any(2).any(1).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_wrong_draws_are_refused() -> None:
    images = random_images(2)
    with pytest.raises(ValueError, match="uniforms: expected 2 x 41"):
        augmented(images, 0.5, draw_uniforms(3, rng()), PIPES["bgc"])
    with pytest.raises(ValueError, match="grain: expected"):
        augmented(images, 0.5, draw_uniforms(2, rng()), PIPES["noise"])


def test_gradients_go_through_all_ways_twice() -> None:
    images = random_images(2, 8, 8).requires_grad_(True)
    drawn, grain = draw_uniforms(2, rng(4)), torch.ones_like(images)

    def said(x: torch.Tensor) -> torch.Tensor:
        return augmented(x, 1.0, drawn, PIPES["bgcfnc"], grain).square()  # so that second derivatives are not 0

    assert torch.autograd.gradcheck(said, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(said, images, fast_mode=True)


def test_sampling_differentiates_as_torchs_own() -> None:
    image = random_images(1, 5, 6).requires_grad_(True)
    grid = torch.rand(1, 4, 3, 2, generator=rng(), dtype=torch.float64) * 3 - 1.5
    theirs = torch.nn.functional.grid_sample(image, grid, "bilinear", "reflection", align_corners=False)
    weights = torch.randn(theirs.shape, generator=rng(1), dtype=torch.float64)
    ours = sampled(image, grid)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad((said * weights).sum(), image)[0] for said in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_the_wavelets_are_orthonormal_with_vanishing_moments(taps: tuple[float, ...], moments: int) -> None:
    low = np.array(taps)
    for shift in range(0, len(low), 2):
        assert float(low[: len(low) - shift] @ low[shift:]) == pytest.approx(float(shift == 0), abs=1e-9)
    high = low * (-1.0) ** np.arange(len(low))
    places = np.arange(len(low)) - len(low) / 2
    for moment in range(moments):
        assert float(high @ places**moment) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("size", [(5, 8), (131, 300)])  # in one product of matrices, and in blocks that do not fit
def test_doubling_and_halving_filter_with_the_wavelet(size: tuple[int, int]) -> None:
    image = random_images(1, *size)
    around = np.pad(image[0, 0].numpy(), 8, mode="symmetric")
    taps = np.array(SYM6) / sum(SYM6)
    for axis, side in enumerate(size):
        around = signal.upfirdn(2 * taps, around, up=2, axis=axis)
        around = np.take(around, np.arange(2 * side) + 2 * 8 + 5, axis)
    np.testing.assert_allclose(doubled(image)[0, 0].numpy(), around, atol=1e-12)
    larger = random_images(1, 2 * size[0] + 10, 2 * size[1] + 10)
    expected = larger[0, 0].numpy()
    for axis, side in enumerate(size):
        expected = np.take(signal.upfirdn(taps[::-1], expected, axis=axis), 2 * np.arange(side) + 11, axis)
    np.testing.assert_allclose(halved(larger)[0, 0].numpy(), expected, atol=1e-12)


def test_halving_a_doubled_image_gives_it_back() -> None:
    image = random_images(1, 16, 20)
    again = halved(mirrored(doubled(image), 5))
    torch.testing.assert_close(again[..., 3:-3, 3:-3], image[..., 3:-3, 3:-3], rtol=0, atol=1e-9)


def test_bands_add_up_to_the_image() -> None:
    bank = band_filters()
    pulse: npt.NDArray[np.float64] = np.zeros(43)
    pulse[21] = 1
    np.testing.assert_allclose(bank.sum(0), pulse, atol=1e-12)
    np.testing.assert_allclose(bank, bank[:, ::-1], atol=1e-12)
    np.testing.assert_allclose(bank.sum(1), [1, 0, 0, 0], atol=1e-9)
    image = random_images(2, 8, 12)  # smaller than the filter
    kernels = torch.from_numpy(np.stack([pulse, 2 * pulse]))
    torch.testing.assert_close(filtered(image, kernels), image * torch.tensor([1.0, 4.0])[:, None, None, None])


def test_p_rises_while_the_discriminator_is_sure_and_falls_while_it_is_not() -> None:
    ada = AdaController(target=0.6, interval=4, kimg=1.0)
    for step in range(8):
        ada.follow(torch.tensor([2.0, 1.0, 0.5, 3.0, 1.0, 1.0, 1.0, -1.0, 2.0, 2.0]), step)  # r_t = 0.8
    assert ada.p == pytest.approx(2 * 40 / 1000)
    assert ada.r_t == pytest.approx(0.8)
    ada.follow(torch.tensor([-1.0]), 8)
    assert ada.p == pytest.approx(0.08)  # only every fourth batch
    again = AdaController(target=0.6, interval=4, kimg=1.0)
    again.restore(ada.state())
    assert again == ada
    for step in range(9, 40):
        again.follow(torch.full((10,), -1.0), step)
    assert again.p == 0
    for step in range(400):
        again.follow(torch.ones(10), step)
    assert again.p == 1
