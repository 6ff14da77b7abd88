"""`segment score` on what is not as it seems: ignored pixels, binary masks, places nobody may read or write."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests import Dataset
from tests.conftest import assert_refused
from tests.segment.scoring.test_score import Cli, refused, save, scored

TWO = np.array([[1, 1, 0, 2, 2]], np.uint16)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """One image of two nuclei on both sides."""
    save(tmp_path / "truth/a.png", TWO)
    save(tmp_path / "pred/a.png", TWO)
    return tmp_path / "truth", tmp_path / "pred"


@pytest.mark.parametrize("below", [".", "instances"])
def test_ignored_pixels_count_for_neither_side_with_and_without_classes(cli: Cli, tmp_path: Path, below: str) -> None:
    # The second nucleus is missed, but nobody knows what is there.
    for side, instance, classes in (
        ("truth", [1, 1, 0, 2, 2], [1, 1, 0, 255, 255]),
        ("pred", [1, 1, 0, 0, 3], [1, 1, 0, 0, 1]),
    ):
        save(tmp_path / side / below / "x.png", np.array([instance], np.uint16))
        save(tmp_path / side / "classes/x.png", np.array([classes], np.uint8))
    truth, pred = tmp_path / "truth", tmp_path / "pred"
    plain, classed = scored(cli, truth, pred)["images"][0], scored(cli, truth, pred, "--classes")["images"][0]
    assert (plain["pq"], plain["truth"], plain["pred"], plain["ignored_pixels"]) == (1, 1, 1, 2)
    assert {name: classed[name] for name in plain} == plain
    assert "2 pixels left out" in cli("segment", "score", "--truth", truth, "--pred", pred).out


def test_a_truth_whose_class_maps_lack_some_names_is_refused(cli: Cli, pair: tuple[Path, Path]) -> None:
    save(pair[0] / "classes/b.png", np.zeros((1, 5), np.uint8))
    refused(cli, *pair, r"expected the same names .* 255 in the maps of classes is left out")
    (pair[0] / "classes/b.png").rename(pair[0] / "classes/b.txt")
    assert scored(cli, *pair)["mean"]["pq"] == 1


def test_class_maps_of_the_prediction_are_not_needed_without_classes(cli: Cli, pair: tuple[Path, Path]) -> None:
    save(pair[1] / "classes/b.png", np.zeros((9, 9), np.uint8))
    assert scored(cli, *pair)["mean"]["pq"] == 1


@pytest.mark.parametrize("path", ["/proc/x.json", "pipe", "no_permission.json"])
def test_a_result_that_cannot_be_written_is_refused_before_anything_is_scored(
    cli: Cli, pair: tuple[Path, Path], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(options["dir"]))

    if path == "pipe":
        os.mkfifo(path)  # stands for /dev/stdout and its like, which a rename would replace
    if path == "no_permission.json":
        monkeypatch.setattr("tempfile.TemporaryFile", denied)
    refused(cli, *pair, f"--json: expected a file that can be written, got {path}", "--json", path)


def test_a_disk_that_fills_up_while_the_result_is_written_leaves_the_tables(
    cli: Cli, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("manifests.files.write_atomic", full)
    outcome = cli("segment", "score", "--truth", pair[0], "--pred", pair[1], "--json", "scores.json")
    assert_refused(outcome, "scores.json: No space left on device. The figures stand above", code=1)
    assert "object Dice" in outcome.out
    assert "wrote" not in outcome.out


def test_a_map_that_may_not_be_read_is_not_called_damaged(
    cli: Cli, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == pair[1] / "a.npy":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *arguments, **options)

    (pair[1] / "a.png").unlink()
    save(pair[1] / "a.npy", TWO)
    monkeypatch.setattr(Path, "open", denied)
    refused(cli, *pair, r"pred/a\.npy: cannot be read \(Permission denied\)")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_folder_that_may_not_be_read_is_no_matter_of_the_disk(
    cli: Cli, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def denied(path: Path) -> Any:
        raise PermissionError(code, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    refused(cli, *pair, r"truth: cannot be read \(Permission denied\)\. Change its permissions")


def test_a_data_set_of_regions_is_refused_as_instances(
    cli: Cli, dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    regions = dataset_factory("regions", scheme="pdl1", n=2, cells=False)
    said = r"expected instances of nuclei, got none in a data set of regions \(pdl1\)\. .*--semantic"
    refused(cli, regions.root, regions.root, said)
    nuclei_of = dataset_factory("nuclei", n=2)
    refused(cli, nuclei_of.root, regions.root, said)
    assert scored(cli, regions.root, regions.root, "--semantic")["mean"]["mean_iou"] == 1


def test_a_truth_without_any_object_gets_a_note(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/a.png", np.zeros((1, 5), np.uint16))
    save(tmp_path / "pred/a.png", TWO)
    assert "the truth has no object in any image" in cli("segment", "score", "--truth", "truth", "--pred", "pred").out


@pytest.mark.parametrize(("truth", "pred", "side"), [(TWO, TWO > 0, "predicted"), (TWO > 0, TWO, "true")])
def test_one_image_with_a_mask_of_0_and_1_on_one_side_gets_a_note(
    cli: Cli, tmp_path: Path, truth: np.ndarray, pred: np.ndarray, side: str
) -> None:
    save(tmp_path / "truth/a.png", truth.astype(np.uint16))
    save(tmp_path / "pred/a.png", pred.astype(np.uint16))
    shown = cli("segment", "score", "--truth", "truth", "--pred", "pred").out
    assert f"no {side} map has more than one object: if they are binary masks" in shown


def test_one_nucleus_on_both_sides_or_none_on_one_gets_no_note_of_masks(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/a.png", np.minimum(TWO, 1))
    save(tmp_path / "pred/a.png", np.minimum(TWO, 1))
    save(tmp_path / "none/a.png", 0 * TWO)
    for pred in ("pred", "none"):
        assert "binary masks" not in cli("segment", "score", "--truth", "truth", "--pred", pred).out


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u1", 255), ("i1", 127), ("u2", 255), ("u2", 65535), ("i2", 32767), ("i4", 255), ("i4", 2**31 - 1), ("i8", 255)],
)
def test_a_map_of_one_value_that_stands_for_foreground_is_a_binary_mask(
    cli: Cli, pair: tuple[Path, Path], dtype: str, value: int
) -> None:
    (pair[1] / "a.png").unlink()
    save(pair[1] / "a.npy", np.array([[0, value, 0, value, value]], dtype))
    refused(cli, *pair, rf"a\.npy: .* got only 0 and {value}\. It is a binary mask.*--semantic")


@pytest.mark.parametrize(("dtype", "largest", "wider"), [("u1", 255, 16), ("u2", 65535, 32)])
def test_a_map_that_reaches_the_end_of_a_small_type_has_probably_lost_ids(
    cli: Cli, pair: tuple[Path, Path], dtype: str, largest: int, wider: int
) -> None:
    save(pair[1] / "a.png", np.array([[0, 7, 0, largest - 1, largest]], dtype))
    refused(cli, *pair, rf"bits that reach {largest}\. .* probably lost: export it in {wider} bits")
    save(pair[1] / "a.png", np.array([[0, 7, 0, largest - 1, largest - 2]], dtype))
    assert scored(cli, *pair)["images"][0]["pred"] == 3


def test_wide_types_may_hold_255_beside_other_ids(cli: Cli, pair: tuple[Path, Path]) -> None:
    save(pair[1] / "a.png", np.array([[0, 7, 0, 255, 255]], np.uint16))
    assert scored(cli, *pair)["images"][0]["pred"] == 2


def test_a_folder_of_folders_or_dead_links_says_what_it_holds(cli: Cli, pair: tuple[Path, Path]) -> None:
    pred = pair[1]
    (pred / "a.png").rename(pred / "map")
    (pred / "map").unlink()
    refused(cli, *pair, r"got an empty folder\. Check the path")
    (pred / "sub").mkdir()
    refused(cli, *pair, r"got 1 folder \(sub\)\. Name the folder that holds the maps")
    (pred / "sub").rmdir()
    for name in ("a.png", "b.png"):
        (pred / name).symlink_to("nowhere")
    refused(cli, *pair, r"got 2 dead links \(a\.png, b\.png\)\. Mend the links")


@pytest.mark.parametrize(("below", "options"), [("instances", ()), ("classes", ("--semantic",))])
def test_an_empty_folder_below_does_not_hide_the_maps_beside_it(
    cli: Cli, pair: tuple[Path, Path], below: str, options: tuple[str, ...]
) -> None:
    (pair[1] / below).mkdir()
    refused(cli, *pair, rf"pred/{below}: expected label maps, got none, while .*pred holds some", *options)


def test_maps_below_are_taken_before_those_beside_them(cli: Cli, pair: tuple[Path, Path]) -> None:
    save(pair[1] / "instances/a.png", 0 * TWO)
    assert scored(cli, *pair)["images"][0]["pred"] == 0
