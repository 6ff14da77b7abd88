"""Skeleton maps of nuclei against loops over ids with scipy's erosion and scikit-image's thinning.

The loops take one nucleus at a time, in its bounding box and a margin of one pixel: erosion by erosion until nothing
is left, and a skeleton. `thin` is Guo and Hall's algorithm, as ours is, and the benchmark stops unless both maps are
equal to the byte; `skeletonize` is faster and draws other lines. The last loop takes masks of the whole tile, as the
field's code often does. Nuclei are drawn by `--masks nuclei`, touching and cut by the border.

Medians of processor time on one thread.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import skeletonize, thin

from bench.timing import median_seconds, peak_mb
from factory.core.seeds import Stream, generator
from factory.geometry.nuclear_maps import Metric, contour_of, distance_map, skeleton_map, skeleton_of
from factory.masks.allocate import allocate
from factory.masks.nuclei import Nuclei
from factory.plan.request import Request
from manifests.labels import SCHEMES

SIZES = ((256, 40), (1000, 600))
METRICS: tuple[Metric, ...] = ("chessboard", "cityblock")
LARGE = 10_000

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.float32]


def main() -> None:
    """Print the time of each map, and of skeleton maps by loops."""
    started = time.perf_counter()
    skeleton_map(np.eye(8, dtype=np.int32))
    print(f"first call, which loads or compiles the kernels: {time.perf_counter() - started:.2f} s\n")
    tiles = {size: nuclei(size, count) for size, count in SIZES}
    print(f"{'tile':>7} {'nuclei':>6} {'metric':>10} {'distance':>9} {'skeletons':>9} {'contours':>9} "
          f"{'skeleton map':>12} {'loop, thin':>16} {'skeletonize':>16} {'whole tile':>16}   (ms, x ours)")  # fmt: skip
    for size, instance in tiles.items():
        for metric in METRICS:
            compare(size, instance, metric)
    large(tiles[1000])


def nuclei(size: int, count: int) -> npt.NDArray[np.int32]:
    """The instance map of a tile at 0.25 um per pixel: int32 [size, size]."""
    request = Request(size, size, 0.25, SCHEMES["nuclei"], cells=count)
    (scores,) = Nuclei(Nuclei.Config()).draw([request], [generator(0, Stream.MASK, 0)])
    return allocate(scores, request, generator(0, Stream.TIES, 0)).tile.instance


def compare(size: int, instance: npt.NDArray[np.int32], metric: Metric) -> None:
    """Print a row, after the loops have given the same map."""
    if not np.array_equal(looped(instance, metric, thin), skeleton_map(instance, metric)):
        raise SystemExit(f"error: bench: expected the skeleton map of the loops, got another ({size}^2, {metric}).")
    times = [
        cpu_ms(partial(work, instance), 31)
        for work in (
            partial(distance_map, metric=metric),
            skeleton_of,
            partial(contour_of, metric=metric),
            partial(skeleton_map, metric=metric),
        )
    ]
    repeats = 5 if size < 1000 else 1
    loops = [
        cpu_ms(partial(looped, instance, metric, thin), repeats),
        cpu_ms(partial(looped, instance, metric, skeletonize), repeats),
    ]
    if size < 1000:
        loops.append(cpu_ms(partial(looped, instance, metric, thin, whole=True), 1))
    ours = f"{times[0]:>9.2f} {times[1]:>9.2f} {times[2]:>9.2f} {times[3]:>12.2f}"
    theirs = " ".join(f"{loop:>9.0f} {loop / times[3]:>5.0f}x" for loop in loops)
    print(f"{size:>5}^2 {instance.max():>6} {metric:>10} {ours} {theirs}", flush=True)


def large(instance: npt.NDArray[np.int32]) -> None:
    """Print time and memory of a tile of 10,000 x 10,000: many of `instance`, with ids of their own."""
    across = LARGE // len(instance)
    canvas = np.tile(instance, (across, across))
    for number in range(across * across):
        y, x = (len(instance) * part for part in divmod(number, across))
        part = canvas[y : y + len(instance), x : x + len(instance)]
        part[part > 0] += number * instance.max()
    before, started = peak_mb(), time.process_time()
    relief = skeleton_map(canvas)
    seconds, megabytes = time.process_time() - started, peak_mb() - before
    print(f"\n{LARGE}^2 with {canvas.max()} nuclei: {seconds:.1f} s, {megabytes:.0f} MB beyond the instance map, "
          f"{relief.nbytes / 1e6:.0f} of them the result")  # fmt: skip


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of computing, after one call that is not counted."""
    return 1e3 * median_seconds(work, repeats, clock=time.process_time)


def looped(
    instance: npt.NDArray[np.int32], metric: Metric, skeleton: Callable[[Mask], Mask], *, whole: bool = False
) -> Map:
    """The skeleton map, nucleus by nucleus: float32 [H, W]. `whole`: on masks of the whole tile."""
    relief = np.zeros(instance.shape, np.float32)
    cross_or_square = ndimage.generate_binary_structure(2, 2 if metric == "chessboard" else 1)
    for label, box in enumerate(ndimage.find_objects(instance), start=1):
        if box is None:
            continue
        around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
        place = (slice(None), slice(None)) if whole else around
        mask = instance[place] == label
        counts, left = np.zeros(mask.shape, np.float32), mask
        while left.any():
            counts += left
            left = ndimage.binary_erosion(left, cross_or_square, border_value=1)
        relief[place][mask] = (counts / counts.max() + skeleton(mask))[mask]
    return relief


if __name__ == "__main__":
    main()
