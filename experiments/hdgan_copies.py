"""Data sets of `experiments.hdgan` with the images of others: rendered tiles as real ones, images annotated anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.runs import RunSpec, is_finished, open_run, read_run, write_shard
from factory.joint.hdgan import tile_of
from manifests.checksums import SUMS
from manifests.dataset import Dataset, Sample, open_dataset
from manifests.files import sha256_file
from manifests.store import Layout
from manifests.tile import Tile
from segment.network.weights import Weights

_SHARD = 64


def said_by(weights: Weights, image: npt.NDArray[np.uint8], mpp: float) -> Tile:
    """Labels of an image by a segmenter: the most probable class of each pixel; nuclei are connected pieces.

    A labeller's labels are made in the same way.
    """
    maps = weights.predict(image)
    return tile_of(maps.probabilities.argmax(0).astype(np.uint8), weights.scheme, mpp)


def copy(
    out: Path,
    of: Dataset,
    places: Sequence[int],
    label: Callable[[Sample], Tile],
    columns_of: Callable[[int], Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    is_synthetic: bool = True,
) -> Dataset:
    """Write images of a data set with other labels or another choice of tiles; a finished copy is kept.

    Args:
        out: the new data set. of: data set of the images. places: of those, in order.
        label: returns the labels. columns_of: further changed columns of the row of a place.
        config: for run.yaml, beside the digest of the images' data set.
        is_synthetic: metadata of the new data set. False makes `segment compare` treat rendered tiles as real ones;
            their rows still name the renderer, and such a data set is for the experiment alone.
    """
    document = {**config, "images_of": sha256_file(of.root / SUMS), "places": list(places)}
    if is_finished(out) and read_run(out)["config"] == document:
        return open_dataset(out)
    scheme = label(of[places[0]]).scheme
    info = replace(of.info, is_synthetic=is_synthetic, label_schemes=(scheme,))
    size = of.store.layout
    spec = RunSpec(out, document, Layout(len(places), size.height, size.width, _SHARD), info)

    def samples(rows: range) -> Iterator[tuple[npt.NDArray[np.uint8], Tile, dict[str, Any]]]:
        for row in rows:
            sample = of[places[row]]
            yield sample.image, label(sample), {**sample.row, "label_scheme": scheme.name, **columns_of(places[row])}

    with open_run(spec) as run:
        for shard in run.todo:
            run.add(write_shard(spec, shard, samples(spec.layout.rows(shard))))
        run.finish()
    return open_dataset(out)
