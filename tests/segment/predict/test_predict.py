"""`segment predict`: images, data sets and slides in, files or a data set out, and one line for every mistake."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

from factory.core.checkpoints import BEST
from manifests import Dataset, UserError, get_scheme, open_dataset, verify
from segment.data.stains import estimate_stains, median_stains, restain
from segment.network.head import head_for
from segment.network.instances import InstanceConfig, read_tile
from segment.network.networks import NetworkConfig, build
from segment.network.weights import Weights, load_weights, write_weights
from segment.predict import jobs as planning
from segment.predict.inputs import find_images
from tests.conftest import Outcome, assert_refused
from tests.ingest_files import save, slide, tree_sha256

pytestmark = pytest.mark.usefixtures("one_thread", "small_network")

MPP = 0.5


@pytest.fixture(autouse=True)
def _keep_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.console.keep_freed_memory", lambda: True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of random weights in run folders, one per scheme; they find objects, if not nuclei."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("nuclei", "ihc", "pdl1"):
        scheme = get_scheme(name)
        torch.manual_seed(5)
        config, head = NetworkConfig(), head_for(scheme)
        instances = InstanceConfig(foreground=len(scheme.ids("nucleus")) / len(scheme) or 0.5, h=0.01, smooth_um=1)
        card = {"scheme": scheme.to_dict(), "head": asdict(head), "instances": instances.model_dump(), "mpp": [MPP]}
        network = build(config, head.channels)
        (folder / name).mkdir()
        write_weights(folder / name / BEST, network.state_dict(), card | {"network": config.resolved().model_dump()})
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images of blobs of several sizes and formats."""
    for seed, (name, size) in enumerate({"a.png": (64, 96), "b.tif": (70, 50), "c.png": (33, 40)}.items()):
        save(tmp_path / "images" / name, blobs(seed, size))
    return tmp_path / "images"


def blobs(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def expected(runs: Path, scheme: str, image: np.ndarray) -> Any:
    """The labels by the plain way: the whole image at once."""
    weights = load_weights(runs / scheme, "cpu")
    maps = weights.predict(image)
    return read_tile(maps, weights.scheme, MPP, weights.instances)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) if path.suffix == ".png" else tifffile.imread(path)


Cli = Callable[..., Outcome]


@pytest.fixture
def predict(cli: Cli, runs: Path) -> Callable[..., Outcome]:
    def call(*words: object, scheme: str = "nuclei") -> Outcome:
        return cli("segment", "predict", "--weights", runs / scheme, "--device", "cpu", *words)

    return call


def test_folder_of_images_becomes_instance_maps_of_16_bits(predict: Cli, runs: Path, images: Path) -> None:
    outcome = predict(images, "--out", "out", "--preview")
    assert outcome.code == 0, outcome.err
    assert "3 images, 3 windows, scheme nuclei" in outcome.out
    assert "3 images without a resolution: taken to be the weights' 0.5 um per pixel" in outcome.out
    for file in sorted(images.iterdir()):
        found = read(Path("out") / f"{file.stem}.png")
        tile = expected(runs, "nuclei", read(file))
        assert found.dtype == np.uint16
        assert tile.instance.max() > 0
        np.testing.assert_array_equal(found, tile.instance)
        record = json.loads(Path(f"out/records/{file.stem}.json").read_text())
        assert record["objects"] == tile.instance.max()
        assert record["files"] == [f"{file.stem}.png", f"preview/{file.stem}.png"]
        assert read(Path("out/preview") / f"{file.stem}.png").shape == read(file).shape
    mark = json.loads(Image.open("out/a.png").text["segment"])  # type: ignore[attr-defined]
    assert (mark["use"], len(mark["weights"]["sha256"])) == ("not for diagnosis", 64)


def test_kinds_of_nuclei_come_as_a_map_of_their_own(predict: Cli, runs: Path, images: Path) -> None:
    assert predict(images / "a.png", "--out", "out", "--format", "tiff", scheme="ihc").code == 0
    tile = expected(runs, "ihc", read(images / "a.png"))
    ids, classes = read(Path("out/a.tif")), read(Path("out/classes/a.tif"))
    assert (ids.dtype, classes.dtype) == (np.uint32, np.uint8)
    np.testing.assert_array_equal(ids, tile.instance)
    np.testing.assert_array_equal(classes, tile.semantic)


