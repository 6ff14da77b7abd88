"""Tiles drawn in windows are what one pass with the same statistics draws."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from factory.nets import stitching
from factory.nets.drawing import ready
from factory.nets.pix2pixhd import GlobalGenerator
from factory.nets.resnet import ResnetGenerator
from factory.nets.stitching import _sample_places, _weights, _windows, draw, frozen_norms, logits_in_windows, to_pixels
from factory.nets.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "pix2pixhd": lambda: GlobalGenerator(3, width=6, downs=2, blocks=2, kernel=5),
    "pix2pixhd resize": lambda: GlobalGenerator(3, width=6, downs=3, blocks=1, kernel=3, upsampling="resize"),
    "pix2pixhd batch": lambda: GlobalGenerator(3, width=6, downs=2, blocks=2, kernel=5, norm="batch"),
    "cyclegan": lambda: ResnetGenerator(3, 3, 6, 2, kernel=5),
    "pix2pix": lambda: UNet(3, 3, 6, 3, "instance"),
}


def _network(name: str) -> nn.Module:
    torch.manual_seed(4)
    network = NETWORKS[name]()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, (2.0 / layer.weight[0].numel()) ** 0.5)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    if isinstance(network, UNet):
        nn.init.normal_(network.noise_scale, 0.0, 0.05)
    return ready(network, "fp32", "cpu")


def _tile(size: tuple[int, int]) -> torch.Tensor:
    """Blocks of classes, one-hot, that change over the tile, the last channel noise."""
    rng = np.random.default_rng(5)
    classes = np.kron(rng.integers(0, 2, (size[0] // 8, size[1] // 8)), np.ones((8, 8)))
    classes[: size[0] // 2] *= rng.random((size[0] // 2, size[1])) < 0.5
    noise = rng.standard_normal(size)
    return torch.from_numpy(np.stack([classes, 1 - classes, noise])[None].astype(np.float32))


def _reader(tile: torch.Tensor) -> Callable[[slice, slice], torch.Tensor]:
    return lambda rows, columns: tile[..., rows, columns]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("window_px", [16, 24])
def test_windows_are_the_one_pass_with_the_same_statistics(name: str, window_px: int) -> None:
    network, size = _network(name), (72, 128)
    tile = _tile(size)
    read, drawn = _reader(tile), torch.full((1, 3, *size), torch.nan)
    with torch.inference_mode(), frozen_norms(network, read, size, window_px):
        once = network(tile)
        for rows, columns, logits in logits_in_windows(network, read, size, window_px):
            assert torch.isnan(drawn[..., rows, columns]).all()
            drawn[..., rows, columns] = logits
    assert float(once.std()) > 0.1
    torch.testing.assert_close(drawn, once, rtol=0, atol=1e-5)
    image = draw(network, read, size, window_px=window_px)
    assert np.array_equal(image, to_pixels(drawn)[0])
    assert np.abs(image.astype(np.int64) - to_pixels(once)[0]).max() <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_no_pixel_sees_farther_than_the_halo_and_some_nearly_as_far(name: str) -> None:
    network = _network(name)
    halo, stride = network.halo_px, network.stride
    side = 2 * halo + 4 * stride
    tile = torch.randn(1, 3, side, side)
    seen = []
    with torch.inference_mode(), frozen_norms(network, _reader(tile), (side, side), side):
        before = network(tile)
        for pixel in range(stride):
            touched = tile.clone()
            touched[..., side // 2 + pixel, side // 2 + pixel] += 1000.0
            moved = (network(touched) != before).any(1)[0].nonzero() - side // 2 - pixel
            seen.append(int(moved.abs().max()))
    assert max(seen) <= halo
    assert max(seen) > 0.5 * halo


def test_a_small_tile_is_one_ordinary_pass() -> None:
    network, size = _network("pix2pixhd"), (32, 128)
    tile = _tile(size)
    with torch.inference_mode():
        expected = to_pixels(network(tile))[0]
    assert np.array_equal(draw(network, _reader(tile), size, window_px=64), expected)
    assert not np.array_equal(draw(network, _reader(tile), size, window_px=32), expected)


def test_norms_are_ordinary_again_after_a_large_tile_and_after_a_failure() -> None:
    network, tile = _network("pix2pixhd"), _tile((64, 64))
    with torch.inference_mode():
        before = network(tile)
    draw(network, _reader(tile), (64, 64), window_px=32)
    with pytest.raises(RuntimeError, match="gone"), frozen_norms(network, _reader(tile), (64, 64), 32):
        raise RuntimeError("gone")
    with torch.inference_mode():
        assert torch.equal(network(tile), before)


def test_samples_weigh_what_makes_them_like_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    means = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    weights = _weights(means, torch.tensor([0.2, 0.7, 0.1]))
    assert weights.tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.01)
    assert _weights(means[:2], torch.tensor([0.2, 0.7, 0.1])).tolist() == [0.5, 0.5]  # none has the class

    network, size = _network("pix2pixhd"), (256, 256)
    tile = _tile(size)
    for columns in (slice(0, 56), slice(100, 156)):  # two of three samples in less than half of the tile
        tile[:, :2, :, columns] = torch.tensor([0.0, 1.0])[:, None, None]
    with torch.inference_mode():
        own = to_pixels(network(tile))[0].astype(np.int64)
    weighted = draw(network, _reader(tile), size, window_px=128)
    monkeypatch.setattr(stitching, "_weights", lambda samples, _: torch.full((len(samples),), 1 / len(samples)))
    even = draw(network, _reader(tile), size, window_px=128)
    assert np.abs(weighted - own).mean() < 0.7 * np.abs(even - own).mean()


def test_no_window_of_the_whole_tile_is_ever_read() -> None:
    network, size = _network("cyclegan"), (256, 384)
    tile, read = _tile(size), []

    def reading(rows: slice, columns: slice) -> torch.Tensor:
        read.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return tile[..., rows, columns]

    draw(network, reading, size, window_px=64)
    assert max(read) <= (64 + 2 * (network.halo_px + network.stride)) ** 2


def test_a_size_between_strides_is_refused() -> None:
    network = _network("pix2pixhd")
    with pytest.raises(ValueError, match="multiples of 4, got 30x64"):
        draw(network, _reader(torch.zeros(1, 3, 30, 64)), (30, 64), window_px=32)


@pytest.mark.parametrize("side", [96, 768, 800, 1024, 1056, 4096, 10_016])
@pytest.mark.parametrize("window_px", [32, 100, 512])
def test_windows_cover_the_side_once_with_a_halo_around_each(side: int, window_px: int) -> None:
    network = GlobalGenerator(1, width=1, downs=3, blocks=1)
    step, halo = 2 * network.stride, network.halo_px
    windows = _windows(network, (side, side), window_px, 0)
    kept, around = zip(*windows, strict=True)
    assert (kept[0].start, kept[-1].stop) == (0, side)
    assert all(one.stop == after.start for one, after in pairwise(kept))
    assert len({whole.stop - whole.start for whole in around}) == 1
    assert all(whole.start % step == 0 and whole.start >= 0 and whole.stop <= side for whole in around)
    for own, whole in windows:
        assert own.start - whole.start >= halo or whole.start == 0
        assert whole.stop - own.stop >= halo or whole.stop == side
        assert whole.stop - whole.start <= window_px + step + 2 * (halo + step)


@pytest.mark.parametrize(
    "size", [(2048, 2048), (10_016, 10_016), (128, 10_016), (10_016, 64), (1024, 1056), (4096, 1024)]
)
def test_samples_are_spread_evenly_and_lie_in_the_tile(size: tuple[int, int]) -> None:
    places = _sample_places(32, size, 1024)
    assert 1 <= len(places) <= 9
    assert len({(rows.start, columns.start) for rows, columns in places}) == len(places)
    for axis, side in enumerate(size):
        spans = [place[axis] for place in places]
        assert {span.stop - span.start for span in spans} == {min(352, side)}
        assert all(span.start % 32 == 0 for span in spans)
        assert min(span.start for span in spans) + max(span.stop for span in spans) == pytest.approx(side, abs=32)
        assert min(span.start for span in spans) >= 0


def test_pixels_are_tanh_on_256_levels() -> None:
    logits = torch.tensor([-50.0, 0.0, 0.5, 50.0]).reshape(1, 1, 2, 2)
    expected = [0, round(127.5), round((float(np.tanh(0.5)) + 1) * 127.5), 255]
    assert to_pixels(logits).ravel().tolist() == expected
    assert to_pixels(logits.expand(2, 3, 2, 2)).shape == (2, 2, 2, 3)
    assert to_pixels(logits).flags["C_CONTIGUOUS"]
