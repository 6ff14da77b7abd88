"""Makes the pictures of README and docs from fresh tiles: PD-L1 with labels, Ki-67, H&E, masks learnt. All synthetic.

python -m experiments.readme_pictures [montage|learnt|images|nuclei|joint|exemplar] [FILE]
    default: montage, docs/pictures/NAME.jpg

All are 1600 px wide. learnt: masks of the starter weights, under `stain`; images: `pix2pixhd`, nuclei: `sharpgan`,
joint: `stylegan2` under the labels of `hdgan`, all with their starter weights; exemplar: real tiles of data/htt36 (CC0,
docs/how-to/public-data.md) and tiles composed of its training split.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import factory
from factory.geometry.nuclear_maps import contour_of
from factory.joint import HDGAN
from factory.make.pipeline import make
from factory.make.recipes import joint as joint_making
from factory.make.recipes.masks_and_renderer import prepare
from factory.make.resolve import resolve_joint, resolve_make
from manifests import open_dataset

Image = npt.NDArray[np.uint8]
_PICTURES = Path("docs/pictures")
_WIDTH, _GAP = 1600, 8
_MOST_BYTES = 900_000
_HTT36 = Path("data/htt36")
_SEED = 11
_PAINTED = 0.45
"""Opacity of the labels over the image."""


def main() -> None:
    """Make small data sets and put their tiles together."""
    pictures = {
        "montage": _montage,
        "learnt": _learnt,
        "images": _images,
        "nuclei": _nuclei,
        "joint": _joint,
        "exemplar": _exemplar,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=pictures, default="montage")
    parser.add_argument("file", nargs="?", type=Path)
    arguments = parser.parse_args()
    target = arguments.file or _PICTURES / f"{arguments.name}.jpg"
    picture = pictures[arguments.name]()
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, picture, 300_000 if arguments.name == "exemplar" else _MOST_BYTES)
    print(f"{target}: {picture.shape[1]} x {picture.shape[0]}, {target.stat().st_size / 1e3:.0f} kB")


def _learnt() -> Image:
    """A row of DEPAS and a row of PriorPath with coarse maps drawn by the plan, their masks and images."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("depas", "priorpath"):
            config, scheme = resolve_make(
                {"n": 2, "tissue": "0.5-0.8", "seed": _SEED}, {"masks": name}, None, ["masks.precision=fp32"]
            )
            prepared = prepare(config, scheme, Path(folder) / name, manifest=None, like=None, device="cpu")
            make(prepared, workers=1)
            samples = open_dataset(Path(folder) / name)
            rows += [_row([scheme.palette[sample.tile.semantic], sample.image]) for sample in samples]
    return np.concatenate(rows)[:-_GAP]


