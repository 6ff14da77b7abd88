"""`exemplar` beside the same work in plain numpy and OpenCV; processor time, one thread.

Both compose tiles from one bank, of scikit-image's photograph: the ground from patches of 72 pixels, 24 of them shared
with their neighbours, each the best of 192 candidates for the layout and then of 20 for the overlap, joined along
minimum cuts; 40 nuclei, mapped from ellipse to ellipse and blended. numpy's part is what one writes in an afternoon
(`plain_tile`): vectorised over candidates, a loop over patches and nuclei. It guides by classes or density alone, and
does not map outlines onto outlines, so it does less. The ways take turns.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from bench.alone import show, show_machine
from factory.api.make import make
from factory.bank.bank import BLOCK, Bank, open_bank
from factory.bank.shapes import measure_shapes
from factory.core.config import parse
from factory.geometry.nuclear_maps import renumbered
from factory.renderers.conditions import draw_condition
from factory.renderers.exemplar.exemplar import Exemplar
from manifests.dataset import open_dataset
from manifests.tile import Tile
from tests.annotated_photograph import MPP, bank_of_photograph

PATCH, OVERLAP, CANDIDATES, SHORTLIST, NEAREST = 72, 24, 192, 20, 12
STEP = PATCH - OVERLAP


def main() -> None:
    """Print tiles a second of both ways, for nuclei and for regions."""
    cv2.setNumThreads(1)
    show_machine()
    turns = int(os.environ.get("FACTORY_BENCH_TURNS", "5"))
    show("exemplar, one core", "tiles a second", "plain numpy", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        banks = {scheme: bank_of_photograph(Path(folder) / f"{scheme}-bank", scheme) for scheme in ("nuclei", "ki67")}
        for name, options in (
            ("256x256, 40 nuclei", {"scheme": "nuclei", "cells": "40", "size": 256}),
            ("512x1024, regions", {"scheme": "ki67", "masks": "polygons", "tps": "0.1-0.5", "size": (512, 1024)}),
        ):
            root = Path(folder) / str(options["scheme"])
            make(root, n=6, mpp=MPP, **options)  # type: ignore[arg-type]
            _compare(name, banks[str(options["scheme"])], [sample.tile for sample in open_dataset(root)], turns)


def _compare(name: str, path: Path, tiles: list[Tile], turns: int) -> None:
    renderer, bank = Exemplar(parse(Exemplar.Config, {"bank": str(path), "patch_px": PATCH}, "bench")), open_bank(path)
    conditions = [draw_condition(renderer.condition, tile, np.random.default_rng(0)) for tile in tiles]
    ways: list[Callable[[int], object]] = [
        lambda k: renderer.compose(conditions[k], np.random.default_rng(k)),
        lambda k: plain_tile(bank, tiles[k], np.random.default_rng(k)),
    ]
    seconds: list[list[float]] = [[], []]
    for turn in range(turns + 1):  # the first is not counted
        for way, found in zip(ways, seconds, strict=True):
            started = time.process_time()
            way(turn % len(tiles))
            found += [time.process_time() - started] * (turn > 0)
    ours, theirs = (statistics.median(found) for found in seconds)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    show(name, f"{1 / ours:.1f}", f"{1 / theirs:.2f}", f"{ratio:.1f}")


def plain_tile(bank: Bank, tile: Tile, rng: np.random.Generator) -> np.ndarray:
    """One tile by numpy and OpenCV: uint8 [H, W, 3]."""
    ids = renumbered(tile.instance)
    pages = [page for page in range(len(bank.pages)) if bank.pages[page, 3] == rng.integers(len(bank.slides))] or [0]
    ground = _plain_ground(bank, pages, tile, ids, rng)
    if ids.any():
        _plain_nuclei(bank, ids, ground, rng)
    return np.clip(ground, 0, 255).astype(np.uint8)


def _plain_ground(bank: Bank, pages: list[int], tile: Tile, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = ids.shape
    pixels, (page_height, page_width) = bank.page(pages[0])
    source = (bank.ground if ids.any() else bank.image)[pixels].reshape(page_height, page_width, 3).astype(np.float32)
    first, down, across = int(bank.pages[pages[0], 4]), page_height // BLOCK, page_width // BLOCK
    features = bank.shares[first : first + down * across].reshape(down, across, -1).astype(np.float32) / 255
    classes = np.eye(features.shape[-1], dtype=np.float32)[np.minimum(tile.semantic, features.shape[-1] - 1)]
    padded = np.pad(classes, ((0, PATCH), (0, PATCH), (0, 0)), mode="edge")
    out = np.zeros((height + PATCH, width + PATCH, 3), np.float32)
    cells = PATCH // BLOCK
    for y in range(0, height, STEP):
        for x in range(0, width, STEP):
            wanted = cv2.resize(padded[y : y + PATCH, x : x + PATCH], (cells, cells), interpolation=cv2.INTER_AREA)
            v, u = rng.integers(down - cells + 1, size=CANDIDATES), rng.integers(across - cells + 1, size=CANDIDATES)
            held = np.stack([features[a : a + cells, b : b + cells] for a, b in zip(v, u, strict=True)])
            guide = ((held - wanted.reshape(cells, cells, -1)) ** 2).sum((1, 2, 3))
            short = np.argsort(guide)[:SHORTLIST]
            patches = np.stack(
                [source[a * 8 : a * 8 + PATCH, b * 8 : b * 8 + PATCH] for a, b in zip(v[short], u[short], strict=True)]
            )
            current = out[y : y + PATCH, x : x + PATCH]
            overlap = np.zeros((PATCH, PATCH, 1), np.float32)
            overlap[:, :OVERLAP] = x > 0
            overlap[:OVERLAP] = np.maximum(overlap[:OVERLAP], y > 0)
            cost = ((patches - current) ** 2 * overlap).sum((1, 2, 3)) / 3000 + guide[short]
            patch = patches[cost.argmin()]
            alpha = np.ones((PATCH, PATCH), np.float32)
            error = ((patch - current) ** 2).sum(-1)
            if x:
                alpha *= np.arange(PATCH)[None] >= _plain_cut(error[:, :OVERLAP])[:, None]
            if y:
                alpha *= np.arange(PATCH)[:, None] >= _plain_cut(error[:OVERLAP].T)[None]
            soft = cv2.blur(alpha, (3, 3))[..., None] if x or y else alpha[..., None]
            out[y : y + PATCH, x : x + PATCH] = current * (1 - soft) + patch * soft
    return out[:height, :width]


def _plain_cut(error: np.ndarray) -> np.ndarray:
    total = error.copy()
    for i in range(1, len(total)):
        above = np.pad(total[i - 1], 1, constant_values=np.inf)
        total[i] += np.minimum(np.minimum(above[:-2], above[1:-1]), above[2:])
    path = [int(total[-1].argmin())]
    for row in total[-2::-1]:
        start = max(0, path[-1] - 1)
        path.append(start + int(row[start : path[-1] + 2].argmin()))
    return np.array(path[::-1])


def _plain_nuclei(bank: Bank, ids: np.ndarray, canvas: np.ndarray, rng: np.random.Generator) -> None:
    shapes, nuclei = measure_shapes(ids), bank.nuclei
    described = np.stack([np.log(nuclei.area), np.log(nuclei.axes[:, 0] / nuclei.axes[:, 1])], axis=1)
    for k in rng.permutation(len(shapes.area)):
        wanted = [np.log(shapes.area[k]), np.log(shapes.axes[k, 0] / shapes.axes[k, 1])]
        row = np.argsort(((described - wanted) ** 2).sum(1))[rng.integers(NEAREST)]
        pixels, size = bank.page(int(nuclei.page[row]))
        y0, x0, y1, x1 = shapes.box[k] + np.array([-4, -4, 4, 4])
        y0, x0, y1, x1 = max(0, y0), max(0, x0), min(ids.shape[0], y1), min(ids.shape[1], x1)
        turn = [
            _frame(nuclei.angle[row]) @ np.diag(nuclei.axes[row]),
            _frame(shapes.angle[k]) @ np.diag(shapes.axes[k]),
        ]
        linear = turn[0] @ np.linalg.inv(turn[1])
        shift = nuclei.centre[row][::-1] - linear @ (shapes.centre[k][::-1] - [x0, y0])
        page = bank.image[pixels].reshape(*size, 3)
        warped = cv2.warpAffine(
            page, np.c_[linear, shift], (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        alpha = cv2.GaussianBlur((ids[y0:y1, x0:x1] == k + 1).astype(np.float32), (0, 0), 0.9)[..., None]
        canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - alpha) + warped * alpha


def _frame(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


if __name__ == "__main__":
    main()
