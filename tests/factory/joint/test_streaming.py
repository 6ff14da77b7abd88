"""Labels made tile by tile are those of the published way: upsample everything, concatenate, classify every pixel."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from factory.joint import streaming, upsampling
from factory.joint.hdgan import taps_of
from factory.joint.streaming import StreamingLabeller
from factory.joint.upsampling import Grid, places_between
from factory.nets.pixel_classifier import Ensemble, PixelClassifier, disagreement, majority_vote
from factory.nets.stylegan2 import Tap
from manifests.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 3


def _ensemble(channels: int, members: int, seed: int = 0, widths: tuple[int, int] = (16, 8)) -> Ensemble:
    """Random weights, and norms and standardisation that are not the identity, as training leaves them."""
    torch.manual_seed(seed)
    ensemble = Ensemble(channels, CLASSES, members, widths)
    for layer in ensemble.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, layer.in_features**-0.5)
            nn.init.normal_(layer.bias)
        if isinstance(layer, nn.BatchNorm1d):
            for values in (layer.running_mean, layer.bias):
                nn.init.normal_(values)
            for values in (layer.running_var, layer.weight):
                nn.init.uniform_(values, 0.5, 2.0)
    ensemble.standardise_by(2 * torch.randn(200, channels) + torch.randn(channels))
    return ensemble.eval()


def _taps(shapes: list[tuple[int, int, int]], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(2 * rng.standard_normal(shape) + 0.5).astype(np.float32) for shape in shapes]


def _direct(ensemble: Ensemble, taps: list[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
    """Logits [E, K, H, W] the published way."""
    whole = [
        F.interpolate(torch.from_numpy(tap.astype(np.float32))[None], size, mode="bilinear", align_corners=False)
        for tap in taps
    ]
    with torch.inference_mode():
        logits: torch.Tensor = ensemble(torch.cat(whole, 1)[0].flatten(1).T)
    return logits.unflatten(2, size)


def _streamed(labeller: StreamingLabeller, taps: list, size: tuple[int, int], tile_px: int) -> torch.Tensor:
    logits = torch.full((labeller.members, labeller.classes, *size), torch.nan)
    for rows, columns, said in labeller.logits(taps, size, tile_px):
        assert torch.isnan(logits[..., rows, columns]).all()
        logits[..., rows, columns] = said
    return logits


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(5, 40),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 6),
)
def test_any_tile_size_gives_what_upsampling_everything_gives(
    kinds: list[tuple[int, int]], height: int, width: int, tile_px: int, members: int, wide: bool, band_rows: int
) -> None:
    """Strides up to 32, of which those from 8 on are summed on lines; tiles that start and end anywhere between."""
    deepest = max(stride for _, stride in kinds)
    size = (height << deepest, (width << deepest) * (2 if wide else 1))
    taps = _taps([(channels, size[0] >> stride, size[1] >> stride) for channels, stride in kinds])
    ensemble = _ensemble(sum(channels for channels, _ in kinds), members)
    labeller = StreamingLabeller(ensemble, [channels for channels, _ in kinds])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_BAND_BYTES", band_rows * 4 * min(tile_px, size[1]) * 16)
        found = _streamed(labeller, taps, size, tile_px)
    torch.testing.assert_close(found, _direct(ensemble, taps, size), rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize("tile_px", [1, 3])
def test_tiles_of_a_pixel_or_three_are_no_matter(tile_px: int) -> None:
    size = (16, 16)
    channels, taps = [4, 3, 2], _taps([(4, 1, 1), (3, 2, 4), (2, 8, 8)])  # strides of 16, of 8 and 4, and of 2
    ensemble = _ensemble(sum(channels), 1)
    found = _streamed(StreamingLabeller(ensemble, channels), taps, size, tile_px)
    torch.testing.assert_close(found, _direct(ensemble, taps, size), rtol=2e-5, atol=5e-5)


SHAPES = [(24, 2, 3), (24, 2, 3), (12, 8, 12), (6, 16, 24), (3, 32, 48), (3, 32, 48)]
SIZE = (32, 48)


@pytest.mark.parametrize("tile_px", [7, 16, 64])
def test_the_order_in_memory_and_the_number_format_of_taps_do_not_matter(tile_px: int) -> None:
    taps, channels = _taps(SHAPES), [shape[0] for shape in SHAPES]
    labeller = StreamingLabeller(_ensemble(sum(channels), 1), channels)
    halves = [tap.astype(np.float16) for tap in taps]
    pixelwise = [np.ascontiguousarray(tap.transpose(1, 2, 0)).transpose(2, 0, 1) for tap in halves]
    expected = _direct(_ensemble(sum(channels), 1), halves, SIZE)
    for form in (halves, pixelwise, [tap.astype(np.float32) for tap in halves], [torch.from_numpy(t) for t in halves]):
        torch.testing.assert_close(_streamed(labeller, form, SIZE, tile_px), expected, rtol=2e-5, atol=5e-5)


def test_taps_of_a_generator_are_found_by_name() -> None:
    given = [Tap(f"b{tap.shape[1]}.conv1", torch.from_numpy(tap[None])) for tap in _taps(SHAPES[2:5])]
    names = ["b32.conv1", "b8.conv1"]
    expected = {tap.name: tap.features[0] for tap in given}
    for name, tap in zip(names, taps_of(given, names), strict=True):
        assert torch.equal(tap, expected[name])
    with pytest.raises(UserError, match=r"generator: expected the layer b4\.conv1, got one with b8\.conv1, b16"):
        taps_of(given, ["b4.conv1"])


def test_features_far_from_zero_keep_their_digits() -> None:
    """A mean of a thousand deviations would, folded into the bias, cost three digits."""
    channels = [shape[0] for shape in SHAPES]
    ensemble, taps = _ensemble(sum(channels), 1), _taps(SHAPES)
    near = _streamed(StreamingLabeller(ensemble, channels), taps, SIZE, 16)
    far = [tap + 1024 for tap in taps]
    ensemble.mean += 1024
    for precision, most in (("fp32", 2e-3), ("bf16", 0.15)):
        moved = _streamed(StreamingLabeller(ensemble, channels, precision=precision), far, SIZE, 16)
        assert float((moved - near).abs().max()) < most


def test_bfloat16_moves_logits_a_little() -> None:
    channels = [shape[0] for shape in SHAPES]
    ensemble, taps = _ensemble(sum(channels), 2, widths=(128, 32)), _taps(SHAPES)
    expected = _direct(ensemble, taps, SIZE)
    found = _streamed(StreamingLabeller(ensemble, channels, precision="bf16"), taps, SIZE, 16)
    error = float((found - expected).square().mean().sqrt() / expected.std())
    assert 0 < error < 0.02


def test_nothing_larger_than_a_tile_is_made() -> None:
    size, tile_px = (96, 96), 16
    channels = [12, 12, 6, 3]
    taps = _taps([(12, 6, 6), (12, 12, 12), (6, 48, 48), (3, 96, 96)])
    labeller = StreamingLabeller(_ensemble(sum(channels), 1), channels)
    inputs = {torch.from_numpy(tap).untyped_storage().data_ptr() for tap in taps}
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in inputs:
                largest = max(largest, made.numel())
            return made

    with Sizes():
        labels = labeller.label(taps, size, tile_px)
    assert labels.semantic.shape == size
    assert 0 < largest <= (tile_px + 2) ** 2 * 16  # outputs of the first layer, with a halo


def test_labels_are_the_vote_and_what_is_doubtful_is_ignored() -> None:
    channels = [shape[0] for shape in SHAPES]
    ensemble, taps = _ensemble(sum(channels), 5), _taps(SHAPES)
    labeller = StreamingLabeller(ensemble, channels)
    logits = _direct(ensemble, taps, SIZE)
    votes, doubt = majority_vote(logits).numpy(), disagreement(logits).numpy()
    found = labeller.label(taps, SIZE, 20)
    assert np.array_equal(found.semantic, votes)
    assert found.semantic.dtype == np.uint8
    assert found.ignored == 0
    assert found.uncertainty == pytest.approx(doubt.mean(), abs=1e-4)
    assert found.top_uncertainty == pytest.approx(np.sort(doubt.ravel())[-(doubt.size // 10) :].mean(), abs=2e-3)

    bound = float(np.quantile(doubt, 0.7))
    kept = labeller.label(taps, SIZE, 20, most_uncertain=bound)
    sure = np.abs(doubt - bound) > 1e-5
    assert np.array_equal(kept.semantic[sure], np.where(doubt > bound, 255, votes)[sure])
    assert kept.ignored == np.count_nonzero(kept.semantic == 255) / doubt.size
    assert kept.ignored == pytest.approx(0.3, abs=0.01)


def test_a_single_classifier_has_labels_and_no_doubt() -> None:
    channels = [shape[0] for shape in SHAPES]
    ensemble, taps = _ensemble(sum(channels), 1), _taps(SHAPES)
    labeller = StreamingLabeller(ensemble, channels)
    found = labeller.label(taps, SIZE, 16)
    assert np.array_equal(found.semantic, _direct(ensemble, taps, SIZE)[0].argmax(0).numpy())
    assert (found.uncertainty, found.top_uncertainty) == (None, None)
    with pytest.raises(ValueError, match="expected an ensemble"):
        labeller.label(taps, SIZE, 16, most_uncertain=0.1)


def test_members_that_know_one_class_never_disagree() -> None:
    channels = [shape[0] for shape in SHAPES]
    labeller = StreamingLabeller(Ensemble(sum(channels), 1, 2).eval(), channels)
    found = labeller.label(_taps(SHAPES), SIZE)
    assert not found.semantic.any()
    assert found.uncertainty == pytest.approx(0.0, abs=1e-6)


def test_both_ways_to_upsample_a_tile_are_the_same() -> None:
    torch.manual_seed(0)
    outputs, total = torch.randn(6, 5, 8), torch.randn(24, 20, 8)
    down, along = places_between(np.arange(24), 24, 6), places_between(np.arange(20), 20, 5)
    here, elsewhere, banded = total.clone(), total.clone(), total.clone()
    Grid(outputs, down, along).add_to(here)
    upsampling._add_elsewhere(elsewhere, outputs, down, along)
    for start in (0, 7, 14, 21):
        Grid(outputs, down, along).add_to(banded[start : start + 7], start)
    torch.testing.assert_close(here, elsewhere, rtol=0, atol=2e-6)
    assert torch.equal(banded, here)
    whole = F.interpolate(outputs.permute(2, 0, 1)[None], (24, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(here, total + whole[0].permute(1, 2, 0), rtol=0, atol=2e-6)


def test_taps_and_settings_that_do_not_fit_are_a_mistake() -> None:
    channels = [shape[0] for shape in SHAPES]
    ensemble, taps = _ensemble(sum(channels), 1), _taps(SHAPES)
    labeller = StreamingLabeller(ensemble, channels)
    for wrong, size, tile_px, said in (
        (taps[1:], SIZE, 8, "expected channels"),
        (taps, (32, 96), 0, "tile_px"),
        (taps, (48, 48), 8, "powers of two"),
    ):
        with pytest.raises(ValueError, match=said):
            labeller.label(wrong, size, tile_px)
    with pytest.raises(ValueError, match="expected 72 in all, got 48"):
        StreamingLabeller(ensemble, channels[1:])
    with pytest.raises(ValueError, match="fp32 or bf16"):
        StreamingLabeller(ensemble, channels, precision="auto")


def test_every_parameter_of_a_classifier_is_trained() -> None:
    torch.manual_seed(0)
    network = PixelClassifier(6, CLASSES)
    logits = network(torch.randn(40, 6))
    assert logits.shape == (40, CLASSES)
    logits.square().mean().backward()
    assert all(
        float(parameter.grad.abs().sum()) > 0 for parameter in network.parameters() if parameter.grad is not None
    )
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert [network.first.out_features, network.second.out_features, network.dropout.p] == [128, 32, 0.3]


def test_standardised_features_have_mean_0_and_deviation_1_and_a_constant_stays_finite() -> None:
    torch.manual_seed(0)
    scales, means = torch.linspace(0.1, 20, 150), torch.linspace(-3, 5, 150)  # more channels than are looked at at once
    scales[3], means[3] = 0.0, 7.0
    features = torch.randn(500, 150) * scales + means
    ensemble = Ensemble(150, CLASSES)
    ensemble.standardise_by(features)
    x = ensemble.standardised(features)
    torch.testing.assert_close(x.mean(0), torch.zeros(150), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0, correction=0), (scales > 0).float(), rtol=0, atol=1e-5)
    assert math.isclose(float(ensemble.mean[3]), 7.0)
