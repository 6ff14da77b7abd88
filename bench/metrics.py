"""Instance metrics of one pair of maps: time against the field's code, and agreement with it.

The second part is `bench.agreement`: the largest differences over random pairs.

Ours, and the loops, give AJI, AJI+, PQ and Dice; stardist's `matching` gives PQ and F1 at one threshold, torchmetrics
PQ alone. The loops are those of the tests (`tests/metric_oracles.py`): a mask of the whole image per object, one loop
per metric, as the field's reference code calls it; beside them, one loop whose table AJI, AJI+ and PQ would share.
The peers come with `pip install -e '.[bench]'`; each is left out with a line where it is not installed.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from bench import agreement
from bench.timing import median_seconds
from segment import metrics
from tests import metric_oracles as slow

SIZES = ((256, 40), (1000, 600), (1000, 2000))


def main() -> None:
    """Print both tables."""
    pairs = {(size, nuclei): _pair(size, nuclei) for size, nuclei in SIZES}
    started = time.perf_counter()
    _ours(*pairs[SIZES[0]])
    print(f"first call, which loads or compiles the kernels: {time.perf_counter() - started:.2f} s\n")
    print(f"{'image':>7} {'nuclei':>6} {'found':>6}  {'ours':>9}  {'id loops':>18} {'one shared loop':>18} "
          f"{'stardist':>18} {'torchmetrics':>18}   (ms, and times ours)")  # fmt: skip
    peers = (_loops, _shared_loop, agreement.stardist_quality(), agreement.torchmetrics_quality())
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
    print()
    agreement.main()  # last: the first call above is a first call


def _pair(size: int, nuclei: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth: discs at random, the later on top. Prediction: the same moved a little, a tenth lost, a tenth merged."""
    rng = np.random.default_rng(nuclei)
    spacing = size / np.sqrt(nuclei)
    centres, radii = rng.uniform(0, size, (nuclei, 2)), rng.uniform(0.25, 0.5, nuclei) * spacing
    ids = np.arange(1, nuclei + 1)
    moved = centres + rng.normal(0, 0.08 * spacing, centres.shape)
    found = np.where(rng.random(nuclei) < 0.1, 0, np.where(rng.random(nuclei) < 0.1, rng.permutation(ids), ids))
    return agreement.discs(size, centres, radii, ids), agreement.discs(size, moved, radii, found)


def _ours(truth: np.ndarray, pred: np.ndarray) -> metrics.InstanceScores:
    return metrics.instance_scores(metrics.overlap(truth, pred))


def _loops(truth: np.ndarray, pred: np.ndarray) -> None:
    for metric in (slow.aji, slow.aji_plus, slow.panoptic, slow.foreground_dice):
        metric(truth, pred)


def _shared_loop(truth: np.ndarray, pred: np.ndarray) -> None:
    slow.pair_pixels(truth, pred)
    slow.foreground_dice(truth, pred)


def _check(truth: np.ndarray, pred: np.ndarray, *peers: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Stop where a peer's PQ is another: then the times would be of different work."""
    expected = _ours(truth, pred).panoptic.pq
    for peer in peers:
        if abs(peer(truth, pred) - expected) > 1e-5:  # stardist's IoU is float32
            raise SystemExit(f"error: bench: expected PQ {expected}, got {peer(truth, pred)}.")


if __name__ == "__main__":
    main()