def _images() -> Image:
    """Masks of Ki-67 regions above images of `pix2pixhd`, at three TPS."""
    rows: list[list[Image]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        for number, tps in enumerate(("0.02", "0.15", "0.4")):
            plan = {"n": 1, "tps": tps, "size": (384, 512), "seed": _SEED + number}
            config, scheme = resolve_make(
                plan, {"masks": "polygons", "renderer": "pix2pixhd"}, None, ["renderer.precision=fp32"]
            )
            prepared = prepare(config, scheme, Path(folder) / tps, manifest=None, like=None, device="cpu")
            make(prepared, workers=1)
            for sample in open_dataset(Path(folder) / tps):
                rows[0].append(scheme.palette[sample.tile.semantic])
                rows[1].append(sample.image)
    return np.concatenate([_row(row) for row in rows])[:-_GAP]


def _nuclei() -> Image:
    """Masks of few, clustered and crowded nuclei, each with the stain references of four slides: `sharpgan`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (cells, touching) in enumerate((("20", 0.0), ("45", 0.6), ("110", 0.3))):
            row: list[Image] = []
            for look in (0, 4, 9, 14):
                values = [f"renderer.look={look}", f"masks.touching={touching}", "renderer.precision=fp32"]
                plan = {"n": 1, "scheme": "nuclei", "cells": cells, "seed": _SEED + number}
                config, scheme = resolve_make(plan, {"renderer": "sharpgan"}, None, values)
                out = Path(folder) / f"{cells}-{look}"
                prepared = prepare(config, scheme, out, manifest=None, like=None, device="cpu")
                make(prepared, workers=1)
                for sample in open_dataset(out):
                    labels = scheme.palette[sample.tile.semantic]
                    labels[contour_of(sample.tile.instance)] = 0
                    row += [sample.image] if row else [labels, sample.image]
            rows.append(_row(row))
    return np.concatenate(rows)[:-_GAP]


def _joint() -> Image:
    """Two rows of images from a generator, each above the same with its labels."""
    with tempfile.TemporaryDirectory() as folder:
        config = resolve_joint({"n": 16, "seed": _SEED}, {"name": HDGAN}, [], None, [])
        prepared = joint_making.prepare(config, Path(folder) / "joint", manifest=None, device="cpu")
        make(prepared, workers=1)
        samples = list(open_dataset(Path(folder) / "joint"))
    palette = samples[0].tile.scheme.palette
    images = [sample.image for sample in samples]
    painted = [_painted(sample.image, palette[sample.tile.semantic]) for sample in samples]
    return np.concatenate([_row(row) for row in (images[:8], painted[:8], images[8:], painted[8:])])[:-_GAP]


def _exemplar() -> Image:
    """A row of real tiles that the bank does not know, and 24 composed: 12 of drawn layouts, 12 copied with labels."""
    like: dict[str, Any] = {"like": _HTT36, "size": 384, "n": 12, "seed": _SEED, "workers": 1}
    with tempfile.TemporaryDirectory() as folder:
        drawn, copied = Path(folder) / "drawn", Path(folder) / "copied"
        factory.make(drawn, scheme="tissue", renderer="exemplar", mpp=1, tissue="0.6-0.98", **like)
        factory.make(copied, joint="exemplar", tissue="0.6-0.98", **like)
        composed = [sample.image for root in (drawn, copied) for sample in open_dataset(root)]
    real = open_dataset(_HTT36)
    held_out = [place for place, split in enumerate(real.table["split"].to_pylist()) if split != "train"]
    shown = [real[place].image for place in held_out[:8]]
    rows = [_row(images) for images in (shown, *(composed[k : k + 8] for k in range(0, 24, 8)))]
    return np.concatenate(rows)[:-_GAP]


def _montage() -> Image:
    with tempfile.TemporaryDirectory() as folder:
        pdl1, painted = _tiles("pdl1", 1, Path(folder), tps="0.2-0.5")
        ki67, _ = _tiles("ihc", 2, Path(folder), tps="0.1-0.5", cells="130-170", size=(384, 384))
        he, _ = _tiles("nuclei", 2, Path(folder), cells="130-170", size=(384, 384))
    return np.concatenate([_row([pdl1[0], painted[0]]), _row([*ki67, *he])])[:-_GAP]


def _tiles(scheme_name: str, n: int, folder: Path, **flags: Any) -> tuple[list[Image], list[Image]]:
    """Tiles as `factory make` stores them, and the same under the colours of their labels."""
    config, scheme = resolve_make({"n": n, "scheme": scheme_name, "seed": _SEED, **flags}, {}, None, [])
    prepared = prepare(config, scheme, folder / scheme_name, manifest=None, like=None, device="cpu")
    make(prepared, workers=1)
    images, painted = [], []
    for sample in open_dataset(folder / scheme_name):
        labels = scheme.palette[sample.tile.semantic]
        images.append(sample.image)
        painted.append(_painted(sample.image, labels))
    return images, painted


def _painted(image: Image, labels: Image) -> Image:
    return cv2.addWeighted(image, 1 - _PAINTED, labels, _PAINTED, 0)


def _row(images: list[Image]) -> Image:
    """Images side by side over the whole width, gaps between and below."""
    width = (_WIDTH - _GAP * (len(images) - 1)) // len(images)
    height = round(width * images[0].shape[0] / images[0].shape[1])
    row = np.full((height + _GAP, _WIDTH, 3), 255, np.uint8)
    for number, image in enumerate(images):
        left = number * (width + _GAP)
        how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
        row[:height, left : left + width] = cv2.resize(image, (width, height), interpolation=how)
    return row


def _write(target: Path, picture: Image, most: int) -> None:
    """The best JPEG of at most `most` bytes.

    Raises:
        RuntimeError: when the lowest quality is larger.
    """
    for quality in range(94, 40, -4):
        _, stream = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if stream.size <= most:
            target.write_bytes(stream.tobytes())
            return
    raise RuntimeError(f"{target}: expected at most {most} bytes")


if __name__ == "__main__":
    main()
