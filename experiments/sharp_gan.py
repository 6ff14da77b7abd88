"""Enhanced Sharp-GAN's image table: four arms trained, scored against the real images of held-out masks. Resumes.

    python -m experiments.sharp_gan train --data data/monuseg [--arms "pix2pix,enhanced"]
    python -m experiments.sharp_gan score --data data/monuseg [--encoder lite0.safetensors]
    python -m experiments.sharp_gan train --data data/monuseg-val --protocol sharp_gan_tuning

The protocol is configs/experiments/sharp_gan.yaml, whose weights of losses were chosen with sharp_gan_tuning.yaml.
Finished runs are skipped; a second call of `train` may run beside the first with other arms. AJI is that of the
segmenter that comes with `segment` (starter weights, trained on patients of the train split), in the generated images,
against the masks; it is also run on the real images. The report has the protocol's name,
docs/results/reports/sharp-gan.md and .json; a sheet of samples, which contains real images, is written to --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.arms import Arm, Pixels, extractors, real_views, render_finished, run_experiment
from experiments.sharp_gan_report import RunFigures, Scored, write_report
from factory.learn.crops import Tiles, instances_of, open_tiles
from factory.score.distances import frechet_distance
from factory.score.features import extract
from factory.score.image_quality import image_quality
from segment import metrics
from segment.network.instances import read_tile
from segment.network.weights import Weights, load_weights


def main() -> None:
    """Run one part of the experiment."""
    run_experiment(__doc__, "sharp_gan", arms_of, score)


def arms_of(protocol: dict[str, Any]) -> list[Arm]:
    """All arms, in the order of the paper's table."""
    return [
        Arm(name, "sharpgan", protocol["base"], {**protocol["set"], **values})
        for name, values in protocol["arms"].items()
    ]


def score(protocol: dict[str, Any], arms: Sequence[Arm], arguments: argparse.Namespace) -> None:
    """Render the held-out masks with every arm that is trained, and compare with the held-out images."""
    tiles = open_tiles(arguments.data, None, tuple(protocol["view_size"]), 1, split=protocol["split"])
    views, groups = real_views(tiles, protocol, nuclei=True)
    reals, segmenter = views[..., 1:4], load_weights("starter", "cpu")
    shown = render_finished(arms, protocol, arguments.out, views, tiles)
    instances = instances_of(views)
    scored = Scored(
        figures={
            key: RunFigures(_quality(images, reals), _aji(segmenter, images, instances))
            for key, images in shown.items()
        },
        ceiling=_aji(segmenter, reals, instances),
        groups=tuple(groups),
        distances=_distances(shown, reals, _floor(arguments.data, protocol), protocol, arguments.encoder),
        images=shown,
        views=views,
        scheme=tiles.scheme,
    )
    write_report(arguments.protocol, protocol, scored, arguments.out)


def _floor(data: Sequence[Path], protocol: dict[str, Any]) -> Pixels:
    """Crops of the train patients: real images of others."""
    training: Tiles = open_tiles(data, None, tuple(protocol["view_size"]), 1)
    return real_views(training, protocol, nuclei=True)[0][..., 1:4]


def _quality(images: Pixels, reals: Pixels) -> npt.NDArray[np.float64]:
    """SSIM, FSIM and GMSD of every view: float64 [N, 3]."""
    found = [
        image_quality(np.ascontiguousarray(fake), np.ascontiguousarray(real))
        for fake, real in zip(images, reals, strict=True)
    ]
    return np.array([(one.ssim, one.fsim, one.gmsd) for one in found])


def _aji(segmenter: Weights, images: Pixels, instances: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """AJI of the segmenter in every view against the mask: float64 [N], NaN where neither has a nucleus."""
    (mpp,) = segmenter.card["mpp"]
    values = []
    for image, truth in zip(images, instances, strict=True):
        maps = segmenter.predict(image)
        found = read_tile(maps, segmenter.scheme, mpp, segmenter.instances)
        values.append(metrics.instance_scores(metrics.overlap(truth, found.instance)).figures["aji"])
    return np.array(values)


def _distances(
    shown: dict[tuple[str, int], Pixels], reals: Pixels, floor: Pixels, protocol: dict[str, Any], encoder: Path | None
) -> dict[str, dict[str, Any]]:
    """Frechet distance of every run and of the training views, by features."""
    found: dict[str, dict[str, Any]] = {}
    for extractor in extractors(protocol, encoder):
        of_real = extract(extractor, reals)
        runs = {key: frechet_distance(extract(extractor, images), of_real) for key, images in shown.items()}
        found[extractor.distance] = {"runs": runs, "floor": frechet_distance(extract(extractor, floor), of_real)}
    return found


if __name__ == "__main__":
    main()
