"""Instance and boundary metrics against the field's code: the largest difference over random pairs of maps.

Every peer is compared where its definition is ours. The tests' slow definitions (`tests/metric_oracles.py`) are always
there; stardist and torchmetrics come with `pip install -e '.[bench]'`, MONAI with `pip install monai`, and HoVer-Net's
`stats_utils.py`, which is no package, by naming a copy: FACTORY_BENCH_HOVERNET=/path/to/stats_utils.py.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from segment import metrics
from tests import metric_oracles as slow

PAIRS = 300
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Figures = dict[str, tuple[npt.ArrayLike, npt.ArrayLike]]
"""Name of a figure, or of several -> (ours, the peer's)."""

Peer = Callable[[np.ndarray, np.ndarray], Figures]


def main() -> None:
    """Print a line per peer and figure."""
    peers: dict[str, Peer | None] = {
        "the tests' loops": _loops,
        "stardist": _stardist(),
        "torchmetrics": _torchmetrics(),
        "MONAI": _monai(),
        "HoVer-Net": _hovernet(),
    }
    largest: dict[tuple[str, str], float] = {}
    compared: dict[tuple[str, str], int] = {}
    for truth, pred in random_pairs(PAIRS):
        for peer, ask in peers.items():
            for figure, (ours, theirs) in (ask(truth, pred) if ask else {}).items():
                key = (peer, figure)
                largest[key] = max(largest.get(key, 0.0), _difference(ours, theirs))
                compared[key] = compared.get(key, 0) + 1
    print(f"largest difference over {PAIRS} random pairs of maps\n{'':>18} {'figure':<30} {'pairs':>5} {'largest':>10}")
    for (peer, figure), value in largest.items():
        print(f"{peer:>18} {figure:<30} {compared[peer, figure]:>5} {value:>10.1e}")
    print(flush=True)


def random_pairs(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Maps of 5 to 70 nuclei in 60 to 160 pixels a side, and predictions that moved, merged, split and lost some.

    Ids are 1..n without gaps, which HoVer-Net's code needs.
    """
    for seed in range(count):
        rng = np.random.default_rng(seed)
        size, nuclei = int(rng.integers(60, 160)), int(rng.integers(5, 70))
        spacing = size / np.sqrt(nuclei)
        centres, radii = rng.uniform(0, size, (nuclei, 2)), rng.uniform(0.25, 0.5, nuclei) * spacing
        moved = np.clip(centres + rng.normal(0, rng.uniform(0, 0.5), centres.shape) * spacing, 0, size - 1)
        ids = np.arange(1, nuclei + 1)
        found = np.where(rng.random(nuclei) < 0.1, 0, np.where(rng.random(nuclei) < 0.15, rng.permutation(ids), ids))
        truth, pred = discs(size, centres, radii, ids), discs(size, moved, radii, found)
        upper = np.arange(size)[:, None] < moved[0, 0]
        yield _without_gaps(truth), _without_gaps(np.where((pred == found[0]) & (pred > 0) & upper, nuclei + 1, pred))


def discs(size: int, centres: np.ndarray, radii: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Discs of given ids, the later on top; id 0 wipes out what is below: int32 [size, size]."""
    labels = np.zeros((size, size), np.int32)
    for (y, x), radius, label in zip(centres, radii, ids, strict=True):
        rows = slice(max(0, int(y - radius)), max(0, int(y + radius) + 1))
        columns = slice(max(0, int(x - radius)), max(0, int(x + radius) + 1))
        window = labels[rows, columns]
        v, u = np.ogrid[: window.shape[0], : window.shape[1]]
        window[(v + rows.start - y) ** 2 + (u + columns.start - x) ** 2 < radius**2] = label
    return labels


@cache
def stardist_quality() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """PQ by stardist, None with a line where it is not installed."""
    try:
        from stardist.matching import matching
    except ImportError:
        print("stardist is not installed: pip install -e '.[bench]'")
        return None
    # stardist matches from the threshold on; a panoptic match is above a half.
    return lambda truth, pred: float(matching(truth, pred, thresh=0.5 + 1e-6).panoptic_quality)


@cache
def torchmetrics_quality() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """PQ by torchmetrics, None with a line where it is not installed."""
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


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    _, places = np.unique(np.append(labels, 0), return_inverse=True)  # with 0, which a full map may lack
    return places[:-1].reshape(labels.shape).astype(np.int32)


def _difference(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """The largest; NaN on both sides, and inf on both, are equal, on one side the difference is inf."""
    a, b = np.atleast_1d(np.asarray(ours, float), np.asarray(theirs, float))
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.abs(np.subtract(a, b, out=np.zeros_like(a), where=~equal))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _loops(truth: np.ndarray, pred: np.ndarray) -> Figures:
    table = metrics.overlap(truth, pred)
    quality = metrics.panoptic_quality(table)
    tp, fp, fn, iou_sum = slow.panoptic(truth, pred)
    return {
        "AJI": (metrics.aji(table).value, slow.aji(truth, pred)),
        "AJI+": (metrics.aji_plus(table).value, slow.aji_plus(truth, pred)),
        "TP, FP, FN": ([quality.tp, quality.fp, quality.fn], [tp, fp, fn]),
        "PQ": (quality.pq, iou_sum / (tp + fp / 2 + fn / 2)),
        "Dice": (metrics.foreground_dice(table).value, slow.foreground_dice(truth, pred)),
        "object Dice (GlaS)": (metrics.object_dice(table).value, slow.object_dice(truth, pred)),
        "HD95": (metrics.surface_distances(truth, pred).hd95, slow.hd95(truth, pred)),
    }


def _stardist() -> Peer | None:
    quality = stardist_quality()
    if quality is None:
        return None
    from stardist.matching import matching

    def ask(truth: np.ndarray, pred: np.ndarray) -> Figures:
        table = metrics.overlap(truth, pred)
        # Where an IoU lies on the threshold stardist counts it, and we do not.
        apart = [at for at in THRESHOLDS if not np.any(np.abs(table.iou - at) < 1e-6)]
        ours, theirs = metrics.detection(table, apart), [matching(truth, pred, at) for at in apart]
        figures: Figures = {
            "PQ": (metrics.panoptic_quality(table).pq, quality(truth, pred)),
            "F1 at IoU 0.1 to 0.9": ([at.f1 for at in ours], [at.f1 for at in theirs]),
            "recall": ([at.recall for at in ours], [at.recall for at in theirs]),
        }
        if pred.any():  # without a prediction stardist's precision is 0, ours NaN
            figures["precision"] = [at.precision for at in ours], [at.precision for at in theirs]
        return figures

    return ask


def _torchmetrics() -> Peer | None:
    quality = torchmetrics_quality()
    if quality is None:
        return None
    return lambda truth, pred: {"PQ": (metrics.panoptic_quality(metrics.overlap(truth, pred)).pq, quality(truth, pred))}


def _monai() -> Peer | None:
    try:
        import torch
        from monai.metrics import compute_hausdorff_distance
    except ImportError:
        print("MONAI is not installed: pip install monai")
        return None

    def ask(truth: np.ndarray, pred: np.ndarray) -> Figures:
        if not truth.any() or not pred.any():
            return {}
        sides = [torch.from_numpy(labels > 0)[None, None] for labels in (pred, truth)]
        theirs = float(compute_hausdorff_distance(*sides, include_background=True, percentile=95))
        return {"HD95": (metrics.surface_distances(truth, pred).hd95, theirs)}

    return ask


def _hovernet() -> Peer | None:
    name = os.environ.get("FACTORY_BENCH_HOVERNET")
    if not name:
        print("HoVer-Net is left out: FACTORY_BENCH_HOVERNET names a copy of its metrics/stats_utils.py")
        return None
    theirs = _load(Path(name))

    def ask(truth: np.ndarray, pred: np.ndarray) -> Figures:
        if not truth.any() or not pred.any():
            return {}
        scores = metrics.instance_scores(metrics.overlap(truth, pred))
        (dq, sq, pq), (matched, *_) = theirs.get_fast_pq(truth, pred)
        tp = len(matched)
        exact = (tp + 1e-6) / tp if tp else 1.0  # it divides the sum of IoU by TP + 1e-6
        figures = {
            "AJI": (scores.jaccard.value, theirs.get_fast_aji(truth, pred)),
            "AJI+": (scores.jaccard_plus.value, theirs.get_fast_aji_plus(truth, pred)),
            "DQ": (scores.panoptic.dq, dq),
            "PQ": (scores.panoptic.pq, pq),
            "PQ, its 1e-6 taken out": (scores.panoptic.pq, pq * exact),
            "Dice": (scores.foreground.value, theirs.get_dice_1(truth, pred)),
        }
        if tp:
            figures["SQ"] = scores.panoptic.sq, sq
            figures["SQ, its 1e-6 taken out"] = scores.panoptic.sq, sq * exact
        return figures

    return ask


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hovernet_stats_utils", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"error: bench: FACTORY_BENCH_HOVERNET: expected a Python file, got {path}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
