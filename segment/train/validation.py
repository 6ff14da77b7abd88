"""Scores a network on held-out tiles, and chooses there how nuclei are read off its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from factory.core.precision import Precision
from manifests.dataset import Dataset
from manifests.labels import IGNORE, LabelScheme
from segment import metrics
from segment.data.sources import projections
from segment.data.stains import Stains, estimate_stains, restain
from segment.network.head import Head
from segment.network.inference import PLAIN, InferenceConfig, Maps, predict_maps, predict_output, to_maps
from segment.network.instances import InstanceConfig, read_tile
from segment.train.losses import cross_entropy_sum

CANDIDATES: dict[str, tuple[float, ...]] = {
    "h": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    "foreground": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "smooth_um": (0.25, 0.5, 0.75, 1.0),
    "min_area_um2": (3.0, 6.0, 10.0, 15.0),
    "solidity": (0.9, 0.92, 0.94, 0.96, 1.0),
}
"""Values of `InstanceConfig` that are tried on validation, one field after the other."""


@dataclass(frozen=True)
class Shown:
    """One validation tile with its prediction, for a panel.

    Attributes:
        image: uint8 [H, W, 3]. truth, pred: uint8 [H, W] classes. truth_instance, pred_instance: int32 [H, W].
    """

    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    truth_instance: npt.NDArray[np.int32]
    pred: npt.NDArray[np.uint8]
    pred_instance: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Validation:
    """Validation tiles: at most `tiles` of a data set, evenly spread over its rows.

    Attributes:
        dataset: validation rows. scheme: of the network. head: meaning of its output channels.
        tiles: largest number that is used. instances: how nuclei are read off the output. device: of the network.
        precision: number format of the network. inference: how it is applied in `choose_instances`; `score`, which
            ranks checkpoints, takes the image alone. A tile with too little tissue keeps its stains.
    """

    dataset: Dataset
    scheme: LabelScheme
    head: Head
    tiles: int
    instances: InstanceConfig
    device: str
    precision: Precision = "fp32"
    inference: InferenceConfig = PLAIN

    def score(self, network: torch.nn.Module, panels: int = 0) -> tuple[dict[str, float], list[Shown]]:
        """Figures of a network by name, and the first tiles (`panels` of them) with their predictions.

        Semantic figures are of the most probable class, pooled over the tiles; AJI and PQ are means over the tiles.
        ``score``, which chooses the best weights, is the mean of AJI and PQ if the network separates nuclei, else mIoU.
        """
        pooled, entropy = np.zeros((len(self.scheme), len(self.scheme)), np.int64), 0.0
        nuclei: list[tuple[float, float]] = []
        shown: list[Shown] = []
        for position in self._positions():
            image, truth, instance, mpp = self._read(position)
            output = predict_output(network, image, self.device, self.precision)
            logits = output[: self.head.classes]
            pooled += metrics.confusion(truth, logits.argmax(0).to("cpu", torch.uint8).numpy(), len(self.scheme))
            entropy += cross_entropy_sum(logits, truth)
            pred = read_tile(to_maps(output, self.head), self.scheme, mpp, self.instances)
            if self.head.distance:
                nuclei.append(_aji_and_pq(truth, instance, pred.instance))
            if len(shown) < panels:
                shown.append(Shown(image, truth, instance, pred.semantic, pred.instance))
        figures = {name: metric(pooled) for name, metric in metrics.SEMANTIC.items()}
        figures |= {"cross_entropy": entropy / max(int(pooled.sum()), 1)}
        if not nuclei:
            return figures | {"score": figures["mean_iou"]}, shown
        aji, pq = (_mean([pair[place] for pair in nuclei]) for place in (0, 1))
        return figures | {"aji": aji, "pq": pq, "score": (aji + pq) / 2}, shown

    def choose_instances(self, network: torch.nn.Module) -> tuple[InstanceConfig, float]:
        """The best of the `CANDIDATES`, field by field, starting from `instances`, and its mean of AJI and PQ.

        A field changes only for a better score; of equal values the first is taken.
        """
        read: list[tuple[Maps, npt.NDArray[np.uint8], npt.NDArray[np.int32], float]] = []
        for position in self._positions():
            image, truth, instance, mpp = self._read(position)
            reference, own = self.inference.stain_reference, None
            if isinstance(reference, Stains) and (own := estimate_stains([image])) is not None:
                image = restain(image, own, reference)
            maps = predict_maps(network, self.head, image, self.device, self.precision, self.inference)
            read.append((maps, truth, instance, mpp))

        def score_of(config: InstanceConfig) -> float:
            pairs = [
                _aji_and_pq(truth, instance, read_tile(maps, self.scheme, mpp, config).instance)
                for maps, truth, instance, mpp in read
            ]
            return float(np.nan_to_num(_mean([sum(pair) / 2 for pair in pairs])))

        best, score = self.instances, score_of(self.instances)
        for field, values in CANDIDATES.items():
            for value in values:
                candidate = best.model_copy(update={field: value})
                found = score_of(candidate)
                if found > score:
                    best, score = candidate, found
        return best, score

    def _positions(self) -> list[int]:
        n = len(self.dataset)
        spread = np.linspace(0, n - 1, min(self.tiles, n)).round().astype(int)
        return [int(position) for position in np.unique(spread)]

    def _read(self, position: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int32], float]:
        """Read image, classes in the network's scheme, instance ids and um per pixel of one row."""
        row: dict[str, Any] = self.dataset.row(position)
        image, semantic, instance = (
            self.dataset.store.read(row["index"], name) for name in ("image", "semantic", "instance")
        )
        return image, projections(self.dataset, self.scheme)[row["label_scheme"]][semantic], instance, row["mpp"]


def _aji_and_pq(
    truth: npt.NDArray[np.uint8], instance: npt.NDArray[np.int32], pred: npt.NDArray[np.int32]
) -> tuple[float, float]:
    """Compute AJI and PQ of one tile over its labelled pixels."""
    table = metrics.overlap(*metrics.without_ignored(instance, pred, truth == IGNORE))
    return metrics.aji(table).value, metrics.panoptic_quality(table).pq


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
