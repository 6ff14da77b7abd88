"""Score weights on a split: per image, and by source as the mean over images and pooled over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from factory.core.config import parse
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme
from manifests.measure import measure
from manifests.tile import Tile
from segment import metrics
from segment.checkpoints import BEST, WEIGHTS_KIND, read_checkpoint
from segment.inference import predict_logits
from segment.instances import InstanceConfig, components, has_instances
from segment.losses import cross_entropy_sum
from segment.networks import NetworkConfig, build
from segment.sources import Source, projections, refuse_tested_groups

TPS_EDGES = (0.01, 0.5)
TPS_CLASSES = ("<1 %", "1-50 %", ">=50 %")
"""Clinical classes of the tumour proportion score; an edge belongs to the class above it."""


@dataclass(frozen=True)
class Weights:
    """A network with its weights, and what its card says of it."""

    network: torch.nn.Module
    scheme: LabelScheme
    instances: InstanceConfig
    card: dict[str, Any]


@dataclass(frozen=True)
class ImageScore:
    """One image: its figures by name (NaN = nothing to score), and the sums that pool.

    Attributes:
        name: sample_id. source: real or synth. figures: metric -> value.
        confusion: int64 [C, C]. cross_entropy_sum: over the labelled pixels.
        jaccard, jaccard_plus, panoptic: None where the scheme has no instances.
        tps: (truth, prediction), NaN where there is no tumour; None where the scheme knows none.
    """

    name: str
    source: str
    figures: dict[str, float]
    confusion: metrics.Ints
    cross_entropy_sum: float
    jaccard: metrics.AggregatedJaccard | None
    jaccard_plus: metrics.AggregatedJaccard | None
    panoptic: metrics.Panoptic | None
    tps: tuple[float, float] | None


def load_weights(path: Path, device: str) -> Weights:
    """Load weights that `segment train` wrote.

    Args:
        path: the file, or the run's folder.
        device: where the network is to compute.

    Raises:
        UserError: when the file is missing, damaged, no safetensors or of another network.
    """
    path = path / BEST if path.is_dir() else path
    checkpoint = read_checkpoint(path, WEIGHTS_KIND)
    card = checkpoint.card
    try:
        scheme = LabelScheme.from_dict(card["scheme"])
        config = parse(NetworkConfig, card["network"], str(path))
        instances = parse(InstanceConfig, card["instances"], str(path))
        network = build(config, len(scheme))
        network.load_state_dict(checkpoint.tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: expected weights that fit their card, got: {str(error).splitlines()[0]}") from error
    return Weights(network.to(device).eval(), scheme, instances, card)


def check_test_leaks(weights: Weights, path: Path, parts: Sequence[tuple[Source, Dataset]], split: str) -> None:
    """Refuse to score on groups that the weights, or the generator of their tiles, have seen (promise 13).

    Raises:
        UserError: naming the group.
    """
    known = {data["sha256"] for data in weights.card["trained_on"].values()}
    for source, _ in parts:
        if split == "all" and source.sha256 in known:
            raise UserError(
                f"{source.dataset.root}: expected weights that never saw the scored tiles, got ones trained on its "
                "train split. Use --split test."
            )
    tested = {g for _, dataset in parts for g in dataset.table["group_id"].unique().to_pylist() if g is not None}
    shared = sorted(tested & set(weights.card["groups"]))
    if shared:
        raise UserError(
            f"{path}: expected weights that never saw the scored groups, got {shared[0]!r} ({len(shared)} such) among "
            "their training or validation tiles. Score on other tiles."
        )
    refuse_tested_groups(str(path), weights.card["sources"].get("synth", []), tested)


def evaluate(
    weights: Weights,
    parts: Sequence[tuple[Source, Dataset]],
    device: str,
    on_image: Callable[[], None] = lambda: None,
) -> list[ImageScore]:
    """Score every row of every part.

    Args:
        weights: what to score.
        parts: data sets by source, each cut to the rows that count.
        device: where the network is.
        on_image: called after each image.
    """
    scores = []
    for source, dataset in parts:
        tables = projections(dataset, weights.scheme)
        for sample in dataset:
            own = sample.tile
            semantic = tables[own.scheme.name][own.semantic]
            truth = Tile(semantic, own.instance, own.mpp, weights.scheme)
            scores.append(_score(weights, sample.row["sample_id"], source.role, sample.image, truth, device))
            on_image()
    return scores


def _score(
    weights: Weights, name: str, source: str, image: npt.NDArray[np.uint8], truth: Tile, device: str
) -> ImageScore:
    scheme, known = weights.scheme, truth.semantic != IGNORE
    logits = predict_logits(weights.network, image, device)
    pred = logits.argmax(0).to("cpu", torch.uint8).numpy()
    matrix = metrics.confusion(truth.semantic, pred, len(scheme))
    figures = {metric: function(matrix) for metric, function in metrics.SEMANTIC.items()}
    entropy, labelled = cross_entropy_sum(logits, truth.semantic), int(matrix.sum())
    figures["cross_entropy"] = entropy / labelled if labelled else float("nan")
    figures["t_objective"] = metrics.t_objective(figures["dice"], figures["cross_entropy"])

    jaccard = jaccard_plus = panoptic = tps = None
    instance = np.zeros(pred.shape, np.int32)
    if has_instances(scheme):
        instance = np.where(known, components(pred, scheme, truth.mpp, weights.instances), 0).astype(np.int32)
        table = metrics.overlap(np.where(known, truth.instance, 0), instance)
        jaccard, jaccard_plus = metrics.aji(table), metrics.aji_plus(table)
        panoptic = metrics.panoptic_quality(table)
        figures |= _instance_figures(jaccard, jaccard_plus, panoptic)
    if scheme.ids("tumour_positive"):
        tps = (_tps(truth), _tps(Tile(np.where(known, pred, IGNORE).astype(np.uint8), instance, truth.mpp, scheme)))
        figures |= {"tps_truth": tps[0], "tps_pred": tps[1], "tps_error": abs(tps[1] - tps[0])}
    return ImageScore(name, source, figures, matrix, entropy, jaccard, jaccard_plus, panoptic, tps)


def _instance_figures(
    jaccard: metrics.AggregatedJaccard, jaccard_plus: metrics.AggregatedJaccard, panoptic: metrics.Panoptic
) -> dict[str, float]:
    return {
        "dq": panoptic.dq,
        "sq": panoptic.sq,
        "pq": panoptic.pq,
        "aji": jaccard.value,
        "aji_plus": jaccard_plus.value,
    }


def _tps(tile: Tile) -> float:
    """TPS of a mask on the basis of its scheme, NaN without tumour."""
    composition = measure(tile)
    tps = composition.tps_cells if tile.scheme.tps_basis == "cells" else composition.tps_area
    return float("nan") if tps is None else tps


def summarise(scores: Sequence[ImageScore], scheme: LabelScheme) -> dict[str, Any]:
    """Figures over several images.

    Returns:
        ``images``; ``mean``: over the images where a figure has a value, ``left_out``: how many have none;
        ``pooled``: the same metrics of the summed counts; ``classes``: pooled IoU and Dice; ``tps``: None where the
        scheme knows no tumour.
    """
    names = list(scores[0].figures)
    values = {name: np.array([score.figures[name] for score in scores]) for name in names}
    known = {name: column[~np.isnan(column)] for name, column in values.items()}
    matrix = np.sum([score.confusion for score in scores], axis=0)
    pooled = {name: metric(matrix) for name, metric in metrics.SEMANTIC.items()}
    labelled = int(matrix.sum())
    pooled["cross_entropy"] = sum(s.cross_entropy_sum for s in scores) / labelled if labelled else float("nan")
    pooled["t_objective"] = metrics.t_objective(pooled["dice"], pooled["cross_entropy"])
    if scores[0].panoptic is not None:
        pooled |= _instance_figures(
            metrics.pool_jaccard([s.jaccard for s in scores if s.jaccard]),
            metrics.pool_jaccard([s.jaccard_plus for s in scores if s.jaccard_plus]),
            metrics.pool_panoptic([s.panoptic for s in scores if s.panoptic]),
        )
    iou, dice = metrics.class_iou(matrix).tolist(), metrics.class_dice(matrix).tolist()
    return {
        "images": len(scores),
        "mean": {name: float(column.mean()) if column.size else float("nan") for name, column in known.items()},
        "left_out": {name: len(scores) - column.size for name, column in known.items() if column.size < len(scores)},
        "pooled": pooled,
        "classes": {n: {"iou": i, "dice": d} for n, i, d in zip(scheme.names, iou, dice, strict=True)},
        "tps": _summarise_tps([score.tps for score in scores if score.tps is not None], scheme),
    }


def _summarise_tps(pairs: Sequence[tuple[float, float]], scheme: LabelScheme) -> dict[str, Any] | None:
    """TPS error, and confusion of the clinical classes: rows truth, columns prediction and then "no tumour found"."""
    if not pairs:
        return None
    table = np.zeros((len(TPS_CLASSES), len(TPS_CLASSES) + 1), np.int64)
    errors = []
    for truth, pred in pairs:
        if math.isnan(truth):
            continue
        column = len(TPS_CLASSES) if math.isnan(pred) else int(np.searchsorted(TPS_EDGES, pred, side="right"))
        table[int(np.searchsorted(TPS_EDGES, truth, side="right")), column] += 1
        if not math.isnan(pred):
            errors.append(abs(pred - truth))
    return {
        "basis": scheme.tps_basis,
        "mae": float(np.mean(errors)) if errors else float("nan"),
        "images": int(table.sum()),
        "without_tumour": sum(math.isnan(truth) for truth, _ in pairs),
        "classes": [*TPS_CLASSES, "no tumour found"],
        "confusion": table.tolist(),
    }