def test_weights_without_nuclei_give_class_maps_of_8_bits(predict: Cli, runs: Path, images: Path) -> None:
    assert predict(images / "a.png", images / "c.png", "--out", "out", scheme="pdl1").code == 0
    found = read(Path("out/a.png"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected(runs, "pdl1", read(images / "a.png")).semantic)


def test_windows_change_the_result_little(predict: Cli, tmp_path: Path) -> None:
    save(tmp_path / "a.png", blobs(3, (160, 256)))
    assert predict("a.png", "--out", "whole", scheme="pdl1").code == 0
    outcome = predict("a.png", "--out", "tiled", "--tile", "128", "--overlap", "64", scheme="pdl1")
    assert "1 image, 6 windows" in outcome.out
    whole, tiled = read(Path("whole/a.png")), read(Path("tiled/a.png"))
    assert whole.shape == tiled.shape
    assert np.mean(whole == tiled) > 0.5  # random weights see as far as they can; see test_predict_stitching for exact


def test_image_of_another_resolution_is_resampled_and_its_ids_brought_back(predict: Cli, images: Path) -> None:
    outcome = predict(images / "a.png", "--out", "out", "--mpp", "0.25")
    assert "1 image at 0.25 um per pixel: resampled from level 0 to 0.5 for the network" in outcome.out
    found = read(Path("out/a.png"))
    assert found.shape == (64, 96)
    np.testing.assert_array_equal(found[::2, ::2], found[1::2, 1::2])
    ids = np.unique(found)
    np.testing.assert_array_equal(ids, np.arange(ids.size))


def test_second_call_skips_what_is_done_and_adds_what_is_new(predict: Cli, images: Path) -> None:
    assert predict(images / "a.png", images / "b.tif", "--out", "out").code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    outcome = predict(images, "--out", "out")
    assert "2 images done, 1 to go" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    Path("out/a.png").unlink()
    assert "2 images done, 1 to go" in predict(images, "--out", "out").out
    assert predict(images, "--out", "out", "--preview").code == 0
    assert Path("out/preview/b.png").is_file()


def test_interrupted_run_leaves_whole_files_and_goes_on(
    predict: Cli, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(images, "--out", "unbroken").code == 0
    plain, calls = Weights.predict, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(Weights, "predict", interrupted)
    assert predict(images, "--out", "out").code == 130
    assert sorted(path.name for path in Path("out").rglob("*") if path.is_file()) == ["a.json", "a.png", "run.yaml"]
    assert predict(images, "--out", "out").code == 0
    assert len(calls) == 4
    assert tree_sha256(Path("out")) == tree_sha256(Path("unbroken"))


def test_other_settings_are_refused_and_overwrite_starts_anew(predict: Cli, images: Path) -> None:
    assert predict(images, "--out", "out").code == 0
    before = tree_sha256(Path("out"))
    for words, said in (
        (
            ("--tile", "64", "--overlap", "32"),
            r"out: expected the settings that it was made with, got others \(overlap",
        ),
        (("--format", "tiff"), r"\(format: png, geojson of slides there, tiff asked\)"),
        (("--tta", "flips"), r"\(inference: None there, {'test_time_augmentation': 'flips'} asked\)"),
    ):
        assert_refused(predict(images, "--out", "out", *words), said)
    assert_refused(predict(images, "--out", "out", scheme="ihc"), r"--overwrite to start anew")
    assert tree_sha256(Path("out")) == before
    Path("out/mine.txt").write_text("keep")
    assert predict(images / "a.png", "--out", "out", "--format", "tiff", "--overwrite").code == 0
    assert sorted(path.name for path in Path("out").rglob("*") if path.is_file()) == [
        "a.json", "a.tif", "mine.txt", "run.yaml",
    ]  # fmt: skip


def test_augmentation_at_test_time_is_that_of_the_weights_unless_asked_otherwise(
    predict: Cli, runs: Path, images: Path, tmp_path: Path
) -> None:
    weights = load_weights(runs / "nuclei", "cpu")
    card = weights.card | {"inference": {"test_time_augmentation": "flips"}}
    (tmp_path / "flipping").mkdir()
    write_weights(tmp_path / "flipping" / BEST, weights.network.state_dict(), card)
    for out, words in {"own": (), "asked": ("--tta", "flips"), "none": ("--tta", "none")}.items():
        assert predict(images / "a.png", "--out", out, "--weights", tmp_path / "flipping", *words).code == 0
    assert predict(images / "a.png", "--out", "plain").code == 0
    found = {out: read(Path(out) / "a.png") for out in ("own", "asked", "none", "plain")}
    np.testing.assert_array_equal(found["own"], found["asked"])
    np.testing.assert_array_equal(found["none"], found["plain"])
    assert (found["own"] != found["plain"]).any()


def test_images_are_brought_to_the_stain_reference_whole_not_window_by_window(
    predict: Cli, runs: Path, tmp_path: Path
) -> None:
    save(tmp_path / "reference.png", blobs(7, (64, 64)))
    image = np.concatenate([blobs(1, (64, 96)) // 2, blobs(2, (64, 96))], axis=1)
    save(tmp_path / "a.png", image)
    own, reference = estimate_stains([image]), estimate_stains([blobs(7, (64, 64))])
    assert own is not None
    assert reference is not None
    save(tmp_path / "restained/a.png", restain(image, own, median_stains([reference])))
    windows = ("--tile", "64", "--overlap", "32", "--format", "png")
    outcome = predict("a.png", "--out", "out", "--stain-reference", "reference.png")
    assert outcome.code == 0, outcome.err
    assert predict("restained/a.png", "--out", "expected").code == 0
    np.testing.assert_array_equal(read(Path("out/a.png")), read(Path("expected/a.png")))
    assert yaml.safe_load(Path("out/run.yaml").read_text())["inference"]["stain_reference"]["strength"]
    assert predict("a.png", "--out", "windows", "--stain-reference", "reference.png", *windows).code == 0
    assert predict("restained/a.png", "--out", "expected-windows", *windows).code == 0
    np.testing.assert_array_equal(read(Path("windows/a.png")), read(Path("expected-windows/a.png")))


def test_image_with_too_little_tissue_for_a_stain_reference_keeps_its_stains(predict: Cli, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", blobs(1, (64, 96)))
    save(tmp_path / "in/glass.png", np.full((64, 64, 3), 240, np.uint8))
    outcome = predict("in", "--out", "out", "--stain-reference", "in/a.png")
    assert outcome.code == 0, outcome.err
    assert "note: in/glass.png: too little tissue to tell the stains" in outcome.out
    assert predict("in/glass.png", "--out", "plain").code == 0
    np.testing.assert_array_equal(read(Path("out/glass.png")), read(Path("plain/glass.png")))
    assert_refused(
        predict("in/a.png", "--out", "out", "--stain-reference", "in/a.png", scheme="ihc"),
        "--stain-reference: expected a scheme of H&E, got ihc",
    )


def test_another_image_of_the_same_name_is_not_taken_for_done(predict: Cli, images: Path, tmp_path: Path) -> None:
    assert predict(images / "a.png", "--out", "out").code == 0
    save(tmp_path / "other/a.png", blobs(9, (64, 96)))
    assert_refused(predict(tmp_path / "other", "--out", "out"), r"other/a\.png: expected the image that .* was made of")


def test_data_set_gives_a_data_set_with_the_predicted_labels(
    predict: Cli, runs: Path, dataset_factory: Callable[..., Dataset]
) -> None:
    truth = dataset_factory("truth", scheme="ihc", n=5)
    assert predict("truth", "--out", "out", "--format", "dataset").code == 0
    found = open_dataset("out")
    assert verify("out") == []
    assert found.info.label_schemes == (get_scheme("nuclei"),)
    for own, sample in zip(truth, found, strict=True):
        np.testing.assert_array_equal(sample.image, own.image)
        np.testing.assert_array_equal(sample.tile.instance, expected(runs, "nuclei", own.image).instance)
        for name in ("sample_id", "split", "group_id", "source", "mpp", "licence"):
            assert sample.row[name] == own.row[name]
        assert (sample.row["label_origin"], sample.row["label_scheme"]) == ("predicted", "nuclei")
    before = tree_sha256(Path("out"))
    assert (
        "needs about 0 bytes for out and about 1 s."
        in predict("truth", "--out", "out", "--format", "dataset", "--dry-run").out
    )
    assert predict("truth", "--out", "out", "--format", "dataset").code == 0
    assert tree_sha256(Path("out")) == before
    for more in ((), ("--dry-run",)):  # which checks the folder as the run does
        other = predict("truth", "--out", "out", "--format", "dataset", "--mpp", "1", *more)
        assert_refused(other, "expected the configuration")


def test_images_of_several_sizes_give_a_data_set_padded_as_ingest_pads(predict: Cli, images: Path) -> None:
    assert predict(images, "--out", "out", "--format", "dataset").code == 0
    assert verify("out") == []
    found = open_dataset("out")
    sample = found[1]
    assert [row["source_uri"] for row in found.table.to_pylist()] == ["a.png", "b.tif", "c.png"]
    assert found.info.real_pixels
    assert sample.row["real_pixels"]
    assert sample.image.shape == (70, 96, 3)
    np.testing.assert_array_equal(sample.image[:, :50], read(images / "b.tif"))
    assert (sample.tile.semantic[:, 50:] == 255).all()
    assert not sample.tile.instance[:, 50:].any()


def test_tiles_of_a_data_set_become_files_by_sample_id(predict: Cli, dataset_factory: Callable[..., Dataset]) -> None:
    dataset_factory("truth", n=2)
    assert predict("truth", "--out", "out").code == 0
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["real-0-0.png", "real-0-1.png"]


def test_slide_gives_geojson_and_png_on_request(predict: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = blobs(1, (200, 260))
    slide(tmp_path / "one.svs", image, mpp=MPP)
    save(tmp_path / "flat.png", image)
    assert predict("one.svs", "flat.png", "--out", "out").code == 0
    features = json.loads(Path("out/one.geojson").read_text())["features"]
    assert len(features) == read(Path("out/flat.png")).max() > 0
    assert predict("one.svs", "--out", "png", "--format", "png").code == 0
    np.testing.assert_array_equal(read(Path("png/one.png")), read(Path("out/flat.png")))
    monkeypatch.setattr(planning, "MAX_IMAGE_PX", 50_000)
    for words, said in (
        (
            ("--format", "png"),
            r"one\.svs: expected at most 50,000 pixels for --format png, got 52,000\. Use --format geo",
        ),
        (("--preview",), r"for --preview, got 52,000\. Leave it out"),
        (("--format", "dataset"), "--format"),
    ):
        assert_refused(predict("one.svs", "--out", "other", *words), said)
    assert not Path("other").exists()


def test_empty_glass_of_a_slide_is_not_put_through_the_network(
    predict: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.full((64, 320, 3), 240, np.uint8)
    image[:, :96] = blobs(1, (64, 96))
    slide(tmp_path / "one.svs", image, mpp=MPP)
    save(tmp_path / "flat.png", image)
    plain, calls = Weights.predict, []
    monkeypatch.setattr(Weights, "predict", lambda *arguments: calls.append(1) or plain(*arguments))
    windows = ("--tile", "64", "--overlap", "32", "--format", "png")
    assert predict("one.svs", "--out", "out", *windows).code == 0
    assert len(calls) == 3  # those that start at 0, 32 and 64 of nine
    assert not read(Path("out/one.png"))[:, 128:].any()
    assert predict("flat.png", "--out", "flat", *windows).code == 0
    assert len(calls) == 3 + 9
    np.testing.assert_array_equal(read(Path("out/one.png"))[:, :64] > 0, read(Path("flat/flat.png"))[:, :64] > 0)


def test_coarse_level_of_a_slide_is_read_where_it_fits(predict: Cli, tmp_path: Path) -> None:
    image = blobs(1, (128, 256))
    slide(tmp_path / "one.svs", image, mpp=0.25)
    outcome = predict("one.svs", "--out", "out")
    assert "1 image at 0.25 um per pixel: read from level 1 to 0.5 for the network" in outcome.out
    points = [
        p for f in json.loads(Path("out/one.geojson").read_text())["features"] for p in f["geometry"]["coordinates"][0]
    ]
    assert np.max(points, axis=0)[0] > 200  # in pixels of level 0
    assert np.max(points, axis=0)[1] <= 128


def test_more_nuclei_than_16_bits_hold_are_refused(predict: Cli, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segment.predict.rasters._MAX_PNG_ID", 0)
    assert_refused(predict(images / "a.png", "--out", "out"), r"a\.png: expected at most 0 nuclei for a 16-bit PNG")
    assert not list(Path("out").glob("*.png"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tile", "500"), r"--tile: expected a multiple of 32, got 500\. Use 512\."),
        (("--tile", "0"), r"--tile: expected a multiple of 32, got 0\. Use 32\."),
        (("--overlap", "33"), r"--overlap: expected a multiple of 32, got 33\. Use 64\."),
        (
            ("--tile", "128", "--overlap", "96"),
            r"--overlap: expected at most half of the tile, 128 pixels, got 96\. Use 64",
        ),
        (("--format", "gif"), "--format: expected one of png, tiff, geojson, dataset, got 'gif'"),
        (("--precision", "fp8"), "--precision: expected one of fp32, bf16, auto, got 'fp8'"),
        (("--mpp", "0"), "--mpp: expected micrometres per pixel"),
        (("--mpp", "4"), r"a\.png: expected at most 2 um per pixel for weights that were trained at 0\.5, got 4"),
        (("--format", "dataset", "--preview"), "--preview: expected without --format dataset"),
        (("--device", "cuda:77"), "--device: expected"),
    ],
)
def test_options_that_do_not_fit_are_refused(predict: Cli, images: Path, words: tuple[str, ...], said: str) -> None:
    assert_refused(predict(images / "a.png", "--out", "out", *words), said)
    assert not Path("out").exists()


def test_images_that_are_none_are_refused(predict: Cli, tmp_path: Path) -> None:
    rgb = blobs(0, (40, 40))
    save(tmp_path / "alpha.png", np.dstack([rgb, rgb[..., :1]]))
    save(tmp_path / "grey.png", rgb[..., 0])
    save(tmp_path / "deep.tif", rgb.astype(np.uint16))
    save(tmp_path / "float.tif", rgb.astype(np.float32))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "alpha.png": "expected an opaque image, got RGBA .*Flatten it",
        "grey.png": "expected an 8-bit RGB image, got grey .*Export it in colour",
        "deep.tif": "expected an 8-bit RGB image, got uint16",
        "float.tif": "expected an 8-bit RGB image, got float32",
        "text.png": "expected a readable PNG",
        "notes.txt": r"expected a file of \.png, .*got \.txt",
        "bad.svs": "expected a slide that OpenSlide reads",
        "empty": "expected images in the folder",
        "missing.png": "expected an image, a folder, a data set or a slide, got no such file",
    }.items():
        assert_refused(predict(name, "--out", "out"), f"{name}: {said}")
    assert not Path("out").exists()


def test_two_images_of_one_name_are_refused(predict: Cli, images: Path) -> None:
    shutil.copytree(images, images.parent / "again")
    assert_refused(
        predict(images, "again", "--out", "out"), r"again/a\.png: expected names of their own, got 'a' as of"
    )


def test_folder_of_other_things_is_never_written_into(predict: Cli, images: Path) -> None:
    before = tree_sha256(images)
    for more in ((), ("--overwrite",)):
        assert_refused(predict(images, "--out", images, *more), "expected an empty folder or one that segment predict")
    assert tree_sha256(images) == before
    assert_refused(predict(images, "--out", images / "a.png"), "expected a folder, got a file")


def test_weights_that_are_none_are_refused(cli: Cli, images: Path) -> None:
    outcome = cli("segment", "predict", images, "--weights", images / "a.png", "--out", "out", "--device", "cpu")
    assert_refused(outcome, "a.png: expected safetensors")
    assert not Path("out").exists()


def test_damaged_network_is_reported_and_not_written_as_an_empty_map(
    predict: Cli, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Weights.predict

    def broken(*arguments: Any) -> Any:
        maps = plain(*arguments)
        maps.probabilities[:] = np.nan
        return maps

    monkeypatch.setattr(Weights, "predict", broken)
    assert_refused(predict(images / "a.png", "--out", "out"), "expected probabilities, got values that are not finite")
    assert not Path("out/a.png").exists()


def test_folder_says_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "sub/a.bmp")
    with pytest.raises(UserError, match=r"got 1 image in sub-folders \(sub\)"):
        find_images([tmp_path], 0.25)
    Image.new("RGB", (32, 32)).save(tmp_path / "b.bmp")
    (tmp_path / "c.czi").write_bytes(b"")
    (image,) = find_images([tmp_path], 0.25)
    assert image.doubts == (f"{tmp_path}: not read are c.czi, sub/a.bmp",)
