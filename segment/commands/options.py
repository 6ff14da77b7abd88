"""Options that several commands of `segment` share."""

from pathlib import Path
from typing import Annotated

from factory.core.options import CONFIGURATION, INPUT, RUNNING
from segment.network import Symmetries

Real = Annotated[Path, INPUT("Data set of real tiles.")]
Synth = Annotated[Path, INPUT("Data set of synthetic tiles, or accepted.parquet of its audit.")]
Weights = Annotated[Path, INPUT("best.safetensors of a run, the run's folder, or starter.")]
TestTimeAugmentation = Annotated[
    Symmetries | None,
    RUNNING(
        "Test-time augmentation: average over mirror images (flips, 4 times the computation) or all symmetries "
        "(dihedral, 8 times). [default: as trained, none for most weights]",
        "--tta",
    ),
]
StainReference = Annotated[
    str | None,
    INPUT(
        "Bring every image to the stains of these first (Macenko): an image, a folder, the training tiles of a data "
        "set, or none. H&E only. [default: as trained, none for most weights]"
    ),
]
Assignments = Annotated[
    list[str] | None,
    CONFIGURATION(
        "Change one value of the configuration: --set train.batch=4. Repeatable.", "--set", metavar="KEY=VALUE"
    ),
]
