"""Coarse maps: morphology against oracles, drawings line by line, augmentation and the plan's own maps."""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage as nd
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from factory.core.config import parse
from factory.masks.coarse import (
    AugmentSketchConfig,
    LayoutConfig,
    Sketch,
    augment_sketch,
    class_order,
    coarsen,
    drawn_coarse,
    drawn_mask,
    read_sketches,
    sketches_sha256,
)
from factory.masks.coarse.drawings import MAX_SKETCH_PX
from factory.masks.quantiles import target_count
from factory.plan.request import Request
from factory.plan.rows import load_scheme
from factory.sketches.features import features
from manifests import SCHEMES, Tile, get_scheme
from manifests.errors import UserError
from manifests.measure import measure

TISSUE, PDL1 = get_scheme("tissue"), get_scheme("pdl1")
CELLS = get_scheme("pdl1_cells")


def blobs(seed: int, height: int = 96, width: int = 128, scale: float = 2.5) -> np.ndarray:
    """A fine binary mask."""
    field = nd.gaussian_filter(np.random.default_rng(seed).random((height, width)), scale)
    return (field > np.median(field)).astype(np.uint8)


def slow_coarse(mask: np.ndarray, opening: int, closing: int) -> np.ndarray:
    """Opening, then closing, pixel by pixel as unions: a pixel is in an opening if a square inside the mask covers it.

    The erosion's square reaches k // 2 up and left and k - 1 - k // 2 down and right; outside the image all fits.
    """

    def eroded(a: np.ndarray, k: int, mirrored: bool) -> np.ndarray:
        before = k - 1 - k // 2 if mirrored else k // 2
        padded = np.pad(a, k, constant_values=True)
        return np.array(
            [
                [padded[y + k - before : y + 2 * k - before, x + k - before : x + 2 * k - before].all() for x in cols]
                for y in rows
            ]
        )

    rows, cols = range(mask.shape[0]), range(mask.shape[1])
    dilated = lambda a, k, mirrored: ~eroded(~a, k, mirrored)  # noqa: E731
    opened = dilated(eroded(mask.astype(bool), opening, False), opening, True)
    return eroded(dilated(opened, closing, False), closing, True)


# ---- coarsen ----


@pytest.mark.parametrize(("opening", "closing"), [(5, 10), (3, 4), (4, 3), (1, 6), (5, 1)])
def test_coarsen_equals_a_slow_reading_of_the_definition(opening: int, closing: int) -> None:
    mask = blobs(0, 40, 50)
    found = coarsen(mask, 2, opening_px=opening, closing_px=closing)
    assert np.array_equal(found.astype(bool), slow_coarse(mask, opening, closing))


@pytest.mark.parametrize("seed", range(3))
def test_coarsen_equals_scipy_away_from_the_border(seed: int) -> None:
    mask = blobs(seed)
    opened = nd.binary_opening(mask, np.ones((5, 5)))
    closed = nd.binary_closing(opened, np.ones((10, 10)))
    inner = (slice(16, -16), slice(16, -16))
    assert np.array_equal(coarsen(mask, 2)[inner], closed[inner])


def test_coarsen_moves_nothing_although_cv2s_even_closing_does() -> None:
    point = np.zeros((40, 40), np.uint8)
    point[20, 20] = 1
    assert np.argwhere(coarsen(point, 2, opening_px=1)).tolist() == [[20, 20]]
    moved = cv2.morphologyEx(point, cv2.MORPH_CLOSE, np.ones((10, 10), np.uint8))
    assert np.argwhere(moved).tolist() == [[21, 21]]


def test_coarsen_keeps_what_touches_the_border() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = 1
    assert np.array_equal(coarsen(mask, 2), mask)
    assert np.array_equal(coarsen(1 - mask, 2), 1 - mask)
    corner = np.zeros((40, 60), np.uint8)
    corner[:3, :3] = 1  # part of a 5 x 5 square that goes on outside
    assert np.array_equal(coarsen(corner, 2), corner)


