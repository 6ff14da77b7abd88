"""A generator's images to a person and back: shapes to masks, both tools, and all that can be wrong with them."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from factory.annotate import TOOLS
from factory.annotate.folder import RECORD, export, read_record
from factory.annotate.labelme import Labelme
from factory.annotate.qupath import QuPath
from factory.annotate.reading import ImportConfig, prepare
from factory.annotate.shapes import paint
from factory.core.label_files.shapes import Shape, rasterise
from factory.core.shipped import configs_dir
from factory.joint.generators import DrawConfig, drawing_of
from factory.make.pipeline import make
from factory.make.recipes import samples as sampling
from factory.make.recipes.samples import SampleConfig
from factory.make.replay import replay
from factory.plan.rows import load_scheme
from manifests import open_dataset, verify
from manifests.errors import UserError
from manifests.labels import IGNORE
from manifests.table import write_manifest
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.generator_weights import SIZE, write_generator

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMES = configs_dir() / "schemes"
NUCLEI = load_scheme("nuclei")
KIDNEY = load_scheme(str(SCHEMES / "kidney.yaml"))
Points = list[list[float]]
LEFT: Points = [[0, 0], [20, 0], [20, 32], [0, 32]]
MIDDLE: Points = [[10, 8], [30, 8], [30, 24], [10, 24]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of a generator."""
    folder = tmp_path_factory.mktemp("annotate")
    drawing = DrawConfig(weights=str(write_generator(folder / "run")))
    make(sampling.prepare(SampleConfig(drawing=drawing, n=4), folder / "s"), workers=1)
    return folder / "s"


def annotate(folder: Path, name: str, *shapes: tuple[str, Points]) -> None:
    """Annotates as a person does in the folder's tool."""
    if read_record(folder).tool == "labelme":
        path = folder / f"{name}.json"
        document = json.loads(path.read_text())
        document["shapes"] = [{"label": label, "points": p, "shape_type": "polygon"} for label, p in shapes]
        path.write_text(json.dumps(document))
        return
    features = [
        {
            "type": "Feature", "id": "1-2-3", "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": label, "color": [1, 2, 3]}},
        }
        for label, points in shapes
    ]  # fmt: skip
    (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def exported(data: Path, out: Path, tool: str = "qupath") -> list[str]:
    """Names of the exported images, all of them with one shape."""
    export(data, out, tool, KIDNEY)
    names = list(read_record(out).images)
    for name in names:
        annotate(out, name, ("artery", LEFT))
    return names


def crosses(ring: npt.NDArray[np.float64], x: float, y: float) -> bool:
    """Whether a ray to the left of a point cuts a ring an odd number of times."""
    odd = False
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            odd = not odd
    return odd


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-40, 200), st.integers(-40, 200)), min_size=3, max_size=7), st.booleans())
def test_pixels_of_a_polygon_are_those_whose_centres_it_holds(corners: list[tuple[int, int]], hole: bool) -> None:
    ring = np.array(corners) / 8 + 0.03125  # never on a centre, where rules differ
    rings = [ring, np.array([[3.1, 3.1], [3.1, 9.1], [9.1, 9.1]])] if hole else [ring]
    size = (14, 18)
    part, inside = rasterise(rings, size)
    mask = np.zeros(size, bool)
    mask[part] = inside
    expected = [[sum(crosses(r, x + 0.5, y + 0.5) for r in rings) % 2 == 1 for x in range(18)] for y in range(14)]
    differs = mask != np.array(expected)
    assert differs.sum() <= 1 + len(corners)  # where an edge passes a centre within its rounding to 1/256 px


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    corners = [(2.0, 2.0), (12.0, 2.0), (12.0, 12.0), (2.0, 12.0)]
    for cut in ((5.3, 6.7), (7.5, 7.5), (2.0, 2.0)):
        total = np.zeros((14, 14), int)
        for one, other in zip(corners, [*corners[1:], corners[0]], strict=True):
            part, inside = rasterise([np.array([one, other, cut])], (14, 14))
            total[part] += inside
        expected = np.zeros((14, 14), int)
        expected[2:12, 2:12] = 1
        np.testing.assert_array_equal(total, expected)


