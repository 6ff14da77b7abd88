"""What joining the pieces of convex nuclei does (`instances.solidity`): AJI, PQ, nuclei cut and run together.

    python -m experiments.joined_pieces --data data/monuseg-whole --split val

Weights are read once for each image; each setting is applied to the same output of the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from factory.core.console import run, say, working
from manifests.dataset import open_dataset
from manifests.errors import UserError
from manifests.labels import IGNORE
from segment import metrics
from segment.network.inference import Maps, predict_output, to_maps
from segment.network.instances import InstanceConfig, read_tile
from segment.network.weights import load_weights

SOLIDITIES = (1.0, 0.96, 0.94, 0.92, 0.9)


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set of whole images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", default="starter")
    arguments = parser.parse_args()
    weights = load_weights(arguments.weights, "cpu")
    dataset = open_dataset(arguments.data)
    samples = [sample for sample in dataset if (sample.row["split"] or "train") == arguments.split]
    if not samples:
        raise UserError(f"{arguments.data}: expected images with split {arguments.split}, got none.")
    maps: list[Maps] = []
    for number, sample in enumerate(samples, 1):
        with working(f"image {number} of {len(samples)}"):
            maps.append(to_maps(predict_output(weights.network, sample.image, "cpu", "fp32"), weights.head))
    base = InstanceConfig(**weights.card["instances"])
    for solidity in SOLIDITIES:
        config, scores = base.model_copy(update={"solidity": solidity}), []
        for sample, found in zip(samples, maps, strict=True):
            pred = read_tile(found, weights.scheme, sample.row["mpp"], config).instance
            truth = sample.tile
            table = metrics.overlap(*metrics.without_ignored(truth.instance, pred, truth.semantic == IGNORE))
            scores.append((metrics.aji(table).value, metrics.panoptic_quality(table).pq, metrics.cuts(table)))
        shares = metrics.pool([cut for *_, cut in scores]).figures
        aji, pq = (float(np.mean([score[place] for score in scores])) for place in (0, 1))
        cut = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        say(f"solidity {solidity:.2f}: AJI {aji:.4f}, PQ {pq:.4f}, {cut}")


if __name__ == "__main__":
    run(main)
