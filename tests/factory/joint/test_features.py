"""Features on disk are what was written, or refused; pixels gathered from them are those of the upsampled taps."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.joint import features
from factory.joint.features import Features, FeatureStore, Record, check_shapes, need_bytes
from factory.joint.upsampling import places_between
from manifests.errors import FaultError, UserError

SIZE = (16, 32)
SHAPES = ((5, 4, 8), (4, 4, 8), (3, 8, 16), (2, 16, 32))


def _taps(shapes: tuple[tuple[int, int, int], ...] = SHAPES, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(3 * rng.standard_normal(shape) + 1).astype(np.float32) for shape in shapes]


def _upsampled(taps: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The published way: [H W, sum of C] of all taps upsampled and concatenated."""
    whole = [
        F.interpolate(torch.from_numpy(np.asarray(tap, np.float32))[None], size, mode="bilinear", align_corners=False)
        for tap in taps
    ]
    return torch.cat(whole, 1)[0].flatten(1).T.numpy()


def _all_pixels(size: tuple[int, int]) -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.indices(size)], 1)


def _written(folder: Path, name: str = "a") -> Features:
    store = FeatureStore(folder, "w" * 64)
    store.write(name, _taps(), SIZE, "z" * 64)
    return store.read(name)


def test_gathered_pixels_are_those_of_the_upsampled_taps(tmp_path: Path) -> None:
    found, pixels = _written(tmp_path), _all_pixels(SIZE)
    gathered = found.gather(pixels)
    assert gathered.dtype == np.float32
    stored = [np.ascontiguousarray(tap) for tap in found.taps]
    np.testing.assert_allclose(gathered, _upsampled(stored, SIZE), rtol=0, atol=3e-6)
    np.testing.assert_allclose(gathered, _upsampled(_taps(), SIZE), rtol=2**-10, atol=2**-9)
    some = np.random.default_rng(1).permutation(pixels)[:50]
    assert np.array_equal(found.gather(some), gathered[some[:, 0] * SIZE[1] + some[:, 1]])
    assert found.gather(pixels[:0]).shape == (0, 14)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_places_are_those_of_torch_at_any_stride(down: int, along: int, height: int, width: int, seed: int) -> None:
    size = (height << down, width << along)
    tap = _taps(((1, height, width),), seed)
    (a, b, t), (c, d, s) = (
        places_between(np.arange(side), side, native) for side, native in zip(size, (height, width), strict=True)
    )
    rows = tap[0][0][a] + t[:, None] * (tap[0][0][b] - tap[0][0][a])
    found = rows[:, c] + s * (rows[:, d] - rows[:, c])
    np.testing.assert_allclose(found.ravel(), _upsampled(tap, size)[:, 0], rtol=0, atol=3e-6)


def test_every_number_that_float16_holds_is_gathered_exactly(tmp_path: Path) -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = numbers[np.isfinite(numbers)]
    tap = np.resize(finite, (1, 256, 256))
    store = FeatureStore(tmp_path, "w")
    store.write("all", [tap], (256, 256), "z")
    gathered = store.read("all").gather(_all_pixels((256, 256)))[:, 0]
    assert np.array_equal(gathered, tap.ravel().astype(np.float32))


def test_pixels_outside_of_the_image_are_a_mistake(tmp_path: Path) -> None:
    found = _written(tmp_path)
    for pixel in ([-1, 0], [0, -1], [16, 0], [0, 32]):
        with pytest.raises(ValueError, match="expected places in 16x32"):
            found.gather(np.array([[0, 0], pixel]))


def test_an_image_is_a_plain_file_and_a_record_of_it(tmp_path: Path) -> None:
    found = _written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.f16", "a.json"]
    content = found.path.read_bytes()
    expected = b"".join(tap.astype("<f2").transpose(1, 2, 0).tobytes() for tap in _taps())
    assert content == expected
    assert len(content) == need_bytes(SHAPES) == found.record.size_bytes
    assert found.record == Record("a", SIZE, SHAPES, "z" * 64, "w" * 64, hashlib.sha256(content).hexdigest())
    assert found.record.channels == (5, 4, 3, 2)
    for tap, written in zip(found.taps, _taps(), strict=True):
        assert np.array_equal(tap, written.astype(np.float16))
    found.verify()


def test_a_large_tap_is_written_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _written(tmp_path / "whole").record.sha256
    monkeypatch.setattr(features, "_ROWS_BYTES", 300)
    assert _written(tmp_path / "pieces").record.sha256 == whole