def test_a_hole_stays_open_and_a_later_shape_counts() -> None:
    outline, hole = np.array(LEFT, float), np.array([[4, 4], [8, 4], [8, 8], [4, 8]], float)
    shapes = [Shape("artery", ((outline, hole),)), Shape("glomerulus", ((np.array(MIDDLE, float),),))]
    painted = paint(shapes, KIDNEY, SIZE)
    expected = np.full(SIZE, IGNORE, np.uint8)
    expected[:, :20] = 4
    expected[4:8, 4:8] = IGNORE
    expected[8:24, 10:30] = 2
    np.testing.assert_array_equal(painted.semantic, expected)
    assert painted.disputed_px == 16 * 10
    assert painted.unlabelled_px == (expected == IGNORE).sum()
    filled = paint(shapes, KIDNEY, SIZE, fill=0).semantic
    np.testing.assert_array_equal(filled, np.where(expected == IGNORE, 0, expected))


@pytest.mark.parametrize("tool", TOOLS)
def test_annotations_come_back_with_image_seed_and_latent(data: Path, tmp_path: Path, tool: str) -> None:
    names = exported(data, tmp_path / "a", tool)
    annotate(tmp_path / "a", names[2], ("artery", LEFT), ("glomerulus", MIDDLE))
    prepared = prepare(tmp_path / "a", data, KIDNEY, tmp_path / "labelled", ImportConfig(split=(0.5, 0.25, 0.25)))
    assert "overlap on 2.60% of the pixels, in 1 image" in prepared.notes[0]  # 160 of 4 x 32 x 48
    assert "become 255, ignore" in prepared.notes[1]
    assert make(prepared, workers=1)[1] == 4
    assert make(prepared, workers=1)[1] == 0
    assert verify(tmp_path / "labelled") == []
    labelled, given = open_dataset(tmp_path / "labelled"), open_dataset(data)
    for one, other in zip(labelled, given, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        for column in ("sample_id", "seed", "latent", "image_weights_sha256", "image_sha256", "mpp"):
            assert one.row[column] == other.row[column]
        assert (one.row["label_origin"], one.row["label_scheme"]) == ("annotated", "kidney")
    expected = np.full(SIZE, IGNORE, np.uint8)
    expected[:, :20] = 4
    np.testing.assert_array_equal(labelled[0].tile.semantic, expected)
    expected[8:24, 10:30] = 2
    np.testing.assert_array_equal(labelled[labelled.find(names[2])].tile.semantic, expected)
    assert sorted(labelled.table["split"].to_pylist()) == ["test", "train", "train", "val"]
    assert drawing_of(labelled.root) == drawing_of(data)
    assert replay(labelled.root, names[0]).holds


def test_an_interrupted_export_leaves_nothing(data: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(data, tmp_path / "q", "qupath", KIDNEY, on_image=interrupt)
    assert list((tmp_path / "q").iterdir()) == []
    assert export(data, tmp_path / "q", "qupath", KIDNEY, diverse=1) == 1  # it is free again


def test_what_is_exported_says_what_it_is(data: Path, tmp_path: Path) -> None:
    assert export(data, tmp_path / "q", "qupath", KIDNEY, diverse=2) == 2
    export(data, tmp_path / "l", "labelme", KIDNEY)
    record = read_record(tmp_path / "q")
    assert list(record.images) == [
        open_dataset(data).row(place)["sample_id"] for place in sampling.choose_diverse(open_dataset(data), 2)
    ]
    for name in record.images:
        with Image.open(tmp_path / "q" / f"{name}.png") as image:
            assert "not for diagnosis" in image.text["Comment"]  # type: ignore[attr-defined]
            row = open_dataset(data)[open_dataset(data).find(name)]
            np.testing.assert_array_equal(np.asarray(image), row.image)
        assert json.loads((tmp_path / "q" / f"{name}.geojson").read_text())["pathology_tiles"]["is_synthetic"]
    swatches = json.loads((tmp_path / "q/classes.geojson").read_text())["features"]
    assert [f["properties"]["classification"] for f in swatches] == [
        {"name": label.name, "color": list(label.colour)} for label in KIDNEY.classes
    ]
    assert (tmp_path / "l/classes.txt").read_text().split() == list(KIDNEY.names)


def test_images_that_are_not_annotated_are_refused_or_left_out(data: Path, tmp_path: Path) -> None:
    names = exported(data, tmp_path / "a")
    annotate(tmp_path / "a", names[0])
    (tmp_path / "a" / f"{names[1]}.geojson").unlink()
    with pytest.raises(UserError, match=f"all 4 images, got none of {names[0]} and 1 more"):
        prepare(tmp_path / "a", data, KIDNEY, tmp_path / "out", ImportConfig())
    prepared = prepare(tmp_path / "a", data, KIDNEY, tmp_path / "out", ImportConfig(fill="whitespace"), partial=True)
    assert "2 images are not annotated and are left out" in prepared.notes
    make(prepared, workers=1)
    found = open_dataset(tmp_path / "out")
    assert set(found.table["sample_id"].to_pylist()) == set(names[2:])
    assert set(np.unique(found[0].tile.semantic)) == {0, 4}


def feature(**changes: Any) -> Callable[[Any], Any]:
    """A change of the first feature of a GeoJSON."""

    def change(document: Any) -> Any:
        document["features"][0] |= changes
        return document

    return change


def labelme(**changes: Any) -> Callable[[Any], Any]:
    return lambda document: document | changes


def drawn_as(kind: str, points: Any, **more: Any) -> Callable[[Any], Any]:
    return labelme(shapes=[{"label": "artery", "points": points, "shape_type": kind, **more}])


def mask_png(mask: npt.NDArray[Any]) -> str:
    """A mask as labelme writes one: a PNG with 1 inside, in base64."""
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def area(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.mark.parametrize(
    ("tool", "change", "said"),
    [
        ("qupath", feature(properties={"classification": {"name": "Artery"}}), "got 'Artery'. Did you mean artery"),
        ("qupath", feature(properties={}), "annotation 1: expected an annotation with a class"),
        (
            "qupath",
            feature(properties={"classification": {"names": ["artery", "wall"]}}),
            "got 'artery: wall'. Did you",
        ),
        ("qupath", feature(geometry={"type": "Point", "coordinates": [1, 2]}), "expected an area, got Point"),
        ("qupath", feature(geometry=None), "expected an area, got no geometry"),
        ("qupath", feature(geometry=area([[0, 0], [1, 1]])), "expected three points or more"),
        ("qupath", feature(geometry=area([[0, 0], [float("nan"), 1], [2, 2]])), "all of them numbers"),
        ("qupath", feature(geometry=area([[0, 0], [96, 0], [96, 64]])), r"got \(96, 0\). Were these drawn on an image"),
        ("qupath", feature(geometry=area(3)), "expected a list of points"),
        ("qupath", feature(geometry={"type": "MultiPolygon", "coordinates": [3]}), "expected lists of rings"),
        ("qupath", lambda document: 3, "expected GeoJSON features, got other JSON"),
        ("qupath", lambda document: "\ud800", "expected GeoJSON features"),
        ("labelme", labelme(imageHeight=64), "expected annotations of an image of 32x48, got 64x48"),
        ("labelme", labelme(imagePath="b.png"), "got those of b.png"),
        ("labelme", labelme(pathology_tiles={"sample_id": "t-9"}), "got those of t-9. Rename"),
        ("labelme", labelme(shapes=None), "expected labelme's JSON with shapes"),
        ("labelme", labelme(shapes=[{"label": "artery"}]), "expected a label and points"),
        ("labelme", labelme(pathology_tiles={"generator": "f" * 64}), "got those for another .ffffffffffff"),
        ("labelme", drawn_as("line", [[0, 0], [1, 1]]), "expected a polygon, rectangle, circle or mask, got a line"),
        ("labelme", drawn_as("circle", [[0, 0], ["a", 1]]), "expected a list of points"),
        ("labelme", drawn_as("circle", [[0, 0], [1, 1], [2, 2]]), "expected a circle of two points, got 3"),
        ("labelme", drawn_as("circle", [[0, 0], [90, 1]]), r"got \(90, 1\). Were these drawn on an image"),
        ("labelme", drawn_as("mask", [[0, 0], [1, 1]]), "expected a mask as PNG in base64, got None"),
        ("labelme", drawn_as("mask", [[0, 0], [1, 1]], mask="AAAA"), "expected a mask as PNG in base64, got AAAA"),
        ("labelme", drawn_as("mask", [[0, 0], [1, 1]], mask=mask_png(np.ones((64, 96)))), "got 64x96. Was it drawn on"),
        ("labelme", drawn_as("polygon", [[0, 0], [1, 1]]), "expected three points or more"),
    ],
)
def test_wrong_annotations_are_refused(
    data: Path, tmp_path: Path, tool: str, change: Callable[[Any], Any], said: str
) -> None:
    names = exported(data, tmp_path / "a", tool)
    path = tmp_path / "a" / f"{names[1]}{'.json' if tool == 'labelme' else '.geojson'}"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=said) as refused:
        prepare(tmp_path / "a", data, KIDNEY, tmp_path / "out", ImportConfig())
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_labelmes_rectangles_circles_and_masks_are_areas(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).random((9, 14)) < 0.4
    path = tmp_path / "a.json"
    shapes = [
        {"label": "artery", "points": [[20, 32], [0, 0]], "shape_type": "rectangle"},
        {"label": "glomerulus", "points": [[46, 16], [40, 16]], "shape_type": "circle"},  # beyond the edge at 48
        {"label": "arteriole", "points": [[3, 20], [16, 28]], "shape_type": "mask", "mask": mask_png(drawn)},
    ]
    path.write_text(json.dumps({**Labelme.skeleton("a", SIZE, {}), "shapes": shapes}))
    mask = paint(Labelme.read(path, SIZE), KIDNEY, SIZE).semantic
    y, x = np.indices(SIZE) + 0.5
    expected = np.where((x - 46) ** 2 + (y - 16) ** 2 < 36, 2, np.where(x < 20, 4, IGNORE))
    expected[20:29, 3:17][drawn] = 3
    assert (mask != expected).sum() <= 2
    np.testing.assert_array_equal(mask[:, :20], expected[:, :20])


def test_qupaths_nested_objects_are_read_and_swatches_are_not(tmp_path: Path) -> None:
    def annotation(label: Any, points: Points, **more: Any) -> dict[str, Any]:
        return {
            "type": "Feature",
            "geometry": area([*points, points[0]]),
            "properties": {"classification": label, **more},
        }

    inner = annotation({"name": "glomerulus", "color": [1, 2, 3]}, MIDDLE)
    swatches = json.loads(QuPath.beside(KIDNEY)["classes.geojson"])["features"]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([annotation("artery", LEFT, childObjects=[inner]), *swatches]))
    mask = paint(QuPath.read(path, SIZE), KIDNEY, SIZE).semantic
    expected = np.full(SIZE, IGNORE, np.uint8)
    expected[:, :20] = 4
    expected[8:24, 10:30] = 2
    np.testing.assert_array_equal(mask, expected)


def test_every_nucleus_has_an_id_though_they_touch(data: Path, tmp_path: Path) -> None:
    export(data, tmp_path / "q", "qupath", NUCLEI)
    name = next(iter(read_record(tmp_path / "q").images))
    boxes = [(4, 4), (14, 4), (24, 20)]
    shapes = [("nucleus", [[x, y], [x + 10, y], [x + 10, y + 10], [x, y + 10]]) for x, y in boxes]
    annotate(tmp_path / "q", name, *shapes)
    prepared = prepare(tmp_path / "q", data, NUCLEI, tmp_path / "o", ImportConfig(fill="background"), partial=True)
    make(prepared, workers=1)
    dataset = open_dataset(tmp_path / "o")
    expected = np.zeros(SIZE, np.int32)
    for number, (x, y) in enumerate(boxes, 1):
        expected[y : y + 10, x : x + 10] = number
    np.testing.assert_array_equal(dataset[0].tile.instance, expected)
    assert dataset.table["cells"].to_pylist() == [3]


def test_nuclei_of_qupaths_cells_are_read_where_nuclei_are_labelled(tmp_path: Path) -> None:
    cell = {"type": "Feature", "geometry": area([*MIDDLE, MIDDLE[0]]), "nucleusGeometry": area([*LEFT, LEFT[0]])}
    cell["properties"] = {"objectType": "cell", "classification": {"name": "nucleus"}}
    (tmp_path / "a.geojson").write_text(json.dumps(cell))
    inside, outside = (
        paint(QuPath.read(tmp_path / "a.geojson", SIZE, nuclei), NUCLEI, SIZE).instance for nuclei in (["nucleus"], [])
    )
    assert inside[0, 0] == 1
    assert inside[10, 28] == 0
    assert outside[10, 28] == 1


def test_nuclei_that_others_cover_are_counted() -> None:
    square = Shape("nucleus", ((np.array(MIDDLE),),))
    painted = paint([square, square], NUCLEI, SIZE)
    assert (painted.lost, painted.disputed_px) == (1, 16 * 20)


def test_other_folders_images_and_generators_are_refused(data: Path, tmp_path: Path) -> None:
    names = exported(data, tmp_path / "a")
    out = tmp_path / "out"

    def refused(said: str, folder: Path = tmp_path / "a", root: Path = data) -> None:
        with pytest.raises(UserError, match=said):
            prepare(folder, root, KIDNEY, out, ImportConfig())
        assert not out.exists()

    refused("expected a folder of factory annotate export", folder=tmp_path)
    other = DrawConfig(weights=str(write_generator(tmp_path / "other", seed=1)))
    make(sampling.prepare(SampleConfig(drawing=other, n=1), tmp_path / "of-other"), workers=1)
    refused("expected annotations for the generator of", root=tmp_path / "of-other")
    same = drawing_of(data).model_copy(update={"psi": 1.0})
    make(sampling.prepare(SampleConfig(drawing=same, n=4), tmp_path / "same"), workers=1)
    refused(f"{names[0]}: expected an image of .*, got none", root=tmp_path / "same")
    write_dataset(tmp_path / "real")
    refused("expected images that a generator drew", root=tmp_path / "real")

    (tmp_path / "a/strange.geojson").write_text("{}")
    refused("strange.geojson: expected annotations of the images in images.json")
    (tmp_path / "a/strange.geojson").unlink()
    picture = tmp_path / "a" / f"{names[3]}.png"
    content = picture.read_bytes()
    Image.open(picture).resize((96, 64)).save(picture)
    refused("expected the exported image of 32x48, got 64x96")
    Image.new("RGB", (48, 32)).save(picture)
    refused("expected the exported image, got other pixels")
    picture.write_bytes(content)
    record = json.loads((tmp_path / "a" / RECORD).read_text())
    for damaged in ({"tool": "qupath"}, {**record, "generator": None}, {**record, "images": {}}):
        (tmp_path / "a" / RECORD).write_text(json.dumps(damaged))
        refused("expected the record of an export")
    (tmp_path / "a" / RECORD).write_text(json.dumps({**record, "size": [32, 48, 3]}))
    refused("images.json: expected images of 32x48, .* got 32x48x3")


def test_a_folder_with_files_is_never_written_to(data: Path, tmp_path: Path) -> None:
    exported(data, tmp_path / "a")
    with pytest.raises(UserError, match="expected an empty folder"):
        export(data, tmp_path / "a", "qupath")
    with pytest.raises(UserError, match="--diverse: expected 1 to 4 images"):
        export(data, tmp_path / "b", "qupath", diverse=5)
    dataset = open_dataset(data)
    write_manifest(tmp_path / "none.parquet", dataset.table.slice(0, 0), dataset.info)
    with pytest.raises(UserError, match=r"none\.parquet: expected the rows of images, got none"):
        export(data, tmp_path / "b", "qupath", chosen=tmp_path / "none.parquet")
    assert not (tmp_path / "b").exists()
    with pytest.raises(UserError, match="expected a folder apart from"):
        export(data, data / "b", "qupath")
    assert verify(data) == []


def test_the_commands_take_images_out_and_labels_back(cli: Callable[..., Outcome], data: Path) -> None:
    scheme = SCHEMES / "kidney.yaml"
    done = cli("factory", "annotate", "export", data, "--out", "a", "--tool", "labelme", "--scheme", scheme)
    assert done.code == 0, done.err
    for name in read_record(Path("a")).images:
        annotate(Path("a"), name, ("artery", LEFT))
    words = ("factory", "annotate", "import", "a", "--data", data, "--scheme", scheme, "--out", "labelled")
    assert "nothing was written" in cli(*words, "--dry-run").out
    done = cli(*words, "--fill", "tubulointerstitium")
    assert done.code == 0, done.err
    assert "4 annotated images" in done.out
    assert open_dataset("labelled").row(0)["class_fractions"] == [0, 28 / 48, 0, 0, 20 / 48]
    assert_refused(cli(*words, "--fill", "air", "--overwrite"), "--fill: expected a class of kidney")
    assert_refused(cli(*words), "expected the configuration that it was made with")
    assert_refused(cli(*words, "--split", "1,1,1"), "split: .*sum to 1")
    assert_refused(cli(*words, "--seed", -1), "seed: ")


def test_ingest_takes_the_kidney_scheme(cli: Callable[..., Outcome]) -> None:
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        Path("k", kind).mkdir(parents=True)
        Image.new(mode, (64, 64), 2 if mode == "L" else (200, 100, 150)).save(Path("k", kind, "a.png"))
    done = cli("factory", "ingest", "k", "--scheme", SCHEMES / "kidney.yaml", "--mpp", 0.5, "--out", "real")
    assert done.code == 0, done.err
    assert open_dataset("real").row(0)["class_fractions"] == [0, 0, 1, 0, 0]
