"""`segment score`: figures by hand, totals against the metrics' own pooling, pairing, and every kind of bad input."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from manifests import Dataset
from segment import metrics
from tests.conftest import Outcome, assert_refused

Cli = Callable[..., Outcome]


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array, compression="zlib" if array.size > 100 else None)
    else:
        Image.fromarray(array).save(path)


def nuclei(seed: int, size: tuple[int, int] = (40, 60), count: int = 8) -> np.ndarray:
    """Rectangles with ids that have gaps, uint16."""
    rng, labels = np.random.default_rng(seed), np.zeros(size, np.uint16)
    for number in range(count):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        labels[y : y + rng.integers(3, 8), x : x + rng.integers(3, 8)] = 3 * number + 300
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images in both; the prediction of each is another image's nuclei over some of its own."""
    for number, name in enumerate(("a", "b", "c")):
        truth, other = nuclei(number), nuclei(number + 10)
        save(tmp_path / "truth" / f"{name}.png", truth)
        save(tmp_path / "pred" / f"{name}.png", np.where(other % 2 == 0, truth, other))
    return tmp_path / "truth", tmp_path / "pred"


def scored(cli: Cli, truth: Path, pred: Path, *options: object) -> dict[str, Any]:
    out = truth.parent / "scores.json"
    outcome = cli("segment", "score", "--truth", truth, "--pred", pred, "--json", out, *options)
    assert outcome.code == 0, outcome.err
    return json.loads(out.read_text())


def refused(cli: Cli, truth: Path, pred: Path, said: str, *options: object) -> None:
    outcome = cli("segment", "score", "--truth", truth, "--pred", pred, *options)
    assert_refused(outcome, said)
    assert outcome.out == ""


def test_maps_against_themselves_score_exactly_one(cli: Cli, folders: tuple[Path, Path]) -> None:
    found = scored(cli, folders[0], folders[0])
    figures = ["aji", "aji_plus", "dq", "sq", "pq", "dice", "object_dice", "f1_50", "f1_70", "f1_90", "boundary_f1"]
    for part in (found["mean"], found["pooled"], *found["images"]):
        assert [part[name] for name in figures] == [1] * len(figures)
    assert [image["hd95_px"] for image in found["images"]] == [0, 0, 0]
    assert found["intervals"]["mean"]["aji"] == [1, 1]


def test_figures_of_an_image_by_hand(cli: Cli, tmp_path: Path) -> None:
    # One nucleus of 4 px found with 3 of them (IoU 3/4), one of 2 px missed, and 1 px invented.
    save(tmp_path / "truth/x.npy", np.array([[7, 7, 7, 7, 0, 0, 9, 9, 0, 0]]))
    save(tmp_path / "pred/x.tif", np.array([[5, 5, 5, 0, 0, 0, 0, 0, 0, 8]], np.uint32))
    (image,) = scored(cli, tmp_path / "truth", tmp_path / "pred")["images"]
    assert (image["name"], image["truth"], image["pred"]) == ("x", 2, 2)
    assert (image["tp"], image["fp"], image["fn"]) == (1, 1, 1)
    assert image["aji"] == image["aji_plus"] == pytest.approx(3 / (4 + 2 + 1))
    assert (image["dq"], image["sq"], image["pq"]) == (0.5, 0.75, 0.375)
    assert (image["f1_50"], image["f1_70"], image["f1_90"]) == (0.5, 0.5, 0)
    assert image["dice"] == pytest.approx(2 * 3 / (6 + 4))


def test_mean_and_pooled_are_those_of_the_metrics(cli: Cli, folders: tuple[Path, Path]) -> None:
    found = scored(cli, *folders)
    pairs = [[np.asarray(Image.open(folder / f"{name}.png")) for folder in folders] for name in "abc"]
    tables = [metrics.overlap(*pair) for pair in pairs]
    pooled = metrics.pool([metrics.instance_scores(table) for table in tables]).figures
    assert {name: found["pooled"][name] for name in pooled} == pytest.approx(pooled, rel=1e-12)
    outline = metrics.pool([metrics.boundary_f1(*pair) for pair in pairs])
    assert found["pooled"]["boundary_f1"] == pytest.approx(outline.f1, rel=1e-12)
    objects = metrics.pool([metrics.object_dice(table) for table in tables])
    assert found["pooled"]["object_dice"] == pytest.approx(objects.value, rel=1e-12)
    assert found["pooled"]["truth"] == sum(table.truth_ids.size for table in tables)
    for name, value in found["mean"].items():
        known = [image[name] for image in found["images"] if image[name] is not None]
        assert value == (pytest.approx(np.mean(known), rel=1e-12) if known else None)
    for kind in ("mean", "pooled"):
        for name, interval in found["intervals"][kind].items():
            if found[kind][name] is None:
                assert interval is None
            else:
                assert interval[0] <= found[kind][name] <= interval[1]
    assert "hd95_px" not in found["pooled"]


