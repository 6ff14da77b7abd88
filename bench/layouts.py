"""Nuclei layouts of 256x256 with 40 nuclei against a loop in the style of the published generator.

The loop is written out here after what the public code of Hou et al. 2019 does, step by step: a polygon of 10 to 17
corners is drawn by PIL on a canvas of three channels, larger than the tile by a margin; the canvas is warped to the
tile by a quadrangle that all nuclei share; contour and centre are drawn as maps of their own; and all of that up to 50
times for a nucleus that overlaps what is there, of which the least overlapping is kept. "layout alone" omits the maps
of contours and centres. Both keep ids, which the published code does not, and know no touching rate or kinds.

All in one run, on one thread, by processor time.
"""

import math
import time
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from bench.timing import seconds_of
from factory.core.seeds import Stream, generator
from factory.masks.allocate import allocate
from factory.masks.nuclei import Nuclei
from factory.plan.request import Request
from manifests.labels import SCHEMES

SIZE, NUCLEI = 256, 40
LOOPED, DRAWN, REPEATS = 2, 200, 5
_TRIES, _MARGIN, _SMALLEST_PX = 50, 120, 140

Map = npt.NDArray[np.int32]
Maps = npt.NDArray[np.uint8]


def main() -> None:
    """Print layouts per second and how many nuclei they hold."""
    request = Request(SIZE, SIZE, 0.25, SCHEMES["nuclei"], cells=NUCLEI)
    masks = Nuclei(Nuclei.Config())

    def ours() -> list[Map]:
        return [drawn(masks, request, seed) for seed in range(DRAWN)]

    def loop(*, maps: bool) -> list[Map]:
        return [looped(np.random.default_rng(seed), maps=maps) for seed in range(LOOPED)]

    print(f"{'':>20} {'layouts/s':>10} {'fastest':>9} {'slowest':>9} {'nuclei':>7} {'ours over it':>13}")
    mine = 0.0
    sides = (("ours", ours), ("loop", partial(loop, maps=True)), ("loop, layout alone", partial(loop, maps=False)))
    for name, work in sides:
        made = work()
        rates = len(made) / np.array(seconds_of(work, REPEATS, time.process_time))
        held = np.mean([len(np.unique(instance)) - 1 for instance in made])
        mine = mine or float(np.median(rates))
        times = f"{mine / np.median(rates):>12.0f}x"
        print(f"{name:>20} {np.median(rates):>10.2f} {rates.max():>9.2f} {rates.min():>9.2f} {held:>7.1f} {times}")


def drawn(masks: Nuclei, request: Request, seed: int) -> Map:
    """A layout as `factory make` draws it, composition and all."""
    (scores,) = masks.draw([request], [generator(seed, Stream.MASK, 0)])
    return allocate(scores, request, generator(seed, Stream.TIES, 0)).tile.instance


def looped(rng: np.random.Generator, *, maps: bool) -> Map:
    """A layout nucleus by nucleus, with maps of contours and centres where these are asked for: int32 [SIZE, SIZE]."""
    instance = np.zeros((SIZE, SIZE, 3), np.int32)
    contours, centres = np.zeros((2, SIZE, SIZE, 3), np.int32)
    near, far = rng.uniform(0, _MARGIN, 8), SIZE + _MARGIN
    corners = np.array([0, 0, 0, far, far, far, far, 0])
    quadrangle = tuple(np.where(corners > 0, corners - near, near))
    bias = max(rng.normal(1.2, 0.32), 0.5)
    for number in range(1, NUCLEI + 1):
        best = nucleus(rng, bias, quadrangle, maps=maps)
        least = np.sum(best[0] * instance > 0)
        for _ in range(_TRIES if least else 0):
            other = nucleus(rng, bias, quadrangle, maps=maps)
            overlap = np.sum(other[0] * instance > 0)
            if overlap < least:
                best, least = other, overlap
            if not least:
                break
        shape, contour, centre = best
        instance[np.logical_and(shape > 0, instance == 0)] = number
        if maps:
            contours += contour
            centres += centre
    return instance[..., 0]


def nucleus(rng: np.random.Generator, bias: float, quadrangle: tuple[float, ...], *, maps: bool) -> tuple[Maps, ...]:
    """Shape, contour and centre of a nucleus that is large enough: uint8 [SIZE, SIZE, 3] each."""
    shape = np.zeros((SIZE, SIZE, 3), np.uint8)
    while shape.sum() <= _SMALLEST_PX:
        canvas = Image.fromarray(np.zeros((SIZE + _MARGIN, SIZE + _MARGIN, 3), np.uint8))
        ImageDraw.Draw(canvas).polygon(polygon(rng, bias), fill=(1, 1, 1))
        warped = canvas.transform((SIZE, SIZE), Image.Transform.QUAD, quadrangle, Image.Resampling.NEAREST)
        shape = np.array(warped)
    if not maps:
        return shape, shape, shape
    centre = np.zeros_like(shape)
    y, x, _ = np.nonzero(shape)
    centre[(y.min() + y.max()) // 2, (x.min() + x.max()) // 2] = 255
    edge = (ndimage.sobel(shape[..., 0], 0) > 0) | (ndimage.sobel(shape[..., 0], 1) > 0)
    return shape, edge[..., None] * (shape == 0).astype(np.uint8), centre


def polygon(rng: np.random.Generator, bias: float) -> list[tuple[int, int]]:
    """Corners (x, y) of a nucleus at a random place, one after the other."""
    x, y = rng.uniform(0, SIZE + _MARGIN, 2)
    radius = rng.uniform(8.5, 13.0) * bias
    irregularity, spikiness = min(rng.uniform(0.6, 2.6), 1.0), rng.uniform(0.04, 0.24)
    count = int(rng.integers(10, 18))
    steps = [rng.uniform(1.0 - irregularity, 1.0 + irregularity) for _ in range(count)]
    total = sum(steps)
    angle = rng.uniform(0, 2 * math.pi)
    corners = []
    for step in steps:
        length = min(max(rng.normal(radius, spikiness * radius), 0.0), 2.0 * radius)
        corners.append((int(x + length * math.cos(angle)), int(y + length * math.sin(angle))))
        angle += step * 2 * math.pi / total
    return corners


if __name__ == "__main__":
    main()
