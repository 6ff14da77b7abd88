"""The `stain` renderer: labels stay exact, tiles are independent, real images shape what is drawn."""

from __future__ import annotations

import math
import pickle

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.color import rgb2hed, rgb2lab

from factory.core.config import Config, canonical, parse
from factory.core.shipped import configs_dir
from factory.masks.allocate import allocate
from factory.masks.polygons import Polygons
from factory.plan.request import Request
from factory.renderers.conditions import Condition
from factory.renderers.stain.appearance import staining_of
from factory.renderers.stain.cells import (
    AIR,
    CELL,
    IMMUNE,
    POSITIVE,
    POSITIVE_CELL,
    STROMA,
    TUMOUR,
    find_nuclei,
    kind_table,
)
from factory.renderers.stain.config import Anatomy, Scanner, StainConfig
from factory.renderers.stain.dyes import DAB, HAEMATOXYLIN_IHC, densities, optical_density
from factory.renderers.stain.fit import fit_scan
from factory.renderers.stain.stain import Stain
from factory.renderers.stain.territories import spread_territories
from factory.renderers.stain.tissue import direction_of, draw_fields
from factory.renderers.stain.unlabelled_nuclei import scatter_marked_nuclei
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelClass, LabelScheme

Image = npt.NDArray[np.uint8]
NO_FAULTS = StainConfig(scanner=Scanner(focus=0, fold=0))