def test_coarsen_clears_specks_and_fills_gaps() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[20:50, 20:50] = 1
    whole = mask.copy()
    mask[30:39, 30:39] = 0  # 9 wide: closed
    mask[5:9, 5:9] = 1  # 4 wide: cleared
    assert np.array_equal(coarsen(mask, 2), whole)
    mask[30:40, 30:40] = 0  # 10 wide: stays
    assert (coarsen(mask, 2)[30:40, 30:40] == 0).all()


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), scale=st.sampled_from([0.6, 1.5, 3.0]))
@settings(max_examples=40, deadline=None)
def test_every_threshold_set_is_coarsened_as_a_binary_mask(seed: int, classes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    field = nd.gaussian_filter(rng.random((48, 64)), scale)
    labels = np.digitize(field, np.quantile(field, np.arange(1, classes) / classes)).astype(np.uint8)
    order = rng.permutation(classes)
    labels = order.astype(np.uint8)[labels] if rng.random() < 0.5 else rng.permutation(classes).astype(np.uint8)[labels]
    found = coarsen(labels, classes, order=order.tolist())
    rank = np.empty(classes, np.uint8)
    rank[order] = np.arange(classes)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= set(np.unique(labels))
    for threshold in range(1, classes):
        binary = coarsen((rank[labels] >= threshold).astype(np.uint8), 2)
        assert np.array_equal(rank[found] >= threshold, binary.astype(bool))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_opening_only_takes_and_closing_only_adds_and_both_are_done_once(seed: int) -> None:
    mask = blobs(seed, 64, 64, 1.5)
    closed_only = coarsen(mask, 2, opening_px=1)
    assert np.array_equal(coarsen(closed_only, 2, opening_px=1), closed_only)
    assert (closed_only >= mask).all()
    opened_only = coarsen(mask, 2, closing_px=1)
    assert np.array_equal(coarsen(opened_only, 2, closing_px=1), opened_only)
    assert (opened_only <= mask).all()


def test_ignored_pixels_count_as_the_class_that_gives_way() -> None:
    labels = np.full((40, 40), 2, np.uint8)
    labels[10:30, 10:30] = 255
    labels[35:38, 35:38] = 255
    found = coarsen(labels, len(PDL1), order=class_order(PDL1))
    assert (found[10:30, 10:30] == PDL1.ids("air")[0]).all()
    assert (found[35:38, 35:38] == 2).all()


def test_class_order_goes_from_air_to_cells() -> None:
    assert [CELLS.names[label] for label in class_order(CELLS)] == [
        "air", "other", "inflammation", "PD-L1 negative", "PD-L1 positive", "cell",
    ]  # fmt: skip
    assert class_order(TISSUE) == (0, 1)
    ki67 = get_scheme("ki67")
    assert [ki67.names[label] for label in class_order(ki67)] == ["air", "other", "Ki-67 negative", "Ki-67 positive"]


@pytest.mark.parametrize("name", [*SCHEMES, "configs/schemes/kidney.yaml"])
def test_every_scheme_has_coarse_maps_drawn_sketched_and_described(name: str) -> None:
    scheme, rng = load_scheme(name), np.random.default_rng(0)
    assert sorted(class_order(scheme)) == list(range(len(scheme)))
    coarse = drawn_coarse(rng, Request(64, 96, 0.5, scheme))
    assert len(np.unique(coarse)) > 1
    assert np.isfinite(features(coarse, scheme)).all()
    sketched = augment_sketch([Sketch("a.png", coarse, scheme)], rng, 64, 96)
    assert sketched.max() < len(scheme)


def test_coarsen_refuses_foreign_labels_and_orders() -> None:
    labels = np.full((4, 4), 2, np.uint8)
    with pytest.raises(ValueError, match="ids below 2 or 255, got 2"):
        coarsen(labels, 2)
    with pytest.raises(ValueError, match="every id below 3 once"):
        coarsen(labels, 3, order=(0, 1, 1))
    with pytest.raises(ValueError, match="uint8"):
        coarsen(labels.astype(np.int32), 3)


# ---- drawings ----


def draw(path: Path, mode: str = "RGB", size: tuple[int, int] = (128, 64), smooth: int = 1, **colours: object) -> Path:
    """A disc on paper, (width, height); `smooth` > 1 gives it a grey rim."""
    image = Image.new(mode, (size[0] * smooth, size[1] * smooth), colours.get("paper", "white"))
    box = [value * smooth for value in (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)]
    ImageDraw.Draw(image).ellipse(box, fill=colours.get("ink", "black"))
    if smooth > 1:
        image = image.resize(size, Image.Resampling.BOX)
    image.save(path)
    return path


def one(path: Path, **options: object) -> Sketch:
    (sketch,) = read_sketches(path, options.pop("scheme", TISSUE), **options)  # type: ignore[arg-type]
    return sketch


@pytest.mark.parametrize(
    ("mode", "colours"),
    [
        ("RGB", {}),
        ("L", {"paper": 255, "ink": 0}),
        ("1", {"paper": 1, "ink": 0}),
        ("RGB", {"ink": (178, 102, 140)}),
        ("RGB", {"ink": (255, 230, 0)}),
        ("RGBA", {"paper": (0, 0, 0, 0), "ink": (20, 20, 20, 255)}),
        ("RGBA", {"paper": (255, 255, 255, 255), "ink": (200, 0, 0, 255)}),
        ("LA", {"paper": (255, 0), "ink": (0, 255)}),
        ("I;16", {"paper": 65535, "ink": 300}),
        ("RGB", {"paper": (236, 230, 220), "ink": (40, 50, 60)}),
    ],
)
def test_any_dark_or_coloured_ink_on_paper_is_tissue(tmp_path: Path, mode: str, colours: dict[str, object]) -> None:
    sketch = one(draw(tmp_path / "disc.png", mode, **colours))
    assert sketch.labels.shape == (64, 128)
    assert sketch.labels[32, 64] == 1
    assert sketch.labels[0, 0] == 0
    assert sketch.labels.mean() == pytest.approx(np.pi / 16, abs=0.02)
    assert [note for note in sketch.notes if "transparent" not in note] == []


def test_a_palette_drawing_is_read_by_its_colours_and_not_its_indices(tmp_path: Path) -> None:
    image = Image.open(draw(tmp_path / "rgb.png")).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    image.save(tmp_path / "palette.png")
    assert np.array_equal(one(tmp_path / "palette.png").labels, one(tmp_path / "rgb.png").labels)


def test_white_is_tissue_turns_black_and_white_drawings_round(tmp_path: Path) -> None:
    path = draw(tmp_path / "mask.png", paper="black", ink="white")
    turned = one(path, white="tissue")
    assert turned.labels[32, 64] == 1
    assert np.array_equal(turned.labels, 1 - one(path).labels)


def test_white_strokes_on_a_clear_canvas_are_tissue_where_white_is(tmp_path: Path) -> None:
    path = draw(tmp_path / "clear.png", "RGBA", paper=(0, 0, 0, 0), ink=(255, 255, 255, 255))
    assert one(path, white="tissue").labels[32, 64] == 1
    with pytest.raises(UserError, match="one shade only"):
        one(path)


def test_grey_edges_are_cut_half_way_with_a_word(tmp_path: Path) -> None:
    sketch = one(draw(tmp_path / "soft.png", "L", smooth=4, paper=255, ink=0))
    assert re.search(r"\d % of it is grey, cut half-way at 12[78] of 255", " ".join(sketch.notes))
    hard = one(draw(tmp_path / "hard.png", "L", paper=255, ink=0))
    assert np.mean(sketch.labels != hard.labels) < 0.01
    pencil = one(draw(tmp_path / "pencil.png", "L", smooth=4, paper=250, ink=170))
    assert np.mean(pencil.labels != sketch.labels) < 0.01


@pytest.mark.parametrize(
    ("drawn", "said"),
    [((128, 64), ()), ((256, 128), ("resized to 64x128",)), ((64, 32), ("resized to 64x128",)),
     ((100, 200), ("200x100 resized to 64x128, its middle kept",))],
)  # fmt: skip
def test_another_size_is_fitted_with_a_word(tmp_path: Path, drawn: tuple[int, int], said: tuple[str, ...]) -> None:
    sketch = one(draw(tmp_path / "disc.png", size=drawn), size=(64, 128))
    assert sketch.labels.shape == (64, 128)
    assert sketch.labels[32, 64] == 1
    for word in said:
        assert any(word in note for note in sketch.notes), sketch.notes
    assert (sketch.notes == ()) == (said == ())


def test_a_disc_stays_round_when_it_is_fitted(tmp_path: Path) -> None:
    sketch = one(draw(tmp_path / "disc.png", size=(100, 100)), size=(64, 128))
    rows, columns = np.nonzero(sketch.labels)
    assert np.ptp(columns) == pytest.approx(64, abs=2)
    assert np.ptp(rows) == 63


def test_a_drawing_larger_than_needed_is_made_smaller(tmp_path: Path) -> None:
    sketch = one(draw(tmp_path / "large.png", "L", size=(3000, 1500), paper=255, ink=0))
    assert sketch.labels.size <= MAX_SKETCH_PX
    assert "made smaller" in sketch.notes[0]


def test_colours_of_a_scheme_read_exactly_and_rims_go_with_a_neighbour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = coarsen(rng.integers(0, 5, (16, 24), np.uint8).repeat(12, 0).repeat(12, 1), 5, order=class_order(PDL1))
    Image.fromarray(PDL1.palette[truth]).save(tmp_path / "exact.png")
    exact = one(tmp_path / "exact.png", scheme=PDL1)
    assert np.array_equal(exact.labels, truth)
    assert exact.notes == ()
    red, white = PDL1.palette[3], PDL1.palette[4]
    page = np.empty((40, 40, 3), np.uint8)
    page[:, :20], page[:, 20:] = red, white
    page[:, 19] = (red.astype(int) + white) // 2
    Image.fromarray(page).save(tmp_path / "rim.png")
    rim = one(tmp_path / "rim.png", scheme=PDL1)
    assert set(np.unique(rim.labels)) == {3, 4}
    assert "read as what lies nearest" in rim.notes[0]


def test_colours_of_no_class_are_refused_with_those_that_are(tmp_path: Path) -> None:
    draw(tmp_path / "green.png", paper=(0, 255, 0))
    with pytest.raises(UserError, match=r"expected the colours of pdl1 \(#d6cec4 other, .*got others on 100 %"):
        one(tmp_path / "green.png", scheme=PDL1)


@pytest.mark.parametrize(
    ("name", "mode", "colours", "said"),
    [
        ("white", "RGB", {"ink": "white"}, "one shade only. Draw on it or leave it out"),
        ("black", "RGB", {"paper": "black"}, "one shade only"),
        ("ids", "L", {"paper": 0, "ink": 1}, "one shade only"),
        ("faint", "L", {"paper": 255, "ink": 240}, "one shade only"),
    ],
)
def test_an_empty_drawing_is_refused(
    tmp_path: Path, name: str, mode: str, colours: dict[str, object], said: str
) -> None:
    path = draw(tmp_path / f"{name}.png", mode, **colours)
    with pytest.raises(UserError, match=said) as refused:
        one(path)
    assert str(path) in str(refused.value)


def test_a_drawing_of_a_dot_is_refused(tmp_path: Path) -> None:
    page = np.full((200, 200), 255, np.uint8)
    page[50:55, 50:55] = 0
    Image.fromarray(page).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match="got air nearly everywhere"):
        one(tmp_path / "dot.png")


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    jpeg = tmp_path / "disc.jpg"
    draw(tmp_path / "disc.png").rename(tmp_path / "keep.png")
    Image.open(tmp_path / "keep.png").save(jpeg)
    with pytest.raises(UserError, match=r"disc\.jpg: expected only PNG drawings .* got \.jpg\. Export it as PNG\."):
        read_sketches(tmp_path, TISSUE)
    with pytest.raises(UserError, match=r"expected a PNG drawing, got \.jpg"):
        read_sketches(jpeg, TISSUE)
    jpeg.rename(tmp_path / "disguised.png")
    with pytest.raises(UserError, match=r"disguised\.png: expected a PNG drawing, got another kind by that name"):
        read_sketches(tmp_path / "disguised.png", TISSUE)


