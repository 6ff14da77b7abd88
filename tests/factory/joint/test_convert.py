"""The original's weights draw what they drew, and whatever else is refused in one line."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factory.joint.convert import converted, read_original
from factory.nets.stylegan2 import StyleGan2Shape
from manifests.errors import UserError
from tests.original_stylegan2 import CLAMP, WIDTHS, their_image, their_tensors

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("psi", [1.0, 0.7])
def test_converted_weights_draw_what_the_original_draws(psi: float) -> None:
    tensors = their_tensors()
    network = converted(tensors, CLAMP)
    assert not network.training
    latents = np.random.default_rng(9).standard_normal((2, 7))
    with torch.no_grad():
        exact = network.double()(torch.from_numpy(latents), psi=psi).numpy()
        ours = network.float()(torch.from_numpy(latents).float(), psi=psi).numpy()
    expected = np.stack([their_image(tensors, z, psi) for z in latents])
    np.testing.assert_allclose(exact, expected, atol=1e-6)  # the filter is kept in float32
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_widths_of_any_base_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = StyleGan2Shape(channel_base=100, channel_max=25)  # 100 // 8 * 8 is less than 4 x 25
    for side in (4, 8, 16):
        monkeypatch.setitem(WIDTHS, side, shape.channels((side, side)))
    found = converted(their_tensors()).shape
    assert [found.channels((side, side)) for side in WIDTHS] == [25, 12, 6]


def test_a_file_of_plain_tensors_is_read_and_a_pickle_is_not(tmp_path: Path) -> None:
    save_file(their_tensors(), tmp_path / "g.safetensors")
    assert read_original(tmp_path / "g.safetensors").size == (16, 16)
    torch.save(their_tensors(), tmp_path / "g.pt")
    with pytest.raises(UserError, match="never loaded"):
        read_original(tmp_path / "g.pt")


def broken(change: Callable[[dict[str, torch.Tensor]], object]) -> dict[str, torch.Tensor]:
    tensors = their_tensors()
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.clear(), "expected the state dict of the original's G_ema .* got nothing"),
        (lambda t: t.pop("mapping.w_avg"), "mapping.w_avg: expected a tensor of that name, got none"),
        (lambda t: t.pop("synthesis.b8.conv1.weight"), "synthesis.b8.conv1.weight: expected a tensor, got none"),
        (lambda t: t.update({"synthesis.b8.skip.weight": torch.ones(1)}), "skip.weight: expected no tensor"),
        (lambda t: t.update({"mapping.embed.weight": torch.ones(1)}), "expected an unconditional generator"),
        (lambda t: t.update({"mapping.w_avg": torch.ones(3)}), "mapping.w_avg: expected 6, got 3"),
        (lambda t: t.update({"synthesis.b8.resample_filter": torch.ones(4, 4)}), r"expected the filter \[1, 3, 3, 1\]"),
        (lambda t: t.update({"mapping.fc0.weight": torch.ones(6)}), "fc0.weight: expected a tensor of 2 axes, got 6"),
        (lambda t: t.update({"mapping.fc0.weight": torch.ones(6, 0)}), "z_dim: .*greater than or equal to 1"),
        (lambda t: t.update({"synthesis.b8.conv1.weight": torch.ones(())}), "of 4 axes, got a number"),
        (lambda t: t.update({f"mapping.fc{n}.weight": torch.ones(6, 6) for n in range(2, 17)}), "mapping_layers: .*16"),
        (lambda t: t["mapping.w_avg"].fill_(math.nan), "mapping.w_avg: expected finite floats, got some that are not"),
        (lambda t: t.update({"mapping.w_avg": torch.ones(6, dtype=torch.int32)}), "finite floats, got int32"),
    ],
)
def test_other_weights_are_refused(change: Callable[[dict[str, torch.Tensor]], object], said: str) -> None:
    with pytest.raises(UserError) as refused:
        converted(broken(change), where="g.safetensors")
    assert re.search(said, str(refused.value)), refused.value
    assert str(refused.value).startswith("g.safetensors: ")
