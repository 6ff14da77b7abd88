"""Makes the README's pictures from fresh tiles: PD-L1 with its labels, Ki-67 and H&E; and masks learnt. All synthetic.

python -m bench.readme_pictures [FILE]            default bench/pictures/montage.jpg, 1600 px wide
python -m bench.readme_pictures learnt [FILE]     default bench/pictures/learnt.jpg: starter weights under `stain`
python -m bench.readme_pictures images [FILE]     default bench/pictures/images.jpg: `pix2pixhd`, starter weights
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from factory.order import resolve_config
from factory.pipeline import make, prepare
from manifests import open_dataset

Image = npt.NDArray[np.uint8]
_DEFAULT, _LEARNT = Path("bench/pictures/montage.jpg"), Path("bench/pictures/learnt.jpg")
_IMAGES = Path("bench/pictures/images.jpg")
_WIDTH, _GAP = 1600, 8
_MOST_BYTES = 900_000
_SEED = 11
_PAINTED = 0.45
"""Opacity of the labels over the image."""


def main() -> None:
    """Make small data sets and put their tiles together."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["learnt"]:
        target = Path(arguments[1]) if len(arguments) > 1 else _LEARNT
        picture = _learnt()
    elif arguments[:1] == ["images"]:
        target = Path(arguments[1]) if len(arguments) > 1 else _IMAGES
        picture = _images()
    else:
        target = Path(arguments[0]) if arguments else _DEFAULT
        picture = _montage()
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, picture)
    print(f"{target}: {picture.shape[1]} x {picture.shape[0]}, {target.stat().st_size / 1e3:.0f} kB")


def _learnt() -> Image:
    """A row of DEPAS and a row of PriorPath with coarse maps drawn by the plan, their masks and images."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("depas", "priorpath"):
            config, scheme = resolve_config(
                {"n": 2, "tissue": "0.5-0.8", "seed": _SEED}, {"masks": name}, None, ["masks.precision=fp32"]
            )
            order = prepare(config, scheme, Path(folder) / name, manifest=None, like=None, device="cpu")
            make(order, workers=1)
            samples = open_dataset(Path(folder) / name)
            rows += [_row([scheme.palette[sample.tile.semantic], sample.image]) for sample in samples]
    return np.concatenate(rows)[:-_GAP]


def _images() -> Image:
    """Masks of Ki-67 regions above what `pix2pixhd` makes of them, at three TPS."""
    rows: list[list[Image]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        for number, tps in enumerate(("0.02", "0.15", "0.4")):
            plan = {"n": 1, "tps": tps, "size": (384, 512), "seed": _SEED + number}
            config, scheme = resolve_config(
                plan, {"masks": "polygons", "renderer": "pix2pixhd"}, None, ["renderer.precision=fp32"]
            )
            order = prepare(config, scheme, Path(folder) / tps, manifest=None, like=None, device="cpu")
            make(order, workers=1)
            for sample in open_dataset(Path(folder) / tps):
                rows[0].append(scheme.palette[sample.tile.semantic])
                rows[1].append(sample.image)
    return np.concatenate([_row(row) for row in rows])[:-_GAP]


def _montage() -> Image:
    with tempfile.TemporaryDirectory() as folder:
        pdl1, painted = _tiles("pdl1", 1, Path(folder), tps="0.2-0.5")
        ki67, _ = _tiles("ihc", 2, Path(folder), tps="0.1-0.5", cells="130-170", size=(384, 384))
        he, _ = _tiles("nuclei", 2, Path(folder), cells="130-170", size=(384, 384))
    return np.concatenate([_row([pdl1[0], painted[0]]), _row([*ki67, *he])])[:-_GAP]


def _tiles(scheme_name: str, n: int, folder: Path, **flags: Any) -> tuple[list[Image], list[Image]]:
    """Tiles as `factory make` stores them, and the same under the colours of their labels."""
    config, scheme = resolve_config({"n": n, "scheme": scheme_name, "seed": _SEED, **flags}, {}, None, [])
    order = prepare(config, scheme, folder / scheme_name, manifest=None, like=None, device="cpu")
    make(order, workers=1)
    images, painted = [], []
    for sample in open_dataset(folder / scheme_name):
        labels = scheme.palette[sample.tile.semantic]
        images.append(sample.image)
        painted.append(cv2.addWeighted(sample.image, 1 - _PAINTED, labels, _PAINTED, 0))
    return images, painted


def _row(images: list[Image]) -> Image:
    """Images side by side over the whole width, gaps between and below."""
    width = (_WIDTH - _GAP * (len(images) - 1)) // len(images)
    height = round(width * images[0].shape[0] / images[0].shape[1])
    row = np.full((height + _GAP, _WIDTH, 3), 255, np.uint8)
    for number, image in enumerate(images):
        left = number * (width + _GAP)
        row[:height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return row


def _write(target: Path, picture: Image) -> None:
    """The best JPEG of at most 900 kB.

    Raises:
        RuntimeError: when even a poor one is larger.
    """
    for quality in range(94, 40, -4):
        _, stream = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if stream.size <= _MOST_BYTES:
            target.write_bytes(stream.tobytes())
            return
    raise RuntimeError(f"{target}: expected at most {_MOST_BYTES} bytes")


if __name__ == "__main__":
    main()
