"""pix2pixHD with noise of eight spacings, without, and with real cells: train, score on held-out patients. Resumes.

    python -m experiments.noise_frequency train --data data/ki67r [--arms "polygons,noise 7.5 um"]
    python -m experiments.noise_frequency score --data data/ki67r [--encoder lite0.safetensors]

The protocol is configs/experiments/noise_frequency.yaml. Finished runs are skipped; a second call of `train` may run
beside the first with other arms. The report is docs/results/reports/noise-frequency.md, .json and
.png; a sheet of samples, which contains real images, is written to --out.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.arms import Arm, extractors, real_views, render_finished, run_experiment
from experiments.noise_frequency_report import CELLS, POLYGONS, ArmFigures, noise_arm, write_report
from factory.core.statistics import draw_groups
from factory.learn.crops import open_tiles
from factory.score.distances import frechet_distance
from factory.score.features import extract

Floats = npt.NDArray[np.float64]


def arms_of(protocol: dict[str, Any]) -> list[Arm]:
    """All arms, in the order of training: first those of the main question."""

    def of_base(name: str, **condition: Any) -> Arm:
        values = {f"condition.{key}": value for key, value in condition.items()}
        return Arm(name, "pix2pixhd", protocol["base"], {**values, **protocol["set"]})

    arms = [of_base(POLYGONS, kind="polygons"), of_base(CELLS, kind="polygons+air+cells")]
    arms += [of_base(noise_arm(um), kind="polygons+noise", spacing_um=um) for um in protocol["spacings_um"]]
    for name, plan in protocol["baselines"].items():
        values = {f"condition.{key}": value for key, value in plan["condition"].items()}
        arms.append(Arm(name, plan["trainer"], plan["config"], values))
    return arms


def main() -> None:
    """Run one part of the experiment."""
    run_experiment(__doc__, "noise_frequency", arms_of, score)


def score(protocol: dict[str, Any], arms: list[Arm], arguments: argparse.Namespace) -> None:
    """Render the test masks with every arm that is trained, and compare with the test images."""
    tiles = open_tiles(arguments.data, None, tuple(protocol["view_size"]), 1, split="test")
    pixels, groups = real_views(tiles, protocol)
    reals = pixels[..., 1:]
    floor = real_views(open_tiles(arguments.data, None, tuple(protocol["view_size"]), 1), protocol)[0][..., 1:]
    fakes = render_finished(arms, protocol, arguments.out, pixels, tiles)
    found = {}
    for extractor in extractors(protocol, arguments.encoder):
        real, training = (extract(extractor, part) for part in (reals, floor))
        made = {key: extract(extractor, part) for key, part in fakes.items()}
        found[extractor.distance] = _figures(made, real, training, groups, protocol)
    write_report(protocol, arms, found, fakes, pixels, tiles.scheme, arguments.out)


def _figures(
    made: dict[tuple[str, int], Floats], real: Floats, training: Floats, groups: list[str], protocol: dict[str, Any]
) -> ArmFigures:
    """Distances of every run, and the same over draws of whole patients, views of a draw shared by all runs.

    A draw contains crops twice, which makes distances larger: draws are shifted so that their mean is the estimate.
    """
    rng = np.random.default_rng(protocol["view_seed"])
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    drawn: list[npt.NDArray[np.intp]] = []
    while len(drawn) < protocol["resamples"]:
        places = draw_groups(rng, members)
        if len(np.unique(members[places])) > 1:
            drawn.append(places)
    estimates = {key: frechet_distance(features, real) for key, features in made.items()}
    draws = {}
    for key, features in made.items():
        values = np.array([frechet_distance(features[places], real[places]) for places in drawn])
        draws[key] = values - values.mean() + estimates[key]
    return ArmFigures(estimates, draws, frechet_distance(training, real))


if __name__ == "__main__":
    main()
