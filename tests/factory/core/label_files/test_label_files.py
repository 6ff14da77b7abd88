"""Label files: what the tests' writers write is read and drawn, equal pixel by pixel and id by id."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from roifile import ROI_TYPE, ImagejRoi

from factory.core.images.files import UnreadableError
from factory.core.images.label_maps import find_label_files, label_size, read_instances
from factory.core.label_files import FORMATS
from factory.core.label_files.base import Outlines, resolve_format
from factory.core.label_files.drawing import ClassTable, class_problems, draw
from factory.core.label_files.shapes import Shape, rasterise
from factory.core.label_files.windows import Windows
from manifests.errors import UserError
from manifests.labels import IGNORE, get_scheme
from tests.label_writers import (
    NAMES,
    SIZE,
    WRITERS,
    Objects,
    Writer,
    random_objects,
    write_cellpose,
    write_coco,
    write_cvat,
    write_geojson,
    write_hovernet,
)

IHC = ClassTable(get_scheme("ihc"), {})
NUCLEI = ClassTable(get_scheme("nuclei"), {})
EVERY = [(name, writer) for name, writers in WRITERS.items() for writer in writers]


def test_every_format_has_a_writer() -> None:
    assert {*WRITERS, "colours"} == FORMATS.keys()


@pytest.mark.parametrize(("name", "writer"), EVERY, ids=[f"{name}-{number}" for number, (name, _) in enumerate(EVERY)])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_what_is_written_is_read(tmp_path: Path, name: str, writer: Writer, seed: int) -> None:
    objects = random_objects(seed, one_piece=writer.one_piece, holes=writer.holes)
    (tmp_path / "a").mkdir(exist_ok=True)
    path = writer.write(tmp_path / "a" / writer.name, objects)
    kind = resolve_format(name)
    assert kind.recognises(path)
    assert writer.stem in kind.stems(path)
    table = ClassTable(IHC.scheme, dict(zip(writer.named, (1, 2), strict=False))) if writer.named else NUCLEI
    found = kind.read(path, writer.stem, SIZE, nuclei=True)
    assert class_problems(found, table) == []
    drawn = draw(found, table, SIZE, 0)
    if writer.same_ids:
        np.testing.assert_array_equal(drawn.instance, objects.instance)
    else:
        pairs = np.unique(np.stack([drawn.instance.ravel(), objects.instance.ravel()]), axis=1)
        assert pairs.shape[1] == len(objects.names) + 1
    classes = [1 + NAMES.index(name) if writer.named else 1 for name in objects.names]
    np.testing.assert_array_equal(drawn.semantic, np.array([0, *classes])[objects.instance])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-40, 300), st.integers(-40, 300)), min_size=3, max_size=8), st.integers(1, 3))
def test_pixels_are_inside_as_their_centres_are(corners: list[tuple[int, int]], finer: int) -> None:
    """Against exact arithmetic: a ray to the left crosses an odd number of edges."""
    from fractions import Fraction

    unit = Fraction(1, 4**finer)  # corners on a grid of 1/4, 1/16 and 1/64 px
    points = [(x * unit * 2, y * unit * 2) for x, y in corners]
    expected = np.zeros((12, 14), bool)
    for y, x in np.ndindex(expected.shape):
        cx, cy, crossed = x + Fraction(1, 2), y + Fraction(1, 2), 0
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if (y0 <= cy) != (y1 <= cy):
                crossed += x0 + (cy - y0) * (x1 - x0) / (y1 - y0) <= cx
        expected[y, x] = crossed % 2
    inside = np.zeros_like(expected)
    part, found = rasterise([np.array(points, np.float64)], expected.shape)
    inside[part] = found
    np.testing.assert_array_equal(inside, expected)


def test_the_later_object_counts_and_what_vanishes_is_said() -> None:
    def box(name: str | None, x0: float, x1: float) -> Shape:
        return Shape(name, ((np.array([[x0, 0], [x1, 0], [x1, 4], [x0, 4]]),),))

    shapes = (
        box("negative cell", 0, 4),
        box("Positive Cell", 3, 6),
        box("ignore*", 5, 7),
        box("positive cell", 8, 8.4),
    )
    drawn = draw(Outlines(shapes), IHC, (4, 10), 0)
    assert drawn.semantic[0].tolist() == [1, 1, 1, 2, 2, IGNORE, IGNORE, 0, 0, 0]
    assert drawn.instance[0].tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0, 0]
    assert drawn.doubts == ("1 objects have no pixel: too small, or covered by later ones",)


def test_names_without_a_class_are_listed_with_what_to_type() -> None:
    table = ClassTable(get_scheme("ihc"), {"*": 2})
    assert [table.find(name) for name in ("NEGATIVE cell", "#4a6eb4", "Ignore*", "tumour", None)] == [1, 1, 255, 2, 2]
    assert IHC.find("tumour") is None
    assert NUCLEI.find(None) == 1
    (problem,) = IHC.problems({"posit cell": 3, "negative cell": 1})
    assert "got 'posit cell' (3 times)" in problem
    assert "--class-map 'posit cell=positive cell'" in problem


def test_windows_of_a_slide_show_what_the_whole_shows() -> None:
    objects = random_objects(5)
    shapes = [
        Shape(name, tuple(tuple(np.array(ring, float) * 2 for ring in rings) for rings in objects.pieces(number)))
        for number, name in objects.classes.items()
    ]
    windows = Windows(shapes, [1 + NAMES.index(name) for name in objects.names], IHC.scheme, 0, 2.0)
    for y, x in ((0, 0), (5, 7), (10, 20)):
        drawn = windows.draw(y, x, 9, 8)
        np.testing.assert_array_equal(drawn.instance, objects.instance[y : y + 9, x : x + 8])


def test_objects_are_what_they_say() -> None:
    """The strategy makes what it promises: touching objects and holes."""
    assert any(_touch(random_objects(seed)) for seed in range(5))


def _touch(objects: Objects) -> bool:
    left, right = objects.instance[:, :-1], objects.instance[:, 1:]
    return bool(np.any((left != right) & (left > 0) & (right > 0)))


@pytest.mark.parametrize("named", [True, False])
def test_an_annotation_without_a_class_around_others_is_no_label(tmp_path: Path, named: bool) -> None:
    objects = random_objects(4)
    path = write_geojson(tmp_path / "a.geojson", objects)
    document = json.loads(path.read_text())
    corners = [[0, 0], [32, 0], [32, 24], [0, 24], [0, 0]]
    parent = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}, "properties": {}}
    if not named:
        for feature in document["features"]:
            del feature["properties"]["classification"]
    document["features"].insert(0, parent)
    path.write_text(json.dumps(document))
    found = resolve_format("geojson").read(path, "a", SIZE, nuclei=True)
    assert found.notes == ("1 annotations without a class, around others, are left out",)
    np.testing.assert_array_equal(draw(found, IHC if named else NUCLEI, SIZE, 0).instance, objects.instance)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("bomb"),)


@pytest.mark.parametrize("harm", ["call", "size"])
def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a_seg.npy"
    np.save(path, {"masks": Bomb()} if harm == "call" else {"masks": Huge()})  # type: ignore[arg-type]
    with pytest.raises(UnreadableError, match=r"expected arrays and plain values, got .*_cp_masks"):
        resolve_format("cellpose").read(path, "a", SIZE, nuclei=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a_seg.npy"]


class Huge:
    def __reduce__(self) -> tuple[object, ...]:
        return np.ndarray, ((1 << 45,),)


def test_files_that_fill_the_memory_or_reach_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xml"
    for entity in ('"x"', 'SYSTEM "file:///etc/passwd"'):
        path.write_text(f"<!DOCTYPE a [<!ENTITY e {entity}>]><Annotations>&e;</Annotations>")
        with pytest.raises(UnreadableError, match="expected XML, got EntitiesForbidden"):
            resolve_format("imagescope").read(path, "a", SIZE, nuclei=True)
    monkeypatch.setattr("factory.core.label_files.base.MAX_TEXT_BYTES", 1 << 16)
    bomb = tmp_path / "a.geojson.gz"
    bomb.write_bytes(gzip.compress(b" " * (1 << 20) + b"[]"))
    with pytest.raises(UnreadableError, match="expected at most 65,536 bytes"):
        resolve_format("geojson").read(bomb, "a", SIZE, nuclei=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": {"size": [24, 32], "counts": "1"}}, "annotation 1: expected run lengths of 768 pixels"),
        ({"segmentation": {"size": [24, 32], "counts": [1, -1]}}, "annotation 1: expected run lengths of 768"),
        ({"segmentation": {"size": [9, 9], "counts": "1"}}, r"expected run lengths of \[24, 32\], got \[9, 9\]"),
        ({"segmentation": []}, "expected a segmentation, got none"),
        ({"category_id": 99}, "expected a category of the file's, got 99"),
    ],
)  # fmt: skip
def test_faults_of_a_file_name_the_object(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = write_coco(tmp_path / "a.json", random_objects(0))
    document = json.loads(path.read_text())
    document["annotations"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(UnreadableError, match=said):
        resolve_format("coco").read(path, "a", SIZE, nuclei=True)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    for name, file, write in (
        ("coco", "a.json", write_coco),
        ("cvat", "a.xml", write_cvat),
        ("hovernet", "a.mat", write_hovernet),
    ):
        path = write(tmp_path / file, random_objects(0))
        with pytest.raises(UnreadableError, match="expected annotations of an image of 32x32, got 24x32"):
            resolve_format(name).read(path, "a", (32, 32), nuclei=True)


def test_colours_are_classes_by_the_scheme_or_the_class_map(tmp_path: Path) -> None:
    scheme = get_scheme("ihc")
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[:] = scheme.palette[0]
    mask[2:6, 2:6], mask[2:6, 6:9], mask[10:14, 2:6] = scheme.palette[2], (0, 255, 0), (255, 0, 0)
    path = tmp_path / "a.png"
    Image.fromarray(mask).save(path)
    found = resolve_format("colours").read(path, "a", SIZE, nuclei=True)
    assert len(class_problems(found, IHC)) == 2
    table = ClassTable(scheme, {"#00FF00": 0, "#ff0000": 2})
    drawn = draw(found, table, SIZE, 0)
    assert drawn.semantic[3, [0, 3, 7]].tolist() == [0, 2, 0]
    assert len(np.unique(drawn.instance)) == 3
    assert drawn.doubts == ("objects are the connected parts of a colour: those that touch became one",)


def test_maps_of_other_programs_are_scored_as_plain_ones_are(tmp_path: Path) -> None:
    objects = random_objects(4)
    (tmp_path / "mat").mkdir()
    (tmp_path / "cp").mkdir()
    write_hovernet(tmp_path / "mat/a.mat", objects)
    write_cellpose(tmp_path / "cp/a_cp_masks.png", objects)
    write_cellpose(tmp_path / "cp/b_seg.npy", objects)
    for folder, stems in (("mat", ["a"]), ("cp", ["a", "b"])):
        found = find_label_files(tmp_path / folder)
        assert list(found) == stems
        for path in found.values():
            assert label_size(path) == SIZE
            np.testing.assert_array_equal(read_instances(path), objects.instance)
    (tmp_path / "mat/a.mat").write_bytes(b"no")
    with pytest.raises(UserError, match=r"a\.mat: expected a readable MATLAB file"):
        label_size(tmp_path / "mat/a.mat")


def test_shapes_that_are_no_polygons_have_their_area(tmp_path: Path) -> None:
    cvat = (
        '<annotations><image id="0" name="a.png" width="32" height="24">'
        '<ellipse label="positive cell" z_order="1" cx="8" cy="12" rx="6" ry="4"/>'
        '<box label="negative cell" z_order="0" xtl="6" ytl="10" xbr="12" ybr="14"/>'
        '<box label="negative cell" z_order="0" xtl="20" ytl="6" xbr="24" ybr="14" rotation="90" group_id="3"/>'
        '<box label="negative cell" z_order="0" xtl="28" ytl="0" xbr="30" ybr="2" group_id="3"/></image></annotations>'
    )
    (tmp_path / "a.xml").write_text(cvat)
    drawn = draw(resolve_format("cvat").read(tmp_path / "a.xml", "a", SIZE, nuclei=True), IHC, SIZE, 0)
    areas = dict(zip(*np.unique(drawn.instance, return_counts=True), strict=True))
    y, x = np.mgrid[:24, :32] + 0.5
    ellipse = ((x - 8) / 6) ** 2 + ((y - 12) / 4) ** 2 < 1
    assert np.array_equal(drawn.instance == 3, ellipse)  # it lies on top
    assert drawn.semantic[12, 8] == 2
    assert areas[2] == 32 + 4  # two boxes of one group, the first turned
    assert drawn.semantic[10, 18:26].tolist() == [1] * 8
    scope = (
        '<Annotations><Annotation Name="positive cell"><Regions><Region Type="2"><Vertices>'
        '<Vertex X="2" Y="8"/><Vertex X="14" Y="16"/></Vertices></Region><Region Type="3"/></Regions></Annotation>'
        "</Annotations>"
    )
    (tmp_path / "a.xml").write_text(scope)
    found = resolve_format("imagescope").read(tmp_path / "a.xml", "a", SIZE, nuclei=True)
    assert np.array_equal(draw(found, IHC, SIZE, 0).semantic == 2, ellipse)
    assert found.notes == ("1 arrows, rulers or pins are left out",)
    roi = ImagejRoi(roitype=ROI_TYPE.OVAL, left=2, top=8, right=14, bottom=16, name="oval")
    (tmp_path / "a.roi").write_bytes(roi.tobytes())
    found = resolve_format("imagej").read(tmp_path / "a.roi", "a", SIZE, nuclei=True)
    assert (
        np.count_nonzero((draw(found, NUCLEI, SIZE, 0).instance > 0) != ellipse) <= 8
    )  # ImageJ's oval has few corners


def test_crowds_of_coco_are_ignored(tmp_path: Path) -> None:
    objects = random_objects(0)
    path = write_coco(tmp_path / "a.json", objects)
    document = json.loads(path.read_text())
    document["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(document))
    drawn = draw(resolve_format("coco").read(path, "a", SIZE, nuclei=True), IHC, SIZE, 0)
    assert np.array_equal(drawn.semantic == IGNORE, objects.instance == 1)
    assert not (drawn.instance == 1).any()