def test_empty_images_are_null_left_out_and_counted(cli: Cli, tmp_path: Path) -> None:
    empty, full = np.zeros((4, 4), np.uint16), np.ones((4, 4), np.uint16)
    for name, truth, pred in (("both", empty, empty), ("pred", full, empty), ("none", full, full)):
        save(tmp_path / f"truth/{name}.png", truth)
        save(tmp_path / f"pred/{name}.png", pred)
    found = scored(cli, tmp_path / "truth", tmp_path / "pred")
    image = {image["name"]: image for image in found["images"]}
    assert image["both"]["aji"] is None
    assert image["both"]["pq"] is None
    assert (image["pred"]["aji"], image["pred"]["pq"], image["pred"]["hd95_px"]) == (0, 0, None)
    assert found["mean"]["aji"] == 0.5
    assert found["left_out"]["aji"] == 1
    assert found["left_out"]["hd95_px"] == 2


def test_nothing_to_score_anywhere_is_null_and_no_fault(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/a.png", np.zeros((4, 4), np.uint16))
    found = scored(cli, tmp_path / "truth", tmp_path / "truth")
    assert found["mean"]["pq"] is found["pooled"]["pq"] is found["intervals"]["pooled"]["pq"] is None


def test_figures_are_the_same_for_any_number_of_threads(cli: Cli, folders: tuple[Path, Path]) -> None:
    assert scored(cli, *folders, "--workers", 1) == scored(cli, *folders, "--workers", 3)


def test_classes_of_nuclei_are_scored_by_majority(cli: Cli, tmp_path: Path) -> None:
    instance = np.array([[1, 1, 1, 0, 2, 2, 0, 3, 3]], np.uint16)
    for side, classes in (("truth", [1, 1, 2, 0, 2, 2, 0, 1, 1]), ("pred", [1, 1, 1, 0, 1, 1, 0, 0, 0])):
        save(tmp_path / side / "instances/x.png", instance)
        save(tmp_path / side / "classes/x.png", np.array([classes], np.uint8))
    found = scored(cli, tmp_path / "truth", tmp_path / "pred", "--classes")
    (image,) = found["images"]
    # Class 1: nucleus 1 found, 2 invented, 3 missed (its prediction has no class); class 2: nucleus 2 missed.
    assert (image["pq_1"], image["pq_2"], image["mpq"], image["bpq"]) == (0.5, 0, 0.25, 1)
    assert image["without_class"] == 1
    assert found["classes"] == {"1": "class 1", "2": "class 2"}


def test_a_class_that_one_image_lacks_is_null_there(cli: Cli, tmp_path: Path) -> None:
    for name, label in (("a", 1), ("b", 2)):
        save(tmp_path / f"truth/instances/{name}.png", np.array([[0, 1]], np.uint16))
        save(tmp_path / f"truth/classes/{name}.png", np.array([[0, label]], np.uint8))
    found = scored(cli, tmp_path / "truth", tmp_path / "truth", "--classes")
    assert [image["pq_1"] for image in found["images"]] == [1, None]
    assert [image["mpq"] for image in found["images"]] == [1, 1]
    assert found["left_out"]["pq_2"] == 1


def test_class_maps_by_hand_without_the_ignored_pixels(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/x.png", np.array([[0, 0, 0, 4, 4, 255]], np.uint8))
    save(tmp_path / "pred/x.tif", np.array([[0, 0, 4, 4, 4, 9]], np.int32))
    found = scored(cli, tmp_path / "truth", tmp_path / "pred", "--semantic")
    (image,) = found["images"]
    assert (image["iou_0"], image["iou_4"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert image["mean_iou"] == pytest.approx(2 / 3)
    assert image["dice"] == pytest.approx(0.8)
    assert image["wrecall"] == pytest.approx(4 / 5)
    assert (image["pixels"], image["ignored_pixels"]) == (5, 1)
    assert "iou_9" not in image


def test_class_maps_pool_by_pixels(cli: Cli, tmp_path: Path) -> None:
    truth, pred = np.random.default_rng(0).integers(0, 4, (2, 3, 8, 8)).astype(np.uint8)
    truth[0, truth[0] == 3] = 0  # the first image has no class 3
    for number in range(3):
        save(tmp_path / f"truth/{number}.png", truth[number])
        save(tmp_path / f"pred/{number}.png", pred[number])
    found = scored(cli, tmp_path / "truth", tmp_path / "pred", "--semantic")
    matrix = metrics.confusion(truth, pred, 4)
    expected = {name: metric(matrix) for name, metric in metrics.SEMANTIC.items()}
    assert {name: found["pooled"][name] for name in expected} == pytest.approx(expected)


def test_data_sets_pair_by_sample_id_and_group(cli: Cli, dataset_factory: Callable[..., Dataset]) -> None:
    truth = dataset_factory("a", scheme="ihc", n=6, groups=2)
    found = scored(cli, truth.root, truth.root, "--classes")
    assert sorted(image["name"] for image in found["images"]) == sorted(truth.table["sample_id"].to_pylist())
    assert (found["mean"]["mpq"], found["pooled"]["pq_2"]) == (1, 1)
    assert found["classes"] == {"1": "negative cell", "2": "positive cell"}
    assert found["settings"]["groups"] == 2


def test_a_folder_of_png_scores_against_a_data_set(
    cli: Cli, dataset_factory: Callable[..., Dataset], tmp_path: Path
) -> None:
    truth = dataset_factory("a", n=3)
    for sample in truth:
        save(tmp_path / f"pred/{sample.row['sample_id']}.png", sample.tile.instance.astype(np.uint16))
    assert scored(cli, truth.root, tmp_path / "pred")["mean"]["pq"] == 1


def test_data_sets_score_in_the_scheme_they_share(cli: Cli, dataset_factory: Callable[..., Dataset]) -> None:
    # The same cells in both, but in one of them with classes of their own: as nuclei they agree.
    truth, pred = dataset_factory("a", scheme="ihc", n=2), dataset_factory("b", scheme="nuclei", n=2)
    found = scored(cli, truth.root, pred.root, "--semantic")
    assert found["classes"] == {"0": "background", "1": "nucleus"}
    assert found["mean"]["mean_iou"] == 1


def test_groups_by_pattern_are_drawn_together(cli: Cli, tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        save(tmp_path / f"truth/{name}.png", nuclei(1))
    found = scored(cli, tmp_path / "truth", tmp_path / "truth", "--group-pattern", "^(p.)_")
    assert found["settings"]["groups"] == 2
    refused(cli, tmp_path / "truth", tmp_path / "truth", "fits every name, got none in p1_a", "--group-pattern", "(q)")
    refused(cli, tmp_path / "truth", tmp_path / "truth", "one group in parentheses", "--group-pattern", "p")
    refused(cli, tmp_path / "truth", tmp_path / "truth", "regular expression", "--group-pattern", "(")


def test_a_long_set_shows_its_worst_images_and_all_on_request(cli: Cli, tmp_path: Path) -> None:
    for number in range(21):
        save(tmp_path / f"truth/image{number:02}.png", nuclei(1))
        save(tmp_path / f"pred/image{number:02}.png", nuclei(1 if number != 20 else 2))
    shown = cli("segment", "score", "--truth", "truth", "--pred", "pred").out
    rows = re.findall(r"image\d\d", shown)
    assert (len(rows), rows[0]) == (20, "image20")
    assert (
        len(re.findall(r"image\d\d", cli("segment", "score", "--truth", "truth", "--pred", "pred", "--all").out)) == 21
    )


def test_instance_masks_of_one_object_each_get_a_note(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"truth/{name}.png", np.eye(5, dtype=np.uint8))
    assert "--semantic" in cli("segment", "score", "--truth", "truth", "--pred", "truth").out


def test_score_needs_no_torch(folders: tuple[Path, Path]) -> None:
    code = (
        "import sys, segment.cli\n"
        "try:\n    segment.cli.main()\n"
        "except SystemExit as stopped:\n    assert not stopped.code\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "score", "--truth", str(folders[0]), "--pred", str(folders[1])]
    subprocess.run(command, check=True, capture_output=True)


def test_unmatched_names_are_refused_counted_and_left_out_on_request(cli: Cli, folders: tuple[Path, Path]) -> None:
    truth, pred = folders
    (pred / "a.png").rename(pred / "a_pred.png")
    refused(cli, truth, pred, r"1 of 3 in .*truth without one in .*pred \(a\) and 1 of 3 in .*\(a_pred\)\. .*--ignore")
    found = scored(cli, truth, pred, "--ignore-unpaired")
    assert [image["name"] for image in found["images"]] == ["b", "c"]
    assert found["settings"]["unpaired"] == ["a", "a_pred"]


def test_folders_without_a_shared_name_are_refused_whatever_is_ignored(cli: Cli, folders: tuple[Path, Path]) -> None:
    truth, pred = folders
    for path in list(pred.iterdir()):
        path.rename(pred / f"{path.stem}_pred.png")
    refused(cli, truth, pred, "3 of 3 .*Rename them", "--ignore-unpaired")


BAD_INSTANCES: dict[str, tuple[str, np.ndarray, str]] = {
    "float": ("a.npy", np.full((40, 60), 0.5, np.float32), "expected whole numbers as labels, got 0.5"),
    "float_tiff": ("a.tif", np.full((40, 60), 0.5, np.float32), "expected whole numbers as labels, got 0.5"),
    "rgb": ("a.png", np.ones((40, 60, 3), np.uint8), "one channel, got RGB"),
    "rgba_array": ("a.npy", np.ones((40, 60, 4), np.uint8), "one channel, got RGBA"),
    "negative": ("a.npy", np.full((40, 60), -1, np.int16), r"ids from 0 to 2147483647, got -1\.\.-1"),
    "too_large": ("a.tif", np.full((40, 60), 2**31, np.uint32), "ids from 0 to 2147483647, got 2147483648"),
    "cut_off": ("a.png", np.tile(np.arange(256, dtype=np.uint8), 10)[:2400].reshape(40, 60), "16 bits"),
    "binary": ("a.png", np.full((40, 60), 255, np.uint8), "binary mask.*--semantic"),
    "objects": ("a.npy", np.full((40, 60), None), "dtype object"),
    "other_size": ("a.png", np.ones((60, 40), np.uint8), r"a: .*truth 40x60 and prediction 60x40 \(1 of 3 images\)"),
    "stack": ("a.npy", np.ones((2, 40, 60, 1), np.uint8), "expected an array"),
}


@pytest.mark.parametrize("kind", BAD_INSTANCES)
def test_bad_instance_maps_are_refused_in_one_line_that_names_them(
    cli: Cli, folders: tuple[Path, Path], kind: str
) -> None:
    truth, pred = folders
    (pred / "a.png").unlink()
    name, array, said = BAD_INSTANCES[kind]
    save(pred / name, array)
    refused(cli, truth, pred, said, "--json", "scores.json")
    assert not Path("scores.json").exists()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.95])
def test_damaged_files_are_refused(cli: Cli, folders: tuple[Path, Path], name: str, kept: float) -> None:
    truth, pred = folders
    (pred / "a.png").unlink()
    save(pred / name, np.random.default_rng(0).integers(0, 999, (40, 60)).astype(np.uint16))
    whole = (pred / name).read_bytes()
    (pred / name).write_bytes(whole[: int(kept * len(whole))])
    refused(cli, truth, pred, rf"pred/{name}: ")


def test_a_pickle_that_calls_itself_an_array_runs_nothing(cli: Cli, folders: tuple[Path, Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    truth, pred = folders
    (pred / "a.png").unlink()
    np.save(pred / "a.npy", np.array([Evil()]), allow_pickle=True)
    (tmp_path / "executed").unlink(missing_ok=True)
    refused(cli, truth, pred, "dtype object")
    assert not (tmp_path / "executed").exists()


def test_huge_images_are_refused_from_their_header(cli: Cli, tmp_path: Path) -> None:
    shape = (2**16, 2**16)
    path = tmp_path / "truth/a.npy"
    path.parent.mkdir()
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    refused(cli, path.parent, path.parent, "at most 67,108,864 pixels, got 65536x65536")


def test_lossy_files_are_refused(cli: Cli, folders: tuple[Path, Path]) -> None:
    truth, pred = folders
    (pred / "a.png").unlink()
    Image.fromarray(np.ones((40, 60), np.uint8)).save(pred / "a.jpg")
    refused(cli, truth, pred, r"a\.jpg: expected .* got JPEG, which changes labels")
    (pred / "a.jpg").unlink()
    tifffile.imwrite(pred / "a.tif", np.ones((48, 64), np.uint8), compression="jpeg")
    refused(cli, truth, pred, "without loss, got JPEG")


def test_a_picture_beside_its_label_map_is_passed_over(cli: Cli, folders: tuple[Path, Path]) -> None:
    Image.fromarray(np.ones((40, 60, 3), np.uint8)).save(folders[0] / "a.jpg")
    assert len(scored(cli, *folders)["images"]) == 3


def test_two_files_of_one_stem_are_refused(cli: Cli, folders: tuple[Path, Path]) -> None:
    save(folders[1] / "a.npy", nuclei(0))
    refused(cli, *folders, r"one label map for a, got a\.npy and a\.png")


def test_folders_that_are_none_or_hold_nothing_are_refused(
    cli: Cli, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    truth, _ = folders
    refused(cli, truth, tmp_path / "nowhere", "nowhere: expected a folder of label maps, got none")
    refused(cli, truth, truth / "a.png", "got a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").touch()
    refused(cli, truth, tmp_path / "empty", r"got 1 other file \(readme\.txt\)")


def test_class_maps_that_say_nothing_of_a_pixel_are_refused(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/a.png", np.array([[0, 1, 255]], np.uint8))
    save(tmp_path / "pred/a.png", np.array([[0, 255, 255]], np.uint8))
    refused(cli, tmp_path / "truth", tmp_path / "pred", r"a: .* got 255 \(ignore\) at 1\.", "--semantic")


def test_binary_truth_of_0_and_255_is_refused_as_classes(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/a.png", np.array([[0, 255, 255]], np.uint8))
    save(tmp_path / "pred/a.png", np.array([[0, 1, 1]], np.uint8))
    refused(cli, tmp_path / "truth", tmp_path / "pred", "only 0 and 255", "--semantic")


def test_instance_maps_are_refused_as_classes(cli: Cli, folders: tuple[Path, Path]) -> None:
    refused(cli, *folders, r"class labels from 0 to 254 .* without --semantic", "--semantic")


def test_classes_without_class_maps_are_refused(
    cli: Cli, folders: tuple[Path, Path], dataset_factory: Callable[..., Dataset]
) -> None:
    truth, pred = folders
    refused(cli, truth, pred, "expected a folder classes", "--classes")
    save(truth / "classes/a.png", np.zeros((40, 60), np.uint8))
    refused(cli, truth, pred, r"got no b \(2 names", "--classes")
    regions = dataset_factory("regions", scheme="pdl1", n=2).root
    refused(cli, regions, regions, "classes of nuclei, such as ihc, got pdl1", "--classes")


def test_class_map_of_another_size_than_its_instance_map_is_refused(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "truth/instances/a.png", nuclei(0))
    save(tmp_path / "truth/classes/a.png", np.zeros((4, 4), np.uint8))
    refused(cli, tmp_path / "truth", tmp_path / "truth", "expected the size of .*40x60, got 4x4", "--classes")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--classes", "--semantic"), "--classes: expected without --semantic"),
        (("--workers", 0), "--workers: expected 1 or more, got 0"),
        (("--seed", -1), "--seed: expected 0 or more"),
        (("--json", "no/such/folder.json"), "--json: expected a file in an existing folder"),
        (("--json", "truth"), "--json: expected a file in an existing folder"),
    ],
)
def test_bad_options_are_refused(cli: Cli, folders: tuple[Path, Path], options: tuple[object, ...], said: str) -> None:
    refused(cli, *folders, said, *options)