def discs(height: int, width: int, radius: int, spacing: int) -> npt.NDArray[np.int32]:
    """An instance map of discs on a grid, ids with gaps."""
    instance = np.zeros((height, width), np.int32)
    places = [(y, x) for y in range(spacing // 2, height, spacing) for x in range(spacing // 2, width, spacing)]
    for number, (y, x) in enumerate(places):
        cv2.circle(instance, (x, y), radius, 3 * number + 5, -1)
    return instance


def condition(scheme: str, height: int = 128, width: int = 160, mpp: float = 0.5) -> Condition:
    """Vertical bands of every class; discs as nuclei off air, positive and negative by turns for `ihc`."""
    labels = SCHEMES[scheme]
    instance = discs(height, width, max(2, round(3 / mpp)), round(12 / mpp))
    if scheme in ("nuclei", "ihc"):
        semantic = (instance > 0).astype(np.int32)
        if scheme == "ihc":
            semantic *= 1 + (instance // 3) % 2
    else:
        semantic = np.broadcast_to(np.arange(width) * len(labels) // width, (height, width)).astype(np.int32)
        cell = labels.names.index("cell") if "cell" in labels.names else None
        if cell is not None:
            semantic = np.where(semantic == cell, labels.ids("tumour_positive")[0], semantic)
        instance[np.isin(semantic, labels.ids("air"))] = 0
        if scheme == "tissue":
            instance[:] = 0
        if cell is not None:
            semantic[instance > 0] = cell
    return Condition(np.stack([semantic, instance]), mpp, labels)


def render(given_condition: Condition, seed: int = 0, config: StainConfig = NO_FAULTS) -> Image:
    return Stain(config).render([given_condition], [np.random.default_rng(seed)])[0]


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_render_gives_rgb_bytes_that_the_seed_decides(scheme: str) -> None:
    tile = condition(scheme)
    image = render(tile, 3)
    assert image.dtype == np.uint8
    assert image.shape == (*tile.array.shape[1:], 3)
    assert np.array_equal(image, render(tile, 3))
    assert not np.array_equal(image, render(tile, 4))


def test_render_does_not_depend_on_the_batch_nor_change_its_input() -> None:
    tiles = [condition("pdl1"), condition("nuclei", mpp=0.25), condition("ihc", 64, 96)]
    before = [tile.array.copy() for tile in tiles]
    together = Stain(NO_FAULTS).render(tiles, [np.random.default_rng(seed) for seed in range(3)])
    for seed, (tile, image) in enumerate(zip(tiles, together, strict=True)):
        assert np.array_equal(image, render(tile, seed))
        assert np.array_equal(tile.array, before[seed])


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(SCHEMES)),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([0.12, 0.25, 0.5, 1.0, 2.0]),
    st.integers(0, 2**32),
)
def test_render_takes_any_multiple_of_32_at_any_resolution(
    scheme: str, rows: int, columns: int, mpp: float, seed: int
) -> None:
    tile = condition(scheme, 32 * rows, 32 * columns, mpp)
    assert render(tile, seed, StainConfig()).shape == (32 * rows, 32 * columns, 3)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_render_of_one_class_everywhere_succeeds(scheme: str) -> None:
    for label in SCHEMES[scheme].classes:
        array = np.zeros((2, 64, 64), np.int32)
        array[0] = label.id
        image = render(Condition(array, 0.5, SCHEMES[scheme]))
        if "air" in label.roles:
            assert image.min() > 200


def test_render_of_one_nucleus_that_fills_the_tile_is_dark() -> None:
    image = render(Condition(np.ones((2, 64, 64), np.int32), 0.25, SCHEMES["nuclei"]))
    assert image.mean() < 190


@pytest.mark.parametrize("seed", range(6))
def test_air_is_bright_and_brighter_than_tissue(seed: int) -> None:
    tile = condition("pdl1")
    image = render(tile, seed, StainConfig())
    air = cv2.erode((tile.array[0] == 4).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert image[air].mean(axis=0).min() > 215
    assert image[air].mean() > image[tile.array[0] != 4].mean() + 5


@pytest.mark.parametrize(("scheme", "mpp"), [("nuclei", 0.25), ("nuclei", 0.5), ("pdl1", 0.5), ("pdl1_cells", 0.5)])
@pytest.mark.parametrize("seed", range(4))
def test_every_nucleus_is_denser_than_its_surroundings(scheme: str, mpp: float, seed: int) -> None:
    tile = condition(scheme, 192, 256, mpp)
    image = render(tile, seed)
    blue, red = rgb2hed(image)[..., 0], optical_density(image, np.full(3, 250.0))[..., 0]
    instance = tile.array[1]
    for number in np.unique(instance[instance > 0]):
        inside = instance == number
        if inside.sum() < 25:
            continue
        ring = (cv2.dilate(inside.astype(np.uint8), np.ones((11, 11), np.uint8)) > 0) & (instance == 0)
        assert blue[inside].mean() > blue[ring].mean()
        # in immunostains DAB on the membranes around a nucleus may absorb more red than the nucleus does
        if scheme == "nuclei":
            assert red[inside].mean() > red[ring].mean()


def test_no_nucleus_is_drawn_where_a_scheme_of_nuclei_has_none() -> None:
    empty = Condition(np.zeros((2, 128, 128), np.int32), 0.25, SCHEMES["nuclei"])
    for seed in range(5):
        blue = densities(
            optical_density(render(empty, seed), np.full(3, 245.0)), np.array([[0.65, 0.7, 0.29], [0.07, 0.99, 0.11]])
        )[..., 0]
        assert np.percentile(blue, 99.5) < 0.8


def test_regions_without_nuclei_get_some_for_texture() -> None:
    bare = condition("pdl1", 128, 256)
    bare.array[1] = 0
    dark = optical_density(render(bare), np.full(3, 250.0))[..., 0]
    tumour = dark[bare.array[0] == 2]
    assert np.percentile(tumour, 95) > 3 * np.percentile(tumour, 30)


@pytest.mark.parametrize("seed", range(6))
def test_positive_nuclei_carry_more_dab_than_negative_ones(seed: int) -> None:
    tile = condition("ihc", 192, 256, 0.25)
    brown = rgb2hed(render(tile, seed))[..., 2]
    means = {
        c: [brown[tile.array[1] == i].mean() for i in np.unique(tile.array[1][tile.array[0] == c])] for c in (1, 2)
    }
    assert min(means[2]) > np.median(means[1])
    assert np.mean(means[2]) > np.mean(means[1]) + 3 * np.std(means[1])


@pytest.mark.parametrize("scheme", ["pdl1", "pdl1_cells"])
@pytest.mark.parametrize("seed", range(4))
def test_positive_regions_carry_dab_and_the_others_none(scheme: str, seed: int) -> None:
    tile = condition(scheme, 128, 320)
    brown = rgb2hed(render(tile, seed))[..., 2]
    regions = condition("pdl1", 128, 320).array[0] if scheme == "pdl1" else tile.array[0]
    inner = [cv2.erode((regions == c).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0 for c in (2, 3)]
    negative, positive = (brown[where] for where in inner)
    assert positive.mean() > negative.mean() + 0.01
    assert np.percentile(positive, 90) > np.percentile(negative, 99)


def test_marker_fades_holes_are_lined_and_lymphocytes_vary_where_asked() -> None:
    tile = condition("pdl1_cells")
    plain = render(tile).astype(int)
    drawn = {
        name: render(tile, config=NO_FAULTS.model_copy(update={"anatomy": Anatomy(**{name: value})})).astype(int)
        for name, value in (("marker_fade_um", 4.0), ("lining", (1.0, 1.0)), ("lymphocyte_spread", 0.4))
    }
    classes = SCHEMES["pdl1_cells"]
    places = {role: np.isin(tile.array[0], classes.ids(role)) for role in ("air", "tumour_positive")}
    changed = {name: np.abs(image - plain).max(-1) > 20 for name, image in drawn.items()}
    assert changed["marker_fade_um"][places["tumour_positive"]].any()
    beside_air = cv2.dilate(places["air"].view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~places["air"]
    assert drawn["lining"][beside_air].mean() < plain[beside_air].mean() - 3  # darker
    assert not changed["lining"][
        places["air"] & ~cv2.dilate((~places["air"]).view(np.uint8), np.ones((9, 9))).astype(bool)
    ].any()
    assert changed["lymphocyte_spread"].any()


@pytest.mark.parametrize("degrees", [0, 30, 90, 140])
def test_direction_of_elongated_nuclei_is_found(degrees: int) -> None:
    instance = np.zeros((96, 96), np.int32)
    for number, (y, x) in enumerate([(20, 20), (20, 70), (70, 45)], 1):
        cv2.ellipse(instance, (x, y), (14, 4), degrees, 0, 360, 2 * number, -1)
    cv2.circle(instance, (80, 80), 8, 9, -1)  # a round nucleus has no say
    found = direction_of(instance)
    assert found is not None
    assert math.cos(2 * (found - math.radians(degrees))) > 0.99
    assert direction_of(np.zeros((8, 8), np.int32)) is None


def regions(tps: float, height: int = 384, width: int = 384, seed: int = 0) -> Condition:
    """A mask of the scheme `ki67` without instances, positive regions of few cells."""
    request = Request(height, width, 0.5, SCHEMES["ki67"], tps=tps, tissue=0.9)
    (scores,) = Polygons(Polygons.Config()).draw([request], [np.random.default_rng(seed)])
    tile = allocate(scores, request, np.random.default_rng(seed)).tile
    return Condition(np.stack([tile.semantic.astype(np.int32), tile.instance]), 0.5, tile.scheme)


def scattered(tile: Condition, seed: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The nuclei drawn on a mask that labels none, int32 [H, W], and what each of them is, from id 1 on."""
    rng = np.random.default_rng(seed)
    fields = draw_fields(tile.array.shape[1:], tile.mpp, rng)
    kind = kind_table(tile.scheme)[tile.array[0]]
    nuclei = find_nuclei(*scatter_marked_nuclei(kind, fields.zones, fields.fibre_angle(), tile.mpp, rng)[::-1])
    return nuclei.number, nuclei.table["kind"][1:]


def test_share_of_positive_nuclei_follows_the_tps_of_regions() -> None:
    asked = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    drawn = []
    for seed, tps in enumerate(asked):
        _, kinds = scattered(regions(tps, seed=seed), seed)
        drawn.append((kinds == POSITIVE).sum() / np.isin(kinds, (TUMOUR, POSITIVE)).sum())
    slope, offset = np.polyfit(asked, drawn, 1)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert offset == pytest.approx(0.0, abs=0.01)
    assert np.abs(np.array(drawn) - asked).max() < 0.02


def test_a_region_of_one_cell_holds_one_stained_nucleus() -> None:
    semantic = np.ones((400, 400), np.int32)
    spots = discs(400, 400, 16, 80)  # 200 um2, of which a nucleus takes 90 to 150
    semantic[spots > 0] = 2
    number, kinds = scattered(Condition(np.stack([semantic, 0 * semantic]), 0.5, SCHEMES["ki67"]), 1)
    counts = [len(np.unique(number[(spots == spot) & (number > 0)])) for spot in np.unique(spots[spots > 0])]
    assert min(counts) >= 1
    stained = np.isin(number, np.flatnonzero(kinds == POSITIVE) + 1)
    assert 25 <= (kinds == POSITIVE).sum() <= 75
    assert (stained & (semantic == 1)).sum() < 0.15 * stained.sum()


@pytest.mark.parametrize("semantic", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [32, 96])
def test_marked_regions_may_fill_the_tile(semantic: int, size: int) -> None:
    array = np.zeros((2, size, size), np.int32)
    array[0] = semantic
    _, kinds = scattered(Condition(array, 0.5, SCHEMES["ki67"]), 0)
    expected = ({STROMA, IMMUNE}, {TUMOUR}, {POSITIVE}, set())[semantic]
    assert set(kinds.tolist()) <= expected
    assert bool(len(kinds)) == bool(expected)


@pytest.mark.parametrize("seed", range(3))
def test_positive_regions_of_a_nuclear_marker_stain_nuclei_and_nothing_else(seed: int) -> None:
    tile = regions(0.3, seed=seed)
    brown = rgb2hed(render(tile, seed))[..., 2]
    negative, positive, other = (brown[tile.array[0] == label] for label in (1, 2, 0))
    assert np.percentile(positive, 90) > 3 * np.percentile(negative, 90)
    # between the nuclei there is no wash of DAB, and stroma stays blue
    assert np.percentile(positive, 25) < np.percentile(negative, 90)
    assert np.percentile(other, 95) < np.percentile(positive, 80)


@pytest.mark.parametrize("scheme", ["ki67", "ki67_cells"])
def test_labelled_nuclei_of_a_marker_are_stained_by_their_region(scheme: str) -> None:
    tile = condition(scheme, 192, 256, 0.25)
    brown = rgb2hed(render(tile, 2))[..., 2]
    under = condition("ki67", 192, 256, 0.25).array[0] if scheme == "ki67" else tile.array[0]
    means: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for number in np.unique(tile.array[1][tile.array[1] > 0]):
        inside = tile.array[1] == number
        around = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        votes = np.bincount(under[inside if scheme == "ki67" else around & ~inside], minlength=3)[:3]
        if votes.max() > 0.9 * votes.sum():
            means[int(votes.argmax())].append(brown[inside].mean())
    assert min(len(values) for values in means.values()) >= 3
    assert min(means[2]) > max(means[1])
    assert min(means[2]) > max(means[0])


def test_he_of_a_scheme_with_positives_shows_no_dab() -> None:
    tile = condition("pdl1", 128, 320)
    image = render(tile, 0, NO_FAULTS.model_copy(update={"stain": "he"})).astype(float)
    negative, positive = (image[(tile.array[0] == c) & (tile.array[1] == 0)].mean(axis=0) for c in (2, 3))
    assert np.abs(positive - negative).max() < 12


def test_auto_follows_the_roles_of_the_classes() -> None:
    config = StainConfig()
    modes = {name: staining_of(config, scheme) for name, scheme in SCHEMES.items()}
    assert modes == {
        "pdl1": "membrane_dab",
        "pdl1_cells": "membrane_dab",
        "ki67": "nuclear_dab",
        "ki67_cells": "nuclear_dab",
        "nuclei": "he",
        "nuclei_types": "he",
        "ihc": "nuclear_dab",
        "tissue": "he",
    }
    assert staining_of(StainConfig(stain="he"), SCHEMES["ihc"]) == "he"


def test_kinds_come_from_roles_of_a_scheme_of_ones_own() -> None:
    scheme = LabelScheme(
        "mine",
        (
            LabelClass(0, "glass", (255, 255, 255), ("air",)),
            LabelClass(1, "fat", (0, 0, 0)),
            LabelClass(2, "hot", (0, 0, 0), ("tumour_positive",)),
            LabelClass(3, "nucleus", (0, 0, 0), ("nucleus",)),
            LabelClass(4, "hot nucleus", (0, 0, 0), ("nucleus", "tumour_positive")),
        ),
    )
    assert kind_table(scheme)[:5].tolist() == [AIR, STROMA, POSITIVE, CELL, POSITIVE_CELL]
    array = np.zeros((2, 64, 64), np.int32)
    array[0, :, 16:] = np.arange(48) // 12 + 1
    assert render(Condition(array, 0.5, scheme)).shape == (64, 64, 3)


def test_ids_with_gaps_and_huge_ids_draw_the_same_image() -> None:
    tile = condition("nuclei")
    renamed = tile.array.copy()
    renamed[1] = np.where(renamed[1] > 0, renamed[1] * 1_000_000 + 7, 0)
    assert np.array_equal(render(tile), render(Condition(renamed, tile.mpp, tile.scheme)))


def test_find_nuclei_separates_touching_ones_and_adopts_pixels_without_id() -> None:
    kind = np.full((16, 32), CELL, np.uint8)
    kind[:, 20:] = STROMA
    instance = np.zeros((16, 32), np.int32)
    instance[:, :8], instance[:, 8:16] = 4, 9
    nuclei = find_nuclei(kind, instance)
    assert [nuclei.number[0, x] for x in (0, 8, 16, 24)] == [1, 2, 3, 0]
    assert (nuclei.kind < CELL).all()
    assert nuclei.table["radius"][1] == pytest.approx(np.sqrt(128 / np.pi))


def test_territories_give_each_pixel_to_the_nearest_nucleus() -> None:
    nucleus = np.zeros((40, 60), np.int32)
    nucleus[18:22, 8:12], nucleus[18:22, 48:52] = 1, 2
    owner = np.zeros_like(nucleus)
    flat = np.zeros((512, 512), np.float32)
    distance = spread_territories(nucleus, owner, np.ones(nucleus.shape, bool), 3.0, flat)
    assert set(owner[:, :28].ravel()) == {1}
    assert set(owner[:, 32:].ravel()) == {2}
    exact = cv2.distanceTransform((nucleus == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = nucleus == 0
    assert np.abs(distance[outside] - (exact[outside] - 0.5)).max() < 0.1 * exact.max()


def test_render_refuses_an_array_of_another_kind() -> None:
    stain = Stain(StainConfig())
    wrong = Condition(np.zeros((2, 64, 64), np.float32), 0.5, SCHEMES["pdl1"])
    with pytest.raises(ValueError, match=r"int32 \[2, H, W\]"):
        stain.render([wrong], [np.random.default_rng(0)])
    with pytest.raises(ValueError, match="zip"):
        stain.render([condition("pdl1")], [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stain": "pas"}, "stain"),
        ({"scaner": {}}, "Did you mean scanner"),
        ({"scanner": {"jpeg_quality": [90, 20]}}, "low <= high"),
        ({"scanner": {"jpeg_quality": [0, 20]}}, "within 1 to 100"),
        ({"anatomy": {"membrane_um": [0, 1]}}, "above 0"),
        ({"he": {"haematoxylin": [0, 0, 0]}}, "not all 0"),
        ({"he": {"retraction": [0, 3]}}, "within 0 to 1"),
        ({"background": [[20, 20, 20], [250, 250, 250]]}, "air is bright"),
        ({"anatomy": {"unlabelled_positive": 2}}, "unlabelled_positive"),
    ],
)
def test_config_refuses_what_makes_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(StainConfig, values, "renderer")


def test_shipped_render_configs_load_and_render() -> None:
    files = sorted((configs_dir() / "render").glob("*.yaml"))
    assert files
    for file in files:
        values = dict(yaml.safe_load(file.read_text())["renderer"])
        assert values.pop("name") == "stain"
        for scheme in ("ihc", "ki67"):
            render(condition(scheme, 64, 64), 0, parse(StainConfig, values, str(file)))


def test_config_given_in_part_keeps_the_other_defaults_of_its_group() -> None:
    config = parse(StainConfig, {"ihc": {"nucleus": [1, 2]}}, "renderer")
    assert config.ihc.nucleus == (1, 2)
    assert config.ihc.haematoxylin == StainConfig().ihc.haematoxylin
    assert config.ihc.tissue == StainConfig().ihc.tissue


@pytest.fixture(scope="module")
def real() -> Image:
    return np.asarray(data.immunohistochemistry(), np.uint8)


@pytest.fixture(scope="module")
def fitted(real: Image) -> StainConfig:
    return Stain(NO_FAULTS).fit_images([real], SCHEMES["pdl1"])


def test_fit_is_deterministic_and_survives_yaml_and_pickle(real: Image, fitted: StainConfig) -> None:
    assert Stain(NO_FAULTS).fit_images([real], SCHEMES["pdl1"]) == fitted
    again = parse(StainConfig, yaml.safe_load(yaml.safe_dump(fitted.model_dump(mode="json"))), "run.yaml")
    assert canonical(again) == canonical(fitted)
    stain = pickle.loads(pickle.dumps(Stain(fitted)))
    tile = condition("pdl1")
    assert np.array_equal(stain.render([tile], [np.random.default_rng(1)])[0], render(tile, 1, fitted))
    assert isinstance(fitted, Config)


def test_fit_tells_haematoxylin_from_dab(fitted: StainConfig) -> None:
    slide = fitted.slides[0]
    assert slide.haematoxylin[0] > slide.haematoxylin[2]
    assert slide.dab[2] > slide.dab[0]


@pytest.mark.parametrize("scheme", ["pdl1", "ihc"])
def test_fit_moves_tiles_towards_the_colours_of_the_image(real: Image, scheme: str) -> None:
    config = Stain(NO_FAULTS).fit_images([real], SCHEMES[scheme])
    tile = condition(scheme, 192, 256, 0.5)
    truth = palette(real)

    def gap(used: StainConfig) -> float:
        differences = [palette(render(tile, seed, used)) - truth for seed in range(6)]
        return float(np.mean([np.linalg.norm(difference, axis=1) for difference in differences]))

    assert gap(config) < 0.7 * gap(NO_FAULTS)


def palette(image: Image) -> npt.NDArray[np.float64]:
    """Median CIELAB of what is brown, what is blue and what is pale: colours, whatever the composition."""
    pixels = rgb2lab(image).reshape(-1, 3)
    lightness, yellow = pixels[:, 0], pixels[:, 2]
    groups = (yellow > 8, yellow < -6, (lightness > 78) & (abs(yellow) < 6))
    return np.stack([np.median(pixels[group], axis=0) for group in groups])


def test_fit_of_an_immunostain_colours_tiles_that_know_no_positives(real: Image) -> None:
    config = Stain(NO_FAULTS).fit_images([real], SCHEMES["nuclei"])
    assert config.stain == "membrane_dab"
    assert 0 < config.anatomy.unlabelled_positive < 1
    brown = rgb2hed(render(condition("nuclei", 192, 256, 0.25), 0, config))[..., 2]
    plain = rgb2hed(render(condition("nuclei", 192, 256, 0.25), 0, StainConfig(stain="he")))[..., 2]
    assert np.percentile(brown, 90) > 2 * np.percentile(plain, 90)


def test_fit_tells_nuclear_from_membranous_dab() -> None:
    nuclear = render(condition("ihc", 384, 384, 0.25), 1)
    config = Stain(NO_FAULTS).fit_images([nuclear], SCHEMES["nuclei"])
    assert config.stain == "nuclear_dab"
    assert config.anatomy.unlabelled_positive == pytest.approx(0.5, abs=0.2)


def test_fit_finds_the_vectors_it_was_rendered_with() -> None:
    tile = condition("ihc", 384, 384, 0.25)
    config = NO_FAULTS.model_copy(update={"hue_spread": 0.0})
    slide = Stain(config).fit_images([render(tile, 2, config)], SCHEMES["ihc"]).slides[0]
    assert np.dot(slide.haematoxylin, HAEMATOXYLIN_IHC) / np.linalg.norm(HAEMATOXYLIN_IHC) > 0.97
    assert np.dot(slide.dab, DAB) / np.linalg.norm(DAB) > 0.95


def test_fit_takes_one_look_per_image_and_at_most_48(real: Image) -> None:
    crops = [np.ascontiguousarray(real[y : y + 128, x : x + 128]) for y in (0, 128, 256) for x in (0, 128, 256)]
    assert len(Stain(NO_FAULTS).fit_images(crops, SCHEMES["pdl1"]).slides) == 9
    assert len(Stain(NO_FAULTS).fit_images(crops * 8, SCHEMES["pdl1"]).slides) == 48


@pytest.mark.parametrize("images", [[], [np.full((64, 64, 3), 244, np.uint8)]])
def test_fit_without_stained_tissue_is_refused(images: list[Image]) -> None:
    with pytest.raises(UserError, match="stained tissue"):
        Stain(StainConfig()).fit_images(images, SCHEMES["pdl1"])


def test_fit_scan_ranks_blur_noise_and_compression(real: Image) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(real + rng.normal(0, 6, real.shape), 0, 255).astype(np.uint8)
    hard = np.asarray(cv2.imdecode(cv2.imencode(".jpg", real, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR))
    assert fit_scan(cv2.GaussianBlur(real, (0, 0), 2.0)).blur_px > fit_scan(real).blur_px + 0.3
    assert fit_scan(noisy).grain > fit_scan(real).grain
    assert fit_scan(hard).jpeg_quality < fit_scan(real).jpeg_quality


@pytest.mark.parametrize(
    ("scheme", "group", "nucleus"), [("ihc", "ihc", 0.6), ("ihc", "ihc", 1.0), ("nuclei", "he", 1.8)]
)
def test_fit_of_a_rendered_tile_finds_its_densities(scheme: str, group: str, nucleus: float) -> None:
    preparation = getattr(NO_FAULTS, group).model_copy(
        update={"nucleus": (nucleus, nucleus), "dab_density": (1.2, 1.2)}
    )
    config = NO_FAULTS.model_copy(update={group: preparation})
    images = [render(condition(scheme, 256, 256, 0.25), seed, config) for seed in range(6)]
    slides = Stain(config).fit_images(images, SCHEMES[scheme]).slides
    assert np.median([slide.nucleus for slide in slides]) == pytest.approx(nucleus, rel=0.25)
    if group == "ihc":
        assert np.median([slide.dab_density for slide in slides]) == pytest.approx(1.2, rel=0.35)


def test_ignored_pixels_are_drawn_as_tissue() -> None:
    tile = condition("pdl1")
    tile.array[0] = 255
    assert render(tile).mean() < 245


def test_types_of_nuclei_look_different() -> None:
    """Darkness and texture tell types of the same outline apart."""
    scheme, shape = SCHEMES["nuclei_types"], (96, 96)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    instance = np.where((rows % 32 - 16) ** 2 + (columns % 32 - 16) ** 2 < 120, rows // 32 * 3 + columns // 32 + 1, 0)
    figures = {}
    for label in scheme.ids("nucleus"):
        array = np.stack([np.where(instance, label, 0), instance]).astype(np.int32)
        images = [render(Condition(array, 0.25, scheme), seed).astype(float).mean(axis=2) for seed in range(3)]
        inside = cv2.erode((instance > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        figures[scheme.names[label]] = np.mean(
            [(image[inside].mean(), image[inside].std()) for image in images], axis=0
        )
    dark = sorted(figures, key=lambda name: figures[name][0])
    assert (dark[0], dark[-1]) == ("dead", "epithelial")
    assert figures["neoplastic"][1] > 1.5 * max(figures["dead"][1], figures["epithelial"][1])


def test_classes_without_a_role_look_different() -> None:
    """Means and deviations of the colours of every two classes of a scheme differ, in the same mask and seeds."""
    names = ("lumen", "capsule", "tubule", "medulla", "cortex", "hilum", "pelvis")
    classes = tuple(LabelClass(i, name, (i, 0, 0), ("air",) * (i == 0)) for i, name in enumerate(names))
    scheme = LabelScheme("organ", classes)
    config = Stain(NO_FAULTS).dressed(scheme)
    assert len(set(config.appearances.values())) == 6
    assert Stain(NO_FAULTS).dressed(SCHEMES["pdl1"]).appearances == {}
    figures = []
    for label in range(1, len(names)):
        array = np.stack([np.full((96, 96), label), np.zeros((96, 96))]).astype(np.int32)
        images = [render(Condition(array, 0.5, scheme), seed, config).astype(float) for seed in range(2)]
        figures.append(np.concatenate([np.mean(images, (0, 1, 2)), np.std(images, (0, 1, 2))]))
    apart = [np.abs(one - other).max() for i, one in enumerate(figures) for other in figures[:i]]
    assert min(apart) > 6
