"""Chooses the stain references of a renderer: slides whose stain agrees with their masks.

    python -m experiments.slide_stain --data data/ki67r

For every slide of the train split: the shares of the nuclei in positive and in negative regions that the audit's
stain count finds stained, on the real tiles. Where more than `MOST_NEGATIVE` of the negative nuclei count as stained,
or fewer than `LEAST_POSITIVE` of the positive ones, count and masks disagree, and correct tiles with that reference
would be flagged. `python -m factory.starter.pack pack ... --without-looks` takes the numbers printed last.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests import open_dataset
from segment.audit.calibration import calibrate, calibration_tiles
from segment.audit.stain_count import count_nuclei, find_nuclei, stain_densities

MOST_NEGATIVE, LEAST_POSITIVE = 0.1, 0.6


def main() -> None:
    """Print the table, and the references to leave out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    counts = stained_by_slide(parser.parse_args().data)
    left_out = []
    for number, (slide, (positive, stained, negative, wrong)) in enumerate(sorted(counts.items())):
        shares = stained / max(positive, 1), wrong / max(negative, 1)
        is_left_out = shares[0] < LEAST_POSITIVE or shares[1] > MOST_NEGATIVE
        left_out += [str(number)] if is_left_out else []
        print(
            f"{number:>3} {slide:<24} positive regions: {shares[0]:.2f} of {positive:>5} stained, negative: "
            f"{shares[1]:.3f} of {negative:>5}{'  left out' if is_left_out else ''}"
        )
    print(f"--without-looks {','.join(left_out)}")


def stained_by_slide(root: Path) -> dict[str, npt.NDArray[np.int64]]:
    """Slide -> nuclei in positive regions, stained ones among them, the same of negative regions: int64 [4]."""
    dataset = open_dataset(root)
    calibration = calibrate(calibration_tiles(dataset), None)
    counts: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(4, np.int64))
    for sample in dataset:
        if sample.row["split"] != "train":
            continue
        densities = stain_densities(sample.image, calibration.vectors)
        found = count_nuclei(sample.tile, find_nuclei(densities, sample.tile.mpp), densities)
        stained = found.dab > calibration.nucleus_dab
        in_positive, in_negative = found.region == 1, found.region == 0
        parts = (in_positive, in_positive & stained, in_negative, in_negative & stained)
        counts[sample.row["group_id"]] += np.array([int(part.sum()) for part in parts])
    return dict(counts)


if __name__ == "__main__":
    main()
