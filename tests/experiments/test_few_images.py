"""Sets for the cells of a comparison: only the patients of the cell are in them, all to train on."""

from pathlib import Path

import numpy as np
import pytest

from experiments.few_images import copy_patients, read_patients
from manifests.errors import UserError
from tests.conftest import write_dataset


def test_a_cell_has_the_tiles_of_its_patients_alone(tmp_path: Path) -> None:
    real = write_dataset(tmp_path / "real", n=6, groups=3, size=(32, 32))
    (tmp_path / "cells.csv").write_text(
        "fraction,seed,group\n0.5,0,real-slide-0\n0.5,0,real-slide-2\n1,0,real-slide-1\n"
    )
    cells = read_patients(tmp_path / "cells.csv")
    assert cells == {(0.5, 0): {"real-slide-0", "real-slide-2"}, (1.0, 0): {"real-slide-1"}}
    few = copy_patients(real, cells[0.5, 0], tmp_path / "few")
    kept = [place for place, group in enumerate(real.table["group_id"].to_pylist()) if group != "real-slide-1"]
    assert not few.info.is_synthetic
    assert few.table["split"].to_pylist() == ["train"] * len(kept)
    for own, place in enumerate(kept):
        assert np.array_equal(few[own].image, real[place].image)
        assert np.array_equal(few[own].tile.instance, real[place].tile.instance)


def test_unknown_patients_and_other_files_are_refused(tmp_path: Path) -> None:
    real = write_dataset(tmp_path / "real", n=3, groups=3, size=(32, 32))
    with pytest.raises(UserError, match=r"--patients: expected patients of .*, got 'nobody' \(1 such\)"):
        copy_patients(real, {"real-slide-0", "nobody"}, tmp_path / "few")
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="expected a CSV with the columns fraction, seed and group"):
        read_patients(tmp_path / "cells.csv")
