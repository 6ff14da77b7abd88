"""Instance metrics of one pair of maps, against loops over ids, stardist and torchmetrics.

Ours, and the loops, give AJI, AJI+, PQ and Dice; stardist's `matching` gives PQ and F1 at one threshold, torchmetrics
PQ alone. The loops are those of the tests (`tests/metric_oracles.py`): a mask of the whole image per object, one loop
per metric, as the field's reference code calls it; beside them, one loop whose table AJI, AJI+ and PQ would share.
The peers come with `pip install -e '.[bench]'`; each is left out with a line where it is not installed.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from bench.timing import median_seconds
from segment import metrics
from tests import metric_oracles as slow

SIZES = ((256, 40), (1000, 600), (1000, 2000))


def main() -> None:
    """Print the table."""
    pairs = {(size, nuclei): _pair(size, nuclei) for size, nuclei in SIZES}
    started = time.perf_counter()
    _ours(*pairs[SIZES[0]])
    print(f"first call, which loads or compiles the kernels: {time.perf_counter() - started:.2f} s\n")
    print(f"{'image':>7} {'nuclei':>6} {'found':>6}  {'ours':>9}  {'id loops':>18} {'one shared loop':>18} "
          f"{'stardist':>18} {'torchmetrics':>18}   (ms, and times ours)")  # fmt: skip
    peers = (_loops, _shared_loop, _stardist(), _torchmetrics())
    for (size, _), (truth, pred) in pairs.items():
        table = metrics.overlap(truth, pred)
        ours = median_seconds(partial(_ours, truth, pred), repeats=51)
        cells = []
        for peer in peers:
            if peer is None:
                cells.append(f"{'not installed':>18}")
                continue
            seconds = median_seconds(partial(peer, truth, pred), repeats=5 if size < 1000 else 1)
            cells.append(f"{1e3 * seconds:>9.1f} {seconds / ours:>7.0f}x")
        counts = f"{table.truth_ids.size:>6} {table.pred_ids.size:>6}"
        print(f"{size:>5}^2 {counts}  {1e3 * ours:>9.3f}  {' '.join(cells)}", flush=True)
        _check(truth, pred, *(peer for peer in peers[2:] if peer))


def _pair(size: int, nuclei: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth: discs at random, the later on top. Prediction: the same moved a little, a tenth lost, a tenth merged."""
    rng = np.random.default_rng(nuclei)
    spacing = size / np.sqrt(nuclei)
    centres, radii = rng.uniform(0, size, (nuclei, 2)), rng.uniform(0.25, 0.5, nuclei) * spacing
    ids = np.arange(1, nuclei + 1)
    moved = centres + rng.normal(0, 0.08 * spacing, centres.shape)
    found = np.where(rng.random(nuclei) < 0.1, 0, np.where(rng.random(nuclei) < 0.1, rng.permutation(ids), ids))
    return _discs(size, centres, radii, ids), _discs(size, moved, radii, found)


def _discs(size: int, centres: np.ndarray, radii: np.ndarray, ids: np.ndarray) -> np.ndarray:
    labels = np.zeros((size, size), np.int32)
    for (y, x), radius, label in zip(centres, radii, ids, strict=True):
        rows = slice(max(0, int(y - radius)), max(0, int(y + radius) + 1))
        columns = slice(max(0, int(x - radius)), max(0, int(x + radius) + 1))
        window = labels[rows, columns]
        v, u = np.ogrid[: window.shape[0], : window.shape[1]]
        window[(v + rows.start - y) ** 2 + (u + columns.start - x) ** 2 < radius**2] = label
    return labels


def _ours(truth: np.ndarray, pred: np.ndarray) -> metrics.InstanceScores:
    return metrics.instance_scores(metrics.overlap(truth, pred))


def _loops(truth: np.ndarray, pred: np.ndarray) -> None:
    for metric in (slow.aji, slow.aji_plus, slow.panoptic, slow.foreground_dice):
        metric(truth, pred)


def _shared_loop(truth: np.ndarray, pred: np.ndarray) -> None:
    slow.pair_pixels(truth, pred)
    slow.foreground_dice(truth, pred)


def _stardist() -> Callable[[np.ndarray, np.ndarray], float] | None:
    try:
        from stardist.matching import matching
    except ImportError:
        print("stardist is not installed: pip install -e '.[bench]'")
        return None
    # stardist matches from the threshold on; a panoptic match is above a half.
    return lambda truth, pred: float(matching(truth, pred, thresh=0.5 + 1e-6).panoptic_quality)


def _torchmetrics() -> Callable[[np.ndarray, np.ndarray], float] | None:
    try:
        import torch
        from torchmetrics.functional.detection import panoptic_quality
    except ImportError:
        print("torchmetrics is not installed: pip install -e '.[bench]'")
        return None

    def nuclei_quality(truth: np.ndarray, pred: np.ndarray) -> float:
        # Pixels are (category, instance); category 1 is nuclei, 0 the background, which it scores too.
        sides = [torch.from_numpy(np.stack([labels > 0, labels], axis=-1))[None].int() for labels in (pred, truth)]
        return float(panoptic_quality(*sides, things={1}, stuffs={0}, return_per_class=True)[0, 0])

    return nuclei_quality


def _check(truth: np.ndarray, pred: np.ndarray, *peers: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Stop where a peer's PQ is another: then the times would be of different work."""
    expected = _ours(truth, pred).panoptic.pq
    for peer in peers:
        if abs(peer(truth, pred) - expected) > 1e-5:  # stardist's IoU is float32
            raise SystemExit(f"error: bench: expected PQ {expected}, got {peer(truth, pred)}.")


if __name__ == "__main__":
    main()
