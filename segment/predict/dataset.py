"""Predictions as a data set: the images with the labels of a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.config import digest
from factory.core.runs import RunSpec, open_run, write_shard
from manifests.labels import IGNORE
from manifests.schema import DatasetInfo
from manifests.store import Layout
from manifests.tile import Tile
from segment.network.weights import Weights
from segment.predict.jobs import Job

_SHARD = 16
_KEPT = (
    "split", "source", "group_id", "seed", "recipe", "mask_generator", "renderer", "image_weights_sha256", "latent",
    "source_uri", "source_x", "source_y", "source_level", "licence", "real_pixels", "real_groups",
)  # fmt: skip
"""Columns of a tile that describe its image and do not depend on its labels."""

Labelled = Callable[[Job], tuple[npt.NDArray[np.uint8], Tile]]
"""The image and its predicted labels, both in the image's own pixels."""


def run_of(out: Path, jobs: Sequence[Job], weights: Weights, config: dict[str, Any]) -> RunSpec:
    """The data set that `write_set` writes."""
    size = max(job.scaling.own_height for job in jobs), max(job.scaling.own_width for job in jobs)
    config = {**config, "images": digest([[job.image.name, job.image.identity] for job in jobs])}
    return RunSpec(out, config, Layout(len(jobs), *size, _SHARD), _info(jobs, weights, config))


def write_set(
    out: Path,
    jobs: Sequence[Job],
    weights: Weights,
    config: dict[str, Any],
    labelled: Labelled,
    *,
    precision: str,
    overwrite: bool,
) -> None:
    """Write a data set, shard by shard; finished shards of an earlier run with the same settings and images are kept.

    Images smaller than the largest are padded at the lower and right side as `factory ingest` does: mirrored pixels,
    labelled 255 (ignore). A tile keeps its `sample_id`, so that its labels can be scored against those it had.
    """
    spec = run_of(out, jobs, weights, config)
    size = spec.layout.height, spec.layout.width

    def samples(shard: int) -> Iterator[tuple[npt.NDArray[np.uint8], Tile, dict[str, Any]]]:
        for index in spec.layout.rows(shard):
            image, tile = labelled(jobs[index])
            row = _row(jobs[index], weights, config, precision)
            yield *_padded(image, tile, size), row | {"height": size[0], "width": size[1], "mpp": tile.mpp}

    with open_run(spec, overwrite=overwrite) as run:
        for shard in run.todo:
            run.add(write_shard(spec, shard, samples(shard)))
        run.finish()


def _info(jobs: Sequence[Job], weights: Weights, config: dict[str, Any]) -> DatasetInfo:
    infos = [job.image.info for job in jobs if job.image.info is not None]
    return DatasetInfo(
        is_synthetic=any(info.is_synthetic for info in infos),
        generator="segment predict",
        label_schemes=(weights.scheme,),
        versions=config["versions"],
        training_sources=tuple(sorted({source for info in infos for source in info.training_sources})),
        licences=tuple(sorted({licence for info in infos for licence in info.licences})),
        real_pixels=len(infos) < len(jobs) or any(info.real_pixels for info in infos),
    )


def _row(job: Job, weights: Weights, config: dict[str, Any], precision: str) -> dict[str, Any]:
    image = job.image
    if image.row is not None:
        about = {name: image.row[name] for name in _KEPT} | {"sample_id": image.row["sample_id"]}
    else:
        stem = re.sub(r"[^a-z0-9]+", "-", image.name.lower()).strip("-")
        about = {"sample_id": f"{stem}-{digest([image.name, image.identity])[:12]}".lstrip("-")}
        about |= {
            "source": "real",
            "real_pixels": True,
            "source_uri": Path(image.where).name,
            "source_x": 0,
            "source_y": 0,
        }
    return about | {
        "label_scheme": weights.scheme.name,
        "label_origin": "predicted",
        "mask_weights_sha256": config["weights"]["sha256"],
        "device": weights.device,
        "precision": precision,
    }


def _padded(image: npt.NDArray[np.uint8], tile: Tile, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], Tile]:
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not below and not right:
        return image, tile
    margin = ((0, below), (0, right))
    semantic = np.pad(tile.semantic, margin, constant_values=IGNORE)
    instance = np.pad(tile.instance, margin)
    return np.pad(image, (*margin, (0, 0)), mode="symmetric"), Tile(semantic, instance, tile.mpp, tile.scheme)