def test_the_published_disk_need_and_ours_at_4096() -> None:
    blocks = [(channels, side) for channels, side in ((128, 256), (64, 512), (32, 1024), (16, 2048), (8, 4096))]
    native = need_bytes([(channels, side, side) for channels, side in blocks for _ in (0, 1)])
    upsampled = need_bytes([(496, 4096, 4096)])
    assert round(upsampled / 1e9, 1) == 16.6
    assert round(native / 1e9, 2) == 1.04
    assert need_bytes([(1, 2, 3)], images=4) == 48


def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path / "not" / "there", "w")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**9})())
    store.check_space([(8, 1024, 1024)], 50)
    with pytest.raises(UserError, match=r"there: expected 1\.68 GB free for the features of 100 images, got 1\.00 GB"):
        store.check_space([(8, 1024, 1024)], 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match="GB free"):
        store.write("a", _taps(), SIZE, "z")
    assert not (tmp_path / "not").exists()


def _cut(folder: Path) -> None:
    content = (folder / "a.f16").read_bytes()
    (folder / "a.f16").write_bytes(content[:-2])


def _edit(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / "a.json").read_text())
        (folder / "a.json").write_text(json.dumps({**document, **values}))

    return edit


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_cut, r"a\.f16: expected 3,392 bytes, got 3,390: the file is cut short"),
        (lambda folder: (folder / "a.f16").unlink(), r"bytes, got 0: the file is cut short"),
        (lambda folder: (folder / "a.json").unlink(), r"a\.json: expected the record .* got no such file"),
        (lambda folder: (folder / "a.json").write_text("{"), r"a\.json: expected the record .* got JSONDecodeError"),
        (lambda folder: (folder / "a.json").write_text("[]"), r"a\.json: expected the record .* got TypeError"),
        (_edit(more=1), r"a\.json: expected the record .* got TypeError"),
        (_edit(size=[16, 31]), r"a\.json: expected the record .* got ValueError"),
        (_edit(weights_sha256="v" * 64), r"expected features of the generator wwwwwwwwwwww, got those of vvvvvvvvvvvv"),
        (_edit(weights_sha256=None), r"a\.json: expected the record .* got TypeError"),
        (_edit(version=2), r"a\.json: expected features of the form"),
        (_edit(name="b"), r"a\.json: expected the features of a, got those of b"),
    ],
)  # fmt: skip
def test_features_that_are_not_those_asked_for_are_refused(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    _written(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=said):
        FeatureStore(tmp_path, "w" * 64).read("a")


def test_features_of_another_latent_are_refused(tmp_path: Path) -> None:
    _written(tmp_path)
    FeatureStore(tmp_path, "w" * 64).read("a", "z" * 64)
    with pytest.raises(UserError, match="features of the latent yyyyyyyyyyyy, got those of zzzzzzzzzzzz"):
        FeatureStore(tmp_path, "w" * 64).read("a", "y" * 64)


def test_a_flipped_bit_is_found_when_looked_for(tmp_path: Path) -> None:
    found = _written(tmp_path)
    content = bytearray(found.path.read_bytes())
    content[100] ^= 1
    found.path.write_bytes(content)
    with pytest.raises(UserError, match="the file is damaged"):
        FeatureStore(tmp_path, "w" * 64).read("a").verify()


def test_what_a_kill_leaves_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path, "w" * 64)
    store.write("a", _taps(), SIZE, "z")
    assert store.missing(["a", "b"]) == ["b"]

    def killed(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write("a", _taps(seed=1), SIZE, "z")
    assert store.missing(["a", "b"]) == ["a", "b"]  # never the new bytes under the old record
    store.write("a", _taps(seed=1), SIZE, "z")
    store.read("a").verify()
    (tmp_path / "a.f16").write_bytes(b"")
    with pytest.raises(UserError, match="cut short"):
        store.missing(["a"])


def test_numbers_that_float16_cannot_hold_leave_nothing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "w")
    for value in (1e6, float("nan")):
        taps = _taps()
        taps[2][1, 3, 3] = value
        with pytest.raises(FaultError, match="features of a: expected numbers that float16 holds, got others in tap 2"):
            store.write("a", taps, SIZE, "z")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([], "at least one"),
        ([(3, 5, 8)], "divide 16x32 by powers of two, got 5x8"),
        ([(3, 16, 32), (3, 4, 3)], "tap 1"),
        ([(3, 32, 32)], "got 32x32"),
        ([(0, 4, 4)], r"\[C, h, w\]"),
    ],
)
def test_taps_that_are_no_layers_of_the_image_are_a_mistake(shapes: list[tuple[int, int, int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_shapes(shapes, SIZE)


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a name of letters"):
        FeatureStore(tmp_path, "w").read("../a")
