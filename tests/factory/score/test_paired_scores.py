"""`factory score --on images --paired`: who is whose partner, the measures and their intervals, and what is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from factory.score.paired import find_pairs, mean_interval, measure_pairs
from factory.score.sources import open_inputs
from manifests import Dataset, open_dataset
from manifests.errors import UserError
from manifests.table import write_dataset_manifest
from tests.conftest import Outcome, assert_refused, with_columns, write_dataset

Cli = Callable[..., Outcome]
pytestmark = pytest.mark.usefixtures("one_thread", "narrow_features")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real tiles of 18 groups, a third of which are tested, and fakes on the tested masks."""
    from factory.make.pipeline import make
    from factory.make.recipes.given_masks import RenderConfig, prepare

    root = tmp_path_factory.mktemp("sets")
    write_dataset(root / "real", n=54, size=(32, 64), groups=18)
    make(prepare(RenderConfig(), root / "real", root / "fake"), workers=1)
    return root


def changed(dataset: Dataset, **columns: list[Any]) -> None:
    """The same tiles with other values in their rows."""
    write_dataset_manifest(dataset.root, len(dataset), with_columns(dataset, **columns).table.to_pylist(), dataset.info)


def pairs_of(fake: Path, real: Path, split: str = "test") -> dict[str, str]:
    found = find_pairs(open_inputs(fake, [real], on="images", split=split, paired=True))
    return {pair.fake["sample_id"]: pair.real["sample_id"] for pair in found.pairs}


def test_score_reports_pairs_beside_all_else(cli: Cli, sets: Path, tmp_path: Path) -> None:
    words = ("factory", "score", sets / "fake", "--real", sets / "real", "--on", "images")
    assert_refused(cli(*words), "Add --on images --paired, which holds each against its own")
    assert_refused(cli(*words[:5], "--paired"), "--paired: expected --on images beside it, got masks")
    done = cli(*words, "--paired", "--out", tmp_path / "s")
    assert done.code == 0, done.err
    assert "SSIM of pairs" in done.out
    assert "Frechet distance" in done.out
    document = json.loads((tmp_path / "s/score.json").read_text())
    assert (document["paired"]["pairs"], document["paired"]["groups"]) == (18, 6)
    assert document["paired"]["interval_draws"] == "groups"
    rows = pq.read_table(tmp_path / "s/pairs.parquet").to_pylist()
    assert {row["fake"]: row["real"] for row in rows} == pairs_of(sets / "fake", sets / "real")
    for name in ("ssim", "fsim", "gmsd"):
        figures, values = document["paired"][name], [row[name] for row in rows]
        assert figures["mean"] == pytest.approx(np.mean(values))
        assert figures["interval"][0] <= figures["mean"] <= figures["interval"][1]
        best, worst = (figures[which]["quality"][name] for which in ("best", "worst"))
        assert (best, worst) == ((min(values), max(values)) if name == "gmsd" else (max(values), min(values)))
    text = (tmp_path / "s/score.md").read_text()
    assert "## Pairs: each fake against the real image of its mask" in text
    assert "draws of 6 groups" in text
    assert (tmp_path / "s/pairs.png").read_bytes().startswith(b"\x89PNG")
    assert not [note for note in document["notes"] if "pairs" in note]


def test_partners_have_the_same_mask_or_come_from_the_same_place(sets: Path, tmp_path: Path) -> None:
    real = open_dataset(sets / "real")
    masks = {row["instance_sha256"]: row["sample_id"] for row in real.table.to_pylist()}
    by_mask = pairs_of(sets / "fake", sets / "real")
    assert by_mask == {row["sample_id"]: masks[row["instance_sha256"]] for row in _rows(sets / "fake")}

    # Fakes of other masks, from the same places: paired by place, each with the tile at its index.
    fake, real = (write_dataset(tmp_path / name, n=18, size=(32, 64), seed=seed) for name, seed in (("f", 1), ("r", 2)))
    place = {"source_uri": ["a.png"] * 18, "source_x": list(range(18)), "source_y": [0] * 18}
    changed(real, **place)
    with pytest.raises(UserError, match=r"expected fakes on the masks of the real tiles, got none of 18\. Draw some"):
        pairs_of(tmp_path / "f", tmp_path / "r", "all")
    changed(fake, **place)
    found = pairs_of(tmp_path / "f", tmp_path / "r", "all")
    assert found == {f"real-1-{index}": f"real-2-{index}" for index in range(18)}


def _rows(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_dataset(root).table.to_pylist()
    return rows


def test_empty_masks_are_told_apart_by_their_place_or_left_out_and_counted(tmp_path: Path) -> None:
    for name, seed in (("f", 1), ("r", 2)):
        write_dataset(tmp_path / name, n=20, size=(32, 64), seed=seed, cells=False)
    with pytest.raises(UserError, match="got none of 20"):
        pairs_of(tmp_path / "f", tmp_path / "r", "all")
    for name in ("f", "r"):
        uris = ["a.png"] * 16 + [None] * 4
        changed(
            open_dataset(tmp_path / name), source_uri=uris, source_x=list(range(20)), source_y=[0] * 20,
        )  # fmt: skip
    inputs = open_inputs(tmp_path / "f", [tmp_path / "r"], on="images", split="all", paired=True)
    pairing = find_pairs(inputs)
    assert [(p.fake["index"], p.real["index"]) for p in pairing.pairs] == [(index, index) for index in range(16)]
    figures = measure_pairs(pairing, inputs, 0)
    assert figures.notes == (
        "4 of 20 fakes left out of the pairs: no one real tile has their mask, 4 of them because several real tiles "
        "have their mask",
        "4 of 20 real tiles have no fake on their mask",
    )
    assert (figures.by_group, figures.groups) == (False, 3)


def test_masks_without_instances_are_paired_by_their_classes(tmp_path: Path) -> None:
    from tests.mask_training import write_blobs

    for name in ("f", "r"):
        write_blobs(tmp_path / name, n=16)
    assert pairs_of(tmp_path / "f", tmp_path / "r", "all") == {f"f-{index}": f"r-{index}" for index in range(16)}


def test_a_generator_that_saw_the_images_is_measured_and_that_is_said(sets: Path, tmp_path: Path) -> None:
    from factory.make.pipeline import make
    from factory.make.recipes.given_masks import RenderConfig, prepare

    make(prepare(RenderConfig(), sets / "real", tmp_path / "fake"), workers=1)
    fake = open_dataset(tmp_path / "fake")
    group = fake.row(0)["group_id"]
    sources = (*fake.info.training_sources, f"real/{group}")
    write_dataset_manifest(
        fake.root, len(fake), fake.table.to_pylist(), dataclasses.replace(fake.info, training_sources=sources)
    )
    inputs = open_inputs(fake.root, [sets / "real"], on="images", paired=True)
    pairing = find_pairs(inputs)
    assert pairing.seen == (group,)
    assert "trained on or fitted to images of 1 groups of the pairs" in measure_pairs(pairing, inputs, 0).notes[0]


def test_the_interval_of_a_mean_draws_groups_where_there_are_five() -> None:
    rng = np.random.default_rng
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 0.5, 0.5], 50)
    groups = [f"g{index // 50}" for index in range(300)]
    wide, narrow = mean_interval(values, groups, rng(0)), mean_interval(values, ["g"] * 300, rng(0))
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(300), rel=0.1)
    assert mean_interval(np.full(4, 0.25), ["a"] * 4, rng(0)) == (0.25, 0.25)
    assert mean_interval(values, groups, rng(0)) == wide
