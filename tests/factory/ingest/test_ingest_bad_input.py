"""Input that `factory ingest` refuses: exit 2, one line that names the file, and nothing written."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from factory.ingest.pairing import find_patterns, pair
from tests.ingest_files import SIZE, ingest_command, instance_map, nuclei_folder, save, tissue_image

Break = Callable[[Path], object]
MPP = ("--mpp", "0.25")


@pytest.fixture(autouse=True)
def _keep_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.console.keep_freed_memory", lambda: True)


def assert_refused(capfd: pytest.CaptureFixture[str], out: Path, arguments: tuple[object, ...], *said: str) -> None:
    assert ingest_command(*arguments, "--out", out) == 2
    printed = capfd.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    for text in said:
        assert text in lines[0]
    assert not out.exists()


def cut(name: str, keep: float) -> Break:
    """Keep that share of a file's bytes."""

    def damage(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def flip(name: str, share: float) -> Break:
    """Flip one bit at that share of a file's length."""

    def damage(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[int(len(content) * share)] ^= 4
        (root / name).write_bytes(content)

    return damage


def put(name: str, array: np.ndarray) -> Break:
    """Write another array under a name; a file of the same stem goes."""

    def replace(root: Path) -> None:
        for old in (root / name).parent.glob(f"{Path(name).stem}.*"):
            old.unlink()
        save(root / name, array)

    return replace


def declares(side: int) -> Break:
    """A PNG of a few bytes whose header declares a square of that side."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    return lambda root: (root / "images/b.png").write_bytes(content)


def pickled(root: Path) -> None:
    """An object array that would create a file when it is unpickled."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (root / "executed",))

    (root / "instances/b.png").unlink()
    np.save(root / "instances/b.npy", np.array([[Bomb()]], object), allow_pickle=True)


def linked(root: Path) -> None:
    target = (root / "images/b.png").rename(root / "elsewhere.png")
    (root / "images/b.png").symlink_to(target)


def two_pages(root: Path) -> None:
    (root / "instances/b.png").unlink()
    tifffile.imwrite(root / "instances/b.tif", np.zeros((2, *SIZE), np.uint16), photometric="minisblack")


def rgb_of_16_bits(root: Path) -> None:
    (root / "images/b.png").unlink()
    tifffile.imwrite(root / "images/b.tif", tissue_image().astype(np.uint16), photometric="rgb")


def png_of_16_bits(root: Path) -> None:
    """Pillow writes no RGB of 16 bits, so this one is written by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    image = tissue_image().astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 2, 0, 0, 0))
    body = head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (root / "images/b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


RGBA = np.dstack([tissue_image(), np.full(SIZE, 128, np.uint8)])
SATURATED = np.where(instance_map() == 300, 255, instance_map()).astype(np.uint8)

FILES: dict[str, tuple[Break, str]] = {
    "image without a mask": (lambda root: (root / "instances/b.png").unlink(), "images/b.png: expected its instances"),
    "mask without an image": (lambda root: (root / "images/b.png").unlink(), "instances/b.png: expected the image"),
    "two masks": (lambda root: save(root / "instances/b.tif", instance_map()), "expected one instances file for b"),
    "two images": (lambda root: save(root / "images/b.jpg", tissue_image()), "expected one images file for b"),
    "linked image": (linked, "images/b.png: expected a file, got a link"),
    "grey image": (put("images/b.png", tissue_image()[..., 0]), "b.png: expected an 8-bit RGB image, got grey (uint8)"),
    "image with alpha": (put("images/b.png", RGBA), "b.png: expected an opaque image, got RGBA"),
    "TIFF of 16 bits": (rgb_of_16_bits, "images/b.tif: expected an 8-bit RGB image, got uint16"),
    "PNG of 16 bits": (png_of_16_bits, "images/b.png: expected an 8-bit RGB image, got uint16"),
    "truncated image": (cut("images/b.png", 0.5), "images/b.png: expected a readable PNG file"),
    "empty image": (cut("images/b.png", 0), "images/b.png: expected a readable PNG file"),
    "flipped bit in an image": (flip("images/b.png", 0.5), "images/b.png: expected a readable PNG file"),
    "flipped bit in a mask": (flip("instances/b.png", 0.6), "instances/b.png: expected a readable PNG file"),
    "text as an image": (
        lambda root: (root / "images/b.png").write_text("hello"),
        "images/b.png: expected a readable PNG file",
    ),
    "large image": (declares(10_000), "images/b.png: expected at most 67,108,864 pixels, got 10000x10000"),
    "huge image": (declares(60_000), "images/b.png: expected at most 67,108,864 pixels, got many more"),
    "truncated JPEG": (
        lambda root: (put("images/b.jpg", tissue_image())(root), cut("images/b.jpg", 0.5)(root)),
        "images/b.jpg: expected a readable JPG file",
    ),
    "other size": (put("instances/b.png", instance_map(size=(64, 64))), "b.png: expected 64x96 pixels as its image"),
    "saturated ids": (put("instances/b.png", SATURATED), "instances/b.png: expected instance ids, got 8 bits"),
    "binary mask": (
        put("instances/b.png", np.where(instance_map(), 255, 0).astype(np.uint8)),
        "It is a binary mask: give it as --semantic with --class-map 0:0,255:1",
    ),
    "ids too large": (
        put("instances/b.tif", instance_map().astype(np.uint32) * 10_000_000),
        "instances/b.tif: expected instance ids up to 2147483647, got 3000000000",
    ),
    "negative ids": (put("instances/b.npy", -instance_map().astype(np.int64)), "b.npy: expected instance ids from 0"),
    "fractions as ids": (put("instances/b.npy", instance_map() / 2), "b.npy: expected whole numbers as labels"),
    "colours as ids": (put("instances/b.png", tissue_image()), "b.png: expected a label map with one channel, got RGB"),
    "lossy ids": (
        put("instances/b.jpg", SATURATED),
        "instances/b.jpg: expected labels in PNG, TIFF, BMP or NPY, got JPEG",
    ),
    "pickled ids": (pickled, "instances/b.npy: expected an array of numbers, got dtype object"),
    "truncated NPY": (
        lambda root: (put("instances/b.npy", instance_map())(root), cut("instances/b.npy", 0.7)(root)),
        "instances/b.npy: expected 12,416 bytes",
    ),
    "truncated TIFF": (
        lambda root: (put("instances/b.tif", instance_map())(root), cut("instances/b.tif", 0.5)(root)),
        "instances/b.tif: expected",
    ),
    "pages": (two_pages, "instances/b.tif: expected one image, got 2 pages"),
    "other image size": (
        lambda root: (
            put("images/b.png", tissue_image(size=(32, 32)))(root),
            put("instances/b.png", instance_map(size=(32, 64))[:, :32])(root),
        ),
        "images: expected one size, or --size HxW to tile them, got 64x96 (2), 32x32 (1)",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_file_is_refused_with_its_name(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    root = nuclei_folder(tmp_path / "source")
    damage, said = FILES[case]
    damage(root)
    assert_refused(capfd, tmp_path / "out", (root, *MPP), said)
    assert not (root / "executed").exists()


OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "no resolution": ((), "expected a resolution, got none in the file"),
    "mpp of zero": (("--mpp", "0"), "--mpp: expected micrometres per pixel above 0"),
    "size in words": (
        (*MPP, "--size", "big"),
        "--size: expected HEIGHTxWIDTH in pixels or one side",
    ),
    "size of zero": ((*MPP, "--size", "0x10"), "--size: expected HEIGHTxWIDTH"),
    "huge size": ((*MPP, "--size", "99999x99999"), "--size: expected at most"),
    "overlap without size": ((*MPP, "--overlap", "8"), "--overlap: expected --size"),
    "overlap of a whole tile": ((*MPP, "--size", "32x32", "--overlap", "32"), "--overlap: expected 0 to 31"),
    "unknown stain": ((*MPP, "--stain", "pas"), "--stain: expected he, ihc"),
    "no stain for an image": ((*MPP, "--stain", "x*=he"), "images/a.png and 2 more: expected a stain"),
    "air threshold": ((*MPP, "--air-threshold", "255"), "--air-threshold: expected a grey level 0-254"),
    "background": ((*MPP, "--max-background", "1.5"), "--max-background: expected a share"),
    "unknown scheme": ((*MPP, "--scheme", "nucleus"), "Did you mean nuclei?"),
    "scheme that does not fit": ((*MPP, "--scheme", "pdl1"), "expected a scheme with one kind of nucleus"),
    "shares": ((*MPP, "--split", "0.8,0.1"), "--split: expected three shares"),
    "sum of shares": ((*MPP, "--split", "0.8,0.1,0.2"), "--split: expected shares of train, val and test with sum 1"),
    "pattern without group": ((*MPP, "--group-pattern", "a"), "expected one group in parentheses"),
    "broken pattern": ((*MPP, "--group-pattern", "("), "expected a regular expression"),
    "pattern that fits no name": ((*MPP, "--group-pattern", "(x)"), "images/a.png and 2 more: expected a name that"),
    "groups file": ((*MPP, "--groups", "nowhere.csv"), "--groups: expected a CSV file"),
    "classes without instances": (
        (*MPP, "--classes", "instances/{stem}.png", "--instances", ""),
        "--instances: expected a pattern with {stem}",
    ),
    "classes and semantic": (
        (*MPP, "--classes", "instances/{stem}.png", "--semantic", "instances/{stem}.png"),
        "--classes and --semantic: expected one of them",
    ),
    "semantic without scheme": ((*MPP, "--semantic", "instances/{stem}.png"), "--scheme: expected the scheme"),
    "class map": ((*MPP, "--class-map", "0-1"), "--class-map: expected FROM:TO"),
    "class map to nowhere": ((*MPP, "--class-map", "0:7"), "--class-map: expected a class 0-1 of scheme nuclei or 255"),
    "class map to an unknown name": ((*MPP, "--class-map", "0:air"), "--class-map: expected VALUE:CLASS, got 0:air"),
    "class map in broken JSON": ((*MPP, "--class-map", "{1"), "--class-map: expected JSON"),
    "point columns": ((*MPP, "--point-columns", "x,y"), "--point-columns: expected the names of x, y and class"),
    "workers": ((*MPP, "--workers", "0"), "--workers: expected 1 or more"),
    "no images": ((*MPP, "--images", "nothing/*.png"), "expected images, got "),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_option_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    arguments, said = OPTIONS[case]
    assert_refused(capfd, tmp_path / "out", (nuclei_folder(tmp_path / "source"), *arguments), said)


def semantic_folder(root: Path, mask: np.ndarray) -> Path:
    save(root / "images/a.png", tissue_image())
    save(root / "masks/a.png", mask)
    return root


@pytest.mark.parametrize(
    ("values", "arguments", "said"),
    [
        ((0, 1, 9), (), "masks/a.png: expected classes 0-4 of scheme pdl1 or 255 (ignore), got 9"),
        ((0, 255), (), "got only 0 and 255, which means ignore"),
        ((0, 1, 9), ("--class-map", "0:0,1:1"), "masks/a.png: expected the values 0, 1 of --class-map, got 9"),
    ],
)
def test_mask_value_outside_the_scheme_is_refused(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    values: tuple[int, ...],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[: len(values), :] = np.array(values, np.uint8)[:, None]
    root = semantic_folder(tmp_path / "source", mask)
    assert_refused(capfd, tmp_path / "out", (root, *MPP, "--scheme", "pdl1", *arguments), said)


def test_classes_that_disagree_with_instances_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = nuclei_folder(tmp_path / "source", ["a"])
    classes = (instance_map() > 0).astype(np.uint8)
    classes[instance_map() == 3] = 0
    classes[0, 95] = 1 if instance_map()[0, 95] == 0 else 0
    save(root / "classes/a.png", classes)
    assert_refused(
        capfd, tmp_path / "out", (root, *MPP), "classes/a.png: expected a class exactly where an instance is"
    )


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("x,y,class\n1,2,a\n96,3,a\n", (), "expected points inside the image of 64x96, got 1 outside"),
        ("x,y,class\n1,nan,a\n", (), "line 2: expected a number in y, got 'nan'"),
        ("x,y,class\n1,2,a\n3,four,a\n", (), "line 3: expected a number in y, got 'four'"),
        ("x,y,class\n1,2,\n", (), "line 2: expected a class, got nothing"),
        ("x,y,kind\n1,2,a\n", (), "expected the columns x, y, class, got x, y, kind"),
        ("", (), "expected the columns x, y, class, got none"),
        ("x,y,class\n1,2,b\n", ("--point-classes", "a:positive"), "line 2: expected a class of a, got 'b'"),
        ("x,y,class\n1,2,\xff\n", (), "expected a CSV file in UTF-8"),
    ],
)
def test_bad_point_list_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str, arguments: tuple[str, ...], said: str
) -> None:
    root = tmp_path / "source"
    save(root / "images/a.png", tissue_image())
    (root / "cells").mkdir()
    (root / "cells/a.csv").write_bytes(content.encode("latin-1"))
    assert_refused(capfd, tmp_path / "out", (root, *MPP, *arguments), "cells/a.csv: ", said)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ("group,split\ng,train\n", "images/b.png: expected a line in --splits"),
        ("name,split\na,train\nb,test\nc,test\n", "expected group g in one split, got train and test"),
        ("name,split\na,training\n", "a: expected a split of train, val, test, got 'training'"),
        ("name,split\na,train\na,test\n", "line 3: expected a once"),
        ("name\na\n", "expected the columns name and split, got name"),
    ],
)
def test_bad_splits_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], splits: str, said: str) -> None:
    root = nuclei_folder(tmp_path / "source")
    (tmp_path / "groups.csv").write_text("name,group\na,g\nb,h\nc,g\n")
    (tmp_path / "splits.csv").write_text(splits)
    arguments = (root, *MPP, "--groups", tmp_path / "groups.csv", "--splits", tmp_path / "splits.csv")
    assert_refused(capfd, tmp_path / "out", arguments, said)


def test_everything_wrong_is_said_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = nuclei_folder(tmp_path / "source", list("abcdef"))
    (root / "instances/b.png").unlink()
    save(root / "images/a.png", RGBA)
    cut("images/c.png", 0.5)(root)
    save(root / "instances/c.png", SATURATED)
    save(root / "instances/d.png", instance_map(size=(64, 64)))
    Image.fromarray(instance_map().astype(np.uint8)).save(root / "instances/z.png")
    assert ingest_command(root, *MPP, "--out", tmp_path / "out") == 2
    printed = capfd.readouterr()
    assert printed.err.startswith("error: 6 problems, all listed above; nothing was written: ")
    assert len(printed.err.strip().splitlines()) == 1
    listed = printed.out.strip().splitlines()
    assert len(listed) == 6
    assert sorted(line.partition(":")[0] for line in listed) == [
        "images/a.png",
        "images/b.png",
        "images/c.png",
        "instances/c.png",
        "instances/d.png",
        "instances/z.png",
    ]
    assert not (tmp_path / "out").exists()


def test_images_of_air_alone_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "source/a.png", np.full((64, 64, 3), 250, np.uint8))
    assert_refused(capfd, tmp_path / "out", (tmp_path / "source", *MPP), "expected at least one tile with 15% tissue")


@pytest.mark.parametrize("source", ["nowhere", "empty"])
def test_source_without_images_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], source: str) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(capfd, tmp_path / "out", (tmp_path / source, *MPP), "expected")


def test_folder_that_holds_something_else_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, out = nuclei_folder(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for overwrite in ((), ("--overwrite",)):
        assert ingest_command(root, *MPP, "--out", out, *overwrite) == 2
        assert "expected an empty folder or a data set" in capfd.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_data_set_of_another_configuration_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, out = nuclei_folder(tmp_path / "source"), tmp_path / "out"
    assert ingest_command(root, *MPP, "--out", out) == 0
    before = (out / "SHA256SUMS").read_bytes()
    capfd.readouterr()
    assert ingest_command(root, "--mpp", "0.5", "--out", out) == 2
    assert "expected the configuration that it was made with, got another mpp" in capfd.readouterr().err
    assert (out / "SHA256SUMS").read_bytes() == before


def test_linked_folder_of_images_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = nuclei_folder(tmp_path / "source")
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    assert_refused(capfd, tmp_path / "out", (root, *MPP), "images/a.png and 2 more: expected a file, got a link")


def test_points_without_outlines_take_no_scheme_of_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "source"
    save(root / "images/a.png", tissue_image())
    (root / "cells").mkdir()
    (root / "cells/a.csv").write_text("x,y,class\n1,2,a\n")
    assert_refused(capfd, tmp_path / "out", (root, *MPP, "--scheme", "ihc"), "--scheme: expected tissue")


LABELS_BESIDE: dict[str, tuple[str, ...]] = {
    "annotations in other folders": ("images/a.png", "annotations/a.xml", "x/a.geojson"),
    "one file for all": ("images/a.png", "coco.json"),
    "masks in a folder without a rule": ("images/a.png", "ground truth/a.png"),
    "masks beside their images": ("a.bmp", "a_anno.bmp"),
    "arrays with an ending": ("Images/a.png", "Labels of nuclei/a_seg.npy"),
}


@pytest.mark.parametrize("names", LABELS_BESIDE.values(), ids=LABELS_BESIDE)
def test_labels_that_no_rule_reads_are_named(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        if Path(name).suffix in (".png", ".bmp", ".npy"):
            save(tmp_path / name, tissue_image())
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("{}")
    root, patterns = find_patterns(tmp_path, {})
    pairing = pair(root, patterns)
    assert len(pairing.problems) == 1
    assert names[1] in pairing.problems[0]
    assert "--ignore-unread" in pairing.problems[0]
    told = pair(root, patterns, ignore_unread=True)
    assert (told.problems, [source.uri for source in told.sources]) == ((), [names[0]])
    assert len(told.unread) == (0 if names[1] == "a_anno.bmp" else 1)


def test_labels_beside_their_images_are_read_by_a_pattern_alone(tmp_path: Path) -> None:
    for name in ("a.bmp", "a_anno.bmp"):
        save(tmp_path / name, tissue_image())
    pairing = pair(*find_patterns(tmp_path, {"semantic": "{stem}_anno.bmp"}))
    assert not pairing.problems
    assert [dict(source.uris) for source in pairing.sources] == [{"images": "a.bmp", "semantic": "a_anno.bmp"}]


def test_folder_without_an_image_at_its_place_is_described(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("")
    assert "got 1 .dcm (a.dcm)" in pair(*find_patterns(tmp_path, {})).problems[0]
    save(tmp_path / "tumour" / "a.png", tissue_image())
    assert "got 1 image in sub-folders (tumour)" in pair(*find_patterns(tmp_path, {})).problems[0]
    assert not pair(*find_patterns(tmp_path, {"images": "tumour/*"})).problems


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", tissue_image())
    image.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    assert "expected a name in UTF-8" in pair(*find_patterns(tmp_path, {})).problems[0]
