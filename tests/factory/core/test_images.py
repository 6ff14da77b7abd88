"""Pictures that a user names: every format gives the same pixels, and what is no 8-bit RGB is refused in one line."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from factory.core.images.files import read_rgb
from factory.inspect.blocks import cut_images
from factory.make.fit_to_real import read_real_tiles
from manifests.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", lambda path: Image.fromarray(PIXELS).save(path)),
        ("a.PNG", lambda path: Image.fromarray(PIXELS).save(path)),
        ("a.bmp", lambda path: Image.fromarray(PIXELS).save(path)),
        ("a.jp2", lambda path: Image.fromarray(PIXELS).save(path, irreversible=False)),
        ("a.tif", lambda path: tifffile.imwrite(path, PIXELS, photometric="rgb")),
        ("a.npy", lambda path: np.save(path, PIXELS)),
    ],
)
def test_lossless_formats_give_the_pixels_that_were_written(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert np.array_equal(read_rgb(tmp_path / name), PIXELS)


def png_that_claims(height: int, width: int) -> bytes:
    """A PNG of a few bytes whose header states a size that its data do not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def write_jp2(path: Path, pixels: np.ndarray, bits: int) -> None:
    """A JPEG 2000 file of more than 8 bits a channel."""
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, codecformat="jp2"))


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "transparent": ("a.png", lambda p: Image.new("RGBA", (9, 9)).save(p), "got RGBA.*Flatten it onto white"),
    "grey": ("a.jpg", lambda p: Image.new("L", (9, 9)).save(p), "got grey.*Export it in colour"),
    "palette": ("a.png", lambda p: Image.new("P", (9, 9)).save(p), "got palette.*Export it as RGB"),
    "deep": ("a.tif", lambda p: tifffile.imwrite(p, PIXELS.astype(np.uint16), photometric="rgb"), "got uint16"),
    "deep JPEG 2000": ("a.jp2", lambda p: write_jp2(p, PIXELS.astype(np.uint16) * 16, 12), "got uint16"),
    "huge": ("a.png", lambda p: p.write_bytes(png_that_claims(60_000, 60_000)), "expected at most 67,108,864 pixels"),
    "bomb": ("a.png", lambda p: p.write_bytes(png_that_claims(10_000, 10_000)), "expected at most 67,108,864 pixels"),
    "cut off": ("a.png", lambda p: p.write_bytes(png_that_claims(9, 9)), "got a damaged one"),
    "no image": ("a.png", lambda p: p.write_text("text"), "got a damaged one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_command_refuses_what_is_no_rgb_picture_by_the_same_rule(tmp_path: Path, case: str) -> None:
    name, write, message = REFUSED[case]
    write(tmp_path / name)
    for read in (
        lambda: read_rgb(tmp_path / name),
        lambda: read_real_tiles(tmp_path),
        lambda: cut_images(tmp_path, 1, (8, 8), 0),
    ):
        with pytest.raises(UserError, match=message) as refusal:
            read()
        assert str(refusal.value).startswith(f"{tmp_path / name}: expected")
        assert "\n" not in str(refusal.value)


def test_a_file_of_another_kind_is_refused_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "notes.log").write_text("text")
    with pytest.raises(UserError, match=r"notes\.log: expected a file of \.png, .*got \.log"):
        read_real_tiles(tmp_path / "notes.log")