def test_damaged_drawings_are_refused(tmp_path: Path) -> None:
    content = draw(tmp_path / "disc.png").read_bytes()
    for name, broken in (("short", content[:-40]), ("flipped", content[:60] + b"\xff" + content[61:]), ("empty", b"")):
        (tmp_path / f"{name}.png").write_bytes(broken)
        with pytest.raises(UserError, match=f"{name}.png: expected a readable PNG file, got a damaged one"):
            read_sketches(tmp_path / f"{name}.png", TISSUE)


def test_a_drawing_above_the_pixel_bound_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    ihdr = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + ihdr + b"\0\0\0\0IDAT" + b"\0" * 4)
    with pytest.raises(UserError, match=r"huge\.png: expected at most 67,108,864 pixels"):
        read_sketches(tmp_path / "huge.png", TISSUE)


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("b", "a", "C"):
        draw(tmp_path / f"{name}.PNG" if name == "C" else tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    assert [sketch.name for sketch in read_sketches(tmp_path, TISSUE)] == ["C.PNG", "a.png", "b.png"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_drawings_is_refused(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    with pytest.raises(
        UserError, match="expected PNG drawings or labelme's JSON, got none" if exists else "expected a folder of PNG"
    ):
        read_sketches(folder, TISSUE)


def outline(path: Path, *shapes: tuple[str, str, object], **changes: object) -> Path:
    """labelme's JSON of an image of 200x400, (height, width), with shapes (label, kind, points)."""
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    document = {"imagePath": f"{path.stem}.jpg", "imageHeight": 200, "imageWidth": 400, "shapes": listed}
    path.write_text(json.dumps(document | changes))
    return path


DISC = ("tissue", "circle", [[200, 100], [280, 100]])
HOLE = ("air", "rectangle", [[180, 80], [220, 120]])


@pytest.mark.parametrize("size", [None, (200, 400), (64, 128), (100, 100)])
def test_outlines_of_labelme_are_read_at_any_size(tmp_path: Path, size: tuple[int, int] | None) -> None:
    outline(tmp_path / "a.json", DISC, HOLE)
    draw(tmp_path / "a.png").rename(tmp_path / "a.jpg")  # what was drawn on
    sketch = one(tmp_path, size=size)
    height, width = sketch.labels.shape
    assert (height, width) == (size or (200, 400))
    y, x = (np.mgrid[:height, :width] + 0.5 - np.array([height, width])[:, None, None] / 2) * 200 / height
    wanted = (np.hypot(y, x) < 80) & ~((np.abs(y) < 20) & (np.abs(x) < 20))
    assert np.mean(sketch.labels != wanted) < 0.01
    share, _, words = sketch.notes[-1].partition(" ")
    assert float(share) == pytest.approx(100 * np.mean(np.hypot(y, x) > 80), abs=1)
    assert words == "% of it is in no shape, read as air"


@pytest.mark.parametrize(
    ("shapes", "changes", "said"),
    [
        ([("tumour", *DISC[1:])], {}, r"shape 1: expected a class of tissue \(air, tissue\), got 'tumour'. Rename it"),
        ([HOLE], {}, "got air nearly everywhere"),
        ([DISC], {"imageHeight": None}, "with the size of its image, got none"),
        ([DISC], {"imagePath": "b.png"}, "expected annotations of a, got those of b.png"),
        ([("tissue", "line", [[0, 0], [1, 1]])], {}, "shape 1: expected a polygon, rectangle, circle or mask"),
        ([], {"shapes": None}, "expected labelme's JSON with shapes"),
    ],
)
def test_outlines_that_cannot_be_read_are_refused(tmp_path: Path, shapes: list, changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        one(outline(tmp_path / "a.json", *shapes, **changes))
    assert str(tmp_path / "a.json") in str(refused.value)


def test_the_digest_tells_pools_apart(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", size=(64, 128))
    pool = read_sketches(tmp_path, TISSUE)
    digest = sketches_sha256(pool)
    assert digest == sketches_sha256(read_sketches(tmp_path, TISSUE))
    renamed = [Sketch("c.png", pool[0].labels, TISSUE), pool[1]]
    flipped = [Sketch("a.png", 1 - pool[0].labels, TISSUE), pool[1]]
    reshaped = [Sketch("a.png", pool[0].labels.reshape(-1, 64), TISSUE), pool[1]]
    others = [renamed, flipped, reshaped, pool[::-1], pool[:1]]
    assert len({digest, *(sketches_sha256(other) for other in others)}) == 6


# ---- augmentation ----

STILL = AugmentSketchConfig(
    turn=0, quarter_turns=False, zoom=1, stretch=1, shear=0, shift=0, bend=0, wobble=0, merge=0, opening_px=1,
    closing_px=1,
)  # fmt: skip


def pool(scheme_name: str = "tissue") -> list[Sketch]:
    scheme = get_scheme(scheme_name)
    rng = np.random.default_rng(5)
    shapes = [(64, 128), (90, 70), (200, 300)]
    fields = [nd.gaussian_filter(rng.random(shape), 9) for shape in shapes]
    cuts = np.arange(1, len(scheme)) / len(scheme)
    labels = [np.digitize(field, np.quantile(field, cuts)).astype(np.uint8) for field in fields]
    return [Sketch(f"{place}.png", one, scheme) for place, one in enumerate(labels)]


def test_without_any_change_only_mirror_images_are_left() -> None:
    sketch = pool()[0]
    seen = {augment_sketch([sketch], np.random.default_rng(seed), 64, 128, STILL).tobytes() for seed in range(8)}
    assert seen == {sketch.labels.tobytes(), sketch.labels[::-1].tobytes()}


@pytest.mark.parametrize("scheme", ["tissue", "pdl1", "pdl1_cells"])
def test_augmented_maps_have_the_size_the_classes_and_coarse_shapes(scheme: str) -> None:
    sketches = pool(scheme)
    classes = len(sketches[0].scheme)
    for seed in range(6):
        found = augment_sketch(sketches, np.random.default_rng(seed), 96, 160)
        assert found.shape == (96, 160)
        assert found.dtype == np.uint8
        assert found.max() < classes
        assert np.unique(found).size > 1


def test_the_same_generator_gives_the_same_bytes_and_another_gives_others() -> None:
    sketches = pool()
    maps = [augment_sketch(sketches, np.random.default_rng(seed), 64, 128).tobytes() for seed in (*range(10), 0)]
    assert maps[0] == maps[-1]
    assert len(set(maps)) == 10


def test_augmented_bytes_are_those_of_every_machine() -> None:
    """A snapshot: only exactly rounded operations are used, so another processor must not change it."""
    whole = hashlib.sha256()
    for seed in range(4):
        whole.update(augment_sketch(pool_of_squares(), np.random.default_rng(seed), 64, 128).tobytes())
        request = Request(64, 128, 0.5, TISSUE, tissue=0.6)
        whole.update(drawn_coarse(np.random.default_rng(seed), request).tobytes())
    assert whole.hexdigest() == SNAPSHOT


SNAPSHOT = "3bacf6fc3f17088f929c3fd917d7c5693119fd886bbfeb62abc132d49fd715b9"


def pool_of_squares() -> list[Sketch]:
    labels = np.zeros((80, 120), np.uint8)
    labels[10:50, 20:90] = 1
    return [Sketch("square.png", labels, TISSUE), Sketch("turned.png", labels.T.copy(), TISSUE)]


@pytest.mark.parametrize("change", ["turn", "zoom", "stretch", "shear", "shift", "bend", "wobble", "quarter_turns"])
def test_every_option_of_augmentation_changes_something(change: str) -> None:
    value = {"turn": 1.0, "zoom": 2.0, "stretch": 2.0, "quarter_turns": True}.get(change, 0.3)
    moved = STILL.model_copy(update={change: value})
    sketch = pool()[:1]
    seen = [augment_sketch(sketch, np.random.default_rng(seed), 64, 128, moved) for seed in range(4)]
    own = sketch[0].labels
    assert any(not np.array_equal(map_, own) and not np.array_equal(map_, own[::-1]) for map_ in seen)


def test_merges_hold_pixels_of_both() -> None:
    merged = STILL.model_copy(update={"merge": 1.0})
    flat = [Sketch("low.png", np.repeat(np.array([[0, 1]], np.uint8), 32, 1).repeat(64, 0), TISSUE)]
    shares = {round(float(augment_sketch(flat * 2, np.random.default_rng(seed), 64, 64, merged).mean()), 2)
              for seed in range(12)}  # fmt: skip
    assert shares == {0.5}  # one drawing merged with itself stays itself
    tall = [*flat, Sketch("tall.png", flat[0].labels.T.copy(), TISSUE)]
    shares = {round(float(augment_sketch(tall, np.random.default_rng(seed), 64, 64, merged).mean()), 2)
              for seed in range(40)}  # fmt: skip
    assert {0.25, 0.5, 0.75} <= shares


def test_pores_are_cut_out_of_the_tissue_alone_and_take_at_most_their_share() -> None:
    sketch = pool()[:1]
    fine = STILL.model_copy(update={"pores": 0.5, "pore_size": (0.05, 0.05)})
    shares = []
    for seed in range(12):
        found = augment_sketch(sketch, np.random.default_rng(seed), 64, 128, fine)
        plain = augment_sketch(sketch, np.random.default_rng(seed), 64, 128, STILL)
        assert (found <= plain).all()
        shares.append(1 - found.sum() / plain.sum())
    assert max(shares) <= 0.5
    assert np.ptp(shares) > 0.2
    regions = pool("pdl1")[:1]
    maps = [augment_sketch(regions, np.random.default_rng(0), 64, 128, config) for config in (fine, STILL)]
    assert np.array_equal(*maps)


def test_an_empty_pool_is_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        augment_sketch([], np.random.default_rng(0), 64, 64)


# ---- maps drawn by the plan ----


@pytest.mark.parametrize("layout", ["edge", "core", "islands", "holes", "solid", "regions"])
@pytest.mark.parametrize("tissue", [0.0, 0.137, 0.6, 1.0])
def test_a_drawn_mask_has_the_tissue_asked_to_the_pixel(layout: str, tissue: float) -> None:
    request = Request(96, 160, 0.5, TISSUE, tissue=tissue)
    mask = drawn_mask(np.random.default_rng(3), request, LayoutConfig(layouts={layout: 1.0}))
    assert np.count_nonzero(mask) == target_count(tissue, mask.size)
    coarse = drawn_coarse(np.random.default_rng(3), request, LayoutConfig(layouts={layout: 1.0}))
    assert np.array_equal(coarse, coarsen(mask, 2))


@given(
    seed=st.integers(0, 1000),
    tissue=st.floats(0.05, 1.0),
    tps=st.floats(0, 1),
    scheme=st.sampled_from([PDL1, CELLS]),
)
@settings(max_examples=12, deadline=None)
def test_a_drawn_mask_of_regions_meets_tissue_and_tps(seed: int, tissue: float, tps: float, scheme: object) -> None:
    request = Request(64, 96, 0.5, scheme, tissue=tissue, tps=tps)  # type: ignore[arg-type]
    mask = drawn_mask(np.random.default_rng(seed), request, LayoutConfig())
    found = measure(Tile(mask, np.zeros(mask.shape, np.int32), 0.5, scheme))  # type: ignore[arg-type]
    assert round(found.tissue_fraction * mask.size) == target_count(tissue, mask.size)
    tumour = np.isin(mask, [2, 3])
    assert np.count_nonzero(mask == 3) == target_count(tps, int(tumour.sum()))


def test_a_drawn_mask_meets_all_fractions_and_has_cells_on_the_tissue() -> None:
    fractions = (0.2, 0.1, 0.2, 0.2, 0.1, 0.2)
    mask = drawn_mask(np.random.default_rng(0), Request(96, 160, 0.5, CELLS, fractions=fractions), LayoutConfig())
    shares = np.bincount(mask.ravel(), minlength=6) / mask.size
    assert np.abs(shares - fractions).max() < 2 / mask.size
    assert set(np.unique(coarsen(mask, 6, order=class_order(CELLS)))) == set(range(6))


def test_a_drawn_map_is_the_same_for_the_same_generator() -> None:
    request = Request(64, 128, 0.5, TISSUE, tissue=0.5)
    maps = [drawn_coarse(np.random.default_rng(seed), request).tobytes() for seed in (0, 1, 2, 3, 0)]
    assert maps[0] == maps[-1]
    assert len(set(maps)) == 4


def test_drawn_maps_follow_the_resolution() -> None:
    """Twice the micrometres per pixel: pores half as many pixels wide, so more edges per pixel."""
    config = LayoutConfig(layouts={"solid": 1.0}, opening_px=1, closing_px=1)
    edges = []
    for mpp in (0.25, 0.5, 1.0):
        mask = drawn_coarse(np.random.default_rng(1), Request(128, 256, mpp, TISSUE, tissue=0.5), config)
        edges.append(np.mean(mask[:, 1:] != mask[:, :-1]))
    assert edges[0] * 1.5 < edges[1]
    assert edges[1] * 1.5 < edges[2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"layouts": {"edge": -1.0}}, "weights from 0"),
        ({"layouts": {"edges": 1.0}}, "layouts"),
        ({"open_share": [0.9, 0.1]}, "smaller of two"),
        ({"open_share": [0.5, 1.5]}, "up to 1"),
        ({"pore_um": [0.0, 2.0]}, "from 0.5 um"),
        ({"pores": 1}, "expected a known key"),
    ],
)
def test_impossible_layouts_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(LayoutConfig, values, "layout.yaml")


@pytest.mark.parametrize("value", [[0.02, 0.01], [0.0, 0.01], [0.5, 1.5]])
def test_impossible_pore_sizes_are_refused(value: list[float]) -> None:
    with pytest.raises(UserError, match="smaller of two shares"):
        parse(AugmentSketchConfig, {"pore_size": value}, "sketch.yaml")


def test_one_layout_named_in_yaml_is_the_only_one() -> None:
    assert parse(LayoutConfig, {"layouts": {"core": 1}}, "layout.yaml").layouts == {"core": 1.0}


@pytest.mark.parametrize("make", [AugmentSketchConfig, LayoutConfig])
def test_configs_survive_yaml(make: Callable[..., AugmentSketchConfig | LayoutConfig]) -> None:
    assert make(**make().model_dump(mode="json")) == make()
