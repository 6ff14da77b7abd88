"""Small source folders for the tests of `factory ingest`, and a way to run the command in this process."""

import functools
import hashlib
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from factory.cli import app
from factory.core.console import run
from manifests import Dataset, open_dataset, verify

SIZE = (64, 96)


def ingest_command(*arguments: object) -> int:
    """Run `factory ingest` with these arguments; returns the exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            run(functools.partial(app, ["ingest", *map(str, arguments)], standalone_mode=False))
    finally:
        signal.signal(signal.SIGTERM, handler)
    return int(stopped.value.code or 0)


def ingested(out: Path, *arguments: object) -> Dataset:
    """Ingest into `out`, and open what verifies there."""
    assert ingest_command(*arguments, "--out", out) == 0
    assert verify(out) == []
    return open_dataset(out)


def tissue_image(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Air (grey 250) on the left quarter, noisy tissue on the rest; uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 160, (*size, 3), dtype=np.uint8)
    image[:, : size[1] // 4] = 250
    return image


def instance_map(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Five boxes with ids 3, 10, 17, 24, 300; uint16 [H, W]."""
    rng = np.random.default_rng([seed, 1])
    instance = np.zeros(size, np.uint16)
    for position, number in enumerate((3, 10, 17, 24, 300)):
        y, x = int(rng.integers(0, size[0] - 12)), 2 + position * (size[1] // 5)
        instance[y : y + 9, x : x + 11] = number
    return instance


def save(path: Path, array: np.ndarray) -> Path:
    """Write an array as PNG, JPEG, TIFF or NPY, by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    elif path.suffix == ".jpg":
        Image.fromarray(array).save(path, quality=95)
    else:
        Image.fromarray(array).save(path)
    return path


def nuclei_folder(root: Path, stems: Sequence[str] = ("a", "b", "c"), suffix: str = ".png") -> Path:
    """images/ and instances/ for these stems."""
    for seed, stem in enumerate(stems):
        save(root / "images" / f"{stem}.png", tissue_image(seed))
        save(root / "instances" / f"{stem}{suffix}", instance_map(seed))
    return root


def slide(path: Path, image: np.ndarray, mpp: float | None = 0.5, compression: object = "deflate") -> Path:
    """A tiled file of two levels that reads as an Aperio slide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    description = "Aperio Image Library v1.0\r\n" + (f"test |MPP = {mpp}" if mpp else "test")
    with tifffile.TiffWriter(path) as file:
        options = {"tile": (64, 64), "compression": compression, "photometric": "rgb", "metadata": None}
        file.write(image, description=description, **options)
        file.write(image[::2, ::2].copy(), description=description, subfiletype=1, **options)
    return path


def tree_sha256(root: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scn(path: Path, pixels: np.ndarray, left: int, top: int, nm: int = 250) -> Path:
    """A minimal Leica SCN whose main image [128, 128, 3] lies at (left, top) of a collection of 512x256 pixels."""
    image = (
        '<image><device model="Leica SCN400" version="1"/><pixels sizeX="{0}" sizeY="{1}">{2}</pixels><view '
        'sizeX="{3}" sizeY="{4}" offsetX="{5}" offsetY="{6}"/><scanSettings><objectiveSettings><objective>{7}'
        "</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )
    level = '<dimension sizeX="{0}" sizeY="{0}" r="{1}" ifd="{2}"/>'
    overview = image.format(64, 32, '<dimension sizeX="64" sizeY="32" r="0" ifd="0"/>', 512 * nm, 256 * nm, 0, 0, 1)
    levels = level.format(128, 0, 1) + level.format(64, 1, 2)
    main = image.format(128, 128, levels, 128 * nm, 128 * nm, left * nm, top * nm, 40)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection '
        f'sizeX="{512 * nm}" sizeY="{256 * nm}" barcode="x">{overview}{main}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        settings = {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg", "metadata": None}
        file.write(np.full((32, 64, 3), 240, np.uint8), description=xml, software="", **settings)
        file.write(pixels, resolution=(4e4, 4e4), resolutionunit=3, **settings)
        file.write(pixels[::2, ::2].copy(), **settings)
    return path
