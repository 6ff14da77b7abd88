"""The contact sheet and the page: what they show, how large they are, and that nothing in a manifest can harm them."""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from factory.commands.inspect import inspect
from factory.core.cells import cells_of
from factory.core.datasets import check_out, random_rows
from factory.core.page import embed_json
from factory.core.runs import RunSpec, open_run, write_shard
from factory.inspect import page as page_module
from factory.inspect import sheet as sheet_module
from factory.inspect.blocks import caption, cut_images, dataset_block
from factory.inspect.layout import MAX_SIDE_PX, Block, View, arrange
from factory.inspect.page import render_page
from factory.inspect.report import default_out, inspect_dataset
from factory.inspect.selection import choose, default_sort
from factory.inspect.sheet import render_sheet
from factory.inspect.views import compose, contour_layer, contour_palette, mask_layer, shrink_labels
from manifests import IGNORE, SCHEMES, Dataset, DatasetInfo, Tile, UserError, get_scheme, measure
from manifests.schema import SCHEMA
from manifests.store import Layout
from manifests.table import write_dataset_manifest
from tests.conftest import embedded_json, with_columns

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028'\""


def png(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def block(count: int, shape: tuple[int, int], image: np.ndarray | None = None) -> Block:
    image = np.zeros((*shape, 3), np.uint8) if image is None else image
    return Block("tiles", "note", "", ("image",), (), count, shape, 1, lambda place: View(image, None, (f"{place}",)))


# Which tiles ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    n=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_choice_holds_the_extremes_and_is_even_by_rank(values: list[float], n: int, seed: int) -> None:
    rows = {name: pa.nulls(len(values), SCHEMA.field(name).type) for name in ("tissue_fraction", "label_scheme")}
    rows["tissue_fraction"] = pa.array(values)
    chosen = choose(Dataset(Path("x"), pa.table(rows), None, None), n, "tissue", seed)  # type: ignore[arg-type]
    assert len(chosen) == len(set(chosen)) == min(n, len(values))
    picked_values = [values[place] for place in chosen]
    assert picked_values == sorted(picked_values)
    if len(chosen) > 1:
        assert (picked_values[0], picked_values[-1]) == (min(values), max(values))
    expected = np.sort(values)[np.round(np.linspace(0, len(values) - 1, len(chosen))).astype(int)]
    assert picked_values == expected.tolist()


def test_choice_takes_tiles_without_a_value_last_and_in_proportion(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = with_columns(
        dataset_factory("a", scheme="pdl1", n=8), tps_area=[None, 0.4, None, 0.1, None, 0.3, None, 0.2]
    )
    chosen = choose(dataset, 4, "tps", 0)
    values = [dataset.row(place)["tps_area"] for place in chosen]
    assert values[0] == 0.1
    assert [value is None for value in values] == [False, False, True, True]


def test_choice_of_tps_follows_the_basis_of_the_scheme(dataset_factory: Callable[..., Dataset]) -> None:
    cells = with_columns(dataset_factory("a", scheme="ihc", n=3), tps_cells=[0.3, 0.1, 0.2], tps_area=[0.1, 0.2, 0.3])
    assert choose(cells, 3, "tps", 0) == [1, 2, 0]
    area = with_columns(dataset_factory("b", scheme="pdl1", n=3), tps_cells=[0.3, 0.1, 0.2], tps_area=[0.1, 0.2, 0.3])
    assert choose(area, 3, "tps", 0) == [0, 1, 2]


def test_choice_at_random_depends_on_the_seed_alone(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("a", n=12)
    assert choose(dataset, 5, "random", 1) == choose(dataset, 5, "random", 1) != choose(dataset, 5, "random", 2)


def test_choice_refuses_what_cannot_be_chosen(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("a", scheme="nuclei", n=3)
    assert default_sort(dataset) == "cells"
    with pytest.raises(UserError, match=r"--sort: .* got tps.*Use --sort cells"):
        choose(dataset, 2, "tps", 0)
    with pytest.raises(UserError, match="--n: expected 1 tile or more, got 0"):
        choose(dataset, 0, "cells", 0)
    with pytest.raises(UserError, match="without rows"):
        choose(dataset.where([False] * 3), 2, "random", 0)


# Layers --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), scheme=st.sampled_from(sorted(SCHEMES)))
def test_cell_classes_agree_with_measure(seed: int, scheme: str) -> None:
    rng, labels = np.random.default_rng(seed), get_scheme(scheme)
    semantic = rng.choice(np.array([*range(len(labels)), IGNORE], np.uint8), (12, 14))
    instance = rng.choice(np.array([0, 1, 2, 3, 900, 2**31 - 1], np.int32), (12, 14))
    tile = Tile(semantic, instance, 0.5, labels)
    classes = cells_of(tile).classes.tolist()
    found = measure(tile)
    assert len(classes) == found.cells
    for role, cells in (("tumour_positive", found.cells_positive), ("tumour_negative", found.cells_negative)):
        if cells is not None:
            assert sum(one in labels.ids(role) for one in classes) == cells


def test_mask_layer_fills_regions_and_leaves_air_clear() -> None:
    scheme = get_scheme("pdl1")
    semantic = np.full((20, 30), 4, np.uint8)
    semantic[5:15, 5:25] = 3
    layer = mask_layer(semantic, scheme)
    assert layer[0, 0, 3] == 0
    assert tuple(layer[10, 15, :3]) == scheme.classes[3].colour
    assert 0 < layer[10, 15, 3] < 255
    outline = layer[..., 3] == 255
    assert outline.sum() == 2 * 20 + 2 * 8
    assert not outline[6:14, 6:24].any()


def test_mask_layer_hatches_what_is_ignored() -> None:
    layer = mask_layer(np.full((24, 24), IGNORE, np.uint8), get_scheme("nuclei"))
    assert 0.2 < (layer[..., 3] == 255).mean() < 0.5


def test_contour_layer_separates_touching_cells_and_colours_them_by_class() -> None:
    scheme = get_scheme("ihc")
    instance, semantic = np.zeros((10, 20), np.int32), np.zeros((10, 20), np.uint8)
    instance[2:8, 2:10], instance[2:8, 10:18] = 7, 900_000
    semantic[2:8, 2:10], semantic[2:8, 10:18] = 1, 2
    layer = contour_layer(Tile(semantic, instance, 0.5, scheme), (10, 20))
    drawn = layer[..., 3] > 0
    assert not drawn[instance == 0].any()
    assert drawn[2:8, 9].all()
    assert drawn[2:8, 10].all()
    assert not drawn[4, 4:8].any()
    palette = contour_palette(scheme)
    assert (layer[5, 9, :3] == palette[1]).all()
    assert (layer[5, 10, :3] == palette[2]).all()


def test_compose_is_the_image_where_a_layer_is_clear_and_the_layer_where_it_is_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    layer = np.zeros((6, 8, 4), np.uint8)
    layer[3:] = (10, 20, 30, 255)
    composed = compose(image, layer)
    assert (composed[:3] == image[:3]).all()
    assert (composed[3:] == (10, 20, 30)).all()


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 99))
def test_shrunk_labels_are_labels_that_were_there(shape: tuple[int, int], seed: int) -> None:
    labels = np.random.default_rng(seed).choice(np.array([0, 3, 255], np.uint8), (17, 23))
    shrunk = shrink_labels(labels, shape)
    assert shrunk.shape == shape
    assert set(np.unique(shrunk)) <= set(np.unique(labels))


# The sheet -----------------------------------------------------------------------------------------------------------


def test_sheet_of_one_tile_has_the_size_that_its_parts_add_up_to(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("one", n=1, size=(64, 64))
    done = inspect_dataset(dataset.root)
    sheet = png(done.sheet.read_bytes())
    # Width: a heading of 40 ems of 24 px and margins. Height: margins, heading, 4 x 64 px, space, two lines of 32 px.
    assert sheet.shape == (2 * 40 + 182 + 256 + 12 + 2 * 32, 40 * 24 + 2 * 40, 3)
    shown = sheet[40 + 182 : 40 + 182 + 256, 40 : 40 + 256]
    assert (shown[2::4, 2::4] == dataset[0].image).all()
    assert done.tiles == 1


def test_sheet_keeps_every_limit_whatever_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, shape in ((1, (64, 64)), (24, (512, 1024)), (96, (1024, 512)), (7, (2048, 96)), (200, (256, 256))):
        layout = arrange([block(count, shape), block(3, (33, 65))], 8_000_000)
        assert max(layout.width, layout.height) <= MAX_SIDE_PX
        assert layout.width * layout.height <= 8_000_000
        for grid, shown in zip(layout.grids, (count, 3), strict=True):
            assert grid.columns * grid.rows >= shown
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    monkeypatch.setattr(sheet_module, "MAX_BYTES", 400_000)
    told: list[int] = []
    content = render_sheet([block(12, (256, 256), noise)], lambda: told.append(1))
    assert len(content) <= 400_000
    assert len(told) == 12
    assert png(content).std() > 20


def test_sheet_refuses_more_tiles_than_can_be_told_apart() -> None:
    with pytest.raises(UserError, match=r"--n: .* got 5000 in all"):
        arrange([block(5000, (256, 256))], 8_000_000)


def test_caption_states_asked_and_achieved_and_leaves_out_what_has_no_meaning(
    dataset_factory: Callable[..., Dataset],
) -> None:
    row = dict.fromkeys(SCHEMA.names) | {"sample_id": "a-1"}
    assert caption(row) == ("a-1",)
    asked = row | {"request_tps": 0.12, "tps_area": 0.12, "tps_cells": 0.119, "request_tissue": 0.5, "split": "val"}
    achieved = asked | {"tissue_fraction": 0.501, "request_cells": 0, "cells": 3}
    assert caption(achieved) == (
        "a-1 · val",
        "TPS 12.0 % asked, 12.0 % area, 11.9 % cells",
        "tissue 50.0 % asked, 50.1 % area",
        "cells 0 asked, 3 drawn",
    )
    assert caption(row | {"has_tumour": False})[1] == "TPS no tumour"
    weak = row | {"tissue_fraction": 0.5, "cells": 0, "label_origin": "weak"}
    assert caption(weak)[1] == "tissue 50.0 %"
    assert caption(weak | {"label_origin": "annotated"})[1] == "tissue 50.0 % · 0 cells"


def test_tiles_beside_are_shown_at_one_scale_and_larger_ones_by_their_middle(
    dataset_factory: Callable[..., Dataset],
) -> None:
    first = dataset_factory("first", n=2, size=(64, 96), source="synthetic")
    coarse = dataset_factory("coarse", n=2, size=(128, 128), mpp=2 * first.row(0)["mpp"])
    beside = dataset_block(coarse, [0, 1], "cells", first)
    assert (beside.zoom, beside.shape) == (2.0, (32, 48))
    assert "the middle 32 x 48 of each shown" in beside.note
    view, sample = beside.view(1), coarse[1]
    assert view.tile is not None
    assert np.array_equal(view.image, sample.image[48:80, 40:88])
    assert np.array_equal(view.tile.instance, sample.tile.instance[48:80, 40:88])
    blocks = [dataset_block(first, [0, 1], "cells"), beside]
    assert len({grid.panel for grid in arrange(blocks, 8_000_000).grids}) == 1


# Tiles beside --------------------------------------------------------------------------------------------------------


def test_cuts_are_pieces_of_the_images_spread_over_the_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"im{number}": rng.integers(0, 200, (90, 120, 3), dtype=np.uint8) for number in range(5)}
    images["im4"] = images["im4"][:20, :30]
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("no image")
    cuts = cut_images(tmp_path, 7, (32, 48), 3)
    assert [cut.caption[0] for cut in cuts] == ["im0", "im0", "im1", "im1", "im2", "im3", "im4"]
    assert [cut.image.shape for cut in cuts] == [(32, 48, 3)] * 6 + [(20, 30, 3)]
    windows = np.lib.stride_tricks.sliding_window_view(images["im0"], (32, 48, 3))[:, :, 0]
    assert (windows == cuts[0].image).all(axis=(2, 3, 4)).any()
    assert [cut.caption[0] for cut in cut_images(tmp_path, 2, (8, 8), 0)] == ["im0", "im4"]


def test_cuts_prefer_tissue_to_background(tmp_path: Path) -> None:
    image = np.full((400, 400, 3), 250, np.uint8)
    image[:200] = 120
    Image.fromarray(image).save(tmp_path / "slide.png")
    cuts = cut_images(tmp_path, 20, (40, 40), 0)
    assert all((cut.image < 235).mean() >= 0.3 for cut in cuts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n broken", "got a damaged one"),
        ("a.txt", b"", "got none of these"),
    ],
)
def test_cuts_refuse_a_folder_that_shows_nothing(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        cut_images(tmp_path, 2, (8, 8), 0)


def test_cuts_refuse_images_of_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="expected an 8-bit RGB image, got grey"):
        cut_images(tmp_path, 1, (8, 8), 0)


# The page ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_page_and_sheet_show_every_scheme(dataset_factory: Callable[..., Dataset], scheme: str) -> None:
    dataset = dataset_factory("tiles", scheme=scheme, n=5, source="synthetic")
    done = inspect_dataset(dataset.root, n=3)
    assert png(done.sheet.read_bytes()).std() > 5
    document = embedded_json(done.page.read_text())
    assert document["columns"]["sample_id"] == dataset.table["sample_id"].to_pylist()
    assert document["columns"]["cells"] == dataset.table["cells"].to_pylist()
    assert [one["name"] for one in document["schemes"]] == [scheme]
    assert len(document["schemes"][0]["classes"]) == len(get_scheme(scheme))
    assert document["warning"] == "synthetic, not for diagnosis"
    assert sorted(picture["row"] for picture in document["pictures"]) == list(range(5))


def test_page_and_sheet_show_tiles_without_instances(tmp_path: Path) -> None:
    scheme, size = get_scheme("tissue"), (48, 64)
    spec = RunSpec(tmp_path / "bare", {}, Layout(2, *size, 2), DatasetInfo(False, "tests", (scheme,)))
    row = {"source": "real", "height": size[0], "width": size[1], "mpp": 1.0, "label_scheme": "tissue"}
    tile = Tile(np.repeat(np.arange(2, dtype=np.uint8), 24 * 64).reshape(size), np.zeros(size, np.int32), 1.0, scheme)
    samples = [(np.full((*size, 3), 90, np.uint8), tile, {**row, "sample_id": name}) for name in ("a", "b")]
    with open_run(spec) as run:
        run.done[0] = write_shard(spec, 0, samples)
        run.finish()
    done = inspect_dataset(spec.out)
    pictures = embedded_json(done.page.read_text())["pictures"]
    assert [sorted(picture) for picture in pictures] == [["image", "mask", "row"]] * 2
    assert done.sort == "tissue"
    sheet = png(done.sheet.read_bytes())
    # The cards stand in one column of two panels: the image, and the mask, whose air lets the image through.
    grey = (sheet == 90).all(axis=2).mean(axis=0) > 0.05
    assert np.count_nonzero(np.diff(grey.astype(int)) == 1) == 2


def test_page_shows_rows_whose_optional_columns_are_null(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("tiles", scheme="pdl1", n=3)
    optional = [field.name for field in SCHEMA if field.nullable]
    bare = with_columns(dataset, **{name: [None] * 3 for name in optional})
    document = embedded_json(render_page(bare, default_sort(bare), 0))
    assert document["columns"]["split"] == document["columns"]["tps"] == [None] * 3
    write_dataset_manifest(dataset.root, len(bare), bare.table.to_pylist(), bare.info)
    assert inspect_dataset(dataset.root).sort == "random"


def test_page_loads_nothing_and_forbids_it(dataset_factory: Callable[..., Dataset]) -> None:
    page = render_page(dataset_factory("tiles", n=3), "cells", 0)
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page), re.IGNORECASE)
    assert not re.search(r"<(?:link|iframe|object|embed|base)\b|@import|url\(|\bfetch\(|XMLHttpRequest|innerHTML", page)
    assert page.count("<script") == page.count("</script") == 2
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]


def test_page_keeps_hostile_strings_harmless_and_whole(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = with_columns(dataset_factory("tiles", n=2), group_id=[HOSTILE, "<!--<script>"], split=[None, "val"])
    page = render_page(dataset, "cells", 0)
    assert embedded_json(page)["columns"]["group_id"] == [HOSTILE, "<!--<script>"]
    assert "alert(1)</script" not in page
    assert "<img src=x" not in page
    assert page.count("</script") == 2
    assert not set("<>&\u2028") & set(embed_json({HOSTILE: HOSTILE}))


def test_page_shortens_endless_strings(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = with_columns(dataset_factory("tiles", n=2), group_id=["x" * 10**6, "y"])
    page = render_page(dataset, "cells", 0)
    assert len(page) < 200_000
    assert embedded_json(page)["columns"]["group_id"][1] == "y"


def test_page_title_is_escaped(dataset_factory: Callable[..., Dataset]) -> None:
    page = render_page(dataset_factory("<b>&@@DATA@@", n=1), "cells", 0)
    assert "<title>&lt;b&gt;&amp;@@DATA@@ · tiles</title>" in page


def decode(uri: str) -> Image.Image:
    """The picture in a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        image.load()
        return image


def test_page_stays_within_its_budgets(
    dataset_factory: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_factory("tiles", n=12, size=(256, 256))
    whole = embedded_json(render_page(dataset, "cells", 0))
    monkeypatch.setattr(page_module, "MAX_ROWS", 8)
    monkeypatch.setattr(page_module, "MAX_PICTURES", 5)
    monkeypatch.setattr(page_module, "PICTURES_BYTES", 5 * 12_000)
    cut = embedded_json(render_page(dataset, "cells", 0))
    assert (cut["total"], len(cut["columns"]["sample_id"]), len(cut["pictures"])) == (12, 8, 5)
    size = sum(len(value) for picture in cut["pictures"] for value in picture.values() if isinstance(value, str))
    assert size <= 5 * 12_000
    assert len({decode(picture["image"]).size for picture in cut["pictures"]}) == 1
    assert max(len(picture["image"]) for picture in whole["pictures"]) > 12_000
    first, again = (random_rows(dataset, 8, np.random.default_rng(0)).table for _ in range(2))
    assert first.equals(again)


def test_page_pictures_are_the_image_and_its_layers(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("tiles", scheme="pdl1", n=1)
    (picture,) = embedded_json(render_page(dataset, "tps", 0))["pictures"]
    decoded = {
        name: np.asarray(decode(picture[name]).convert(mode))
        for name, mode in (("image", "RGB"), ("mask", "RGBA"), ("cells", "RGBA"))
    }
    sample = dataset[0]
    mask, cells = mask_layer(sample.tile.semantic, sample.tile.scheme), contour_layer(sample.tile, sample.tile.shape)
    for layer, name in ((mask, "mask"), (cells, "cells")):
        assert (decoded[name][..., 3] == layer[..., 3]).all()
        assert (decoded[name][layer[..., 3] > 0] == layer[layer[..., 3] > 0]).all()
    assert np.abs(decoded["image"].astype(int) - sample.image).mean() < 30


def test_script_finds_every_element_that_it_asks_for() -> None:
    assets = resources.files("factory.inspect")
    script, page = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.html"))
    asked = set(re.findall(r'(?:find|getElementById)\("([a-z-]+)"\)', script))
    assert len(asked) > 15
    assert asked <= set(re.findall(r'id="([a-z-]+)"', page))


# The command ---------------------------------------------------------------------------------------------------------


def run_inspect(*words: str) -> object:
    app = typer.Typer()
    app.command()(inspect)
    return CliRunner().invoke(app, words)


def test_inspect_writes_beside_the_data_set_and_leaves_it_as_it_was(dataset_factory: Callable[..., Dataset]) -> None:
    root = dataset_factory("synth", n=4).root
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = run_inspect(str(root), "--n", "2", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert default_out(root) == root.parent / "inspect" / "synth"
    assert {path.name for path in default_out(root).iterdir()} == {"sheet.png", "index.html"}
    assert "sheet.png" in result.output


def test_inspect_shows_other_tiles_beside(dataset_factory: Callable[..., Dataset], tmp_path: Path) -> None:
    root = dataset_factory("synth", scheme="pdl1", n=4).root
    alone = inspect_dataset(root)
    height = png(alone.sheet.read_bytes()).shape[0]
    other = dataset_factory("real", scheme="ihc", n=3, size=(32, 32)).root
    assert inspect_dataset(root, beside=other).tiles == 7
    assert png(alone.sheet.read_bytes()).shape[0] > height
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (80, 120, 3), dtype=np.uint8)).save(folder / "a.jpg")
    assert inspect_dataset(root, beside=folder).tiles == 8


@pytest.mark.parametrize("missing", ["manifest.parquet", "SHA256SUMS"])
def test_inspect_refuses_an_unfinished_data_set(dataset_factory: Callable[..., Dataset], missing: str) -> None:
    root = dataset_factory("synth", n=3).root
    (root / missing).unlink()
    result = run_inspect(str(root))
    assert isinstance(result.exception, UserError)
    assert result.exception.exit_code == 2
    assert re.fullmatch(r"[^\n]*expected a finished data set, got [^\n]*", str(result.exception))
    assert not default_out(root).exists()


def test_inspect_refuses_to_write_into_a_data_set_or_a_file(dataset_factory: Callable[..., Dataset]) -> None:
    root = dataset_factory("synth", n=2).root
    for inside in (root, root / "inspect", root / "store.zarr" / "deep" / "er"):
        with pytest.raises(UserError, match="outside every data set"):
            check_out(inside)
    with pytest.raises(UserError, match="got a file"):
        check_out(root / "run.yaml")
    with pytest.raises(UserError, match="got no folder"):
        inspect_dataset(root, beside=root / "nothing")
    assert not default_out(root).exists()
